"""Held-out pairs scored by the tuned model and by its reference (the adapter off)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError, ModelError
from ..training.maths import dpo_loss, sequence_logps
from ..training.prompts import REASONS, EncodedPair, collate, encode_pairs
from .intervals import mean_with_interval, ratio_with_interval

_LARGEST_EXPONENT = 700.0  # exp of more is no float


@dataclass(frozen=True)
class Heldout:
    """One number a pair, in the order of `pairs`: DPO losses, reward margins (beta times nats), and what they were made from."""

    pairs: list[EncodedPair]
    losses: list[float]
    margins: list[float]
    logps: list[tuple[float, float]]
    """(chosen, rejected) of the tuned model, in nats, summed over the tokens."""
    ref_logps: list[tuple[float, float]]
    """The same of the base."""
    dropped: dict[str, int]

    def metrics(self, seed: int = 0) -> dict[str, Any]:
        """heldout_loss, reward_accuracy and reward_margin with 95 % intervals by prompt; a margin of 0 counts as wrong.

        And how well the chosen texts are foretold: perplexity_base and _tuned (exp of the mean nats a token, EOS included), and
        perplexity_ratio, tuned over base.
        """
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
            **self._perplexities(prompts, seed),
        }

    def _perplexities(self, prompts: list[str], seed: int) -> dict[str, Any]:
        base, tuned = ([-chosen for chosen, _ in logps] for logps in (self.ref_logps, self.logps))
        change = [after - before for before, after in zip(base, tuned, strict=True)]
        tokens = [len(pair.chosen_ids) for pair in self.pairs]
        found: dict[str, Any] = {}
        for name, nats in (("perplexity_base", base), ("perplexity_tuned", tuned), ("perplexity_ratio", change)):
            mean, interval = ratio_with_interval(nats, tokens, prompts, seed)
            found |= {name: _exp(mean), f"{name}_ci95": [_exp(end) for end in interval]}
        return found


def score_heldout(
    model: Any,
    tokenizer: Any,
    rows: Sequence[dict],
    recipe: Any,
    *,
    reference: Heldout | None = None,
    on_batch: Callable[[int], None] = lambda scored: None,
) -> Heldout:
    """Plain sigmoid DPO loss and margin of every held-out pair, whatever loss the training used: runs stay comparable.

    `model`: a PeftModel; its reference is itself with the adapter off. `reference`: the same rows scored by another adapter of the
    same base, whose base numbers are taken over. `on_batch` is told how many pairs each batch scored. Raises DataError where no pair can
    be scored, ModelError where a score is no number: sampling from such a model would end in a crash.
    """
    import torch

    encoded = encode_pairs(tokenizer, rows, recipe.max_length, recipe.max_prompt_length)
    if not encoded.pairs:
        raise _nothing_to_score(len(rows), encoded.dropped, recipe.max_length)
    losses, margins, logps, ref_logps = [], [], [], []
    size = recipe.per_device_eval_batch_size
    with torch.no_grad():
        for start in range(0, len(encoded.pairs), size):
            batch = collate(encoded.pairs[start : start + size], tokenizer.pad_token_id)
            policy = pair_logps(model, batch)
            if reference is None:
                with model.disable_adapter():
                    base = pair_logps(model, batch)
            else:
                base = torch.tensor(reference.ref_logps[start : start + size], device=policy[0].device).unbind(1)
            loss, chosen_rewards, rejected_rewards = dpo_loss(*policy, *base, beta=recipe.beta)
            losses += loss.tolist()
            margins += (chosen_rewards - rejected_rewards).tolist()
            logps += zip(*(side.tolist() for side in policy), strict=True)
            ref_logps += zip(*(side.tolist() for side in base), strict=True)
            on_batch(len(loss))
    if odd := sum(not math.isfinite(margin) for margin in margins):
        raise ModelError(
            f"検証用の {len(margins)} 対のうち {odd} 対で、モデルの出す値が NaN か無限大です。→ dtype=float32 で学習し直すか、前のチェックポイントを使ってください。",
            f"For {odd} of {len(margins)} held-out pairs the model gives NaN or infinity. -> Train again with dtype=float32, or use an earlier checkpoint.",
        )
    return Heldout(encoded.pairs, losses, margins, logps, ref_logps, dict(encoded.dropped))


def _nothing_to_score(rows: int, dropped: Mapping[str, int], max_length: int) -> DataError:
    ja, en = ("、".join(f"{REASONS[reason][side]}: {count}" for reason, count in dropped.items()) for side in (0, 1))
    return DataError(
        f"検証用の {rows} 対のうち、採点できる対がありません（{ja}）。→ max_length（今は {max_length} トークン）を増やすか、短い対を足してください。",
        f"None of the {rows} held-out pairs can be scored ({en}). -> Raise max_length (now {max_length} tokens), or add shorter pairs.",
    )


def pair_logps(model: Any, batch: dict[str, Any]) -> tuple[Any, Any]:
    """(chosen_logps, rejected_logps), each [B], of a batch as `collate` lays it out: chosen rows first."""
    batch = {key: value.to(model.device) for key, value in batch.items()}
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return sequence_logps(logits, batch["input_ids"], batch["completion_mask"]).chunk(2)


def _exp(nats: float) -> float | None:
    """e to the `nats`; None where that is no number."""
    return round(math.exp(nats), 4) if nats < _LARGEST_EXPONENT else None
