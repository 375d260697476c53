"""Near copies are found wherever the edit stands, distinct ones are not, and the probe judges as by hand."""

import random

import pytest

from adslm_helpers.dataset.audit.probe import LEAST_TEXTS, prompt_blind_probe
from adslm_helpers.dataset.near_duplicates import alike_texts, near_copies, near_key

LETTERS = "あいうえおかきくけこさしすせそたちつてとなにぬねのアイウエオ商品広告新着便利"


def text(rng, low=20, high=30):
    return "".join(rng.choice(LETTERS) for _ in range(rng.randrange(low, high)))


def rows_of(n, seed=0):
    rng = random.Random(seed)
    return [{"prompt": f"{'甲乙丙丁戊'[k % 5]}店の見出し", "chosen": text(rng), "rejected": text(rng)} for k in range(n)]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("送料無料！今すぐ", "送料無料  今すぐ!!", True), ("ＡＢＣの靴", "abcの靴", True), ("3,000円引き", "500円引き", True),
        ("ｱﾌﾟﾘ", "アプリ", True), ("送料無料", "返品無料", False), ("！！", "？？", False),
    ],
)  # fmt: skip
def test_the_key_forgets_width_case_marks_and_numbers(one, other, same):
    assert (near_key(one) == near_key(other)) is same
    assert near_key("30文字以内", mask_digits=False) != near_key("20文字以内", mask_digits=False)


@pytest.mark.parametrize("seed", range(3))
def test_one_edit_anywhere_is_found_and_nothing_else(seed):
    rng = random.Random(seed)
    rows = rows_of(600, seed)
    copies = []
    for row in rows[:150]:
        letters = list(row["chosen"])
        letters[rng.randrange(len(letters))] = "ヱ"
        copies.append({**row, "chosen": "".join(letters)})
    found = near_copies([*rows, *copies])
    assert {600 + n: n for n in range(150)}.items() >= found.items() and len(found) >= 147


def test_the_same_answers_to_another_prompt_are_no_copy_and_short_texts_must_be_equal():
    row = {"prompt": "20文字以内で靴の見出し", "chosen": "軽い靴。今すぐ試そう", "rejected": "靴です。ぜひどうぞ"}
    assert near_copies([row, {**row, "prompt": "30文字以内で靴の見出し"}]) == {}
    assert near_copies([row, {**row, "prompt": "20文字以内で 靴の見出し。"}]) == {1: 0}
    assert near_copies([{**row, "chosen": "軽い靴だ"}, {**row, "chosen": "重い靴だ"}]) == {}


def test_copies_of_a_copy_are_told_with_the_row_that_stays():
    rng = random.Random(0)
    base = text(rng, 40, 41)
    chain = [base, "ゑ" + base[1:], "ゑ" + base[1:-1] + "ヱ"]
    rows = [{"prompt": "靴", "chosen": words, "rejected": "同じ文です。同じ文です"} for words in chain]
    assert set(near_copies(rows).values()) == {0} and near_copies([]) == {} and near_copies(rows[:1]) == {}


def test_alike_texts_across_two_lists():
    rng = random.Random(0)
    right = [text(rng) for _ in range(300)]
    left = [right[5], "ヱ" + right[7][1:], "全く別の文がここにあるだけです"]
    assert alike_texts(left, right) == {left[0]: right[5], left[1]: right[7]}
    assert alike_texts([], right) == {} and alike_texts(left, []) == {}


def test_the_probe_knows_nothing_of_honest_pairs_and_all_of_spoilt_ones():
    rows = rows_of(500)
    honest = prompt_blind_probe(rows)
    assert 0.4 < honest.accuracy < 0.6 and honest.pairs == 500
    spoilt = prompt_blind_probe([{**row, "chosen": "今だけ" + row["chosen"]} for row in rows])
    assert spoilt.accuracy > 0.97 and spoilt.telling[0][1] == "chosen" and spoilt.telling[0][0] in "今だけ今だけ"
    assert prompt_blind_probe([{**row, "chosen": "今だけ" + row["chosen"]} for row in rows]) == spoilt


def test_the_probe_cannot_learn_texts_that_come_back():
    """Two hundred texts, each chosen five times over against random ones: known by heart they would give 100 %."""
    rng = random.Random(3)
    pool = [text(rng) for _ in range(200)]
    rows = [{"prompt": "靴", "chosen": words, "rejected": text(rng)} for words in pool for _ in range(5)]
    assert prompt_blind_probe(rows).accuracy < 0.7


def test_pairs_that_the_probe_cannot_tell_apart_count_half():
    """Only the beginning and the end of a long text are looked at: here they are the same on both sides."""
    rows = [
        {"prompt": "靴", "chosen": f"{'あ' * 250}{n}{'い' * 250}", "rejected": f"{'あ' * 250}う{'い' * 250}"} for n in range(150)
    ]
    assert prompt_blind_probe(rows).accuracy == 0.5


def test_the_probe_says_nothing_of_few_texts():
    assert prompt_blind_probe(rows_of(LEAST_TEXTS - 1)) is None
    assert prompt_blind_probe([{**row, "chosen": "同じ文"} for row in rows_of(500)]) is None
