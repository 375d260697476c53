"""Intervals: exact means, the same numbers every time, and no false certainty from several answers to one prompt."""

import math

import numpy as np
import pytest

from adslm_helpers.evaluation import intervals
from adslm_helpers.evaluation.intervals import (
    by_prompt,
    mean_with_interval,
    ratio_with_interval,
    two_sided_sign_test,
    with_interval,
)


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


def test_a_ratio_weighs_each_group_by_its_size():
    """10 nats on 10 tokens and 2 on 1: 12 / 11, not the mean of 1 and 2; the ends are the two ratios themselves."""
    ratio, ends = ratio_with_interval([10, 2], [10, 1], ["a", "b"])
    assert ratio == pytest.approx(12 / 11) and ends == [1.0, 2.0]


def test_drawing_in_pieces_gives_the_same_interval(monkeypatch):
    """A hundred thousand held-out prompts at once would take gigabytes."""
    values = [n % 7 for n in range(300)]
    whole = mean_with_interval(values, range(300))
    monkeypatch.setattr(intervals, "_AT_ONCE", 3000)
    assert mean_with_interval(values, range(300)) == whole


def test_nothing_measured_is_none_and_not_zero():
    assert with_interval("x", [], []) == {"x": None, "x_ci95": None}
    assert with_interval("x", [1.0, 0.0], ["a", "a"]) == {"x": 0.5, "x_ci95": [0.5, 0.5]}


def test_two_answers_to_a_prompt_vote_together():
    scores, prompts = [1, 1, 1, -1, 0, 1, -1, 0], ["a", "a", "b", "b", "c", "c", "d", "d"]
    assert by_prompt(scores, prompts) == (2, 1, 1)


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (3, 3, 1.0),
        (5, 0, 2 / 32),
        (0, 6, 2 / 64),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
    ],
)
def test_the_sign_test_by_hand(wins, losses, p):
    """8 of 10: C(10,8) + C(10,9) + C(10,10) = 45 + 10 + 1 of 1024, twice."""
    assert two_sided_sign_test(wins, losses) == pytest.approx(p, rel=1e-12)


def test_the_sign_test_agrees_with_the_sum_of_all_terms_and_takes_thousands():
    for n in (1, 2, 7, 31, 60):
        for wins in range(n + 1):
            tail = sum(math.comb(n, k) for k in range(max(wins, n - wins), n + 1))
            assert two_sided_sign_test(wins, n - wins) == pytest.approx(min(1, 2 * tail / 2**n), rel=1e-12)
    assert two_sided_sign_test(5000, 5000) == 1.0 and 0 <= two_sided_sign_test(9000, 0) < 1e-300


def test_about_one_in_twenty_tests_of_nothing_is_called_something():
    """The exact test may call less, never more."""
    rng = np.random.default_rng(1)
    called = sum(two_sided_sign_test(wins, 60 - wins) < 0.05 for wins in rng.binomial(60, 0.5, 2000).tolist())
    assert 0.02 < called / 2000 < 0.055
