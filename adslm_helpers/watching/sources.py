"""`read_log`: the log of a training by the name of a run, a folder or a file, whichever tool wrote it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..run import Run, runs_root
from ..training.history import HISTORY
from .log_files import EVENTS, Logged, read_events, read_lines, read_state
from .run_files import object_in

STATE, LLAMA_FACTORY = "trainer_state.json", "trainer_log.jsonl"
MOST_FOLDERS = 2000
DEEPEST = 3  # folders below the one asked for in which event files are looked for: output_dir/runs/DATE_HOST/


@dataclass
class Log:
    """The log of one training."""

    asked: str
    run: Run | None
    """Where it is a run of ours."""
    files: list[Path]
    """What was read, the best source first."""
    rows: list[dict[str, Any]]
    """As in `Logged`, of one attempt: where a step was done twice, the later one."""
    total_steps: int | None
    finished: bool
    restarts: list[tuple[int, int]] = field(default_factory=list)
    """(last step before, first step after) wherever the steps go back: the training was resumed or started again."""
    notes: list[tuple[str, str]] = field(default_factory=list)

    @property
    def last_step(self) -> int:
        """The highest step that a row has; 0 without rows."""
        return max((row["step"] for row in self.rows), default=0)


def run_names() -> list[str]:
    """The runs that there are, the newest first."""
    root = runs_root()
    found = [path.parent for path in root.glob("*/manifest.json")] if root.is_dir() else []
    return [path.name for path in sorted(found, key=lambda path: (path / "manifest.json").stat().st_mtime, reverse=True)]


def find_run(name: str | Path) -> Run:
    """The run of this name, or in this folder; RunError, listing the runs there are, for another."""
    text = str(name)
    run = named_run(text) or run_around(placed(text))
    if run is None or not run.path.is_dir():
        raise unknown(text)
    return run


def named_run(name: str, root: Path | None = None) -> Run | None:
    """The run of this name, where there is one."""
    try:
        run = Run(name, root)
    except RunError:  # no name of a run: a path, perhaps
        return None
    return run if run.path.is_dir() else None


def placed(name: str) -> Path:
    """The path of this name; RunError where it cannot be one, or nobody may look there."""
    try:
        path = Path(name).expanduser()
        path.stat()
    except FileNotFoundError:
        return path
    except (OSError, ValueError, RuntimeError):  # too long, a loop of links, NUL, no such ~user, not permitted
        raise unknown(name) from None
    return path


def run_around(path: Path) -> Run | None:
    """The run that this folder is, or lies in: one of its checkpoints, its adapter, a snapshot."""
    here = path.resolve()
    for folder in (here, *here.parents[:3]):
        if "steps" in object_in(folder / "manifest.json"):
            return named_run(folder.name, folder.parent)
    return None


def unknown(name: str) -> RunError:
    """No run, folder or file has this name: the runs that there are."""
    names = run_names()
    there = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    if not names:
        return RunError(
            f"実行 {name!r} がありません。{runs_root()} にはまだ実行が一つもありません。→ 先に adslm dataset と adslm train を実行してください。",
            f"There is no run {name!r}, and no run at all in {runs_root()} yet. -> First run adslm dataset and adslm train.",
        )
    return RunError(
        f"実行 {name!r} がありません。→ {runs_root()} にある実行: {there}",
        f"There is no run {name!r}. -> Runs in {runs_root()}: {there}",
    )


def read_log(where: str | Path) -> Log:
    """The log of a run (by name), a folder or a file.

    Understood: runs of ours; history.jsonl; trainer_state.json of transformers, TRL, axolotl, LLaMA-Factory; LLaMA-Factory's
    trainer_log.jsonl; TensorBoard event files; what a trainer printed, in a text file; and folders that hold any of these, also in checkpoint-N/ or runs/.
    Raises RunError where nothing has this name, nothing in it is a log, or the log is empty.
    """
    text = str(where)
    run = named_run(text)
    path = run.path if run else placed(text)
    if run is None and ((path / "manifest.json").is_file() or path.resolve().name == "training"):
        run = run_around(path)
    if run is None and not path.exists():
        raise unknown(text)
    folder = run.training if run else path
    found = list(_sources(folder)) if folder.is_dir() else [(folder, _reader(folder))] if folder.is_file() else []
    if not found and run is None:
        raise _no_log(path)
    return _joined(text, run, found)


def _sources(folder: Path) -> Iterator[tuple[Path, Callable[[Path], Logged]]]:
    """The logs in a folder, the one that says most first."""
    if (folder / HISTORY).is_file():
        yield folder / HISTORY, read_lines
    checkpoints = [*folder.glob(f"checkpoint-*/{STATE}"), *folder.glob(f"checkpoints/checkpoint-*/{STATE}")]
    newest = sorted(checkpoints, key=_number_in_name, reverse=True)[:3]  # the next where one was cut off
    states = [folder / STATE] if (folder / STATE).is_file() else newest
    yield from ((path, read_state) for path in states)
    if (folder / LLAMA_FACTORY).is_file():
        yield folder / LLAMA_FACTORY, read_lines
    if events := newest_events(folder):
        yield events, read_events


def newest_events(folder: Path) -> Path | None:
    """The folder of the newest event file in `folder` or not far below; a huge tree is looked at in part."""
    found: list[tuple[float, Path]] = []
    for looked, (place, folders, files) in enumerate(os.walk(folder), 1):
        if looked > MOST_FOLDERS or len(Path(place).relative_to(folder).parts) >= DEEPEST:
            folders.clear()
        for name in (name for name in files if name.startswith(EVENTS)):
            with suppress(OSError):  # gone meanwhile
                found.append(((Path(place) / name).stat().st_mtime, Path(place)))
    return max(found, key=lambda one: one[0], default=(0.0, None))[1]


def _number_in_name(state: Path) -> int:
    digits = state.parent.name.rsplit("-", 1)[-1]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 16 else -1


def _reader(path: Path) -> Callable[[Path], Logged]:
    """How to read one file, by its name."""
    if path.name.startswith(EVENTS):
        return read_events
    return read_state if path.suffix == ".json" else read_lines


def _no_log(path: Path) -> RunError:
    return RunError(
        f"{path} に学習の記録が見つかりません。→ {HISTORY}、{STATE}、{LLAMA_FACTORY}、TensorBoard のファイルのどれか、またはそれが入ったフォルダーを指定してください。",
        f"No log of a training in {path}. -> Give a {HISTORY}, {STATE}, {LLAMA_FACTORY}, a TensorBoard event file, or the folder of one.",
    )


def _joined(asked: str, run: Run | None, found: list[tuple[Path, Callable[[Path], Logged]]]) -> Log:
    """The first source that can be read, and of the others the rows beyond its end."""
    log, refused = Log(asked, run, [], [], None, False), []
    for path, read in found:
        try:
            logged = read(path)
        except RunError as error:
            refused.append(error)
            log.notes.append((error.ja, error.en))
            continue
        except OSError as error:
            log.notes.append((f"{path} を読めません（{error.strerror}）", f"{path} cannot be read ({error.strerror})"))
            continue
        end = max((row["step"] for row in log.rows), default=-1)
        beyond = [row for row in logged.rows if row["step"] > end]
        if beyond:
            if log.rows:
                note = (f"ステップ {end} より後は {path} から読みました", f"rows after step {end} come from {path}")
                log.notes.append(note)
            log.files.append(path)
            log.rows += beyond
        log.notes += logged.notes
        log.total_steps = log.total_steps or logged.total_steps
        log.finished |= logged.finished
    if not log.rows and run is None:
        raise refused[0] if refused else _empty(found[0][0])
    log.rows, log.restarts = _one_attempt(log.rows)
    return log


def _empty(path: Path) -> RunError:
    return RunError(
        f"{path} に記録された行が一つもありません。→ 学習が最初の記録の前に止まったか、別の種類のファイルです。端末やノートブックの最後のメッセージを見てください。",
        f"{path} holds no row of a log. -> The training ended before its first log, or this is another kind of file; look at its last message.",
    )


def _one_attempt(rows: list[dict]) -> tuple[list[dict], list[tuple[int, int]]]:
    """The rows without those that a later attempt did again, and where the steps went back."""
    kept: list[dict] = []
    restarts = []
    for row in rows:
        if kept and row["step"] < kept[-1]["step"]:
            restarts.append((kept[-1]["step"], row["step"]))
            while kept and kept[-1]["step"] >= row["step"]:
                kept.pop()
        kept.append(row)
    return kept, restarts
