"""The guide's environment variables: overrides where TRAINING_MODE is set, words for all the others, and a stray ALPHA changes nothing."""

import pytest

from adslm_helpers.errors import RecipeError
from adslm_helpers.guide_variables import FIELDS, INSTEAD, MODELS, guide_overrides
from adslm_helpers.preference_text import PREFERENCE_TEXT
from adslm_helpers.recipe import load_recipe, preset_names
from adslm_helpers.training.few_steps import few_steps

GUIDED = [name for name in preset_names() if name.startswith("pg_")]
GUIDE = {
    "TRAINING_MODE": "text", "PREFERENCE_TEXT": "丁寧に書いてください。", "BETA": "0.05", "ALPHA": "0.1", "LEARNING_RATE": "5e-4", "NUM_EPOCHS": "1",
    "GRADIENT_ACCUM_STEPS": "512", "LORA_R": "16", "LORA_ALPHA": "32", "LORA_DROPOUT": "0.1", "MAX_LENGTH": "300", "MAX_PROMPT_LENGTH": "128",
}  # fmt: skip


def test_every_knob_of_the_guide_reaches_its_field_of_the_recipe():
    found = guide_overrides(GUIDE)
    recipe = load_recipe("tiny", found.model, **found.values)
    assert (recipe.method, recipe.engine, recipe.preference_text) == ("preference_guided", "fast", "丁寧に書いてください。")
    assert (recipe.beta, recipe.alpha, recipe.learning_rate, recipe.num_train_epochs) == (0.05, 0.1, 5e-4, 1.0)
    assert (recipe.gradient_accumulation_steps, recipe.max_length, recipe.max_prompt_length) == (512, 300, 128)
    assert (recipe.lora_r, recipe.lora_alpha, recipe.lora_dropout) == (16, 32, 0.1)
    for name in GUIDE:
        assert sum(line.startswith(f"{name} ") for line in found.lines) == 1, name  # said once, in one line
    assert not [line for line in found.lines if "\n" in line]


def test_without_a_training_mode_nobodys_variables_change_a_training():
    """ALPHA, BETA and SEED may be anybody's."""
    stray = {name: value for name, value in GUIDE.items() if name != "TRAINING_MODE"} | {"SEED": "7", "MODEL_NAME": "x/y"}
    assert guide_overrides(stray).values == {} and guide_overrides(stray).lines == [] and guide_overrides(stray).model == ""
    assert guide_overrides({**stray, "TRAINING_MODE": " "}).values == {}
    assert guide_overrides({"ALPHA": "no number"}).values == {}


def test_the_mode_decides_where_the_instruction_comes_from():
    text = guide_overrides({"TRAINING_MODE": "TEXT", "PROMPT_EMBEDDING_PATH": "e.pt"})
    assert (text.values["preference_text"], text.values["prompt_embeddings"]) == (PREFERENCE_TEXT, "")
    learned = guide_overrides({"TRAINING_MODE": "embedding", "PREFERENCE_TEXT": "x"})
    assert (learned.values["preference_text"], learned.values["prompt_embeddings"]) == ("", "prompt_embeddings.pt")
    for found, unread in ((text, "PROMPT_EMBEDDING_PATH"), (learned, "PREFERENCE_TEXT")):
        assert any(line.startswith(unread) and "not read" in line for line in found.lines)
        load_recipe("tiny", **found.values)


def test_what_is_asked_for_on_the_command_line_wins():
    guide = guide_overrides({**GUIDE, "TRAINING_MODE": "text"})
    assert guide.below({"beta": "0.3"})["beta"] == "0.3" and guide.below({})["beta"] == 0.05
    recipe = load_recipe(
        "tiny", **guide.below({"prompt_embeddings": "mine.pt"})
    )  # with the text of the variable both would be given
    assert (recipe.prompt_embeddings, recipe.preference_text) == ("mine.pt", "")


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_wrong_value_names_the_variable(name):
    for wrong in ("many", "-5", "1e99", "nan"):
        with pytest.raises(RecipeError) as caught:
            guide_overrides({"TRAINING_MODE": "text", name: wrong})
        assert name in caught.value.ja and name in caught.value.en and "→" in caught.value.ja and "->" in caught.value.en


@pytest.mark.parametrize("mode", ["dpo", "texts", "１", "text embedding"])
def test_an_unknown_mode_names_both(mode):
    with pytest.raises(RecipeError, match=r"TRAINING_MODE.*text or embedding"):
        guide_overrides({"TRAINING_MODE": mode})


def test_two_variables_for_one_field_must_agree():
    both = {"TRAINING_MODE": "text", "GRADIENT_ACCUM_STEPS": "8", "GRADIENT_ACCUMULATION_STEPS": "8"}
    assert guide_overrides(both).values["gradient_accumulation_steps"] == 8
    with pytest.raises(RecipeError, match="GRADIENT_ACCUMULATION_STEPS"):
        guide_overrides({**both, "GRADIENT_ACCUMULATION_STEPS": "4"})
    with pytest.raises(RecipeError, match="MODEL_PATH"):
        guide_overrides({"TRAINING_MODE": "text", "MODEL_NAME": "a/b", "MODEL_PATH": "c/d"})


@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_tried_first(name):
    found = guide_overrides({"TRAINING_MODE": "text", name: "Qwen/Qwen2.5-1.5B-Instruct"})
    assert load_recipe("tiny", found.model, **found.values).models == ("Qwen/Qwen2.5-1.5B-Instruct", "embedded-tiny")


@pytest.mark.parametrize("name", sorted(INSTEAD))
def test_what_has_no_counterpart_is_said_with_what_to_use(name):
    lines = guide_overrides({"TRAINING_MODE": "text", name: "x"}).lines
    assert [line for line in lines if line.startswith(f"{name}:") and "no counterpart" in line]


def test_the_variable_that_torch_ignores_is_named_with_the_one_it_reads():
    for mode in ({}, {"TRAINING_MODE": "text"}):
        lines = guide_overrides({**mode, "CUDA_ALLOC_CONF": "expandable_segments:True"}).lines
        assert "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in lines[0]


def test_a_token_in_a_value_is_not_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwx")
    found = guide_overrides({"TRAINING_MODE": "text", "PREFERENCE_TEXT": "hf_abcdefghijklmnopqrstuvwx \x1b[31m"})
    assert "hf_abc" not in "".join(found.lines) and "\x1b" not in "".join(found.lines)


# --- the presets -----------------------------------------------------------------------------------------------------


def test_the_presets_of_the_guide_hold_its_numbers():
    numbers = {
        name: (load_recipe(name).beta, load_recipe(name).alpha) for name in ("pg_conservative", "pg_medium", "pg_aggressive")
    }
    assert numbers == {"pg_conservative": (0.01, 0.05), "pg_medium": (0.05, 0.1), "pg_aggressive": (0.1, 0.2)}
    small, large = load_recipe("pg_4x24gb"), load_recipe("pg_8xa100")
    assert (small.gradient_accumulation_steps, small.max_length, small.max_prompt_length, small.lora_r) == (512, 300, 128, 16)
    assert (small.learning_rate, small.lora_dropout, small.num_train_epochs) == (5e-4, 0.1, 1.0)
    assert (large.gradient_accumulation_steps, large.max_length, large.lora_r) == (256, 512, 32)


@pytest.mark.parametrize("name", GUIDED)
def test_every_preset_of_the_guide_is_guided_by_the_one_text(name):
    recipe = load_recipe(name)
    assert (recipe.method, recipe.engine, recipe.preference_text) == ("preference_guided", "fast", PREFERENCE_TEXT)
    assert recipe.models[0] == "Qwen/Qwen2.5-1.5B-Instruct"


def test_a_large_batch_on_few_pairs_is_warned_of_with_numbers_that_help():
    recipe = load_recipe("pg_4x24gb")
    (line,) = few_steps(recipe, 850)
    assert line.startswith("【注意】学習の対は 850 組、実効バッチは 512") and "make 2 steps" in line
    assert line.count("--set gradient_accumulation_steps=85 ") == 2
    assert few_steps(load_recipe("pg_4x24gb", gradient_accumulation_steps=85), 850) == []  # what it says makes 10
    assert few_steps(recipe, 512 * 10) == []
    assert few_steps(load_recipe("smoke"), 10) == []  # steps that were asked for


def test_where_the_pairs_are_too_few_for_any_batch_more_epochs_are_advised():
    recipe = load_recipe("tiny")
    assert "num_train_epochs=5 " in few_steps(recipe, 16)[0]
    assert few_steps(load_recipe("tiny", num_train_epochs=5), 16) == []
