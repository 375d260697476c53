"""Faulty characters are named, mended where nothing is lost, and honest text is left alone."""

import pytest

from adslm_helpers.text.characters import FAULTS, character_faults, mended

WORDS = "こんにちは。送料無料のアプリです"


@pytest.mark.parametrize(
    ("words", "bytes_of", "read_as"),
    [
        (WORDS, "utf-8", "latin-1"), (WORDS, "cp932", "latin-1"), ("お得な定期便", "utf-8", "cp932"), ("の毎日", "utf-8", "cp932"),
        ("アプリ", "utf-8", "cp1252"), ("送料無料です", "cp932", "cp1252"), ("毎日の家計簿", "cp932", "cp1252"),
    ],
)  # fmt: skip
def test_mojibake_is_named_and_read_again_where_its_bytes_are_whole(words, bytes_of, read_as):
    broken = words.encode(bytes_of).decode(read_as)
    assert character_faults(broken)[0] == "mojibake"
    assert mended(broken) == words


def test_mojibake_with_lost_bytes_is_named_and_left_as_it_is():
    broken = WORDS.encode().decode("cp932", "replace")
    assert character_faults(broken)[:2] == ["mojibake", "replacement"]
    assert mended(broken) == broken  # a change would lose the bytes that are left


@pytest.mark.parametrize(
    ("text", "fault", "after"),
    [
        ("ｱﾌﾟﾘで時短", "halfwidth_kana", "アプリで時短"), ("か\u3099んばる", "decomposed", "がんばる"),
        ("送料\u200b無料", "invisible", "送料無料"), ("\ufeff見出し", "invisible", "見出し"), ("右\u202eから", "invisible", "右から"),
        ("１日3分で", "mixed_digits", "1日3分で"),
    ],
)  # fmt: skip
def test_width_and_invisible_characters(text, fault, after):
    assert character_faults(text) == [fault] and mended(text) == after and character_faults(after) == []


@pytest.mark.parametrize(
    "text",
    [
        "送料無料！今すぐチェック", "１０選", "3分で10選", "café の予約", "👨‍👩‍👧と行く", "…ですよね……", "“安心”の価格", "plain ASCII 10", "",
        "繧り返し", "Â型", "①番人気", "～あなたへ～", "ハーゲンダッツ®", "価格は¥100から",
    ],
)  # fmt: skip
def test_honest_text_has_no_fault_and_stays(text):
    assert character_faults(text) == [] and mended(text) == text


def test_lost_characters_are_named_and_every_fault_has_words():
    assert character_faults("送料�無料") == ["replacement"] and mended("送料�無料") == "送料�無料"
    assert all(ja and en for ja, en in FAULTS.values())
