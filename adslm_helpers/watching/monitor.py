"""`monitor`: a run as it trains, from its files alone: in another terminal, another notebook, on another machine of the same disk."""

from __future__ import annotations

import html
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..json_files import json_number
from ..run import Run
from ..text.width import clock_face, cut, display_width, padded, printable, wrapped
from ..training.history import HISTORY, Alarm
from .log_files import one_form
from .run_files import RunState, read_state_of
from .sources import find_run
from .tail import Tail

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDED = ("done", "failed", "interrupted", "killed")
COLUMNS = 80
_PHASES = {
    "absent": "まだ始まっていません / not started", "running": "学習中 / training", "done": "終わりました / done",
    "failed": "エラーで止まりました / failed", "interrupted": "中断されました / interrupted",
    "killed": "強制終了されたようです / killed: its process is gone",
}  # fmt: skip
_METRICS = (("loss", "損失 / loss"), ("rewards/accuracies", "正解率 / accuracy"), ("rewards/margins", "報酬の差 / margin"))
_BLOCKS = "▁▂▃▄▅▆▇█"
_SHOWN_ALARMS = 2


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment. `print(*snapshot.lines(), sep="\\n")`; in a notebook it shows itself, with the curves."""

    run: str
    state: RunState
    rows: list[dict[str, Any]]
    """The logs so far, in the form of `Logged`."""
    memory_gib: dict[str, float]
    """As logged last, by device."""
    seconds: float | None
    """Training time of this session up to the last log."""
    seconds_per_step: float | None
    silent_seconds: float | None
    """Since the last log was written; None before the first."""

    @property
    def step(self) -> int:
        """The step of the last log."""
        return max((row["step"] for row in self.rows), default=0)

    @property
    def phase(self) -> str:
        """As `RunState.phase`."""
        return self.state.phase

    @property
    def seconds_left(self) -> float | None:
        """Of training, at the pace of this session; None where that cannot be known yet."""
        if self.phase != "running" or not self.state.total_steps or self.seconds_per_step is None:
            return None
        left = (self.state.total_steps - self.step) * self.seconds_per_step
        return max(0.0, left - (self.silent_seconds or 0.0))

    def latest(self, key: str) -> float | None:
        """The last value of a metric; None where it was not logged."""
        return next((row[key] for row in reversed(self.rows) if key in row), None)

    def lines(self, columns: int = COLUMNS) -> list[str]:
        """The screen: no line is wider than `columns`."""
        told = [*self._head(columns), *self._curves(columns), *self._facts(), *self._alarms(columns)]
        return [cut(printable(line), columns) for line in told]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a number that is not finite is written as text."""
        keys = [f"{prefix}{key}" for key, _ in _METRICS for prefix in ("", "eval_")]
        checkpoint = self.state.checkpoint
        return {
            "run": self.run,
            "phase": self.phase,
            "model": self.state.model,
            "step": self.step,
            "total_steps": self.state.total_steps,
            "seconds": self.seconds,
            "seconds_left": self.seconds_left,
            "silent_seconds": self.silent_seconds,
            "metrics": {key: json_number(value) for key in keys if (value := self.latest(key)) is not None},
            "memory_gib": self.memory_gib,
            "process": asdict(self.state.holder) if self.state.holder else None,
            "checkpoint": {"step": checkpoint.step, "sealed": checkpoint.sealed} if checkpoint else None,
            "alarms": [asdict(alarm) for alarm in self.state.alarms],
            "recoveries": self.state.recoveries,
            "health": self.state.health,
            "mirror": self.state.mirror,
        }

    def figure(self) -> Figure:
        """The curves so far."""
        from ..plots import training_curves

        return training_curves(self.rows)

    def _repr_html_(self) -> str:
        from base64 import b64encode

        from ..plots import to_png

        png = b64encode(to_png(self.figure(), dpi=80)).decode()
        return f'<pre>{html.escape(chr(10).join(self.lines()))}</pre><img src="data:image/png;base64,{png}">'

    def _head(self, columns: int) -> list[str]:
        left, right = f"adslm monitor  {self.run}", time.strftime("%H:%M:%S")
        phase = _PHASES.get(self.phase, self.phase)
        where = [phase, self.state.model.rsplit("/", 1)[-1]]
        if self.state.holder and self.phase == "running":
            host = "" if self.state.holder.alive is not None else f" @ {self.state.holder.host}"
            where.append(f"pid {self.state.holder.pid}{host}")
        bar = self._bar(30)
        return [padded(left, columns - 10) + f"  {right}", "   ".join(part for part in where if part), *bar, self._clock()]

    def _bar(self, columns: int) -> list[str]:
        total = self.state.total_steps
        if not total:
            return [f"step {self.step}"]
        share = min(1.0, self.step / total)
        full = round(share * columns)
        return [f"[{'#' * full}{'-' * (columns - full)}] {share:4.0%}   step {self.step}/{total}"]

    def _clock(self) -> str:
        parts = [f"残り {clock_face(self.seconds_left)} left"] if self.phase == "running" else []
        parts += [f"経過 {clock_face(self.seconds)} elapsed"] if self.seconds is not None else []
        parts += [f"{self.seconds_per_step:.3g} s/step"] if self.seconds_per_step is not None else []
        if self.silent_seconds is not None and self.phase == "running":
            parts.append(f"最後の記録 {clock_face(self.silent_seconds)} 前 / ago")
        return "   ".join(parts)

    def _curves(self, columns: int) -> list[str]:
        if not self.rows:
            return ["まだ記録がありません / no log yet"]
        told = [f"{padded('', 22)}{_right('学習 / train', 12)}{_right('評価 / held-out', 17)}"]
        for key, label in _METRICS:
            values = [row[key] for row in self.rows if key in row]
            held_out = self.latest(f"eval_{key}")
            last = values[-1] if values else None
            told.append(f"{padded(label, 22)}{_value(last):>12}{_value(held_out):>17}  {sparkline(values, max(8, columns - 53))}")
        return told

    def _facts(self) -> list[str]:
        told = [
            (", ".join(f"{name.replace('_', ' ')} {gib:.2f} GiB" for name, gib in self.memory_gib.items()), "メモリ / memory")
        ]
        if checkpoint := self.state.checkpoint:
            whole = "完全 / whole" if checkpoint.sealed else "印なし / no seal"
            told.append(
                (f"step {checkpoint.step} ({whole}), {clock_face(checkpoint.seconds_ago)} 前 / ago", "チェックポイント / ckpt")
            )
        if health := self.state.health:
            told.append((_health(health), "文の健康 / texts"))
        if (mirror := self.state.mirror) and mirror.get("state") != "off":
            told.append((_mirror(mirror), "控え / copy"))
        return [f"{padded(label, 24)}{text}" for text, label in told if text]

    def _alarms(self, columns: int) -> list[str]:
        alarms, recoveries = self.state.alarms, self.state.recoveries
        told = []
        if recoveries:
            told.append(f"回復 / recoveries: {len(recoveries)}")
            told += _two_languages(str(recoveries[-1].get("ja", "")), str(recoveries[-1].get("en", "")), columns)
        if alarms:
            told.append(f"警報 / alarms: {len(alarms)}")
        for alarm in alarms[: -_SHOWN_ALARMS - 1 : -1]:  # the newest first: what does not fit falls off at the end
            told.append(f"{_mark(alarm)} step {alarm.step} {alarm.kind}")
            told += _two_languages(alarm.ja, alarm.en, columns)
        return told


class Watch:
    """Looks at one run again and again, reading only what is new of its history."""

    def __init__(self, run: Run):
        self.run = run
        self.history = Tail(run.training / HISTORY)

    def look(self) -> Snapshot:
        """The run now."""
        raw = self.history.read()
        rows = [row for value in raw if (row := one_form(value)) and "step" in row]
        seconds, pace = _pace(rows)
        memory = next((row["memory_gib"] for row in reversed(raw) if isinstance(row.get("memory_gib"), dict)), {})
        memory = {str(key): float(value) for key, value in memory.items() if isinstance(value, (int, float))}
        return Snapshot(self.run.name, read_state_of(self.run), rows, memory, seconds, pace, _age(self.history.path))


def monitor(name: str | Path) -> Snapshot:
    """The run of this name, or in this folder, at this moment; RunError, listing the runs there are, for another name."""
    return Watch(find_run(name)).look()


def sparkline(values: list[float], columns: int) -> str:
    """The values as a row of blocks, the lowest to the highest; means where there are more than columns, "!" where one is not finite."""
    if not values:
        return ""
    width = -(-len(values) // columns)
    groups = [values[n : n + width] for n in range(0, len(values), width)]
    means = [sum(group) / len(group) for group in groups]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] if math.isfinite(mean) else "!" for mean in means)


def _pace(rows: list[dict]) -> tuple[float | None, float | None]:
    """(seconds of this session, seconds a step). A resumed session counts its seconds from 0 again."""
    timed = [(row["step"], row["time"]) for row in rows if math.isfinite(row.get("time", math.nan))]
    session: list[tuple[int, float]] = []
    for step, seconds in timed:
        if session and (seconds < session[-1][1] or step < session[-1][0]):
            session = []
        session.append((step, seconds))
    if not session:
        return None, None
    (first, began), (last, ended) = session[0], session[-1]
    if last > first:
        return ended, (ended - began) / (last - first)
    return ended, ended / last if last and len(session) == len(timed) else None


def _age(path: Path) -> float | None:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"


def _right(text: str, columns: int) -> str:
    return " " * (columns - display_width(text)) + text


def _health(health: dict) -> str:
    state = {True: "健全 / healthy", False: "【注意】健全でない / NOT healthy"}.get(health.get("healthy"), "?")
    score = health.get("score")
    shown = f", score {score:.2f}" if isinstance(score, (int, float)) else ""
    return f"{state} (step {health.get('step', '?')}{shown})"


def _mirror(mirror: dict) -> str:
    """What is wrong where something is, else where the copy is and up to which step."""
    if isinstance(mirror.get("ja"), str) and isinstance(mirror.get("en"), str):
        return f"【注意】{mirror['ja']} / {mirror['en']}"
    shown = [f"{word}{mirror[key]}" for key, word in (("state", ""), ("step", "step "), ("where", "")) if _told(mirror.get(key))]
    return ", ".join(shown) or "?"


def _told(value: object) -> bool:
    return isinstance(value, (str, int)) and value != ""


def _mark(alarm: Alarm) -> str:
    return {"note": "・", "warning": "【注意】", "stop": "【停止】"}[alarm.severity]


def _two_languages(ja: str, en: str, columns: int) -> list[str]:
    """At most two lines each: the whole is in alarms.jsonl and in `adslm analyze`."""
    return [f"  {line}" for text in (ja, en) for line in _at_most(wrapped(printable(text), columns - 2), 2, columns - 2)]


def _at_most(lines: list[str], number: int, columns: int) -> list[str]:
    if len(lines) <= number:
        return lines
    last, after = lines[number - 1], lines[number]
    between = " " if last[-1:].isascii() and after[:1].isascii() else ""
    return [*lines[: number - 1], cut(f"{last}{between}{after}", columns)]
