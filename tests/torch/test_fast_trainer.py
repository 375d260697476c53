"""The engine as a trainer: what it logs, what a pair counts for, and what it does without TRL."""

import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch

from adslm_helpers.dataset.samples import sample_pairs
from adslm_helpers.models.loading import load_model
from adslm_helpers.recipe import recipe_from_dict
from adslm_helpers.run import read_jsonl
from adslm_helpers.training.fast.averages import Averages
from adslm_helpers.training.fast.trainer import Teacher, build_trainer
from adslm_helpers.training.prompts import encode_pairs
from adslm_helpers.training.train import train


def changed(recipe, **values):
    return recipe_from_dict({**recipe.to_dict(), **values})


@pytest.fixture
def pairs(recipe):
    loaded = load_model(recipe)
    return encode_pairs(loaded.tokenizer, sample_pairs(14, seed=3), recipe.max_length, recipe.max_prompt_length).pairs


@pytest.fixture
def build(recipe, pairs, tmp_path):
    """A trainer of the small model on nine pairs, five held out."""

    def make(weights=None, teacher=None, **fields):
        asked = changed(recipe, **{"sft_weight": 0.0, **fields})
        loaded = load_model(asked)
        sides = (pairs[:9], pairs[9:])
        trainer, _ = build_trainer(
            asked, loaded.plan, loaded.model, loaded.tokenizer, *sides, tmp_path / "r" / "training", (), teacher, weights
        )
        return trainer

    return make


def history(trainer):
    return [row for row in trainer.state.log_history if "loss" in row]


# --- what is logged ------------------------------------------------------------------------------------------------------


def test_a_short_last_batch_counts_by_its_pairs_and_tokens_count_within_a_batch():
    averages = Averages()
    tokens = {"logits": torch.tensor([1, 3])}
    averages.add({"margin": torch.tensor([1.0, 2.0]), "logits": torch.tensor([4.0, 8.0])}, tokens)
    averages.add({"margin": torch.tensor([9.0]), "logits": torch.tensor([1.0])}, {"logits": torch.tensor([7])})
    assert averages.latest == {"margin": 9.0, "logits": 1.0}
    assert averages.take() == pytest.approx({"margin": 4.0, "logits": (2 * 7 + 1) / 3})
    assert averages.take() == {}, "nothing is counted twice"


def test_held_out_numbers_do_not_depend_on_the_batch(build):
    """Five pairs in batches of four: a mean of the batches' means would count the fifth four times."""
    by_four, by_one = (build(per_device_eval_batch_size=size, loss_type="ipo").evaluate() for size in (4, 1))
    names = [name for name in by_one if name.startswith(("eval_loss", "eval_rewards", "eval_logps"))]
    assert len(names) == 7 and {name: by_four[name] for name in names} == pytest.approx(
        {name: by_one[name] for name in names}, abs=1e-4
    )


def test_the_logs_have_trls_names_and_each_side_its_own(build):
    trainer = build(max_steps=2)
    trainer.train()
    sides = {f"{name}/{side}" for name in ("rewards", "logps", "logits") for side in ("chosen", "rejected")}
    first = history(trainer)[0]
    assert {*sides, "rewards/margins", "rewards/accuracies", "loss", "grad_norm", "learning_rate"} <= set(first)
    assert "loss/train" not in first and first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    held_out = next(row for row in trainer.state.log_history if "eval_loss" in row)
    assert {f"eval_{name}" for name in sides} <= set(held_out)


def test_preference_guided_training_logs_both_parts_of_its_loss_and_the_guides_names(build, pairs):
    """A teacher that reads no more than the policy agrees with it exactly at the start."""
    teacher = Teacher({"train": pairs[:9], "eval": pairs[9:]})
    trainer = build(teacher=teacher, method="preference_guided", alpha=0.5, max_steps=3)
    trainer.train()
    first, last = history(trainer)[0], history(trainer)[-1]
    assert first["preference_metrics/pref_advantage_ratio"] == pytest.approx(1.0, abs=1e-4)
    assert first["preference_metrics/margin_gap"] == pytest.approx(0.0, abs=1e-4)
    for row in (first, last):
        parts = row["loss_components/dpo_loss"] + 0.5 * row["loss_components/aligned_loss"]
        assert row["loss"] == pytest.approx(parts, abs=1e-5)
        assert (row["loss/train"], row["rewards_train/accuracy"]) == (row["loss"], row["rewards/accuracies"])
    held_out = next(row for row in trainer.state.log_history if "eval_loss" in row)
    assert {"eval_loss_components/aligned_loss", "eval_preference_metrics/margin_gap"} <= set(held_out)


def test_a_ratio_far_out_is_cut_in_the_log_alone(build, pairs):
    trainer = build(teacher=Teacher({"train": pairs[:9], "eval": pairs[9:]}), method="preference_guided", alpha=1.0)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    batch["teacher_logps"] = torch.tensor([0.0, -500.0])
    loss = trainer.compute_loss(trainer.model, batch).item()
    assert trainer.averages["eval"].latest["preference_metrics/pref_advantage_ratio"] == pytest.approx(math.exp(20))
    assert loss > 40, "beta 0.1 times a gap of some 500 nats"


# --- what a pair counts for ----------------------------------------------------------------------------------------------


def test_weights_change_what_is_trained_and_not_what_is_held_out(build):
    plain, weighted = build(), build(weights=[2.0, *[0.0] * 8])
    losses = [t.compute_loss(t.model, t.data_collator(t.train_dataset[:2])).item() for t in (plain, weighted)]
    assert losses == pytest.approx([math.log(2), math.log(2)]), "one pair of two, counted twice"
    gradients = []
    for trainer, items in ((weighted, weighted.train_dataset[:2]), (plain, plain.train_dataset[:1])):
        trainer.compute_loss(trainer.model, trainer.data_collator(items)).backward()
        gradients.append({n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-4)
    assert weighted.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]


def test_the_sft_term_of_several_processes_is_the_mean_over_all_their_tokens(build):
    trainer = build()
    lengths = torch.tensor([[10, 3], [20, 5]])
    trainer.model.train()
    assert trainer._share_of_tokens(lengths) == 1.0
    trainer.accelerator = SimpleNamespace(num_processes=2, reduce=lambda own, how: own + 90)  # the other process has 90
    assert trainer._share_of_tokens(lengths).item() == pytest.approx(2 * 30 / 120)
    trainer.model.eval()
    assert trainer._share_of_tokens(lengths) == 1.0, "the batches of an evaluation stand alone"


def test_a_pair_that_fills_up_an_evaluation_batch_does_not_count_again(build):
    """Two processes, 11 pairs in batches of 4: the last round holds 3, then padding."""
    trainer = build()
    trainer.model.eval()
    own = []
    for process in (0, 1):
        state = SimpleNamespace(end_of_dataloader=True, remainder=3)
        trainer.accelerator = SimpleNamespace(num_processes=2, process_index=process, gradient_state=state)
        own.append(trainer._pairs_of_its_own(4))
    assert own == [3, 1]  # of a batch that is all repetition nothing is kept: the loss of its one pair is cut off
    state.end_of_dataloader = False
    assert trainer._pairs_of_its_own(4) == 4


# --- the network ---------------------------------------------------------------------------------------------------------


def test_policy_and_reference_see_the_same_network_also_where_the_config_wants_dropout(recipe, pairs, tmp_path, model_folder):
    """Attention reads its rate from the module, where no layer of torch shows it: switched off with the layers only, ln 2 was off."""
    folder = tmp_path / "drops"
    loaded = load_model(recipe)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.5}))
    asked = changed(recipe, models=[str(folder)], lora_dropout=0.5, sft_weight=0.0)
    loaded = load_model(asked)
    trainer, _ = build_trainer(
        asked, loaded.plan, loaded.model, loaded.tokenizer, pairs[:4], pairs[4:6], tmp_path / "r" / "training"
    )
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(trainer.train_dataset))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


def test_it_trains_where_trl_is_not_installed(run, recipe, monkeypatch):
    for name in [name for name in sys.modules if name == "trl" or name.startswith("trl.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "trl", None)
    result = train(run, changed(recipe, max_steps=2, watch_prompts=0))
    assert result.steps == 2 and result.done_by_us == []
    assert math.isfinite(read_jsonl(run.training / "history.jsonl")[-1]["train_loss"])
