"""What is said of an instruction: means, shares and intervals by hand, and the rows that a report shows."""

import pytest

from adslm_helpers.evaluation.instruction import guided_rows, instruction_effect
from adslm_helpers.training.guided.explain import PairMargins

# m0, mp, m, m with the instruction
MARGINS = [
    PairMargins("依頼1", "良い", "悪い", -1.0, 1.0, 0.0, 2.0),
    PairMargins("依頼1", "良い", "悪い", 2.0, 1.0, 3.0, 3.0),
    PairMargins("依頼2", "良い", "悪い", 0.0, 4.0, 6.0, 6.0),
]
ABOUT = {"instruction": "短く。", "placement": "user_end", "prompt_embeddings": "", "teacher": "reference", "alpha": 0.1}


def test_the_effect_by_hand():
    """Shifts 2, -1, 4; learned 1, 1, 6; gaps 1, -2, -2; beta 0.1."""
    found = instruction_effect(MARGINS, 0.1)
    wanted = {
        "shift": 5 / 3, "ahead": 2 / 3, "learned": 8 / 3, "gap": -1.0, "ahead_after": 1 / 3, "aligned_loss_before": 0.2,
        "aligned_loss_after": 0.1 / 3, "chosen_base": 1 / 3, "chosen_instructed": 1.0, "chosen_tuned": 2 / 3,
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-4) and found["n_pairs"] == 3
    low, high = found["shift_ci95"]
    assert (low, high) == (0.5, 4.0), "whole prompts are drawn: the pairs of one are one witness"
    assert MARGINS[0].row() == {
        "prompt": "依頼1", "chosen": "良い", "rejected": "悪い", "m0": -1.0, "mp": 1.0, "m": 0.0, "m_prompted": 2.0, "shift": 2.0,
        "learned": 1.0, "gap": 1.0,
    }  # fmt: skip


def test_the_rows_of_a_report_name_the_instruction_or_the_file_or_say_that_there_is_none():
    rows = {en: value for _, en, value in guided_rows({**ABOUT, **instruction_effect(MARGINS, 0.1)})}
    assert rows["method"] == "preference_guided: alpha 0.1, teacher reference"
    assert rows["what the teacher alone reads"] == "'短く。' (user_end)"
    assert rows["what it adds to the margin"] == "+1.67  [+0.50, +4.00]" and rows["before -> after"] == "0.2000 -> 0.0333"
    vectors = {**ABOUT, "instruction": "", "prompt_embeddings": "v.pt", "not_measured": ["ない", "gone"]}
    assert [value for *_, value in guided_rows(vectors)][1:] == ["'v.pt' (prompt_embeddings)", "ない / gone"]
    assert [value for *_, value in guided_rows({**ABOUT, "instruction": "", "n_pairs": 0})][1:] == ["なし / none"]
    assert list(guided_rows(None)) == []
