"""What the pairs know of their own labels reaches the loss, and nothing else does."""

import pytest

from adslm_helpers.errors import RecipeError, TrainingError
from adslm_helpers.recipe import load_recipe
from adslm_helpers.training.label_noise import pair_weights, with_label_noise


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


# --- weight_by_p_win: each pair counts by how sure its label is ----------------------------------------------------------


def weighing():
    return load_recipe(weight_by_p_win=True, engine="fast")


def test_weights_are_of_the_pairs_that_were_kept_and_average_one():
    """Rows that cannot be encoded shift every later pair: weights taken by position would go to other pairs."""
    rows = [{"p_win": 0.5}, {"p_win": 0.75}, {"p_win": 0.6}, {"p_win": 1.0}]
    assert pair_weights(weighing(), rows, kept=[0, 1, 3]) == pytest.approx([0.0, 1.0, 2.0])


def test_pairs_that_are_equally_sure_count_as_without_weights():
    assert pair_weights(weighing(), [{"p_win": 0.7}] * 3, kept=[0, 1, 2]) == pytest.approx([1.0] * 3)


def test_without_the_switch_there_are_no_weights():
    assert pair_weights(load_recipe(), [{}], kept=[0]) is None


def test_coin_flips_alone_teach_nothing_and_that_is_said():
    with pytest.raises(TrainingError, match=r"0\.5 for every pair"):
        pair_weights(weighing(), [{"p_win": 0.5}, {"p_win": 0.9}], kept=[0])


@pytest.mark.parametrize("row", [{}, {"p_win": None}, {"p_win": 0.49}, {"p_win": float("nan")}])
def test_a_row_without_a_probability_is_named_by_the_switch_that_wants_it(row):
    with pytest.raises(TrainingError, match=r"weight_by_p_win = true, but p_win of training row 2"):
        pair_weights(weighing(), [{"p_win": 0.9}, row], kept=[0])
