"""`analyze`: what went wrong with a training, from its log alone: the first bad step, the likely cause, what to change."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..json_files import json_number
from ..tables import html_row
from ..text.width import padded, printable
from ..training.drift import find_drift
from ..training.history import Alarm
from .causes import Finding, broken_numbers, healthy_part, nan_evaluation
from .curves import both_rewards_fall, diverged, gradient_spike
from .endings import find_endings, from_alarms
from .run_files import read_state_of
from .sources import Log, read_log

_ORDER = {"stop": 0, "warning": 1, "note": 2}
_CURVES = (
    ("loss", "損失 / loss"), ("eval_loss", "評価の損失 / eval loss"), ("rewards/accuracies", "正解率 / accuracy"),
    ("eval_rewards/accuracies", "評価の正解率 / eval acc."), ("rewards/margins", "報酬の差 / margin"), ("grad_norm", "勾配の大きさ / grad norm"),
    ("learning_rate", "学習率 / learning rate"),
)  # fmt: skip

DriftAlarms = Callable[[list[dict], "float | None"], "list[Alarm]"]


@dataclass(frozen=True)
class Analysis:
    """What a log says. `print(*analysis.lines(), sep="\\n")`, or show it in a notebook."""

    log: Log
    findings: list[Finding]
    """The most severe first, of the same severity the earliest first."""
    texts_watched: bool
    """Whether the run looked at its own texts while it trained."""

    @property
    def first_bad(self) -> Finding | None:
        """The earliest finding that is more than a note."""
        return min((one for one in self.findings if one.severity != "note"), key=lambda one: one.step, default=None)

    def lines(self) -> list[str]:
        """The whole diagnosis as text: what was read, the curves in numbers, the verdict, each finding."""
        told = [*self._head(), "", *self._curves(), "", *self._verdict()]
        for number, finding in enumerate(self.findings, 1):
            first, *rest = finding.lines()
            told += ["", f"{number}. {first}", *(f" {line}" for line in rest)]
        told += [""] + [f"（{ja} / {en}）" for ja, en in self.log.notes] if self.log.notes else []
        return [printable(line) for line in told]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a number that is not finite is written as text."""
        bad = self.first_bad
        return {
            "asked": self.log.asked,
            "run": self.log.run.name if self.log.run else None,
            "files": [str(path) for path in self.log.files],
            "rows": len(self.log.rows),
            "last_step": self.log.last_step,
            "total_steps": self.log.total_steps,
            "finished": self.log.finished,
            "texts_watched": self.texts_watched,
            "healthy": bad is None,
            "first_bad_step": bad.step if bad else None,
            "curves": {key: [json_number(value) for value in values] for key, _, values in self._ends()},
            "findings": [finding.to_dict() for finding in self.findings],
            "notes": [{"ja": ja, "en": en} for ja, en in self.log.notes],
        }

    def _repr_html_(self) -> str:
        rows = "".join(html_row((label, *map(_shown, values)), "td") for _, label, values in self._ends())
        told = "\n".join(line for line in self.lines() if line not in self._curves())
        return f"<table>{rows}</table><pre>{html.escape(told)}</pre>"

    def _head(self) -> list[str]:
        files = [str(path) for path in self.log.files] or ["-"]
        total = f" / {self.log.total_steps}" if self.log.total_steps else ""
        return [
            f"学習の記録 / log: {files[0]}",
            *(f"                  + {path}" for path in files[1:]),
            f"行 / rows: {len(self.log.rows)}   ステップ / step: {self.log.last_step}{total}",
        ]

    def _ends(self) -> list[tuple[str, str, tuple[float, float]]]:
        """(key, label, (first value, last value)) of every curve that is there."""
        found = []
        for key, label in _CURVES:
            values = [row[key] for row in self.log.rows if key in row]
            found += [(key, label, (values[0], values[-1]))] if values else []
        return found

    def _curves(self) -> list[str]:
        head = f"{padded('', 26)}  {'最初 / first':>14}  {'最後 / last':>14}"
        return [
            head,
            *(f"{padded(label, 26)}  {_shown(first):>16}  {_shown(last):>16}" for _, label, (first, last) in self._ends()),
        ]

    def _verdict(self) -> list[str]:
        if not self.log.rows:
            return ["記録された行がまだありません。", "No row was logged yet."] if not self.findings else []
        if bad := self.first_bad:
            return [f"最初の異常: ステップ {bad.step}（{bad.kind}）", f"First bad step: {bad.step} ({bad.kind})"]
        ja, en = "数値にも記録にも、異常は見つかりませんでした。", "Healthy as far as the log tells: nothing was found."
        if not self.texts_watched:
            ja += "ただし数値は文の良し悪しを語りません。adslm check で文を読んでください。"
            en += " Numbers do not tell whether the texts are good: read some with adslm check."
        return [ja, en]


def analyze(where: str | Path, drift_alarms: DriftAlarms | None = None) -> Analysis:
    """The diagnosis of a run (by name), a folder or a log file of this or another tool; see `read_log` for what is understood.

    `drift_alarms`: (rows, beta) -> alarms on curves that only look healthy; by default those of `training.drift`.
    Raises RunError where there is no log to read.
    """
    log = read_log(where)
    state = read_state_of(log.run) if log.run else None
    if state and not log.total_steps:
        log.total_steps = state.total_steps
    causes = [cause(log.rows) for cause in (broken_numbers, nan_evaluation, gradient_spike, diverged)]
    findings = [*(finding for finding in causes if finding), *find_endings(log, state)]
    drift = from_alarms((drift_alarms or find_drift)(healthy_part(log.rows), state.beta if state else None))
    known = {finding.kind for finding in findings}
    findings += [finding for finding in drift if finding.kind not in known]
    if "nan_forward" in known:  # says what the alarm on the first row says, and more
        findings = [finding for finding in findings if finding.kind != "zero_loss"]
    if not {finding.kind for finding in findings} & {"both_fall", "chosen_falls"} and (lower := both_rewards_fall(log.rows)):
        findings.append(lower)
    findings.sort(key=lambda one: (_ORDER[one.severity], one.step))
    return Analysis(log, findings, texts_watched=bool(state and state.health))


def _shown(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"
