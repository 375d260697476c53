"""A model of any precision computed in float32 on the CPU, a layer at a time."""

from types import SimpleNamespace

import pytest
import torch

from adslm_helpers.models.tiny import build_model
from adslm_helpers.training.float32_on_cpu import float32_on_cpu

from .conftest import SMALL

IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture
def half(tokenizer):
    """Tied embeddings, RoPE buffers, biases and norms: everything that has to come over."""
    return build_model(tokenizer, seed=3, **SMALL).bfloat16().eval()


def bits(model):
    return {name: (tensor.dtype, tensor.clone()) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def same(before, after):
    return before.keys() == after.keys() and all(
        before[name][0] == after[name][0] and torch.equal(before[name][1], after[name][1]) for name in before
    )


def test_it_is_the_same_function_as_a_float32_copy(half):
    before = bits(half)
    with torch.no_grad(), float32_on_cpu(half):
        logits = half(IDS).logits
    assert logits.dtype == torch.float32 and same(before, bits(half))
    with torch.no_grad():
        rounded = half(IDS).logits
        torch.testing.assert_close(logits, half.float()(IDS).logits, atol=1e-6, rtol=0)
    assert (logits - rounded).abs().max() > 1e-4, "not computed in bfloat16"


def test_an_error_inside_leaves_every_weight_where_it_was(half):
    before = bits(half)
    handle = half.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), torch.no_grad(), float32_on_cpu(half):
        half(IDS)
    handle.remove()
    assert same(before, bits(half))
    with torch.no_grad():
        assert half(IDS).logits.dtype == torch.bfloat16, "no hook of ours is left"


def test_accelerates_hooks_send_nothing_away_meanwhile(half):
    """On a quantised model every layer has one that moves its input to the GPU."""
    hook = SimpleNamespace(execution_device="cuda:0")
    half.model.layers[0]._hf_hook = hook
    with float32_on_cpu(half):
        assert hook.execution_device == "cpu"
    assert hook.execution_device == "cuda:0"


def test_an_adapter_comes_over_too(half):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(half, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    with torch.no_grad(), float32_on_cpu(model):
        logits = model(IDS).logits
    with torch.no_grad():
        torch.testing.assert_close(logits, model.float()(IDS).logits, atol=1e-6, rtol=0)
