"""How the recipe reaches the installed TRL, and an older one described by its fields."""

from dataclasses import dataclass

import pytest

from adslm_helpers.environment.device import choose_device
from adslm_helpers.environment.machine import Probe
from adslm_helpers.errors import TrainingError
from adslm_helpers.recipe import load_recipe
from adslm_helpers.training.trl_api import fit_to, total_steps, trainer_settings

CPU = Probe(kind="cpu", name="CPU", memory_gb=16, torch="2.13.0")
T4 = Probe(kind="cuda", name="Tesla T4", compute_capability=(7, 5), memory_gb=14.7, n_devices=1, torch="2.13.0", ram_gb=12)


def settings(recipe, probe=CPU, folder=None):
    from pathlib import Path

    return trainer_settings(recipe, choose_device(recipe, probe), 850, folder or Path("x"))


def test_the_installed_trl_takes_every_setting(tmp_path):
    from trl import DPOConfig

    config = DPOConfig(**fit_to(DPOConfig, settings(load_recipe("tiny"), folder=tmp_path)))
    assert config.loss_type == ["sigmoid", "sft"] and config.loss_weights == [1.0, 1.0]
    assert config.logging_nan_inf_filter is False, "the filter shows a NaN loss as 0.0"
    assert (config.bf16, config.fp16) == (False, False) and config.use_cpu


def test_both_precision_flags_are_always_said():
    """With neither flag TRL takes bf16=True on every device; a T4 needs fp16 AMP."""
    chosen = settings(load_recipe("colab_t4"), T4)
    assert (chosen["bf16"], chosen["fp16"]) == (False, True)


def test_an_older_trl_gets_the_sft_term_as_rpo_alpha_and_the_older_names():
    @dataclass
    class OldConfig:
        """The fields of TRL 0.18 that matter here."""

        loss_type: str = "sigmoid"
        rpo_alpha: float | None = None
        evaluation_strategy: str = "no"
        beta: float = 0.1
        max_prompt_length: int = 1

    wanted = {name: value for name, value in settings(load_recipe("tiny", sft_weight=0.5)).items()
              if name in {"loss_type", "loss_weights", "eval_strategy", "beta", "max_prompt_length", "truncation_mode"}}  # fmt: skip
    assert fit_to(OldConfig, wanted) == {
        "loss_type": "sigmoid", "rpo_alpha": 0.5, "evaluation_strategy": "steps", "beta": 0.1, "max_prompt_length": 160,
    }  # fmt: skip


def test_a_missing_argument_that_matters_is_refused_not_swallowed():
    @dataclass
    class Bare:
        """A config without beta."""

        max_length: int = 1

    with pytest.raises(TrainingError, match="beta"):
        fit_to(Bare, {"beta": 0.1, "max_length": 5, "truncation_mode": "keep_start"})


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [({}, 214), ({"num_train_epochs": 0.5}, 54), ({"gradient_accumulation_steps": 4}, 54), ({"max_steps": 7}, 7)],
)
def test_total_steps_as_transformers_counts_them(overrides, steps):
    """850 pairs, batch 8: 107 batches an epoch, the last one short."""
    assert total_steps(load_recipe("tiny", **overrides), 850) == steps
