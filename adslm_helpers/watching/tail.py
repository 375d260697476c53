"""A file that another process appends to, read on from where the last look ended."""

from __future__ import annotations

from pathlib import Path

from .log_files import LONGEST_LINE, parsed

_REMEMBERED = 64  # bytes before the place reached; where they differ, another attempt has written the file again


class Tail:
    """The JSON objects of a growing file: `read()` gives all there are now, and parses only what is new.

    A line that is still being written waits for its end; a file that was written again (a resumed run) is read again; a file that is
    absent, or set aside in between, holds nothing.
    """

    def __init__(self, path: Path):
        self.path = path
        self._start_over()

    def read(self) -> list[dict]:
        """All objects so far, oldest first."""
        try:
            with open(self.path, "rb") as file:
                if not self._still_the_same(file):
                    self._start_over()
                file.seek(self._place)
                self._read_on(file)
        except OSError:
            self._start_over()
        return self.rows

    def _start_over(self) -> None:
        self.rows: list[dict] = []
        self._place, self._before = 0, b""

    def _still_the_same(self, file) -> bool:
        file.seek(self._place - len(self._before))
        return file.read(len(self._before)) == self._before

    def _read_on(self, file) -> None:
        while line := file.readline(LONGEST_LINE):
            size = len(line)
            while not line.endswith(b"\n"):
                line = file.readline(LONGEST_LINE)
                if not line:
                    return  # its end is still to come
                size += len(line)
            if size == len(line) and isinstance(value := parsed(line), dict):
                self.rows.append(value)
            self._place += size
            self._before = (self._before + line)[-_REMEMBERED:]
