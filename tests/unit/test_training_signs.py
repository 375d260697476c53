"""Signs that a model's texts go bad: what a few answers can show, and what they must not be taken for."""

import math

import pytest

from adslm_helpers.training.signs import (
    LEVEL,
    SIGNS,
    Asked,
    Standard,
    excess,
    find_signs,
    read_answers,
    sign_test,
    standard_of,
)

PRODUCTS = ["加湿器", "電動自転車", "入浴剤", "乗換案内アプリ", "保険相談窓口", "日焼け止め", "ミールキット", "炊飯器"] * 2
APPEALS = ["送料無料", "土日対応"] * 8
WHO = [
    "シニアの方",
    "学生の方",
    "はじめての方",
    "節約したい方",
    "旅行が好きな方",
    "在宅ワークの方",
    "子育て中の方",
    "朝が苦手な方",
]
AUDIENCES = WHO + WHO[3:] + WHO[:3]
ASKED = [
    Asked(f"商品：{product}\nターゲット：{who}\n訴求：{appeal}\n広告文を1つ書いてください。", f"{who}へ。{appeal}の{product}なら毎日がらくになります。今すぐ注文")
    for product, appeal, who in zip(PRODUCTS, APPEALS, AUDIENCES, strict=True)
]  # fmt: skip
GOOD = [
    f"{asked.chosen.split('。')[0]}。{product}は{appeal}。使い方はこちら"
    for asked, product, appeal in zip(ASKED, PRODUCTS, APPEALS, strict=True)
]
FREE = [
    Asked(f"{topic}について、読みたくなる文を", f"{topic}の話をしましょう。{topic}には奥行きがあります")
    for topic in ("登山", "珈琲", "陶芸", "短歌", "釣り", "将棋", "写真", "園芸")
]


def read(texts, asked=ASKED, stopped=True, standard=None):
    """By the standard that the chosen texts of the watched prompts set, unless another is given."""
    set_by = standard or standard_of([{"prompt": item.prompt, "chosen": item.chosen} for item in asked])
    return read_answers(asked, texts, [stopped] * len(texts), set_by)


def signs(now, base=GOOD, asked=ASKED):
    return {sign.kind: sign for sign in find_signs(asked, read(base, asked), read(now, asked))}


def spoil(n, text=lambda good: "安い安い安い安い安い安い安い安い"):
    """The good answers with the first `n` replaced."""
    return [text(good) for good in GOOD[:n]] + GOOD[n:]


def test_the_same_answers_and_better_ones_are_no_sign():
    assert signs(GOOD) == {}
    assert signs(GOOD, base=spoil(8)) == {}


@pytest.mark.parametrize(("n", "seen"), [(1, False), (3, False), (4, True)])
def test_few_broken_answers_are_chance_and_four_of_sixteen_are_not(n, seen):
    assert ("loops" in signs(spoil(n))) is seen


def test_a_base_that_is_broken_as_often_raises_nothing():
    assert signs(spoil(8), base=GOOD[:8] + spoil(16)[8:]) == {}


def test_most_answers_broken_is_severe_and_named_by_what_grew():
    found = signs(spoil(9))["loops"]
    assert found.severe and (found.count, found.base_count, found.n) == (9, 0, 16) and found.p < LEVEL
    assert not signs(spoil(8))["loops"].severe
    assert "empty" in signs(spoil(9, lambda good: ""))
    assert "foreign" in signs(spoil(9, lambda good: "現在购买这款产品"))


def test_one_text_for_all_briefs_is_broken_however_well_it_reads():
    assert signs(["毎日がらくになる一品をどうぞ。ご注文はこちら"] * 16)["identical"].severe


def test_a_forgotten_product_is_a_sign_although_the_text_reads_well():
    """The texts of the ruinous recipe: fluent, of the right length, the product gone."""
    found = signs([good.replace(product, "商品") for good, product in zip(GOOD, PRODUCTS, strict=True)])
    assert found["brief_forgotten"].severe and found["brief_forgotten"].count == 16


def test_prompts_that_state_nothing_give_no_evidence_of_forgetting():
    """A free prompt names no product by a form that is read, so its answers cannot miss one."""
    answers = [f"{asked.chosen}。ぜひどうぞ" for asked in FREE]
    assert all(item.stated == 0 for item in read(answers, FREE).items)
    assert signs(answers, base=answers, asked=FREE) == {}


def test_free_answers_that_belong_to_other_prompts_are_off_topic():
    """The second witness, for data that states neither product nor words."""
    answers = [f"{asked.chosen}。ぜひどうぞ" for asked in FREE]
    turned = answers[1:] + answers[:1]
    assert set(signs(turned, base=answers, asked=FREE)) == {"off_topic"}


def test_answers_that_end_nowhere_are_a_sign_only_where_the_base_ended():
    base, now = read(GOOD), read(GOOD, stopped=False)
    assert [sign.kind for sign in find_signs(ASKED, base, now)] == ["unstopped"]
    assert find_signs(ASKED, now, now) == []


def test_answers_of_half_the_length_are_a_sign_and_so_short_chosen_texts_are_none():
    stubs = [f"{who[:2]}、{product}、{appeal}" for product, appeal, who in zip(PRODUCTS, APPEALS, AUDIENCES, strict=True)]
    long = [f"{good}。毎日の暮らしがもっと楽しくなります" for good in GOOD]
    assert set(signs(stubs, base=long)) == {"shrunk", "falls_short"} and signs(long, base=stubs) == {}
    short = [Asked(asked.prompt, stub) for asked, stub in zip(ASKED, stubs, strict=True)]
    assert signs(stubs, base=long, asked=short) == {}


def pairs_of(texts):
    return [{"prompt": asked.prompt, "chosen": text} for asked, text in zip(ASKED, texts, strict=True)]


def test_damage_that_the_chosen_texts_have_is_taught_and_not_held_against_the_model():
    loud = [f"{good}！！！！" for good in GOOD]
    standard = standard_of(pairs_of(loud))
    assert standard.taught == ("run",) and "no_shouting" not in standard.checks
    assert find_signs(ASKED, read(GOOD, standard=standard), read(loud, standard=standard)) == []
    assert find_signs(ASKED, read(GOOD), read(loud)) != []


def test_one_broken_chosen_text_teaches_nothing():
    assert standard_of(pairs_of(GOOD)).taught == standard_of(pairs_of(spoil(1))).taught == ()


def test_a_check_that_the_chosen_texts_hold_and_the_model_gives_up_is_a_sign():
    """As measured: texts cut off in the middle, every product still named, the call to action gone."""
    cut = [good.split("。使い方")[0] for good in GOOD]
    found = signs(cut)["falls_short"]
    assert found.severe and found.check == "call_to_action" and "call to action" in found.words[1]
    asks_nothing = Standard(checks=tuple(name for name in Standard().checks if name != "call_to_action"))
    assert find_signs(ASKED, read(GOOD, standard=asks_nothing), read(cut, standard=asks_nothing)) == []
    assert "call_to_action" not in standard_of(pairs_of(cut)).checks


def test_the_sign_test_by_hand():
    """Four of four coins: 1/16. Three or more of four: (4 + 1) / 16."""
    assert sign_test(4, 0) == 1 / 16 and sign_test(3, 1) == 5 / 16 and sign_test(0, 0) == 1 and sign_test(0, 3) == 1
    assert sign_test(7, 0) < LEVEL < sign_test(6, 0)


def test_the_excess_by_counting():
    """Prior 1 broken of 20. One answer, one sound base answer: 1/21. Two of each: 1/22 that one is broken, 2/23 that the next is too."""
    assert excess(1, 0, 1) == pytest.approx(1 / 21)
    assert excess(2, 0, 2) == pytest.approx(1 / 22 * 2 / 23)
    assert excess(0, 3, 16) == pytest.approx(1)
    assert excess(4, 0, 16) < LEVEL < excess(3, 0, 16) and excess(4, 1, 16) > LEVEL


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.2, 0.35, 0.5])
def test_a_model_that_breaks_as_often_as_its_base_is_called_worse_in_two_of_a_hundred_at_most(share):
    """Summed exactly over all outcomes of 16 and 16 answers."""

    def binomial(k):
        return math.comb(16, k) * share**k * (1 - share) ** (16 - k)

    alarms = [(b, c) for b in range(17) for c in range(b + 1, 17) if excess(c, b, 16) <= LEVEL]
    assert sum(binomial(b) * binomial(c) for b, c in alarms) <= 0.02


def test_every_sign_has_words_in_both_languages():
    found = [sign for texts in (spoil(9), spoil(16, lambda good: "商品です")) for sign in signs(texts).values()]
    assert {sign.kind for sign in found} <= set(SIGNS) and len(found) > 3
    for sign in found:
        ja, en = sign.words
        assert str(sign.count) in ja and str(sign.count) in en and str(sign.base_count) in en


def test_a_score_counts_a_broken_answer_as_nothing():
    half = read(spoil(8))
    assert [item.score for item in half.items[:8]] == [0.0] * 8 and half.score == pytest.approx(read(GOOD).score / 2, abs=0.05)
