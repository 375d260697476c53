"""Log-probabilities of tokens from hidden states: by tiles of the vocabulary, or by the model's own way to its logits, a few positions at a time.

Tiles keep no logits, and multiply by the head twice, not thrice. As in attention over the rows of the head: one pass keeps the running maximum and sum of the softmax, and with them the gradient
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
# Numbers of the logits that are held at once where the model makes them itself: 64 MB in float32.
_OWN = 1 << 24
# What some architectures do to the logits after the head.
_AFTER_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale", "logits_soft_cap")


class TiledHead:
    """The output layer of a model whose weight is frozen, for `token_logps`."""

    def __init__(self, head: Any):
        self.weight, self.bias = head.weight, head.bias
        self._mean: Tensor | None = None

    def token_logps(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of each target, nats, and the mean of all logits at its place, both [N] in float32; the second without gradient.

        hidden [N, H]: what goes into the head; targets [N].
        """
        size = max(_LEAST, _TILE.get(hidden.device.type, _TILE["cpu"]) // max(1, len(hidden)))
        return _function().apply(hidden, self.weight, self.bias, targets, size), self._mean_logits(hidden.detach())

    def _mean_logits(self, hidden: Tensor) -> Tensor:
        """Without any logit: the product with the mean row of the head, which autocast would round."""
        import torch

        if self._mean is None:
            self._mean = self.weight.detach().mean(0, dtype=torch.float32)
        return (hidden.float() * self._mean).sum(-1) + (0.0 if self.bias is None else self.bias.detach().float().mean())


class OwnHead:
    """Whatever the model does between its last hidden states and its logits (a cap, a scale, an adapter on the head): for `token_logps`.

    The model's own forward is asked, with a body that only hands over the hidden states, so nothing has to be known of what it does.
    """

    def __init__(self, model: Any):
        self._causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        decoder = getattr(self._causal, "get_decoder", lambda: None)()  # of OPT, its base model is never called as a whole
        self.body = self._causal.base_model if decoder is None else decoder
        self.output: Any = None
        """What the body returned in this forward pass, its last hidden states included."""

    def token_logps(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of each target and the mean of all logits at its place, both [N] in float32; the second without gradient.

        hidden [N, H], as the body returns it. Chunks are computed again in the backward pass where all logits would take much memory.
        """
        import torch
        from torch.utils.checkpoint import checkpoint

        size = max(1, _OWN // text_config(self._causal).vocab_size)
        if len(hidden) <= size or not torch.is_grad_enabled():
            chunks = [self._chunk(*chunk) for chunk in zip(hidden.split(size), targets.split(size), strict=True)]
        else:
            chunks = [
                checkpoint(self._chunk, *chunk, use_reentrant=False)
                for chunk in zip(hidden.split(size), targets.split(size), strict=True)
            ]
        logps, means = zip(*chunks, strict=True)
        return torch.cat(logps), torch.cat(means)

    def _chunk(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = self._logits(hidden).float()
        return logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1), logits.detach().mean(-1)

    def _logits(self, hidden: Tensor) -> Tensor:
        output, theirs = with_hidden(self.output, hidden[None]), self.body.__dict__.get("forward")
        self.body.forward = lambda *arguments, **options: output
        try:
            return self._causal(input_ids=hidden.new_zeros((1, len(hidden)), dtype=int), use_cache=False).logits[0]
        finally:
            if theirs is None:
                del self.body.forward
            else:  # accelerate's, where a model lies on several devices
                self.body.forward = theirs


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """A model body's output with other last hidden states."""
    if isinstance(output, tuple):
        return (hidden, *output[1:])
    return type(output)(**{**output, "last_hidden_state": hidden})


def text_config(model: Any) -> Any:
    """The config of the part that reads text; transformers before 4.45 has no way to ask, and no models that need it."""
    return getattr(model.config, "get_text_config", lambda: model.config)()


def tiled_head(model: Any) -> TiledHead | None:
    """The model's head where tiles give the same numbers: a plain frozen linear layer with nothing after it; else None."""
    from torch import nn

    head, config = model.get_output_embeddings(), text_config(model)
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
