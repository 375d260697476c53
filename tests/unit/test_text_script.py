"""Writing systems: what a Japanese brief must not get, and what looks foreign and is not."""

import pytest

from adslm_helpers.text.script import foreign_scripts, lacks_kana, speaks_japanese


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("송料無料の靴です", "hangul"), ("靴の세일です", "hangul"), ("靴です привет", "cyrillic"), ("靴 สวัสดี です", "thai"), ("靴 مرحبا です", "arabic"),
        ("靴 שלום です", "hebrew"), ("靴 नमस्ते です", "devanagari"), ("简単に始める家計簿", "simplified"), ("家計簿で让毎日らくに", "simplified"), ("Д靴Дの靴Д", "cyrillic"),
    ],
)  # fmt: skip
def test_a_foreign_word_in_japanese_copy_is_found(text, script):
    assert foreign_scripts(text) == [script]


@pytest.mark.parametrize(
    "text",
    [
        "(´Д｀)もう迷わない", "٩(ˊᗜˋ*)و 今日から", "(｀・ω・´)ゞ", "ヽ(´ー`)ノ のんびり", "ｾｰﾙ開催中ﾜﾛﾀ", "髙島屋と﨑陽軒", "鄧小平と飯店", "國體の本", "Ωの形の靴", "Café de Paris の靴",
        "℃で選ぶ、㌔で選ぶ", "送料¥0～♪", "ㅠㅠ泣ける映画", "円、圓、国、國",
    ],
)  # fmt: skip
def test_faces_old_kanji_and_typography_are_not_foreign(text):
    assert foreign_scripts(text) == []


def test_what_the_prompt_uses_itself_may_stand_in_the_answer():
    assert foreign_scripts("방탄の新譜", prompt="방탄のCDの見出しを") == []
    assert foreign_scripts("小红书で話題", prompt="小红书の投稿文を") == [] and foreign_scripts(
        "小红书で話題", prompt="投稿文を"
    ) == ["simplified"]


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("Download our new app today", ""), ("Download our new app today", "アプリの見出しを"), ("iPhone Galaxy Pixel Xperia を", ""), ("Новая обувь", "靴の見出しを"), ("50%OFF", "靴の見出しを"),
    ],
)  # fmt: skip
def test_text_without_japanese_for_a_japanese_brief(text, prompt):
    assert not speaks_japanese(text, prompt)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("「Androidが激変…！」", "アプリの訴求文を"), ("Adobe Photoshop", "Adobe Photoshop の見出しを"), ("詳しくは https://example.com/shoes/new-arrivals/2025 へ", ""),
        ("★☆★", "靴"), ("", "靴"), ("New shoes for you", "Write a headline for shoes"), ("example.co.jp へ今すぐ", ""),
    ],
)  # fmt: skip
def test_brands_addresses_and_foreign_briefs_are_no_fault(text, prompt):
    assert speaks_japanese(text, prompt)


def test_kana_are_asked_of_longer_texts_with_kanji_only():
    assert lacks_kana("立即下載我們的記帳應用程式首月免費輕鬆管理家庭支出")
    assert not lacks_kana("東京都渋谷区限定") and not lacks_kana("Download our new app today, free of charge")
