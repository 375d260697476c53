"""The two files that grow while a run trains: history.jsonl (every log) and alarms.jsonl (what the guards had to say)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HISTORY, ALARMS = "history.jsonl", "alarms.jsonl"


@dataclass(frozen=True)
class Alarm:
    """One thing that a guard saw, in one sentence each language, with the numbers behind it."""

    step: int
    """Optimizer steps done when it was seen."""
    kind: str
    """'not_finite', 'out_of_memory', 'loops', 'brief_forgotten', 'stuck', ...: stable, for programs."""
    severity: str
    """'note', 'warning', or 'stop': the run ended or went back because of it."""
    ja: str
    en: str
    measured: dict[str, Any] = field(default_factory=dict)
    """Plain JSON values; a number that is not finite is written as text."""

    def line(self) -> str:
        """One bilingual line."""
        mark = {"note": "・", "warning": "【注意】", "stop": "【停止】"}[self.severity]
        return f"{mark}step {self.step} {self.kind}: {self.ja} / {self.en}"


def append_row(path: Path, row: dict) -> None:
    """One JSON object as a further line; one write, so that another process never reads half of it as a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def write_alarm(training: Path, alarm: Alarm) -> None:
    """Adds an alarm to alarms.jsonl of a training folder."""
    append_row(training / ALARMS, asdict(alarm))


def read_alarms(training: Path) -> list[Alarm]:
    """The alarms of a training folder, oldest first."""
    return [Alarm(**row) for row in read_history(training / ALARMS)]


def read_history(path: Path) -> list[dict]:
    """The rows of a file that grows; a last line that a crash cut off is left out."""
    if not path.is_file():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise
    return rows
