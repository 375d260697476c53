"""Training end to end on a small random model: what must move, what must not, what is found again."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from adslm_helpers.errors import RecipeError, RunError, TrainingError
from adslm_helpers.models.tuned import load_tuned
from adslm_helpers.recipe import recipe_from_dict
from adslm_helpers.run import Run, read_json, read_jsonl, write_jsonl
from adslm_helpers.training.checkpoints import last_valid
from adslm_helpers.training.train import train

from .conftest import StopAt


class Collect(TrainerCallback):
    """Keeps a copy of the base weights as the trainer sees them first and last."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.before = {n: p.detach().clone() for n, p in model.named_parameters()}

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self.after = {n: p.detach().clone() for n, p in model.named_parameters()}


@pytest.fixture
def trained(run, recipe):
    watch = Collect()
    return run, train(run, recipe, [watch]), watch


def test_every_adapter_weight_moves_and_no_base_weight(trained):
    _, _, watch = trained
    moved = {name for name, weight in watch.after.items() if not torch.equal(weight, watch.before[name])}
    assert moved == {name for name in watch.after if "lora_" in name} and moved


def test_the_first_loss_is_ln_2_plus_the_sft_term(run, recipe):
    """The log has the sum of both terms; without the SFT term the first loss is ln 2."""
    plain = recipe_from_dict({**recipe.to_dict(), "sft_weight": 0.0, "max_steps": 1})
    train(run, plain)
    first = read_jsonl(run.training / "history.jsonl")[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4) and first["rewards/margins"] == pytest.approx(0, abs=1e-4)


def test_the_labels_that_the_data_doubts_are_smoothed_in_the_loss(run, recipe):
    """Robust DPO with smoothing e: at the start the loss is ln 2 whatever e is, then it parts from the plain one."""
    for side in ("train", "eval"):
        path = run.dataset / f"{side}.jsonl"
        write_jsonl(path, [{**row, "p_win": 0.9} for row in read_jsonl(path)])
    told = recipe_from_dict({**recipe.to_dict(), "sft_weight": 0.0, "use_p_win": True})
    result = train(run, told)
    used = recipe_from_dict(read_json(run.training / "recipe.json"))
    assert (used.loss_type, used.label_smoothing) == ("robust", 0.1) and any(
        "label_smoothing 0.1" in line for line in result.choice
    )
    plain = train(run, recipe_from_dict({**told.to_dict(), "use_p_win": False}))
    assert result.final["eval_loss"] != pytest.approx(plain.final["eval_loss"], abs=1e-6)


def test_what_a_run_leaves_behind(trained):
    run, result, _ = trained
    assert {path.name for path in run.training.iterdir()} >= {
        "adapter",
        "checkpoints",
        "history.jsonl",
        "events",
        "recipe.json",
        "result.json",
    }
    assert (run.training / "adapter" / "adapter_model.safetensors").is_file()
    history = read_jsonl(run.training / "history.jsonl")
    assert {"loss", "rewards/margins", "rewards/accuracies", "time", "memory_gib"} <= set(history[0])
    assert any("eval_rewards/accuracies" in row for row in history) and any((run.training / "events").iterdir())
    assert run.status("training") == "done" and result.steps == 6
    assert result.pairs == {"train": 24, "eval": 8}


def test_our_heldout_numbers_equal_the_trainers_evaluation(trained):
    """The plain forward of an evaluation against the trainer's own, on the same held-out pairs."""
    from adslm_helpers.evaluation.heldout import score_heldout

    run, result, _ = trained
    recipe = recipe_from_dict(json.loads((run.training / "recipe.json").read_text()))
    loaded = load_tuned(run)
    heldout = score_heldout(loaded.model, loaded.tokenizer, read_jsonl(run.dataset / "eval.jsonl"), recipe)
    metrics = heldout.metrics()
    assert metrics["reward_margin"] == pytest.approx(result.final["eval_rewards/margins"], abs=2e-4)
    assert metrics["reward_accuracy"] == pytest.approx(result.final["eval_rewards/accuracies"], abs=1e-6)


def test_the_same_recipe_and_data_are_not_trained_twice(trained, recipe):
    run, result, _ = trained
    with run.step("evaluation"):
        pass
    again = train(run, recipe)
    assert again.reused and again.final == result.final
    assert run.status("evaluation") == "done", "a cell that was run once more makes nothing stale"
    assert not (run.path / "training-1").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"steps": 6, "mine": 1}'])
def test_a_result_that_somebody_changed_is_made_again_from_the_last_checkpoint(trained, recipe, content):
    run, result, _ = trained
    before = load_file(run.training / "adapter" / "adapter_model.safetensors")
    (run.training / "result.json").write_text(content, encoding="utf-8")
    again = train(run, recipe)
    after = load_file(run.training / "adapter" / "adapter_model.safetensors")
    assert not again.reused and again.final == result.final and again.steps == 6
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_recipe_keeps_the_earlier_result_beside_it(trained, recipe):
    run, _, _ = trained
    before = load_file(run.training / "adapter" / "adapter_model.safetensors")
    other = train(run, recipe_from_dict({**recipe.to_dict(), "beta": 0.3}))
    assert not other.reused
    kept = load_file(run.path / "training-1" / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(before[name], kept[name]) for name in before)


def test_an_interrupted_run_ends_with_the_same_adapter(run, recipe, runs_in_tmp):
    undisturbed = run.fork("undisturbed")
    train(undisturbed, recipe)
    with pytest.raises(KeyboardInterrupt):
        train(run, recipe, [StopAt(5)])
    assert run.status("training") == "interrupted" and last_valid(run.training).name == "checkpoint-4"
    result = train(run, recipe)
    assert result.resumed_from == 4
    ours, theirs = (load_file(r.training / "adapter" / "adapter_model.safetensors") for r in (run, undisturbed))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=0)
    steps = [row["step"] for row in read_jsonl(run.training / "history.jsonl") if "loss" in row]
    assert steps == sorted(set(steps)), "a resumed history has every step once"


def test_a_nan_stops_before_any_weight_is_harmed(run, recipe):
    class Poison(TrainerCallback):
        """One NaN in one gradient element, once."""

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            weight = next(p for p in model.parameters() if p.requires_grad)
            weight.register_hook(
                lambda gradient: gradient.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(float("nan")))
            )
            self.weights = {n: p for n, p in model.named_parameters() if p.requires_grad}

    poison = Poison()
    with pytest.raises(TrainingError, match="step 1"):
        train(run, recipe, [poison])
    assert all(torch.isfinite(weight).all() for weight in poison.weights.values())
    assert run.status("training") == "failed"


def test_training_without_a_dataset_says_which_notebook_comes_first(recipe):
    with pytest.raises(RunError, match="notebook 01"):
        train(Run("nothing-here"), recipe)


def test_a_preset_for_another_machine_is_refused_before_any_load(run, recipe):
    with pytest.raises(RecipeError, match="Presets that fit here"):
        train(run, recipe_from_dict({**recipe.to_dict(), "needs_device": ["cuda"], "device": "auto"}))


def test_a_fallback_is_said_first_and_kept_in_the_manifest(run, recipe, tmp_path):
    """Nobody may believe that the model they asked for was tuned when another one was."""
    asked = recipe_from_dict(
        {**recipe.to_dict(), "models": [str(tmp_path / "no-model"), *recipe.models], "fallback": True, "max_steps": 1}
    )
    (tmp_path / "no-model").mkdir()
    result = train(run, asked)
    assert "FALLBACK" in result.lines()[0] and "no-model" in result.lines()[1]
    assert run.manifest()["model"]["skipped"][0]["name"].endswith("no-model")
    assert train(run, asked).lines()[:2] == result.lines()[:2], "also when the result is reused"
