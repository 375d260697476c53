"""Reading a brief: what it states is checked later, so a wrong reading punishes good texts."""

import pytest

from adslm_helpers.data_files import read_yaml
from adslm_helpers.text.brief import Brief, parse_brief, prompt_text

WORDS = {"product": "家計簿アプリ", "audience": "子育て中の方", "appeal": "初月無料", "channel": "バナーコピー", "limit": 34}


@pytest.mark.parametrize("wording", range(3))
def test_the_wordings_of_the_sample_set_are_read_whole(wording):
    brief = parse_brief(read_yaml("ad_grammar.yaml")["briefs"][wording].format(**WORDS))
    assert brief == Brief("家計簿アプリ", "子育て中の方", "初月無料", "バナーコピー", None, 34)


def test_a_brief_that_states_neither_limit_nor_selling_point_asks_for_neither():
    brief = parse_brief(read_yaml("ad_grammar.yaml")["briefs"][3].format(**WORDS))
    assert brief == Brief("家計簿アプリ", "子育て中の方", None, "バナーコピー", None, None)
    assert brief.length_fits("どんな長さでも" * 50) is None


def test_the_prompt_of_the_real_set_states_both_limits_and_no_product():
    """'便利アプリ アプリの訴求文' names a genre: read as a product, every real text would miss it."""
    brief = parse_brief("便利アプリ アプリの訴求文を25字以上45文字以内で作成してください")
    assert (brief.product, brief.min_chars, brief.max_chars) == (None, 25, 45)


@pytest.mark.parametrize(
    ("words", "limits"),
    [
        ("30文字以内", (None, 30)), ("３０文字以下", (None, 30)), ("30 字まで", (None, 30)), ("20文字以上", (20, None)),
        ("20〜30文字", (20, 30)), ("20文字～30文字", (20, 30)), ("20-30字", (20, 30)), ("短く", (None, None)), ("3つ、30個", (None, None)),
    ],
)  # fmt: skip
def test_limits_in_the_ways_people_write_them(words, limits):
    brief = parse_brief(f"靴の見出しを{words}で書いてください")
    assert (brief.min_chars, brief.max_chars) == limits


@pytest.mark.parametrize(
    ("prompt", "appeal"),
    [
        ("訴求は「送料無料」です", "送料無料"), ("訴求点は「送料無料」です", "送料無料"), ("訴求ポイント：送料無料\n媒体：件名", "送料無料"),
        ("「送料無料」を入れる", "送料無料"), ("「送料無料」という店", None),
    ],
)  # fmt: skip
def test_selling_points_in_the_ways_people_write_them(prompt, appeal):
    assert parse_brief(prompt).appeal == appeal


def test_a_blank_field_does_not_take_the_next_line_as_its_value():
    brief = parse_brief("商品：\nターゲット： \n訴求:\n媒体：メール件名（30文字以内）\n")
    assert brief == Brief(None, None, None, "メール件名", None, 30)


@pytest.mark.parametrize(
    "prompt", ["ゆめの里の見出しを書いて", "【テーマ】ゆめの里のキャッチコピーを、主婦向けに", "主婦に向けたゆめの里の説明文を"]
)
def test_a_product_name_may_hold_a_particle(prompt):
    assert parse_brief(prompt).product == "ゆめの里"


def test_of_messages_the_last_one_of_the_user_is_the_brief():
    messages = [
        {"role": "system", "content": "商品：靴"},
        {"role": "user", "content": "商品：傘"},
        {"role": "assistant", "content": "はい"},
        {"role": "user", "content": "商品：帽子"},
        {"role": "assistant", "content": "商品：鞄"},
    ]
    assert parse_brief(messages).product == "帽子"
    assert prompt_text([{"role": "system", "content": "a"}]) == ""


@pytest.mark.parametrize(("length", "fits"), [(9, False), (10, True), (20, True), (21, False)])
def test_both_ends_of_a_limit_are_within_it(length, fits):
    assert Brief(min_chars=10, max_chars=20).length_fits("あ" * length) is fits


def test_one_sided_limits_and_what_counts_as_a_character():
    assert Brief(min_chars=3).length_fits("あ" * 99) and not Brief(min_chars=3).length_fits("ああ")
    assert Brief(max_chars=3).length_fits("  あああ\n")  # spaces around the text are not part of it
    assert Brief(max_chars=3).length_fits("か\u3099き\u3099く\u3099")  # decomposed がぎぐ: three characters, six code points
    assert not Brief(max_chars=3).length_fits("ABCD")  # characters, not display width


@pytest.mark.parametrize(
    ("prompt", "required", "forbidden"),
    [
        ("靴の見出しを「軽い」を使わずに書いて", (), ("軽い",)), ("「最高」「絶対」は使わないでください", (), ("最高", "絶対")),
        ("「安い」という言葉を避けて、「軽い」と「丈夫」を入れて", ("軽い", "丈夫"), ("安い",)), ("「激安」は禁止。訴求は「送料無料」", (), ("激安",)),
        ("「送料無料」を入れる", (), ()), ("「ゆめ枕」の見出しを書いて", (), ()), ("「軽い」を必ず使用してください", (), ()),
    ],
)  # fmt: skip
def test_words_to_use_and_words_to_avoid(prompt, required, forbidden):
    """The first word to use is the selling point, as ever; a word to avoid is none."""
    brief = parse_brief(prompt)
    words = {brief.appeal, *brief.required} - {None}
    assert set(required) <= words and brief.forbidden == forbidden
    assert brief.appeal not in forbidden


def test_what_is_kept_is_told_for_what_is_asked_and_nothing_else():
    brief = parse_brief("商品：ゆめ枕\n訴求：送料無料\n10文字以内で、「安眠」と「羽毛」を使い、「激安」は使わずに")
    assert brief.kept("ゆめ枕 安眠") == {"length": True, "product": True, "appeal": False, "required": False, "forbidden": True}
    assert brief.kept("激安のゆめ枕は送料無料で安眠、羽毛") == {
        "length": False,
        "product": True,
        "appeal": True,
        "required": True,
        "forbidden": False,
    }
    assert Brief().kept("なんでも") == {}


def test_a_prompt_of_quotes_alone_takes_no_time():
    assert parse_brief("「" * 50_000 + "あ」" * 50_000).forbidden == ()
