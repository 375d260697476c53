"""Ids into the columns of every era and, read back from its batches, the same ids and mask."""

import pytest
import torch

from adslm_helpers.training.prompts import EncodedPair, collate, score_rows
from adslm_helpers.training.trl_rows import id_rows, scored_rows, text_rows

PAIRS = [
    EncodedPair([5, 6], [7, 2], [8, 9, 2], "p", "c", "r", 0),
    EncodedPair([5, 6, 5], [7, 7, 7, 2], [8, 2], "q", "c", "r", 0),
]
COLUMNS = {
    "0.7 to 0.11": ["prompt", "chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels", "prompt_input_ids"],
    "0.12 to 0.28": ["prompt", "prompt_input_ids", "chosen_input_ids", "rejected_input_ids"],
    "0.29 and newer": ["prompt", "prompt_ids", "chosen_ids", "rejected_ids"],
}


def pad(rows, name, value, left=False):
    """One column as a padded tensor, as TRL's collators do it."""
    columns = [torch.tensor(row[name][::-1] if left else row[name]) for row in rows]
    padded = torch.nn.utils.rnn.pad_sequence(columns, batch_first=True, padding_value=value)
    return padded.flip(1) if left else padded


def batch_of(era, rows):
    if era == "0.29 and newer":
        return collate(PAIRS, 0)
    if era == "0.7 to 0.11":
        return {
            f"{side}_{part}": pad(rows, f"{side}_{part}", {"labels": -100}.get(part, 0))
            for side in ("chosen", "rejected")
            for part in ("input_ids", "attention_mask", "labels")
        }
    for row in rows:
        row |= {f"{side}_attention_mask": [1] * len(row[f"{side}_input_ids"]) for side in ("prompt", "chosen", "rejected")}
    return {
        f"{side}_{part}": pad(rows, f"{side}_{part}", 0, left=side == "prompt")
        for side in ("prompt", "chosen", "rejected")
        for part in ("input_ids", "attention_mask")
    }


@pytest.mark.parametrize("era", COLUMNS)
def test_every_era_scores_what_we_encoded(era):
    rows = id_rows(COLUMNS[era], PAIRS)
    assert scored_rows(batch_of(era, rows)) == score_rows(PAIRS)


def test_what_is_not_known_is_said_not_guessed():
    assert id_rows(["prompt", "tokens"], PAIRS) is None and scored_rows({"tokens": torch.ones(1)}) is None


def test_text_rows_hold_the_rendered_prompt():
    assert text_rows(PAIRS)[0] == {"prompt": "p", "chosen": "c", "rejected": "r"}
