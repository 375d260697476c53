"""An ad log in a workbook: its rows as blocks, like those of a text file."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..rows import Place, Problem
from ..sheets import sheet_rows
from .blocks import HEAD_ROWS, Block, Layout, found_header, read_row, table

if TYPE_CHECKING:
    import pyarrow

BOOK_MARKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_BLOCK_ROWS = 20_000


def sheet_layout(path: Path, sheet: str | None, columns: dict[str, str]) -> Layout:
    """As `blocks.layout`, of a sheet."""
    records = [(number, number, _texts(row)) for number, row in enumerate(islice(sheet_rows(path, sheet), HEAD_ROWS), 1)]
    _, _, header, line, skip = found_header(records, columns)
    return Layout(header, line, skip, "", "xlsx")


def sheet_blocks(path: Path, sheet: str | None, where: Layout, used: list[int], source: str) -> Iterator[Block]:
    """As `blocks.blocks`; how much of the sheet is still to come is not known, so `done` stays 0 until the end."""
    rows = enumerate(sheet_rows(path, sheet), 1)
    for _ in range(where.skip):
        next(rows, None)
    while taken := list(islice(rows, _BLOCK_ROWS)):
        yield Block(*_block(taken, where, used, source), 0.0)
    yield Block(*_block([], where, used, source), 1.0)


def _block(taken: list, where: Layout, used: list[int], source: str) -> tuple[pyarrow.Table, list[Problem]]:
    rows: list[tuple[int, list[str]]] = []
    broken: list[Problem] = []
    for number, values in taken:
        read_row(_texts(values), Place(source, number), where, used, rows, broken)
    return table(rows, used), broken


def _texts(values: list[Any]) -> list[str]:
    return [_text(value) for value in values]


def _text(value: Any) -> str:
    """A cell as an export to CSV would write it: no exponent, no '.0', a date without a time that is midnight."""
    if value is None:
        return ""
    if isinstance(value, float) and abs(value) < 1e15:  # NaN is not
        return f"{value:.10f}".rstrip("0").rstrip(".")
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return str(value)
