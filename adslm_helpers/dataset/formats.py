"""A file or a Hugging Face dataset -> raw rows, each with its place. A broken row is handed on with its problem, never lost."""

from __future__ import annotations

import codecs
import difflib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from ..environment.hub_token import hf_token
from .rows import Place, Problem, RawRow, fail
from .textfiles import read_csv, read_json, read_jsonl

__all__ = ["Place", "Problem", "RawRow", "read_rows"]

_HUB = re.compile(r"hf:(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<split>[\w.\[\]%:+-]+))?")


def read_rows(source: str | Path) -> Iterator[RawRow]:
    """The rows of a JSONL, JSON, CSV, TSV or Parquet file, or of `hf:owner/name[:split]`, one by one; blank lines are no rows.

    Text may be UTF-8 (with or without BOM), UTF-16 with BOM, or CP932. Raises DataError at once when there is no such
    file or it is of no known kind, and while reading when nothing of it can be read.
    """
    name = str(source)
    if name.startswith("hf:"):
        return _checked(_hub(name), name)
    path = Path(name).expanduser()
    return _checked(_reader_of(path)(path), name)


def _reader_of(path: Path) -> Callable[[Path], Iterator[RawRow]]:
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError):  # a name too long, or with a NUL: no such file
        is_folder = is_file = False
    if is_folder:
        _refuse_folder(path)
    if not is_file:
        _refuse_missing(path)
    reader = _READERS.get(path.suffix.lower())
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        _refuse_unreadable(str(path), error)
    if not head:
        _refuse_empty(str(path))
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
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    number += 1
                    yield RawRow(value, Place(str(path), number, "row"))
    except pyarrow.ArrowException as error:
        fail(
            f"{path} を Parquet として読めません（{_short(error)}、{number}件まで読めました）。→ もう一度書き出してください。",
            f"{path} cannot be read as Parquet ({_short(error)}; {number} rows were read). -> Export it again.",
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

        rows = load_dataset(name, split=split, token=hf_token())
    except Exception as error:  # the Hub fails in the classes of many libraries; each is told to the user
        fail(
            f"{source} を取得できません（{_short(error)}）。"
            "→ 名前・分割名・ネットワーク・HF_TOKEN を確かめるか、ファイルを渡してください。",
            f"{source} cannot be loaded ({_short(error)}). -> Check name, split, network and HF_TOKEN, or give a file.",
        )
    return (RawRow(value, Place(f"hf:{name}:{split}", number, "row")) for number, value in enumerate(rows, 1))


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
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
