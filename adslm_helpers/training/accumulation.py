"""Every micro-batch weighs 1 / gradient_accumulation_steps in the gradient, whatever the installed versions make of it."""

from __future__ import annotations

from typing import Any

from ..errors import TrainingError


def repair_accumulation(trainer: Any) -> None:
    """Makes every micro-batch weigh 1 / gradient_accumulation_steps in the gradient.

    transformers 5.4 and 5.5 divide twice; TRL 0.12 with transformers 4.46 does not divide at all. So one training step is taken with
    a loss of 1 and no backward pass, what reaches the accelerator is looked at, and the accelerator divides by the rest.
    """
    import torch

    steps = trainer.args.gradient_accumulation_steps
    trainer.model_accepts_loss_kwargs = False  # DPO's loss is a mean over pairs: the number of tokens must not scale it
    if steps == 1:
        return
    seen: list[float] = []
    trainer.current_gradient_accumulation_steps = steps  # set by the training loop in newer versions
    trainer.compute_loss = lambda *args, **options: torch.ones((), device=trainer.args.device)
    trainer.accelerator.backward = lambda loss, **options: seen.append(loss.item())
    try:
        trainer.training_step(trainer.model, {"probe": torch.zeros(1)})
    finally:
        del trainer.compute_loss, trainer.accelerator.backward
    rest = round(seen[0] * steps)
    if rest not in (1, steps):
        raise TrainingError(
            f"この transformers は勾配の累積を {seen[0]:.3g} 倍にします（{steps} 回）。→ gradient_accumulation_steps を 1 にしてください。",
            f"This transformers scales accumulated gradients by {seen[0]:.3g} ({steps} steps). -> Set gradient_accumulation_steps to 1.",
        )
    trainer.accelerator.gradient_accumulation_steps = rest
