"""A small random model and a tokenizer, built in process and shared by the torch tests."""

from __future__ import annotations

import pytest
from transformers import TrainerCallback

from adslm_helpers.dataset.samples import sample_pairs
from adslm_helpers.models.tiny import build_model, build_tokenizer
from adslm_helpers.recipe import recipe_from_dict
from adslm_helpers.run import Run, write_jsonl


class StopAt(TrainerCallback):
    """Pulls the plug after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture(scope="session")
def tokenizer():
    rows = sample_pairs(60, seed=5)
    return build_tokenizer((row[key] for row in rows for key in ("prompt", "chosen", "rejected")), vocabulary=400)


@pytest.fixture(scope="session")
def model_folder(tokenizer, tmp_path_factory):
    """A saved random model, loadable by path like a user's own."""
    folder = tmp_path_factory.mktemp("small-model")
    build_model(tokenizer, seed=1, **SMALL).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def recipe(model_folder):
    """A few steps on the small model."""
    return recipe_from_dict(
        {
            "preset": "smoke", "models": [str(model_folder)], "fallback": False, "device": "cpu", "learning_rate": 2e-3, "max_steps": 6,
            "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "per_device_eval_batch_size": 8, "max_length": 256,
            "max_prompt_length": 200, "logging_steps": 1, "evals_per_run": 2, "save_steps": 2, "eval_prompts": 4,
            "samples_per_prompt": 1, "max_new_tokens": 12, "sft_weight": 1.0,
        }
    )  # fmt: skip


@pytest.fixture
def run(runs_in_tmp):
    """A run whose dataset step is done: 24 pairs to train on, 8 held out."""
    return made_run(runs_in_tmp)


def made_run(root):
    """See `run`."""
    made = Run("t", root)
    rows = sample_pairs(32, seed=3)
    with made.step("dataset") as notes:
        write_jsonl(made.dataset / "train.jsonl", rows[:24])
        write_jsonl(made.dataset / "eval.jsonl", rows[24:])
        notes |= {"rows_in": 32, "kept": 32, "train": 24, "eval": 8, "source": "sample"}
    return made
