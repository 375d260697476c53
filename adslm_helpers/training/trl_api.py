"""The one place that knows how the installed TRL wants to be called. It asks signatures and fields, not version numbers."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..environment.device import DevicePlan
from ..environment.packages import hide_old_torchao
from ..errors import TrainingError
from ..models.loading import lora_config
from ..recipe import DpoRecipe

# Newer name -> older name of the same argument.
_OLDER_NAMES = {"eval_strategy": "evaluation_strategy", "use_cpu": "no_cuda"}
# Gone where unneeded: what they ask for is done by us (prompts are cut before TRL sees them) or is TRL's only behaviour.
_MAY_BE_ABSENT = {"max_prompt_length", "truncation_mode", "remove_unused_columns"}


def build_trainer(
    recipe: DpoRecipe,
    plan: DevicePlan,
    model: Any,
    tokenizer: Any,
    train_rows: list[dict],
    eval_rows: list[dict],
    folder: Path,
    callbacks: tuple = (),
) -> Any:
    """A `trl.DPOTrainer` for the recipe with a fresh LoRA adapter; the reference is the same model with the adapter off.

    `train_rows`, `eval_rows`: prompt (rendered), chosen, rejected. `folder`: runs/NAME/training.
    Raises TrainingError when the installed TRL cannot be imported or lacks an argument that the recipe needs.
    """
    hide_old_torchao()
    DPOConfig, DPOTrainer = _import_trl()
    from datasets import Dataset
    from transformers import PrinterCallback, set_seed

    settings = trainer_settings(recipe, plan, len(train_rows), folder)
    config = DPOConfig(**fit_to(DPOConfig, settings))
    set_seed(recipe.seed)  # before the adapter is made: older TRL draws its start from the global state
    accepted = inspect.signature(DPOTrainer.__init__).parameters
    with _no_dataset_bars():
        trainer = DPOTrainer(
            model=model,
            ref_model=None,
            args=config,
            train_dataset=Dataset.from_list(train_rows),
            eval_dataset=Dataset.from_list(eval_rows),
            peft_config=lora_config(recipe, model),
            callbacks=list(callbacks),
            **{"processing_class" if "processing_class" in accepted else "tokenizer": tokenizer},
        )
    trainer.remove_callback(PrinterCallback)  # it prints every log as a dict; history.jsonl has them all
    if len(trainer.train_dataset) != len(train_rows):
        raise TrainingError(
            f"TRL が {len(train_rows) - len(trainer.train_dataset)} 対を黙って除きました。→ max_length を大きくしてください。",
            f"TRL dropped {len(train_rows) - len(trainer.train_dataset)} pairs on its own. -> Raise max_length.",
        )
    for parameter in trainer.model.parameters():
        if (
            parameter.requires_grad
        ):  # TRL makes the adapter of a 4-bit model bfloat16: at small learning rates it then stands still
            parameter.data = parameter.data.float()
    return trainer


def trainer_settings(recipe: DpoRecipe, plan: DevicePlan, n_pairs: int, folder: Path) -> dict[str, Any]:
    """Every argument by its newest name, none left to a default: defaults moved between TRL versions."""
    steps = total_steps(recipe, n_pairs)
    return {
        "output_dir": str(folder / "checkpoints"),
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "num_train_epochs": recipe.num_train_epochs,
        "max_steps": recipe.max_steps,
        "per_device_train_batch_size": recipe.per_device_train_batch_size,
        "per_device_eval_batch_size": recipe.per_device_eval_batch_size,
        "gradient_accumulation_steps": recipe.gradient_accumulation_steps,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.lr_scheduler_type,
        "warmup_steps": round(recipe.warmup_ratio * steps),  # warmup_ratio is gone from transformers 5.15
        "max_grad_norm": recipe.max_grad_norm,
        "weight_decay": 0.0,
        "optim": "adamw_torch",
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "bf16": plan.bf16,
        "fp16": plan.fp16,
        "use_cpu": plan.device == "cpu",
        "dataloader_pin_memory": plan.device == "cuda",
        "logging_steps": recipe.logging_steps,
        "logging_nan_inf_filter": False,  # on, it shows a NaN loss as 0.0
        "logging_first_step": True,
        "eval_strategy": "steps",
        "eval_steps": max(1, steps // recipe.evals_per_run),
        "save_strategy": "steps",
        "save_steps": recipe.save_steps,
        "save_total_limit": 2,
        "save_only_model": False,
        "report_to": [],  # TensorBoard is handed in as a callback: the argument for its folder is gone from transformers 5.15
        "disable_tqdm": True,
        "remove_unused_columns": False,
        # --- DPO ---
        "beta": recipe.beta,
        "label_smoothing": recipe.label_smoothing,
        "max_length": recipe.max_length,
        "max_prompt_length": recipe.max_prompt_length,
        "truncation_mode": "keep_start",
        "precompute_ref_log_probs": False,
        "disable_dropout": True,
        **_loss(recipe),
    }


def total_steps(recipe: DpoRecipe, n_pairs: int) -> int:
    """Optimizer steps of the whole run, as transformers counts them."""
    if recipe.max_steps > 0:
        return recipe.max_steps
    batches = -(-n_pairs // recipe.per_device_train_batch_size)
    per_epoch = max(-(-batches // recipe.gradient_accumulation_steps), 1)
    return max(1, -(-int(recipe.num_train_epochs * per_epoch * 1000) // 1000))


def fit_to(config_class: type, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings under the names that `config_class` has; raises TrainingError for one that it lacks and the recipe needs."""
    known = {field.name for field in dataclasses.fields(config_class)}
    fitted, missing = {}, []
    for name, value in settings.items():
        target = name if name in known else _OLDER_NAMES.get(name, name)
        if target in known:
            fitted[target] = value
        elif name not in _MAY_BE_ABSENT:
            missing.append(name)
    if missing == ["loss_weights"] and "rpo_alpha" in known:  # before lists of losses, the SFT term had an argument of its own
        weight = settings["loss_weights"][1]
        return {**fitted, "loss_type": settings["loss_type"][0], "rpo_alpha": weight}
    if missing:
        names = ", ".join(missing)
        raise TrainingError(
            f"インストール済みの TRL / transformers には {names} がありません。→ trl>=0.29.1 を入れてください（ノートブック 00）。",
            f"The installed TRL / transformers lack {names}. -> Install trl>=0.29.1 (notebook 00).",
        )
    return fitted


@contextmanager
def _no_dataset_bars() -> Iterator[None]:
    """Hides the six progress bars of tokenising, and leaves the user's own setting as it was."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _loss(recipe: DpoRecipe) -> dict[str, Any]:
    if not recipe.sft_weight:
        return {"loss_type": [recipe.loss_type]}
    return {"loss_type": [recipe.loss_type, "sft"], "loss_weights": [1.0, recipe.sft_weight]}


def _import_trl() -> tuple[type, type]:
    try:
        from trl import DPOConfig, DPOTrainer
    except (ImportError, RuntimeError) as error:  # trl wraps the errors of its lazy imports in RuntimeError
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"TRL を読み込めません（{reason}）。→ ノートブック 00 の修復を実行してください。",
            f"TRL cannot be imported ({reason}). -> Run the repair in notebook 00.",
        ) from error
    return DPOConfig, DPOTrainer
