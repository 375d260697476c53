"""The logs of a training as any tool writes them, brought to one form: TRL's names, one row a log, NaN as NaN."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RunError

LONGEST_LINE = 4 << 20  # bytes; a row of a log has some hundred
LARGEST_STATE = 256 << 20  # bytes of one JSON value, which must be read whole
MOST_ROWS = 100_000
EVENTS = "events.out.tfevents."
_STEP = ("step", "global_step", "current_steps", "train/global_step")
_RENAMED = {"lr": "learning_rate"}
_PRINTED = re.compile(rb"\{'[^{}]{1,4000}\}")
_METRIC = re.compile("loss|grad_norm|learning_rate|rewards/|logps/|accurac|runtime")
_NO_METRIC = {*_STEP, "total_steps", "percentage", "not_finite", "memory_gib"}


@dataclass
class Logged:
    """What one file, or the event files of one folder, hold."""

    rows: list[dict[str, Any]]
    """"step" and the metrics by TRL's names ("loss", "rewards/margins", "eval_loss", ...) as floats, NaN and infinity among them."""
    total_steps: int | None = None
    finished: bool = False
    """The trainer wrote its closing line."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """What could not be read, (Japanese, English)."""

    @property
    def last_step(self) -> int:
        """The highest step that a row has; -1 without rows."""
        return max((row["step"] for row in self.rows), default=-1)


def read_lines(path: Path) -> Logged:
    """A file with one log a line: history.jsonl, LLaMA-Factory's trainer_log.jsonl, or what a trainer printed on the console."""
    logged, broken, total = Logged([]), [], None
    with open(path, "rb") as file:
        for number, value, whole in json_lines(file):
            row = one_form(value)
            if row is not None:
                logged.rows.append(row)
                total = max(total or 0, _whole(value.get("total_steps")) or 0) or None
                logged.finished |= "train_runtime" in value
            elif whole:
                broken.append(number)
            else:
                logged.notes.append((f"{path} の最後の行は途中で切れています", f"the last line of {path} is cut off"))
            if len(logged.rows) > MOST_ROWS:
                _thin(logged, path)
    if broken:
        where = ", ".join(map(str, broken[:5])) + (", ..." if len(broken) > 5 else "")
        ja = f"{path}: {len(broken)} 行は記録として読めないので除きました（{where} 行目）"
        logged.notes.append((ja, f"{path}: {len(broken)} lines are no log rows and were left out (line {where})"))
    logged.total_steps = total
    _number_rows(logged)
    return logged


def json_lines(file: BinaryIO) -> Iterator[tuple[int, Any, bool]]:
    """(line number, its JSON value or None, whether the line is whole) of every line that is not blank, in bounded memory."""
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        whole = line.endswith(b"\n")
        if not whole and len(line) == LONGEST_LINE:
            while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                pass
            yield number, None, True
        elif line.strip():
            value = parsed(line)
            yield number, printed(line) if value is None else value, whole or value is not None


def parsed(text: bytes) -> Any:
    """The JSON value, or None for what is none. Python's writer calls NaN NaN; its reader knows the word."""
    try:
        return json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def printed(line: bytes) -> dict | None:
    """The dict that a trainer printed: {'loss': 0.6931, 'grad_norm': nan, ...}, perhaps after a progress bar; None where there is none."""
    found = _PRINTED.search(line)
    if found is None:
        return None
    text = re.sub(r"\b(nan|inf)\b", r"'\1'", found[0].decode("utf-8", "replace").replace("'nan'", "nan").replace("'inf'", "inf"))
    try:
        value = ast.literal_eval(text.replace("-'inf'", "'-inf'"))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return value if isinstance(value, dict) else None


def read_state(path: Path) -> Logged:
    """trainer_state.json of any transformers trainer, or a JSON list of rows; RunError for another file."""
    size = path.stat().st_size
    if size > LARGEST_STATE:
        raise RunError(
            f"{path} は {size >> 20} MiB あり、大きすぎて読めません（上限 {LARGEST_STATE >> 20} MiB）。→ history.jsonl か TensorBoard のフォルダーを指定してください。",
            f"{path} has {size >> 20} MiB, too much to read (limit {LARGEST_STATE >> 20} MiB). -> Give history.jsonl or the TensorBoard folder instead.",
        )
    value = parsed(path.read_bytes())
    log = value.get("log_history") if isinstance(value, dict) else value
    if not isinstance(log, list):
        raise RunError(
            f"{path} は学習の記録として読めません（log_history がないか、途中で切れています）。→ 別のチェックポイントの trainer_state.json か、フォルダーを指定してください。",
            f"{path} cannot be read as the log of a training (no log_history, or cut off). -> Give the trainer_state.json of another checkpoint, or the folder.",
        )
    rows = [one_form(row) for row in log]
    logged = Logged([row for row in rows if row is not None])
    if lost := len(rows) - len(logged.rows):
        logged.notes.append(
            (f"{path}: {lost} 行は記録ではないので除きました", f"{path}: {lost} entries are no log rows and were left out")
        )
    if isinstance(value, dict):
        logged.total_steps = _whole(value.get("max_steps"))
    logged.finished = any(isinstance(row, dict) and "train_runtime" in row for row in log)
    _number_rows(logged)
    while len(logged.rows) > MOST_ROWS:
        _thin(logged, path)
    return logged


def read_events(folder: Path) -> Logged:
    """The scalars of the TensorBoard event files right in `folder`, or of one such file; no TensorFlow is needed."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError:
        raise RunError(
            f"{folder} を読むには tensorboard が必要です。→ pip install tensorboard",
            f"Reading {folder} needs tensorboard. -> pip install tensorboard",
        ) from None
    events = EventAccumulator(str(folder), size_guidance={"scalars": MOST_ROWS, "tensors": MOST_ROWS, "images": 1, "audio": 1})
    events.Reload()
    points = [(tag, event.step, event.value) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)]
    for tag in events.Tags()["tensors"]:  # TensorFlow 2 and newer writers keep scalars there
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            points += [(tag, event.step, float(make_ndarray(event.tensor_proto).item())) for event in events.Tensors(tag)]
    rows: dict[tuple[int, bool], dict] = {}
    for tag, step, value in points:
        name = _name(tag)
        rows.setdefault((step, name.startswith("eval_")), {"step": step})[name] = float(value)
    logged = Logged([row for key in sorted(rows) if (row := one_form(rows[key]))])
    logged.finished = any("train_runtime" in row for row in logged.rows)
    return logged


def one_form(value: Any) -> dict[str, Any] | None:
    """One log in the common form; None where it is no object or holds no metric of a training."""
    if not isinstance(value, dict):
        return None
    row: dict[str, Any] = {}
    for key, raw in value.items():
        if key not in _NO_METRIC and (found := _number(raw)) is not None:
            row[_name(key)] = found
    named = value.get("not_finite")
    row |= {_name(key): math.nan for key in named if isinstance(key, str)} if isinstance(named, list) else {}
    if "current_steps" in value and "accuracy" in row:  # LLaMA-Factory's word for the reward accuracy
        row["rewards/accuracies"] = row.pop("accuracy")
    if not any(_METRIC.search(key) for key in row):
        return None
    step = next((found for key in _STEP if (found := _whole(value.get(key))) is not None), None)
    return row if step is None else {"step": step, **row}


def _name(key: str) -> str:
    """TRL's name of a metric: TensorBoard has train/loss and eval/loss."""
    key = key.removeprefix("train/")
    key = f"eval_{key[5:]}" if key.startswith("eval/") else key
    return _RENAMED.get(key, key)


def _number(value: Any) -> float | None:
    """A number, also one written as text ("nan", "5e-06"): transformers 5 logs some so."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and math.isfinite(number) and number >= 0 else None


def _number_rows(logged: Logged) -> None:
    """Rows without a step get the one before; where no row has one, their number."""
    if not any("step" in row for row in logged.rows):
        logged.rows = [{"step": number, **row} for number, row in enumerate(logged.rows, 1)]
        if logged.rows:
            ja = "記録にステップがないので、行の番号で数えました"
            logged.notes.append((ja, "the log names no steps: its lines were counted instead"))
    last = 0
    for row in logged.rows:
        last = row.setdefault("step", last)


def _thin(logged: Logged, path: Path) -> None:
    """Drops every second of the training rows in which every number is finite: the first bad one and evaluations stay."""
    plain = [n for n, row in enumerate(logged.rows) if "eval_loss" not in row and all(map(math.isfinite, row.values()))]
    # The very first rows tell most; without plain rows the oldest are kept and the rest is left out.
    dropped = set(plain[101::2]) or set(range(MOST_ROWS // 2, len(logged.rows)))
    logged.rows = [row for n, row in enumerate(logged.rows) if n not in dropped]
    note = (f"{path}: 行が多いので間引いて読みました", f"{path}: so many rows that only a part of them was read")
    if note not in logged.notes:
        logged.notes.append(note)
