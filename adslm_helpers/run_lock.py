"""One process at a time in a run folder: the second is refused with the pid of the first, and a killed one never blocks the next."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .errors import RunError, writing_to

LOCK, _NEW = ".lock", ".new."
# A file system without hard links (Drive, exFAT) shows a lock before its content is there. After so long its maker was killed in between.
_UNWRITTEN_S = 30.0
_HIDDEN = "hidden"


@dataclass(frozen=True)
class Process:
    """A process so that another one with its pid is not taken for it."""

    pid: int
    host: str
    birth: str
    """When it started, by the system's own clock (Linux: ticks since boot): a change of the time of day does not move it."""
    since: str = ""
    """When it took the lock: local time with offset, ISO 8601."""

    @classmethod
    def noted(cls, value: Any) -> Process | None:
        """The process of a manifest, which somebody may have changed; None for anything but what `asdict` gives."""
        try:
            return cls(**value)
        except TypeError:
            return None


_held: dict[Path, tuple[int, int, Path]] = {}
"""Folder -> (pid, how often entered, lock file). The pid, because a forked child inherits the table and holds nothing."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds the lock of a run folder (`Run.path`); raises RunError with pid, host and time of the process that has it.

    A holder that is gone (killed, or its pid is another process's now) is no obstacle. The same process may enter again. Needs files
    that are made only where there is none (O_EXCL or a hard link) and folders that list what is in them: no flock, which Drive lacks.
    """
    folder = folder.resolve()
    pid, depth, path = _held.get(folder, (0, 0, None))
    if pid != os.getpid():
        depth, path = 0, _acquire(folder)
    _held[folder] = (os.getpid(), depth + 1, path)
    try:
        yield
    finally:
        if depth:
            _held[folder] = (os.getpid(), depth, path)
        else:
            del _held[folder]
            _release(path)


def this_process() -> Process:
    """This process, now."""
    since = datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds")
    return Process(os.getpid(), _host(), _birth(os.getpid()) or "", since)


def is_alive(process: Process) -> bool | None:
    """Whether that process runs still; None for one of another machine, which cannot be known from here."""
    if process.host != _host():
        return None
    return _birth(process.pid) in (process.birth, _HIDDEN)


def lock_holder(folder: Path) -> Process | None:
    """Who has the lock of a run folder, as it says itself; None when it is free, released or left by a process that is gone."""
    _, holder = _newest(folder.resolve() / LOCK)
    return holder if holder and is_alive(holder) is not False else None


def _acquire(folder: Path) -> Path:
    """Takes the lock: the owner of the file with the highest number has it, and that file is never removed, only followed.

    Whoever finds number n free makes n + 1, which succeeds once, and looks again: one that was late, and made a number that others
    were past already, sees a higher one and starts over. So no two can have it, however their steps mix.
    """
    locks = folder / LOCK
    with writing_to(folder):
        locks.mkdir(parents=True, exist_ok=True)
        while True:
            number, holder = _newest(locks)
            if holder and _is_this(holder):
                return locks / str(number)  # the module was loaded again, or an interrupt came between taking and noting it
            if holder and is_alive(holder) is not False:
                raise _taken(locks, number, holder)
            ours = locks / str(number + 1)
            if not _create(ours):
                continue
            if _numbers(locks)[-1] != number + 1:
                ours.unlink(missing_ok=True)
                continue
            for old in (*(locks / str(n) for n in _numbers(locks)[1:-1]), *locks.glob(f"{_NEW}*")):
                old.unlink(missing_ok=True)
            return ours


def _is_this(holder: Process) -> bool:
    return (holder.pid, holder.host, holder.birth) == (os.getpid(), _host(), _birth(os.getpid()))


def _release(path: Path) -> None:
    """Blanks the holder out of its lock file, in place: on a full disk no new file can be written, and others must not stay locked out.

    A folder that went away, or cannot be written to now, must not hide what happened.
    """
    with suppress(OSError), open(path, "r+b") as file:
        size = len(file.read())
        file.seek(0)
        file.write(b"{}".ljust(size))


def _newest(locks: Path) -> tuple[int, Process | None]:
    """The highest number and its holder; None when released, or made so long ago without a word that its maker is gone."""
    deadline = time.monotonic() + _UNWRITTEN_S
    while True:
        number = _numbers(locks)[-1]
        try:
            path = locks / str(number)
            text = path.read_text(encoding="utf-8") if number else "{}"
            value = json.loads(text)
            return number, Process(**value) if value else None
        except FileNotFoundError:
            continue  # a newer one came meanwhile
        except (ValueError, TypeError):
            # The age by both clocks: the file's for one left long ago, ours where the file's clock is ahead.
            if time.time() - path.stat().st_mtime > _UNWRITTEN_S or time.monotonic() > deadline:
                return number, None
            time.sleep(0.02)


def _numbers(locks: Path) -> list[int]:
    """0 and the numbers that are there, ascending."""
    names = os.listdir(locks) if locks.is_dir() else []
    return sorted([0, *(int(name) for name in names if name.isdecimal())])


def _create(path: Path) -> bool:
    """Makes the lock file with its content, unless there is one of that name: then False, and nothing done."""
    text = json.dumps(asdict(this_process()))
    handle, temporary = tempfile.mkstemp(prefix=_NEW, dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        try:
            os.link(temporary, path)  # the name appears with the content in it
            return True
        except FileExistsError:
            return False
        except (OSError, NotImplementedError, AttributeError):
            pass
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        return True
    finally:
        Path(temporary).unlink(missing_ok=True)


def _birth(pid: int) -> str | None:
    """When a process started, in a form to be compared only; None where none of that pid runs (a zombie does not)."""
    with suppress(OSError, ValueError, IndexError):
        state, *rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return None if state in "ZX" else f"{boot}/{rest[18]}"
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        return _HIDDEN


def _host() -> str:
    """The machine's name without its domain, which on a Mac changes with the network."""
    return platform.node().partition(".")[0] or "?"


def _taken(locks: Path, number: int, holder: Process) -> RunError:
    who = f"pid {holder.pid}, {holder.host}, {holder.since}"
    if is_alive(holder):
        return RunError(
            f"{locks.parent} は別のプロセスが使っています（{who} から）。同時に二つは動かせません。"
            "→ それが終わるのを待つか、止めてから（ノートブックならカーネルを停止）、もう一度実行してください。別の実行名でも始められます。",
            f"{locks.parent} is in use by another process (since: {who}). Two at once would spoil the run. "
            "-> Wait for it, or stop it (a notebook: shut its kernel down) and try again; another run name works at once.",
        )
    file = locks / str(number)
    return RunError(
        f"{locks.parent} は別の計算機のプロセスが使っている印があります（{who} から）。動いているかはここからは分かりません。"
        f"→ 動いていないことを確かめてから {file} を消して、もう一度実行してください。",
        f"{locks.parent} is marked as in use by a process of another machine (since: {who}); from here nobody can tell whether it runs. "
        f"-> Make sure that it does not, remove {file}, and try again.",
    )
