"""Our token ids in the columns of whatever TRL is installed, and what a batch of it scores, read back.

TRL's own tokenising differs between versions: a BOS before every prompt, a first letter lost at the boundary, a second EOS, a prompt
cut from the other side. So TRL tokenises two rows only, its columns are looked at, and the ids that we made and showed go into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .prompts import EncodedPair

IGNORED = -100


def text_rows(pairs: Sequence[EncodedPair]) -> list[dict[str, str]]:
    """The pairs as text: rendered prompt, plain responses."""
    return [{"prompt": pair.prompt_text, "chosen": pair.chosen, "rejected": pair.rejected} for pair in pairs]


def id_rows(columns: Sequence[str], pairs: Sequence[EncodedPair]) -> list[dict[str, list[int]]] | None:
    """The pairs as ids in the form that TRL gave to a dataset with these `columns`; None for a form that is not known."""
    known = set(columns)
    if {"prompt_ids", "chosen_ids", "rejected_ids"} <= known:  # TRL 0.29 and newer
        return [{"prompt_ids": p.prompt_ids, "chosen_ids": p.chosen_ids, "rejected_ids": p.rejected_ids} for p in pairs]
    if {"chosen_input_ids", "chosen_labels", "rejected_labels"} <= known:  # up to 0.11: prompt and response in one
        return [_labelled(pair) for pair in pairs]
    if {"prompt_input_ids", "chosen_input_ids", "rejected_input_ids"} <= known:  # 0.12 to 0.28
        return [
            {"prompt_input_ids": p.prompt_ids, "chosen_input_ids": p.chosen_ids, "rejected_input_ids": p.rejected_ids}
            for p in pairs
        ]
    return None


def scored_rows(batch: dict[str, Any]) -> list[tuple[list[int], list[int]]] | None:
    """(ids, mask) of every sequence of a batch, the chosen ones first, without padding; None for an unknown layout.

    The mask is 1 on the tokens whose log-probability is summed.
    """
    if "scored_rows" in batch:  # our own trainer
        return batch["scored_rows"]()
    if "completion_mask" in batch:
        return [
            _read(ids, attention, mask)
            for ids, attention, mask in zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True)
        ]
    sides = ("chosen", "rejected")
    if "chosen_labels" in batch:
        return [
            _read(ids, attention, labels != IGNORED)
            for side in sides
            for ids, attention, labels in zip(
                batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"], batch[f"{side}_labels"], strict=True
            )
        ]
    if "prompt_input_ids" in batch:
        prompts = [_kept(*row) for row in zip(batch["prompt_input_ids"], batch["prompt_attention_mask"], strict=True)]
        return [
            (prompt + response, [0] * len(prompt) + [1] * len(response))
            for side in sides
            for prompt, response in zip(
                prompts,
                [_kept(*row) for row in zip(batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"], strict=True)],
                strict=True,
            )
        ]
    return None


def _labelled(pair: EncodedPair) -> dict[str, list[int]]:
    row = {"prompt_input_ids": pair.prompt_ids, "prompt_attention_mask": [1] * len(pair.prompt_ids)}
    for side, response in (("chosen", pair.chosen_ids), ("rejected", pair.rejected_ids)):
        row[f"{side}_input_ids"] = pair.prompt_ids + response
        row[f"{side}_attention_mask"] = [1] * (len(pair.prompt_ids) + len(response))
        row[f"{side}_labels"] = [IGNORED] * len(pair.prompt_ids) + response
    return row


def _kept(ids: Any, attention: Any) -> list[int]:
    return ids[attention == 1].tolist()


def _read(ids: Any, attention: Any, mask: Any) -> tuple[list[int], list[int]]:
    return _kept(ids, attention), mask[attention == 1].long().tolist()
