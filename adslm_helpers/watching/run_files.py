"""What the small files of a run say about it: who trains, how far, which alarms, which recoveries, the last checkpoint, the mirror."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..environment.machine import load_psutil
from ..recipe import DpoRecipe, recipe_from_dict
from ..run import Run
from ..training.history import ALARMS, Alarm
from ..training.settings import total_steps
from .log_files import LARGEST_STATE, json_lines, parsed

LOCK, PROGRESS, RECOVERIES, HEALTH, MIRROR = ".lock", "progress.json", "recoveries.jsonl", "health.jsonl", "mirror.json"


@dataclass(frozen=True)
class Holder:
    """The process that has a run's lock."""

    pid: int
    host: str
    started: str
    alive: bool | None
    """None: on another machine, nobody here can say."""


@dataclass(frozen=True)
class Checkpoint:
    """The newest checkpoint of a run."""

    step: int
    path: Path
    sealed: bool
    """Its last file is there, so that it is whole."""
    seconds_ago: float


@dataclass
class RunState:
    """A run as its files show it now; every part may be missing."""

    status: str
    """Of the step 'training' in the manifest: 'absent', 'running', 'done', 'failed', 'interrupted', 'stale'."""
    model: str = ""
    beta: float | None = None
    learning_rate: float | None = None
    total_steps: int | None = None
    holder: Holder | None = None
    alarms: list[Alarm] = field(default_factory=list)
    recoveries: list[dict] = field(default_factory=list)
    health: dict[str, Any] | None = None
    """The last look at the texts."""
    mirror: dict[str, Any] | None = None
    checkpoint: Checkpoint | None = None
    result: bool = False
    """result.json is there: the training ended by itself."""
    resumed_from: int = 0

    @property
    def phase(self) -> str:
        """'absent', 'running', 'done', 'failed', 'interrupted', or 'killed': still marked as running, and its process is gone."""
        if self.status == "running" and self.holder is not None and self.holder.alive is False:
            return "killed"
        return "done" if self.status == "stale" else self.status


def read_state_of(run: Run) -> RunState:
    """The state of a run right now. Files that are absent, half written or broken leave their part empty; nothing raises."""
    manifest, training = object_in(run.path / "manifest.json"), run.training
    step = _object_of(_object_of(manifest.get("steps")).get("training"))
    recipe = _recipe(object_in(training / "recipe.json") or _object_of(manifest.get("recipe")))
    health, mirror, result = objects(training / HEALTH), object_in(training / MIRROR), object_in(training / "result.json")
    return RunState(
        status=str(step.get("status", "absent")),
        model=str(_object_of(manifest.get("model")).get("name") or step.get("model") or ""),
        beta=recipe.beta if recipe else None,
        learning_rate=recipe.learning_rate if recipe else None,
        total_steps=_total_steps(run, recipe, step),
        holder=_holder(run.path / LOCK),
        alarms=[alarm for row in objects(training / ALARMS) if (alarm := as_alarm(row))],
        recoveries=objects(training / RECOVERIES),
        health=health[-1] if health else None,
        mirror=mirror or None,
        checkpoint=newest_checkpoint(training / "checkpoints"),
        result=bool(result),
        resumed_from=_count(result.get("resumed_from")) or 0,
    )


def objects(path: Path) -> list[dict]:
    """The JSON objects of a file that grows; what is no whole object is passed over (it may still be being written)."""
    try:
        with open(path, "rb") as file:
            return [value for _, value, _ in json_lines(file) if isinstance(value, dict)]
    except OSError:
        return []


def as_alarm(row: dict) -> Alarm | None:
    """An alarm from its row, also one of another version; None for a row that says nothing."""
    if not (isinstance(row.get("kind"), str) and isinstance(row.get("ja"), str) and isinstance(row.get("en"), str)):
        return None
    severity = row.get("severity")
    severity = severity if severity in ("note", "warning", "stop") else "warning"
    return Alarm(_count(row.get("step")) or 0, row["kind"], severity, row["ja"], row["en"], _object_of(row.get("measured")))


def _total_steps(run: Run, recipe: DpoRecipe | None, step: dict) -> int | None:
    """What the trainer said, else what a finished training took, else what the recipe and the number of pairs give."""
    if said := _count(object_in(run.training / PROGRESS).get("total_steps")):
        return said
    dataset = _object_of(_object_of(object_in(run.path / "manifest.json").get("steps")).get("dataset"))
    pairs = _count(dataset.get("train"))
    return total_steps(recipe, pairs) if recipe and (pairs or recipe.max_steps > 0) else None


def _holder(folder: Path) -> Holder | None:
    """The last holder of the lock, also one that is gone: the file with the highest number; an empty object is a released lock."""
    try:
        newest = max((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name), default=None)
    except (OSError, ValueError):
        return None
    lock = object_in(newest) if newest else {}
    pid = _count(lock.get("pid"))
    if not pid:
        return None
    host, since = str(lock.get("host", "")), str(lock.get("since", ""))
    here = not host or host.partition(".")[0] == platform.node().partition(".")[0]
    return Holder(pid, host, since, _alive(pid, since) if here else None)


def _alive(pid: int, since: str) -> bool | None:
    """Whether the process that took the lock at `since` still runs: one of its pid that was born later is another one."""
    psutil = load_psutil()
    if psutil is None:
        return None
    try:
        born = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OverflowError):
        return None
    try:
        return born <= datetime.fromisoformat(since).timestamp() + 2
    except (ValueError, OverflowError):
        return True


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest sealed checkpoint; where none is, the newest."""
    try:
        found = [(int(path.name.rsplit("-", 1)[-1]), path) for path in folder.iterdir() if _is_checkpoint(path.name)]
        steps = [
            Checkpoint(step, path, (path / "seal.json").is_file(), max(0.0, time.time() - path.stat().st_mtime))
            for step, path in found
        ]
    except OSError:  # none yet, or set aside at this moment
        return None
    return max(steps, key=lambda one: (one.sealed, one.step), default=None)


def _is_checkpoint(name: str) -> bool:
    head, _, digits = name.rpartition("-")
    return head == "checkpoint" and digits.isascii() and digits.isdigit() and len(digits) < 16


def _recipe(values: dict) -> DpoRecipe | None:
    from ..errors import RecipeError

    try:
        return recipe_from_dict(values) if values else None
    except (RecipeError, TypeError):  # of another version
        return None


def object_in(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} where it is absent, being replaced, or no object."""
    try:
        return _object_of(parsed(path.read_bytes()) if path.stat().st_size <= LARGEST_STATE else None)
    except OSError:
        return {}


def _object_of(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None
