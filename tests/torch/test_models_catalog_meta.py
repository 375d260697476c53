"""Counts from the shape alone against real models on the meta device, where weights have a shape and no memory."""

import pytest
import torch

from adslm_helpers.models.catalog import CATALOG, LORA_TARGETS, facts_from_config
from adslm_helpers.models.loading import lora_config
from adslm_helpers.models.memory import weight_bytes
from adslm_helpers.recipe import load_recipe

SHAPES = {
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 32},
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "mistral": {"num_key_value_heads": 2},
    "gemma": {"num_key_value_heads": 1, "head_dim": 32},
    "gemma2": {"num_key_value_heads": 1, "head_dim": 32},
    "gpt_neox": {"tie_word_embeddings": False},
    "gpt2": {},
}


def model_of(kind, **shape):
    from transformers import AutoConfig, AutoModelForCausalLM

    width = {"n_inner" if kind == "gpt2" else "intermediate_size": 160}
    config = AutoConfig.for_model(
        kind, **{"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 100, "bos_token_id": 1,
                 "eos_token_id": 2, "pad_token_id": 0, **width, **shape},
    )  # fmt: skip
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("kind", SHAPES)
def test_every_weight_is_counted(kind):
    model = model_of(kind, **SHAPES[kind])
    facts = facts_from_config(model.config)
    assert facts.parameters == sum(p.numel() for p in model.parameters())
    assert weight_bytes(facts, False, 4) == 4 * facts.parameters


def test_llama_with_biases():
    model = model_of("llama", attention_bias=True)
    assert facts_from_config(model.config).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", [name for name, facts in CATALOG.items() if facts.architecture != "gpt2"])
def test_the_catalogue_is_the_real_thing_at_full_size(name):
    facts = CATALOG[name]
    model = model_of(
        facts.architecture, hidden_size=facts.hidden, num_hidden_layers=facts.layers, intermediate_size=facts.intermediate,
        vocab_size=facts.vocabulary, num_attention_heads=facts.heads, num_key_value_heads=facts.kv_heads, head_dim=facts.head_dim,
        tie_word_embeddings=facts.tied,
    )  # fmt: skip
    counted = sum(p.numel() for p in model.parameters())
    assert facts.parameters == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize("kind", SHAPES)
def test_lora_is_counted_on_each_architecture_by_its_own_names(kind):
    from peft import get_peft_model

    model = model_of(kind, **SHAPES[kind])
    facts = facts_from_config(model.config)
    for targets in ("auto", "q_proj,k_proj,v_proj,o_proj"):  # as the Mac presets say, GPT-2 included
        recipe = load_recipe("tiny", lora_target_modules=targets, lora_r=4)
        config = lora_config(recipe, model)
        assert set(config.target_modules) == set(LORA_TARGETS[kind])
        with torch.device("meta"):
            adapted = get_peft_model(model_of(kind, **SHAPES[kind]), config)
        trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        assert facts.lora_parameters(4, recipe.lora_target_modules) == trainable
