"""A model computed in float32 on the CPU without a copy of it: each layer's weights come over while it runs, and go again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def float32_on_cpu(model: Any) -> Iterator[None]:
    """Inside, `model` takes CPU tensors and computes in float32 on the CPU, wherever its weights are and whatever their dtype.

    The extra memory is one layer's weights in float32. Weights and buffers are the same objects with the same bits afterwards, also
    after an error. Under `torch.no_grad()` only.
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
        if hasattr(getattr(module, "weight", None), "quant_state"):
            handles.append(_Replaced(module))
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
    """A 4-bit layer that multiplies with its dequantised weights."""

    def __init__(self, module: Any):
        self.module = module
        self.forward = module.__dict__.get("forward")  # accelerate may have put its own there
        module.forward = self._forward

    def _forward(self, x: Any) -> Any:
        from bitsandbytes.functional import dequantize_4bit
        from torch.nn.functional import linear

        weight = dequantize_4bit(self.module.weight.data, self.module.weight.quant_state)
        bias = self.module.bias
        return linear(x, weight.cpu().float(), None if bias is None else bias.cpu().float())

    def remove(self) -> None:
        if self.forward is None:
            del self.module.forward
        else:
            self.module.forward = self.forward


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
