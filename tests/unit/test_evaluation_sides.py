"""Breaches, sameness, copied texts and key terms of two sides: rates by hand, and no difference where the sides are one."""

from types import SimpleNamespace

import pytest

from adslm_helpers.evaluation.sides import (
    breach_metrics,
    diversity_metrics,
    identical_reference,
    keyword_metrics,
    memorised_metrics,
    side_metrics,
)


def row(n, base, tuned, **more):
    return {
        "prompt": f"商品：靴{n}\n見出しを書いて",
        "base": base,
        "tuned": tuned,
        "reference": f"靴{n}はここで",
        "is_ad": True,
        **more,
    }


def no1(text, *, brief):
    """A rule book of two: 'No.1' is an error, '！' a warning; and it must be told what the text answers."""
    assert brief.startswith("商品：靴")
    found = [("claim.no1", "error")] * text.count("No.1") + [("shout", "warn")] * text.count("！")
    return [SimpleNamespace(rule=rule, severity=severity) for rule, severity in found]


def test_a_text_counts_once_a_rule_and_only_errors_count_as_breaches():
    rows = [row(0, "No.1とNo.1", "靴です！！"), row(1, "靴です", "靴です"), row(2, "No.1！", "No.1"), row(3, "靴", "靴")]
    found = breach_metrics(rows, no1)
    assert (found["breach_base"], found["breach_tuned"], found["breach_difference"]) == (0.5, 0.25, -0.25)
    assert found["breach_rules_base"] == {"claim.no1": 2, "shout": 1}
    assert found["breach_rules_tuned"] == {"shout": 1, "claim.no1": 1} and found["breach_errors_tuned"] == {"claim.no1": 1}
    low, high = found["breach_difference_ci95"]
    assert low <= -0.25 <= high == 0.0


def test_answers_to_questions_break_no_ad_rule_and_no_ad_gives_no_rate():
    question = row(0, "No.1", "No.1", is_ad=False)
    assert breach_metrics([question, row(1, "靴", "No.1")], no1)["breach_base"] == 0.0
    alone = breach_metrics([question], no1)
    assert alone["breach_base"] is None and alone["breach_difference_ci95"] is None and alone["breach_rules_tuned"] == {}


def test_the_shipped_rules_are_the_default():
    found = breach_metrics([row(0, "日本一の靴です", "靴をお届けします")])
    assert (found["breach_base"], found["breach_tuned"]) == (1.0, 0.0) and "claim.no1" in found["breach_rules_base"]


def test_one_text_for_all_briefs_is_seen_as_sameness():
    rows = [row(n, f"{word}の話を{n}つします", "靴のご注文はこちら") for n, word in enumerate("山川海空森")]
    found = diversity_metrics(rows)
    assert found["self_chrf_tuned"] == 100 and found["self_chrf_base"] < 60
    assert found["self_chrf_difference_ci95"][0] > 0 and found["identical_answers_difference"] == 1.0
    assert found["distinct_2_tuned"] == pytest.approx(found["distinct_2_base"], abs=1) and found["distinct_2_tuned"] == 0.2


def test_one_prompt_has_no_pairs_and_no_number():
    found = diversity_metrics([row(0, "靴", "傘"), row(0, "鞄", "帽子")])
    assert found["self_chrf_base"] is None and found["self_chrf_difference"] is None


def test_copied_texts_stand_beside_what_the_held_out_texts_have_in_common_with_the_training():
    rows = [row(n, f"{n}番目の靴のことば", "学習にあった文そのまま") for n in range(4)]
    rows[0]["reference"] = "学習にあった文そのまま"
    rows[1]["reference"] = None
    found = memorised_metrics(rows, ["学習にあった文そのまま", "別の文"])
    assert (found["memorised_base"], found["memorised_tuned"], found["verbatim_tuned"]) == (0.0, 1.0, 1.0)
    assert found["memorised_difference_ci95"] == [1.0, 1.0] and found["memorised_reference"] == pytest.approx(1 / 3, abs=1e-4)


def test_key_terms_are_counted_where_a_question_has_some():
    rubric = [["入札", "オークション"], ["表示"]]
    rows = [row(0, "入札です", "表示のたびのオークション", keywords=rubric, is_ad=False), row(1, "靴", "靴")]
    found = keyword_metrics(rows)
    assert (found["keywords_base"], found["keywords_tuned"], found["n_keyword_texts"]) == (0.5, 1.0, 1)
    assert keyword_metrics(rows[1:]) == {}


def test_a_model_that_is_its_base_differs_in_nothing():
    rows = [row(n, f"靴{n}をお届けします", f"靴{n}をお届けします", keywords=[["靴"]]) for n in range(30)]
    found = side_metrics(rows, [{"prompt": "依頼", "chosen": "靴3をお届けします", "rejected": "別の文"}])
    differences = {key: value for key, value in found.items() if "_difference" in key}
    assert len(differences) >= 8
    assert all(value in (0.0, [0.0, 0.0]) for value in differences.values()), differences


def test_the_data_s_own_rate_of_the_same_text_for_two_briefs():
    rows = [{"prompt": f"依頼{n}", "chosen": "同じ文" if n < 2 else f"文{n}", "rejected": "x"} for n in range(10)]
    again = [{"prompt": "依頼5", "chosen": "文5", "rejected": "y"}]  # the same brief twice is no second brief
    assert identical_reference([*rows, *again]) == {"identical_reference": round(2 / 11, 4)} and identical_reference([]) == {}
