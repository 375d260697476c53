"""A file or a Hugging Face dataset -> raw rows, each with its place. A broken row is handed on with its problem, never lost."""

from __future__ import annotations

import codecs
import difflib
import inspect
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from ..environment.hub_token import hf_token
from ..foreign_text import redacted
from ..run_names import user_path
from .encoding import LARGEST_FILE
from .rows import Place, Problem, RawRow, fail
from .textfiles import read_csv, read_json, read_jsonl

__all__ = ["Place", "Problem", "RawRow", "read_rows"]

_SAFE_ARROW = "14.0.1"
# First bytes, what it is, what to do. A spreadsheet is a zip.
_UNPACK = ("展開して、中のファイルを指定してください。", "Unpack it and give the file inside.")
_CONTAINERS = (
    (b"\x1f\x8b", "gzip", *_UNPACK),
    (
        b"PK\x03\x04",
        "zip / Excel",
        "zip は展開し、Excel は「CSV UTF-8」で保存してください。",
        "Unpack a zip; save an Excel sheet as 'CSV UTF-8'.",
    ),
    (b"BZh91AY&SY", "bzip2", *_UNPACK),
    (b"\xfd7zXZ", "xz", *_UNPACK),
    (b"\x28\xb5\x2f\xfd", "zstd", *_UNPACK),
    (b"7z\xbc\xaf", "7-Zip", *_UNPACK),
    (b"PAR1\x15", "Parquet", "名前の終わりを .parquet にしてください。", "Let its name end in .parquet."),
    (b"\xd0\xcf\x11\xe0", "Excel (xls)", "「CSV UTF-8」で保存してください。", "Save it as 'CSV UTF-8'."),
    (b"%PDF-", "PDF", "表を CSV で保存してください。", "Save the table as CSV."),
    *(
        (bytes((0x80, version)), "pickle", "JSONL か CSV で保存し直してください。", "Save it as JSONL or CSV.")
        for version in range(2, 6)
    ),
)

_HUB = re.compile(r"hf:(?P<name>\w[\w.-]*(?:/\w[\w.-]*)?)(?::(?P<split>[\w.\[\]%:+-]+))?")


def read_rows(source: str | Path) -> Iterator[RawRow]:
    """The rows of a JSONL, JSON, CSV, TSV or Parquet file, or of `hf:owner/name[:split]`, one by one; blank lines are no rows.

    Text may be UTF-8 (with or without BOM), UTF-16 with BOM, or CP932. Raises DataError at once when there is no such
    file or it is of no known kind, and while reading when nothing of it can be read.
    """
    name = str(source)
    if name.startswith("hf:"):
        return _checked(_hub(name), name)
    path = user_path(name)
    return _checked(_reader_of(path)(path), name)


def _reader_of(path: Path) -> Callable[[Path], Iterator[RawRow]]:
    try:
        kind = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a name with a NUL: no such file
        _refuse_missing(path)
    except OSError as error:  # a name too long, links in a circle, a folder that may not be entered
        _refuse_unreadable(str(path), error)
    if stat.S_ISDIR(kind):
        _refuse_folder(path)
    if not stat.S_ISREG(kind):  # it may never end, or never begin
        fail(
            f"{path} は普通のファイルではありません（パイプや装置）。→ 中身をファイルに保存して、それを指定してください。",
            f"{path} is no regular file (a pipe or a device). -> Save its content to a file and give that.",
        )
    reader = _READERS.get(path.suffix.lower())
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        _refuse_unreadable(str(path), error)
    if not head:
        _refuse_empty(str(path))
    if reader not in (None, _parquet) and (found := next((what for mark, *what in _CONTAINERS if head.startswith(mark)), None)):
        fail(
            f"{path} の中身は {found[0]} で、文字のファイルではありません。→ {found[1]}",
            f"{path} holds {found[0]}, not text. -> {found[2]}",
        )
    if reader is None and head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"{", b"["):
        return read_json
    if reader is None:
        kinds = " ".join(_READERS)
        fail(
            f"{path} は読める形式ではありません。→ {kinds} のどれかにしてください"
            "（Excel は「CSV UTF-8」で保存、圧縮ファイルは展開してから）。",
            f"{path} is of no kind that can be read. -> Use one of {kinds} (save Excel sheets as 'CSV UTF-8', unpack archives).",
        )
    return reader


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
    from packaging.version import Version
    from pyarrow import parquet

    if Version(pyarrow.__version__) < Version(_SAFE_ARROW):
        fail(
            f"pyarrow {pyarrow.__version__} は、Parquet を読むときに中のプログラムを動かすことがあります（CVE-2023-47248）。"
            "→ pyarrow を 14.0.1 以上にするか、JSONL か CSV にしてください。",
            f"pyarrow {pyarrow.__version__} may run code that a Parquet file holds (CVE-2023-47248). "
            "-> Use pyarrow 14.0.1 or newer, or save the rows as JSONL or CSV.",
        )
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
            f"{path} を Parquet として読めません（{_short(error)}、{number}件まで読めました）。→ もう一度書き出してください。",
            f"{path} cannot be read as Parquet ({_short(error)}; {number} rows were read). -> Export it again.",
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


def _hub(source: str) -> Iterator[RawRow]:
    """The rows of a Hub dataset, which is fetched at once: a wrong name must fail before a run is touched."""
    match = _HUB.fullmatch(source)
    if not match:
        fail(
            f"{source} は Hugging Face の名前ではありません。→ hf:owner/name か hf:owner/name:split と書いてください。",
            f"{source} is no Hugging Face name. -> Write hf:owner/name or hf:owner/name:split.",
        )
    name, split = match["name"], match["split"] or "train"
    try:
        from datasets import load_dataset

        # datasets before 2.20 runs a dataset's own script unless told not to, from 4.0 on it never does.
        options = {"trust_remote_code": False} if "trust_remote_code" in inspect.signature(load_dataset).parameters else {}
        rows = load_dataset(name, split=split, token=hf_token(), **options)
    except Exception as error:  # the Hub fails in the classes of many libraries; each is told to the user
        fail(
            f"{source} を取得できません（{_short(error)}）。"
            "→ 名前・分割名・ネットワーク・HF_TOKEN を確かめるか、ファイルを渡してください。",
            f"{source} cannot be loaded ({_short(error)}). -> Check name, split, network and HF_TOKEN, or give a file.",
        )
    return (RawRow(value, Place(f"hf:{name}:{split}", number, "row")) for number, value in enumerate(rows, 1))


def _short(error: Exception) -> str:
    lines = redacted(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


_READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": _parquet,
}


def _refuse_folder(path: Path) -> NoReturn:
    names = _names(path)
    readable = [name for name in names if Path(name).suffix.lower() in _READERS] or names
    listing = ", ".join(readable[:8]) + (", ..." if len(readable) > 8 else "") if readable else "(empty)"
    fail(
        f"{path} はフォルダーです。→ 中のファイルを1つ選んでください: {listing}",
        f"{path} is a folder. -> Choose one file in it: {listing}",
    )


def _refuse_missing(path: Path) -> NoReturn:
    names = _names(path.parent)
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    close = close or [name for name in names if Path(name).suffix.lower() in _READERS][:8]
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
    reason = error.strerror or _short(error)
    fail(
        f"{name} を読めません（{reason}）。→ 権限とファイルの状態を確かめてください。",
        f"{name} cannot be read ({reason}). -> Check its permissions and that it is whole.",
    )
