"""JSONL, JSON, CSV, TSV and sheets -> raw rows with their lines, in whatever encoding a Japanese office saves them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .encoding import LARGEST_DOCUMENT, LONGEST_LINE, open_text, refuse_large, text_lines
from .rows import Place, RawRow, broken, fail
from .sheets import sheet_rows

_ESCAPED = re.compile("[\udc80-\udcff]")  # what errors="surrogateescape" makes of a byte that is no UTF-8


def _too_long(place: Place) -> RawRow:
    limit = f"{LONGEST_LINE >> 20} Mi"
    ja = f"行が長すぎます（{limit} 文字以上）。改行が抜けているようです。"
    return broken("too_long", ja, f"The line is too long ({limit} characters or more). Line breaks may be missing.", place)


class _Twice(ValueError):
    """A key that one JSON object holds twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict:
    """A JSON object; json alone would take the last of two values under one key without a word."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return value


def _parsed(text: str, place: Place) -> RawRow:
    if _ESCAPED.search(text):
        return broken("bad_encoding", "文字コードが壊れています。UTF-8 が必要です。", "Broken bytes. UTF-8 is needed.", place)
    try:
        return RawRow(json.loads(text, object_pairs_hook=_object), place)
    except _Twice as twice:
        return _ambiguous(str(twice), place)
    except json.JSONDecodeError as error:
        why = f"{error.msg}: column {error.colno}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        why = str(error)
    return broken("not_json", f"JSON として読めません（{why}）。", f"Not JSON ({why}).", place)


def _ambiguous(key: str, place: Place) -> RawRow:
    ja = f"項目 {key[:40]!a} が2回あります。どちらの値か決められません。"
    return broken("duplicate_key", ja, f"The key {key[:40]!a} stands there twice; which value counts is unclear.", place)


def read_jsonl(path: Path) -> Iterator[RawRow]:
    with open_text(path, newline="\n") as file:  # str.splitlines would also cut at U+2028, which JSON allows inside text
        for number, line in text_lines(file):
            place = Place(str(path), number)
            if line is None:
                yield _too_long(place)
            elif line.strip():
                yield _parsed(line, place)


def read_json(path: Path) -> Iterator[RawRow]:
    """An array of objects, `{"data": [...]}`, one object, or JSONL under the wrong name, which is common."""
    with open_text(path, newline="\n") as file:
        lines = (line for _, line in text_lines(file) if line is None or line.strip())
        first, second = next(lines, ""), next(lines, "")
    if second != "" and first and _is_object(first):
        yield from read_jsonl(path)
        return
    refuse_large(path, LARGEST_DOCUMENT)
    with open_text(path, newline="\n") as file:
        text = file.read()
    document = _document(text, path)
    if document == []:
        return
    if isinstance(document, list):
        yield from _items(text, path, text.index("["))
    elif isinstance(document, dict) and isinstance(document.get("data"), list):
        yield from _numbered(document["data"], text, path)
    else:
        yield _parsed(text, Place(str(path), 1))


def _is_object(line: str) -> bool:
    """Whether a line is a JSON object by itself (it may hold a key twice)."""
    row = _parsed(line, Place("", 1))
    return isinstance(row.value, dict) or (row.problem is not None and row.problem.code == "duplicate_key")


def _numbered(items: list, text: str, path: Path) -> Iterator[RawRow]:
    """The items of a document's "data" by their number: where they begin is not known."""
    whole = _parsed(text, Place(str(path), 1))
    if whole.problem:  # broken bytes or a key twice, somewhere in it
        fail(
            f"{whole.problem.line_ja}→ 直すか、1行1件の JSONL にしてください（その行だけが除かれます）。",
            f"{whole.problem.line_en} -> Mend it, or use JSONL, where only that line is dropped.",
        )
    for number, value in enumerate(items, 1):
        yield RawRow(value, Place(str(path), number, "row"))


def _document(text: str, path: Path) -> Any:
    try:
        return json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        place, why = Place(str(path), error.lineno), f"{error.msg}: column {error.colno}"
    except (ValueError, RecursionError) as error:
        place, why = Place(str(path), 1), str(error)
    fail(
        f"{place.ja}: JSON として読めません（{why}）。配列は途中で壊れると全体が読めません。"
        "→ その行を直すか、1行1件の JSONL にしてください。",
        f"{place.en}: not JSON ({why}). An array that breaks cannot be read at all. -> Mend that line, or use JSONL.",
    )


def _items(text: str, path: Path, start: int) -> Iterator[RawRow]:
    """The items of an array that is known to be valid JSON, with the line on which each begins."""
    decoder, blank = json.JSONDecoder(), re.compile(r"[\s,\]]*")
    counted = line = 0
    at = blank.match(text, start + 1).end()
    while at < len(text):
        line, counted = line + text.count("\n", counted, at), at
        _, end = decoder.raw_decode(text, at)
        yield _parsed(text[at:end], Place(str(path), line + 1))
        at = blank.match(text, end).end()


def read_csv(path: Path) -> Iterator[RawRow]:
    header: list[str] = []
    too_long: list[int] = []
    with open_text(path, newline="") as file:
        # strict: an unclosed quote is an error; without it the reader swallows the rows below into one cell
        reader = csv.reader(_kept(file, too_long), delimiter=_delimiter(path), strict=True)
        while True:
            place = Place(str(path), reader.line_num + 1)  # line_num counts lines, not rows: quoted cells may span lines
            cells: list[str] | None = []
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if not header:
                    fail(
                        f"{place.ja}: 見出し行を読めません（{error}）。→ 引用符を確かめてください。",
                        f"{place.en}: the header cannot be read ({error}). -> Check its quotes.",
                    )
                span = f"{place.number}-{reader.line_num}"
                ja = f"CSV として読めません（{span}行目、{error}）。引用符が閉じていないようです。"
                yield broken("not_csv", ja, f"Not CSV (lines {span}, {error}). A quote may be unclosed.", place)
            if too_long:  # a row that goes on around such a line is not whole: the line stands for it
                yield from _too_long_lines(path, too_long, header)
                too_long.clear()
                cells = cells and []
            if cells is None:
                return
            if not any(cell.strip() for cell in cells):
                continue
            if header:
                yield _csv_row(header, cells, place)
            else:
                header = _header(cells, place)


def _too_long_lines(path: Path, numbers: list[int], header: list[str]) -> Iterator[RawRow]:
    for number in numbers:
        row = _too_long(Place(str(path), number))
        if not header:
            fail(f"{row.problem.line_ja}→ 見出し行を直してください。", f"{row.problem.line_en} -> Mend the header.")
        yield row


def _kept(file: IO[str], too_long: list[int]) -> Iterator[str]:
    """The lines of a file; an empty one in place of each that is too long, whose number goes to `too_long`."""
    for number, line in text_lines(file):
        if line is None:
            too_long.append(number)
        yield "\n" if line is None else line


def _delimiter(path: Path) -> str:
    with open_text(path, newline="") as file:
        first = next((line for _, line in text_lines(file) if line and line.strip()), "")
    preferred = "\t,;" if path.suffix.lower() == ".tsv" else ",\t;"
    return next((mark for mark in preferred if mark in first), preferred[0])


def _header(cells: list[str], place: Place) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        fail(
            f"{place.ja}: 見出し {twice[0]!r} が2つあります。どちらを使うか決められません。→ 片方の名前を変えてください。",
            f"{place.en}: the header has {twice[0]!r} twice, so which to use is unclear. -> Rename one.",
        )
    return names


def _csv_row(header: list[str], cells: list[str], place: Place) -> RawRow:
    if any(_ESCAPED.search(cell) for cell in cells):
        return broken("bad_encoding", "文字コードが壊れています。UTF-8 が必要です。", "Broken bytes. UTF-8 is needed.", place)
    if len(cells) > len(header):
        ja = f"セルが {len(cells)} 個あり、見出しの {len(header)} 個より多いです。引用符のない「,」があるようです。"
        en = f"{len(cells)} cells under {len(header)} headings. A comma may lack quotes."
        return broken("too_many_cells", ja, en, place)
    padded = cells + [""] * (len(header) - len(cells))
    return RawRow({name: cell for name, cell in zip(header, padded, strict=True) if name}, place)


def sheet_table(path: Path, sheet: str | None = None) -> Iterator[RawRow]:
    """The rows below the first one of at least two cells: a sheet may begin with a title. A line is that of the sheet.

    A cell without a heading is kept under its column's letters (`column_F`): a note at the side of a table is no fault of its row.
    """
    header: list[str] = []
    for number, values in enumerate(sheet_rows(path, sheet), 1):
        cells = [value.isoformat() if hasattr(value, "isoformat") else value for value in values]
        if not header:
            if sum(cell is not None for cell in cells) > 1:
                header = _header(["" if cell is None else str(cell) for cell in cells], Place(str(path), number))
        elif any(cell is not None and cell != "" for cell in cells):
            yield RawRow(_under(header, cells), Place(str(path), number))


def _under(header: list[str], cells: list[Any]) -> dict[str, Any]:
    from openpyxl.utils import get_column_letter

    row: dict[str, Any] = {name: None for name in header if name}
    for place, cell in enumerate(cells, 1):
        name = header[place - 1] if place <= len(header) else ""
        if name or cell is not None:
            row[name or f"column_{get_column_letter(place)}"] = cell
    return row
