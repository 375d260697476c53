"""What the instruction changes: the margins of pairs with it and without it, before and after training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ...recipe import DpoRecipe
from ..fast.head import tiled_head
from ..fast.layout import lay_out
from ..fast.scores import score
from ..prompts import EncodedPair
from .teacher import encode_guided, prefix_of

if TYPE_CHECKING:
    from torch import Tensor

_PAIRS = 8


@dataclass(frozen=True)
class PairMargins:
    """One pair and its four margins log p(chosen) - log p(rejected), nats summed over the tokens of each answer; above 0 the chosen text
    is the likelier one."""

    prompt: str
    """As the policy reads it, template included."""
    chosen: str
    rejected: str
    m0: float
    """Base, no instruction: the reference margin of DPO."""
    mp: float
    """Base, with the instruction: the explicit margin of the frozen teacher."""
    m: float
    """Tuned, no instruction: the implicit margin; m0 where there is no adapter."""
    m_prompted: float
    """Tuned, with the instruction: the explicit margin of a live teacher; mp where there is no adapter."""

    @property
    def shift(self) -> float:
        """mp - m0: what the instruction alone does for the chosen text, before any training."""
        return self.mp - self.m0

    @property
    def learned(self) -> float:
        """m - m0: what the training did, without the instruction; beta times it is TRL's rewards/margins."""
        return self.m - self.m0

    @property
    def gap(self) -> float:
        """mp - m: how far the frozen teacher is ahead; beta times it, where it is above 0, is the aligned loss."""
        return self.mp - self.m

    def row(self) -> dict[str, Any]:
        """Plain JSON values, the differences included."""
        return {**asdict(self), "shift": self.shift, "learned": self.learned, "gap": self.gap}


def margins_of(
    model: Any, tokenizer: Any, rows: Sequence[dict], recipe: DpoRecipe, on_batch: Callable[[int], None] = lambda scored: None
) -> list[PairMargins]:
    """The margins of every row that can be scored in both branches, in order.

    `model`: a PeftModel, or a base model without an adapter. `recipe`: instruction, placement or learned vectors, lengths. The usual two rows a pair are
    used, which every architecture reads rightly. `on_batch` is told how many pairs each batch scored. Raises what `encode_guided` raises.
    """
    plain, taught = encode_guided(tokenizer, rows, recipe, model)
    prefix, head, found = prefix_of(recipe, model), tiled_head(model), []
    adapted = hasattr(model, "disable_adapter")
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(taught), _PAIRS):
            one, other = plain.pairs[start : start + _PAIRS], taught[start : start + _PAIRS]
            batches = [_laid_out(model, tokenizer, one, None), _laid_out(model, tokenizer, other, prefix)]
            tuned = [_margins(model, batch, head, vectors) for batch, vectors in batches]
            base = tuned
            if adapted:
                with model.disable_adapter():
                    base = [_margins(model, batch, head, vectors) for batch, vectors in batches]
            found += [
                PairMargins(pair.prompt_text, pair.chosen, pair.rejected, *values)
                for pair, *values in zip(one, *base, *tuned, strict=True)
            ]
            on_batch(len(one))
    finally:
        model.train(was_training)
    return found


def _laid_out(
    model: Any, tokenizer: Any, pairs: Sequence[EncodedPair], prefix: Tensor | None
) -> tuple[dict[str, Tensor], Tensor | None]:
    batch = lay_out(pairs, tokenizer.pad_token_id, shared=False, virtual=0 if prefix is None else len(prefix))
    return {name: values.to(model.device) for name, values in batch.items()}, prefix


def _margins(model: Any, batch: dict[str, Tensor], head: Any, prefix: Tensor | None) -> list[float]:
    import torch

    with torch.no_grad():
        chosen, rejected = score(model, batch, head, prefix)[0].chunk(2)
    return (chosen - rejected).tolist()
