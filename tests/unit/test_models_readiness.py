"""One answer from machine, packages and plan: nothing is called ready that the plan cannot do."""

from dataclasses import replace

import pytest

from adslm_helpers.environment import hub_token
from adslm_helpers.errors import SetupError
from adslm_helpers.models.readiness import readiness
from adslm_helpers.recipe import load_recipe


@pytest.fixture(autouse=True)
def no_token(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in hub_token.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_model_that_does_not_fit_is_a_problem_with_what_fits_instead():
    """gemma-2b-it in 16 bit on 8 GB: hours of download and swapping, once."""
    report, plan = readiness(load_recipe("tiny", model="google/gemma-2b-it"), "apple-m2-8gb")
    assert plan.model == "embedded-tiny" and not report.ok
    (ja, en) = report.problems[-1]
    assert "google/gemma-2b-it" in ja and "load_in_4bit" in ja and "load_in_4bit=true" in en and "instead: embedded-tiny" in en


def test_where_nothing_fits_there_is_no_plan_and_the_report_says_why():
    recipe = replace(load_recipe("tiny", model="google/gemma-2b-it"), fallback=False)
    report, plan = readiness(recipe, "apple-m2-8gb")
    assert plan is None and any("google/gemma-2b-it" in en for _, en in report.problems)


def test_what_the_plan_needs_is_asked_of_the_packages(monkeypatch):
    """An 8-billion model fits a T4 in 4 bit only, and that Colab has no bitsandbytes."""
    monkeypatch.setenv("HF_TOKEN", "x")
    recipe = load_recipe("tiny", model="tokyotech-llm/Llama-3-Swallow-8B-Instruct-v0.1", max_length=256)
    report, plan = readiness(recipe, "colab-2026.08-gpu")
    assert plan.recipe.load_in_4bit and not recipe.load_in_4bit
    assert any("bitsandbytes" in en for _, en in report.problems)


@pytest.mark.parametrize(
    ("machine", "precision"), [("apple-m1-16gb", "float32"), ("colab-t4", "float32"), ("colab-l4", "bfloat16")]
)
def test_report_and_plan_name_the_same_precision(machine, precision):
    report, plan = readiness(load_recipe("tiny"), machine)
    assert report.plan == plan.device and report.plan.dtype == precision and report.problems == []


def test_an_unknown_name_is_refused():
    with pytest.raises(SetupError, match="apple-m2-8gb"):
        readiness(load_recipe("tiny"), "apple-m3")
