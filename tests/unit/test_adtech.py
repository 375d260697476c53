"""The questions of the trade: both answers true and alike on the surface, so that a model can only learn to answer."""

import datetime
import re
import unicodedata
from itertools import combinations

import pytest

from adslm_helpers.data_files import data_path, read_yaml
from adslm_helpers.dataset.adtech import adtech_keywords, adtech_pairs, adtech_questions
from adslm_helpers.dataset.rows import Place, RawRow
from adslm_helpers.dataset.statistics import describe
from adslm_helpers.dataset.surface import surface_rules
from adslm_helpers.dataset.validate import validate
from adslm_helpers.text.answers import judge_answer
from adslm_helpers.text.brief import parse_brief
from adslm_helpers.text.marks import find_claims
from adslm_helpers.text.rubric import judge

TOPICS = {
    "affiliate", "apps", "attribution", "audio", "bidding", "brand_safety", "budget", "cookies", "creative", "data", "deals",
    "experiments", "fraud", "identity", "incrementality", "landing", "measurement", "metrics", "out_of_home", "privacy",
    "programmatic", "reach", "retail_media", "search", "social", "standards", "tags", "targeting", "video", "viewability",
}  # fmt: skip
TERMS = [
    "RTB", "DSP", "SSP", "DMP", "CDP", "Cookie", "アトリビューション", "リフト", "ビューアビリティ", "アドフラウド", "ブランドセーフティ", "ヘッダービディング", "PMP",
    "フリークエンシー", "リーチ", "CPA", "CPM", "CPC", "ROAS", "LTV", "リターゲティング", "コンテキスト", "類似オーディエンス", "タグマネージャー", "同意", "個人情報保護法",
    "外部送信規律", "コネクテッドTV", "DOOH", "アフィリエイト", "SEO", "品質スコア", "A/Bテスト", "目標CPA", "ビュースルー", "MMM", "クリーンルーム", "Topics",
    "SKAdNetwork", "ads.txt", "sellers.json", "OpenRTB", "VAST", "ダイナミッククリエイティブ", "ランディングページ", "ペーシング"
]  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return adtech_pairs() + adtech_questions()


def test_there_are_enough_and_each_is_asked_once(rows):
    assert len(adtech_pairs()) >= 120 and len(adtech_questions()) == 10
    assert len({row["prompt"] for row in rows}) == len(rows)
    assert all(set(row) == {"prompt", "chosen", "rejected", "topic", "keywords", "is_ad"} for row in rows)
    assert not any(row["is_ad"] for row in rows)


def test_what_is_asked_before_and_after_is_never_trained_on():
    assert not {row["prompt"] for row in adtech_questions()} & {row["prompt"] for row in adtech_pairs()}
    words = "".join(row["prompt"] for row in adtech_questions())
    assert all(term in words for term in ("RTB", "DMP", "CDP", "Cookie"))


def test_no_two_questions_are_nearly_the_same(rows):
    """Near copies on both sides of the split would make the held-out numbers too good."""
    from rapidfuzz import fuzz

    questions = [unicodedata.normalize("NFKC", row["prompt"]).casefold() for row in rows]
    assert [pair for pair in combinations(questions, 2) if fuzz.ratio(*pair) >= 90] == []


def test_no_answer_stands_twice(rows):
    answers = [row[side] for row in rows for side in ("chosen", "rejected")]
    assert len(set(answers)) == len(answers)


def test_every_chosen_answer_names_all_of_its_rubric_and_no_rejected_one_does(rows):
    assert [row["prompt"] for row in rows if judge_answer(row["keywords"], row["chosen"]) < 1] == []
    assert [row["prompt"] for row in rows if judge_answer(row["keywords"], row["rejected"]) == 1] == []
    assert all(2 <= len(row["keywords"]) <= 4 and all(row["keywords"]) for row in rows)


def test_a_rubric_is_not_met_by_answers_to_other_questions(rows):
    foreign = [judge_answer(row["keywords"], other["chosen"]) for row, other in zip(rows, rows[37:] + rows[:37], strict=True)]
    assert sum(foreign) / len(foreign) < 0.15


def test_both_sides_have_the_same_length(rows):
    for part in (rows, adtech_pairs()):
        assert 0.97 <= describe(part)["length_ratio"]["chars"] <= 1.03
        assert 0.35 < describe(part)["chosen_longer"] < 0.65
    lengths = [(len(row["chosen"]), len(row["rejected"])) for row in rows]
    assert [pair for pair in lengths if max(pair) > 1.15 * min(pair)] == []


def test_no_surface_rule_tells_the_sides_apart(rows):
    for part in (rows, adtech_pairs()):
        assert [rule for rule in surface_rules(part) if rule.accuracy >= 0.70] == []


def test_the_chosen_answer_keeps_the_form_that_was_asked_for(rows):
    asked = [(row, int(found[1])) for row in rows if (found := re.search(r"([12])文で", row["prompt"]))]
    assert len(asked) > 50
    assert [row["prompt"] for row, number in asked if row["chosen"].count("。") != number] == []
    examples = [row["chosen"] for row in rows if "数字の例を1つ" in row["prompt"]]
    assert len(examples) >= 6 and all(len(re.findall(r"[\d,]+", text)) >= 3 for text in examples)


def test_the_rubric_for_ads_finds_nothing_wrong_in_a_chosen_answer(rows):
    """It is asked of these answers too, and reads a product or an appeal out of a question that looks like a brief."""
    assert [row["prompt"] for row in rows if not judge(row["prompt"], row["chosen"], is_ad=False).passed] == []
    assert [row["prompt"] for row in rows if (brief := parse_brief(row["prompt"])).product or brief.appeal] == []


def test_both_answers_are_whole_polite_and_claim_nothing(rows):
    for row in rows:
        for text in (row["chosen"], row["rejected"]):
            assert re.search(r"(?:す|せん|した|しょう)。$", text), text
            assert not find_claims(text) and not re.search("絶対|必ず|No\\.?1", text), text


def test_every_promised_topic_and_term_is_there(rows):
    assert {row["topic"] for row in rows} == TOPICS
    words = "".join(row["prompt"] + row["chosen"] + row["rejected"] for row in rows)
    assert [term for term in TERMS if term not in words] == []


def test_the_file_is_dated_composed_and_says_whose_it_is():
    text = data_path("adtech_qa.yaml").read_bytes().decode("utf-8")
    assert text == unicodedata.normalize("NFC", text) and "\ufeff" not in text
    assert isinstance(read_yaml("adtech_qa.yaml")["as_of"], datetime.date)
    assert "written for this project" in text and "Apache-2.0" in text


def test_a_caller_may_change_its_rows():
    adtech_pairs()[0]["keywords"][0].append("何か")
    assert "何か" not in adtech_pairs()[0]["keywords"][0]


def test_every_row_is_valid_and_finds_its_rubric_again():
    """The evaluation reads rows from disk, without their keywords."""
    pairs = validate(RawRow(pair, Place("adtech", n, "row")) for n, pair in enumerate(adtech_pairs(), 1)).pairs
    assert [adtech_keywords(pair["prompt"]) for pair in pairs] == [row["keywords"] for row in adtech_pairs()]
    question = adtech_questions()[0]
    assert adtech_keywords([{"role": "user", "content": question["prompt"]}]) == question["keywords"]
    assert adtech_keywords("靴の広告文を作成してください。") is None
