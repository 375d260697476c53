"""The repair changes what it says and nothing else, counts add up, and a second time there is nothing left to do."""

import json
import os
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adslm_helpers.data_files import data_path
from adslm_helpers.dataset.audit.audit import audit
from adslm_helpers.dataset.audit.repair import CHANGES, KINDS, repair
from adslm_helpers.dataset.formats import read_rows
from adslm_helpers.dataset.validate import validate
from adslm_helpers.run import read_jsonl

SEED = Path(os.environ.get("ADSLM_SHARED") or Path(__file__).parents[3] / "shared") / "data" / "adtech_seed"


def row(chosen="軽い靴。今すぐ試そう", rejected="靴です。ぜひどうぞ", prompt="靴の見出し", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def kinds(result):
    return {change.kind: change.number for change in result.changes}


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ("ｱﾌﾟﾘで時短", "アプリで時短", "characters"), ("送料無料".encode().decode("latin-1"), "送料無料", "characters"),
        ("送料\u200b無料", "送料無料", "characters"), (" 送料無料\n", "送料無料", "spaces"), ("「送料無料の靴」", "送料無料の靴", "quotes"),
        ("『 送料無料の靴』", "送料無料の靴", "quotes"), ("便利なアプリ！！！！", "便利なアプリ！", "padding"), ("便利？ ？ ？", "便利？", "padding"),
    ],
)  # fmt: skip
def test_a_text_is_mended_and_shown(before, after, kind):
    result = repair([row(chosen=before, source="a.csv:3", id="x1")])
    assert result.rows == [row(chosen=after, source="a.csv:3", id="x1")]
    assert kinds(result)[kind] == 1 and "a.csv:3 (x1)" in "\n".join(result.lines())


@pytest.mark.parametrize(
    "text", ["「軽い」と「丈夫」", "軽い！！", "そうですね……", "「軽い」", "軽い靴だーー", "OK!?", "『本』の「靴」"]
)
def test_what_may_be_meant_stays(text):
    kept = "軽い" if text == "「軽い」" else text
    assert repair([row(chosen=text)]).rows[0]["chosen"] == kept


def test_two_marks_are_padding_where_the_side_is_padded():
    padded = [row(f"{name}の靴です", f"{name}の安い靴{'！' * (2 + n % 3)}", f"{name}") for n, name in enumerate("甲乙丙丁戊")]
    assert all(r["rejected"].endswith("靴！") for r in repair(padded).rows)
    once = [row(f"{name}の靴です", f"{name}の安い靴！！", f"{name}") for name in "甲乙丙丁戊"]
    assert repair(once).rows == once


def test_rows_are_dropped_by_reason():
    rows = [
        row(), row(), row(rejected="靴です。ぜひどうぞ！"),  # a row, its copy, its near copy
        row("\u200b", "文"), row("同じ！！！", "同じ！", "別"),
        row("甲の文", "乙の文", "逆"), row("乙の文", "甲の文", "逆"),
        *(row(a, b, "輪") for a, b in ("甲乙", "乙丙", "丙甲")),
        row("長い長い長い文です", "短い文", "8文字以内で"), row("長い長い長い文です", "長い長い文だった", "7文字以内で"),
        row("業界最安値の靴", "靴です", "安い靴"),
    ]  # fmt: skip
    result = repair(rows)
    assert result.dropped == {
        "empty": 1, "same_answers": 1, "duplicate": 1, "near_duplicate": 1, "reversed": 2, "contradiction": 3, "length_disobeyed": 1, "ad_rules": 1,
    }  # fmt: skip
    assert [r["prompt"] for r in result.rows] == ["靴の見出し", "7文字以内で"]
    assert result.rows_in == len(rows) == len(result.rows) + sum(result.dropped.values())
    assert not repair([row("業界最安値の靴", "靴です")], breaches=lambda text: []).changes
    shouting = repair([row()], breaches=lambda text: [SimpleNamespace(severity="error")])
    assert shouting.rows == [] and shouting.dropped == {"ad_rules": 1}


def test_messages_are_mended_one_by_one_and_the_input_is_left_alone():
    prompt = [{"role": "system", "content": "丁寧に"}, {"role": "user", "content": "ｱﾌﾟﾘの見出し"}]
    rows = [row(prompt=prompt)]
    before = json.dumps(rows)
    assert repair(rows).rows[0]["prompt"][1] == {"role": "user", "content": "アプリの見出し"}
    assert json.dumps(rows) == before


def test_three_examples_and_both_languages_and_a_page_that_escapes():
    rows = [
        row(chosen=f" <b>{n}番の靴</b>", rejected=f"{'あいうえおかき'[n]}の店", prompt=f"依頼{'甲乙丙丁戊己庚'[n]}")
        for n in range(7)
    ]
    result = repair(rows)
    assert kinds(result) == {"spaces": 7} and len(result.changes[0].examples) == 3
    page, text = result._repr_html_(), "\n".join(result.lines())
    assert "<b>0番" not in page and "前後の空白" in text and "Outer spaces removed: 7" in text
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["kept"] == 7
    assert repair([]).rows == [] and set(CHANGES) < KINDS.keys()


WORDS = st.text(alphabet="あアｱ1１！!。「」\"' \u200b\u3099か繧縺ã‚ƒ…", min_size=1, max_size=12)


@given(st.lists(st.tuples(st.sampled_from(["靴", "8文字以内で", "3文字以上で"]), WORDS, WORDS), max_size=12))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_a_second_repair_changes_nothing_and_every_row_is_accounted_for(triples):
    result = repair([row(chosen, rejected, prompt) for prompt, chosen, rejected in triples])
    assert result.rows_in == len(result.rows) + sum(result.dropped.values())
    again = repair(result.rows)
    assert again.rows == result.rows and again.changes == []


def test_the_shipped_sample_keeps_every_row_and_spoilt_it_is_mended():
    rows = read_jsonl(data_path("sample_pairs.jsonl"))[:120]
    assert len(repair(rows).rows) == 120
    rng = random.Random(0)
    spoilt = [{**r, "chosen": f" {r['chosen']}\u200b", "rejected": r["rejected"] + "！" * rng.randrange(3, 9)} for r in rows]
    assert "surface_rule" in {f.code for f in audit(spoilt).findings}
    left = {f.code for f in audit(repair(spoilt + spoilt[:20]).rows).findings}
    assert not left & {"width", "duplicates", "degenerate"}


@pytest.mark.skipif(not SEED.exists(), reason="the seed data is not beside this clone")
def test_the_known_set_after_its_repair():
    pairs = validate(read_rows(SEED / "pairs_v3.jsonl")).pairs
    result = repair(pairs)
    assert result.dropped["length_disobeyed"] == 2552 and len(result.rows) + sum(result.dropped.values()) == 3563
    assert repair(result.rows).changes == []
    left = {finding.code for finding in audit(result.rows).findings}
    # What needs new texts stays and is said again.
    assert {"few_prompts", "prompt_blind", "few_eval_groups"} <= left and not {"length_disobeyed", "width", "duplicates"} & left
