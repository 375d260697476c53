"""Why a number is not finite: the same batch looked at again, pair by pair, in this precision and in float32 on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..environment.device import DevicePlan
from .checks import autocast, scored_forward
from .float32_on_cpu import float32_on_cpu
from .prompts import EncodedPair, collate

CAUSES = {
    "weights": (
        "アダプターの重みが既に有限ではありません（前の更新で壊れました）",
        "weights of the adapter are not finite already: an earlier update broke them",
    ),
    "precision": (
        "この精度では計算があふれます。CPU の float32 では同じ対が有限です",
        "this precision overflows: in float32 on the CPU the same pair is finite",
    ),
    "data": (
        "学習前のモデルでも、float32 でも、この対は有限になりません（データかモデルの問題です）",
        "even the untuned model in float32 gives no finite number for this pair: the data or the model is at fault",
    ),
    "learning_rate": (
        "float32 でも有限になりません。学習で重みが大きくなりすぎています（学習率が高すぎます）",
        "float32 is not finite either: training made the weights too large (the learning rate is too high)",
    ),
    "once": (
        "同じバッチをもう一度計算すると有限でした（計算カーネルか機器の一時的な誤り）",
        "computed again, the same batch is finite: a kernel or the hardware failed once",
    ),
}
"""Cause -> what it means, Japanese and English."""


@dataclass(frozen=True)
class Diagnosis:
    """The likely cause, a key of CAUSES, and which pairs of the batch give no finite number by themselves."""

    cause: str
    broken_pairs: tuple[int, ...] = ()
    largest_weight: float = 0.0
    """Largest magnitude in the adapter; a LoRA weight is well below 1 as long as all is well."""
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def ja(self) -> str:
        """What it means."""
        return CAUSES[self.cause][0]

    @property
    def en(self) -> str:
        """What it means."""
        return CAUSES[self.cause][1]


def diagnose(
    model: Any, plan: DevicePlan, pairs: Sequence[EncodedPair], pad_token_id: int, again: Callable[[], bool]
) -> Diagnosis:
    """The likely cause of a number that is not finite, for the pairs of the batch in which it showed.

    `again`: computes the batch once more, loss and gradients, and says whether all is finite. `pairs` may be empty where the layout of the
    batch is not known; then only weights, `again` and the precision can be judged. Gradients are dropped; weights stay as they are.
    """
    import torch

    trainable = [p.detach() for p in model.parameters() if p.requires_grad]
    largest = max((float(p.abs().max()) for p in trainable if p.numel()), default=0.0)
    if not all(bool(p.isfinite().all()) for p in trainable):
        return Diagnosis("weights", largest_weight=math.inf)
    in_float32 = plan.dtype == "float32" and plan.compute_dtype == "float32"
    if not all(bool(p.isfinite().all()) for p in model.parameters() if not p.requires_grad and p.is_floating_point()):
        # A weight that the file holds as a finite number and float16 does not.
        return Diagnosis("data" if plan.dtype == "float32" else "precision", largest_weight=largest)
    with torch.no_grad():
        was_training = model.training
        model.eval()
        with autocast(model, plan):
            broken = tuple(i for i, pair in enumerate(pairs) if scored_forward(model, collate([pair], pad_token_id))[1])
        model.train(was_training)
    if not broken and again():
        return Diagnosis("once", largest_weight=largest)
    in_float32 = plan.compute_dtype == "float32" and plan.dtype == "float32"
    if not broken:  # the forward is finite, the gradient is not, and again not
        return Diagnosis("learning_rate" if in_float32 else "precision", largest_weight=largest)
    suspect = collate([pairs[broken[0]]], pad_token_id)
    with torch.no_grad(), float32_on_cpu(model):
        if not scored_forward(model, suspect, device="cpu")[1]:
            return Diagnosis("precision", broken, largest)
        with model.disable_adapter():
            untuned_broken = scored_forward(model, suspect, device="cpu")[1]
    return Diagnosis("data" if untuned_broken else "learning_rate", broken, largest)
