"""The report shows counts, verdict and findings, in lines, on a page and as JSON, and escapes what the data hold."""

import json

from adslm_helpers.dataset.audit.audit import audit
from adslm_helpers.dataset.report import DatasetReport
from adslm_helpers.dataset.split import split_pairs


def report(**more):
    rows = [{"prompt": f"<i>{n}</i>店の見出し", "chosen": f"{n}軽い靴", "rejected": f"{n}靴だ！"} for n in range(40)]
    split = split_pairs(rows, 0.15, 0)
    result = audit(rows, split)
    sides = {"train": len(split.train), "eval": len(split.eval), "train_prompts": 34, "eval_prompts": 6, "eval_share": 0.15}
    values = {
        "run": "r", "source": "a.jsonl", "rows_in": 42, "kept": 40, "dropped": {"duplicate": 2}, "notes": {}, "problems": [],
        "statistics": {}, "split": {**sides, **split.to_dict()}, "sha256": {}, "audit": result, "understood": [], "facts": {}, "repair": None,
        "pairs_in": 42,
    }  # fmt: skip
    return DatasetReport(**{**values, **more})


def test_verdict_and_findings_stand_in_the_lines_and_in_the_json():
    shown = report()
    lines = shown.lines()
    assert lines[0] == "a.jsonl: 42行 → 採用 40行、除外 2行（重複 2）" and "約束できません" in "\n".join(lines)
    assert "[要対処]" in "\n".join(lines) and any(line.startswith("    ") for line in lines)
    values = json.loads(json.dumps(shown.to_dict(), allow_nan=False))
    assert values["audit"]["trustworthy"] is False and values["pairs_in"] == 42 and values["audit"]["findings"][0]["cure_ja"]


def test_rows_of_several_pairs_are_counted_as_rows_and_as_pairs():
    lines = report(rows_in=20, pairs_in=42, dropped={"duplicate": 1, "tie": 1}).lines()
    assert lines[:2] == [
        "a.jsonl: 20行（42対） → 採用 40対、除外 2対（重複 1、引き分け 1）",
        "a.jsonl: 20 rows (42 pairs) -> 40 pairs kept, 2 pairs dropped (duplicate 1, tie 1)",
    ]


def test_the_page_holds_the_same_and_no_markup_of_the_data():
    page = report()._repr_html_()
    assert "要対処" in page and "<i>" not in page and "&lt;i&gt;" in page and "約束できません" in page
