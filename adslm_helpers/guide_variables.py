"""The environment variables of the preference-guided DPO guide, as overrides of the recipe: only where TRAINING_MODE is set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import RecipeError
from .foreign_text import brief, harmless
from .preference_text import PREFERENCE_TEXT
from .recipe import _HINTS
from .recipe_rules import RANGES, coerce

MODE = "TRAINING_MODE"
MODES = ("text", "embedding")
EMBEDDINGS_FILE = "prompt_embeddings.pt"
FIELDS = {
    "BETA": "beta",
    "ALPHA": "alpha",
    "LEARNING_RATE": "learning_rate",
    "NUM_EPOCHS": "num_train_epochs",
    "NUM_TRAIN_EPOCHS": "num_train_epochs",
    "BATCH_SIZE": "per_device_train_batch_size",
    "PER_DEVICE_BATCH_SIZE": "per_device_train_batch_size",
    "PER_DEVICE_TRAIN_BATCH_SIZE": "per_device_train_batch_size",
    "PER_DEVICE_EVAL_BATCH_SIZE": "per_device_eval_batch_size",
    "GRADIENT_ACCUM_STEPS": "gradient_accumulation_steps",
    "GRADIENT_ACCUMULATION_STEPS": "gradient_accumulation_steps",
    "LORA_R": "lora_r",
    "LORA_ALPHA": "lora_alpha",
    "LORA_DROPOUT": "lora_dropout",
    "MAX_LENGTH": "max_length",
    "MAX_PROMPT_LENGTH": "max_prompt_length",
    "WARMUP_RATIO": "warmup_ratio",
    "MAX_GRAD_NORM": "max_grad_norm",
    "LOGGING_STEPS": "logging_steps",
    "SAVE_STEPS": "save_steps",
    "SEED": "seed",
}
"""Variable -> field of the recipe."""
MODELS = ("MODEL_NAME", "MODEL_PATH", "MODEL_NAME_OR_PATH", "BASE_MODEL")
"""The model, tried before the recipe's own."""
INSTEAD = {
    "OUTPUT_DIR": ("結果は runs/NAME/ に入ります。→ --run NAME（置き場所は ADSLM_RUNS）", "results go to runs/NAME/: use --run NAME (and ADSLM_RUNS for the place)"),
    "DATA_PATH": ("→ adslm dataset ファイル --run NAME", "use adslm dataset FILE --run NAME"),
    "TRAIN_DATA": ("→ adslm dataset ファイル --run NAME", "use adslm dataset FILE --run NAME"),
    "DATASET_PATH": ("→ adslm dataset ファイル --run NAME", "use adslm dataset FILE --run NAME"),
    "DEEPSPEED_CONFIG": ("→ adslm train --deepspeed ファイル", "use adslm train --deepspeed FILE"),
    "NUM_GPUS": ("→ GPU_NODES=localhost:0,1 のように番号で", "name the GPUs: GPU_NODES=localhost:0,1"),
    "WARMUP_STEPS": ("→ WARMUP_RATIO か --set warmup_ratio=0.1", "use WARMUP_RATIO or --set warmup_ratio=0.1"),
    "EVAL_STEPS": ("→ --set evals_per_run=4（回数）", "use --set evals_per_run=4 (how often)"),
    "BF16": ("精度は装置に合わせて選びます。→ --set dtype=bfloat16", "the device decides: use --set dtype=bfloat16"),
    "FP16": ("精度は装置に合わせて選びます。→ --set dtype=float16", "the device decides: use --set dtype=float16"),
    "NUM_VIRTUAL_TOKENS": ("ファイルの行数で決まります。→ adslm preference-prompt --virtual-tokens 16", "the file decides: use adslm preference-prompt --virtual-tokens 16"),
}  # fmt: skip
"""Variables with no counterpart in a recipe, and what to use in place of them."""
_ALTERNATIVES = ("preference_text", "prompt_embeddings")


@dataclass(frozen=True)
class Overrides:
    """What the guide's variables ask for; make one with `guide_overrides`."""

    values: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe, checked."""
    lines: list[str] = field(default_factory=list)
    """One for each variable, with its field or with what to use in its place; Japanese and English."""
    model: str = ""
    """The model to try first."""

    def below(self, explicit: Mapping[str, Any]) -> dict[str, Any]:
        """The values with what was asked for explicitly (`--set`, `--beta`, ...) on top: text and embeddings exclude each other."""
        given = [name for name in _ALTERNATIVES if explicit.get(name)]
        return {**{name: value for name, value in self.values.items() if not given or name not in _ALTERNATIVES}, **explicit}


def guide_overrides(environ: Mapping[str, str]) -> Overrides:
    """The overrides that the guide's variables in `environ` ask for; none unless TRAINING_MODE is set, for ALPHA may be anybody's.

    An empty variable counts as unset. Raises RecipeError, naming the variable, for a value that its field cannot take.
    """
    given = {name: value.strip() for name, value in environ.items() if value.strip()}
    lines = _told_of_memory(given)
    if MODE not in given:
        return Overrides(lines=lines)
    values, said = _mode(given)
    lines += said
    for name, key in FIELDS.items():
        if name not in given:
            continue
        value = _checked(name, key, given[name])
        if values.get(key, value) != value:
            raise RecipeError(
                f"{name} = {given[name]} は、同じ項目 {key} の別の変数の値 {values[key]} と違います。→ どちらかを消してください。",
                f"{name} = {given[name]} contradicts {values[key]}, which another variable gives for {key}. -> Unset one of them.",
            )
        values[key] = value
        lines.append(f"{name} -> {key} = {value}{_NOTES.get(name, '')}")
    model, said = _model(given)
    lines += said
    lines += [f"{name}: {ja} / no counterpart: {en}" for name, (ja, en) in INSTEAD.items() if name in given]
    return Overrides(values, lines, model)


_NOTES = {
    "BETA": "（大きいほど元のモデルから離れません / a larger beta holds the model closer to the reference）",
    "GRADIENT_ACCUM_STEPS": "（メモリも時間も減りません。全プロセスの合計です / saves neither memory nor time; it is the sum over all processes）",
    "GRADIENT_ACCUMULATION_STEPS": "（メモリも時間も減りません。全プロセスの合計です / saves neither memory nor time; it is the sum over all processes）",
    "LORA_DROPOUT": "（DPO では学習中 0 になります / set to 0 while DPO trains: policy and reference must see one network）",
}


def _mode(given: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Method, engine, and where the instruction comes from."""
    mode = given[MODE].lower()
    if mode not in MODES:
        raise RecipeError(
            f"{MODE} = {brief(given[MODE])} は使えません。→ text か embedding にしてください（使わないなら消してください）。",
            f"{MODE} = {brief(given[MODE])} is unknown. -> Use text or embedding (or unset it).",
        )
    values = {"method": "preference_guided", "engine": "fast"}
    lines = [f"{MODE} = {mode} -> method = preference_guided, engine = fast"]
    if mode == "text":
        text = given.get("PREFERENCE_TEXT", PREFERENCE_TEXT)
        unset = "" if "PREFERENCE_TEXT" in given else "（指定がないので既定の文 / not set: the project's own）"
        lines.append(f"PREFERENCE_TEXT -> preference_text = {harmless(text)}{unset}")
        if "PROMPT_EMBEDDING_PATH" in given:
            lines.append(f"PROMPT_EMBEDDING_PATH: text では使いません / not read in text mode: use {MODE}=embedding")
        return {**values, "preference_text": text, "prompt_embeddings": ""}, lines
    path = given.get("PROMPT_EMBEDDING_PATH", EMBEDDINGS_FILE)
    unset = "" if "PROMPT_EMBEDDING_PATH" in given else "（指定がないので既定の名前 / not set: the guide's own name）"
    lines.append(f"PROMPT_EMBEDDING_PATH -> prompt_embeddings = {harmless(path)}{unset}")
    if "PREFERENCE_TEXT" in given:
        lines.append(f"PREFERENCE_TEXT: embedding では使いません / not read in embedding mode: use {MODE}=text")
    return {**values, "preference_text": "", "prompt_embeddings": path}, lines


def _model(given: Mapping[str, str]) -> tuple[str, list[str]]:
    named = {name: given[name] for name in MODELS if name in given}
    if len(set(named.values())) > 1:
        shown = ", ".join(f"{name}={brief(value)}" for name, value in named.items())
        raise RecipeError(
            f"モデルが変数によって違います（{shown}）。→ 1つにしてください。",
            f"The variables name several models ({shown}). -> Keep one of them.",
        )
    return next(iter(named.values()), ""), [f"{name} -> models: {harmless(value)}" for name, value in named.items()]


def _checked(name: str, key: str, text: str) -> Any:
    """The text as the field's type and in its range; raises RecipeError with the variable's name."""
    low, high = RANGES[key]
    try:
        value = coerce(key, _HINTS[key], text)
        if low <= value <= high:
            return value
    except RecipeError:
        pass
    kind, span = _HINTS[key].__name__, f"{low} - {high}"
    raise RecipeError(
        f"環境変数 {name} = {brief(text)} は {key}（{kind} {span}）に使えません。→ 直すか、変数を消してください。",
        f"The variable {name} = {brief(text)} cannot be {key} ({kind} {span}). -> Correct it, or unset it.",
    )


def _told_of_memory(given: Mapping[str, str]) -> list[str]:
    """Whatever the mode: torch never reads CUDA_ALLOC_CONF, and says nothing."""
    if "CUDA_ALLOC_CONF" not in given:
        return []
    return [
        "CUDA_ALLOC_CONF: torch は読みません。→ PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True / "
        "torch ignores it: use PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
    ]
