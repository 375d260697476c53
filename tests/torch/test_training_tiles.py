"""Small tiles: less memory, the same numbers; a TRL without them is left alone."""

import sys
from types import ModuleType

import pytest
import torch

from adslm_helpers.models.memory import SMALL_TILES
from adslm_helpers.models.tiny import build_model
from adslm_helpers.training.tiles import use_small_tiles

from .conftest import SMALL

KERNEL, UTILS = "trl.kernels.chunked_logprob", "trl.trainer.utils"


@pytest.fixture
def trl_settings(monkeypatch):
    """The two modules of TRL, their settings put back afterwards."""
    kernel, utils = pytest.importorskip(KERNEL), pytest.importorskip(UTILS)
    monkeypatch.setattr(kernel, "TOKEN_CHUNK_SIZE", 4096)
    monkeypatch.setattr(utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", 32768)
    return kernel, utils


def scored(tokenizer):
    """(log-probabilities, gradient) of 3 x 700 tokens over 9,000 words: five tiles of tokens, three of words."""
    from trl.trainer.utils import add_fused_lm_head

    model = build_model(tokenizer, seed=3, **SMALL)
    model.resize_token_embeddings(9000)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    ids = torch.randint(0, 9000, (3, 700), generator=torch.Generator().manual_seed(1))
    output = model(input_ids=ids, labels=ids, fused_lm_head=True)
    output.log_probs.sum().backward()
    return output.log_probs.detach(), model.model.layers[0].self_attn.q_proj.weight.grad


def test_the_numbers_stay_the_same_to_one_in_a_million(trl_settings, tokenizer):
    kernel, utils = trl_settings
    logps, gradient = scored(tokenizer)
    assert use_small_tiles("cpu")
    assert (kernel.TOKEN_CHUNK_SIZE, utils._CHUNKED_LOGPROB_CHUNK_SIZE) == SMALL_TILES
    small_logps, small_gradient = scored(tokenizer)
    torch.testing.assert_close(small_logps, logps, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(small_gradient, gradient, rtol=1e-5, atol=1e-6 * gradient.abs().max().item())


def test_a_gpu_kernel_keeps_its_large_tiles(trl_settings):
    kernel, utils = trl_settings
    assert not use_small_tiles("cuda")
    assert (kernel.TOKEN_CHUNK_SIZE, utils._CHUNKED_LOGPROB_CHUNK_SIZE) == (4096, 32768)


def test_tiles_that_are_smaller_already_stay(trl_settings):
    kernel, _ = trl_settings
    kernel.TOKEN_CHUNK_SIZE = 128
    assert use_small_tiles("mps") and kernel.TOKEN_CHUNK_SIZE == 128


def test_a_trl_with_neither_setting_is_left_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, KERNEL, ModuleType(KERNEL))
    monkeypatch.setitem(sys.modules, UTILS, ModuleType(UTILS))
    assert not use_small_tiles("cpu")
    assert not hasattr(sys.modules[KERNEL], "TOKEN_CHUNK_SIZE")
