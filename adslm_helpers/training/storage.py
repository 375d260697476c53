"""A disk that is full, read-only or gone while a run trains: said in words, and what is half-written makes room."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import FULL, AdslmError, TrainingError
from .checkpoints import discard_unusable, last_valid, step_of

_CODES = {
    getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "EFBIG", "ENOTCONN", "ESTALE")
}
# The Rust writers (safetensors, tokenizers) and torch.save raise errors of their own, with the system's words or none.
_RUST = re.compile(r"\(os error (\d+)\)")
_TORCH = re.compile(r"inline_container|PytorchStreamWriter|iostream error")


@contextmanager
def storage_told(training: Path, clear: bool = True) -> Iterator[None]:
    """A failed write inside the block as a TrainingError that says what is kept and how to go on.

    Half-written checkpoints are removed at once: on a full disk nothing else could be written, the run's own status included.
    `clear` False: not by this process, which does not hold the run's lock.
    """
    try:
        yield
    except AdslmError:
        raise
    except Exception as error:
        reason = storage_failure(error, training.parent)
        if reason is None:
            raise
        with suppress(OSError):
            if clear:
                discard_unusable(training)
        raise _told(training, reason) from error


def storage_failure(error: BaseException, run: Path) -> str | None:
    """The file system's words behind an error of a library that writes files; None when it is about something else.

    A refusal is about `run` or its storage; a model that may not be read is for another to explain.
    """
    if isinstance(error, OSError):
        elsewhere = isinstance(error.filename, str) and not os.path.abspath(error.filename).startswith(os.path.abspath(run))
        if error.errno not in _CODES or (elsewhere and error.errno not in FULL):
            return None
        return f"{error.strerror}: {error.filename}" if elsewhere else error.strerror or str(error)
    text = str(error)
    if found := _RUST.search(text):
        return text if int(found[1]) in _CODES else None
    if isinstance(error, RuntimeError) and _TORCH.search(text):
        return f"torch.save: {text.splitlines()[0]}"
    return None


def _told(training: Path, reason: str) -> TrainingError:
    kept = None
    with suppress(OSError):
        kept = last_valid(training)
    ja = f"ステップ {step_of(kept)} のチェックポイントは無事です" if kept else "保存済みのチェックポイントはまだありません"
    en = f"The checkpoint of step {step_of(kept)} is intact" if kept else "There is no checkpoint yet"
    where = "そこから続きます" if kept else "最初から始まります"
    return TrainingError(
        f"{training} に書き込めず、学習を止めました（{reason}）。{ja}。→ 空き容量と権限を確かめてから、同じセル（同じコマンド）をもう一度実行すると、{where}。",
        f"{training} cannot be written to, so the training stopped ({reason}). {en}. "
        f"-> Check space and permissions; then the same cell (the same command) {'goes on from there' if kept else 'starts again'}.",
    )
