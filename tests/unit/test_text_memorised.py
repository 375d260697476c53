"""Texts that a model has by heart: verbatim, nearly, and not merely alike."""

from rapidfuzz import fuzz

from adslm_helpers.text.memorised import NEAR, find_memorised

LONG = "送料無料の靴を、はじめての方にもやさしい価格でお届けします。ご注文はこちら"


def test_word_for_word_is_told_from_nearly_and_from_alike():
    changed = LONG.replace("靴", "傘")
    other = LONG.replace("はじめての方にもやさしい価格で", "子育て中のご家庭に玄関先まで")
    assert find_memorised([LONG, changed, other], [LONG, "別の文です"]) == ["verbatim", "near", None]
    assert fuzz.ratio(LONG, changed) >= NEAR > fuzz.ratio(LONG, other)


def test_width_and_white_space_hide_no_copy():
    assert find_memorised(["５０％ＯＦＦ の 靴です"], ["50%OFFの靴です"]) == ["verbatim"]


def test_of_short_texts_only_the_same_counts():
    assert find_memorised(["靴の専門店", "靴の専門家"], ["靴の専門店"]) == ["verbatim", None]


def test_nothing_is_known_of_no_training_and_an_empty_text_is_no_copy():
    assert find_memorised([LONG, ""], []) == [None, None] and find_memorised([""], ["", LONG]) == [None]
    assert find_memorised([], [LONG]) == []


def test_looking_at_lengths_first_loses_nothing():
    """Against comparing all with all: texts cut and stretched around the limit, enough of them for several blocks."""
    training = [f"{'あいうえおかきくけこ' * 4}{n:02d}" for n in range(20)]
    texts = [text + "ん" * more for text in training for more in range(8)] + [
        text[less:] for text in training for less in range(8)
    ]
    near = [max(fuzz.ratio(text, known) for known in training) >= NEAR for text in texts]
    assert [kind is not None for kind in find_memorised(texts, training)] == near and 0 < sum(near) < len(near)
