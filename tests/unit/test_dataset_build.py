"""The dataset step: what it writes adds up, what it refuses leaves the run as it was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adslm_helpers.dataset import sources
from adslm_helpers.dataset.build import build_dataset, load_split
from adslm_helpers.errors import DataError, RunError
from adslm_helpers.recipe import load_recipe
from adslm_helpers.run import Run, read_json, sha256

SHARED = Path(os.environ.get("ADSLM_SHARED") or Path(__file__).parents[3] / "shared")
SEED_PAIRS = SHARED / "data" / "adtech_seed" / "pairs_v3.jsonl"


@pytest.fixture
def run(tmp_path):
    return Run("r", root=tmp_path / "runs")


@pytest.fixture
def recipe():
    return load_recipe("smoke")


def pair(number, **changes):
    values = {"prompt": f"商品{number // 2}の見出し", "chosen": f"良い案{number}", "rejected": f"並の案{number}"}
    return {**values, **changes}


def write(path, rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_files_report_and_manifest_agree(tmp_path, run, recipe):
    rows = [*(pair(n) for n in range(40)), "{broken", pair(0), pair(1, rejected=""), pair(50, chosen="\ud800")]
    source = write(tmp_path / "ads.jsonl", rows)
    report = build_dataset(run, source, recipe)
    assert (report.rows_in, report.kept) == (44, 40)
    assert report.dropped == {"not_json": 1, "duplicate": 1, "empty_rejected": 1, "lone_surrogate": 1}
    train, held = load_split(run, "train"), load_split(run, "eval")
    assert len(train) + len(held) == 40 and not {r["prompt"] for r in train} & {r["prompt"] for r in held}
    saved, notes = read_json(run.dataset / "report.json"), run.require("dataset")
    assert saved == json.loads(json.dumps(report.to_dict()))
    assert saved["sha256"]["source"] == sha256(source)
    assert saved["sha256"]["eval"] == sha256(run.dataset / "eval.jsonl") == notes["sha256"]["eval"]
    assert (notes["rows_in"], notes["kept"], notes["train"], notes["eval"]) == (44, 40, len(train), len(held))
    assert notes["dropped"] == report.dropped and len(notes["hash"]) == 64
    assert "41行目" in saved["problems"][0]["ja"] and "line 41" in saved["problems"][0]["en"]


def test_the_same_data_and_seed_give_the_same_files(tmp_path, run, recipe):
    source = write(tmp_path / "ads.jsonl", [pair(n) for n in range(60)])
    first = build_dataset(run, source, recipe).sha256
    assert build_dataset(run, source, recipe).sha256 == first
    other = build_dataset(run, source, load_recipe("smoke", seed=recipe.seed + 1)).sha256
    assert other["source"] == first["source"] and other["eval"] != first["eval"]


def test_strict_mode_names_the_places_and_writes_nothing(tmp_path, run, recipe):
    rows = [*(pair(n) for n in range(10)), *(pair(n, chosen="") for n in range(10, 17))]
    with pytest.raises(DataError) as caught:
        build_dataset(run, write(tmp_path / "ads.jsonl", rows), recipe, drop_invalid=False)
    assert caught.value.ja.count("行目") == 5 and "11行目" in caught.value.ja and "--strict" in caught.value.en
    assert not (run.dataset / "train.jsonl").exists() and run.status("dataset") == "failed"
    with pytest.raises(RunError):
        load_split(run, "train")


def test_nothing_usable_says_why_with_three_places(tmp_path, run, recipe):
    with pytest.raises(DataError) as caught:
        build_dataset(run, write(tmp_path / "ads.jsonl", [pair(n, rejected="") for n in range(9)]), recipe)
    assert caught.value.ja.count("行目") == 3 and "empty rejected 9" in caught.value.en


def test_a_mistyped_source_does_not_make_a_finished_run_stale(tmp_path, run, recipe):
    build_dataset(run, write(tmp_path / "ads.jsonl", [pair(n) for n in range(20)]), recipe)
    with run.step("training"):
        pass
    before = run.manifest()
    for source in (tmp_path / "ad.jsonl", "sample:many"):
        with pytest.raises(DataError):
            build_dataset(run, source, recipe)
    assert run.manifest() == before


def test_summary_is_bilingual_and_html_is_escaped(tmp_path, run, recipe):
    rows = [*(pair(n) for n in range(20)), {"<script>alert(1)</script>": 1}]
    report = build_dataset(run, write(tmp_path / "<b>ads.jsonl", rows), recipe)
    text = "\n".join(report.lines())
    assert "採用 20行、除外 1行（列がない 1）" in text and "20 kept, 1 dropped (column missing 1)" in text
    assert "両方にあるプロンプトも応答文も 0 件" in text and "No prompt and no answer stands on both sides." in text
    page = report._repr_html_()
    assert "<script>" not in page and "<b>ads" not in page and "&lt;script&gt;" in page


def test_made_up_pairs_by_count(run, recipe, monkeypatch):
    asked = {}

    def sample_pairs(n, seed):
        asked.update(n=n, seed=seed)
        return [pair(number, synthetic=True, defect="vague") for number in range(n)]

    monkeypatch.setattr(sources, "sample_pairs", sample_pairs)
    report = build_dataset(run, "sample:30", recipe)
    assert asked == {"n": 30, "seed": recipe.seed} and report.rows_in == 30 and len(report.sha256["source"]) == 64
    assert load_split(run, "train")[0]["defect"] == "vague"


@pytest.mark.parametrize("source", [None, "sample"])
def test_the_shipped_sample_is_the_default(tmp_path, run, recipe, monkeypatch, source):
    shipped = write(tmp_path / "sample_pairs.jsonl", [pair(n) for n in range(20)])
    monkeypatch.setattr(sources, "data_path", {"sample_pairs.jsonl": shipped}.__getitem__)
    report = build_dataset(run, source, recipe)
    assert (report.source, report.kept, report.sha256["source"]) == ("sample", 20, sha256(shipped))


def test_an_unknown_side_is_refused(run):
    with pytest.raises(DataError):
        load_split(run, "test")


def test_importing_the_room_loads_no_heavy_library():
    code = (
        "import sys, adslm_helpers.dataset.build; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'duckdb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not SEED_PAIRS.exists(), reason="the seed data is not beside this clone")
def test_the_seed_file_goes_through(run, recipe):
    report = build_dataset(run, SEED_PAIRS, recipe)
    assert report.kept == 3563 == report.split["train"] + report.split["eval"]
    assert report.split["train_prompts"] + report.split["eval_prompts"] == 9
    assert {"few_prompts", "few_rejected", "surface_rule", "length_disobeyed", "few_eval_groups"} <= {
        f.code for f in report.findings
    }
    assert any("28%" in line for line in report.lines())
