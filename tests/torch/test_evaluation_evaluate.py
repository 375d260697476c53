"""The evaluation of a small run: files, keys, and numbers that agree with each other."""

import json

import pytest

from adslm_helpers.errors import RunError
from adslm_helpers.evaluation.evaluate import evaluate, load_evaluation, quick_look
from adslm_helpers.run import Run, read_jsonl
from adslm_helpers.training.train import train

KEYS = {
    "heldout_loss", "reward_accuracy", "reward_accuracy_ci95", "rubric_pass_base", "rubric_pass_tuned", "win_rate", "win_rate_ci95",
    "degenerate_base", "degenerate_tuned", "right_product_base", "right_product_tuned", "n_prompts",
}  # fmt: skip


@pytest.fixture
def evaluated(run, recipe):
    train(run, recipe)
    return run, evaluate(run)


def test_metrics_have_the_promised_keys_and_agree_with_the_comparisons(evaluated):
    run, evaluation = evaluated
    metrics = json.loads((run.evaluation / "metrics.json").read_text(encoding="utf-8"))
    assert metrics.keys() >= KEYS and metrics == evaluation.metrics
    rows = read_jsonl(run.evaluation / "comparisons.jsonl")
    assert len(rows) == metrics["n_texts"] == metrics["wins"] + metrics["ties"] + metrics["losses"]
    assert {"prompt", "base", "tuned", "seed", "base_judgement", "tuned_judgement"} <= rows[0].keys()
    low, high = metrics["reward_accuracy_ci95"]
    assert low <= metrics["reward_accuracy"] <= high
    held_out = {row["prompt"] for row in read_jsonl(run.dataset / "eval.jsonl")}
    assert {row["prompt"] for row in rows} <= held_out


def test_the_report_is_one_file_that_loads_nothing(evaluated):
    run, _ = evaluated
    page = (run.evaluation / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page and "http" not in page.replace("http-equiv", "")
    assert sorted(path.name for path in (run.evaluation / "figures").iterdir()) == [
        "margins.png", "rubric.png", "training_curves.png", "win_tie_loss.png",
    ]  # fmt: skip


def test_evaluating_again_gives_the_same_numbers(evaluated):
    run, evaluation = evaluated
    again = evaluate(run)
    assert again.metrics == evaluation.metrics and again.comparisons == evaluation.comparisons
    assert load_evaluation(run).metrics == evaluation.metrics


def test_before_and_after_differ_only_by_the_adapter(evaluated):
    """With an adapter of zeros the two sides must write the same texts from the same seeds, and every outcome is a tie."""
    import torch
    from safetensors.torch import load_file, save_file

    run, _ = evaluated
    path = run.training / "adapter" / "adapter_model.safetensors"
    save_file({name: torch.zeros_like(weight) for name, weight in load_file(path).items()}, path)
    look = quick_look(run)
    assert look["ties"] == look["n_texts"] and look["reward_margin"] == 0 and look["reward_accuracy"] == 0
    assert all(row["base"] == row["tuned"] for row in look["texts"])


def test_evaluation_before_training_names_the_notebook():
    with pytest.raises(RunError, match="notebook 02"):
        evaluate(Run("untrained"))
