"""The rubric: one missing thing fails one check, what the brief does not ask for is not counted, broken text is worth nothing."""

import json

import pytest

from adslm_helpers.text.rubric import CHECKS, Judgement, judge

PROMPT = "【テーマ】家計簿アプリの見出しを、子育て中の方向けに30文字以内で書いてください。訴求は「初月無料」です。"
GOOD = "初月無料の家計簿アプリ。今すぐダウンロード"


def test_a_text_that_keeps_its_brief_passes_every_check():
    judged = judge(PROMPT, GOOD)
    assert judged.checks == dict.fromkeys(CHECKS, True)
    assert judged.passed and judged.score == 1 and judged.failures == [] and judged.degenerate == []


@pytest.mark.parametrize(
    ("check", "text"),
    [
        ("product", "初月無料の日記アプリ。今すぐダウンロード"),
        ("appeal", "便利な家計簿アプリ。今すぐダウンロード"),
        ("call_to_action", "初月無料の家計簿アプリ。好評です"),
        ("length", "初月無料の家計簿アプリなら支出がひと目でわかる。今すぐダウンロード"),
        ("claims", "日本一の家計簿アプリ。初月無料。今すぐダウンロード"),
        ("no_shouting", "初月無料の家計簿アプリ。今すぐダウンロード！！"),
    ],
)
def test_one_defect_fails_one_check(check, text):
    judged = judge(PROMPT, text)
    assert judged.failures == [check] and not judged.passed and judged.score == pytest.approx(5 / 6)


def test_what_the_brief_does_not_state_is_neither_kept_nor_broken():
    judged = judge("広告文を書いてください。", "靴なら送料無料。ご注文はこちら")
    assert {check for check, value in judged.checks.items() if value is None} == {"product", "appeal", "length"}
    assert judged.passed and judged.score == 1


def test_a_question_asks_for_no_call_to_action():
    assert judge("DMPとCDPの違いは何ですか。", "DMPは匿名の、CDPは顧客の情報を集めます。", is_ad=False).passed
    assert judge("DMPとCDPの違いは何ですか。", "DMPは匿名の、CDPは顧客の情報を集めます。").failures == ["call_to_action"]


def test_a_name_in_another_width_is_the_right_name():
    assert judge("商品：ＡＢＣアプリ\n", "ABCｱﾌﾟﾘなら安心です。詳しくはこちら").checks["product"] is True


@pytest.mark.parametrize(("text", "stopped"), [(GOOD, False), ("", True), (GOOD + "！！！！", True)])
def test_a_broken_text_is_worth_nothing_however_many_checks_it_keeps(text, stopped):
    judged = judge(PROMPT, text, stopped=stopped)
    assert judged.degenerate and not judged.passed and judged.score == 0


def test_a_dialogue_is_judged_by_its_last_brief():
    messages = [{"role": "system", "content": "商品：傘"}, {"role": "user", "content": PROMPT}]
    assert judge(messages, GOOD).passed


def test_the_record_of_a_judgement_is_json_with_everything_that_decided_it():
    record = json.loads(json.dumps(judge(PROMPT, "日記アプリ！！").to_dict()))
    assert record["failures"] == ["product", "appeal", "call_to_action", "no_shouting"]
    assert (
        record["passed"] is False
        and record["score"] == 0.3333
        and record["degenerate"] == []
        and record["checks"]["length"] is True
    )


def test_only_checks_that_apply_count_in_the_score():
    assert Judgement({"a": True, "b": None, "c": False}, []).score == 0.5
    assert Judgement({"a": True, "b": None}, []).passed and not Judgement({"a": False}, []).passed
