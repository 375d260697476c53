"""Pairs as the trainer's dataset holds them, and how some of them become a batch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..prompts import EncodedPair, score_rows
from .layout import cost, lay_out

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Item:
    """One pair as the trainer's dataset holds it."""

    pair: EncodedPair
    ref_logps: tuple[float, float] = (0.0, 0.0)
    """Of the reference, (chosen, rejected), nats."""
    weight: float = 1.0
    taught: EncodedPair | None = None
    """The pair as the teacher reads it: the same answers behind a prompt with the instruction."""
    teacher_logps: tuple[float, float] | None = None
    """Of a teacher that stays as it is; None: the policy itself is the teacher, and reads `taught` at every step."""


@dataclass(frozen=True)
class Teacher:
    """What preference-guided DPO needs beside the pairs (`training.guided` makes it)."""

    sides: dict[str, Sequence[EncodedPair]]
    """'train' and 'eval': the pairs with the instruction in their prompts, in the same order, with the same answers."""
    prefix: Tensor | None = None
    """[virtual, H]: learned vectors before every prompt of `sides`; None in text mode."""
    live: bool = False
    """The policy is the teacher, not the reference."""


class Collator:
    """Items to a batch: laid out in one row a pair or two, whichever is less work."""

    def __init__(self, pad_token_id: int, shared: bool = True, attention_share: float = 0.0, multiple: int = 1, virtual: int = 0):
        self.pad_token_id, self.shared, self.attention_share = pad_token_id, shared, attention_share
        self.multiple = multiple
        """Rows are padded to a multiple of this: Apple's GPUs keep a set of buffers for every width."""
        self.virtual = virtual
        """Learned vectors before the prompts of the teacher."""

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        """The batch of `lay_out` (transformers counts the pairs by its first tensor: lengths [B, 2]) and, in float32, ref_logps [2B],
        weights [B], and of a teacher teacher_logps [2B] or a laid-out batch `taught`."""
        import torch

        pairs = [item.pair for item in items]
        batch = self.laid_out(pairs)
        batch["ref_logps"] = torch.tensor([[*item.ref_logps] for item in items]).T.reshape(-1)
        if items[0].teacher_logps is not None:
            batch["teacher_logps"] = torch.tensor([[*item.teacher_logps] for item in items]).T.reshape(-1)
        elif items[0].taught is not None:
            batch["taught"] = self.laid_out([item.taught for item in items], self.virtual)
        batch["weights"] = torch.tensor([item.weight for item in items])
        # For whoever looks at what is scored. A function: lists would be walked through, number by number, on their way to the device.
        batch["scored_rows"] = functools.partial(score_rows, pairs)
        return batch

    def laid_out(self, pairs: Sequence[EncodedPair], virtual: int = 0) -> dict[str, Tensor]:
        """The cheaper layout of `pairs`, for `score`."""
        shared = self.shared and self._work(pairs, True, virtual) < self._work(pairs, False, virtual)
        return lay_out(pairs, self.pad_token_id, shared=shared, virtual=virtual, multiple=self.multiple)

    def _work(self, pairs: Sequence[EncodedPair], shared: bool, virtual: int) -> float:
        return cost(pairs, shared, self.attention_share, virtual)
