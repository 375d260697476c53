"""The evaluation of a small run: files, keys, and numbers that agree with each other."""

import dataclasses
import json
import math
import re
import shutil

import pytest

from adslm_helpers.errors import DataError, ModelError, RunError
from adslm_helpers.evaluation.candidates import find_candidates
from adslm_helpers.evaluation.evaluate import audited, evaluate, load_evaluation, quick_look
from adslm_helpers.evaluation.verdict import verdict
from adslm_helpers.run import Run, read_jsonl, write_json
from adslm_helpers.training.train import train

from .conftest import made_run

KEYS = {
    "heldout_loss", "reward_accuracy", "reward_accuracy_ci95", "rubric_pass_base", "rubric_pass_tuned", "win_rate", "win_rate_ci95",
    "degenerate_base", "degenerate_tuned", "right_product_base", "right_product_tuned", "n_prompts",
}  # fmt: skip


NEW_KEYS = {
    "sign_test_p", "wins_by_prompt", "perplexity_base", "perplexity_tuned_ci95", "perplexity_ratio", "reward_accuracy_by_length", "shortcut",
    "kl_to_base", "obedience_difference_ci95", "length_ratio", "breach_base", "breach_difference_ci95", "breach_rules_tuned", "distinct_2_base",
    "self_chrf_tuned", "identical_answers_difference", "memorised_reference", "verbatim_tuned", "n_heldout_groups", "heldout_trustworthy",
    "verdict_reasons", "next_steps", "candidates", "unchanged",
}  # fmt: skip


@pytest.fixture(scope="module")
def once(recipe, tmp_path_factory):
    """The runs folder of a run that was trained and evaluated, and what the evaluation gave: made once, for it takes seconds."""
    root = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADSLM_RUNS", str(root))
        run = made_run(root)
        train(run, recipe)
        return root, evaluate(run)


@pytest.fixture
def evaluated(once, runs_in_tmp):
    """A copy of that run, to do anything with, and the evaluation."""
    root, evaluation = once
    shutil.copytree(root, runs_in_tmp)
    return Run("t", runs_in_tmp), evaluation


@pytest.fixture
def trained(evaluated):
    """The same without its evaluation."""
    run, _ = evaluated
    shutil.rmtree(run.evaluation)
    return run


def test_metrics_have_the_promised_keys_and_agree_with_the_comparisons(evaluated):
    run, evaluation = evaluated
    metrics = json.loads((run.evaluation / "metrics.json").read_text(encoding="utf-8"))
    assert metrics.keys() >= KEYS | NEW_KEYS and metrics == evaluation.metrics
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
    assert "data:image/png;base64," in page  # the sources of rules are named on it, not fetched
    assert not re.search(r"""(?:src|href|action)\s*=\s*["']?http|url\(|@import|<script""", page)
    assert sorted(path.name for path in (run.evaluation / "figures").iterdir()) == [
        "margins.png", "rubric.png", "training_curves.png", "win_tie_loss.png",
    ]  # fmt: skip


def test_evaluating_again_gives_the_same_numbers(evaluated):
    run, evaluation = evaluated
    again = evaluate(run)
    assert again.metrics == evaluation.metrics and again.comparisons == evaluation.comparisons
    loaded = load_evaluation(run)
    assert loaded.metrics == evaluation.metrics and loaded.verdict == evaluation.verdict and loaded.verdict.reasons


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


def adapter_beside(run, name, *, rank=None, fill=None, base=None, shape=None):
    """A copy of the run's adapter with other weights: another rank, all of one number, another base in its config, other tensors."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = run.path.parent.parent / name
    shutil.copytree(run.training / "adapter", folder)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    weights = load_file(folder / "adapter_model.safetensors")
    if rank:
        config |= {"r": rank, "lora_alpha": 4 * rank, "target_modules": ["q_proj"]}
        weights = {key: value[:rank] if "lora_A" in key else value[:, :rank] for key, value in weights.items() if "q_proj" in key}
    if fill is not None:
        weights = {key: torch.full_like(value, fill) for key, value in weights.items()}
    if shape:
        weights = {key: torch.zeros(shape) for key in weights}
    if base:
        config["base_model_name_or_path"] = base
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / "adapter_model.safetensors")
    return str(folder)


def test_further_adapters_answer_the_same_prompts_and_leave_the_runs_own_numbers_as_they_are(evaluated):
    """A checkpoint by its name, one of another rank on other modules, the base itself (zeros): each against the same base texts."""
    run, alone = evaluated
    checkpoint = max(run.training.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    names = [checkpoint.name, adapter_beside(run, "small", rank=2), adapter_beside(run, "zero", fill=0.0)]
    metrics = dict(evaluate(run, names).metrics)
    last, small, zero = metrics.pop("candidates")
    assert metrics == {key: value for key, value in alone.metrics.items() if key != "candidates"}
    assert [one["name"] for one in (last, small, zero)] == names and small["heldout_loss"] != metrics["heldout_loss"]
    for one in (last, small, zero):
        assert one.keys() >= (KEYS | NEW_KEYS) - {"candidates"}
        rows = read_jsonl(run.evaluation / one["comparisons"])
        assert [(row["prompt"], row["seed"], row["base"]) for row in rows] == [
            (row["prompt"], row["seed"], row["base"]) for row in alone.comparisons
        ]
    assert {key: last[key] for key in ("heldout_loss", "win_rate", "kl_to_base")} == {
        key: metrics[key] for key in ("heldout_loss", "win_rate", "kl_to_base")
    }
    assert last["win_rate_over_run"] == 0.5 and last["sign_test_p_over_run"] == 1.0
    assert (zero["win_rate"], zero["kl_to_base"], zero["perplexity_ratio"], zero["unchanged"]) == (0.5, 0.0, 1.0, 1.0)
    assert zero["heldout_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert verdict({**zero, "n_prompts": 20}).code == "within_noise"
    again = evaluate(run).metrics
    assert again == alone.metrics and not list((run.evaluation / "candidates").glob("*"))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"base": "org/another-model"}, "not of this run's base"),
        ({"fill": float("nan")}, "NaN or infinity"),
        ({"shape": (3, 5)}, "cannot be used"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_in_words_and_the_evaluation_stays(evaluated, made, words):
    run, evaluation = evaluated
    name = adapter_beside(run, f"odd-{words[:3]}", **made)
    with pytest.raises(ModelError, match=words):
        evaluate(run, [name])
    assert load_evaluation(run).metrics == evaluation.metrics


def test_an_adapter_with_tensors_of_other_modules_is_no_adapter_of_this_base(trained):
    """PEFT only warns, and leaves what is missing at zero: the candidate would silently be its base."""
    from safetensors.torch import load_file, save_file

    folder = adapter_beside(trained, "renamed")
    path = f"{folder}/adapter_model.safetensors"
    save_file({key.replace("layers.0", "blocks.0"): value for key, value in load_file(path).items()}, path)
    with pytest.raises(ModelError, match="no adapter of this base"):
        evaluate(trained, [folder])


def test_a_whole_model_and_an_unknown_name_are_refused(trained, model_folder):
    with pytest.raises(ModelError, match="whole model"):
        evaluate(trained, [str(model_folder)])
    with pytest.raises(RunError, match="no run 'nowhere'"):
        evaluate(trained, ["nowhere"])


def test_another_run_on_the_same_base_is_found_by_its_name(trained, recipe):
    other = trained.fork("other")
    train(other, dataclasses.replace(recipe, max_steps=2))
    candidates = find_candidates(trained, ["other"])
    assert candidates[0].folder == other.training / "adapter"


def test_weights_that_overflow_are_refused_before_anything_is_sampled(evaluated):
    """Finite on disk, and beyond all numbers in the forward: sampling from NaN ends a CUDA process."""
    run, _ = evaluated
    with pytest.raises(ModelError, match="NaN or infinity"):
        evaluate(run, [adapter_beside(run, "huge", fill=1e30)])


def test_no_pair_that_can_be_scored_is_said_in_words(evaluated, recipe):
    run, _ = evaluated
    write_json(run.training / "recipe.json", dataclasses.replace(recipe, max_length=16, max_prompt_length=8).to_dict())
    with pytest.raises(DataError, match=r"None of the 8 held-out pairs .* max_length \(now 16"):
        evaluate(run)


def test_what_the_audit_said_of_the_held_out_side_reaches_the_verdict(evaluated):
    run, _ = evaluated
    audit = {"counts": {"eval_groups": 7}, "trustworthy": False, "findings": [{"code": "prompt_blind", "number": 0.9}, 3]}
    for report, found in (({"audit": audit}, (7, False, 0.9)), ({"audit": 3}, (None, None, None)), ([], (None, None, None))):
        write_json(run.dataset / "report.json", report)
        assert tuple(audited(run).values()) == found
