"""The last layer's MLP at those positions only whose hidden state is read: it looks at each position by itself, and nothing comes after it that does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def only_where_read(model: Any, places: Tensor) -> Iterator[None]:
    """Inside, a forward pass leaves the last MLP out at all positions but `places` (flat indices into [R, L], each once).

    The hidden states of the other positions are then wrong, and those of `places` are what they were. Does nothing where the last layer has no
    plain MLP, and where activations are computed again in the backward pass, which would not see it.
    """
    import torch

    mlp = _last_mlp(model)
    if mlp is None or (torch.is_grad_enabled() and getattr(model, "is_gradient_checkpointing", False)):
        yield
        return
    shapes: list[Any] = []

    def gather(module: Any, arguments: tuple) -> tuple | None:
        if len(arguments) != 1:  # bloom's adds the residual by itself
            shapes.append(None)
            return None
        shapes.append(arguments[0].shape)
        return (arguments[0].flatten(0, -2)[places][None],)

    def scatter(module: Any, arguments: tuple, output: Tensor) -> Tensor | None:
        shape = shapes.pop()
        if shape is None:
            return None
        return output.new_zeros(shape.numel() // shape[-1], shape[-1]).index_copy(0, places, output[0]).view(shape)

    handles = [mlp.register_forward_pre_hook(gather), mlp.register_forward_hook(scatter)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _last_mlp(model: Any) -> Any:
    """The MLP of the last of the model's layers; None where it is none by its name (a mixture of experts routes, and counts, all positions)."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) and hasattr(module[-1], "mlp"):
            mlp = module[-1].mlp
            return mlp if type(mlp).__name__.endswith("MLP") and not hasattr(mlp, "experts") else None
    return None
