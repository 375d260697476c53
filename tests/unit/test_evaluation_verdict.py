"""The verdict: it never says more than the numbers, and ruined text outweighs any win."""

import re

import pytest

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
