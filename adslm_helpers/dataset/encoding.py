"""A text file of any office's encoding, opened and cut into lines with a bound on what is held in memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .rows import fail

LONGEST_LINE = 1 << 20
"""Characters. A longer line is one broken row, and is never held in memory."""
LARGEST_FILE = 1 << 30
"""Bytes; more would not fit into the memory of a small machine as rows."""
LARGEST_DOCUMENT = 128 << 20
"""Bytes of a JSON file that has to be read as a whole: an array, or an object with "data"."""
_BLOCK = 1 << 20
# Longer marks first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def open_text(path: Path, newline: str | None, largest: int = LARGEST_FILE) -> IO[str]:
    """`path` as text; bytes that do not belong to its encoding become surrogates, so that only their row is lost."""
    return open_as(path, _encoding(path, largest), newline)


def open_as(path: Path, encoding: str, newline: str | None) -> IO[str]:
    """The same where the encoding is known."""
    wide = encoding.startswith(("utf-16", "utf-32"))
    return open(path, encoding=encoding, errors="strict" if wide else "surrogateescape", newline=newline)


def text_lines(file: IO[str]) -> Iterator[tuple[int, str | None]]:
    """Line numbers from 1 and lines; None for one longer than LONGEST_LINE."""
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        whole = line.endswith(("\n", "\r")) or len(line) < LONGEST_LINE
        yield number, line if whole else None
        while not whole and (rest := file.readline(LONGEST_LINE)):
            whole = rest.endswith(("\n", "\r"))


def _encoding(path: Path, largest: int) -> str:
    """'utf-8-sig', 'utf-16', 'utf-32' or 'cp932'; raises DataError when none fits, or the file is too large.

    CP932 accepts most UTF-8 bytes as mojibake, so it is tried only where more characters fail as UTF-8 than pass.
    """
    refuse_large(path, largest)
    with open(path, "rb") as file:
        if wide := _wide_encoding(file.read(4)):
            return wide
    if _is_utf8(path):
        return "utf-8-sig"
    failed, passed, first = _count_utf8(path)
    if failed <= passed:
        return "utf-8-sig"
    try:
        with open(path, encoding="cp932", newline="\n") as file:
            while file.read(_BLOCK):
                pass
    except UnicodeDecodeError:
        line_number, byte = first
        fail(
            f"{path} {line_number}行目（{byte}バイト目）: UTF-8 としても CP932（Shift_JIS）としても読めません。"
            "→ UTF-8 で保存し直してください。",
            f"{path} line {line_number} (byte {byte}): neither UTF-8 nor CP932 (Shift_JIS). -> Save it as UTF-8.",
        )
    return "cp932"


def _wide_encoding(head: bytes) -> str | None:
    """The encoding of two or four bytes a character that a file begins as: by its mark, or by two ASCII characters."""
    if marked := next((name for mark, name in _MARKS if head.startswith(mark)), None):
        return marked
    zeros = [byte == 0 for byte in head]
    return {(False, True, False, True): "utf-16-le", (True, False, True, False): "utf-16-be"}.get(tuple(zeros))


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with open(path, "rb") as file:
            while piece := file.read(_BLOCK):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _count_utf8(path: Path) -> tuple[int, int, tuple[int, int]]:
    """(characters that fail as UTF-8, other non-ASCII ones that pass, line and byte of the first failure)."""
    passed = failed = at = 0
    number, first = 1, None
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a piece of a long line may end inside a character
    with open(path, "rb") as file:
        while piece := file.readline(_BLOCK):
            text = decoder.decode(piece)
            if not piece.isascii():
                bad = text.count("\ufffd")
                failed += bad
                passed += len(text) - len(text.encode("ascii", "ignore")) - bad
                first = first or ((number, at + _first_bad(piece)) if bad else None)
            at += len(piece)
            number += piece.endswith(b"\n")
    return failed + len(decoder.decode(b"", final=True)), passed, first or (number, at)


def refuse_large(path: Path, limit: int) -> None:
    size = path.stat().st_size
    if size <= limit:
        return
    ja, en = ("1行1件の JSONL にしてください", "Use JSONL") if limit == LARGEST_DOCUMENT else ("分けてください", "Split it")
    fail(
        f"{path} は大きすぎます（{size / (1 << 20):,.0f} MiB。ここで読めるのは {limit >> 20:,} MiB まで）。→ {ja}。",
        f"{path} is too large ({size / (1 << 20):,.0f} MiB; up to {limit >> 20:,} MiB can be read). -> {en}.",
    )


def _first_bad(line: bytes) -> int:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return 0
