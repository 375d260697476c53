"""What watches a run from inside: the history file, and the stop at the first number that is not finite."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..environment.device import memory_in_use
from ..errors import AdslmError
from ..run import write_json, write_jsonl
from .fast.dpo_trainer import GUIDE_TAGS
from .finite import NumberGuard
from .history import PROGRESS, Alarm, append_row, read_alarms, read_history


class HistoryCallback(TrainerCallback):
    """Appends every log to history.jsonl as it comes: step, epoch, TRL's metric names, seconds of this session, GiB in use."""

    def __init__(self, path: Path):
        self.path = path
        self._started = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A resumed run keeps the rows up to its checkpoint and drops the later ones, which are done again."""
        if not state.is_world_process_zero:
            return
        self._started = time.monotonic()
        kept = [row for row in read_history(self.path) if row["step"] <= state.global_step] if state.global_step else []
        write_jsonl(self.path, kept)
        write_json(self.path.with_name(PROGRESS), {"total_steps": state.max_steps})

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
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
            if not hasattr(bare, "register_step_pre_hook"):  # DeepSpeed's own optimizer
                return
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
        if not hasattr(scheduler, "lr_lambdas"):  # one that a DeepSpeed file brought
            return
        scheduler.base_lrs = [self.learning_rate for _ in scheduler.base_lrs]
        for group, factor in zip(optimizer.param_groups, scheduler.lr_lambdas, strict=True):
            group["initial_lr"] = self.learning_rate
            group["lr"] = self.learning_rate * factor(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]  # what the log shows


def tensorboard_callback(folder: Path) -> list[TrainerCallback]:
    """A callback that writes TensorBoard events to `folder`, the alarms as text among them; an empty list where TensorBoard is not installed."""
    from transformers.integrations import TensorBoardCallback

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return []

    class EventsCallback(TensorBoardCallback):
        """transformers' own, in our folder also for an evaluation after the end, and without what a further attempt does again."""

        first_step, told = None, 0

        def _init_summary_writer(self, args: Any, log_dir: str | None = None) -> None:
            self.tb_writer = SummaryWriter(log_dir=str(folder), purge_step=self.first_step)

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.first_step = state.global_step + 1
            self.told = len(_alarms(folder.parent))
            super().on_train_begin(args, state, control, **kwargs)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
            # The names that guides to preference-guided DPO give stand alone; all others get transformers' "train/" or "eval/".
            guide = {name: value for name, value in (logs or {}).items() if name.startswith(GUIDE_TAGS)}
            others = {name: value for name, value in (logs or {}).items() if name not in guide}
            super().on_log(args, state, control, logs=others, **kwargs)
            if state.is_world_process_zero and self.tb_writer is not None:
                for name, value in guide.items():
                    self.tb_writer.add_scalar(name, float(value), state.global_step)
            self._tell(state)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._tell(state)
            super().on_train_end(args, state, control, **kwargs)
            self.first_step = None  # nothing is purged by the writer of a later evaluation

        def _tell(self, state: Any) -> None:
            if state.is_world_process_zero and self.tb_writer is not None:
                alarms = _alarms(folder.parent)
                for alarm in alarms[self.told :]:
                    self.tb_writer.add_text("alarms", alarm.line(), alarm.step)
                self.told = len(alarms)

    return [EventsCallback()]


def _alarms(training: Path) -> list[Alarm]:
    """The alarms so far; none where the file cannot be read: TensorBoard is for looking, it stops no run."""
    with suppress(OSError, AdslmError):
        return read_alarms(training)
    return []


def _number(value: Any) -> float | None:
    """The value as a float (transformers 5 logs some as text); None when it is not finite."""
    number = float(value)
    return number if math.isfinite(number) else None
