"""The recipe as arguments of a trainer, by the names of today's TRL and transformers; what older ones want is `trl_api`'s business."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..environment.device import DevicePlan
from ..recipe import DpoRecipe
from .ranks import share_of_batch, this_rank


def trainer_settings(recipe: DpoRecipe, plan: DevicePlan, n_pairs: int, folder: Path) -> dict[str, Any]:
    """Every argument by its newest name, none left to a default: defaults moved between TRL versions.

    Of several processes each gets its share of the batch. ADSLM_DEEPSPEED: a DeepSpeed file, whose values should be "auto".
    """
    processes = this_rank().count
    batch, accumulation = share_of_batch(recipe, processes)
    deepspeed = os.environ.get("ADSLM_DEEPSPEED") or None
    steps = total_steps(recipe, n_pairs)
    warmup = round(recipe.warmup_ratio * steps)
    evaluate_every = max(1, steps // recipe.evals_per_run)
    return {
        "output_dir": str(folder / "checkpoints"),
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "num_train_epochs": recipe.num_train_epochs,
        "max_steps": recipe.max_steps,
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": recipe.per_device_eval_batch_size,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.lr_scheduler_type,
        "warmup_steps": warmup if warmup > 1 else 0,  # the ratio is gone from transformers 5.15, and 4.42 refuses a warm-up of 1
        "max_grad_norm": recipe.max_grad_norm,
        "weight_decay": 0.0,
        "optim": "adamw_torch",
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "bf16": plan.bf16,
        "fp16": plan.fp16,
        "use_cpu": plan.device == "cpu" and not deepspeed,  # with it transformers starts no DeepSpeed on a CPU
        "dataloader_pin_memory": plan.pin_memory,
        "dataloader_num_workers": plan.num_workers,
        "logging_steps": recipe.logging_steps,
        "logging_nan_inf_filter": False,  # on, it shows a NaN loss as 0.0
        "logging_first_step": True,
        "eval_strategy": "steps",
        "eval_steps": evaluate_every,
        "save_strategy": "steps",
        "save_steps": recipe.save_steps,
        "save_total_limit": 2,
        "save_only_model": False,
        "load_best_model_at_end": False,  # it would go by the loss alone
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
        **_only_given(deepspeed=deepspeed, **({"ddp_find_unused_parameters": False} if processes > 1 else {})),
        **_only_given(torch_empty_cache_steps=plan.empty_cache_steps, pad_to_multiple_of=plan.pad_to_multiple_of),
    }


def total_steps(recipe: DpoRecipe, n_pairs: int) -> int:
    """Optimizer steps of the whole run, as transformers counts them."""
    if recipe.max_steps > 0:
        return recipe.max_steps
    batches = -(-n_pairs // recipe.per_device_train_batch_size)
    per_epoch = max(-(-batches // recipe.gradient_accumulation_steps), 1)
    return max(1, -(-int(recipe.num_train_epochs * per_epoch * 1000) // 1000))


def _only_given(**settings: Any) -> dict[str, Any]:
    """Without those that are None: an older version need not know an argument that nobody asks for."""
    return {name: value for name, value in settings.items() if value is not None}


def _loss(recipe: DpoRecipe) -> dict[str, Any]:
    if not recipe.sft_weight:
        return {"loss_type": [recipe.loss_type]}
    return {"loss_type": [recipe.loss_type, "sft"], "loss_weights": [1.0, recipe.sft_weight]}
