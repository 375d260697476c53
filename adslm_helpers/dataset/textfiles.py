"""JSONL, JSON, CSV and TSV -> raw rows with their lines, in whatever encoding a Japanese office saves them."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .rows import Place, RawRow, broken, fail

_ESCAPED = re.compile("[\udc80-\udcff]")  # what errors="surrogateescape" makes of a byte that is no UTF-8


def _open(path: Path, newline: str) -> IO[str]:
    """`path` as text; bytes that do not belong to its encoding become surrogates, so that only their row is lost."""
    encoding = _encoding(path)
    return open(path, encoding=encoding, errors="strict" if encoding == "utf-16" else "surrogateescape", newline=newline)


def _encoding(path: Path) -> str:
    """'utf-8-sig', 'utf-16' or 'cp932'; raises DataError when none fits.

    CP932 accepts most UTF-8 bytes as mojibake, so it is tried only where more characters fail as UTF-8 than pass.
    """
    passed = failed = start = 0
    first: tuple[int, int] | None = None  # line, byte
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return "utf-16"
            if not line.isascii():
                text = line.decode("utf-8", "replace")
                bad = text.count("\ufffd")
                failed += bad
                passed += len(text) - len(text.encode("ascii", "ignore")) - bad
                first = first or ((number, start + _first_bad(line)) if bad else None)
            start += len(line)
    if failed <= passed:
        return "utf-8-sig"
    try:
        with open(path, encoding="cp932", newline="\n") as file:
            for _ in file:
                pass
    except UnicodeDecodeError:
        line_number, byte = first or (1, 0)
        fail(
            f"{path} {line_number}行目（{byte}バイト目）: UTF-8 としても CP932（Shift_JIS）としても読めません。"
            "→ UTF-8 で保存し直してください。",
            f"{path} line {line_number} (byte {byte}): neither UTF-8 nor CP932 (Shift_JIS). -> Save it as UTF-8.",
        )
    return "cp932"


def _first_bad(line: bytes) -> int:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return 0


def _parsed(text: str, place: Place) -> RawRow:
    if _ESCAPED.search(text):
        return broken("bad_encoding", "文字コードが壊れています。UTF-8 が必要です。", "Broken bytes. UTF-8 is needed.", place)
    try:
        return RawRow(json.loads(text), place)
    except json.JSONDecodeError as error:
        why = f"{error.msg}: column {error.colno}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        why = str(error)
    return broken("not_json", f"JSON として読めません（{why}）。", f"Not JSON ({why}).", place)


def read_jsonl(path: Path) -> Iterator[RawRow]:
    with _open(path, newline="\n") as file:  # str.splitlines would also cut at U+2028, which JSON allows inside text
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parsed(line, Place(str(path), number))


def read_json(path: Path) -> Iterator[RawRow]:
    """An array of objects, `{"data": [...]}`, one object, or JSONL under the wrong name, which is common."""
    with _open(path, newline="\n") as file:
        lines = (line for line in file if line.strip())
        first, second = next(lines, ""), next(lines, "")
    if second and isinstance(_parsed(first, Place(str(path), 1)).value, dict):
        yield from read_jsonl(path)
        return
    with _open(path, newline="\n") as file:
        text = file.read()
    document = _document(text, path)
    if document == []:
        return
    if isinstance(document, list):
        yield from _items(text, path)
    elif isinstance(document, dict) and isinstance(document.get("data"), list):
        for number, value in enumerate(document["data"], 1):
            yield RawRow(value, Place(str(path), number, "row"))
    else:
        yield RawRow(document, Place(str(path), 1))


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


def _items(text: str, path: Path) -> Iterator[RawRow]:
    """The items of an array that is known to be valid JSON, with the line on which each begins."""
    decoder, blank = json.JSONDecoder(), re.compile(r"[\s,\]]*")
    counted = line = 0
    at = blank.match(text, text.index("[") + 1).end()
    while at < len(text):
        line, counted = line + text.count("\n", counted, at), at
        value, end = decoder.raw_decode(text, at)
        place = Place(str(path), line + 1)
        yield _parsed(text[at:end], place) if _ESCAPED.search(text, at, end) else RawRow(value, place)
        at = blank.match(text, end).end()


def read_csv(path: Path) -> Iterator[RawRow]:
    header: list[str] = []
    with _open(path, newline="") as file:
        # strict: an unclosed quote is an error; without it the reader swallows the rows below into one cell
        reader = csv.reader(file, delimiter=_delimiter(path), strict=True)
        while True:
            place = Place(str(path), reader.line_num + 1)  # line_num counts lines, not rows: quoted cells may span lines
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if not header:
                    fail(
                        f"{place.ja}: 見出し行を読めません（{error}）。→ 引用符を確かめてください。",
                        f"{place.en}: the header cannot be read ({error}). -> Check its quotes.",
                    )
                span = f"{place.number}-{reader.line_num}"
                ja = f"CSV として読めません（{span}行目、{error}）。引用符が閉じていないようです。"
                yield broken("not_csv", ja, f"Not CSV (lines {span}, {error}). A quote may be unclosed.", place)
                continue
            if not any(cell.strip() for cell in cells):
                continue
            if header:
                yield _csv_row(header, cells, place)
            else:
                header = _header(cells, place)


def _delimiter(path: Path) -> str:
    with _open(path, newline="") as file:
        first = next((line for line in file if line.strip()), "")
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
