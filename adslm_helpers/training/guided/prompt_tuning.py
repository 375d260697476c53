"""Stage 1 of embedding mode: vectors before the prompt are trained on the run's own pairs, while the model stays as it is."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...dataset.build import load_split
from ...environment.device import check_preset_fits
from ...environment.machine import probe_machine
from ...errors import AdslmError, Interrupted, TrainingError
from ...models.loading import load_model
from ...models.plan import plan_run
from ...preference_text import PREFERENCE_TEXT
from ...recipe import DpoRecipe
from ...run import Run, sha256, write_bytes, write_json
from ...run_lock import run_lock
from ..fast.reference import reference_logps
from ..label_noise import with_label_noise
from ..prompts import EncodedPairs
from ..remedies import out_of_memory
from ..resume import free_name
from ..storage import storage_failure
from .embeddings import FILE, write_prompt_embeddings
from .prompt_result import RESULT, PromptResult, asked_for, finished, measured, spoken_texts
from .prompt_trainer import MOST_TOKENS, VIRTUAL_TOKENS, build_prompt_trainer, not_finite, vectors

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("prompt_tuning", "p_tuning")
LEARNING_RATES = {"prompt_tuning": 1e-2, "p_tuning": 1e-3}


def train_prompt_embeddings(
    run: Run,
    recipe: DpoRecipe,
    *,
    text: str = PREFERENCE_TEXT,
    virtual_tokens: int = VIRTUAL_TOKENS,
    kind: str = "prompt_tuning",
    learning_rate: float | None = None,
    epochs: float | None = None,
    say: Callable[[str], None] | None = None,
) -> PromptResult:
    """Trains [T, H] vectors by PEFT so that the model, reading them before every prompt, prefers the chosen texts; what it measured.

    The loss, the pairs, the batches and the lengths are the recipe's; the reference is the model without vectors. 'prompt_tuning' learns the
    vectors themselves, from the embeddings of `text` (cut, or repeated, to `virtual_tokens`; 0: as many as the text has) or at random without
    one; 'p_tuning' learns a small network that makes them, and starts at random. `learning_rate` None: by kind. `epochs` None: the recipe's.
    Everything is written to runs/NAME/prompt/, the vectors also to runs/NAME/training/prompt_embeddings.pt; the same request is not trained twice.
    Raises RunError, RecipeError, ModelError, TrainingError (numbers that are not finite, out of memory, a full disk), Interrupted.
    """
    folder = run.path / "prompt"
    with run_lock(run.path), _told(run, folder):
        run.require("dataset")
        _check(kind, virtual_tokens)
        probe = probe_machine()
        check_preset_fits(recipe, probe)
        told, words = with_label_noise(
            _stage_one(recipe, kind, learning_rate, epochs), load_split(run, "train") if recipe.use_p_win else []
        )
        text = text.strip()
        if kind == "p_tuning" and text not in ("", PREFERENCE_TEXT):
            words.append("p_tuning は乱数から始まり、文は使いません。/ p_tuning starts at random: the text is not used.")
        asked = asked_for(run, told, kind, text if kind == "prompt_tuning" else "", virtual_tokens)
        if (done := finished(folder, asked)) and _copied(folder, run):
            return done
        if kept := _make_room(folder):
            words.append(kept)
        loaded = load_model(plan_run(told, probe).recipe)
        started = time.monotonic()
        trainer, sides, notes = build_prompt_trainer(run, folder, told, loaded, asked, say)
        base, start = _measure(trainer, sides["eval"], told, None), _measure(trainer, sides["eval"], told, vectors(trainer.model))
        trainer.train()
        seconds = time.monotonic() - started
        found = vectors(trainer.model).detach().float().cpu()
        if not bool(found.isfinite().all()):
            raise not_finite(told)
        texts, unread = _texts(run, trainer.model, loaded.tokenizer, told)
        result = PromptResult(
            run=run.name,
            model=loaded.name,
            kind=kind,
            text=asked["text"],
            virtual_tokens=len(found),
            learning_rate=told.learning_rate,
            steps=trainer.state.global_step,
            seconds=round(seconds, 2),
            pairs={side: len(encoded.pairs) for side, encoded in sides.items()},
            dropped={side: dict(encoded.dropped) for side, encoded in sides.items()},
            without=base,
            before=start,
            after=_measure(trainer, sides["eval"], told, vectors(trainer.model)),
            texts=texts,
            notes=[*loaded.lines(), *words, *notes, *unread],
            asked=asked,
            file=str(folder / FILE),
            copy=str(run.training / FILE),
        )
        _save_adapter(trainer.model, loaded.name, folder / "adapter")
        write_prompt_embeddings(folder / FILE, found)
        result = replace(result, sha256=sha256(folder / FILE))
        write_json(folder / RESULT, asdict(result))  # last: without it the folder counts as unfinished
        _copied(folder, run)
        run.update(prompt_embeddings={"file": f"prompt/{FILE}", "sha256": result.sha256, "model": loaded.name, "kind": kind})
        return result


def _stage_one(recipe: DpoRecipe, kind: str, learning_rate: float | None, epochs: float | None) -> DpoRecipe:
    """The recipe of plain DPO with the learning rate that vectors need."""
    length = {"num_train_epochs": epochs, "max_steps": -1} if epochs is not None else {}
    rate = LEARNING_RATES[kind] if learning_rate is None else learning_rate
    plain = {"engine": "fast", "method": "dpo", "preference_text": "", "prompt_embeddings": "", "weight_by_p_win": False}
    return replace(recipe, learning_rate=rate, **length, **plain)


def _check(kind: str, virtual_tokens: int) -> None:
    if kind not in KINDS:
        raise TrainingError(
            f"kind = {kind!r} は選べません。→ {' か '.join(KINDS)} にしてください。",
            f"There is no kind {kind!r}. -> Choose {' or '.join(KINDS)}.",
        )
    if isinstance(virtual_tokens, bool) or not isinstance(virtual_tokens, int) or not 0 <= virtual_tokens <= MOST_TOKENS:
        raise TrainingError(
            f"virtual_tokens = {virtual_tokens!r} は使えません。→ 0（文の長さ）から {MOST_TOKENS} の整数にしてください。",
            f"virtual_tokens = {virtual_tokens!r} is no number of vectors. -> Choose 0 (as long as the text) to {MOST_TOKENS}.",
        )
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise TrainingError(
            "ベクトルの学習は1つのプロセスで行います。→ torchrun などを付けずに実行してください（次の学習は複数で行えます）。",
            "The vectors are trained by one process. -> Run it without torchrun and the like (the training after it may use several).",
        )


def _measure(trainer: Any, encoded: EncodedPairs, recipe: DpoRecipe, prefix: Tensor | None) -> dict[str, float]:
    """The held-out pairs, read behind `prefix`."""
    prefix = None if prefix is None else prefix.detach()
    logps = reference_logps(trainer, encoded.pairs, prefix)
    if not all(abs(value) < float("inf") for row in logps for value in row):
        raise not_finite(recipe)
    return measured(logps, [item.ref_logps for item in trainer.eval_dataset], encoded.pairs, recipe)


def _texts(run: Run, model: Any, tokenizer: Any, recipe: DpoRecipe) -> tuple[list[dict[str, Any]], list[str]]:
    """A few texts, and why there are none: the vectors are trained by now, and worth keeping all the same."""
    try:
        return spoken_texts(model, tokenizer, load_split(run, "eval"), recipe), []
    except Exception as error:  # of PEFT's generate with an architecture or a cache that it does not know
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        return [], [
            f"ベクトルを付けた文は書かせられませんでした（{said}）。/ No texts could be written with the vectors ({said})."
        ]


def _make_room(folder: Path) -> str:
    """Takes away what an unfinished training of vectors left, and moves a finished one aside, in words."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return ""
    if not (folder / RESULT).is_file():
        shutil.rmtree(folder)
        return ""
    aside = folder.rename(free_name(folder))
    return f"前のベクトルは {aside} に残しました。/ The earlier vectors are kept in {aside}."


def _copied(folder: Path, run: Run) -> bool:
    """Puts the vectors where `adslm train` is told to look."""
    content = (folder / FILE).read_bytes()
    target = run.training / FILE
    if not target.is_file() or target.read_bytes() != content:
        write_bytes(target, content)
    return True


def _save_adapter(model: Any, name: str, target: Path) -> None:
    """PEFT's own folder, for whoever goes on with PEFT; without the embeddings of a whole vocabulary, and with no path of this machine."""
    model.peft_config["default"].base_model_name_or_path = name
    partial = target.with_name(f".{target.name}.partial")
    model.save_pretrained(str(partial), save_embedding_layers=False)
    os.rename(partial, target)


@contextmanager
def _told(run: Run, folder: Path) -> Iterator[None]:
    """What stops the training, in words; an unfinished folder is taken away."""
    try:
        yield
    except KeyboardInterrupt as stop:
        _drop_unfinished(folder)
        if isinstance(stop, AdslmError):
            raise
        raise Interrupted(
            "ベクトルの学習を中断しました。途中のものは残していません。→ 同じセル（同じコマンド）をもう一度実行すると、最初から始まります。",
            "The training of the vectors was interrupted; nothing of it was kept. -> The same cell (the same command) starts it again.",
        ) from None
    except Exception as error:
        _drop_unfinished(folder)
        if isinstance(error, AdslmError):
            raise
        if out_of_memory(error):
            raise TrainingError(
                "ベクトルの学習でメモリが足りなくなりました。→ --set per_device_train_batch_size=1、--set gradient_checkpointing=true、"
                "小さい max_length、少ない virtual_tokens のどれかで、もう一度実行してください。",
                "Out of memory while the vectors were trained. -> Try again with --set per_device_train_batch_size=1, --set "
                "gradient_checkpointing=true, a smaller max_length or fewer virtual_tokens.",
            ) from None
        if reason := storage_failure(error, run.path):
            raise TrainingError(
                f"{run.path} に書き込めず、ベクトルの学習を止めました（{reason}）。→ 空き容量と権限を確かめて、もう一度実行してください。",
                f"{run.path} cannot be written to, so the training of the vectors stopped ({reason}). -> Check space and permissions, and "
                "run it again.",
            ) from error
        raise


def _drop_unfinished(folder: Path) -> None:
    if not (folder / RESULT).is_file():
        shutil.rmtree(folder, ignore_errors=True)
