"""The recipe: every mistake in it is said before anything is trained, with the field, the value and the nearest name."""

import ast
import dataclasses
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest

from adslm_helpers import recipe as module
from adslm_helpers import recipe_rules
from adslm_helpers.errors import RecipeError
from adslm_helpers.recipe import (
    EMBEDDED,
    DpoRecipe,
    default_preset,
    load_recipe,
    parse_overrides,
    preset_names,
    recipe_from_dict,
    try_first,
)

PRESETS = [
    "tiny", "apple_m1_16gb", "apple_m2_8gb", "colab_l4", "colab_quick", "colab_t4", "cpu", "gpu_80gb",
    "pg_4x24gb", "pg_8xa100", "pg_aggressive", "pg_conservative", "pg_medium", "smoke",
]  # fmt: skip


def test_the_presets_with_the_default_first():
    assert preset_names() == PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_recipe_that_can_fall_back_to_the_model_that_ships(name):
    recipe = load_recipe(name)
    assert recipe.preset == name and recipe.models[-1] == EMBEDDED and recipe.fallback
    assert recipe.max_prompt_length + recipe.max_new_tokens <= recipe.max_length  # what is written can also be scored


@pytest.mark.parametrize("name", PRESETS)
def test_hub_presets_ask_the_trade_questions_and_the_teaching_model_is_spared(name):
    recipe = load_recipe(name)
    assert recipe.ask_adtech_questions == (recipe.models[0] != EMBEDDED)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("colab_quick", {"models": "microsoft/DialoGPT-small", "num_train_epochs": 1.0, "per_device_train_batch_size": 1,
                         "gradient_accumulation_steps": 4, "learning_rate": 5e-6, "max_length": 128}),
        ("apple_m2_8gb", {"max_length": 512, "max_prompt_length": 256, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4,
                          "learning_rate": 5e-6, "beta": 0.1, "lora_r": 16, "lora_alpha": 32}),
        ("apple_m1_16gb", {"models": "SakanaAI/TinySwallow-1.5B-Instruct", "per_device_train_batch_size": 4, "learning_rate": 1e-6,
                           "beta": 0.5, "max_steps": 800, "save_steps": 100, "lora_r": 16, "lora_alpha": 32}),
    ],
)  # fmt: skip
def test_presets_that_were_agreed_on_keep_their_numbers_when_a_default_changes(name, expected):
    recipe = load_recipe(name)
    found = {key: getattr(recipe, key) for key in expected}
    assert found | ({"models": recipe.models[0]} if "models" in expected else {}) == expected
    if name != "colab_quick":
        assert recipe.lora_target_modules == ("q_proj", "k_proj", "v_proj", "o_proj")


def test_float16_weights_are_in_no_preset():
    """Qwen2 overflows to NaN in float16 (the embedded model and most presets are of that family)."""
    assert not [name for name in PRESETS if load_recipe(name).dtype == "float16"]


def test_the_default_preset_is_the_one_of_the_tests_only_in_tests(monkeypatch):
    monkeypatch.delenv("ADSLM_SMOKE", raising=False)
    assert default_preset() == "tiny"
    monkeypatch.setenv("ADSLM_SMOKE", "1")
    assert default_preset() == "smoke"


def test_overrides_win_over_the_preset_and_the_preset_over_the_defaults():
    assert (DpoRecipe().sft_weight, load_recipe("tiny").sft_weight, load_recipe("tiny", sft_weight=0.5).sft_weight) == (
        0.0,
        1.0,
        0.5,
    )


def test_the_users_model_is_tried_before_the_presets_own():
    assert load_recipe("tiny", "org/mine").models == ("org/mine", EMBEDDED)
    assert load_recipe("cpu", EMBEDDED).models[0] == EMBEDDED
    assert load_recipe("cpu", EMBEDDED).models.count(EMBEDDED) == 1
    for nothing in (None, ""):  # the parameter cell hands on MODEL = ""
        assert try_first(load_recipe("tiny"), nothing).models == (EMBEDDED,)


@pytest.mark.parametrize(("wrong", "meant"), [("colab_T4", "colab_t4"), ("tiney", "tiny")])
def test_an_unknown_preset_names_the_nearest(wrong, meant):
    with pytest.raises(RecipeError, match=f"'{meant}'\\?"):
        load_recipe(wrong)


def test_an_unknown_field_names_the_nearest_wherever_it_comes_from():
    for attempt in (
        lambda: load_recipe("tiny", learning_rat=1),
        lambda: recipe_from_dict({"betta": 1}),
        lambda: parse_overrides(["lr=1"]),
    ):
        with pytest.raises(RecipeError, match="has no field"):
            attempt()
    with pytest.raises(RecipeError, match="'learning_rate'\\?"):
        load_recipe("tiny", learning_rat=1)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("learning_rate", "5e-6", 5e-6),  # YAML 1.1 reads 5e-6 as text
        ("beta", 1, 1.0),
        ("max_steps", "20", 20),
        ("max_steps", 20.0, 20),
        ("load_in_4bit", "True", True),
        ("fallback", "no", False),
        ("models", "a/b, c", ("a/b", "c")),
        ("models", ["a"], ("a",)),
        ("loss_type", "ipo", "ipo"),
    ],
)
def test_values_are_read_as_the_field_asks(field, text, value):
    found = getattr(recipe_from_dict({field: text}), field)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", "fast"), ("learning_rate", math.nan), ("learning_rate", "inf"), ("learning_rate", True), ("learning_rate", None),
        ("max_steps", 1.5), ("max_steps", "1.5"), ("max_steps", True), ("seed", math.inf), ("load_in_4bit", "maybe"), ("load_in_4bit", 1),
        ("models", [1]), ("models", None), ("loss_type", 3), ("lora_r", [16]),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_refused_by_name(field, value):
    with pytest.raises(RecipeError, match=field):
        recipe_from_dict({field: value})


@pytest.mark.parametrize(
    "values",
    [
        {"beta": 0}, {"learning_rate": 0}, {"learning_rate": 1.0}, {"eval_fraction": 0.6}, {"eval_fraction": 0}, {"lora_r": 0}, {"seed": -1},
        {"lora_dropout": 0.6}, {"temperature": -0.1}, {"top_p": 0}, {"max_steps": 0}, {"max_steps": -2}, {"label_smoothing": 0.5},
        {"max_length": 128, "max_prompt_length": 128}, {"models": ""}, {"loss_type": "kto"}, {"dtype": "int8"}, {"device": "tpu"},
        {"lr_scheduler_type": "cosin"}, {"loss_type": "sigmoid", "label_smoothing": 0.1}, {"samples_per_prompt": 0},
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_with_the_way_out(values):
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict(values)
    field = list(values)[-1]
    assert field in caught.value.ja and field in caught.value.en and "→" in caught.value.ja and "->" in caught.value.en


def test_every_number_has_a_range():
    """A new dial without a range would let -1 through to the trainer."""
    numbers = {name for name, hint in module._HINTS.items() if hint in (int, float)}
    assert numbers - set(recipe_rules.RANGES) == {"max_steps", "needs_memory_gb"}


def test_label_smoothing_belongs_to_the_robust_loss():
    assert recipe_from_dict({"loss_type": "robust", "label_smoothing": 0.1}).label_smoothing == 0.1


def test_a_recipe_comes_back_from_its_file():
    recipe = load_recipe("apple_m2_8gb", "org/mine", beta="0.3")
    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.to_dict().keys() == {field.name for field in dataclasses.fields(DpoRecipe)}


def test_a_recipe_cannot_be_changed_and_a_changed_copy_is_checked_again():
    recipe = load_recipe("tiny")
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.beta = 0.2
    with pytest.raises(RecipeError):
        dataclasses.replace(recipe, beta=-1)


def test_differences_are_those_from_the_defaults():
    assert DpoRecipe().differences() == {}
    assert recipe_from_dict({"beta": 0.3, "seed": 42}).differences() == {"beta": 0.3}


def test_overrides_of_the_command_line():
    assert parse_overrides(["beta=0.3", " models = a,b "]) == {"beta": "0.3", "models": "a,b"}
    assert parse_overrides(["models=path/with=sign"]) == {"models": "path/with=sign"}
    assert load_recipe("tiny", None, **parse_overrides(["beta=0.3", "max_steps=7"])).max_steps == 7
    with pytest.raises(RecipeError, match="field=value"):
        parse_overrides(["beta"])


@pytest.mark.parametrize("pair", ["preset=smoke", "model=org/mine"])
def test_set_does_not_collide_with_the_options_of_that_name(pair):
    """Both are arguments of load_recipe: handed on as overrides they end in a TypeError and its traceback."""
    with pytest.raises(RecipeError):
        parse_overrides([pair])


def test_every_dial_is_explained_under_its_name():
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "DpoRecipe")
    bare = [
        node.target.id
        for node, after in pairwise(body)
        if isinstance(node, ast.AnnAssign) and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant))
    ]
    assert not bare
