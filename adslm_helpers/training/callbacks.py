"""What watches a run from inside: the history file, and the stop at the first number that is not finite."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..environment.device import memory_in_use
from ..run import write_jsonl
from .finite import NumberGuard
from .history import append_row, read_history


class HistoryCallback(TrainerCallback):
    """Appends every log to history.jsonl as it comes: step, epoch, TRL's metric names, seconds of this session, GiB in use."""

    def __init__(self, path: Path):
        self.path = path
        self._started = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A resumed run keeps the rows up to its checkpoint and drops the later ones, which are done again."""
        self._started = time.monotonic()
        kept = [row for row in read_history(self.path) if row["step"] <= state.global_step] if state.global_step else []
        write_jsonl(self.path, kept)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        numbers = {key: _number(value) for key, value in (logs or {}).items()}
        row = {"step": state.global_step, **{key: value for key, value in numbers.items() if value is not None}}
        # JSON has no NaN: a metric that is not finite is named instead of written.
        if broken := [key for key, value in numbers.items() if value is None]:
            row["not_finite"] = broken
        memory = {key: round(value, 3) for key, value in memory_in_use().items()}
        row |= {"time": round(time.monotonic() - self._started, 2), "memory_gib": memory}
        append_row(self.path, row)


class FiniteGuard(TrainerCallback):
    """Hands the trainer's steps to a `finite.NumberGuard`, which is made when the trainer is there."""

    guard: NumberGuard | None = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """transformers before 4.45 calls no callback before the step: there torch's own optimizer does."""
        if not hasattr(TrainerCallback, "on_pre_optimizer_step"):
            bare = getattr(optimizer, "optimizer", optimizer)
            bare.register_step_pre_hook(lambda *_: self.on_pre_optimizer_step(args, state, control, model=model))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.guard:
            self.guard.begin_step()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.guard:
            self.guard.look_at_gradients(model)


class LearningRate(TrainerCallback):
    """Sets the recipe's learning rate anew when a training begins: a checkpoint brings back the one it was written with."""

    def __init__(self, learning_rate: float):
        self.learning_rate = learning_rate

    def on_train_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, lr_scheduler: Any = None, **kwargs: Any
    ) -> None:
        scheduler = getattr(lr_scheduler, "scheduler", lr_scheduler)
        scheduler.base_lrs = [self.learning_rate for _ in scheduler.base_lrs]
        for group, factor in zip(optimizer.param_groups, scheduler.lr_lambdas, strict=True):
            group["initial_lr"] = self.learning_rate
            group["lr"] = self.learning_rate * factor(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]  # what the log shows


def tensorboard_callback(folder: Path, resumed_at: int = 0) -> list[TrainerCallback]:
    """A callback that writes TensorBoard events to `folder`; an empty list where TensorBoard is not installed.

    What earlier attempts wrote there past the step `resumed_at` is done again, and TensorBoard is told to hide it.
    """
    from transformers.integrations import TensorBoardCallback

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return []
    return [TensorBoardCallback(tb_writer=SummaryWriter(log_dir=str(folder), purge_step=resumed_at + 1))]


def _number(value: Any) -> float | None:
    """The value as a float (transformers 5 logs some as text); None when it is not finite."""
    number = float(value)
    return number if math.isfinite(number) else None
