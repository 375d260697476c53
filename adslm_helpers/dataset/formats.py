"""A file or a Hugging Face dataset -> raw rows, each with its place. A broken row is handed on with its problem, never lost."""

from __future__ import annotations

import codecs
import difflib
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn

from ..run_names import user_path
from .encoding import LARGEST_FILE
from .forms.shapes import LOOKED_AT, Shape, detect_shape
from .forms.shaping import shaped
from .hub import hub_rows, is_saved, refuse_unsafe_arrow, saved_rows
from .rows import Place, Problem, RawRow, fail, short_error
from .textfiles import read_csv, read_json, read_jsonl, sheet_table
from .unpack import GZIP_MARK, inner_name, unpacked, unpacked_head

__all__ = ["KINDS", "Place", "Problem", "RawRow", "file_and_sheet", "read_pairs", "read_rows"]

_BOOKS = (".xlsx", ".xlsm")
_SLOW_S = 2.0  # between two words about a file that takes long
# First bytes, what it is, what to do. A spreadsheet is a zip.
_UNPACK = ("展開して、中のファイルを指定してください。", "Unpack it and give the file inside.")
_CONTAINERS = (
    (
        GZIP_MARK,
        "gzip",
        "名前の終わりを .gz にしてください（例: pairs.jsonl.gz）。",
        "Let its name end in .gz (as in pairs.jsonl.gz).",
    ),
    (
        b"PK\x03\x04",
        "zip / Excel",
        "zip は展開し、Excel は名前の終わりを .xlsx にしてください。",
        "Unpack a zip; let the name of an Excel workbook end in .xlsx.",
    ),
    (b"BZh91AY&SY", "bzip2", *_UNPACK),
    (b"\xfd7zXZ", "xz", *_UNPACK),
    (b"\x28\xb5\x2f\xfd", "zstd", *_UNPACK),
    (b"7z\xbc\xaf", "7-Zip", *_UNPACK),
    (b"PAR1\x15", "Parquet", "名前の終わりを .parquet にしてください。", "Let its name end in .parquet."),
    (b"\xd0\xcf\x11\xe0", "Excel (xls)", "xlsx か「CSV UTF-8」で保存してください。", "Save it as xlsx or 'CSV UTF-8'."),
    (b"%PDF-", "PDF", "表を CSV で保存してください。", "Save the table as CSV."),
    *(
        (bytes((0x80, version)), "pickle", "JSONL か CSV で保存し直してください。", "Save it as JSONL or CSV.")
        for version in range(2, 6)
    ),
)


def read_pairs(
    source: str | Path,
    columns: dict[str, str] | None = None,
    say: Callable[[str], None] | None = None,
    every_pair: bool = False,
    margin: float = 0.0,
) -> tuple[Shape, Iterator[RawRow]]:
    """The form of a source and its rows as prompt, chosen and rejected; the first 200 rows are read at once.

    `columns` corrects the form (role -> column); `say` hears how far a long file was read. `every_pair`
    and `margin` are for several answers with scores, see `shaped`. Raises DataError as `read_rows` and `detect_shape` do.
    """
    rows = read_rows(source)
    first = list(islice(rows, LOOKED_AT))
    shape = detect_shape(first, columns)
    every = chain(first, rows)
    return shape, shaped(_told(every, say) if say else every, shape, every_pair, margin)


def _told(rows: Iterator[RawRow], say: Callable[[str], None]) -> Iterator[RawRow]:
    last = time.monotonic()
    for number, row in enumerate(rows, 1):
        yield row
        if number % 1000 == 0 and time.monotonic() - last > _SLOW_S:
            last = time.monotonic()
            say(f"{number:,} 行を読みました / {number:,} rows read")


def read_rows(source: str | Path) -> Iterator[RawRow]:
    """The rows of a JSONL, JSON, CSV, TSV, Parquet or xlsx file, of one of these in a .gz, of a folder that `save_to_disk` of
    the datasets library wrote, or of `hf:owner/name[:split]`, one by one; blank lines are no rows.

    Text may be UTF-8 (with or without BOM), UTF-16 with BOM, or CP932; `book.xlsx#name` means one sheet. Raises DataError at once
    when there is no such file or it is of no known kind, and while reading when nothing of it can be read.
    """
    name = str(source)
    if name.startswith("hf:"):
        return _checked(hub_rows(name), name)
    path, sheet = file_and_sheet(name)
    if sheet is not None:
        return _checked(sheet_table(path, sheet), name)
    return _checked(_reader_of(path)(path), name)


def file_and_sheet(name: str) -> tuple[Path, str | None]:
    """The path in a source's name, and the sheet after its '#' where the path is a workbook that is there."""
    path = user_path(name)
    before, mark, sheet = name.rpartition("#")
    if mark and sheet and Path(before).suffix.lower() in _BOOKS and _is_file(before) and not _is_file(name):
        return user_path(before), sheet
    return path, None


def _is_file(name: str) -> bool:
    try:
        return user_path(name).is_file()
    except (OSError, ValueError):
        return False


def _reader_of(path: Path) -> Callable[[Path], Iterator[RawRow]]:
    try:
        kind = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a name with a NUL: no such file
        _refuse_missing(path)
    except OSError as error:  # a name too long, links in a circle, a folder that may not be entered
        _refuse_unreadable(str(path), error)
    if stat.S_ISDIR(kind):
        return saved_rows if is_saved(path) else _refuse_folder(path)
    if not stat.S_ISREG(kind):  # it may never end, or never begin
        fail(
            f"{path} は普通のファイルではありません（パイプや装置）。→ 中身をファイルに保存して、それを指定してください。",
            f"{path} is no regular file (a pipe or a device). -> Save its content to a file and give that.",
        )
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        _refuse_unreadable(str(path), error)
    if not head:
        _refuse_empty(str(path))
    if path.suffix.lower() != ".gz":
        return _reader_by(path, path.suffix.lower(), head)
    reader = _reader_by(path, Path(inner_name(path)).suffix.lower(), unpacked_head(path))
    return lambda packed: _of_gz(packed, reader)


def _reader_by(path: Path, suffix: str, head: bytes) -> Callable[[Path], Iterator[RawRow]]:
    """The reader for a name that ends so and a content that begins so."""
    reader = _READERS.get(suffix)
    if not head:
        _refuse_empty(str(path))
    found = next((what for mark, *what in _CONTAINERS if head.startswith(mark)), None)
    if found and reader not in (None, _parquet, sheet_table):
        fail(
            f"{path} の中身は {found[0]} で、文字のファイルではありません。→ {found[1]}",
            f"{path} holds {found[0]}, not text. -> {found[2]}",
        )
    if reader is None and head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"{", b"["):
        return read_json
    if suffix == ".txt" and not found and {*b"\t,"} & {*head.splitlines()[0]}:  # what Excel calls Unicode text
        return read_csv
    if reader is None:
        kinds = " ".join(KINDS)
        fail(
            f"{path} は読める形式ではありません。→ {kinds} のどれかにしてください（zip などの圧縮ファイルは展開してから）。",
            f"{path} is of no kind that can be read. -> Use one of {kinds} (unpack zip and other archives).",
        )
    return reader


def _of_gz(path: Path, reader: Callable[[Path], Iterator[RawRow]]) -> Iterator[RawRow]:
    """The rows of a packed file, with places in it and not in the temporary file."""
    with unpacked(path) as plain:
        for row in reader(plain):
            place = replace(row.place, source=str(path))
            yield replace(row, place=place, problem=row.problem and replace(row.problem, place=place))


def _checked(rows: Iterator[RawRow], name: str) -> Iterator[RawRow]:
    """`rows`, with the errors of reading worded for the user, and an error when there was no row at all."""
    count = 0
    try:
        for row in rows:
            count += 1
            yield row
    except UnicodeDecodeError as error:
        fail(
            f"{name} を文字として読めません（{error.encoding}: {error.reason}）。→ UTF-8 で保存し直してください。",
            f"{name} cannot be decoded ({error.encoding}: {error.reason}). -> Save it as UTF-8.",
        )
    except OSError as error:
        _refuse_unreadable(name, error)
    if not count:
        _refuse_empty(name)


def _parquet(path: Path) -> Iterator[RawRow]:
    import pyarrow
    from pyarrow import parquet

    refuse_unsafe_arrow()
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            _refuse_large_parquet(path, file.metadata)
            for batch in file.iter_batches(batch_size=256):
                for value in batch.to_pylist():
                    number += 1
                    yield RawRow(value, Place(str(path), number, "row"))
    except (pyarrow.ArrowException, ValueError, TypeError, OverflowError) as error:  # a date of the year 300,000, among others
        fail(
            f"{path} を Parquet として読めません（{short_error(error)}、{number}件まで読めました）。→ もう一度書き出してください。",
            f"{path} cannot be read as Parquet ({short_error(error)}; {number} rows were read). -> Export it again.",
        )


def _refuse_large_parquet(path: Path, facts: Any) -> None:
    """By what the file says of itself: a few KB can hold GBs."""
    size = sum(facts.row_group(group).total_byte_size for group in range(facts.num_row_groups))
    if size > LARGEST_FILE:
        fail(
            f"{path} は展開すると大きすぎます（{size / (1 << 20):,.0f} MiB。読めるのは {LARGEST_FILE >> 20:,} MiB まで）。→ 分けてください。",
            f"{path} is too large when unpacked ({size / (1 << 20):,.0f} MiB; up to {LARGEST_FILE >> 20:,} MiB can be read). "
            "-> Split it.",
        )


_READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": _parquet,
    **dict.fromkeys((*_BOOKS, ".xls", ".xlsb", ".ods"), sheet_table),  # the last three are refused in words
}
KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", *_BOOKS, ".gz")
"""How the names of files that can be read end; before '.gz' stands one of the others."""


def _refuse_folder(path: Path) -> NoReturn:
    names = _names(path)
    readable = [name for name in names if Path(name).suffix.lower() in KINDS] or names
    listing = ", ".join(readable[:8]) + (", ..." if len(readable) > 8 else "") if readable else "(empty)"
    fail(
        f"{path} はフォルダーです。→ 中のファイルを1つ選んでください: {listing}",
        f"{path} is a folder. -> Choose one file in it: {listing}",
    )


def _refuse_missing(path: Path) -> NoReturn:
    names = _names(path.parent)
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    close = close or [name for name in names if Path(name).suffix.lower() in KINDS][:8]
    ja, en = (f"近い名前: {', '.join(close)}", f"Near names: {', '.join(close)}") if close else ("", "")
    where = path.parent if path.parent.is_dir() else f"{path.parent} (?)"
    fail(
        f"{path} がありません（探した場所: {where}）。→ パスを確かめてください。{ja}",
        f"{path} does not exist (looked in {where}). -> Check the path. {en}".rstrip(),
    )


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except (OSError, ValueError):
        return []


def _refuse_empty(name: str) -> NoReturn:
    fail(
        f"{name} に行がありません。→ prompt, chosen, rejected のある行を入れてください。",
        f"{name} holds no row. -> Give it rows with prompt, chosen and rejected.",
    )


def _refuse_unreadable(name: str, error: OSError) -> NoReturn:
    reason = error.strerror or short_error(error)
    fail(
        f"{name} を読めません（{reason}）。→ 権限とファイルの状態を確かめてください。",
        f"{name} cannot be read ({reason}). -> Check its permissions and that it is whole.",
    )
