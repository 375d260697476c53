"""An ad log as tables of some megabytes each, every row with its line: read fast where a block is clean, row by row where it is not.

Arrow reads a clean block about six times as fast as the csv module, but tells neither the line of a row nor what is wrong with one. So a
block whose rows and lines do not match one to one is read again by the csv module, which does.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from ..encoding import LONGEST_LINE, open_as, open_text
from ..rows import Place, Problem, fail
from .columns import MOST_COLUMNS, recognised

if TYPE_CHECKING:
    import pyarrow

LARGEST_LOG = 64 << 30
"""Bytes."""
LONGEST_RECORD = 50
"""Lines. A row over more of them began with a quote that nothing closes: its first line is refused, and reading goes on below it."""
_BLOCK = 8 << 20
_HEAD = 1 << 20
_BINARY = 1 << 16  # a NUL below costs its row only
HEAD_ROWS = 200
_DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}


@dataclass(frozen=True)
class Layout:
    """Where the table of a file begins: the cells of its header, the line they stand on, the lines to skip before the first row."""

    header: list[str]
    line: int
    skip: int
    delimiter: str
    encoding: str


@dataclass(frozen=True)
class Block:
    """`rows`: column 'line' (int64) and a text column 'c0', 'c1', ... for each index asked for. `broken`: rows that no table can hold."""

    rows: pyarrow.Table
    broken: list[Problem]
    done: float
    """How much of the file has been read, 0 to 1."""


def layout(path: Path, columns: dict[str, str]) -> Layout:
    """Finds the delimiter and the header by the headings that mean something (`columns`: the user's map); raises DataError."""
    with open_text(path, newline=None, largest=LARGEST_LOG) as file:
        encoding = file.encoding.lower()
        try:
            head = file.read(_HEAD)
        except UnicodeError as error:
            _refuse_encoding(str(path), 1, encoding, error)
    _refuse_other(path, head)
    ranked = [(*found_header(_records(head, delimiter), columns), delimiter) for delimiter in _DELIMITERS]
    _, _, cells, line, skip, delimiter = max(ranked, key=lambda found: found[:2])
    if len(cells) > MOST_COLUMNS:
        fail(
            f"{path}: 列が {len(cells):,} 個あります（{MOST_COLUMNS:,} 個まで）。→ 必要な列だけを書き出してください。",
            f"{path}: {len(cells):,} columns (up to {MOST_COLUMNS:,}). -> Export only the columns you need.",
        )
    return Layout(cells, line, skip, delimiter, encoding)


def _refuse_other(path: Path, head: str) -> None:
    """A file that is no table of text at all."""
    start = head.lstrip("\ufeff \t\r\n")
    if not start:
        fail(f"{path} は空です。→ 書き出し直してください。", f"{path} is empty. -> Export it again.")
    if "\0" in head[:_BINARY] or start.startswith("%PDF"):
        fail(
            f"{path} は文字のファイルではありません（NUL バイトなど）。→ CSV、TSV、xlsx で書き出してください。",
            f"{path} is no text file (it holds NUL bytes or the like). -> Export CSV, TSV or xlsx.",
        )
    if start[0] in "{[" and re.match(r'[{\[]\s*["{\[]', start):
        fail(
            f"{path} は JSON です。広告の実績は CSV、TSV、xlsx で読みます。→ 対のデータなら adslm dataset {path} で読めます。",
            f"{path} is JSON; ad logs are read as CSV, TSV or xlsx. -> If it holds pairs: adslm dataset {path}",
        )


def _records(head: str, delimiter: str) -> list[tuple[int, int, list[str]]]:
    """(first line, last line, cells) of the first rows; a row that the csv module refuses ends them."""
    found: list[tuple[int, int, list[str]]] = []
    reader = csv.reader(io.StringIO(head), delimiter=delimiter)
    start = 1
    try:
        for cells in reader:
            found.append((start, reader.line_num, cells))
            start = reader.line_num + 1
            if len(found) == HEAD_ROWS:
                break
    except csv.Error:
        pass
    return found


def found_header(records: list[tuple[int, int, list[str]]], columns: dict[str, str]) -> tuple[int, int, list[str], int, int]:
    """(roles known, cells, header, its line, lines to skip): the row with the most known roles, else the first of the widest rows."""
    best = (0, 0, [], 1, 0)
    above: list[str] = []
    for start, end, cells in records:
        known, width = recognised(cells, columns), sum(bool(cell.strip()) for cell in cells)
        if (known, width) > best[:2]:
            best = (known, width, _under(above, cells), start, end)
        above = cells
    return best


def _under(above: list[str], cells: list[str]) -> list[str]:
    """A header of two rows: an empty cell takes the heading above it, which was merged downwards."""
    if len(above) != len(cells) or sum(bool(cell.strip()) for cell in above) < 2:
        return cells
    return [cell if cell.strip() else over for cell, over in zip(cells, above, strict=True)]


def blocks(path: Path, where: Layout, used: list[int], source: str) -> Iterator[Block]:
    """All rows of a text file below its header; a line that belongs to no row is in `broken`, never lost."""
    size = max(path.stat().st_size, 1)
    first, kept, too_long = where.skip + 1, "", []
    with open_as(path, where.encoding, newline=None) as file:
        for _ in range(where.skip):
            file.readline()
        try:
            for text in _whole_lines(file, first, too_long):
                text, last = kept + text, not text
                rows, broken, kept = _read(text, where, used, Place(source, first), last)
                first += text.count("\n") - kept.count("\n")
                broken += [_too_long(Place(source, line)) for line in too_long]
                too_long.clear()
                yield Block(rows, broken, min(file.buffer.tell() / size, 1.0))
        except UnicodeError as error:
            _refuse_encoding(source, first, where.encoding, error)


def _refuse_encoding(source: str, line: int, encoding: str, error: UnicodeError) -> NoReturn:
    fail(
        f"{source} {line}行目以降: {encoding} として読めません（{error}）。→ UTF-8 で保存し直してください。",
        f"{source} line {line} or below: it cannot be read as {encoding} ({error}). -> Save it as UTF-8.",
    )


def _whole_lines(file: IO[str], line: int, too_long: list[int]) -> Iterator[str]:
    """Text of some megabytes that ends with a line, and at last ''. A line of many megabytes is left empty; its number goes to `too_long`."""
    rest = ""
    while piece := file.read(_BLOCK):
        text = rest + piece
        cut = text.rfind("\n") + 1
        if not cut and len(text) > LONGEST_LINE:
            too_long.append(line)
            while (more := file.readline(_BLOCK)) and not more.endswith("\n"):
                pass
            text, cut = "\n", 1
        line += text.count("\n")
        rest = text[cut:]
        if cut:
            yield text[:cut]
    if rest:
        yield rest + "\n"
    yield ""


def _read(text: str, where: Layout, used: list[int], place: Place, last: bool) -> tuple[pyarrow.Table, list[Problem], str]:
    """(rows, broken rows, the end of `text` that may go on in the next one)."""
    rows = None if last else _fast(text, where, used, place.number)
    return (rows, [], "") if rows is not None else _slow(text, where, used, place, last)


def _fast(text: str, where: Layout, used: list[int], first: int) -> pyarrow.Table | None:
    """The block by Arrow; None unless each line is one whole row of as many cells as the header has."""
    import numpy
    import pyarrow
    from pyarrow import csv as arrow_csv

    names = [f"c{index}" for index in range(len(where.header))]
    wanted = [f"c{index}" for index in used]
    if text.startswith("\n") or "\n\n" in text:  # a line without anything is no row to the csv module
        return None
    try:
        data = text.encode()
        table = arrow_csv.read_csv(
            pyarrow.BufferReader(data),
            arrow_csv.ReadOptions(column_names=names, block_size=len(data) + 1, use_threads=False),
            arrow_csv.ParseOptions(delimiter=where.delimiter, newlines_in_values=True, ignore_empty_lines=False),
            arrow_csv.ConvertOptions(include_columns=wanted, column_types=dict.fromkeys(wanted, pyarrow.string())),
        )
    except (pyarrow.ArrowInvalid, UnicodeEncodeError):
        return None
    end = text.rfind("\n", 0, len(text) - 1) + 1
    if table.num_rows != text.count("\n") or _is_open([text[end:]], where.delimiter):
        return None
    return table.append_column("line", pyarrow.array(numpy.arange(first, first + table.num_rows)))


def _is_open(lines: list[str], delimiter: str) -> bool:
    """Whether a quoted cell goes on below these lines, which begin a row."""
    return len(list(csv.reader([*lines, "x\n"], delimiter=delimiter))) == 1


def _slow(text: str, where: Layout, used: list[int], place: Place, last: bool) -> tuple[pyarrow.Table, list[Problem], str]:
    lines = list(io.StringIO(text))
    rows: list[tuple[int, list[str]]] = []
    broken: list[Problem] = []
    start = [0]  # of the row that is being read
    while start[0] < len(lines):
        offset = start[0]
        reader = csv.reader(_near(lines, start), delimiter=where.delimiter)
        try:
            for cells in reader:
                end = offset + reader.line_num
                if end == len(lines) or end - start[0] > LONGEST_RECORD:
                    open_end = end - start[0] > LONGEST_RECORD or _is_open(lines[start[0] : end], where.delimiter)
                    if open_end and (last or end < len(lines) or end - start[0] > LONGEST_RECORD):
                        raise csv.Error("a quote is not closed")
                    if open_end:
                        return table(rows, used), broken, "".join(lines[start[0] :])
                read_row(cells, Place(place.source, place.number + start[0]), where, used, rows, broken)
                start[0] = end
        except csv.Error as error:
            broken.append(_not_csv(Place(place.source, place.number + start[0]), error))
            start[0] += 1
    return table(rows, used), broken, ""


def _near(lines: list[str], start: list[int]) -> Iterator[str]:
    """The lines from the row that is being read on, but no more than a row may have: an unclosed quote would take all of them."""
    for number in range(start[0], len(lines)):
        if number - start[0] > LONGEST_RECORD:
            return
        yield lines[number]


def read_row(cells: list[str], place: Place, where: Layout, used: list[int], rows: list, broken: list[Problem]) -> None:
    """Adds the cells that are asked for to `rows`, or says in `broken` why not."""
    width = len(where.header)
    if len(cells) > width and any(cell.strip() for cell in cells[width:]):
        broken.append(_too_many_cells(len(cells), width, place))
    elif cells:  # a line without anything is no row
        wanted = [cells[index] if index < len(cells) else "" for index in used]
        try:
            "".join(wanted).encode()
            rows.append((place.number, wanted))
        except UnicodeEncodeError:  # surrogates are what errors="surrogateescape" makes of bytes that are no UTF-8
            broken.append(Problem("bad_encoding", "文字コードが壊れています。", "Broken bytes.", place))


def table(rows: list[tuple[int, list[str]]], used: list[int]) -> pyarrow.Table:
    """(line, cells) as a table like that of `Block.rows`."""
    import pyarrow

    columns = list(zip(*(cells for _, cells in rows), strict=True)) or [()] * len(used)
    data = {f"c{index}": pyarrow.array(cells, pyarrow.string()) for index, cells in zip(used, columns, strict=True)}
    return pyarrow.table({**data, "line": pyarrow.array([line for line, _ in rows], pyarrow.int64())})


def _too_long(place: Place) -> Problem:
    return Problem(
        "too_long", "行が長すぎます。改行が抜けているようです。", "The line is too long. Line breaks may be missing.", place
    )


def _not_csv(place: Place, error: csv.Error) -> Problem:
    return Problem(
        "not_csv", f"CSV として読めません（{error}）。引用符を確かめてください。", f"Not CSV ({error}). Check its quotes.", place
    )


def _too_many_cells(count: int, width: int, place: Place) -> Problem:
    ja = f"セルが {count} 個あり、見出しの {width} 個より多いです。引用符のない区切り文字があるようです。"
    en = f"{count} cells under {width} headings. A separator may lack quotes."
    return Problem("too_many_cells", ja, en, place)
