"""Faults of a training made on purpose, and every rung of its recovery walked: memory that is too small, numbers that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from adslm_helpers.errors import TrainingError
from adslm_helpers.recipe import DpoRecipe, recipe_from_dict
from adslm_helpers.run import Run, read_jsonl
from adslm_helpers.training.checkpoints import last_valid
from adslm_helpers.training.train import RunResult, train

TOLERANCE = 1e-5


class At(TrainerCallback):
    """Does something to the model when a step begins, as often as it is told."""

    def __init__(self, step: int, act: Callable[[Any], None], times: int = 1):
        self.step, self.act, self.times = step, act, times

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step and self.times:
            self.times -= 1
            self.act(model)


class Memory(TrainerCallback):
    """A device on which only some settings fit: `training` and `evaluation` say so of the trainer's arguments."""

    def __init__(
        self,
        training: Callable[[Any], bool] = lambda args: True,
        evaluation: Callable[[Any], bool] = lambda args: True,
        from_step: int = 1,
    ):
        self.training, self.evaluation, self.from_step = training, evaluation, from_step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 >= self.from_step and not self.training(args):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.evaluation(args):
            raise RuntimeError("MPS backend out of memory (MPS allocated: 5.30 GB, max allowed: 5.33 GB)")


class OnlyFits(Memory):
    """A device on which nothing but the model of one folder fits."""

    def __init__(self, folder: Path):
        super().__init__(lambda args: self.here)
        self.folder, self.here = str(folder), False

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.here = model.config._name_or_path == self.folder


def spoil_one_gradient_element(model: Any) -> None:
    """One NaN in one element, in one step: without a guard every weight of the adapter is NaN after it."""
    weight = next(p for p in model.parameters() if p.requires_grad)
    handle = []

    def hook(gradient: Any) -> Any:
        handle[0].remove()
        return gradient.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(math.nan))

    handle.append(weight.register_hook(hook))


def blow_up(model: Any) -> None:
    """What a learning rate that is much too high ends in."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.fill_(1e30)


def last_norm(model: Any) -> Any:
    """The layer before the head of a Qwen2 model under LoRA."""
    return model.get_base_model().model.norm


def break_bfloat16(model: Any) -> None:
    """From here on the model gives NaN in bfloat16, as a kernel may."""
    last_norm(model).register_forward_hook(
        lambda module, inputs, output: output * math.nan if output.dtype == torch.bfloat16 else output
    )


def history(run: Run, key: str = "loss") -> dict[int, float]:
    """{step: value} of a run's logs."""
    return {row["step"]: row[key] for row in read_jsonl(run.training / "history.jsonl") if key in row}


def adapter(run: Run) -> dict[str, Any]:
    """The tensors of a run's adapter."""
    return load_file(run.training / "adapter" / "adapter_model.safetensors")


def largest_difference(run: Run, other: Run) -> float:
    """Between the adapters of two runs."""
    ours, theirs = adapter(run), adapter(other)
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)


@dataclass(frozen=True)
class Rung:
    """One fault, and the remedies that a training must find by itself."""

    name: str
    faults: Callable[[], list[TrainerCallback]]
    remedies: tuple[str, ...]
    changes: dict[str, Any] = field(default_factory=dict)
    same: bool = False
    """Whether losses and adapter must be those of an undisturbed run."""


def rungs(folder: Path) -> list[Rung]:
    """Every remedy by itself, then the whole ladder."""
    small = {"per_device_train_batch_size": 1, "gradient_checkpointing": True, "per_device_eval_batch_size": 1}
    two = {"models": [str(folder / "large"), str(folder / "model")], "fallback": True}
    whole = ("half_batch", "half_batch", "checkpointing", "half_eval_batch", "shorter", "shorter", "next_model")
    return [
        Rung("half the batch, twice the accumulation", lambda: [Memory(lambda args: args.per_device_train_batch_size <= 2, from_step=4)], ("half_batch",), same=True),
        Rung("recomputed activations", lambda: [Memory(lambda args: args.gradient_checkpointing, from_step=4)], ("checkpointing",), {"per_device_train_batch_size": 1}, same=True),
        Rung("half the evaluation batch", lambda: [Memory(evaluation=lambda args: args.per_device_eval_batch_size == 1)], ("half_eval_batch",), same=True),
        Rung("shorter texts", lambda: [Memory(lambda args: args.max_length <= 128, from_step=3)], ("shorter",), {**small, "allow_shorter": True}),
        Rung("the next model", lambda: [OnlyFits(folder / "model")], ("next_model",), {**small, **two}),
        Rung("the whole ladder", lambda: [OnlyFits(folder / "model")], whole, {**two, "allow_shorter": True}),
        Rung("NaN in one gradient element", lambda: [At(4, spoil_one_gradient_element)], ("half_learning_rate",)),
        Rung("weights that blew up", lambda: [At(5, blow_up)], ("half_learning_rate",)),
        Rung("NaN forward in bfloat16", lambda: [At(4, break_bfloat16)], ("float32",), {"dtype": "bfloat16"}),
    ]  # fmt: skip


def walk_rungs(folder: Path, say: Callable[[str], None]) -> tuple[int, int]:
    """(survived, total): every rung on the run `base` and the model `model` of a folder; and that a run for which nothing is left ends in words."""
    import shutil

    from scripts.chaos import RECIPE

    shutil.copytree(folder / "model", folder / "large")
    plain = recipe_from_dict({**RECIPE, "models": [str(folder / "model")], "sft_weight": 0.0, "watch_prompts": 0})
    base, survived, total = Run("base", folder), 0, 0
    for number, rung in enumerate([*rungs(folder), None]):
        run = base.fork(f"rung-{number}")
        name, wrong = ("nothing is left", _given_up(run, plain)) if rung is None else (rung.name, _climbed(run, rung, plain))
        survived, total = survived + (not wrong), total + 1
        say(f"  {'ok ' if not wrong else 'BAD'} {name}{'' if not wrong else ': ' + wrong}")
    return survived, total


def _climbed(run: Run, rung: Rung, plain: DpoRecipe) -> str:
    """What is wrong with a run that met the rung's faults; empty when nothing is."""
    recipe = recipe_from_dict({**plain.to_dict(), **rung.changes})
    try:
        result: RunResult = train(run, recipe, rung.faults())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    found = tuple(row["remedy"] for row in result.recoveries)
    if found != rung.remedies:
        return f"remedies {found}, not {rung.remedies}"
    if result.steps != recipe.max_steps or not all(weight.isfinite().all() for weight in adapter(run).values()):
        return f"ended at step {result.steps}, or with weights that are not finite"
    if not rung.same:
        return ""
    undisturbed = run.fork(f"{run.name}-undisturbed")
    train(undisturbed, recipe)
    losses, theirs = history(run), history(undisturbed)
    off = max(abs(losses[step] - theirs[step]) for step in theirs)
    off = max(off, largest_difference(run, undisturbed))
    return "" if losses.keys() == theirs.keys() and off <= TOLERANCE else f"differs from the undisturbed run by {off:.1e}"


def _given_up(run: Run, plain: DpoRecipe) -> str:
    try:
        train(run, plain, [Memory(lambda args: False, from_step=3)])
        return "it trained without memory"
    except TrainingError as error:
        if "nothing left to give" not in error.en or last_valid(run.training) is None:
            return f"no words or no checkpoint: {error.en}"
    return "" if train(run, plain).steps == plain.max_steps else "with memory it does not go on"
