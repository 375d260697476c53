"""Sameness of texts: counted by hand, alike for the same seed, blind to nothing that a reader would call the same."""

import pytest

from adslm_helpers.text.diversity import chrf_of_pairs, distinct_n, draw_pairs


def test_distinct_n_by_hand():
    """ああい and あい: the bigrams ああ, あい, あい; three, two of them distinct. Letters あ, あ, い, あ, い: two of five."""
    assert distinct_n(["ああい", "あ い"], 2) == pytest.approx(2 / 3)
    assert distinct_n(["ああい", "あい"], 1) == pytest.approx(2 / 5)
    assert distinct_n(["", "あ"], 2) is None


def test_a_copied_text_halves_what_is_distinct():
    assert distinct_n(["送料無料の靴"] * 2, 2) == pytest.approx(distinct_n(["送料無料の靴"], 2) / 2)


def test_pairs_are_of_different_prompts_and_the_same_for_the_same_seed():
    groups = [n // 2 for n in range(40)]
    pairs = draw_pairs(groups, seed=1, most=50)
    assert len(pairs) == len(set(pairs)) == 50 and all(i < j and groups[i] != groups[j] for i, j in pairs)
    assert pairs == draw_pairs(groups, seed=1, most=50) != draw_pairs(groups, seed=2, most=50)


def test_few_texts_give_all_their_pairs_and_one_prompt_none():
    assert sorted(draw_pairs(["a", "b", "c"])) == [(0, 1), (0, 2), (1, 2)]
    assert draw_pairs(["a", "a"]) == draw_pairs([]) == []


def test_likeness_is_100_for_one_text_and_0_for_nothing_in_common():
    texts = [
        "送料無料の靴。ご注文はこちら",
        "送料 無料の靴。ご注文はこちら",
        "abcdefghij",
        "送料無料の傘。ご注文はこちら",
        "",
        "ＡＢＣdefghij",
    ]
    same, other, near, empty, wide = chrf_of_pairs(texts, [(0, 1), (0, 2), (0, 3), (4, 4), (2, 5)])
    assert same == empty == 100 and other == 0 and 50 < near < 100 and 0 < wide < 100


def test_likeness_has_no_direction():
    texts = ["送料無料の靴", "送料無料の靴とかばんと傘のセット"]
    (one,), (other,) = chrf_of_pairs(texts, [(0, 1)]), chrf_of_pairs(texts[::-1], [(0, 1)])
    assert one == pytest.approx(other)
