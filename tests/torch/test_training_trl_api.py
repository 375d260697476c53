"""How the recipe reaches the installed TRL, and older and newer ones described by their fields and signatures."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Literal

import pytest
import torch

from adslm_helpers.environment.device import choose_device
from adslm_helpers.environment.machine import Probe
from adslm_helpers.errors import TrainingError
from adslm_helpers.models.loading import load_model
from adslm_helpers.recipe import load_recipe
from adslm_helpers.training import trl_api
from adslm_helpers.training.accumulation import repair_accumulation
from adslm_helpers.training.prompts import encode_pairs
from adslm_helpers.training.settings import total_steps, trainer_settings
from adslm_helpers.training.trl_api import build_trainer, find_route, readable_checkpoints

CPU = Probe(kind="cpu", name="CPU", memory_gb=16, torch="2.13.0")
T4 = Probe(kind="cuda", name="Tesla T4", compute_capability=(7, 5), memory_gb=14.7, n_devices=1, torch="2.13.0", ram_gb=12)


def settings(recipe, probe=CPU, folder=None):
    from pathlib import Path

    return trainer_settings(recipe, choose_device(recipe, probe), 850, folder or Path("x"))


def wanted(*names, **overrides):
    return {name: value for name, value in settings(load_recipe("tiny", **overrides)).items() if name in names}


class Trainer:
    """A trainer of today: it takes nothing but the config."""

    def __init__(self, model, args, processing_class):
        pass


@pytest.fixture
def trainer_of(run, recipe, tmp_path):
    """`trainer_of(gradient_accumulation_steps=2)`: a real trainer on the small model, its pairs and what was done another way."""

    def build(**overrides):
        from dataclasses import replace

        from adslm_helpers.dataset.build import load_split

        chosen = replace(recipe, **overrides)
        loaded = load_model(chosen)
        pairs = [encode_pairs(loaded.tokenizer, load_split(run, side), 256, 200).pairs for side in ("train", "eval")]
        trainer, told = build_trainer(chosen, loaded.plan, loaded.model, loaded.tokenizer, *pairs, tmp_path)
        return trainer, pairs[0], told

    return build


def test_the_installed_trl_takes_every_setting(tmp_path):
    from trl import DPOConfig, DPOTrainer

    route = find_route(settings(load_recipe("tiny"), folder=tmp_path), DPOConfig, DPOTrainer)
    config = DPOConfig(**route.config)
    assert config.loss_type == ["sigmoid", "sft"] and config.loss_weights == [1.0, 1.0]
    assert config.logging_nan_inf_filter is False, "the filter shows a NaN loss as 0.0"
    assert (config.bf16, config.fp16) == (False, False) and config.use_cpu and route.trainer == {}


def test_both_precision_flags_are_always_said():
    """With neither flag TRL takes bf16=True on every device; a T4 needs fp16 AMP."""
    chosen = settings(load_recipe("colab_t4"), T4)
    assert (chosen["bf16"], chosen["fp16"]) == (False, True)


def test_before_trl_0_9_the_settings_of_dpo_go_to_the_trainer():
    @dataclass
    class Arguments:
        """transformers' own arguments of that time."""

        evaluation_strategy: str = "no"
        learning_rate: float = 0.0

    class OldTrainer:
        """TRL 0.7: no config of its own."""

        def __init__(self, model, args, tokenizer, beta=0.1, loss_type: Literal["sigmoid", "hinge"] = "sigmoid", max_length=None):
            pass

    names = ("eval_strategy", "learning_rate", "beta", "loss_type", "loss_weights", "max_length", "max_prompt_length")
    route = find_route(wanted(*names), Arguments, OldTrainer, own_sft=True)
    assert route.config == {"evaluation_strategy": "steps", "learning_rate": load_recipe("tiny").learning_rate}
    assert route.trainer == {"beta": 0.1, "loss_type": "sigmoid", "max_length": 256}
    assert route.done_by_us == ("max_prompt_length", "loss_weights")
    assert len(route.lines()) == 2 and all(" / " in line for line in route.lines())


def test_a_loss_that_an_old_trl_does_not_list_is_refused_with_those_that_it_has():
    @dataclass
    class Config:
        """A config that lists its losses."""

        loss_type: Literal["sigmoid", "hinge"] = "sigmoid"

    with pytest.raises(TrainingError, match="sigmoid, hinge"):
        find_route({"loss_type": ["robust"]}, Config, Trainer)


def test_a_missing_argument_that_matters_is_refused_not_swallowed():
    @dataclass
    class Bare:
        """A config without beta."""

        loss_type: list = field(default_factory=list)
        loss_weights: list = field(default_factory=list)
        max_length: int = 1

    with pytest.raises(TrainingError, match="beta"):
        find_route(wanted("beta", "max_length", "truncation_mode", "loss_type"), Bare, Trainer)


def test_an_sft_term_that_nobody_would_add_is_refused():
    """A list of losses is unknown and the trainer cannot be changed: without the term the recipe ruins the text."""

    @dataclass
    class Config:
        """Between two eras."""

        loss_type: str = "sigmoid"

    with pytest.raises(TrainingError, match="loss_weights"):
        find_route(wanted("loss_type", "loss_weights"), Config, Trainer)


def test_a_trl_that_cannot_be_imported_is_a_message_with_its_own_words(monkeypatch):
    """TRL 0.24 on transformers 5 fails so, at the first use of a lazy name."""
    import builtins

    real = builtins.__import__

    def failing(name, *args, **kwargs):
        if name == "trl":
            raise RuntimeError("Failed to import trl.trainer.dpo_trainer because of: No module named 'mergekit'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", failing)
    with pytest.raises(TrainingError, match="mergekit"):
        trl_api._import_trl()


def test_an_error_of_the_users_own_is_never_taken_for_an_old_api(trainer_of, monkeypatch):
    """A TypeError from inside the trainer comes out as it is; no other spelling is tried on it."""
    from trl import DPOTrainer

    def broken(self, *args, **kwargs):
        raise TypeError("a callback of the user's")

    broken.__signature__ = __import__("inspect").signature(DPOTrainer.__init__)
    monkeypatch.setattr(DPOTrainer, "__init__", broken)
    with pytest.raises(TypeError, match="a callback of the user's"):
        trainer_of()


def test_the_trainer_scores_the_ids_that_the_lesson_shows(trainer_of):
    from adslm_helpers.training.prompts import score_rows
    from adslm_helpers.training.trl_rows import scored_rows

    trainer, pairs, _ = trainer_of()
    assert scored_rows(trainer.data_collator(list(trainer.train_dataset))) == score_rows(pairs)


def test_a_trl_that_scores_other_tokens_is_refused(trainer_of, monkeypatch):
    """For one: a collator that appends a second EOS, as conversational data got from TRL 0.12 to 0.27."""
    monkeypatch.setattr(trl_api, "scored_rows", lambda batch: [([1, 2, 2], [0, 1, 1])])
    with pytest.raises(TrainingError, match="other tokens"):
        trainer_of()


def test_a_trl_newer_than_all_that_we_know_is_tried_with_its_own_tokenising(trainer_of, monkeypatch):
    """Unknown columns: TRL tokenises the texts itself, the LoRA of the first attempt is taken off, and it trains."""
    monkeypatch.setattr(trl_api, "id_rows", lambda columns, pairs: None)
    trainer, pairs, _ = trainer_of(max_steps=1)
    assert len(trainer.train_dataset) == len(pairs)
    assert sum("lora_A" in name for name, _ in trainer.model.named_parameters()) == 2 * 4, "one adapter, not two"
    assert trainer.train().global_step == 1


@pytest.mark.parametrize(
    ("handed", "divisor"),
    [(1.0, 4), (0.25, 1)],
    ids=["transformers 4.38, 4.46: the loss comes whole", "transformers 4.48 to 5: already divided"],
)
def test_every_micro_batch_weighs_its_share_whoever_divides(handed, divisor):
    """transformers 5.4 divided by 4 and let the accelerator divide by 4 again: a quarter of the gradient, and no word of it."""
    trainer = SimpleNamespace(args=SimpleNamespace(gradient_accumulation_steps=4, device="cpu"), model=None)
    trainer.accelerator = SimpleNamespace(gradient_accumulation_steps=4)
    trainer.training_step = lambda model, inputs: trainer.accelerator.backward(trainer.compute_loss(model, inputs) * handed)
    repair_accumulation(trainer)
    assert trainer.accelerator.gradient_accumulation_steps == divisor
    assert handed / divisor == 0.25 and not hasattr(trainer, "compute_loss") and not hasattr(trainer.accelerator, "backward")


def test_a_scale_that_nobody_can_repair_is_refused():
    trainer = SimpleNamespace(args=SimpleNamespace(gradient_accumulation_steps=4, device="cpu"), model=None)
    trainer.accelerator = SimpleNamespace(gradient_accumulation_steps=4)
    trainer.training_step = lambda model, inputs: trainer.accelerator.backward(trainer.compute_loss(model, inputs) * 3)
    with pytest.raises(TrainingError, match="accumulated"):
        repair_accumulation(trainer)


def test_two_halves_make_the_gradient_of_the_whole(trainer_of):
    """On the installed versions, for real: one step of 2 x 4 pairs moves the adapter as one of 1 x 8 does."""
    moved = []
    for batch, steps in ((8, 1), (4, 2)):
        trainer, _, _ = trainer_of(
            per_device_train_batch_size=batch, gradient_accumulation_steps=steps, max_steps=1, sft_weight=0.0
        )
        trainer.args.lr_scheduler_type, trainer.args.max_grad_norm = "constant", 1e9
        gradients = {}

        def keep(*args, model=None, gradients=gradients, **kwargs):
            gradients.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

        watcher = type(
            "Watcher",
            (__import__("transformers").TrainerCallback,),
            {"on_pre_optimizer_step": lambda self, *a, **k: keep(*a, **k)},
        )
        trainer.add_callback(watcher())
        trainer.train()
        moved.append(gradients)
    whole, halves = moved
    assert whole and all(torch.allclose(whole[name], halves[name], atol=1e-6) for name in whole)


def test_checkpoints_with_numpys_random_state_are_read_without_unpickling(tmp_path):
    """transformers 4.46 saves it so and reads it with torch's default, which refuses numpy since torch 2.6."""
    import numpy

    torch.save({"numpy": numpy.random.get_state()}, tmp_path / "rng_state.pth")
    with pytest.raises(Exception, match="weights_only"):
        torch.load(tmp_path / "rng_state.pth", weights_only=True)
    with readable_checkpoints():
        read = torch.load(tmp_path / "rng_state.pth", weights_only=True)
    assert read["numpy"][0] == "MT19937"


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [({}, 214), ({"num_train_epochs": 0.5}, 54), ({"gradient_accumulation_steps": 4}, 54), ({"max_steps": 7}, 7)],
)
def test_total_steps_as_transformers_counts_them(overrides, steps):
    """850 pairs, batch 8: 107 batches an epoch, the last one short."""
    assert total_steps(load_recipe("tiny", **overrides), 850) == steps


def test_a_warm_up_of_one_step_is_left_out():
    """transformers 4.42 refuses warmup_steps=1, and its learning rate would be 0 anyway."""
    assert settings(load_recipe("tiny", max_steps=12))["warmup_steps"] == 0
    assert settings(load_recipe("tiny", max_steps=20))["warmup_steps"] == 2


def test_no_version_chooses_the_ending_by_the_loss_alone():
    """Which adapter a run ends with is for its texts to say (snapshots.choose_ending)."""
    chosen = settings(load_recipe("tiny", load_best_model_at_end=True, max_steps=100, evals_per_run=4, save_steps=7))
    assert chosen["load_best_model_at_end"] is False and (chosen["save_steps"], chosen["eval_steps"]) == (7, 25)
