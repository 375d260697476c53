"""The losses of the engine by hand, pair by pair; beside TRL's they stand in test_fast_matches_trl.py."""

import math
from dataclasses import replace

import pytest
import torch

from adslm_helpers.recipe import load_recipe
from adslm_helpers.training.fast.objective import aligned_losses, pair_losses, sft_loss

# Two pairs; log-ratios against the reference (3, 1) and (-1, 1), so d = 2 and -2.
LOGPS = torch.tensor([-7.0, -21.0, -9.0, -19.0])
REF_LOGPS = torch.tensor([-10.0, -20.0, -10.0, -20.0])
LENGTHS = torch.tensor([[2, 4], [5, 10]])
RECIPE = replace(load_recipe("smoke"), beta=0.5)


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        ({"loss_type": "sigmoid"}, [-log_sigmoid(1), -log_sigmoid(-1)]),
        ({"loss_type": "hinge"}, [0.0, 2.0]),
        ({"loss_type": "ipo"}, [(3 / 2 - 1 / 4 - 1) ** 2, (-1 / 5 - 1 / 10 - 1) ** 2]),
        (
            {"loss_type": "robust", "label_smoothing": 0.2},
            [(-0.8 * log_sigmoid(1) + 0.2 * log_sigmoid(-1)) / 0.6, (-0.8 * log_sigmoid(-1) + 0.2 * log_sigmoid(1)) / 0.6],
        ),
    ],
    ids=lambda value: value.get("loss_type") if isinstance(value, dict) else "",
)
def test_every_loss_by_hand(loss, wanted):
    losses, chosen_rewards, rejected_rewards = pair_losses(LOGPS, REF_LOGPS, LENGTHS, replace(RECIPE, **loss))
    assert losses.tolist() == pytest.approx(wanted, rel=1e-6)
    assert (chosen_rewards.tolist(), rejected_rewards.tolist()) == ([1.5, -0.5], [0.5, 0.5])


@pytest.mark.parametrize("loss_type", ["sigmoid", "robust", "hinge", "ipo"])
def test_a_step_down_the_gradient_favours_the_chosen_answer(loss_type):
    logps, recipe = REF_LOGPS.clone().requires_grad_(), replace(RECIPE, loss_type=loss_type)
    pair_losses(logps, REF_LOGPS, LENGTHS, recipe)[0].sum().backward()
    assert (logps.grad[:2] < 0).all() and (logps.grad[2:] > 0).all()


def test_margins_of_thousands_of_nats_stay_finite():
    """Long answers, or a run that went wrong: exp of the margin would be infinite."""
    logps = torch.tensor([-9e3, -1.0, -1.0, -9e3], requires_grad=True)
    losses = pair_losses(logps, torch.zeros(4), LENGTHS, RECIPE)[0]
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([0.5 * 8999, 0.0]) and logps.grad.isfinite().all()


def test_the_sft_term_counts_tokens_not_pairs():
    assert sft_loss(LOGPS, LENGTHS).item() == pytest.approx((7 + 21) / (2 + 5))


def test_the_aligned_loss_pulls_up_to_the_teacher_and_no_further():
    logps = LOGPS.clone().requires_grad_()  # margins 2 and -2
    teacher = torch.tensor([-5.0, -20.0, -9.0, -10.0], requires_grad=True)  # 4 and -10
    losses, gaps = aligned_losses(logps, teacher, beta=0.5)
    assert (losses.tolist(), gaps.tolist()) == ([1.0, 0.0], [2.0, -8.0])
    losses.sum().backward()
    assert logps.grad.tolist() == [-0.5, 0.0, 0.5, 0.0] and teacher.grad is None
