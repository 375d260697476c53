"""`check_checkpoint`: are these weights whole, do they fit their base, and what do they write? On the CPU, in memory known before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..environment.machine import GIB, free_memory_gb
from ..errors import AdslmError, ModelError
from ..models.catalog import CATALOG, ModelFacts, facts_from_config
from ..models.generation import generate_texts
from ..models.loading import LoadedModel, load_named
from ..models.local import local_config
from ..models.memory import BYTES, OVERHEAD_GB, weight_bytes
from ..models.templates import render_prompt
from ..recipe import DpoRecipe
from ..text.brief import whole_prompt
from ..text.degenerate import find_degeneration, identical_answers
from ..text.width import printable
from .log_files import one_form
from .looks import Look, effect, finite, sealed, shapes
from .run_files import object_in, objects
from .targets import ADAPTER, Target, find_target
from .weights import plain_config, read_weights, weight_files

PROMPTS = 4
BATCH = 4  # answers written at once: more makes a CPU no faster and takes memory
LONGEST = 96  # tokens of an answer where no recipe says
_SHORT = {"fallback": False, "device": "cpu", "max_length": 16, "max_prompt_length": 8, "max_new_tokens": 1}


@dataclass
class CheckpointCheck:
    """What was found; `print(*check.lines(), sep="\\n")`."""

    folder: str
    base: str | None
    memory_gib: float
    """Needed at most, as planned before loading."""
    free_gib: float | None
    dtype: str
    trainer_state: str = ""
    looks: list[Look] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    """"prompt", "text", "base" (the answer without the adapter, None for a whole model), "faults" (names of degeneration)."""

    @property
    def ok(self) -> bool:
        """Nothing is wrong with it."""
        return all(look.ok for look in self.looks)

    def lines(self) -> list[str]:
        """What was looked at and what it wrote, bilingual."""
        told = [f"チェックポイント / checkpoint: {self.folder}"]
        told += [f"ベース / base: {self.base}"] if self.base else []
        told += [self.trainer_state] if self.trainer_state else []
        told += [memory_line(self.memory_gib, self.free_gib, self.dtype), *(look.line() for look in self.looks)]
        for answer in self.answers:
            faults = f"  【{', '.join(answer['faults'])}】" if answer["faults"] else ""
            told += ["", f"依頼 / brief: {answer['prompt']}"]
            told += [f"  前 / before: {answer['base']}"] if answer["base"] is not None else []
            told += [f"  後 / after:  {answer['text']}{faults}"]
        verdict = (
            "使えます。 / It can be used."
            if self.ok
            else "このままでは使えません。上の【異常】を見てください。/ Not fit for use: see above."
        )
        return [printable(line) for line in [*told, "", verdict]]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"ok": self.ok, **asdict(self)}


def check_checkpoint(
    where: str | Path,
    prompts: Sequence[str] = (),
    *,
    base: str | None = None,
    n: int = PROMPTS,
    limit_gib: float | None = None,
    seed: int = 42,
    say: Callable[[str], None] = lambda line: None,
) -> CheckpointCheck:
    """Tries a run's newest weights, a checkpoint, an adapter folder, an export or a model folder on a few prompts, on the CPU.

    `prompts`: those to answer; by default `n` held-out ones of the run that it lies in, else of the sample. `base`: where an adapter's
    base is, if not where it was. `limit_gib`: memory that may be used, by default what is free now; what is needed is handed to `say`
    before anything large is read. Only safetensors are opened. Raises RunError (nothing there) and ModelError (pickle, truncated,
    does not fit the base or the memory).
    """
    target = find_target(where, base)
    stem = "adapter_model" if target.base else "model"
    files = weight_files(target.folder, stem)
    if target.base:
        _require_lora(target)
    need, dtype = _fits(target, files, free := limit_gib if limit_gib is not None else free_memory_gb())
    say(memory_line(need, free, dtype))
    check = CheckpointCheck(
        str(target.folder), target.base, round(need, 2), free and round(free, 2), dtype, _trainer_state(target.folder)
    )
    weights = read_weights(files)
    check.looks += [*sealed(target.folder), finite(weights)]
    if target.base:
        check.looks += [effect(weights), *shapes(weights, target.base)]
    if not all(look.ok for look in check.looks if look.name != "adapter_effect"):
        return check
    asked = [prompt for prompt in prompts if prompt.strip()] or _own_prompts(target, n)
    _try_out(check, _load(target, dtype), asked, seed, _own_length(target))
    return check


def memory_line(need: float, free: float | None, dtype: str) -> str:
    """What loading takes and what there is."""
    there = "?" if free is None else f"{free:.1f}"
    return f"メモリ / memory: 約 {need:.1f} GiB ({dtype}, CPU), 空き / free {there} GiB"


def _require_lora(target: Target) -> None:
    kind = object_in(target.folder / ADAPTER).get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"{target.folder / ADAPTER} は LoRA の設定として読めません（peft_type: {kind!r}）。→ LoRA のチェックポイントを指定してください。",
            f"{target.folder / ADAPTER} is not the config of a LoRA adapter (peft_type: {kind!r}). -> Give a LoRA checkpoint.",
        )


def _fits(target: Target, files: Sequence[Path], free: float | None) -> tuple[float, str]:
    """(GiB needed, dtype) of the widest dtype that fits; ModelError where not even bfloat16 does."""
    facts = _facts(target)
    on_disk = sum(path.stat().st_size for path in files) / GIB
    needs = {}
    for dtype in ("float32", "bfloat16"):
        base = weight_bytes(facts, False, BYTES[dtype]) / GIB if facts else 2 * on_disk
        answers = BATCH * (facts.vocabulary * 4 * 3 if facts else 2**21) / GIB
        needs[dtype] = OVERHEAD_GB["cpu"] + base + (on_disk if target.base else 0.0) + answers + 0.2
        if free is None or needs[dtype] <= free:
            return needs[dtype], dtype
    raise ModelError(
        f"{target.base or target.folder} を読むには {needs['bfloat16']:.1f} GiB 必要ですが、空きは {free:.1f} GiB です。読み込んでいません。→ ほかのプログラムを閉じるか、メモリの多い環境で試してください。",
        f"{target.base or target.folder} needs {needs['bfloat16']:.1f} GiB, {free:.1f} GiB are free; nothing was loaded. -> Close other programs, or try it on a machine with more memory.",
    )


def _facts(target: Target) -> ModelFacts | None:
    """The shape of the model that will be loaded; None where it is not known before a download."""
    if target.base in CATALOG:
        return CATALOG[target.base]
    config = local_config(target.base) if target.base else plain_config(target.folder)
    try:
        facts = facts_from_config(config) if config else None
    except (AttributeError, TypeError, ZeroDivisionError):
        return None
    sizes = [facts.hidden, facts.layers, facts.intermediate, facts.vocabulary, facts.heads, facts.head_dim] if facts else [None]
    return facts if all(isinstance(size, int) and 0 < size < 2**24 for size in sizes) else None


def _own_prompts(target: Target, n: int) -> list[Any]:
    """Held-out prompts of the run, spread over its file; without a run, briefs of the sample set."""
    rows = objects(target.run.dataset / "eval.jsonl") if target.run else []
    prompts = list(
        {whole_prompt(row["prompt"]): row["prompt"] for row in rows if isinstance(row.get("prompt"), (str, list))}.values()
    )
    if not prompts:
        from ..dataset.samples import sample_pairs

        prompts = list(dict.fromkeys(row["prompt"] for row in sample_pairs(4 * max(1, n), seed=7)))
    return prompts[:: max(1, len(prompts) // max(1, n))][: max(1, n)]


def _own_length(target: Target) -> int | None:
    """Tokens that the run allows an answer; None without a run."""
    length = object_in(target.run.training / "recipe.json").get("max_new_tokens") if target.run else None
    return length if isinstance(length, int) and 0 < length <= 1024 else None


def _load(target: Target, dtype: str) -> LoadedModel:
    recipe = DpoRecipe(dtype=dtype, **_SHORT)
    try:
        if target.base:
            return load_named(target.base, recipe, adapter=target.folder)
        return load_named(str(target.folder), recipe)
    except AdslmError:
        raise
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        text = " ".join(str(error).split())[:160]
        raise ModelError(
            f"{target.folder} を読み込めません（{text}）。→ 別のチェックポイントか、--base で正しいベースを指定してください。",
            f"{target.folder} cannot be loaded ({text}). -> Use another checkpoint, or name its own base with --base.",
        ) from error


def _try_out(check: CheckpointCheck, loaded: LoadedModel, prompts: Sequence[Any], seed: int, length: int | None) -> None:
    """Logits of every prompt, then an answer to each, with the adapter and without."""
    broken, moved = _logits(loaded, prompts)
    if broken:
        ja, en = (
            f"{broken}/{len(prompts)} 件で出力が有限の数ではありません",
            f"logits are not finite for {broken} of {len(prompts)} prompts",
        )
        check.looks.append(
            Look("logits", False, f"{ja}。書かせると「!!!!!」か空になります", f"{en}: it would write '!!!!!' or nothing")
        )
        return
    change = "" if moved is None else f", {moved:.3g}"
    check.looks.append(
        Look(
            "logits",
            True,
            f"{len(prompts)} 件の出力は有限です",
            f"finite for {len(prompts)} prompts{change and f'; the adapter moves them by{change[1:]} (rms)'}",
        )
    )
    if moved == 0.0:
        check.looks.append(
            Look("same_as_base", False, "ベースと出力がまったく同じです", "its output is exactly that of the base")
        )
    options = {"seed": seed, "max_new_tokens": length or LONGEST, "batch_size": BATCH}
    base: list[Any] = [None] * len(prompts)
    if moved is not None:
        with loaded.model.disable_adapter():
            base = [answer.text for answer in generate_texts(loaded.model, loaded.tokenizer, prompts, **options)]
    answers = generate_texts(loaded.model, loaded.tokenizer, prompts, **options)
    words = [whole_prompt(prompt) for prompt in prompts]
    repeated = identical_answers(words, [answer.text for answer in answers])
    for prompt, answer, before in zip(words, answers, base, strict=True):
        faults = find_degeneration(answer.text, prompt=prompt, stopped=answer.stopped)
        faults += ["identical"] if answer.text.strip() in repeated else []
        check.answers.append({"prompt": prompt, "text": answer.text, "base": before, "faults": faults})
    # A model that was trained elsewhere may well write longer texts than are waited for here.
    bad = sum(bool({*answer["faults"]} - (set() if length else {"unstopped"})) for answer in check.answers)
    ja, en = f"{len(answers)} 件中 {bad} 件が壊れています", f"{bad} of {len(answers)} are broken"
    check.looks.append(Look("texts", 2 * bad < len(answers) or not answers, ja, en))


def _logits(loaded: LoadedModel, prompts: Sequence[Any]) -> tuple[int, float | None]:
    """(prompts whose logits are not finite, how far the adapter moves the last logits: root mean square, None without an adapter)."""
    import torch

    broken, squares = 0, []
    adapter = hasattr(loaded.model, "disable_adapter")
    with torch.no_grad():
        for prompt in prompts:
            ids = loaded.tokenizer(render_prompt(loaded.tokenizer, prompt), return_tensors="pt", add_special_tokens=False)[
                "input_ids"
            ]
            logits = loaded.model(input_ids=ids).logits[0]
            broken += not bool(logits.isfinite().all())
            if adapter:
                with loaded.model.disable_adapter():
                    other = loaded.model(input_ids=ids).logits[0, -1]
                squares.append((logits[-1].float() - other.float()).square().mean().item())
    return broken, (sum(squares) / len(squares)) ** 0.5 if adapter and squares else None


def _trainer_state(folder: Path) -> str:
    """One line on where the training stood at this checkpoint."""
    state = object_in(folder / "trainer_state.json")
    if not state:
        return ""
    log = state.get("log_history")
    rows = [row for value in log if (row := one_form(value))] if isinstance(log, list) else []
    parts = [f"step {state.get('global_step', '?')}/{state.get('max_steps', '?')}"]
    for key in ("loss", "eval_loss", "rewards/accuracies", "eval_rewards/accuracies"):
        value = next((row[key] for row in reversed(rows) if key in row), None)
        parts += [] if value is None else [f"{key} {value:.4g}"]
    return f"学習の状態 / trainer_state: {', '.join(parts)}"
