"""Log-probabilities of tokens from hidden states, by tiles of the vocabulary: no logits are kept, and the head is multiplied twice, not thrice.

As in attention over the rows of the head: one pass keeps the running maximum and sum of the softmax, and with them the gradient
W[target] - softmax(h W^T) W, so that the backward pass is one product by a scalar a token (online softmax: arXiv:1805.02867).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Numbers of one tile of logits, tokens x vocabulary.
_TILE = {"cpu": 1 << 21, "cuda": 1 << 26, "mps": 1 << 24}
_LEAST = 512
# What some architectures do to the logits after the head.
_AFTER_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale", "logits_soft_cap")


class TiledHead:
    """The output layer of a model whose weight is frozen, for `token_logps`."""

    def __init__(self, head: Any):
        self.weight, self.bias = head.weight, head.bias
        self._mean: Tensor | None = None

    def token_logps(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log-probability of each target, nats in float32, [N]: hidden [N, H], targets [N]."""
        size = max(_LEAST, _TILE.get(hidden.device.type, _TILE["cpu"]) // max(1, len(hidden)))
        return _function().apply(hidden, self.weight, self.bias, targets, size)

    def mean_logits(self, hidden: Tensor) -> Tensor:
        """The mean of all logits of each position, [N], without any logit: the product with the mean row of the head."""
        if self._mean is None:
            self._mean = self.weight.float().mean(0), 0.0 if self.bias is None else self.bias.float().mean()
        weight, bias = self._mean
        return hidden.float() @ weight + bias


def tiled_head(model: Any) -> TiledHead | None:
    """The model's head where tiles give the same numbers: a plain frozen linear layer with nothing after it; else None."""
    from torch import nn

    head, config = model.get_output_embeddings(), model.config.get_text_config()
    plain = type(head) is nn.Linear and not head.weight.requires_grad and head.weight.is_floating_point()
    if not plain or any(getattr(config, name, None) not in (None, 1.0) for name in _AFTER_THE_HEAD):
        return None
    return TiledHead(head)


@functools.cache
def _function() -> Any:
    import torch
    from torch.nn.functional import linear

    class TokenLogps(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, size: int) -> Tensor:
            hidden = hidden.to(weight.dtype)
            rows = weight[targets].float()
            found = (hidden.float() * rows).sum(-1)
            if bias is not None:
                found = found + bias[targets].float()
            largest = torch.full_like(found, -torch.inf)
            total = torch.zeros_like(found)
            wanted = ctx.needs_input_grad[0]
            mean = torch.zeros_like(rows) if wanted else None
            for start in range(0, len(weight), size):
                tile = weight[start : start + size]
                logits = linear(hidden, tile, None if bias is None else bias[start : start + size]).float()
                larger = torch.maximum(largest, logits.amax(-1))
                logits.sub_(larger[:, None]).exp_()
                shrink = (largest - larger).exp_()
                total = total.mul_(shrink).add_(logits.sum(-1))
                if wanted:
                    mean.mul_(shrink[:, None]).add_(logits.to(tile.dtype) @ tile)
                largest = larger
            if wanted:
                ctx.save_for_backward(rows.sub_(mean.div_(total[:, None])))
            return found - largest - total.log()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple:
            (direction,) = ctx.saved_tensors
            return (gradient[:, None] * direction, None, None, None, None)

    return TokenLogps
