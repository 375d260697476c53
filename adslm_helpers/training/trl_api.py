"""The one place that knows how the installed TRL and transformers want to be called, from TRL 0.7.11 to today's.

It asks signatures, dataclass fields and behaviour, not version numbers. Measured with 16 sets of packages: docs/compat.md.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..environment.device import DevicePlan
from ..environment.packages import hide_old_torchao
from ..errors import TrainingError
from ..models.loading import lora_config
from ..recipe import DpoRecipe
from .accumulation import repair_accumulation
from .prompts import EncodedPair, score_rows
from .settings import trainer_settings
from .tiles import use_small_tiles
from .trl_old import check_forward, is_old, levelled
from .trl_rows import id_rows, scored_rows, text_rows

# Newer name -> older name of the same argument.
_OLDER_NAMES = {"eval_strategy": "evaluation_strategy", "use_cpu": "no_cuda"}
# May be absent: what is done instead, Japanese and English. The last two cost memory on an Apple GPU and change no number.
_DONE_BY_US = {
    "max_prompt_length": ("プロンプトは学習の前に切ってあります", "prompts were cut before the training"),
    "truncation_mode": ("長さは学習の前に合わせてあります", "every pair was made to fit beforehand"),
    "torch_empty_cache_steps": ("メモリの返却は行いません", "cached memory is not handed back meanwhile"),
    "pad_to_multiple_of": ("バッチの長さはそろえません", "batches keep their own lengths"),
}
_SFT_BY_US = "loss_weights"


@dataclass(frozen=True)
class Route:
    """Where each setting goes: to the config, to the trainer, or done by us, with the words for it."""

    config: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    done_by_us: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What the installed versions lack and who does it instead, once, Japanese and English."""
        absent = [(name, *_DONE_BY_US[name]) for name in self.done_by_us if name != _SFT_BY_US]
        told = [f"この TRL に {name} はありません: {ja} / this TRL has no {name}: {en}" for name, ja, en in absent]
        if _SFT_BY_US in self.done_by_us:
            told.append(
                "SFT の項は、この TRL のものが今のものと違うので、こちらで加えます"
                " / the SFT term is added by us: this TRL has none, or another than today's"
            )
        return told


def build_trainer(
    recipe: DpoRecipe,
    plan: DevicePlan,
    model: Any,
    tokenizer: Any,
    train_pairs: Sequence[EncodedPair],
    eval_pairs: Sequence[EncodedPair],
    folder: Path,
    callbacks: Sequence[Any] = (),
) -> tuple[Any, list[str]]:
    """A `trl.DPOTrainer` for the recipe with a fresh LoRA adapter, and what had to be done another way, in words.

    The reference is the same model with the adapter off. What is scored are the ids of the pairs, whatever TRL's own tokenising makes
    of their texts. `folder`: runs/NAME/training.
    Raises TrainingError when the installed TRL cannot be imported or lacks what the recipe needs.
    """
    hide_old_torchao()
    use_small_tiles(plan.device)
    config_class, trainer_class = _import_trl()
    from transformers import PrinterCallback

    old = is_old(trainer_class)
    settings = trainer_settings(recipe, plan, len(train_pairs), folder)
    route = find_route(settings, config_class, trainer_class, own_sft=old and recipe.sft_weight > 0)
    if old:
        trainer_class = levelled(trainer_class, recipe)

    def construct(base: Any, rows: dict[str, list[dict]]) -> Any:
        return _construct(recipe, trainer_class, config_class(**route.config), route.trainer, base, tokenizer, rows, callbacks)

    sides = {"train": train_pairs, "eval": eval_pairs}
    with _no_dataset_bars():
        trainer = construct(model, {side: text_rows(pairs[:2]) for side, pairs in sides.items()})
        if not _put_ids(trainer, sides):  # a TRL newer than all we know: let it tokenise, and look at what it made
            trainer = construct(trainer.model.unload(), {side: text_rows(pairs) for side, pairs in sides.items()})
    trainer.remove_callback(PrinterCallback)  # it prints every log as a dict; history.jsonl has them all
    _check_scored(trainer, train_pairs)
    told = route.lines() + (check_forward(trainer) if old else [])
    repair_accumulation(trainer)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            # TRL makes the adapter of a 4-bit model bfloat16: at small learning rates it then stands still
            parameter.data = parameter.data.float()
    return trainer, told


def find_route(settings: dict[str, Any], config_class: type, trainer_class: type, own_sft: bool = False) -> Route:
    """Where the installed versions take each setting; raises TrainingError for one that they lack and the recipe needs.

    `settings`: by today's names. `own_sft`: the SFT term is added by us, and TRL is not told of it.
    """
    fields = {known.name for known in dataclasses.fields(config_class)}
    accepted = set(inspect.signature(trainer_class.__init__).parameters)
    wanted = dict(settings)
    if own_sft or "loss_weights" not in fields:  # before lists of losses there was one, by its name
        wanted["loss_type"] = wanted["loss_type"][0]
        _refuse_unknown_loss(wanted["loss_type"], config_class, trainer_class)
    if own_sft:
        del wanted["loss_weights"]
    config, trainer, missing = {}, {}, []
    for name, value in wanted.items():
        for candidate in (name, _OLDER_NAMES.get(name, name)):
            target = config if candidate in fields else trainer if candidate in accepted else None
            if target is not None:
                target[candidate] = value
                break
        else:
            missing.append(name)
    if lacking := [name for name in missing if name not in _DONE_BY_US]:
        names = ", ".join(lacking)
        raise TrainingError(
            f"インストール済みの TRL / transformers には {names} がありません。→ trl>=0.29.1 を入れてください（ノートブック 00）。",
            f"The installed TRL / transformers lack {names}. -> Install trl>=0.29.1 (notebook 00).",
        )
    return Route(config, trainer, (*missing, *([_SFT_BY_US] if own_sft else [])))


@contextmanager
def readable_checkpoints() -> Iterator[None]:
    """Lets torch read numpy's random state in a checkpoint with weights_only=True; transformers before 4.48 does not ask it to."""
    import numpy
    import torch

    rebuild = numpy.zeros(1).__reduce__()[0]  # a private function that numpy 2 keeps elsewhere
    kinds = [type(numpy.dtype(kind)) for kind in ("uint32", "uint64", "int64", "float64")]
    with torch.serialization.safe_globals([rebuild, numpy.ndarray, numpy.dtype, *kinds]):
        yield


def _construct(
    recipe: DpoRecipe,
    trainer_class: type,
    config: Any,
    options: dict[str, Any],
    model: Any,
    tokenizer: Any,
    rows: dict[str, list[dict]],
    callbacks: Sequence[Any],
) -> Any:
    from datasets import Dataset
    from transformers import set_seed

    name = "processing_class" if "processing_class" in inspect.signature(trainer_class.__init__).parameters else "tokenizer"
    set_seed(recipe.seed)  # before the adapter is made: older TRL draws its start from the global state
    trainer = trainer_class(
        model=model,
        ref_model=None,
        args=config,
        train_dataset=Dataset.from_list(rows["train"]),
        eval_dataset=Dataset.from_list(rows["eval"]),
        peft_config=lora_config(recipe, model),
        callbacks=list(callbacks),
        **{name: _with_bos(tokenizer) if hasattr(trainer_class, "build_tokenized_answer") else tokenizer},
        **options,
    )
    setattr(trainer, name, tokenizer)
    return trainer


def _with_bos(tokenizer: Any) -> Any:
    """A copy that has a BOS: TRL up to 0.9 puts one before every prompt, be there one or not. Its rows are replaced afterwards."""
    if tokenizer.bos_token is not None:
        return tokenizer
    stand_in = copy.deepcopy(tokenizer)
    stand_in.bos_token = tokenizer.eos_token
    return stand_in


def _put_ids(trainer: Any, sides: dict[str, Sequence[EncodedPair]]) -> bool:
    """Replaces the trainer's datasets by our ids; False, and nothing done, where TRL's columns are not known."""
    from datasets import Dataset

    rows = {side: id_rows(getattr(trainer, f"{side}_dataset").column_names, pairs) for side, pairs in sides.items()}
    if None in rows.values():
        return False
    for side, made in rows.items():
        setattr(trainer, f"{side}_dataset", Dataset.from_list(made))
    return True


def _check_scored(trainer: Any, pairs: Sequence[EncodedPair]) -> None:
    """Raises TrainingError unless the first batch scores exactly the tokens that the lesson shows, each response with its one EOS."""
    if len(trainer.train_dataset) != len(pairs):
        dropped = len(pairs) - len(trainer.train_dataset)
        raise TrainingError(
            f"TRL が {dropped} 対を黙って除きました。→ max_length を大きくしてください。",
            f"TRL dropped {dropped} pairs on its own. -> Raise max_length.",
        )
    first = list(pairs[:2])
    scored = scored_rows(trainer.data_collator([trainer.train_dataset[i] for i in range(len(first))]))
    if scored is not None and scored != score_rows(first):
        raise TrainingError(
            "この TRL は、表示したものと別のトークンを採点します。→ ノートブック 00 の修復で、試験済みの TRL を入れてください。",
            "This TRL scores other tokens than those shown. -> Install a tested TRL by the repair in notebook 00.",
        )


def _refuse_unknown_loss(name: str, config_class: type, trainer_class: type) -> None:
    """Raises TrainingError where the installed TRL lists its losses and this one is not among them."""
    parameter = inspect.signature(trainer_class.__init__).parameters.get("loss_type")
    hints = [known.type for known in dataclasses.fields(config_class) if known.name == "loss_type"]
    hint = hints[0] if hints else parameter.annotation if parameter else None
    known = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else None
    if known and name not in known:
        raise TrainingError(
            f"インストール済みの TRL に loss_type = {name!r} はありません（{', '.join(known)}）。→ 別の loss_type か、新しい TRL を使ってください。",
            f"The installed TRL has no loss_type {name!r} ({', '.join(known)}). -> Choose another loss_type, or a newer TRL.",
        )


@contextmanager
def _no_dataset_bars() -> Iterator[None]:
    """Hides the six progress bars of tokenising, and leaves the user's own setting as it was."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _import_trl() -> tuple[type, type]:
    """(class of the arguments, trainer class); before 0.9 the arguments were transformers' own."""
    from transformers import TrainingArguments

    try:
        import trl
        from trl import DPOTrainer

        return getattr(trl, "DPOConfig", TrainingArguments), DPOTrainer
    except (ImportError, RuntimeError) as error:  # trl wraps the errors of its lazy imports in RuntimeError
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"TRL を読み込めません（{reason}）。→ ノートブック 00 の修復を実行してください。",
            f"TRL cannot be imported ({reason}). -> Run the repair in notebook 00.",
        ) from error
