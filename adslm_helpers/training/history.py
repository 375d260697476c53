"""The two files that grow while a run trains: history.jsonl (every log) and alarms.jsonl (what the guards had to say)."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RunError
from ..json_files import json_value

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
    """One JSON object as a further line; one write, so that another process never reads half of it as a line.

    Half a line that a killed process or a full disk left at the end is cut off first: the row would be lost behind it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        if file.tell() and not _ends_a_line(file):
            _mend(file)
        file.write((json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_alarm(training: Path, alarm: Alarm) -> None:
    """Adds an alarm to alarms.jsonl of a training folder."""
    append_row(training / ALARMS, asdict(alarm))


def read_alarms(training: Path) -> list[Alarm]:
    """The alarms of a training folder, oldest first."""
    return [Alarm(**row) for row in read_history(training / ALARMS)]


def read_history(path: Path) -> list[dict]:
    """The rows of a file that grows; a last line that a crash cut off is left out. Raises RunError for another broken line."""
    if not path.is_file():
        return []
    rows = []
    lines = path.read_bytes().split(b"\n")  # bytes: the cut may go through a character
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(json_value(line, f"{path} {number}行目", f"{path} line {number}", dict))
        except RunError:
            if number < len(lines):
                raise
    return rows


def _ends_a_line(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _mend(file: BinaryIO) -> None:
    """Ends a last line that is whole; cuts off one that is not."""
    file.seek(0)
    content = file.read()
    start = content.rfind(b"\n") + 1
    try:
        json.loads(content[start:])
        file.write(b"\n")
    except ValueError:
        file.truncate(start)
