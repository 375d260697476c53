"""Claims, shouting, calls to action: what is found, and ordinary copy that must not be."""

import pytest

from adslm_helpers.text.marks import find_claims, has_call_to_action, shouts


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("業界No.1の家計簿", "claim.no1"), ("顧客満足度ＮＯ１", "claim.no1"), ("日本一の味", "claim.no1"), ("業界初の技術", "claim.no1"), ("最安の宿", "claim.no1"), ("第１位の靴", "claim.no1"),
        ("絶対に痩せる", "claim.guarantee"), ("必ず儲かる", "claim.guarantee"), ("１００％満足", "claim.guarantee"), ("誰でも続く", "claim.guarantee"),
    ],
)  # fmt: skip
def test_an_unproven_claim_is_found_with_its_words(text, rule):
    claims = find_claims(text)
    assert {claim.rule for claim in claims} == {rule}
    assert all(claim.words for claim in claims)


@pytest.mark.parametrize(
    "text",
    ["最大10社の査定額を比較", "最大75%OFF", "最新の家電", "今なら100%オフクーポン", "初回無料。今すぐ予約", "一番人気の色"],
)
def test_ordinary_copy_claims_nothing(text):
    assert find_claims(text) == []


@pytest.mark.parametrize("note", ["※自社調べ 2025年", "※2025年3月 日本リサーチ調べ", "※ゼネラル調査（2024年10月）"])
def test_a_claim_that_names_its_survey_and_year_is_proven(note):
    assert find_claims(f"顧客満足度No.1。{note}") == []


@pytest.mark.parametrize("note", ["※自社調べ", "※2025年", "自社調べ 2025年"])
def test_half_a_note_proves_nothing(note):
    assert find_claims(f"顧客満足度No.1。{note}")


@pytest.mark.parametrize(
    "text", ["安い！！", "安い!!", "安い！？", "安い‼", "安い！ ！", "★★お得", "今だけ！お得！買って！", "🎁❗❗"]
)
def test_shouting(text):
    assert shouts(text)


@pytest.mark.parametrize("text", ["安い！お得！", "どうですか？", "★新発売", "静かな文です。", "本当？本当です！"])
def test_a_mark_or_two_is_no_shouting(text):
    assert not shouts(text)


@pytest.mark.parametrize(
    "text",
    [
        "今すぐチェック",
        "詳しくはこちら",
        "アプリをダウンロード",
        "お試しください",
        "今日から始めよう",
        "プランを見る",
        "出かけてみませんか",
        "空きを見る！",
        "ご予約を受付中",
    ],
)
def test_a_call_to_action_is_heard(text):
    assert has_call_to_action("靴なら送料無料。" + text)


@pytest.mark.parametrize("text", ["", "毎日に寄りそいます", "夢を見る人の靴です", "好評です。", "見るだけで楽しい時計です"])
def test_a_description_calls_for_nothing(text):
    assert not has_call_to_action(text)
