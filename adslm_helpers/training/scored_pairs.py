"""What a trainer really scores: its own batches as token ids again, whichever TRL made them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .prompts import EncodedPair

if TYPE_CHECKING:
    from torch import Tensor


def trainer_pairs(trainer: Any, n: int) -> list[EncodedPair]:
    """The first `n` pairs as the trainer's own collator lays them out, whichever of TRL's three layouts that is."""
    rows = [trainer.train_dataset[i] for i in range(min(n, len(trainer.train_dataset)))]
    return [read_pair(trainer.data_collator([row])) for row in rows]


def read_pair(batch: dict[str, Any]) -> EncodedPair:
    """The one pair of a collated batch; its texts are empty."""
    if "completion_mask" in batch:  # TRL >= 0.29: [2, S], chosen row first
        chosen, rejected = (
            _split(ids, real, scored)
            for ids, real, scored in zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True)
        )
    elif "prompt_input_ids" in batch and "chosen_labels" not in batch:  # 0.12 - 0.28: prompt and responses apart
        prompt = batch["prompt_input_ids"][0][batch["prompt_attention_mask"][0] == 1].tolist()
        chosen, rejected = (
            (prompt, batch[f"{side}_input_ids"][0][batch[f"{side}_attention_mask"][0] == 1].tolist())
            for side in ("chosen", "rejected")
        )
    else:  # up to 0.11: labels are -100 outside the response
        chosen, rejected = (
            _split(batch[f"{side}_input_ids"][0], batch[f"{side}_attention_mask"][0], batch[f"{side}_labels"][0] != -100)
            for side in ("chosen", "rejected")
        )
    return EncodedPair(chosen[0], chosen[1], rejected[1], "", "", "", 0)


def _split(ids: Tensor, attention_mask: Tensor, completion_mask: Tensor) -> tuple[list[int], list[int]]:
    real, scored = attention_mask == 1, completion_mask == 1
    return ids[real & ~scored].tolist(), ids[real & scored].tolist()
