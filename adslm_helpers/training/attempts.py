"""One training, tried until it ends: after a number that is not finite, or out of memory, it goes on from its last checkpoint by itself."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..dataset.build import load_split
from ..environment.device import choose_device
from ..environment.machine import probe_machine
from ..models.catalog import facts_from_config
from ..models.loading import LoadedModel, load_model
from ..models.memory import plan_memory
from ..models.plan import plan_run
from ..models.skipped import Skipped
from ..recipe import DpoRecipe
from ..run import Run, write_json
from .checkpoints import clear_up, last_valid, remove_after, seal_callback, step_of, train_from
from .drift import drift_watch
from .finite import NotFiniteError, NumberGuard
from .health import health_watch
from .history import HISTORY, Alarm, read_history, write_alarm
from .interrupt import Interruption, interrupted
from .preflight import PreflightReport, checked_trainer
from .prompts import EncodedPairs
from .ranks import first_decides, no_retry, this_rank
from .recoveries import as_recovered, memory_alarm, nothing_left, read_recoveries, record, too_large
from .remedies import Remedy, after_not_finite, after_out_of_memory, out_of_memory
from .sides import build_trainer, encode_sides
from .snapshots import Ending, choose_ending, last_healthy_step, load_ending
from .trl_api import readable_checkpoints

_OF_NUMBERS = ("float32", "half_learning_rate")


@dataclass
class Outcome:
    """A training that ended, and how it got there."""

    trainer: Any
    recipe: DpoRecipe
    loaded: LoadedModel
    report: PreflightReport
    sides: dict[str, EncodedPairs]
    done_by_us: list[str]
    resumed_from: int
    seconds: float
    ending: Ending
    final: dict[str, float]
    """The held-out metrics of what the run ends with, by TRL's names."""


@dataclass
class _Attempt:
    """What is known of the attempt under way when it fails."""

    recipe: DpoRecipe
    model: str = ""
    phase: str = "loading"
    step: int = 0
    plan: Any = None
    facts: Any = None
    guard: NumberGuard | None = None
    skipped: list[Skipped] = field(default_factory=list)

    def failed_in(self) -> str:
        """'loading', 'training' or 'evaluation'."""
        return self.guard.phase if self.guard and self.phase == "training" else self.phase


def train_until_done(run: Run, asked: DpoRecipe, recipe: DpoRecipe, callbacks: Sequence[Any], resume: bool) -> Outcome:
    """Trains by `recipe` (`asked`, made to fit), and by what the remedies make of it, until a training ends.

    `resume`: an earlier session's checkpoints and recoveries are this training's own. Each recovery is a row of recoveries.jsonl, a line of alarms.jsonl and in the manifest.
    Raises what stopped the training when no remedy is left, Interrupted, and ModelError and TrainingError as loading and building do.
    """
    tell, interruption = _listeners(callbacks), Interruption()

    ranks = this_rank()

    def ring(alarm: Alarm) -> None:
        if ranks.first:
            write_alarm(run.training, alarm)
            tell(alarm.line())

    recoveries = first_decides(lambda: read_recoveries(run) if resume else [])
    attempt = _Attempt(as_recovered(recipe, recoveries))
    while True:
        try:
            return _try(run, attempt, callbacks, interruption, tell, resume)
        except NotFiniteError as error:
            failure, cause = _bare(error), error.diagnosis.cause
            ring(error.alarm())
            tried = sum(row["remedy"] in _OF_NUMBERS for row in recoveries)
            remedy = _after_not_finite(error, attempt) if tried < recipe.recoveries else None
        except Exception as error:
            if not out_of_memory(error):
                raise
            failure, cause = _bare(error), "out_of_memory"
            remedy = after_out_of_memory(attempt.recipe, attempt.failed_in(), attempt.model or attempt.recipe.models[0])
            ring(memory_alarm(attempt.recipe, attempt.step, attempt.failed_in()))
        if ranks.count > 1:
            raise no_retry(failure, ranks.count) from None
        if remedy is None:
            raise nothing_left(failure, attempt.model, len(recoveries)) from None
        if remedy.from_start:
            remedy = replace(remedy, recipe=plan_run(replace(asked, models=remedy.recipe.models)).recipe)
            attempt.skipped.append(too_large(attempt.model))
        resume = not remedy.from_start
        clear_up(run.training)
        if cause != "out_of_memory":
            remove_after(run.training, last_healthy_step(run.training))
        if remedy.from_start:  # before it is noted: a kill in between must not leave another model's checkpoints to the next one
            remove_after(run.training, 0)
        row = record(run, remedy, attempt.recipe, attempt.step, attempt.failed_in(), cause)
        recoveries.append(row)
        ring(Alarm(attempt.step, "recovery", "note", remedy.ja, remedy.en, {"remedy": remedy.kind, **row["changes"]}))
        attempt = _Attempt(remedy.recipe, "" if remedy.from_start else attempt.model, skipped=attempt.skipped)
        _free_memory()


def _try(
    run: Run,
    attempt: _Attempt,
    callbacks: Sequence[Any],
    interruption: Interruption,
    tell: Callable[[str], None],
    resume: bool,
) -> Outcome:
    from .callbacks import FiniteGuard, HistoryCallback, LearningRate, tensorboard_callback

    recipe = attempt.recipe
    named = replace(recipe, models=(attempt.model,), fallback=False) if attempt.model else recipe
    loaded = _loaded(named)
    loaded.skipped = [*attempt.skipped, *loaded.skipped]
    attempt.model, attempt.plan, attempt.phase = loaded.name, loaded.plan, "training"
    attempt.facts = facts_from_config(loaded.model.config)
    sides = encode_sides(run, loaded, recipe)
    checkpoint = first_decides(lambda: last_valid(run.training) if resume else None)
    start = step_of(checkpoint) if checkpoint else 0
    finite = FiniteGuard()
    watchers = (
        seal_callback(),
        interruption.callback(),
        HistoryCallback(run.training / HISTORY),
        finite,
        LearningRate(recipe.learning_rate),
        health_watch(run.training, recipe, loaded.tokenizer, load_split(run, "eval"), tell),
        drift_watch(run.training, recipe, sides.pairs("train"), tell),
        *tensorboard_callback(run.training / "events"),
        *callbacks,
    )
    done_by_us: list[str] = []

    def build(one: LoadedModel) -> Any:
        trainer, done_by_us[:] = build_trainer(recipe, one, sides, run, watchers)
        return trainer

    trainer, loaded, report = checked_trainer(recipe, loaded, build, sides.pairs("train"))
    attempt.plan = loaded.plan
    # Whoever loads the tuned model later must not take the precision that failed.
    used = replace(recipe, dtype=loaded.plan.dtype) if report.rejected else recipe
    if this_rank().first:
        write_json(run.training / "preflight.json", report.to_dict())
        write_json(run.training / "recipe.json", used.to_dict())
        run.update(model=loaded.record())
    known = {side: encoded.pairs for side, encoded in sides.encoded.items()}
    finite.guard = attempt.guard = NumberGuard(trainer, loaded.plan, known, run.training, loaded.tokenizer.pad_token_id)
    started = time.monotonic()
    try:
        with readable_checkpoints(), interruption.listening():
            train_from(trainer, checkpoint)
        if interruption.heard():
            raise interrupted(run.training)
        if not first_decides(lambda: evaluated_at(trainer.state.global_step, read_history(run.training / HISTORY))):
            trainer.evaluate()
        seconds = time.monotonic() - started
        ending, final = _ended(run, recipe, trainer)
    finally:
        attempt.step = trainer.state.global_step
    if ending.alarm and this_rank().first:
        write_alarm(run.training, ending.alarm)
        tell(ending.alarm.line())
    return Outcome(trainer, used, loaded, report, sides.encoded, done_by_us, start, seconds, ending, final)


def _ended(run: Run, recipe: DpoRecipe, trainer: Any) -> tuple[Ending, dict[str, float]]:
    """Puts the adapter that the run ends with into the model; its held-out metrics."""
    ending = first_decides(lambda: choose_ending(run.training, recipe.load_best_model_at_end))
    load_ending(trainer.model, ending)
    if ending.start:  # never evaluated; and what comes now is no row of the history
        trainer.callback_handler.callbacks = []
        return ending, _held_out(trainer.evaluate())
    rows = [row for row in read_history(run.training / HISTORY) if "eval_loss" in row and row["step"] == ending.step]
    return ending, _held_out(rows[-1] if rows else {})


def _held_out(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith("eval_")}


def evaluated_at(step: int, history: list[dict]) -> bool:
    """Whether the held-out pairs were scored at this step."""
    return any("eval_loss" in row and row["step"] == step for row in history)


def _loaded(recipe: DpoRecipe) -> LoadedModel:
    """The model of `load_model`; of several processes the first chooses (and downloads) it, and the others load the same."""
    loaded = load_model(recipe) if this_rank().first else None
    name, plan = first_decides(lambda: (loaded.name, loaded.plan))
    return loaded or load_model(replace(recipe, models=(name,), fallback=False), plan)


def _after_not_finite(error: NotFiniteError, attempt: _Attempt) -> Remedy | None:
    recipe = replace(attempt.recipe, dtype="float32")
    device = choose_device(recipe, probe_machine(), float32_fits=True)
    memory = plan_memory(attempt.facts, recipe, device)
    fits = device.usable_gb is None or memory.needed <= device.usable_gb
    return after_not_finite(error.diagnosis.cause, attempt.recipe, attempt.plan, fits)


def _listeners(callbacks: Sequence[Any]) -> Callable[[str], None]:
    """Tells what the guards have to say to every callback that has an `on_notice`."""
    hear = [callback.on_notice for callback in callbacks if hasattr(callback, "on_notice")]

    def tell(line: str) -> None:
        for one in hear:
            one(line)

    return tell


def _bare(error: BaseException) -> BaseException:
    """The error without its frames: they hold the model that has to go before the next one is loaded."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
