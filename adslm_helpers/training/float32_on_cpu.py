"""A model computed in float32 on the CPU without a copy of it: each layer's weights come over while it runs, and go again."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

# Of a head with 150,000 rows so many are in float32 at a time.
_ROWS = 8192


@contextlib.contextmanager
def float32_on_cpu(model: Any) -> Iterator[None]:
    """Inside, `model` takes CPU tensors and computes in float32 on the CPU, wherever its weights are and whatever their dtype.

    The extra memory is one layer's weights in float32, of a head or an embedding only a part. Weights and buffers are the same
    objects with the same bits afterwards, also after an error. Under `torch.no_grad()` only.
    """
    away: dict[int, list] = {}
    handles, placed = [], []

    def come(module: Any, inputs: tuple) -> tuple:
        away[id(module)] = _to_cpu(module)
        # LoRA casts what it reads to the dtype that its weights have while they are away.
        return tuple(x.float() if getattr(x, "is_floating_point", bool)() else x for x in inputs)

    def go(module: Any, inputs: tuple, output: Any) -> None:
        _restore(away.pop(id(module), []))

    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)  # accelerate's, on a quantised model: sends every layer's input to its device
        if hasattr(hook, "execution_device"):
            placed.append((hook, hook.execution_device))
            hook.execution_device = "cpu"
        if forward := _replacement(module):
            handles.append(_Replaced(module, forward))
        elif _own(module):
            handles += [module.register_forward_pre_hook(come), module.register_forward_hook(go)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for moved in away.values():
            _restore(moved)
        for hook, device in placed:
            hook.execution_device = device


class _Replaced:
    """A layer with another forward until `remove`."""

    def __init__(self, module: Any, forward: Any):
        self.module, self.own = module, module.__dict__.get("forward")  # accelerate may have put its own there
        module.forward = functools.partial(forward, module)

    def remove(self) -> None:
        if self.own is None:
            del self.module.forward
        else:
            self.module.forward = self.own


def _replacement(module: Any) -> Any:
    """A forward for the large kinds of layers that needs less than the whole weight in float32; None for all others."""
    from torch import nn

    if hasattr(getattr(module, "weight", None), "quant_state"):
        return _four_bit
    return {nn.Linear: _linear, nn.Embedding: _embedding}.get(type(module))


def _four_bit(module: Any, x: Any) -> Any:
    from bitsandbytes.functional import dequantize_4bit
    from torch.nn.functional import linear

    weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
    return linear(x.float(), weight.cpu().float(), None if module.bias is None else module.bias.cpu().float())


def _linear(module: Any, x: Any) -> Any:
    import torch

    x = x.float()
    outputs = torch.empty(
        *x.shape[:-1], module.weight.shape[0]
    )  # made first: between the parts it would keep their memory from reuse
    for start in range(0, module.weight.shape[0], _ROWS):
        outputs[..., start : start + _ROWS] = x @ module.weight[start : start + _ROWS].cpu().float().T
    return outputs if module.bias is None else outputs + module.bias.cpu().float()


def _embedding(module: Any, ids: Any) -> Any:
    return module.weight[ids.to(module.weight.device)].cpu().float()


def _own(module: Any) -> list[Any]:
    """The weights and buffers that the module's own forward reads."""
    from torch import nn

    owners = [module, *(child for child in module.children() if isinstance(child, nn.ParameterDict | nn.ParameterList))]
    tensors = [tensor for owner in owners for tensor in (*owner._parameters.values(), *owner._buffers.values())]
    return [tensor for tensor in tensors if tensor is not None]


def _to_cpu(module: Any) -> list[tuple[Any, Any]]:
    """Swaps the contents of the module's tensors; returns (tensor, its own contents)."""
    moved = []
    for tensor in _own(module):
        moved.append((tensor, tensor.data))
        tensor.data = tensor.data.cpu().float() if tensor.is_floating_point() else tensor.data.cpu()
    return moved


def _restore(moved: list[tuple[Any, Any]]) -> None:
    for tensor, data in reversed(moved):
        tensor.data = data
