"""The maths of DPO in two functions, small enough to print in a lesson and to check by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def sequence_logps(logits: Tensor, input_ids: Tensor, completion_mask: Tensor) -> Tensor:
    """Log-probability of each completion, in nats, summed over its tokens.

    logits [B, S, V]; input_ids [B, S]; completion_mask [B, S], 1 on the response and its EOS, 0 on prompt and padding. Returns [B].
    The logits at position t predict token t + 1, hence the shift by one.
    """
    logps = logits[:, :-1].float().log_softmax(-1)
    token_logps = logps.gather(-1, input_ids[:, 1:, None]).squeeze(-1)
    return (token_logps * completion_mask[:, 1:]).sum(-1)


def dpo_loss(
    chosen_logps: Tensor, rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of each pair and the implicit rewards of both sides, each [B]: Eq. 7 of arXiv:2305.18290.

    All log-probabilities are sums in nats, [B]. At the start policy = reference, so both rewards are 0 and every loss is ln 2.
    """
    from torch.nn.functional import logsigmoid

    chosen_rewards = beta * (chosen_logps - ref_chosen_logps)
    rejected_rewards = beta * (rejected_logps - ref_rejected_logps)
    return -logsigmoid(chosen_rewards - rejected_rewards), chosen_rewards, rejected_rewards
