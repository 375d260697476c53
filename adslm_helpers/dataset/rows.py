"""A raw row, the place where it stands, and what can be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import DataError
from ..foreign_text import redacted


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands: the line of a text file (unit 'line'), or the row of something without lines (unit 'row')."""

    source: str
    number: int
    unit: str = "line"

    @property
    def ja(self) -> str:
        return f"{self.source} {self.number}{'行目' if self.unit == 'line' else '件目'}"

    @property
    def en(self) -> str:
        return f"{self.source} {self.unit} {self.number}"

    @property
    def short(self) -> str:
        """`train.jsonl:12`: no folder, for it goes into the data that a run hands on."""
        name = self.source if self.source.startswith("hf:") else Path(self.source).name
        return f"{name}:{self.number}"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row cannot be used: a code to count by, and what happened and why in Japanese and English."""

    code: str
    ja: str
    en: str
    place: Place

    @property
    def line_ja(self) -> str:
        return f"{self.place.ja}: {self.ja}"

    @property
    def line_en(self) -> str:
        return f"{self.place.en}: {self.en}"


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it was found; `value` is None where `problem` says that it could not be read.

    `again`: a further pair of a source row that gave another one before (of several answers, say).
    """

    value: Any
    place: Place
    problem: Problem | None = None
    again: bool = False

    @property
    def place_ja(self) -> str:
        return self.place.ja

    @property
    def place_en(self) -> str:
        return self.place.en


class Unusable(Exception):
    """Ends the reading of one row; never leaves the module that reads it."""

    def __init__(self, code: str, ja: str, en: str):
        super().__init__(code)
        self.code, self.ja, self.en = code, ja, en

    def at(self, place: Place) -> Problem:
        return Problem(self.code, self.ja, self.en, place)


def fail(ja: str, en: str) -> NoReturn:
    """Raises DataError, without the error of a library that may be under way."""
    raise DataError(ja, en) from None


def short_error(error: Exception) -> str:
    """The class of a library's error and its first line, without secrets."""
    lines = redacted(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def broken(code: str, ja: str, en: str, place: Place) -> RawRow:
    """A row that could not be read."""
    return RawRow(None, place, Problem(code, ja, en, place))
