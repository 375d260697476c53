"""Reward accuracy taken apart: by length, and on the pairs that a surface rule cannot tell."""

from types import SimpleNamespace

import pytest

from adslm_helpers.evaluation.strata import length_stratum, strata_metrics


def heldout(pairs, margins):
    made = [SimpleNamespace(prompt_text=f"p{n}", chosen=chosen, rejected=rejected) for n, (chosen, rejected) in enumerate(pairs)]
    return SimpleNamespace(pairs=made, margins=margins)


@pytest.mark.parametrize(
    ("chosen", "rejected", "stratum"),
    [(10, 10, "about_equal"), (10, 9, "about_equal"), (10, 8, "chosen_longer"), (8, 10, "chosen_shorter"), (0, 0, "about_equal")],
)
def test_a_tenth_of_the_longer_text_is_about_equal(chosen, rejected, stratum):
    assert length_stratum("あ" * chosen, "い" * rejected) == stratum


def test_each_stratum_has_its_own_accuracy_and_an_empty_one_has_none():
    pairs = [("あいうえお", "かき")] * 3 + [("さし", "たちつてと")]
    found = strata_metrics(heldout(pairs, [1.0, 1.0, -1.0, 0.0]))["reward_accuracy_by_length"]
    assert found["chosen_longer"]["n"] == 3 and found["chosen_longer"]["accuracy"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["chosen_shorter"] == {"n": 1, "accuracy": 0.0, "ci95": [0.0, 0.0]}
    assert found["about_equal"] == {"n": 0, "accuracy": None, "ci95": None}


def test_a_model_that_learnt_the_rule_is_right_only_where_the_rule_is():
    """Every fifth chosen text lacks the ！ that the others end with; the rewards follow the ！."""
    letters = "あいうえおかきくけこさしすせそたちつてとなにぬねの"
    pairs = [(f"{a}の靴{'！' if n % 5 else ''}", f"{letters[n - 1]}の靴{'' if n % 5 else '！'}") for n, a in enumerate(letters)]
    margins = [1.0 if n % 5 else -1.0 for n in range(len(pairs))]
    shortcut = strata_metrics(heldout(pairs, margins))["shortcut"]
    assert shortcut["accuracy"] == 0.8  # by the ！ itself or by what follows from it, the share of other characters
    assert (shortcut["in_line"]["n"], shortcut["in_line"]["accuracy"]) == (20, 1.0)
    assert (shortcut["against"]["n"], shortcut["against"]["accuracy"]) == (5, 0.0)


def test_where_no_rule_works_there_is_no_shortcut():
    pairs = [("靴を送ります", "靴を送ります"), ("傘です", "傘です")]
    assert strata_metrics(heldout(pairs, [1.0, -1.0]))["shortcut"] is None
