"""The rubric of a question: ideas named, in whichever spelling."""

import pytest

from adslm_helpers.text.answers import judge_answer

RUBRIC = [["入札", "オークション"], ["ROAS"], ["50%", "半分"]]


def test_each_idea_counts_once_in_any_of_its_spellings():
    assert judge_answer(RUBRIC, "入札はオークションです。") == pytest.approx(1 / 3)
    assert judge_answer(RUBRIC, "オークションでROASは半分。") == 1.0
    assert judge_answer(RUBRIC, "広告です。") == judge_answer(RUBRIC, "") == 0.0


@pytest.mark.parametrize("text", ["ＲＯＡＳ", "roas", "Ｒoas"])
def test_width_and_case_do_not_hide_a_word(text):
    assert judge_answer([["ROAS"]], text) == 1.0
    assert judge_answer([[text]], "ROASは400％です") == 1.0


def test_half_width_katakana_and_a_decomposed_mark_are_read_as_written():
    assert judge_answer([["インプレッション"], ["50%"]], "ｲﾝﾌﾟﾚｯｼｮﾝの５０％") == 1.0
    assert judge_answer([["データ"]], "テ\u3099ータ") == 1.0
