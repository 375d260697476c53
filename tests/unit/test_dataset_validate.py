"""Validation: accepted spellings end as one shape, and rows_in == kept + dropped whatever comes in."""

import json
import random

import pytest

from adslm_helpers.dataset.formats import Place, Problem, RawRow
from adslm_helpers.dataset.report import REASONS
from adslm_helpers.dataset.validate import normalise_row, validate

PAIR = {"prompt": "靴の見出し", "chosen": "軽い靴で、遠くまで。", "rejected": "靴です。"}


def raw(value, number=1):
    return RawRow(value, Place("data/train.jsonl", number))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def code(value):
    outcome = normalise_row(raw(value))
    return outcome.code if isinstance(outcome, Problem) else None


def test_plain_row_keeps_its_text_and_gets_id_and_source():
    row = normalise_row(raw({**PAIR, "chosen": "\u3000軽い ﾈｺ①\n靴 \n"}, 12))
    assert row["chosen"] == "軽い ﾈｺ①\n靴"
    assert row["source"] == "train.jsonl:12"
    assert len(row["id"]) == 12 and set(row["id"]) <= set("0123456789abcdef")
    assert row["id"] != normalise_row(raw(PAIR))["id"]


SPELLINGS = [
    PAIR,
    {" Prompt ": PAIR["prompt"], "ＣＨＯＳＥＮ": PAIR["chosen"], "Rejected": PAIR["rejected"]},
    {**PAIR, "prompt": [user(PAIR["prompt"])]},
    {**PAIR, "chosen": [assistant(PAIR["chosen"])], "rejected": [assistant(PAIR["rejected"])]},
    {**PAIR, "chosen": [assistant(PAIR["chosen"])]},
    {
        "chosen": [user(PAIR["prompt"]), assistant(PAIR["chosen"])],
        "rejected": [user(PAIR["prompt"]), assistant(PAIR["rejected"])],
    },
    {
        "prompt": PAIR["prompt"],
        "chosen": [user(PAIR["prompt"]), assistant(PAIR["chosen"])],
        "rejected": [user(PAIR["prompt"]), assistant(PAIR["rejected"])],
    },
]


@pytest.mark.parametrize("value", SPELLINGS)
@pytest.mark.parametrize("as_csv", [False, True])
def test_every_spelling_ends_as_the_same_row(value, as_csv):
    if as_csv:  # a cell holds text only
        value = {key: cell if isinstance(cell, str) else json.dumps(cell) for key, cell in value.items()}
    assert normalise_row(raw(value)) == normalise_row(raw(PAIR))


def test_a_dialogue_stays_a_list_of_messages():
    system = {"role": "system", "content": "広告文だけを書く。"}
    row = normalise_row(raw({**PAIR, "prompt": [system, user("靴")]}))
    assert row["prompt"] == [system, user("靴")]
    whole = {side: [system, user("靴"), assistant(side)] for side in ("chosen", "rejected")}
    assert normalise_row(raw({"prompt": "靴", **whole}))["prompt"] == [system, user("靴")]
    shared = [user("靴"), assistant("どんな？"), user("軽い")]
    row = normalise_row(raw({"chosen": [*shared, assistant("a")], "rejected": [*shared, assistant("b")]}))
    assert (row["prompt"], row["chosen"], row["rejected"]) == (shared, "a", "b")


BAD = [
    ("not_object", [1, 2]),
    ("not_object", None),
    ("missing_column", {"prompt": "p", "chosen": "c"}),
    ("missing_column", {"chosen": "c", "rejected": "r"}),
    ("missing_column", {"\ud800": 1}),
    ("empty_prompt", {**PAIR, "prompt": " \u3000"}),
    ("empty_prompt", {**PAIR, "prompt": [user("")]}),
    ("empty_prompt", {**PAIR, "prompt": []}),
    ("empty_chosen", {**PAIR, "chosen": "\u200b\ufeff"}),
    ("empty_chosen", {**PAIR, "chosen": []}),
    ("empty_rejected", {**PAIR, "rejected": None}),
    ("not_text", {**PAIR, "rejected": 3}),
    ("not_text", {**PAIR, "prompt": float("nan")}),
    ("not_text", {**PAIR, "prompt": {"a": 1}}),
    ("same_answers", {**PAIR, "rejected": PAIR["chosen"] + "\n"}),
    ("bad_messages", {**PAIR, "chosen": [user("靴"), user("靴")]}),
    ("bad_messages", {**PAIR, "chosen": [{"from": "gpt", "value": "靴"}]}),
    ("bad_messages", {**PAIR, "prompt": [user("a"), assistant("b")]}),
    ("bad_messages", {**PAIR, "prompt": [{"role": ["user"], "content": "a"}]}),
    ("bad_messages", {"chosen": [user("p"), assistant("c")], "rejected": [user("q"), assistant("r")]}),
    ("bad_messages", {**PAIR, "chosen": [user("別の依頼"), assistant("c")]}),
    ("lone_surrogate", {**PAIR, "chosen": "靴\ud83d"}),
    ("lone_surrogate", {**PAIR, "prompt": [user("靴\udc80"), assistant("x"), user("y")]}),
    ("nul_character", {**PAIR, "chosen": "靴\0"}),
]


@pytest.mark.parametrize(("expected", "value"), BAD)
def test_unusable_rows_have_a_code_and_words_that_can_be_printed(expected, value):
    problem = normalise_row(raw(value, 12))
    assert problem.code == expected and expected in REASONS
    assert problem.line_ja.startswith("data/train.jsonl 12行目: ") and problem.line_en.startswith("data/train.jsonl line 12: ")
    (problem.line_ja + problem.line_en).encode("utf-8")


def test_extra_columns_are_kept_only_where_jsonl_can_hold_them():
    extras = {"synthetic": True, "p_win": 0.9, "id": 7, "bad": float("nan"), "tags": {"a": 1}, "half": "\ud83d", "none": None}
    extras |= {"keywords": [["入札", "オークション"], ["表示"]], "deep": [[["a"]]]}
    result = validate([raw({**PAIR, **extras})])
    row = result.pairs[0]
    assert {key: row[key] for key in ("synthetic", "p_win", "original_id", "none", "keywords")} == {
        "synthetic": True, "p_win": 0.9, "original_id": 7, "none": None, "keywords": extras["keywords"],
    }  # fmt: skip
    left_out = {"bad", "tags", "half", "deep"}
    assert not left_out & set(row) and result.notes == {f"left_out:{name!r}": 1 for name in left_out}
    json.dumps(row, allow_nan=False, ensure_ascii=False).encode("utf-8")


def test_a_row_that_a_run_wrote_keeps_its_first_source():
    once = normalise_row(raw({**PAIR, "source": "log.csv"}, 3))
    twice = normalise_row(raw({key: once[key] for key in sorted(once)}, 4))  # original_source comes before source
    assert (twice["source"], twice["original_source"], twice["id"]) == ("train.jsonl:4", "log.csv", once["id"])


def test_duplicates_keep_the_first_and_name_it():
    result = validate([raw(PAIR, 1), raw({**PAIR, "x": 1}, 2), raw({**PAIR, "chosen": PAIR["chosen"] + " "}, 3)])
    assert [row["source"] for row in result.pairs] == ["train.jsonl:1"]
    assert result.dropped == {"duplicate": 2}
    assert "data/train.jsonl 1行目" in result.problems[0].ja


def test_one_flood_of_problems_does_not_hide_the_others():
    rows = [raw(PAIR, n) for n in range(1, 200)] + [raw({**PAIR, "chosen": ""}, 200)]
    result = validate(rows, max_reported=20)
    assert {problem.code for problem in result.problems} == {"duplicate", "empty_chosen"}
    assert len(result.problems) <= 20


def test_rows_in_is_kept_plus_dropped_whatever_comes():
    rng = random.Random(0)
    cells = ["a", "b", " a ", "", None, 3, [], [user("a")], [assistant("b")], [user("a"), assistant("c")], "\ud800", "\0", {}]
    broken = RawRow(None, Place("f", 1), Problem("not_json", "ja", "en", Place("f", 1)))
    for _ in range(50):
        rows = [broken] * rng.randrange(3)
        for number in range(rng.randrange(60)):
            columns = [name for name in ("prompt", "chosen", "rejected", "extra") if rng.random() < 0.9]
            rows.append(raw({name: rng.choice(cells) for name in columns} if rng.random() < 0.9 else rng.choice(cells), number))
        result = validate(rows)
        assert result.rows_in == len(rows) == len(result.pairs) + sum(result.dropped.values())
        assert set(result.dropped) <= set(REASONS)
        for row in result.pairs:
            assert row["chosen"] != row["rejected"] and row["prompt"] and row["chosen"] and row["rejected"]
