"""What a recipe's fields may hold: types, ranges, choices, and what does not go together."""

from __future__ import annotations

import difflib
import re
import types
import typing
from typing import Any

from .errors import RecipeError
from .foreign_text import brief

LOSS_TYPES = ("sigmoid", "ipo", "hinge", "robust")
DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda", "mps")
ENGINES = ("fast", "trl")
METHODS = ("dpo", "preference_guided")
PLACEMENTS = ("user_end", "system", "prefix")
TEACHERS = ("reference", "policy")

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"{close[0]!r}?" if close else f"({', '.join(known)})"


def coerce(name: str, hint: Any, value: Any) -> Any:
    """`value` as the field's type; text is read as the type asks (CLI and YAML 1.1 give '5e-6' as text)."""
    try:
        if typing.get_origin(hint) is tuple:
            items = value.split(",") if isinstance(value, str) else list(value)
            if not all(isinstance(item, str) for item in items):
                raise ValueError
            return tuple(item.strip() for item in items if item.strip())
        if hint is bool:
            if isinstance(value, str):
                return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]
            if not isinstance(value, bool):
                raise ValueError
            return value
        if hint is int:
            if isinstance(value, bool) or int(value) != float(value):
                raise ValueError
            return int(value)
        if hint is float:
            number = float(value)
            if isinstance(value, bool) or number != number or number in (float("inf"), float("-inf")):
                raise ValueError
            return number
        if not isinstance(value, str):
            raise ValueError
        return value
    except (ValueError, TypeError, KeyError, OverflowError):
        kind = hint.__name__ if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) else "list of text"
        raise RecipeError(
            f"レシピの {name} に {brief(value)} は使えません。→ 型は {kind} です。",
            f"Recipe field {name} cannot be {brief(value)}. -> Its type is {kind}.",
        ) from None


RANGES: dict[str, tuple[float, float]] = {
    "lora_r": (1, 256), "lora_alpha": (1, 1024), "lora_dropout": (0, 0.5), "beta": (1e-3, 10), "sft_weight": (0, 10),
    "label_smoothing": (0, 0.499), "learning_rate": (1e-9, 1e-1), "num_train_epochs": (0.01, 100),
    "per_device_train_batch_size": (1, 1024), "gradient_accumulation_steps": (1, 4096),
    "per_device_eval_batch_size": (1, 1024), "warmup_ratio": (0, 0.9), "max_grad_norm": (1e-3, 1e3), "seed": (0, 2**31 - 1),
    "max_length": (16, 32768), "max_prompt_length": (8, 32768), "eval_fraction": (0.01, 0.5), "logging_steps": (1, 10**6),
    "evals_per_run": (1, 100), "save_steps": (1, 10**6), "eval_prompts": (1, 10**5), "samples_per_prompt": (1, 100),
    "watch_prompts": (0, 1000), "recoveries": (0, 20), "temperature": (0, 2), "top_p": (0.01, 1), "max_new_tokens": (1, 4096),
    "alpha": (0, 10),
}  # fmt: skip
CHOICES = {
    "loss_type": LOSS_TYPES,
    "dtype": DTYPES,
    "device": DEVICES,
    "engine": ENGINES,
    "method": METHODS,
    "preference_placement": PLACEMENTS,
    "teacher": TEACHERS,
    "lr_scheduler_type": ("cosine", "linear", "constant_with_warmup"),
}


def problems(recipe: Any) -> typing.Iterator[tuple[str, str]]:
    """Every rule that the recipe breaks, as (Japanese, English)."""
    for name, (low, high) in RANGES.items():
        value = getattr(recipe, name)
        if not low <= value <= high:
            yield (
                f"レシピの {name} = {brief(value)} は範囲外です。→ {low} から {high} の間にしてください。",
                f"Recipe field {name} = {brief(value)} is out of range. -> Choose between {low} and {high}.",
            )
    for name, allowed in CHOICES.items():
        value = getattr(recipe, name)
        if value not in allowed:
            choice, shown = nearest(value[:60], list(allowed)), brief(value)
            yield f"レシピの {name} = {shown} は選べません。→ {choice}", f"{name} = {shown} is unknown. -> {choice}"
    for name in recipe.models:
        if "://" in name or _UNPRINTABLE.search(name):
            yield (
                f"models の {brief(name)} はモデルの名前ではありません（アドレスや制御文字は使えません）。→ 例: Qwen/Qwen2.5-0.5B-Instruct",
                f"{brief(name)} in models is no name of a model (no address, no control character). -> For example "
                "Qwen/Qwen2.5-0.5B-Instruct, or a folder.",
            )
    if recipe.max_steps == 0 or recipe.max_steps < -1:
        yield (
            f"レシピの max_steps = {recipe.max_steps} は使えません。→ -1（エポック数で決める）か 1 以上にしてください。",
            f"Recipe field max_steps = {recipe.max_steps} is no step count. -> Use -1 (by epochs) or 1 and more.",
        )
    if recipe.max_prompt_length >= recipe.max_length:
        yield (
            f"max_prompt_length = {recipe.max_prompt_length} が max_length = {recipe.max_length} 以上で、応答の場所がありません。"
            "→ max_prompt_length を小さくしてください。",
            f"max_prompt_length = {recipe.max_prompt_length} leaves no room for a response in max_length = {recipe.max_length}. "
            "-> Lower max_prompt_length.",
        )
    if not recipe.models:
        yield "レシピの models が空です。→ 1つ以上書いてください。", "Recipe field models is empty. -> Name at least one model."
    if recipe.label_smoothing and recipe.loss_type != "robust":
        yield (
            f"label_smoothing = {recipe.label_smoothing} は loss_type = {recipe.loss_type!r} では新しい TRL に黙って無視されます。"
            "→ loss_type を 'robust' にしてください。",
            f"label_smoothing = {recipe.label_smoothing} is silently ignored by today's TRL with loss_type = {recipe.loss_type!r}. "
            "-> Set loss_type to 'robust'.",
        )
    if recipe.use_p_win and recipe.loss_type not in ("sigmoid", "robust"):
        yield (
            f"use_p_win = true は loss_type = {recipe.loss_type!r} では使えません。→ loss_type を 'sigmoid' か 'robust' にしてください。",
            f"use_p_win = true does not go with loss_type = {recipe.loss_type!r}. -> Set loss_type to 'sigmoid' or 'robust'.",
        )
    for name, wanted in (("method", recipe.method != "dpo"), ("weight_by_p_win", recipe.weight_by_p_win)):
        if wanted and recipe.engine != "fast":
            yield (
                f"{name} = {getattr(recipe, name)!r} は TRL にはありません。→ engine を 'fast' にしてください。",
                f"{name} = {getattr(recipe, name)!r} is not known to TRL. -> Set engine to 'fast'.",
            )
    if re.search("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", recipe.preference_text):
        yield (
            f"preference_text = {brief(recipe.preference_text)} に文字でないものがあります。→ 入力し直してください。",
            f"preference_text = {brief(recipe.preference_text)} holds what is no text. -> Type it again.",
        )
    if recipe.preference_text and recipe.prompt_embeddings:
        yield (
            "preference_text と prompt_embeddings の両方が指定されています。→ どちらか一方を空にしてください。",
            "Both preference_text and prompt_embeddings are given. -> Leave one of them empty.",
        )
