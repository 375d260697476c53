"""The verdict: it never says more than the numbers, and ruined text outweighs any win."""

import re

import pytest

from adslm_helpers.evaluation.costs import find_costs
from adslm_helpers.evaluation.verdict import verdict

FINE = {
    "win_rate": 0.8,
    "win_rate_ci95": [0.75, 0.85],
    "degenerate_base": 0.0,
    "degenerate_tuned": 0.0,
    "n_prompts": 150,
    "right_product_base": 0.97,
    "right_product_tuned": 0.98,
    "rubric_pass_base": 0.45,
    "rubric_pass_tuned": 0.94,
}


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ({}, "better"),
        ({"win_rate_ci95": [0.4, 0.9]}, "within_noise"),
        ({"win_rate_ci95": [0.5, 0.9]}, "within_noise"),  # the end itself is still inside
        ({"win_rate_ci95": [0.1, 0.5]}, "within_noise"),
        ({"win_rate": 0.2, "win_rate_ci95": [0.1, 0.3]}, "worse"),
        ({"right_product_tuned": 0.94}, "worse"),  # wins by other checks do not buy the wrong product
        ({"right_product_tuned": 0.955}, "better"),
        ({"right_product_base": None, "right_product_tuned": None}, "better"),
        ({"n_prompts": 19}, "too_few"),
        ({"n_prompts": 20}, "better"),
        ({"degenerate_tuned": 0.06}, "ruined"),
        ({"degenerate_tuned": 0.05}, "better"),
        ({"degenerate_base": 0.10, "degenerate_tuned": 0.15}, "better"),
        ({"degenerate_base": 0.10, "degenerate_tuned": 0.21}, "ruined"),
        ({"degenerate_tuned": 0.5, "n_prompts": 3}, "ruined"),
        ({"n_prompts": 3, "right_product_tuned": 0.5}, "too_few"),
        ({"n_heldout_groups": 19}, "too_few"),  # 150 prompts of 19 kinds are 19 witnesses
        ({"n_heldout_groups": 500}, "better"),
        ({"n_heldout_groups": None, "heldout_trustworthy": None}, "better"),
        ({"heldout_trustworthy": False}, "untrusted"),
        ({"heldout_trustworthy": False, "degenerate_tuned": 0.5}, "ruined"),
        ({"sign_test_p": 0.06}, "within_noise"),  # five prompts won, none lost: the bootstrap knows no doubt then
        ({"sign_test_p": 0.06, "win_rate": 0.2, "win_rate_ci95": [0.1, 0.3]}, "within_noise"),
        ({"sign_test_p": 0.04}, "better"),
    ],
)
def test_each_case_has_its_word(numbers, code):
    assert verdict(FINE | numbers).code == code


def test_both_languages_give_the_same_numbers():
    for numbers in ({}, {"win_rate_ci95": [0.4, 0.9]}, {"right_product_tuned": 0.9}, {"n_prompts": 7}, {"degenerate_tuned": 0.3}):
        said = verdict(FINE | numbers)
        ja, en = (sorted(re.findall(r"\d+%?", text.replace(" %", "%"))) for text in (said.ja, said.en))
        assert ja == en and ja


def test_better_is_said_with_its_interval():
    said = verdict(FINE)
    assert "80% [75%, 85%]" in said.en and "45% → 94%" in said.en and "80% [75%, 85%]" in said.ja


def test_the_teaching_model_on_someone_elses_data_is_told_to_step_aside():
    """It knows the sample briefs only; whatever its numbers on other data are, the way out is a hub model."""
    own_data = {**FINE, "model": "embedded-tiny", "synthetic_data": False}
    assert verdict(own_data).code == "better" and "MODEL" in verdict(own_data).ja and "hub model" in verdict(own_data).en
    for other in (
        {"model": "embedded-tiny", "synthetic_data": True},
        {"model": "Qwen/Qwen2.5-0.5B-Instruct", "synthetic_data": False},
    ):
        assert verdict({**FINE, **other}) == verdict(FINE)


COSTS = {
    "breaches": {
        "breach": (0.1, 0.2, 0.1, [0.04, 0.16]),
        "breach_errors_base": {"no1": 2},
        "breach_errors_tuned": {"no1": 9, "x": 1},
    },
    "obedience": {"obedience": (0.9, 0.8, -0.1, [-0.15, -0.05])},
    "memorised": {"memorised": (0.0, 0.3, 0.3, [0.2, 0.4]), "memorised_reference": 0.05},
    "sameness": {"self_chrf": (10.0, 30.0, 20.0, [15.0, 25.0])},
    "keywords": {"keywords": (0.6, 0.4, -0.2, [-0.3, -0.1])},
}


def numbers(values):
    """(base, tuned, difference, interval) under their keys."""
    found = {key: value for key, value in values.items() if not isinstance(value, tuple)}
    for name, value in values.items():
        if isinstance(value, tuple):
            keys = (f"{name}_base", f"{name}_tuned", f"{name}_difference", f"{name}_difference_ci95")
            found |= dict(zip(keys, value, strict=True))
    return found


@pytest.mark.parametrize("code", COSTS)
def test_a_win_at_a_price_is_mixed_and_says_the_price_and_the_way_out(code):
    metrics = FINE | numbers(COSTS[code])
    said, (cost,) = verdict(metrics), find_costs(metrics)
    assert said.code == "mixed" and cost.code == code
    assert cost.ja in said.ja and cost.en in said.en and (cost.step_ja, cost.step_en) in said.next_steps
    assert any(cost.ja in ja for ja, _ in said.reasons) and re.search(r"\d", cost.ja)


@pytest.mark.parametrize(
    "values",
    [
        {"breach": (0.1, 0.2, 0.1, [-0.01, 0.2])},  # the interval holds 0
        {"breach": (0.1, 0.11, 0.01, [0.005, 0.015])},  # sure, and too little to matter
        {"breach": (0.2, 0.1, -0.1, [-0.16, -0.04])},  # better
        {"obedience": (0.8, 0.9, 0.1, [0.05, 0.15])},
        {"memorised": (0.0, 0.3, 0.3, [0.2, 0.4]), "memorised_reference": 0.3},  # honest texts repeat the training as often
        {"self_chrf": (10.0, 14.0, 4.0, [3.0, 5.0])},
        {"breach": (None, None, None, None)},  # nothing to measure it on
    ],
)
def test_what_is_within_noise_or_harmless_costs_nothing(values):
    assert find_costs(FINE | numbers(values)) == [] and verdict(FINE | numbers(values)).code == "better"


def test_a_price_does_not_soften_worse():
    metrics = FINE | numbers(COSTS["breaches"]) | {"win_rate": 0.2, "win_rate_ci95": [0.1, 0.3]}
    assert verdict(metrics).code == "worse"


def test_the_rule_that_grew_most_is_named():
    (cost,) = find_costs(FINE | numbers(COSTS["breaches"]))
    assert "no1 +7, x +1" in cost.ja and "no1 +7, x +1" in cost.en


MEASURED = FINE | {
    "sign_test_p": 1e-9, "wins_by_prompt": 90, "ties_by_prompt": 50, "losses_by_prompt": 10, "rubric_gain": 0.49,
    "rubric_gain_ci95": [0.4, 0.57], "length_ratio": 1.0, "mean_chars_base": 30.0, "mean_chars_tuned": 30.0, "reward_accuracy": 0.97,
}  # fmt: skip
RULE = {"name": "count of '！'", "name_ja": "「！」の数", "side": "chosen"}


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"rubric_gain": 0.01, "rubric_gain_ci95": [-0.02, 0.04]}, "within noise"),
        ({"length_ratio": 1.6, "mean_chars_tuned": 48.0}, "times 1.60"),
        ({"length_ratio": 0.5, "mean_chars_tuned": 15.0}, "times 0.50"),
        ({"kl_to_base": 2.5}, "KL 2.50"),
        ({"prompt_blind_accuracy": 0.89}, "89% of these pairs"),
        ({"perplexity_ratio": 1.4, "perplexity_ratio_ci95": [1.2, 1.6]}, "times 1.40"),
        ({"n_prompts": 7}, "7 held-out prompts"),
        ({"heldout_trustworthy": False}, "flatter"),
        ({"degenerate_tuned": 0.3, "degenerate_kinds_tuned": {"run": 20, "empty": 3}}, "one character repeated 20"),
        ({"shortcut": {**RULE, "accuracy": 0.9}}, "'count of '！'' alone tells 90%"),
        (
            {"shortcut": {**RULE, "accuracy": 0.9, "in_line": {"n": 90, "accuracy": 0.99, "ci95": [0.97, 1.0]}, "against": {"n": 10, "accuracy": 0.3, "ci95": [0.1, 0.6]}}},
            "30% on the other 10 pairs",
        ),
    ],
)  # fmt: skip
def test_what_weakens_a_verdict_is_said_with_its_number(values, word):
    quiet, loud = verdict(MEASURED), verdict(MEASURED | values)
    assert any(word in en for _, en in loud.reasons) and not any(word in en for _, en in quiet.reasons)
    for ja, en in (*loud.reasons, *loud.next_steps):
        assert (
            re.search("[ぁ-ん]", ja)
            and ja.endswith(("。", "）"))
            and en[0].isupper() | (en[0] in "'0123456789")
            and en.endswith(".")
        )


def test_a_reward_that_is_right_everywhere_leans_on_no_rule():
    both = {"n": 50, "accuracy": 0.97, "ci95": [0.93, 1.0]}
    metrics = MEASURED | {"shortcut": {**RULE, "accuracy": 0.75, "in_line": both, "against": both}}
    assert verdict(metrics).reasons == verdict(MEASURED).reasons


def test_every_verdict_has_reasons_and_a_next_step():
    cases = ({}, {"win_rate_ci95": [0.4, 0.9]}, {"win_rate": 0.2, "win_rate_ci95": [0.1, 0.3]}, {"n_prompts": 5}, {"degenerate_tuned": 0.3}, {"heldout_trustworthy": False})  # fmt: skip
    said = [verdict(MEASURED | case) for case in cases]
    assert len({one.code for one in said}) == 6 and all(one.reasons and one.next_steps for one in said)


def test_a_lead_within_noise_says_how_many_prompts_would_show_it():
    """Lead 5 points, interval 10 points to each side, 100 prompts: (10 / 5)^2 = 4 times as many reach the edge, twice that for power."""
    said = verdict(MEASURED | {"win_rate": 0.55, "win_rate_ci95": [0.45, 0.65], "n_prompts": 100, "sign_test_p": 0.4})
    assert said.code == "within_noise" and re.search(r"about 8[01]0 held-out prompts", said.next_steps[0][1])


@pytest.mark.parametrize(("reference", "code"), [(0.0, "mixed"), (0.01, "mixed"), (0.036, "better")])
def test_the_same_text_for_two_briefs_counts_only_above_the_rate_of_the_data_itself(reference, code):
    numbers = {
        "identical_answers_base": 0.0, "identical_answers_tuned": 0.04, "identical_answers_difference": 0.04,
        "identical_answers_difference_ci95": [0.01, 0.07], "identical_reference": reference,
    }  # fmt: skip
    assert verdict({**FINE, **numbers}).code == code
