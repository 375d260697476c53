"""Runs inside one environment of packages: the tiny recipe through the whole road; prints what came out as one line of JSON.

python probe.py FOLDER   (the package on PYTHONPATH, FOLDER for the runs)
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import math
import os
import pkgutil
import shutil
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

STEPS = 20
SKIPPED = {"adslm_helpers.__main__"}  # it runs the command line


def recipe_of_the_probe():
    """The default recipe, shorter: 20 steps of 2 x 4 pairs, an evaluation and a checkpoint every 5."""
    from adslm_helpers.recipe import load_recipe

    return load_recipe(
        "tiny", engine="trl", max_steps=STEPS, per_device_train_batch_size=4, gradient_accumulation_steps=2, evals_per_run=4, save_steps=5,
        logging_steps=1, eval_prompts=4, samples_per_prompt=1, max_new_tokens=24,
    )  # fmt: skip


def import_everything() -> int:
    """Every module of the package, in these versions."""
    import adslm_helpers

    names = [module.name for module in pkgutil.walk_packages(adslm_helpers.__path__, "adslm_helpers.")]
    for name in names:
        if name not in SKIPPED:
            importlib.import_module(name)
    return len(names)


def watch_trainers(seen: list):
    """Keeps every trainer that `train` builds."""
    from adslm_helpers.training import attempts as module

    build = module.build_trainer

    def building(*arguments, **options):
        trainer, told = build(*arguments, **options)
        seen.append((trainer, told))
        return trainer, told

    module.build_trainer = building


def adapter_of(run):
    """The adapter's weights by name."""
    from safetensors.torch import load_file

    return load_file(run.training / "adapter" / "adapter_model.safetensors")


def largest_difference(ours, theirs) -> float:
    """Of two sets of weights; infinite when their names differ."""
    if set(ours) != set(theirs):
        return math.inf
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


def scored_by(trainer):
    """Hash of every id and mask that the trainer's batches score, and the EOS in each response."""
    from adslm_helpers.training.trl_rows import scored_rows

    eos = (getattr(trainer, "processing_class", None) or trainer.tokenizer).eos_token_id
    rows = [
        row for i in range(len(trainer.train_dataset)) for row in scored_rows(trainer.data_collator([trainer.train_dataset[i]]))
    ]
    counts = {sum(token == eos for token, keep in zip(ids, mask, strict=True) if keep) for ids, mask in rows}
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16], sorted(counts)


def interrupted_and_resumed(run, recipe):
    """The run stopped after step 12 (checkpoint at 10), then trained again: largest difference to the undisturbed adapter."""
    from transformers import TrainerCallback

    from adslm_helpers.training.train import train

    class StopAt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 12:
                raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        train(run, recipe, [StopAt()])
    return train(run, recipe)


def healthy_ending(run, recipe):
    """With a learning rate that ruins the model: the watch on its texts stops it, and the adapter is that of the last healthy step."""
    from safetensors.torch import load_file

    from adslm_helpers.run import read_jsonl
    from adslm_helpers.training.train import train

    result = train(
        run,
        replace(
            recipe, learning_rate=0.02, sft_weight=0.0, max_steps=12, lr_scheduler_type="constant_with_warmup", watch_prompts=8
        ),
    )
    rows = read_jsonl(run.training / "health.jsonl")
    kept = adapter_of(run)
    if result.ending:
        off = largest_difference(
            kept, load_file(run.training / "snapshots" / f"step-{result.ending}" / "adapter_model.safetensors")
        )
    else:  # the untouched start: the adapter adds nothing
        off = max(weight.abs().max().item() for name, weight in kept.items() if "lora_B" in name)
    return {"ending": result.ending, "last": rows[-1]["step"], "healthy": rows[-1]["healthy"], "difference": off}


def by_our_own_engine(run, recipe, trl_history):
    """The same recipe by engine 'fast': largest differences to TRL's here, and of a run that was stopped and resumed; how it computed."""
    from adslm_helpers.run import Run, read_jsonl
    from adslm_helpers.training.train import train

    fast = replace(recipe, engine="fast")
    told = train(run, fast).done_by_us
    history = read_jsonl(run.training / "history.jsonl")
    found = {"done_by_us": told}
    for key in ("loss", "rewards/margins", "eval_loss"):
        ours, theirs = ([row[key] for row in rows if key in row] for rows in (history, trl_history))
        found[key] = max(map(abs, (a - b for a, b in zip(ours, theirs, strict=True))), default=math.inf)
    other = run.fork("fast-resumed")
    resumed = interrupted_and_resumed(other, fast)
    found["resumed_from"] = resumed.resumed_from
    found["resumed_difference"] = largest_difference(adapter_of(run), adapter_of(Run("fast-resumed", run.path.parent)))
    return found


def main(folder: Path) -> dict:
    from adslm_helpers.dataset.build import build_dataset
    from adslm_helpers.environment.packages import hide_kernel_notice
    from adslm_helpers.evaluation.evaluate import evaluate
    from adslm_helpers.export.export import export_run
    from adslm_helpers.run import Run, read_jsonl, versions
    from adslm_helpers.training.preflight import read_preflight
    from adslm_helpers.training.train import train

    hide_kernel_notice()
    started, found, trainers = time.monotonic(), {"versions": versions(), "modules": import_everything()}, []
    watch_trainers(trainers)
    recipe = recipe_of_the_probe()
    run = Run("straight", folder)
    build_dataset(run, "sample:240", recipe)
    result = train(run, recipe)
    trainer, found["done_by_us"] = trainers[0]
    history = read_jsonl(run.training / "history.jsonl")
    found["loss"] = [row["loss"] for row in history if "loss" in row]
    found["margins"] = [row["rewards/margins"] for row in history if "rewards/margins" in row]
    found["eval_loss"] = [row["eval_loss"] for row in history if "eval_loss" in row]
    found["steps"] = result.steps
    found["scored"], found["eos_per_response"] = scored_by(trainer)

    found["preflight"] = {check.name: check.ok for check in read_preflight(run).checks}

    plain = run.fork("plain")
    train(plain, replace(recipe, sft_weight=0.0, max_steps=1))
    found["first_loss"] = read_jsonl(plain.training / "history.jsonl")[0]["loss"]

    found["fast"] = by_our_own_engine(run.fork("fast"), recipe, history)
    resumed = interrupted_and_resumed(run.fork("resumed"), recipe)
    found["resumed_from"] = resumed.resumed_from
    found["resumed_difference"] = largest_difference(adapter_of(run), adapter_of(Run("resumed", folder)))
    found["ending"] = healthy_ending(run.fork("ruined"), recipe)

    found["rubric"] = evaluate(run).metrics["n_prompts"]
    exported = export_run(run)
    found["exported"] = {"files": exported.files, "changed_texts": exported.verified.changed_texts}
    found["seconds"] = round(time.monotonic() - started, 1)
    return found


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    print("RESULT " + json.dumps(main(target), ensure_ascii=False))
