"""A .gz file -> a plain file for as long as it is read, with a bound on what comes out of it."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DataError
from .encoding import LARGEST_FILE
from .rows import fail

GZIP_MARK = b"\x1f\x8b"
_BLOCK = 1 << 20


@contextmanager
def unpacked(path: Path, limit: int = LARGEST_FILE) -> Iterator[Path]:
    """The content of a gzip file as a plain temporary file `NAME` (of `NAME.gz`), which is gone afterwards.

    At most `limit` bytes are ever written. Raises DataError for what is no gzip, is cut off, or holds more.
    """
    with tempfile.TemporaryDirectory(prefix="adslm-gz-") as folder:
        plain = Path(folder) / inner_name(path)
        try:
            _inflate(path, plain, limit)
        except (OSError, EOFError, zlib.error) as error:
            _refuse(path, error)
        try:
            yield plain
        except DataError as error:  # the user knows the file by its own name
            raise DataError(*(words.replace(str(plain), str(path)) for words in (error.ja, error.en))) from None


def inner_name(path: Path) -> str:
    """What a .gz file holds, by its name: `pairs.csv` for `pairs.csv.gz`."""
    return path.stem if path.suffix.lower() == ".gz" else path.name


def unpacked_head(path: Path, size: int = 4096) -> bytes:
    """The first bytes of what a gzip file holds; raises DataError as `unpacked` does."""
    try:
        with gzip.open(path) as file:
            return file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        _refuse(path, error)


def _inflate(path: Path, plain: Path, limit: int) -> None:
    written = 0
    with open(path, "rb") as file:
        if not file.read(2):
            raise EOFError("0 bytes")  # gzip itself would take it for an empty file
    with gzip.open(path) as packed, open(plain, "wb") as out:
        while block := packed.read(_BLOCK):
            written += len(block)
            if written > limit:
                fail(
                    f"{path} は展開すると大きすぎます（{limit >> 20:,} MiB を超えます）。→ 分けてください。",
                    f"{path} is too large when unpacked (more than {limit >> 20:,} MiB). -> Split it.",
                )
            out.write(block)


def _refuse(path: Path, error: Exception) -> None:
    reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200]
    fail(
        f"{path} を gzip として展開できません（{reason}）。→ 圧縮し直すか、展開してから渡してください。",
        f"{path} cannot be unpacked as gzip ({reason}). -> Compress it again, or unpack it first.",
    )
