"""A run on the terminal: drawn again in place while it trains, with plain ANSI."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from ..text.width import cut
from .monitor import ENDED, Snapshot, Watch
from .sources import find_run

SECONDS = 2.0
_HOME, _CLEAR_LINE, _CLEAR_BELOW, _CLEAR = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[2J"
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"


def follow(
    name: str | Path,
    stream: TextIO | None = None,
    seconds: float = SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> Snapshot:
    """Shows a run until it ends, or until Ctrl-C, and returns its last state. The run itself is never touched.

    `stream`: a terminal, standard output by default; on anything else (a file, a pipe) the caller prints the one state that is returned.
    Raises RunError for an unknown run.
    """
    stream = stream or sys.stdout
    watch = Watch(find_run(name))
    snapshot = watch.look()
    if not stream.isatty() or snapshot.phase in ENDED:
        return snapshot
    stream.write(_HIDE + _CLEAR)
    try:
        while snapshot.phase not in ENDED:
            stream.write(frame(snapshot))
            stream.flush()
            sleep(seconds)
            snapshot = watch.look()
    except KeyboardInterrupt:
        pass  # the watcher leaves; the run goes on
    finally:
        stream.write(_HOME + _CLEAR_BELOW + _SHOW)
        stream.flush()
    return snapshot


def frame(snapshot: Snapshot) -> str:
    """One drawing, as large as the terminal and no larger."""
    columns, rows = shutil.get_terminal_size((80, 24))
    foot = "Ctrl-C: 画面だけを閉じます（学習は続きます）/ closes this view only"
    lines = [*snapshot.lines(columns)[: max(1, rows - 2)], cut(foot, columns)]
    return _HOME + "".join(f"{line}{_CLEAR_LINE}\n" for line in lines) + _CLEAR_BELOW
