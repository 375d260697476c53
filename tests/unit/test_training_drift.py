"""Drift in the curves: each sign just beyond its limit, healthy curves left alone, nothing said twice."""

import math
from itertools import pairwise

import pytest

from adslm_helpers.training.drift import KL_LIMIT, find_drift, kl_alarm

BETA, TOKENS = 0.1, 10  # a reward of -1 is one nat a token
LN2 = math.log(2)


def rows(n=40, every=5, **curves):
    """Logs of a healthy run, each curve replaceable by a constant or a function of the share done (0-1)."""
    healthy = {
        "loss": lambda x: LN2 * (1 - 0.7 * x), "grad_norm": 0.5, "learning_rate": lambda x: 1e-4 * (10 * x if x < 0.1 else 1 - x), "rewards/chosen": lambda x: 0.3 * x,
        "rewards/rejected": lambda x: -1.5 * x, "rewards/margins": lambda x: 1.8 * x, "rewards/accuracies": lambda x: min(0.5 + x, 0.97),
    }  # fmt: skip
    return [
        {"step": max(1, i * every), "epoch": 2 * i / n, **{key: curve(i / n) if callable(curve) else curve for key, curve in {**healthy, **curves}.items()}}
        for i in range(n)
    ]  # fmt: skip


def held_out(*losses, after=40, **more):
    return [{"step": after * (i + 1), "epoch": 0.6 * (i + 1), "eval_loss": loss, **{f"eval_{key}": value for key, value in more.items()}} for i, loss in enumerate(losses)]  # fmt: skip


def kinds(found):
    return [alarm.kind for alarm in found]


def drift(found, beta=BETA, tokens=TOKENS):
    return kinds(find_drift(sorted(found, key=lambda row: row["step"]), beta, tokens))


def test_a_healthy_run_raises_nothing():
    assert drift(rows() + held_out(0.6, 0.5, 0.45, 0.46)) == []


def test_chosen_texts_that_fall_are_noted_and_then_warned_of():
    """Measured on the recipe that ruins the text: both sides fall together from the second evaluation on."""
    found = find_drift(rows(**{"rewards/chosen": lambda x: -x, "rewards/rejected": lambda x: -3 * x}), BETA, TOKENS)
    assert kinds(found)[0] == "both_fall" and kinds(found)[-1] == "chosen_falls"
    assert {alarm.kind: alarm.severity for alarm in found} == {"both_fall": "note", "chosen_falls": "warning"}
    sizes = [alarm.measured["size"] for alarm in found if alarm.kind == "both_fall"]
    assert all(later >= 2 * earlier for earlier, later in pairwise(sizes))


def test_one_held_out_evaluation_is_enough_to_see_the_fall():
    assert drift(held_out(0.4, **{"rewards/chosen": -0.51, "rewards/rejected": -3.0})) == ["chosen_falls"]
    assert (
        drift(held_out(0.4, **{"rewards/chosen": -0.49, "rewards/rejected": -0.3})) == []
    )  # the rejected text did not fall below it


def test_without_beta_or_length_the_fall_is_not_asked():
    fallen = held_out(0.4, **{"rewards/chosen": -9.0, "rewards/rejected": -30.0})
    assert drift(fallen, beta=None) == [] and drift(fallen, tokens=None) == []


def test_margins_without_a_gradient_left_are_noted_once():
    assert drift(rows(**{"rewards/margins": 6.0, "rewards/accuracies": lambda x: 1.0 if x > 0.5 else 0.8})) == ["saturated"]
    assert drift(rows(**{"rewards/margins": 4.9, "rewards/accuracies": lambda x: 1.0 if x > 0.5 else 0.8})) == []


STILL = {"rewards/chosen": 0.0, "rewards/rejected": 0.0, "rewards/margins": 0.0, "rewards/accuracies": 0.0, "loss": LN2}


def test_gradients_of_zero_and_rounded_steps_are_told_apart():
    no_gradient, rounded = (find_drift(rows(**STILL, grad_norm=norm), BETA, TOKENS) for norm in (0.0, 0.3))
    assert kinds(no_gradient) == kinds(rounded) == ["frozen"]
    assert "gradient_checkpointing" in no_gradient[0].en and "float32" in rounded[0].en


def test_a_rate_that_is_too_small_is_no_frozen_weight():
    slow = rows(**{"rewards/chosen": 4e-4, "rewards/rejected": -4e-4, "rewards/margins": 8e-4, "loss": LN2})
    assert drift(slow) == ["slow"]
    assert drift(slow[:4]) == []  # the warm-up: nothing has moved yet, and nothing should have


def test_the_first_rows_of_every_run_stand_still_and_mean_nothing():
    assert drift(rows(**STILL, learning_rate=0.0)) == []


def test_an_exact_zero_in_the_first_row_is_a_hidden_nan_and_later_zeros_are_not():
    assert drift([{"step": 1, "loss": 0.0, "grad_norm": float("nan")}, {"step": 5, "loss": 0.0}]) == ["zero_loss"]
    assert drift([{"step": 1, "loss": LN2}, {"step": 5, "loss": 0.0}]) == []


def test_a_held_out_loss_that_rises_twice_while_the_training_loss_falls():
    assert drift(rows() + held_out(0.6, 0.5, 0.56, 0.58)) == ["overfitting"]
    assert drift(rows() + held_out(0.6, 0.5, 0.58, 0.51)) == []
    assert drift(rows(loss=lambda x: 0.5 + x) + held_out(0.6, 0.5, 0.56, 0.58)) == []  # both rise: another trouble


def test_accuracy_from_the_start_is_a_shortcut_and_at_the_end_is_not():
    assert drift(rows(**{"rewards/accuracies": lambda x: 1.0 if x else 0.0})) == ["shortcut"]
    assert drift(held_out(0.5, **{"rewards/accuracies": 1.0})) == []  # after 0.6 epochs
    assert drift([{**held_out(0.5, **{"rewards/accuracies": 1.0})[0], "epoch": 0.25}]) == ["shortcut"]


def test_rows_of_other_tools_do_not_end_the_reading():
    """Text for numbers (transformers 5), NaN, nested values, rows without any loss."""
    strange = [
        {"step": 1, "loss": "0.69", "learning_rate": "1e-4"},
        {"step": 2, "loss": float("nan")},
        {"step": 3, "memory_gib": {"cuda": 1}},
        {"train_loss": 1.0},
        {},
    ]
    assert find_drift(strange, BETA, TOKENS) == []
    assert kinds(find_drift([{"step": 1, "loss": "0.0"}])) == ["zero_loss"]


def test_every_alarm_speaks_two_languages_and_says_what_to_do():
    everything = [
        *find_drift(rows(**STILL, grad_norm=0.0)), *find_drift(rows(**STILL)), *find_drift([{"step": 1, "loss": 0.0}]),
        *find_drift(rows(**{"rewards/chosen": lambda x: -x, "rewards/rejected": lambda x: -3 * x}), BETA, TOKENS), *kl_alarm(3, 2.0, 0.1),
        *find_drift(rows() + held_out(0.6, 0.5, 0.56, 0.58)), *find_drift(rows(**{"rewards/margins": 6.0, "rewards/accuracies": 1.0})),
    ]  # fmt: skip
    assert {alarm.kind for alarm in everything} >= {
        "frozen",
        "zero_loss",
        "both_fall",
        "chosen_falls",
        "kl",
        "saturated",
        "shortcut",
    }
    for alarm in everything:
        assert "→ " in alarm.ja and "-> " in alarm.en and alarm.line()


def test_the_divergence_alarm_has_a_limit():
    assert kl_alarm(5, KL_LIMIT * 0.99, 0.1) == kl_alarm(5, None, 0.1) == []
    (alarm,) = kl_alarm(5, KL_LIMIT, 0.1)
    assert (alarm.step, alarm.kind, alarm.measured) == (5, "kl", {"kl": KL_LIMIT})


@pytest.mark.parametrize("resumed_at", [1, 3])
def test_reading_in_two_parts_is_reading_in_one(resumed_at):
    """A resumed run feeds the old rows first."""
    from adslm_helpers.training.drift import Drift

    all_rows = rows(**{"rewards/chosen": lambda x: -x, "rewards/rejected": lambda x: -3 * x})
    drift = Drift(BETA, TOKENS)
    told = [alarm for row in all_rows[:resumed_at] for alarm in drift.see(row)]
    assert told + [alarm for row in all_rows[resumed_at:] for alarm in drift.see(row)] == find_drift(all_rows, BETA, TOKENS)
