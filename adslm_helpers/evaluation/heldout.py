"""Held-out pairs scored by the tuned model and by its reference (the adapter off)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..training.maths import dpo_loss, sequence_logps
from ..training.prompts import EncodedPair, collate, encode_pairs
from .intervals import mean_with_interval


@dataclass(frozen=True)
class Heldout:
    """One number a pair, in the order of `pairs`: DPO losses and reward margins (beta times nats)."""

    pairs: list[EncodedPair]
    losses: list[float]
    margins: list[float]
    dropped: dict[str, int]

    def metrics(self, seed: int = 0) -> dict[str, Any]:
        """heldout_loss, reward_accuracy and reward_margin with 95 % intervals by prompt; a margin of 0 counts as wrong."""
        prompts = [pair.prompt_text for pair in self.pairs]
        loss, loss_ci = mean_with_interval(self.losses, prompts, seed)
        accuracy, accuracy_ci = mean_with_interval([float(margin > 0) for margin in self.margins], prompts, seed)
        margin, margin_ci = mean_with_interval(self.margins, prompts, seed)
        return {
            "heldout_loss": round(loss, 4),
            "heldout_loss_ci95": loss_ci,
            "reward_accuracy": round(accuracy, 4),
            "reward_accuracy_ci95": accuracy_ci,
            "reward_margin": round(margin, 4),
            "reward_margin_ci95": margin_ci,
            "n_heldout_pairs": len(self.pairs),
            "heldout_dropped": self.dropped,
        }


def score_heldout(model: Any, tokenizer: Any, rows: Sequence[dict], recipe: Any) -> Heldout:
    """Plain sigmoid DPO loss and margin of every held-out pair, whatever loss the training used: runs stay comparable.

    `model`: a PeftModel; its reference is itself with the adapter off.
    """
    import torch

    encoded = encode_pairs(tokenizer, rows, recipe.max_length, recipe.max_prompt_length)
    losses, margins = [], []
    size = recipe.per_device_eval_batch_size
    with torch.no_grad():
        for start in range(0, len(encoded.pairs), size):
            batch = collate(encoded.pairs[start : start + size], tokenizer.pad_token_id)
            policy = pair_logps(model, batch)
            with model.disable_adapter():
                reference = pair_logps(model, batch)
            loss, chosen_rewards, rejected_rewards = dpo_loss(*policy, *reference, beta=recipe.beta)
            losses += loss.tolist()
            margins += (chosen_rewards - rejected_rewards).tolist()
    return Heldout(encoded.pairs, losses, margins, dict(encoded.dropped))


def pair_logps(model: Any, batch: dict[str, Any]) -> tuple[Any, Any]:
    """(chosen_logps, rejected_logps), each [B], of a batch as `collate` lays it out: chosen rows first."""
    batch = {key: value.to(model.device) for key, value in batch.items()}
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return sequence_logps(logits, batch["input_ids"], batch["completion_mask"]).chunk(2)
