"""Numbers by hand, and findings that fire on defective data and stay silent on honest data."""

import os
import random
import time
from pathlib import Path

import pytest

from adslm_helpers.dataset.formats import read_rows
from adslm_helpers.dataset.split import split_by_prompt
from adslm_helpers.dataset.statistics import dataset_warnings, describe, describe_table, surface_rules
from adslm_helpers.dataset.validate import validate

SHARED = Path(os.environ.get("ADSLM_SHARED") or Path(__file__).parents[3] / "shared")
SEED_PAIRS = SHARED / "data" / "adtech_seed" / "pairs_v3.jsonl"


def row(prompt, chosen, rejected):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def honest(n, seed=0):
    """Pairs whose sides come from one distribution: nothing tells them apart."""
    rng = random.Random(seed)
    letters = "あいうえおかきくけこさしすせそアイウエオ商品広告新着便利、。！ー「」123ABC"
    text = lambda: "".join(rng.choice(letters) for _ in range(rng.randrange(18, 26)))  # noqa: E731
    return [row(f"商品{number // 2}の見出し", text(), text()) for number in range(n)]


def codes(findings):
    return {finding.code: finding for finding in findings}


def test_describe_counts_by_hand():
    rows = [row("p", "aaaa", "b"), row("p", "aa", "bbb"), row("q", "aaaa", "b"), row("p", "aa", "bbb")]
    stats = describe(rows)
    assert stats["rows"] == 4 and stats["duplicates"] == 1
    assert stats["distinct"] == {"prompt": 2, "chosen": 2, "rejected": 2, "triple": 3}
    assert stats["chars"]["chosen"] == {"min": 2, "median": 3, "mean": 3, "p95": 4, "max": 4}
    assert stats["length_ratio"] == {"chars": 1.5} and stats["chosen_longer"] == 0.5


def test_tokens_are_counted_without_special_tokens():
    def tokenizer(texts, add_special_tokens):
        assert add_special_tokens is False
        return {"input_ids": [[1] * (2 * len(text)) for text in texts]}

    rows = [row([{"role": "user", "content": "p"}], "aaaa", "b"), row("q", "aa", "b")]
    stats = describe(rows, tokenizer)
    assert stats["tokens"]["chosen"]["max"] == 8 and stats["length_ratio"]["tokens"] == 3.0
    table = describe_table(stats)
    assert table.loc[("chosen", "tokens"), "max"] == 8 and table.loc[("rejected", "chars"), "distinct"] == 1
    assert len(table) == 6 and len(describe_table(describe(rows))) == 3


def test_rule_accuracy_is_wins_plus_half_the_ties():
    # "！": 2 pairs with more in rejected, 1 with more in chosen, 1 tie -> (2 + .5) / 4
    rows = [row("p", "い", "あ！"), row("p", "う！", "え！！"), row("p", "お！", "か"), row("p", "き", "く")]
    rule = next(rule for rule in surface_rules(rows) if rule.name == "count of '！'")
    assert (rule.accuracy, rule.side) == (0.625, "rejected")
    # ending: row 1 and the added one for rejected, row 3 for chosen, rows 2 and 4 tie -> (2 + 1) / 5
    ends = next(rule for rule in surface_rules([*rows, row("p", "け", "こ！")], least=0.5) if rule.name == "ends with '！'")
    assert (ends.accuracy, ends.side) == (0.6, "rejected")


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("length in characters", lambda text: text + text[:4] + "あい"),
        ("count of '★'", lambda text: text[:5] + "★" + text[6:]),
        ("ends with '☆'", lambda text: text[:-1] + "☆"),
        ("count of 'です'", lambda text: text[:3] + "です" + text[5:]),
        (
            "share of katakana",
            lambda text: text.replace("い", "イ").replace("う", "ウ").replace("か", "カ").replace("き", "キ") + "アアア",
        ),
    ],
)
def test_a_planted_shortcut_is_named_and_an_honest_set_has_none(name, spoil):
    rows = honest(300)
    assert surface_rules(rows, least=0.80) == []
    planted = [row(r["prompt"], r["chosen"], spoil(r["rejected"])) for r in rows]
    found = {rule.name: rule for rule in surface_rules(planted, least=0.80)}
    assert found[name].side == "rejected"
    assert codes(dataset_warnings(planted))["surface_rule"].severity in ("warn", "error")


def test_four_thousand_pairs_take_less_than_three_seconds():
    rows = honest(4000)
    start = time.perf_counter()
    surface_rules(rows)
    assert time.perf_counter() - start < 3


def test_an_honest_set_has_no_findings():
    rows = honest(400)
    assert dataset_warnings(rows, split_by_prompt(rows, 0.15, 0)) == []


def test_chance_in_a_handful_of_pairs_is_not_called_an_error():
    rows = [row(f"商品{n}の見出し", f"あ{n}", f"い{n}") for n in range(5)]
    assert codes(dataset_warnings(rows))["surface_rule"].severity == "info"


def test_obedience_to_the_stated_length():
    rows = [row(f"商品{n}の見出しを10文字以内で", "あ" * (8 if n % 4 == 0 else 12), "い" * 9) for n in range(40)]
    finding = codes(dataset_warnings(rows))["length_disobeyed"]
    assert finding.number == 0.25 and finding.severity == "error" and "100%" in finding.ja
    fine = [row(r["prompt"], "あ" * 9, "い" * 12) for r in rows]
    assert "length_disobeyed" not in codes(dataset_warnings(fine))


def test_the_other_findings_fire():
    rows = honest(100)
    assert codes(dataset_warnings(rows, dropped_duplicates=50))["duplicates"].number == 50
    assert codes(dataset_warnings([*rows, rows[0]]))["duplicates"].number == 1
    turned = row(rows[0]["prompt"], rows[0]["rejected"], rows[0]["chosen"])
    assert codes(dataset_warnings([*rows, turned]))["reversed_pairs"].number == 1
    longer = [row(r["prompt"], r["chosen"] * 4, r["rejected"]) for r in rows]
    assert codes(dataset_warnings(longer))["length_imbalance"].severity == "error"
    same = [row(r["prompt"], r["chosen"], "同じ文") for r in rows]
    assert codes(dataset_warnings(same))["few_rejected"].number == 1
    both = codes(dataset_warnings(same, split_by_prompt(same, 0.15, 0)))
    assert both["answers_on_both_sides"].number == 1.0 and both["few_eval_groups"].severity == "warn"


@pytest.mark.skipif(not SEED_PAIRS.exists(), reason="the seed data is not beside this clone")
def test_the_seed_file_fails_for_the_known_reasons():
    result = validate(read_rows(SEED_PAIRS))
    assert (result.rows_in, len(result.pairs), dict(result.dropped)) == (3565, 3563, {"duplicate": 2})
    train, held = split_by_prompt(result.pairs, 0.15, 42)
    found = codes(dataset_warnings(result.pairs, (train, held), result.dropped["duplicate"]))
    assert found["few_prompts"].number == 9
    assert found["few_rejected"].number == 29 and found["few_rejected"].severity == "error"
    assert found["surface_rule"].number >= 0.95 and "！" in found["surface_rule"].ja
    assert round(found["length_disobeyed"].number, 2) == 0.28 and "rejected の 100%" in found["length_disobeyed"].ja
    assert found["few_eval_groups"].number < 9
    assert found["duplicates"].number == 2
    assert 0.12 <= len(held) / len(result.pairs) <= 0.18


@pytest.mark.skipif(not SEED_PAIRS.exists(), reason="the seed data is not beside this clone")
def test_the_seed_file_with_shuffled_labels_has_no_surface_rule():
    rng = random.Random(0)
    pairs = validate(read_rows(SEED_PAIRS)).pairs
    shuffled = [r if rng.random() < 0.5 else {**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in pairs]
    assert "surface_rule" not in codes(dataset_warnings(shuffled))
