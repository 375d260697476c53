"""Broken texts: each kind is found just above its threshold, and real ads are left alone."""

import json
from pathlib import Path

import pytest

from adslm_helpers.text.degenerate import find_degeneration, identical_answers, longest_run, periodicity, trigram_repetition

REAL = Path(__file__).parents[3] / "shared" / "data" / "adtech_seed" / "pairs_v3.jsonl"
GOOD = "子育て中の方へ。支出がひと目でわかる家計簿アプリ。初月無料。今すぐダウンロード"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("empty", ""), ("empty", " \u3000\n"), ("run", "家計簿アプリで安心！！！！"), ("run", "うれしいいいい靴です"),
        ("repetition", "今すぐ今すぐ今すぐ今すぐ今すぐ見る"), ("period", "安い靴です安い靴です安い靴です"), ("symbols", "★☆！？★☆、。★靴"),
        ("language", "Download our new app today"), ("no_kana", "立即下載我們的記帳應用程式首月免費輕鬆管理家庭支出"), ("residue", "靴です<|im_end|>"),
        ("residue", "[INST]靴です"), ("residue", "### 回答 靴の広告です"), ("residue", "送料無料の\ufffd靴です"), ("foreign", "送料무료の靴です"), ("foreign", "简単に始める靴です"),
    ],
)  # fmt: skip
def test_each_kind_of_broken_text_is_named(kind, text):
    assert kind in find_degeneration(text)


@pytest.mark.parametrize(
    "text",
    [
        GOOD, "初月無料", "ワクワク、ドキドキの夏", "待って……まだある", "ラーメン食べたーーい", "最大10000円引き。ご予約はこちら", "1000000人が使う靴です", "東京都渋谷区限定",
        "SALE開催中です", "「わ」「を」「ん」の順です", "毎日毎朝毎晩の習慣に。", "今日の服、今日の靴、今日の傘、今日の鞄",
    ],
)  # fmt: skip
def test_ordinary_texts_are_not_broken(text):
    assert find_degeneration(text) == []


def test_real_ads_are_hardly_ever_called_broken():
    if not REAL.is_file():
        pytest.skip("the real ads are not beside this clone")
    rows = [json.loads(line) for line in REAL.read_text(encoding="utf-8").splitlines()]
    broken = [row["chosen"] for row in rows if find_degeneration(row["chosen"], prompt=row["prompt"])]
    assert len(rows) == 3565 and len(broken) <= 0.003 * len(rows)


def test_no_text_of_the_sample_set_is_called_broken():
    """The rejected ones neither: they are bad ads, not broken texts."""
    rows = [
        json.loads(line)
        for line in (Path(__file__).parents[2] / "data" / "sample_pairs.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(rows) == 1000
    assert [row for row in rows for side in ("chosen", "rejected") if find_degeneration(row[side], prompt=row["prompt"])] == []


def test_a_text_that_the_model_did_not_end_is_broken_even_when_it_reads_well():
    assert find_degeneration(GOOD, stopped=False) == ["unstopped"]
    assert find_degeneration("", stopped=False) == ["empty", "unstopped"]


def test_echoing_the_brief_is_no_answer():
    prompt = "家計簿アプリの見出しを書いてください。"
    assert find_degeneration(f"{prompt}家計簿アプリで安心", prompt=prompt) == ["echo"]
    assert find_degeneration("家計簿アプリで安心。書いてみてください。", prompt=prompt) == []
    assert find_degeneration("靴なら送料無料", prompt="靴") == []  # a product name alone is no brief


def test_a_run_counts_one_character_and_lets_typography_and_prices_be():
    assert [longest_run(text) for text in ("", "あ", "あいい", "！！！！", "……", "ーーー", "10000")] == [0, 1, 2, 4, 1, 2, 1]
    assert "run" not in find_degeneration("安い！！！靴です") and "run" in find_degeneration("安い！！！！靴です")


def test_repetition_by_hand():
    """ababab has the trigrams aba bab aba bab: 2 distinct of 4."""
    assert trigram_repetition("ababab") == 0.5
    assert [trigram_repetition(text) for text in ("", "ab", "abc", "abcdef")] == [0, 0, 0, 0]


def test_periodicity_by_hand():
    """abcabcabX: at period 3 five of six characters repeat the one three before."""
    assert periodicity("abcabcabX") == pytest.approx(5 / 6)
    assert (periodicity("abab"), periodicity("abcdefgh"), periodicity("a"), periodicity("")) == (1, 0, 0, 0)


def test_the_same_words_for_two_briefs_are_found_and_twice_for_one_brief_are_not():
    prompts = ["靴", "靴", "傘", "傘", "鞄"]
    assert identical_answers(prompts, ["A", "A", "B", "C", "D"]) == set()
    assert identical_answers(prompts, ["A", "A", "B", " A\n", "B"]) == {"A", "B"}
    with pytest.raises(ValueError):
        identical_answers(["靴"], ["A", "B"])
