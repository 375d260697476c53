"""The DPO maths against hand calculation and against torch's own cross entropy."""

import math

import pytest
import torch

from adslm_helpers.training.maths import dpo_loss, sequence_logps


def test_sequence_logps_is_the_sum_over_masked_tokens_and_nothing_else():
    """Vocabulary of 3, uniform logits: every scored token costs ln 3. Prompt and padding must not count."""
    logits = torch.zeros(2, 5, 3)
    input_ids = torch.tensor([[0, 1, 2, 1, 0], [0, 2, 2, 0, 0]])
    completion_mask = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]])
    expected = torch.tensor([-3 * math.log(3), -2 * math.log(3)])
    torch.testing.assert_close(sequence_logps(logits, input_ids, completion_mask), expected)


def test_logits_at_t_predict_token_t_plus_1():
    """An off-by-one here trains on the identity: logits are certain of the next token, so the log-probability is about 0."""
    input_ids = torch.tensor([[3, 1, 4, 1, 5]])
    logits = torch.full((1, 5, 8), -50.0)
    for t in range(4):
        logits[0, t, input_ids[0, t + 1]] = 50.0
    mask = torch.tensor([[0, 1, 1, 1, 1]])
    assert sequence_logps(logits, input_ids, mask).item() == pytest.approx(0.0, abs=1e-6)


def test_padding_changes_nothing():
    torch.manual_seed(0)
    logits, ids = torch.randn(1, 6, 11), torch.randint(0, 11, (1, 6))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    padded = (torch.cat([logits, torch.randn(1, 3, 11)], 1), torch.cat([ids, torch.zeros(1, 3, dtype=torch.long)], 1))
    padded_mask = torch.cat([mask, torch.zeros(1, 3, dtype=torch.long)], 1)
    torch.testing.assert_close(sequence_logps(*padded, padded_mask), sequence_logps(logits, ids, mask))


def test_dpo_loss_by_hand():
    """chosen -10 against reference -12, rejected -15 against -13, beta 0.1: margin 0.1 * (2 + 2) = 0.4, loss ln(1 + e^-0.4) = 0.5130."""
    losses, chosen, rejected = dpo_loss(*(torch.tensor([x]) for x in (-10.0, -15.0, -12.0, -13.0)), beta=0.1)
    assert losses.item() == pytest.approx(0.5130153, abs=1e-6)
    assert chosen.item() == pytest.approx(0.2) and rejected.item() == pytest.approx(-0.2)


def test_untrained_loss_is_ln_2_and_swapping_sides_flips_the_margin():
    logps = torch.tensor([-7.0, -3.0])
    assert dpo_loss(logps, logps * 2, logps, logps * 2, 0.1)[0].tolist() == pytest.approx([math.log(2)] * 2)
    a, b, ra, rb = torch.tensor([-5.0]), torch.tensor([-9.0]), torch.tensor([-6.0]), torch.tensor([-8.0])
    _, chosen, rejected = dpo_loss(a, b, ra, rb, 0.5)
    _, chosen_swapped, rejected_swapped = dpo_loss(b, a, rb, ra, 0.5)
    assert (chosen - rejected).item() == -(chosen_swapped - rejected_swapped).item()


def test_gradient_pulls_the_sides_apart():
    chosen, rejected = torch.tensor([-5.0], requires_grad=True), torch.tensor([-5.0], requires_grad=True)
    dpo_loss(chosen, rejected, torch.tensor([-5.0]), torch.tensor([-5.0]), beta=0.2)[0].sum().backward()
    assert chosen.grad.item() == pytest.approx(-0.1) and rejected.grad.item() == pytest.approx(0.1)  # beta / 2
