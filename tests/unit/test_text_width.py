"""Widths on a terminal: a Japanese character takes two columns, and no text may steer the terminal."""

import pytest

from adslm_helpers.text.width import cut, display_width, padded, printable, wrapped


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("損失", 4), ("ﾊﾝｶｸ", 4), ("Ａ", 2), ("か\u3099", 2), ("", 0), ("▁█", 2), ("e\u0301", 1)]
)
def test_columns(text, columns):
    assert display_width(text) == columns


@pytest.mark.parametrize("columns", range(1, 12))
def test_cut_and_padded_never_take_more_than_their_columns_and_padded_takes_all(columns):
    for text in ("損失 / loss", "あいうえおかきくけこ", "plain words", "a"):
        assert display_width(cut(text, columns)) <= columns and display_width(padded(text, columns)) == columns


def test_what_fits_is_left_as_it_is_and_what_does_not_shows_it():
    assert cut("損失", 4) == "損失" and cut("損失です", 5) == "損失…"


def test_lines_are_broken_between_words_and_anywhere_in_japanese_and_nothing_is_lost():
    english = "From step 2 on the loss rose and the learning rate is too high."
    lines = wrapped(english, 20)
    assert " ".join(lines) == english and all(display_width(line) <= 20 for line in lines)
    japanese = "損失がステップ 2 から上がり始め、学習率が高すぎます。"
    assert all(display_width(line) <= 22 for line in wrapped(japanese, 20)), "a mark may hang over by one character"
    assert "".join(wrapped(japanese, 20)).replace(" ", "") == japanese.replace(" ", "")
    assert not any(line[0] in "、。" for line in wrapped(japanese, 20))


def test_control_characters_line_ends_and_direction_marks_become_spaces():
    assert printable("a\x1b]0;x\x07b\nc\u202ed\ud800e") == "a ]0;x b c d e"
