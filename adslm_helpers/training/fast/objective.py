"""The losses of the engine, pair by pair, equal to TRL's where TRL has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...recipe import DpoRecipe

if TYPE_CHECKING:
    from torch import Tensor


def pair_losses(logps: Tensor, ref_logps: Tensor, lengths: Tensor, recipe: DpoRecipe) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of each pair and the implicit rewards of both sides, each [B].

    logps, ref_logps [2B], the chosen answers first, nats; lengths [B, 2] in tokens. With the log-ratio difference
    d = log pi/ref (chosen) - log pi/ref (rejected):
    sigmoid: -log sigmoid(beta d) (arXiv:2305.18290, Eq. 7); hinge: max(0, 1 - beta d) (arXiv:2305.10425); ipo: (d per token - 1/(2 beta))^2
    (arXiv:2310.12036, Eq. 17, lengths divided out as in TRL); robust: (arXiv:2403.00409, Eq. 14) with `label_smoothing`.
    """
    from torch.nn.functional import logsigmoid, relu

    ratios = (logps - ref_logps).chunk(2)
    chosen_rewards, rejected_rewards = (recipe.beta * ratio for ratio in ratios)
    margins = chosen_rewards - rejected_rewards
    if recipe.loss_type == "ipo":
        chosen, rejected = (ratio / length for ratio, length in zip(ratios, lengths.T, strict=True))
        losses = (chosen - rejected - 1 / (2 * recipe.beta)) ** 2
    elif recipe.loss_type == "hinge":
        losses = relu(1 - margins)
    elif recipe.loss_type == "robust":
        noise = recipe.label_smoothing
        losses = (noise * logsigmoid(-margins) - (1 - noise) * logsigmoid(margins)) / (1 - 2 * noise)
    else:
        losses = -logsigmoid(margins)
    return losses, chosen_rewards, rejected_rewards


def sft_loss(logps: Tensor, lengths: Tensor) -> Tensor:
    """Mean negative log-probability of a chosen token over the batch, nats: TRL's loss_type 'sft'. logps [2B], lengths [B, 2]."""
    return -logps.chunk(2)[0].sum() / lengths[:, 0].sum()


def aligned_losses(logps: Tensor, teacher_logps: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """(losses, gaps), each [B]: relu(beta (mp - m)) and mp - m, for the implicit margin m of the policy without the instruction and the
    explicit margin mp of a teacher that sees it; no gradient goes through mp. logps, teacher_logps [2B], nats.
    """
    from torch.nn.functional import relu

    (chosen, rejected), (taught_chosen, taught_rejected) = logps.chunk(2), teacher_logps.detach().chunk(2)
    gaps = (taught_chosen - taught_rejected) - (chosen - rejected)
    return relu(beta * gaps), gaps.detach()
