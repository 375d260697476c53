"""Votes of people: columns under any name, who was not asked has not tied, and every drop has its reason."""

from fractions import Fraction
from math import comb

import pytest

from adslm_helpers.dataset.rows import Place, RawRow, broken
from adslm_helpers.dataset.validate import validate
from adslm_helpers.dataset.votes import pairs_from_votes, share_above_half
from adslm_helpers.errors import DataError

PROMPT = "見出しを書いてください。"
NAMES = [
    ("prompt", "text_a", "text_b", "prefer_a", "prefer_b", "skip"),
    ("依頼文", "案A", "案B", "A票", "B票", "スキップ"),
    ("お題", "広告文1", "広告文2", "票1", "票2", "引き分け"),
    ("Prompt", "A", "B", "votes A", "votes B", "ties"),
    ("brief", "response_a", "response_b", "Ａの票数", "Ｂの票数", "どちらでもない"),
    ("プロンプト", "A案", "B案", "A案の得票数", "B案の得票数", "スキップ票"),
    ("instruction", "左の文", "右の文", "左", "右", "Skipped"),
]
VALUES = [
    ("甲", "乙", 8, 2, 0),
    ("甲", "丙", "４票", "6/10", ""),
    ("丁", "戊", "", None, ""),
    ("己", "庚", 0, 0, 10),
    ("辛", "壬", 5.0, "5", 0),
    ("同じ", "同じ", 9, 1, 0),
]


def rows_of(values, names):
    return [RawRow(dict(zip(names, value, strict=True)), Place("votes.csv", line)) for line, value in enumerate(values, 2)]


def balanced(result):
    assert result.counted["pairs"] == result.counted["kept"] + sum(result.dropped.values())
    assert result.counted["kept"] == len(result.rows)
    return result


@pytest.mark.parametrize("names", NAMES)
def test_counts_under_any_names(names):
    result = balanced(pairs_from_votes(rows_of([(PROMPT, *value) for value in VALUES], names)))
    assert [(row["chosen"], row["rejected"], row["margin"]) for row in result.rows] == [("甲", "乙", 6)]
    assert result.dropped == {"below_margin": 1, "not_judged": 1, "all_skipped": 1, "tie": 1, "same_text": 1}
    roles = ("prompt", "text_a", "text_b", "votes_a", "votes_b", "skip")
    assert {role: result.columns[role] for role in roles} == dict(zip(roles, names, strict=True))


def test_columns_can_be_said():
    names = ("x", "y", "z", "p", "q")
    rows = rows_of([(PROMPT, "甲", "乙", 1, 9)], names)
    with pytest.raises(DataError) as caught:
        pairs_from_votes(rows)
    assert "'x', 'y', 'z', 'p', 'q'" in caught.value.en
    asked = dict(zip(("prompt", "text_a", "text_b", "votes_a", "votes_b"), names, strict=True))
    assert pairs_from_votes(rows, columns=asked).rows[0]["chosen"] == "乙"
    swapped = {"votes_a": "prefer_b", "votes_b": "prefer_a"}
    assert pairs_from_votes(rows_of([(PROMPT, "甲", "乙", 1, 9, 0)], NAMES[0]), columns=swapped).rows[0]["chosen"] == "甲"


@pytest.mark.parametrize(("columns", "near"), [({"vote_a": "A票"}, "votes_a"), ({"skip": "スキッブ"}, "スキップ")])
def test_an_unknown_role_or_column_names_the_nearest(columns, near):
    with pytest.raises(DataError) as caught:
        pairs_from_votes(rows_of([(PROMPT, "甲", "乙", 1, 9, 0)], NAMES[1]), columns=columns)
    assert f"nearest is {near}" in caught.value.en


def test_one_row_for_each_judgement_is_added_up_also_the_other_way_round():
    winners = ["A", "a", "案A", "左", "model_a", "1", 1, "Ｂ", "tie", "引き分け", "skip", "", None]
    rows = rows_of([(PROMPT, "甲", "乙", winner) for winner in winners], ("prompt", "text_a", "text_b", "winner"))
    rows += rows_of([(PROMPT, "乙", "甲", "B")], ("prompt", "text_a", "text_b", "winner"))
    row = balanced(pairs_from_votes(rows)).rows[0]
    assert (row["chosen"], row["votes_a"], row["votes_b"], row["votes_skip"]) == ("甲", 8, 1, 3)


def test_a_pair_that_nobody_judged_is_no_tie():
    rows = rows_of([(PROMPT, "甲", "乙", ""), (PROMPT, "丙", "丁", "tie")], ("prompt", "text_a", "text_b", "winner"))
    assert balanced(pairs_from_votes(rows)).dropped == {"not_judged": 1, "all_skipped": 1}


def test_rows_that_cannot_be_read_are_counted_and_named_by_their_line():
    rows = rows_of([(PROMPT, "甲", "乙", "多い", 1, 0), ("", "甲", "乙", 9, 1, 0), (PROMPT, "甲", "乙", -3, 1, 0)], NAMES[0])
    rows.append(broken("not_json", "JSON でない", "no JSON", Place("votes.csv", 9)))
    result = balanced(pairs_from_votes(rows))
    assert result.counted["rows"] == 4 == sum(result.dropped_rows.values())
    assert result.dropped_rows == {"not_a_count": 2, "no_text": 1, "unreadable": 1}
    assert any("votes.csv line 2: '多い' is no count" in line for line in result.lines())


def test_an_answer_that_is_neither_side_is_named_not_guessed():
    """0 and 1 mean one thing in this file and another in that one."""
    rows = rows_of([(PROMPT, "甲", "乙", winner) for winner in ("A", "0", "まあまあ")], ("prompt", "text_a", "text_b", "判定"))
    assert pairs_from_votes(rows, margin=1).dropped_rows == {"unknown_winner": 2}


def test_the_margin_is_a_dial_and_its_price_is_said():
    rows = rows_of([(PROMPT, f"甲{n}", "乙", n, 10 - n, 0) for n in range(11)], NAMES[0])
    results = {margin: balanced(pairs_from_votes(rows, margin)) for margin in (1, 5, 7)}
    assert {margin: result.counted["kept"] for margin, result in results.items()} == {1: 10, 5: 6, 7: 4}
    assert [result.expected_disagreement for result in results.values()] == [0.206, 0.074, 0.038]
    assert results[5].by_margin == {1: 10, 3: 8, 5: 6, 7: 4} and "7.4%" in results[5].lines()[4]
    with pytest.raises(DataError):
        pairs_from_votes(rows, 0)


def test_too_few_raters_for_the_margin_hear_what_would_do():
    result = balanced(pairs_from_votes(rows_of([(PROMPT, "甲", "乙", 3, 0, 0)], NAMES[0])))
    assert result.rows == [] and any("margin=3" in line for line in result.lines())


@pytest.mark.parametrize(("one", "two"), [(8, 2), (5, 0), (0, 5), (3, 3), (60, 40)])
def test_p_win_is_the_exact_posterior(one, two):
    """Beta(one + 1, two + 1) above one half, as a sum of fractions."""
    size = one + two + 1
    assert share_above_half(one, two) == pytest.approx(float(Fraction(sum(comb(size, k) for k in range(one + 1)), 2**size)))
    assert share_above_half(one, two) + share_above_half(two, one) == pytest.approx(1)
    assert share_above_half(30_000, 10) == pytest.approx(1) and 0.9 < share_above_half(10_100, 9_900) < 0.95


def test_the_rows_are_pair_rows():
    result = pairs_from_votes(rows_of([(PROMPT, *value) for value in VALUES], NAMES[0]))
    checked = validate(RawRow(row, Place("votes", at, "row")) for at, row in enumerate(result.rows, 1))
    assert len(checked.pairs) == 1 and checked.pairs[0]["p_win"] == pytest.approx(0.96729)
