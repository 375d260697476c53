"""Work on a drive that may never answer: done in a thread that nobody has to wait for, with a pulse that tells slow from dead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


class Stopped(Exception):
    """Nobody waits for this work any more."""


class Pulse:
    """A sign of life: the worker calls it after every block, the waiting side asks how long it has been silent."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.stopped = False
        self.last = clock()

    def __call__(self) -> None:
        """Raises Stopped when the waiting side gave up: work that wakes up late must not meddle."""
        if self.stopped:
            raise Stopped
        self.last = self.clock()

    def silent(self) -> float:
        """Seconds since the last beat."""
        return self.clock() - self.last


class Work:
    """One call of `function(pulse)` in a daemon thread: a thread that hangs in the system does not keep the process from ending."""

    def __init__(self, function: Callable[[Pulse], Any]):
        self.pulse = Pulse()
        self.result: Any = None
        self.error: BaseException | None = None
        self._function = function
        self._thread = threading.Thread(target=self._run, name="adslm-copies", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._function(self.pulse)
        except BaseException as error:  # handed over: `value` raises it on the other side
            self.error = error

    def done(self, seconds: float = 0.0) -> bool:
        """Whether it ended, after waiting for at most `seconds`."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def value(self) -> Any:
        """What the function gave; raises what it raised."""
        if self.error is not None:
            raise self.error
        return self.result


def bounded(function: Callable[[Pulse], Any], silence: float) -> Any:
    """What `function(pulse)` gives; raises what it raises, and TimeoutError when it was silent for `silence` seconds."""
    work = Work(function)
    try:
        while not work.done(min(0.2, silence)):
            if work.pulse.silent() > silence:
                raise TimeoutError(f"no answer for {silence:.0f} s")
    finally:
        work.pulse.stopped = True  # also at Ctrl-C
    return work.value()
