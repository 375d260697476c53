"""What is known of a model before its download: counts by hand, targets by architecture, which configs are no causal LM."""

from types import SimpleNamespace

import pytest

from adslm_helpers.models.catalog import CATALOG, ModelFacts, facts_from_config, is_causal, lora_targets
from adslm_helpers.models.templates import TEMPLATES
from adslm_helpers.recipe import load_recipe, preset_names


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304),
        ("google/gemma-2b-it", 2_506_172_416),
        ("tokyotech-llm/Llama-3-Swallow-8B-Instruct-v0.1", 8_030_261_248),
        ("rinna/japanese-gpt2-medium", 336_128_000),
        ("microsoft/DialoGPT-small", 124_439_808),
    ],
)
def test_counts_from_the_shape_are_the_published_ones(name, published):
    assert CATALOG[name].parameters == published


def test_a_gpt2_layer_by_hand():
    """Width 8: c_attn 8*24+24, c_proj 8*8+8, c_fc 8*32+32, c_proj 32*8+8, two norms of 16; 10 words, 4 positions, last norm 16."""
    facts = ModelFacts("gpt2", 8, 1, 32, 10, 2, 2, 4, positions=4)
    assert facts.parameters == (192 + 24) + (64 + 8) + (256 + 32) + (256 + 8) + 32 + 80 + 32 + 16
    # LoRA of rank 2 on c_attn (8 -> 24), and on both modules named c_proj (8 -> 8, 32 -> 8).
    assert facts.lora_parameters(2) == 2 * (32 + 16 + 40)


def test_grouped_heads_make_small_keys_and_values():
    facts = CATALOG["Qwen/Qwen2.5-0.5B-Instruct"]
    assert facts.linears["k_proj"] == (896, 128) and facts.linears["q_proj"] == (896, 896)
    assert facts.lora_parameters(16) == 24 * 16 * (2 * (896 + 896) + 2 * (896 + 128))


def test_another_architectures_attention_means_this_ones():
    """The Mac presets name q_proj...; the GPT-2 models further down their lists have c_attn."""
    llama = ("q_proj", "k_proj", "v_proj", "o_proj")
    assert lora_targets("gpt2", llama) == lora_targets("gpt2") == ("c_attn", "c_proj")
    assert lora_targets("gpt_neox", llama) == ("query_key_value", "dense")
    assert lora_targets("qwen2", ("gate_proj",)) == ("gate_proj",)  # the user's own choice stays
    assert lora_targets("qwen2", ("q_proj",)) == ("q_proj",)
    assert lora_targets("unheard_of") == llama


def test_every_model_of_every_preset_is_known():
    missing = {name for preset in preset_names() for name in load_recipe(preset).models} - set(CATALOG)
    assert not missing


def test_models_without_a_template_of_their_own_get_one():
    without = {name for name, facts in CATALOG.items() if not facts.chat_template}
    assert set(TEMPLATES) <= without


def test_a_parsed_config_without_defaults_is_read_by_its_architecture():
    """config.json holds only what differs from the defaults: Gemma's embeddings are tied, Llama's are not."""
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 10}
    assert facts_from_config(SimpleNamespace(model_type="gemma", **shape)).tied
    assert not facts_from_config(SimpleNamespace(model_type="llama", **shape)).tied


@pytest.mark.parametrize(
    ("values", "causal"),
    [
        ({"architectures": ["Qwen2ForCausalLM"]}, True),
        ({"architectures": ["GPT2LMHeadModel"]}, True),
        ({}, True),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, False),
        ({"is_encoder_decoder": True}, False),
        ({"architectures": ["BertForMaskedLM"]}, False),
        ({"architectures": ["Qwen2VLForConditionalGeneration"]}, False),
    ],
)
def test_only_models_that_continue_a_text_are_taken(values, causal):
    assert is_causal(SimpleNamespace(**values)) == causal
