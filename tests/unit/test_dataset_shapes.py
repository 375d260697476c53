"""The forms of preference data: each is told from its rows, ends as the same pairs, or is refused with what to do."""

import csv
import gzip
import io
import json
import re
from pathlib import Path

import pytest

from adslm_helpers.dataset import formats
from adslm_helpers.dataset.formats import RawRow, read_pairs
from adslm_helpers.dataset.forms import shaping as shaping
from adslm_helpers.dataset.forms.shapes import SHAPES, detect_shape
from adslm_helpers.dataset.forms.shaping import REASONS as SHAPE_REASONS
from adslm_helpers.dataset.forms.shaping import shaped
from adslm_helpers.dataset.report import REASONS
from adslm_helpers.dataset.rows import Place
from adslm_helpers.dataset.validate import SIDES, validate
from adslm_helpers.errors import DataError

PAIRS = [
    ("靴の見出しを書いて", "軽い靴で、遠くまで。", "靴です。"),
    ("鞄の見出しを書いて", "一つで、通勤も旅も。", "鞄です。"),
    ("傘の見出しを書いて", "雨の日も、まっすぐに。", "傘です。"),
]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def turns(*texts, key="from", value="value", names=("human", "gpt")):
    return [{key: names[number % 2], value: text} for number, text in enumerate(texts)]


def human(*texts):
    return "".join(f"\n\n{('Human', 'Assistant')[number % 2]}: {text}" for number, text in enumerate(texts))


def parts(text):
    return [{"type": "text", "text": text}]


# name of the case -> (form, how a pair is written in it)
WRITTEN = {
    "strings": ("pairs", lambda p, c, r: {"prompt": p, "chosen": c, "rejected": r}),
    "names": ("pairs", lambda p, c, r: {"Question": p, "Response Chosen": c, "response_rejected": r}),
    "accepted": ("pairs", lambda p, c, r: {"query": p, "accepted": c, "dispreferred": r}),
    "japanese": ("pairs", lambda p, c, r: {"依頼": p, "良い": c, "悪い": r}),
    "adopted": ("pairs", lambda p, c, r: {"No.": 1, "プロンプト": p, "採用": c, "不採用": r}),
    "swift": ("pairs", lambda p, c, r: {"system": "", "history": [], "query": p, "response": c, "rejected_response": r}),
    "alpaca": ("pairs", lambda p, c, r: {"instruction": p, "input": "", "chosen": c, "rejected": r}),
    "alpaca-input": ("pairs", lambda p, c, r: {"instruction": p[:3], "input": p[3:], "chosen": c, "rejected": r}),
    "messages": ("pairs", lambda p, c, r: {"prompt": [user(p)], "chosen": [assistant(c)], "rejected": [assistant(r)]}),
    "sharegpt": ("pairs", lambda p, c, r: {"conversations": turns(p), "chosen": turns("", c)[1], "rejected": turns("", r)[1]}),
    "parts": (
        "pairs",
        lambda p, c, r: {"prompt": [user(parts(p))], "chosen": [assistant(parts(c))], "rejected": [assistant(parts(r))]},
    ),
    "prompt-and-dialogues": (
        "pairs",
        lambda p, c, r: {
            "prompt": p,
            "chosen": [user(p), assistant(c)],
            "rejected": [user(p), assistant(r)],
            "score_chosen": 8.5,
        },
    ),
    "transcript-prompt": (
        "pairs",
        lambda p, c, r: {"prompt": human(p) + "\n\nAssistant:", "chosen": f" {c}", "rejected": f" {r}"},
    ),
    "dialogues": ("dialogues", lambda p, c, r: {"chosen": [user(p), assistant(c)], "rejected": [user(p), assistant(r)]}),
    "from-value": ("dialogues", lambda p, c, r: {"chosen": turns(p, c), "rejected": turns(p, r)}),
    "turns-beside-dialogues": (
        "dialogues",
        lambda p, c, r: {
            "conversation": [{"input": p, "output": "x"}],
            "chosen": [user(p), assistant(c)],
            "rejected": [user(p), assistant(r)],
        },
    ),
    "transcripts": ("dialogues", lambda p, c, r: {"chosen": human(p, c), "rejected": human(p, r)}),
    "python-list": (
        "dialogues",
        lambda p, c, r: {"chosen": str([user(p), assistant(c)]), "rejected": str([user(p), assistant(r)])},
    ),
    "better-id": ("choice", lambda p, c, r: {"prompt": p, "response_0": r, "response_1": c, "better_response_id": 1}),
    "winner": ("choice", lambda p, c, r: {"prompt": p, "response_a": c, "response_b": r, "winner": "model_a"}),
    "arena": (
        "choice",
        lambda p, c, r: {
            "model_a": "x",
            "model_b": "y",
            "prompt": json.dumps([p]),
            "response_a": json.dumps([r]),
            "response_b": json.dumps([c]),
            "winner_model_a": 0,
            "winner_model_b": 1,
            "winner_tie": 0,
        },
    ),
    "arena-conversations": (
        "choice",
        lambda p, c, r: {
            "question": p,
            "conversation_a": [user(p), assistant(r)],
            "conversation_b": [user(p), assistant(c)],
            "winner": "b",
        },
    ),
    "japanese-choice": ("choice", lambda p, c, r: {"依頼": p, "A案": r, "B案": c, "どちら": "B"}),
    "strength": ("choice", lambda p, c, r: {"context": [user(p)], "response1": c, "response2": r, "overall_preference": -2}),
    "summaries": ("choice", lambda p, c, r: {"post": p, "summaries": [{"text": c}, {"text": r}], "choice": 0}),
    "completions": (
        "scored",
        lambda p, c, r: {
            "instruction": p,
            "completions": [
                {"response": "中くらいの文。", "overall_score": 5.0},
                {"response": r, "overall_score": 2.0},
                {"response": c, "overall_score": 9.0},
            ],
        },
    ),
    "scores": ("scored", lambda p, c, r: {"prompt": p, "responses": [r, c], "scores": [0.1, 0.7]}),
    "wide-scores": ("scored", lambda p, c, r: {"依頼": p, "案1": c, "点1": "4.5", "案2": r, "点2": "2", "案3": "", "点3": ""}),
    "forum": (
        "scored",
        lambda p, c, r: {"history": p, "human_ref_A": r, "human_ref_B": c, "score_A": 3, "score_B": 12, "labels": 0},
    ),
    "ranks": ("ranked", lambda p, c, r: {"prompt": p, "answers": [{"answer": r, "rank": 7}, {"answer": c, "rank": 1}]}),
    "rank-list": ("ranked", lambda p, c, r: {"prompt": p, "responses": [r, "中くらいの文。", c], "ranks": [3, 2, 1]}),
    "best-first": ("ordered", lambda p, c, r: {"instruction": p, "input": "", "output": [c, r]}),
}


def raws(values):
    return [RawRow(value, Place("a.jsonl", number)) for number, value in enumerate(values, 1)]


def sides(rows, **options):
    columns = options.pop("columns", None)
    rows = raws(rows)
    result = validate(shaped(iter(rows), detect_shape(rows, columns), **options))
    return [tuple(row[side] for side in SIDES) for row in result.pairs], dict(result.dropped), result


def expected(case):
    """The pairs as `case` holds them: an input stands on a line of its own."""
    return [(f"{p[:3]}\n{p[3:]}", c, r) if case == "alpaca-input" else (p, c, r) for p, c, r in PAIRS]


def refusal(rows, columns=None):
    with pytest.raises(DataError) as caught:
        detect_shape(raws(rows), columns)
    assert "→" in caught.value.ja and "->" in caught.value.en
    return caught.value.en


@pytest.mark.parametrize("case", WRITTEN)
def test_every_form_gives_the_same_pairs(case):
    name, written = WRITTEN[case]
    rows = raws([written(*pair) for pair in PAIRS])
    shape = detect_shape(rows)
    assert (shape.name, shape.rows_looked_at, shape.share) == (name, 3, 1.0)
    assert sides([row.value for row in rows])[:2] == (expected(case), {})
    assert all(column in " ".join(shape.lines()) for column in shape.columns.values())


def container(kind, rows, folder):
    """`rows` written as one kind of file."""
    columns = list(rows[0])
    cells = [[v if isinstance(v, str | int | float) else json.dumps(v, ensure_ascii=False) for v in row.values()] for row in rows]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    out = io.StringIO(newline="")
    csv.writer(out, delimiter="\t" if kind == "tsv" else ",").writerows([columns, *cells])
    texts = {"jsonl": lines, "json": json.dumps(rows), "csv": out.getvalue(), "tsv": out.getvalue()}
    path = folder / f"a.{kind}"
    if kind in texts:
        path.write_text(texts[kind], encoding="utf-8")
    elif kind.endswith(".gz"):
        path.write_bytes(gzip.compress(texts[kind[:-3]].encode()))
    elif kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        for row in (["対の表"], [], columns, *cells):
            book.active.append(row)
        book.save(path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "xlsx", "jsonl.gz", "csv.gz"])
def test_every_form_in_every_container_gives_the_same_pairs(tmp_path, kind):
    for case, (name, written) in WRITTEN.items():
        path = container(kind, [written(*pair) for pair in PAIRS], tmp_path)
        said = []
        shape, rows = read_pairs(path, say=said.append)
        result = validate(rows)
        found = [tuple(row[side] for side in SIDES) for row in result.pairs]
        assert (shape.name, found, dict(result.dropped)) == (name, expected(case), {}), case
        assert result.pairs[0]["source"].startswith(f"a.{kind}:") and not said and len(shape.lines()) == 2


NO_PAIRS = [
    ("fine-tuning", {"instruction": "靴", "input": "", "output": "軽い靴"}),
    ("fine-tuning", {"messages": [user("靴"), assistant("軽い靴")]}),
    ("fine-tuning", {"conversations": turns("靴", "軽い靴")}),
    ("fine-tuning", {"text": human("靴", "軽い靴")}),
    ("unpaired data (for KTO)", {"prompt": "靴", "completion": "軽い靴", "label": True}),
    ("unpaired data (for KTO)", {"messages": [user("靴"), assistant("軽い靴")], "label": False}),
    ("one answer and its score", {"prompt": "靴", "response": "軽い靴", "score": 3.5}),
    ("no column says which is better", {"prompt": "靴", "response_a": "軽い靴", "response_b": "靴"}),
    ("no column says which is better", {"prompt": "靴", "responses": ["軽い靴", "靴"]}),
    ("no column holds the prompt", {"chosen": "軽い靴", "rejected": "靴"}),
    ("--from-log", {"キーワード": "靴", "広告見出し": "軽い靴", "表示回数": "3,052", "クリック数": "12", "クリック率": "0.4%"}),
    ("--from-log", {"Ad group": "shoes", "Headline": "Light shoes", "Impr.": 3052, "Clicks": 12}),
    ("--votes", {"依頼": "靴", "案A": "軽い靴", "案B": "靴", "A票": 7, "B票": 2, "skip": 1}),
    ("--votes", {"prompt": "靴", "text_a": "軽い靴", "text_b": "靴", "A": "7", "B": "2", "skip": "1"}),
    ("names of the columns", {"x": "靴", "y": "軽い靴", "z": "靴"}),
]


@pytest.mark.parametrize(("words", "row"), NO_PAIRS)
def test_data_without_preferences_are_refused_with_the_reason(words, row):
    error = refusal([row] * 3)
    assert words in error and repr(next(iter(row))) in error and "a.jsonl line 1, line 2, line 3 (3 of the 3 rows" in error


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "靴", "response_a": "軽い靴", "response_b": "靴", "label": 1},
        {"prompt": "靴", "response_1": "軽い靴", "response_2": "靴", "winner": 0},
        {"prompt": "靴", "responses": ["軽い靴", "靴"], "choice": 1},
        {"prompt": "靴", "response_a": "軽い靴", "response_b": "靴", "preference": 0.7},
    ],
)
def test_a_number_that_could_mean_either_answer_is_not_guessed(row):
    assert "the opposite" in refusal([row, {**row}])


def test_numbers_that_can_mean_only_one_answer_are_understood():
    two = {"prompt": "靴", "response_1": "悪い靴", "response_2": "良い靴", "winner": "2"}
    assert sides([two])[0] == [("靴", "良い靴", "悪い靴")]
    lists = [{"prompt": p, "responses": [c, r], "label": n} for (p, c, r), n in zip(PAIRS, (1, 2, 1), strict=True)]
    assert sides(lists)[0][1] == (PAIRS[1][0], PAIRS[1][2], PAIRS[1][1])
    assert sides([{**row, "label": row["label"] - 1} for row in lists])[0] == sides(lists)[0]


def test_a_judgement_counts_even_beside_numbers_of_votes():
    row = {"prompt": "靴", "response_a": "良い", "response_b": "悪い", "n_turns": 1, "n_tokens": 9}
    assert sides([{**row, "winner": "a", "votes_a": 7, "votes_b": 2}])[0] == [("靴", "良い", "悪い")]
    assert "no column says" in refusal([row])


@pytest.mark.parametrize(
    ("label", "code"), [("tie", "tie"), ("tie (bothbad)", "tie"), ("引き分け", "tie"), ("", "no_winner"), ("c", "no_winner")]
)
def test_ties_and_rows_that_nobody_judged_are_told_apart(label, code):
    rows = [{"prompt": "靴", "response_a": c, "response_b": r, "winner": w} for _, c, r in PAIRS for w in ("a",)]
    assert sides([*rows, {**rows[0], "winner": label}])[1] == {code: 1}


def test_answers_that_are_rated_alike_or_alone_give_no_pair():
    row = {"prompt": "靴", "responses": ["a", "b"], "scores": [1, 1]}
    rows = [row, {**row, "scores": [1, None]}, {**row, "scores": [1]}, {**row, "scores": [2, 1]}, {**row, "scores": ["x", 1]}]
    assert sides(rows)[:2] == ([("靴", "a", "b")], {"tie": 1, "one_answer": 3})


def test_every_pair_of_the_answers_and_a_margin_with_counts_that_add_up():
    row = {"prompt": "靴", "responses": ["a", "b", "c", "d"], "scores": [4, 3, 3, 1]}
    found, dropped, result = sides([row, row], every_pair=True, margin=2)
    assert found == [("靴", "a", "d"), ("靴", "b", "d"), ("靴", "c", "d")]
    assert dropped == {"small_margin": 4, "tie": 2, "duplicate": 3}
    assert (result.rows_in, result.pairs_in) == (2, 12)
    assert {key: result.pairs[0][key] for key in ("score_chosen", "score_rejected")} == {
        "score_chosen": 4.0,
        "score_rejected": 1.0,
    }
    twice = {**row, "responses": ["a", "b", "b", "b"]}  # the same pair twice out of one row
    assert sides([twice], every_pair=True)[1] == {"duplicate": 2, "same_answers": 2, "tie": 1}


def test_the_best_of_three_by_choice_beats_each_of_the_others():
    row = {"依頼": "靴", "案1": "a", "案2": "b", "案3": "c", "選択": "案2"}
    found, dropped, result = sides([row, {**row, "依頼": "鞄", "案3": ""}])
    assert found == [("靴", "b", "a"), ("靴", "b", "c"), ("鞄", "b", "a")]
    assert (result.rows_in, result.pairs_in, dropped) == (2, 3, {})


def test_dialogues_that_part_before_the_last_answer_are_named_and_not_cut():
    good = {"chosen": human("靴", "どんな？", "軽い", "良い"), "rejected": human("靴", "どんな？", "軽い", "悪い")}
    parted = {"chosen": human("靴", "どんな？", "軽い", "良い"), "rejected": human("靴", "色は？", "赤", "悪い")}
    longer = {"chosen": human("靴", "どんな？", "軽い", "良い"), "rejected": human("靴", "悪い")}
    found, dropped, result = sides([good, parted, longer])
    assert found == [([user("靴"), assistant("どんな？"), user("軽い")], "良い", "悪い")]
    assert dropped == {"diverges": 2} and "message 2" in result.problems[0].en


def test_turns_of_an_arena_dialogue_part_as_soon_as_an_early_answer_differs():
    row = {"prompt": '["靴", "軽い"]', "response_a": '["どんな？", "良い"]', "response_b": '["色は？", "悪い"]', "winner": "a"}
    same = {**row, "response_b": '["どんな？", "悪い"]'}
    found, dropped, _ = sides([row, same])
    assert found == [([user("靴"), assistant("どんな？"), user("軽い")], "良い", "悪い")] and dropped == {"diverges": 1}


def test_system_and_history_stay_messages():
    row = {"system": "短く", "history": [["靴", "どんな？"]], "query": "軽い", "response": "良い", "rejected_response": "悪い"}
    prompt = [{"role": "system", "content": "短く"}, user("靴"), assistant("どんな？"), user("軽い")]
    assert sides([row])[0] == [(prompt, "良い", "悪い")]
    assert sides([{**row, "history": json.dumps(row["history"])}])[0] == [(prompt, "良い", "悪い")]


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("not_text", {"prompt": [user([{"type": "image", "image": "x.png"}])]}),
        ("bad_messages", {"chosen": [{"role": "tool", "content": "1"}]}),
        ("bad_messages", {"chosen": "[{'role': 'assistant', 'content': 'cut"}),
        ("bad_messages", {"chosen": [assistant("a"), "b"]}),
        ("not_text", {"chosen": 3}),
        ("empty_rejected", {"rejected": None}),
        ("empty_prompt", {"prompt": None, "system": "短く"}),
        ("bad_messages", {"chosen": [user("a"), user("b")]}),
    ],
)
def test_a_row_that_cannot_be_read_is_dropped_with_its_reason(code, change):
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in PAIRS]
    found, dropped, result = sides([*rows, {**rows[0], **change}])
    assert found == PAIRS and dropped == {code: 1} and "4行目" in result.problems[0].line_ja


def test_rows_of_another_form_are_dropped_by_name():
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in PAIRS]
    others = [{"prompt": "靴", "completion": "軽い"}, {"質問": "靴", "良い": "a", "悪い": "b"}, {"prompt": "靴", "chosen": "a"}]
    found, dropped, result = sides([*rows, *rows, *others, {" Prompt ": "靴", "CHOSEN": "x", "ｒｅｊｅｃｔｅｄ": "y"}])
    assert found == [*PAIRS, ("靴", "x", "y")] and dropped == {"duplicate": 3, "other_shape": 2, "missing_column": 1}
    assert "fine-tuning" in next(problem.en for problem in result.problems if problem.code == "other_shape")
    shape = detect_shape(raws([*rows, *others]))
    assert shape.share == 0.5 and "50%" in shape.lines()[1]


def test_what_only_some_rows_have_belongs_to_all(tmp_path):
    """A system prompt that stands in every tenth row must not end as a mere note of that row."""
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in PAIRS] + [
        {"system": "短く", "prompt": "靴", "chosen": "a", "rejected": "b"}
    ]
    found, dropped, _ = sides(rows)
    assert found[3][0] == [{"role": "system", "content": "短く"}, user("靴")] and not dropped
    two = {"prompt": "靴", "answer_1": "a", "score_1": 2, "answer_2": "b", "score_2": 1}
    assert sides([two, two, {**two, "answer_3": "c", "score_3": 3}])[0] == [("靴", "a", "b"), ("靴", "c", "b")]
    shape = detect_shape(raws([*rows, rows[0]]))
    assert shape.share == 1 and "system" in shape.columns
    late = [tuple(raw.value[side] for side in SIDES) for raw in shaped(iter(raws(rows)), detect_shape(raws(rows[:3])))]
    assert late == found
    off = detect_shape(raws(rows[:3]), {"system": ""})
    assert [raw.value["prompt"] for raw in shaped(iter(raws(rows)), off)][3] == "靴"


def test_a_system_prompt_belongs_to_whole_dialogues_too():
    row = {"system": "短く", "chosen": [user("靴"), assistant("a")], "rejected": [user("靴"), assistant("b")]}
    prompt = [{"role": "system", "content": "短く"}, user("靴")]
    assert sides([row, {**row, "prompt": "靴"}])[0][0] == (prompt, "a", "b")
    assert sides([{**row, "prompt": "靴"}])[0] == [(prompt, "a", "b")]


def test_a_system_prompt_is_not_said_twice_and_a_whole_prompt_gets_no_input():
    row = {
        "system": "短く",
        "prompt": [{"role": "system", "content": "短く"}, user("靴")],
        "chosen": "a",
        "rejected": "b",
        "input": "靴",
    }
    found, _, result = sides([row])
    assert found[0][0] == row["prompt"] and result.pairs[0]["input"] == "靴"


def test_columns_can_be_corrected():
    row = {"x": "靴", "y": "悪い靴", "z": "良い靴", "chosen": "メモ"}
    columns = {"prompt": "x", "chosen": "z", "rejected": " Y "}
    found, _, result = sides([row], columns=columns)
    assert found == [("靴", "良い靴", "悪い靴")] and result.pairs[0]["original_chosen"] == "メモ"
    assert "Nearest: chosen" in refusal([row], {"chosn": "z"})
    assert "Nearest: chosen" in refusal([row], {"rejected": "chose"})
    picked = {"依頼": "靴", "左の文": "悪い靴", "右の文": "良い靴", "結果": "右"}
    mapped = {"first": "左の文", "second": "右の文", "label": "結果"}
    assert sides([picked], columns=mapped)[0] == [("靴", "良い靴", "悪い靴")]
    extra = {"instruction": "靴", "input": "内部メモ", "chosen": "a", "rejected": "b"}
    assert sides([extra], columns={"input": ""})[0] == [("靴", "a", "b")]


def test_ad_copy_with_a_colon_is_no_transcript():
    rows = [{"prompt": "User: とは？", "chosen": "System: 軽い\n\nな靴", "rejected": "Assistant: 靴"}]
    assert sides(rows)[0] == [("User: とは？", "System: 軽い\n\nな靴", "Assistant: 靴")]


@pytest.mark.parametrize(
    "text",
    [
        "Human: " + "\n" * 150_000,
        "\n" * 150_000,
        " " * 150_000 + "[",
        "[" * 150_000,
        "[" + "-" * 150_000 + "1]",
        "Human:\n\n" * 20_000,
    ],
    ids=["turns", "lines", "spaces", "brackets", "signs", "humans"],
)
def test_texts_that_a_careless_pattern_takes_hours_for(text):
    rows = [{"prompt": "靴", "chosen": text, "rejected": "b"}, {"chosen": text, "rejected": text}]
    rows += [
        {"prompt": text, "responses": text, "scores": text},
        {"history": text, "system": text, "query": "q", "response": "a", "ng": "b"},
    ]
    for row in rows:
        try:
            result = sides([row])[2]
        except DataError:
            continue
        assert result.rows_in == 1 == len(result.pairs) + sum(result.dropped.values())


def test_an_empty_answer_of_a_transcript_is_told_as_such():
    rows = [{"chosen": human("靴", "a"), "rejected": human("靴", "b")}, {"chosen": human("靴", ""), "rejected": human("靴", "b")}]
    assert sides(rows)[1] == {"empty_chosen": 1}


def test_a_file_of_broken_rows_is_left_to_validation():
    assert detect_shape(raws([None, [1], "x"])).name == "pairs"


def test_a_long_file_says_how_far_it_was_read(monkeypatch, tmp_path):
    monkeypatch.setattr(formats, "_SLOW_S", -1.0)
    path, said = tmp_path / "a.jsonl", []
    path.write_text("\n".join(json.dumps({"依頼": f"靴{n}", "良い": "a", "悪い": "b"}) for n in range(2500)), encoding="utf-8")
    assert len(list(read_pairs(path, say=said.append)[1])) == 2500
    assert [line for line in said if "2,000" in line] and len(said) == 2


def test_pairs_are_read_as_a_stream(tmp_path):
    """A file of a million rows must not be held as a list."""
    path = tmp_path / "a.jsonl"
    row = {"依頼": "靴", "良い": "a", "悪い": "b"}
    path.write_text("\n".join(json.dumps({**row, "依頼": f"靴{n}"}) for n in range(1000)), encoding="utf-8")
    _, rows = read_pairs(path)
    first = next(rows)
    path.write_text("", encoding="utf-8")
    assert first.value["prompt"] == "靴0" and len([row for row in rows]) < 1000


def test_a_sheet_of_a_workbook_can_be_named(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for title in ("四月", "五月"):
        sheet = book.create_sheet(title)
        for cells in (["依頼", "良い", "悪い"], [f"{title}の靴", "軽い靴", "靴", "横のメモ"]):
            sheet.append(cells)
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match=r"a\.xlsx#四月"):
        read_pairs(tmp_path / "a.xlsx")
    row = next(read_pairs(f"{tmp_path / 'a.xlsx'}#五月")[1]).value
    assert (row["prompt"], row["column_D"]) == ("五月の靴", "横のメモ")


def test_the_examples_of_the_guide_are_read_as_it_says():
    guide = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    blocks = re.findall(r"([^\n]+)\n```jsonl\n(.*?)```", guide, re.DOTALL)
    lines = [(said, json.loads(line)) for said, block in blocks for line in block.splitlines()]
    assert len(lines) > 15
    for said, row in lines:
        assert f"`{detect_shape(raws([row])).name}`" in said, row
        found, dropped, _ = sides([row])
        assert [pair[1:] for pair in found] == [("軽い靴で、遠くまで。", "靴です。")] and not dropped, row


def test_every_reason_has_words():
    folder = Path(shaping.__file__).parent
    sources = [(folder / f"{name}.py").read_text(encoding="utf-8") for name in ("shaping", "messages", "labels")]
    codes = {code for source in sources for code in re.findall(r'Unusable\(\s*"(\w+)"', source)}
    assert len(codes) > 6 and codes <= {*REASONS, *SHAPE_REASONS}
    assert all(len(words) == 2 for words in [*SHAPE_REASONS.values(), *SHAPES.values()])
