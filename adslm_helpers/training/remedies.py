"""What a training does by itself after it went wrong: the next safer precision or half the learning rate; less memory for the same step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..environment.device import DevicePlan
from ..recipe import DpoRecipe

_SHORTEST = 64


@dataclass(frozen=True)
class Remedy:
    """One change of the recipe, and why; `recipe` is what to go on with."""

    kind: str
    """'float32', 'half_learning_rate', 'half_batch', 'checkpointing', 'half_eval_batch', 'shorter' or 'next_model'."""
    recipe: DpoRecipe
    ja: str
    en: str
    from_start: bool = False
    """Whether earlier checkpoints are of no use: another model's adapter."""

    def changes(self, before: DpoRecipe) -> dict[str, list[Any]]:
        """Fields that differ: name -> [before, after], plain JSON values."""
        old, new = before.to_dict(), self.recipe.to_dict()
        return {name: [old[name], new[name]] for name in new if old[name] != new[name]}


def after_not_finite(cause: str, recipe: DpoRecipe, plan: DevicePlan, float32_fits: bool = True) -> Remedy | None:
    """float32 where the precision is to blame or may be, else half the learning rate; None for a cause that neither mends.

    `cause`: a key of `diagnosis.CAUSES`. `plan`: the precision that was trained in.
    """
    if cause == "data":
        return None
    in_float32 = plan.dtype == "float32" and plan.compute_dtype == "float32"
    if cause in ("precision", "once", "weights") and not in_float32 and float32_fits:
        return Remedy(
            "float32",
            replace(recipe, dtype="float32"),
            f"精度を {plan.compute_dtype} から float32 に上げて続けます",
            f"going on in float32 instead of {plan.compute_dtype}",
        )
    half = recipe.learning_rate / 2
    if half < 1e-9:
        return None
    return Remedy(
        "half_learning_rate",
        replace(recipe, learning_rate=half),
        f"学習率を半分（{recipe.learning_rate:g} → {half:g}）にして続けます",
        f"going on with half the learning rate ({recipe.learning_rate:g} -> {half:g})",
    )


def after_out_of_memory(recipe: DpoRecipe, phase: str, model: str) -> Remedy | None:
    """The first rung left: half the batch with twice the accumulation, checkpointing, half the evaluation batch, shorter texts where
    the recipe allows them, the next model of the list. The effective batch stays the same on every rung.

    `phase`: 'training', 'evaluation', or 'loading' of the model. `model`: the one that ran out. None when nothing is left.
    """
    rungs = {
        "training": (_half_batch, _checkpointing, _half_eval_batch, _shorter),
        "evaluation": (_half_eval_batch, _shorter),
        "loading": (),
    }[phase]
    found = (rung(recipe) for rung in rungs)
    return next((remedy for remedy in found if remedy), None) or _next_model(recipe, model)


def _half_batch(recipe: DpoRecipe) -> Remedy | None:
    batch = recipe.per_device_train_batch_size
    effective = batch * recipe.gradient_accumulation_steps
    smaller = next((size for size in range(batch // 2, 0, -1) if effective % size == 0), None)
    if smaller is None:
        return None
    steps = effective // smaller
    return Remedy(
        "half_batch",
        replace(recipe, per_device_train_batch_size=smaller, gradient_accumulation_steps=steps),
        f"バッチを {batch} から {smaller} に、勾配の累積を {steps} 回にして続けます（実効バッチ {effective} は同じ）",
        f"going on with batch {batch} -> {smaller} and {steps} accumulation steps (effective batch still {effective})",
    )


def _checkpointing(recipe: DpoRecipe) -> Remedy | None:
    if recipe.gradient_checkpointing:
        return None
    return Remedy(
        "checkpointing",
        replace(recipe, gradient_checkpointing=True),
        "活性を再計算して（gradient_checkpointing）メモリを減らし、続けます",
        "going on with recomputed activations (gradient_checkpointing)",
    )


def _half_eval_batch(recipe: DpoRecipe) -> Remedy | None:
    size = recipe.per_device_eval_batch_size
    if size == 1:
        return None
    return Remedy(
        "half_eval_batch",
        replace(recipe, per_device_eval_batch_size=size // 2),
        f"評価のバッチを {size} から {size // 2} にして続けます",
        f"going on with evaluation batch {size} -> {size // 2}",
    )


def _shorter(recipe: DpoRecipe) -> Remedy | None:
    length = recipe.max_length // 2
    if not recipe.allow_shorter or length < _SHORTEST:
        return None
    prompt = min(recipe.max_prompt_length, length // 2)
    return Remedy(
        "shorter",
        replace(recipe, max_length=length, max_prompt_length=prompt),
        f"文の長さを {recipe.max_length} トークンから {length} にして続けます（入らない対は除外して数えます）",
        f"going on with max_length {recipe.max_length} -> {length} (pairs that do not fit are dropped and counted)",
    )


def _next_model(recipe: DpoRecipe, model: str) -> Remedy | None:
    rest = recipe.models[recipe.models.index(model) + 1 :] if model in recipe.models else ()
    if not recipe.fallback or not rest:
        return None
    return Remedy(
        "next_model",
        replace(recipe, models=rest),
        f"{model} はこの機器に収まりません。次のモデル {rest[0]} ではじめから学習します",
        f"{model} does not fit on this device: training {rest[0]} from the start",
        from_start=True,
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: torch's own class, MPS and the CPU allocator by their words, or Python's."""
    import torch

    classes = tuple(kind for place in (torch, torch.cuda) if isinstance(kind := getattr(place, "OutOfMemoryError", None), type))
    if isinstance(error, (MemoryError, *classes)):
        return True
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
