"""Intervals: exact means, the same numbers every time, and no false certainty from several answers to one prompt."""

import math

import numpy as np
import pytest

from adslm_helpers.evaluation.intervals import mean_with_interval


def test_the_mean_is_that_of_the_values_not_of_the_groups():
    """Values 1, 1, 1 in one group and 0 in the other: 3/4, not the mean of the group means 1/2."""
    mean, (low, high) = mean_with_interval([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert mean == 0.75 and (low, high) == (0.0, 1.0)


def test_the_same_seed_gives_the_same_interval_and_another_seed_nearly_the_same():
    values, groups = [n % 3 for n in range(90)], list(range(90))
    first = mean_with_interval(values, groups, seed=1)
    assert first == mean_with_interval(values, groups, seed=1)
    other = mean_with_interval(values, groups, seed=2)
    assert other[0] == first[0] and other[1] == pytest.approx(first[1], abs=0.03)


def test_an_interval_of_independent_values_is_that_of_the_textbook():
    """Share 1/2 of 400: 1.96 * sqrt(0.25 / 400) = 0.049 to both sides."""
    mean, (low, high) = mean_with_interval([0, 1] * 200, range(400))
    assert (mean - low, high - mean) == (pytest.approx(0.049, abs=0.006), pytest.approx(0.049, abs=0.006))


def test_ten_answers_to_one_prompt_are_one_witness():
    """Drawing single answers would make the interval sqrt(10) times too narrow."""
    outcomes = [0, 1] * 20
    _, alone = mean_with_interval(outcomes, range(40))
    _, repeated = mean_with_interval([x for x in outcomes for _ in range(10)], [n for n in range(40) for _ in range(10)])
    assert repeated == pytest.approx(alone, abs=0.02)
    _, naive = mean_with_interval([x for x in outcomes for _ in range(10)], range(400))
    assert (repeated[1] - repeated[0]) / (naive[1] - naive[0]) == pytest.approx(math.sqrt(10), rel=0.15)


def test_about_95_of_100_intervals_hold_the_truth():
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(120):
        values = (rng.random(60) < 0.3).astype(float).tolist()
        _, (low, high) = mean_with_interval(values, range(60), seed=trial)
        held += low <= 0.3 <= high
    assert 0.87 <= held / 120 <= 1.0


def test_one_group_and_equal_values_give_no_width():
    assert mean_with_interval([1.0, 0.0], ["a", "a"]) == (0.5, [0.5, 0.5])
    assert mean_with_interval([0.25] * 8, range(8)) == (0.25, [0.25, 0.25])


def test_the_ends_are_plain_numbers_that_json_takes():
    mean, interval = mean_with_interval(np.array([True, False, True]), ["a", "b", "c"])
    assert type(mean) is float and [type(end) for end in interval] == [float, float]
    assert interval == [round(end, 4) for end in interval]


@pytest.mark.parametrize(("values", "groups"), [([], []), ([1.0], []), ([1.0], ["a", "b"])])
def test_nothing_and_a_mismatch_are_refused(values, groups):
    with pytest.raises(ValueError):
        mean_with_interval(values, groups)
