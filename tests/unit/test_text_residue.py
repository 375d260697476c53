"""Residue of chat formats and echoed briefs: each family's marks are found, ordinary copy and good answers are not."""

import pytest

from adslm_helpers.text.residue import echoes, has_residue

BRIEF = (
    "商品：ペットホテル\nターゲット：料理が苦手な方\n訴求：土日対応\n媒体：メール件名（36文字以内）\n広告文を1つ書いてください。"
)
QUESTION = "プログラマティック広告のRTBについて説明してください。"


@pytest.mark.parametrize(
    "text",
    [
        "靴です<|im_end|>", "<|im_start|>assistant\n靴です", "靴<|eot_id|>", "靴<|endoftext|>", "[INST] 靴", "靴 [/INST]", "<<SYS>>靴", "靴</s>", "<s>靴", "靴<end_of_turn>",
        "<start_of_turn>model", "<think>靴", "### Response:\n靴", "＃＃＃ 応答", "靴[UNK]", "靴<unk>", "靴<0xE3>", "靴Ġです", "靴\ufffdです", "靴\x00です", "靴です\nuser\n次は",
        "assistant: 靴です", "ユーザー: 靴", "靴です。\nシステム: はい",
    ],
)  # fmt: skip
def test_marks_of_every_chat_format_are_residue(text):
    assert has_residue(text)


@pytest.mark.parametrize(
    "text",
    [
        "#春の新作 #靴", "【INSTAで人気】靴", "AI：広告の未来", "ユーザー満足度が高い靴", "システム手帳の新色", "userの声から生まれた靴", "5 < 10、10 > 5", "<靴> 新発売", "[PR] 靴の新作",
        "No.1の靴", "靴\t新発売\n\n送料無料", "★☆靴☆★", "assistantのいる安心", "価格は s で表す",
    ],
)  # fmt: skip
def test_ordinary_copy_holds_no_residue(text):
    assert not has_residue(text)


@pytest.mark.parametrize(
    "text",
    [
        BRIEF, f"{BRIEF}ペットホテルなら土日対応", "広告文を1つ書いてください。ペットホテル", "商品：ペットホテル\nターゲット：料理が苦手な方", BRIEF[:-4], BRIEF.replace("：", ":"),
    ],
)  # fmt: skip
def test_a_brief_given_back_whole_or_in_its_parts_is_an_echo(text):
    assert echoes(BRIEF, text)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (BRIEF, "料理が苦手な方へ。土日対応のペットホテル。お申し込みはこちら"), (BRIEF, "商品：ペットホテル。今すぐご予約ください"), (BRIEF, ""),
        (QUESTION, "プログラマティック広告のRTBについて説明します。広告枠の売買を競りで行う仕組みです。"), ("RTBについて説明してください", "RTBについて説明します。"),
        ("靴の見出しを書いて", "靴の見出しはこちら"), ("靴", "靴なら送料無料"), ("", "靴なら送料無料"),
        ("訴求：お気軽にご相談ください\n商品：保険", "保険のことはお気軽にご相談ください"), ("「今すぐダウンロードしてください」を入れて、アプリの見出しを", "今すぐダウンロードしてください"),
    ],
)  # fmt: skip
def test_an_answer_may_quote_its_brief(prompt, text):
    assert not echoes(prompt, text)
