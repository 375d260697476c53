"""Each cause from the rows that it really leaves, and silence where nothing is wrong."""

import math

import pytest

from adslm_helpers.watching.causes import broken_numbers, healthy_part, nan_evaluation
from adslm_helpers.watching.curves import both_rewards_fall, diverged, gradient_spike

NAN, LN2 = math.nan, math.log(2)


def row(step, loss=0.6, grad_norm=1.0, margin=0.2, rate=1e-5, **more):
    rewards = {"rewards/chosen": margin, "rewards/rejected": 0.0, "rewards/margins": margin, "rewards/accuracies": 0.8}
    return {"step": step, "loss": loss, "grad_norm": grad_norm, "learning_rate": rate, **rewards, **more}


def dead(step, loss=0.0):
    """What a trainer logs of NaN: the filter's 0.0, or NaN itself."""
    return row(step, loss, NAN, NAN) | {"rewards/chosen": NAN, "rewards/rejected": NAN, "rewards/accuracies": 0.0}


HEALTHY = [row(n, LN2 - 0.01 * n, 1 + 0.1 * (n % 3), 0.02 * n, 1e-5 * (30 - n)) for n in range(1, 30)]


def test_a_healthy_log_has_no_cause():
    rows = [*HEALTHY, {"step": 29, "eval_loss": 0.5, "eval_rewards/margins": 0.4}, {"step": 29, "train_loss": 0.5}]
    causes = (broken_numbers, nan_evaluation, gradient_spike, diverged, both_rewards_fall)
    assert [cause(rows) for cause in causes] == [None] * 5
    assert healthy_part(rows) == rows


@pytest.mark.parametrize("loss", [0.0, NAN])
def test_a_first_loss_of_zero_or_nan_is_the_precision_never_the_learning_rate(loss):
    found = broken_numbers([dead(n, loss) for n in range(1, 10)])
    assert (found.kind, found.step, found.severity) == ("nan_forward", 1, "stop")
    assert "never the learning rate" in found.en and "float32" in found.do_en and "grad_norm nan" in found.evidence[0]
    assert healthy_part([dead(1, loss)]) == []


def test_a_first_loss_of_zero_without_any_other_metric_is_the_same():
    """LLaMA-Factory logs neither gradients nor rewards."""
    assert broken_numbers([{"step": n, "loss": 0.0, "learning_rate": 1e-5} for n in range(1, 9)]).kind == "nan_forward"


def test_a_gradient_of_nan_that_was_applied_is_named_at_its_own_step():
    """That step still logs its loss; all later ones are NaN, behind the filter 0.0."""
    rows = [*HEALTHY[:4], row(5, LN2, NAN), *[dead(n) for n in range(6, 12)]]
    found = broken_numbers(rows)
    assert (found.kind, found.step) == ("poisoned", 5) and "gradient of step 5" in found.en and "hide NaN" in found.en
    assert "quiet" in found.en and "float32" in found.do_en and "up to step 4 are good" in found.do_en
    assert healthy_part(rows) == rows[:4]


def test_nan_after_growing_gradients_is_the_learning_rate():
    rows = [*HEALTHY[:8], row(9, 0.9, 40.0), row(10, 1.4, 900.0), *[dead(n, NAN) for n in range(11, 14)]]
    found = broken_numbers(rows)
    assert (found.kind, found.step) == ("poisoned", 11) and "learning rate is too high" in found.en and "Halve" in found.do_en


def test_nan_within_the_first_window_of_logs_says_between_which_steps():
    """The mean of ten losses is finite, the mean of their rewards is not."""
    rows = [dead(10, 0.41), dead(20), dead(30)]
    found = broken_numbers(rows)
    assert found.kind == "poisoned" and "steps 1-10" in found.en and "Checkpoints" not in found.do_en


def test_a_loss_that_rounds_to_zero_because_all_is_told_apart_is_no_nan():
    """transformers 4 logs four digits."""
    rows = [*HEALTHY, *[row(n, 0.0, 0.001, 14.0) for n in range(30, 40)]]
    assert broken_numbers(rows) is None
    plain = [{"step": n, "loss": loss} for n, loss in enumerate([0.69, 0.2, 0.05, 0.004, 0.0001, 0.0, 0.0], 1)]
    assert broken_numbers(plain) is None


def test_overflows_at_the_start_of_a_float16_run_are_normal_and_many_are_not():
    """The GradScaler skips the step: the loss stays finite and the learning rate stands still."""
    start = [row(1, LN2, math.inf, rate=1e-6), row(2, LN2, math.inf, rate=1e-6), *HEALTHY[2:]]
    found = broken_numbers(start)
    assert (found.kind, found.severity, found.do_en) == (
        "scaler_skipped",
        "note",
        "",
    ) and "stood still at step 2" in found.evidence[2]
    often = [row(n, 0.5, math.inf if n % 4 == 0 else 1.0) for n in range(1, 80)]
    assert (broken_numbers(often).kind, broken_numbers(often).severity) == ("scaler_skipped", "warning")
    assert healthy_part(often) == often


def test_a_loss_of_nan_that_passes_is_a_batch():
    found = broken_numbers([*HEALTHY[:5], row(6, NAN, NAN), *HEALTHY[6:]])
    assert (found.kind, found.step, found.severity) == ("not_finite_for_a_while", 6, "warning")


def test_a_single_zero_and_a_row_without_a_loss_are_bad_rows_too():
    assert broken_numbers([*HEALTHY[:5], row(6, 0.0), *HEALTHY[6:]]).kind == "not_finite_for_a_while"
    assert broken_numbers([*HEALTHY[:5], {"step": 6, "grad_norm": NAN}, *HEALTHY[6:]]).kind == "scaler_skipped"


def test_an_evaluation_that_is_not_finite_beside_a_finite_training():
    evaluation = {"step": 10, "eval_loss": NAN, "eval_rewards/margins": NAN}
    found = nan_evaluation([*HEALTHY[:10], evaluation, *HEALTHY[10:]])
    assert (found.kind, found.step) == ("nan_evaluation", 10) and "1 of 1" in found.en
    hidden = nan_evaluation([*HEALTHY[:10], {**evaluation, "eval_loss": 0.6}])
    assert "replaced the NaN by the mean" in hidden.en
    assert nan_evaluation([*[dead(n) for n in range(1, 5)], evaluation]) is None, "a dead run's evaluation is no news"


def test_a_gradient_far_above_the_others_is_named():
    rows = [*HEALTHY[:20], row(21, 0.5, 80.0), *HEALTHY[21:]]
    found = gradient_spike(rows)
    assert (found.kind, found.step) == ("gradient_spike", 21) and "73 times" in found.en
    assert gradient_spike([row(n, grad_norm=0.01 if n < 20 else 2.0) for n in range(1, 30)]) is None, "small all the same"


def test_a_loss_that_rises_and_stays_up_is_a_learning_rate_too_high():
    rows = [row(n, LN2 + (0 if n < 6 else 0.1 * (n - 5))) for n in range(1, 31)]
    found = diverged(rows)
    assert (
        (found.kind, found.severity) == ("learning_rate_too_high", "stop") and "stayed there" in found.en and 5 <= found.step <= 9
    )
    back = diverged([row(n, 2.0 if 8 < n < 14 else LN2) for n in range(1, 31)])
    assert back.severity == "warning" and "came back to 0.693" in back.en


def test_noise_of_small_batches_is_no_divergence():
    assert diverged([row(n, 0.69 + (0.3 if n % 3 == 0 else -0.15)) for n in range(1, 60)]) is None


def test_both_rewards_far_below_zero_are_said_where_beta_is_not_known():
    rows = [row(n, 0.3, 1.0, 0.0) | {"rewards/chosen": -0.2 * n, "rewards/rejected": -0.5 * n} for n in range(1, 20)]
    found = both_rewards_fall(rows)
    assert (found.kind, found.step, found.severity) == ("both_fall", 6, "note")
    assert both_rewards_fall([one | {"rewards/chosen": 0.1} for one in rows]) is None
