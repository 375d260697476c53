"""An Excel workbook (xlsx) -> the values of one sheet, row by row, with bounds on what it may unpack to."""

from __future__ import annotations

import difflib
import re
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from ..errors import DataError
from .rows import fail
from .unpack import unpacked

__all__ = ["LARGEST_SHEET", "kind_of_zip", "sheet_rows", "unpacked"]

LARGEST_SHEET = 1 << 30
"""Bytes of all parts of a workbook, unpacked; a full sheet of 1,048,576 rows with ten columns holds about half of it."""
_LARGEST_PART = 256 << 20  # of a part that openpyxl holds as a whole: the texts of all cells, the styles
_MOST_PARTS = 20_000
_MOST_ROWS = 1_048_576  # Excel's own limit; the number of a row in the file may be any
_MOST_COLUMNS = 1_000
_MOST_CELLS = 100_000_000  # a formatted cell at the right end makes a row of thousands of empty ones
_MOST_MERGED = 100_000
_BLOCK = 256  # rows read at a time
_LOOKED_AT = 50  # rows that tell whether a sheet holds a table
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\b[^>]*?\bref="([A-Z]{1,3})(\d{1,7}):([A-Z]{1,3})(\d{1,7})"')
_SHEET = re.compile(r"xl/worksheets/[^/]+\.xml")
_OTHER_ZIPS = (
    ("xl/workbook.bin", "xlsb"),
    ("word/document.xml", "Word"),
    ("ppt/presentation.xml", "PowerPoint"),
    ("Index/Document.iwa", "Numbers"),
)


def sheet_rows(path: Path, sheet: str | None = None) -> Iterator[list[Any]]:
    """The values of each row of a sheet, from its first row on: an empty row is [], so the n-th list is row n of the sheet.

    Values are str, int, float, bool, datetime values or None; what follows the last filled cell of a row is left out. A formula
    counts as its stored result. The text of merged cells stands in all of them, a number only in the first (a sum must not grow).
    `sheet`: its name; without one, the only visible sheet that holds a table. Macros and links to other files are never followed.
    Raises DataError at once for what is no xlsx, is too large when unpacked, or leaves the sheet open.
    """
    _check_parts(path)
    book = _load(path)
    try:
        chosen = _chosen(book, path, sheet)
    except BaseException:
        book.close()
        raise
    return _rows(book, chosen, path)


def kind_of_zip(path: Path) -> str:
    """What a zip file is: 'xlsx', 'ods', 'xlsb', 'Word', ..., 'zip', or '' where it cannot be opened."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if "xl/workbook.xml" in names:
                return "xlsx"
            if "mimetype" in names:
                with archive.open("mimetype") as file:
                    return "ods" if b"opendocument" in file.read(100) else "zip"
    except Exception:  # zipfile raises the errors of many layers for a damaged file
        return ""
    return next((kind for part, kind in _OTHER_ZIPS if part in names), "zip")


def _check_parts(path: Path) -> None:
    """By the zip's own directory, before anything is unpacked: zipfile never reads more of a part than stands there."""
    with open(path, "rb") as file:
        head = file.read(8)
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        _refuse(path, "Excel 97-2003 の xls か、パスワード付き", "Excel 97-2003 (xls), or protected by a password")
    kind = kind_of_zip(path)
    if kind != "xlsx":
        _refuse(path, kind or "壊れているか、Excel ではない", kind or "a damaged file, or not Excel")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(path, archive.infolist())
            for part in archive.infolist():
                if part.filename.endswith((".xml", ".rels")):
                    _check_declarations(path, archive, part)
    except DataError:
        raise
    except Exception as error:  # a damaged zip fails in the classes of many layers; each is told to the user
        _refuse_broken(path, error, 0)


def _check_sizes(path: Path, parts: list[zipfile.ZipInfo]) -> None:
    whole = sum(part.file_size for part in parts if part.filename.endswith((".xml", ".rels")))
    held = max((part.file_size for part in parts if not _SHEET.fullmatch(part.filename)), default=0)
    for size, limit in ((whole, LARGEST_SHEET), (held, _LARGEST_PART)):
        if size > limit:
            fail(
                f"{path} は展開すると大きすぎます（{size / (1 << 20):,.0f} MiB。読めるのは {limit >> 20:,} MiB まで）。"
                "→ 分けるか、「CSV UTF-8」で保存してください。",
                f"{path} is too large when unpacked ({size / (1 << 20):,.0f} MiB; up to {limit >> 20:,} MiB can be read). "
                "-> Split it, or save it as 'CSV UTF-8'.",
            )
    if len(parts) > _MOST_PARTS:
        _refuse(path, f"部品が {len(parts):,} 個ある", f"a file of {len(parts):,} parts")


def _check_declarations(path: Path, archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> None:
    """Excel writes no DTD; one is there to make a parser expand entities or fetch files."""
    with archive.open(part) as file:
        head = file.read(1 << 16).replace(b"\0", b"")
    if b"<!DOCTYPE" in head or b"<!ENTITY" in head or not re.search(rb"<\w", head):
        _refuse(path, "XML に宣言 (DTD) がある", "a file whose XML holds declarations (DTD)")


def _load(path: Path) -> Any:
    import openpyxl

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of missing default styles and the like
            return openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
    except Exception as error:  # as above
        _refuse_broken(path, error, 0)


def _chosen(book: Any, path: Path, name: str | None) -> Any:
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    listing = ", ".join(sheets)
    if name is not None:
        if name in sheets:
            return sheets[name]
        near = difflib.get_close_matches(name, sheets, n=1, cutoff=0)
        fail(
            f"{path} にシート {name!r} はありません。→ あるシート: {listing}" + (f"（近い名前: {near[0]}）" if near else ""),
            f"{path} has no sheet {name!r}. -> Its sheets: {listing}" + (f" (nearest: {near[0]})" if near else ""),
        )
    shown = [sheet for sheet in sheets.values() if sheet.sheet_state == "visible"] or [*sheets.values()]
    tables = [sheet for sheet in shown if _filled_rows(sheet, path, 2) >= 2] if len(shown) > 1 else shown
    filled = tables or [sheet for sheet in shown if _filled_rows(sheet, path, 1)]
    if len(filled) == 1:
        return filled[0]
    if not filled:
        fail(
            f"{path} に行のあるシートがありません（{listing}）。→ 表のあるブックを指定してください。",
            f"{path} holds no row in any sheet ({listing}). -> Give a workbook that holds a table.",
        )
    names, example = ", ".join(sheet.title for sheet in filled), f"{path.name}#{filled[0].title}"
    fail(
        f"{path}: 表のあるシートが {len(filled)} つあり（{names}）、どれを使うか決められません。→ 「{example}」のように指定してください。",
        f"{path}: {len(filled)} sheets hold a table ({names}), so which to use is unclear. -> Name one, as in '{example}'.",
    )


def _filled_rows(sheet: Any, path: Path, cells: int) -> int:
    """How many of the first rows hold at least so many values."""
    return sum(sum(value is not None for value in row) >= cells for row in islice(_values(sheet, path), _LOOKED_AT))


def _values(sheet: Any, path: Path) -> Iterator[tuple]:
    sheet.reset_dimensions()  # what the file says of its own size may be wrong
    number = cells = 0
    rows = sheet.iter_rows(values_only=True)
    while block := _next_rows(rows, path, number):
        number += len(block)
        cells += sum(map(len, block))
        if number > _MOST_ROWS or cells > _MOST_CELLS:
            limit = f"{_MOST_ROWS:,}"
            _refuse(path, f"{limit} 行より多いか、空のセルばかり", f"a sheet of more than {limit} rows, or full of empty cells")
        yield from block


def _next_rows(rows: Iterator[tuple], path: Path, number: int) -> list[tuple]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a date out of range is '#VALUE!', as in Excel
            return list(islice(rows, _BLOCK))
    except Exception as error:  # as above
        _refuse_broken(path, error, number)


def _rows(book: Any, sheet: Any, path: Path) -> Iterator[list[Any]]:
    try:
        fill = _merged_fill(path, sheet)
        for number, row in enumerate(_values(sheet, path), 1):
            values = [value.replace("_x000D_", "") if isinstance(value, str) else value for value in row]
            fill(number, values)
            while values and values[-1] is None:
                values.pop()
            if len(values) > _MOST_COLUMNS:
                fail(
                    f"{path} {number}行目: 列が {len(values):,} 個あります（{_MOST_COLUMNS:,} 個まで）。→ 使う列だけにしてください。",
                    f"{path} row {number}: {len(values):,} columns (up to {_MOST_COLUMNS:,}). -> Keep only the columns in use.",
                )
            yield values
    finally:
        book.close()


def _merged_fill(path: Path, sheet: Any) -> Callable[[int, list[Any]], None]:
    """What writes the text of merged cells into a row's others: they stand at the end of the sheet's XML, after its rows."""
    from openpyxl.utils import column_index_from_string as column

    begin: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    try:
        ranges = _merged_ranges(path, sheet._worksheet_path)
    except DataError:
        raise
    except Exception as error:  # as above
        _refuse_broken(path, error, 0)
    for first, top, last, bottom in ranges:
        begin[int(top)].append((column(first.decode()) - 1, min(column(last.decode()), _MOST_COLUMNS), int(bottom)))
    running: list[tuple[int, int, int, Any]] = []

    def fill(number: int, values: list[Any]) -> None:
        nonlocal running
        if not running and number not in begin:
            return
        running = [merged for merged in running if merged[2] >= number]
        for left, right, bottom in begin.pop(number, ()):
            text = values[left] if left < len(values) else None
            if isinstance(text, str):
                running.append((left, right, bottom, text))
        for left, right, _, text in running:
            values.extend([None] * (right - len(values)))
            values[left:right] = [text if value is None else value for value in values[left:right]]

    return fill


def _merged_ranges(path: Path, part: str) -> list[tuple[bytes, bytes, bytes, bytes]]:
    found: list[tuple[bytes, bytes, bytes, bytes]] = []
    with zipfile.ZipFile(path) as archive, archive.open(part) as file:
        rest = b""
        while block := file.read(1 << 20):
            text = rest + block
            cut = text.rfind(b">") + 1
            if b"mergeCell" in text:
                found += _MERGED.findall(text[:cut])
            rest = text[cut:][-(1 << 12) :]
            if len(found) > _MOST_MERGED:
                _refuse(path, f"結合セルが {_MOST_MERGED:,} より多い", f"a sheet with more than {_MOST_MERGED:,} merged cells")
    return found


def _refuse(path: Path, ja: str, en: str) -> NoReturn:
    fail(
        f"{path} は、ここでは読めないファイルです（{ja}）。→ xlsx か「CSV UTF-8」で保存し直してください。",
        f"{path} is {en}, which cannot be read here. -> Save it as xlsx or as 'CSV UTF-8'.",
    )


def _refuse_broken(path: Path, error: Exception, number: int) -> NoReturn:
    reason = f"{type(error).__name__}: {str(error)[:150]}".replace("\n", " ")
    fail(
        f"{path} を Excel として読めません（{reason}、{number:,}行まで読めました）。→ もう一度保存してください。",
        f"{path} cannot be read as Excel ({reason}; {number:,} rows were read). -> Save it again.",
    )
