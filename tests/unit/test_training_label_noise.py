"""What the pairs know of their own labels reaches the loss, and nothing else does."""

import pytest

from adslm_helpers.errors import RecipeError, TrainingError
from adslm_helpers.recipe import load_recipe
from adslm_helpers.training.label_noise import with_label_noise


def test_the_smoothing_is_the_expected_share_of_wrong_labels():
    recipe, words = with_label_noise(load_recipe(use_p_win=True), [{"p_win": 0.95}, {"p_win": 0.99}])
    assert (recipe.loss_type, recipe.label_smoothing) == ("robust", 0.03) and "3.0%" in words[0]


def test_without_the_switch_nothing_changes():
    recipe = load_recipe()
    assert with_label_noise(recipe, [{"p_win": 0.6}]) == (recipe, [])


def test_coin_flips_stay_below_one_half():
    recipe, _ = with_label_noise(load_recipe(use_p_win=True), [{"p_win": 0.5}])
    assert recipe.label_smoothing == 0.499


@pytest.mark.parametrize("row", [{}, {"p_win": "0.9"}, {"p_win": 0.2}, {"p_win": float("nan")}])
def test_a_row_that_does_not_know_is_named(row):
    with pytest.raises(TrainingError, match=r"row 2"):
        with_label_noise(load_recipe(use_p_win=True), [{"p_win": 0.9}, row])


def test_it_does_not_go_with_a_loss_that_ignores_it():
    with pytest.raises(RecipeError, match="use_p_win"):
        load_recipe(use_p_win=True, loss_type="ipo")
