"""What a training does by itself: each rung once, in order, and the effective batch is never touched."""

from dataclasses import replace

import pytest

from adslm_helpers.environment.described import MACHINES
from adslm_helpers.environment.device import choose_device
from adslm_helpers.recipe import DpoRecipe
from adslm_helpers.training.remedies import after_not_finite, after_out_of_memory

RECIPE = DpoRecipe(
    models=("a/large", "a/small"),
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    per_device_eval_batch_size=4,
    max_length=256,
    max_prompt_length=200,
)


def ladder(recipe, phase, model):
    """Every rung in order, as if each were not enough."""
    while remedy := after_out_of_memory(recipe, phase, model):
        yield remedy
        recipe = remedy.recipe
        if remedy.kind == "next_model":
            model = recipe.models[0]


def test_the_whole_ladder_in_order():
    kinds = [remedy.kind for remedy in ladder(replace(RECIPE, allow_shorter=True), "training", "a/large")]
    assert kinds == ["half_batch"] * 2 + ["checkpointing"] + ["half_eval_batch"] * 2 + ["shorter"] * 2 + ["next_model"]


def test_shorter_texts_only_where_they_are_allowed_and_another_model_only_with_fallback():
    kinds = [remedy.kind for remedy in ladder(replace(RECIPE, fallback=False), "training", "a/large")]
    assert kinds == ["half_batch"] * 2 + ["checkpointing"] + ["half_eval_batch"] * 2


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 1), (3, 2), (5, 1), (8, 3), (6, 5), (1, 8)])
def test_the_effective_batch_stays(batch, accumulation):
    recipe = replace(RECIPE, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    for remedy in ladder(recipe, "training", "a/large"):
        assert remedy.recipe.per_device_train_batch_size * remedy.recipe.gradient_accumulation_steps == batch * accumulation


def test_an_evaluation_that_runs_out_leaves_the_training_batch_alone():
    kinds = [remedy.kind for remedy in ladder(RECIPE, "evaluation", "a/large")]
    assert kinds == ["half_eval_batch", "half_eval_batch", "next_model"]


def test_a_model_that_cannot_even_be_loaded_gives_way_to_the_next_one():
    assert after_out_of_memory(RECIPE, "loading", "a/large").recipe.models == ("a/small",)
    assert after_out_of_memory(RECIPE, "loading", "a/small") is None


@pytest.mark.parametrize(
    ("machine", "cause", "kind"),
    [
        ("colab-t4", "precision", "float32"),
        ("colab-a100", "once", "float32"),
        ("cpu-16gb", "once", "half_learning_rate"),
        ("colab-t4", "learning_rate", "half_learning_rate"),
        ("cpu-16gb", "weights", "half_learning_rate"),
        ("colab-a100", "data", None),
    ],
)
def test_the_precision_is_raised_where_it_may_be_to_blame_else_the_learning_rate_halved(machine, cause, kind):
    plan = choose_device(RECIPE, MACHINES[machine])
    remedy = after_not_finite(cause, RECIPE, plan)
    assert (remedy.kind if remedy else None) == kind


def test_float32_that_would_not_fit_is_not_chosen():
    plan = choose_device(RECIPE, MACHINES["colab-t4"])
    assert after_not_finite("precision", RECIPE, plan, float32_fits=False).kind == "half_learning_rate"


def test_changes_are_told_field_by_field():
    remedy = after_out_of_memory(RECIPE, "training", "a/large")
    assert remedy.changes(RECIPE) == {"per_device_train_batch_size": [4, 2], "gradient_accumulation_steps": [2, 4]}
