"""The memory plan: the estimate that decides what is downloaded at all."""

import pytest

from adslm_helpers.models.catalog import CATALOG, ModelFacts
from adslm_helpers.models.memory import GIB, plan_memory
from adslm_helpers.recipe import load_recipe, preset_names

DTYPES = {"colab_t4": "float32", "colab_l4": "bfloat16", "apple_m1_16gb": "float32", "apple_m2_8gb": "float32"}


@pytest.mark.parametrize("preset", preset_names())
def test_the_first_model_of_a_preset_fits_into_what_the_preset_asks_for(preset):
    recipe = load_recipe(preset)
    plan = plan_memory(CATALOG[recipe.models[0]], recipe, DTYPES.get(preset, "float32"))
    assert plan.total <= recipe.needs_memory_gb, plan


def test_gemma_2b_in_16_bit_does_not_fit_an_8_gb_mac():
    """The setting that swapped for hours: 16-bit weights alone are 4.7 GiB of the 5.3 that such a Mac hands out."""
    recipe = load_recipe("apple_m2_8gb", models="google/gemma-2b-it")
    assert plan_memory(CATALOG["google/gemma-2b-it"], recipe, "bfloat16").total > 5.3


def test_parts_by_hand():
    """1,000 weights of 4 bytes; 2 x 1 x 16 tokens; two layers of width 8, MLP 16: (6*8 + 4*16) * 4 = 448 bytes a token and layer."""
    recipe = load_recipe("tiny", per_device_train_batch_size=1, max_length=16, max_prompt_length=8, lora_r=2)
    plan = plan_memory(ModelFacts(1000, 8, 2, 16, 10), recipe, "float32")
    assert plan.weights == pytest.approx(4000 / GIB)
    assert plan.activations == pytest.approx(2 * 32 * 448 / GIB)
    assert plan.lora == pytest.approx(16 * 2 * 4 * 2 * 8 * 2 / GIB)
    assert plan.head == pytest.approx(1.5 * 32 * 448 / GIB)


def test_checkpointing_and_4_bit_save_what_they_are_for():
    facts, recipe = CATALOG["Qwen/Qwen2.5-1.5B-Instruct"], load_recipe("cpu")
    plain = plan_memory(facts, recipe, "float32")
    assert plan_memory(facts, load_recipe("cpu", gradient_checkpointing=True), "float32").activations < plain.activations / 5
    assert plan_memory(facts, load_recipe("cpu", load_in_4bit=True), "float32").weights < plain.weights / 3
