"""One exception family: every message says what happened, why and what to do, in Japanese, then English."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from .foreign_text import harmless

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Nothing can be written any more: no space, no quota, a read-only file system."""


class AdslmError(Exception):
    """A mistake or a limit that the user can act on; never a bug of ours.

    Shown without a traceback in notebooks and by the CLI. `ja` and `en` each hold what happened, why,
    and after an arrow what to do, with the value, the file and the line where there is one. Names and values in it may be
    anybody's text: secrets in it are struck out, and what a terminal would obey is spelt out.
    """

    exit_code = 2

    def __init__(self, ja: str, en: str):
        self.ja, self.en = harmless(ja), harmless(en)
        super().__init__(self.ja, self.en)

    def __str__(self) -> str:
        return f"{self.ja}\n{self.en}"

    def _render_traceback_(self) -> list[str]:
        """IPython calls this instead of printing a traceback."""
        return [f"{type(self).__name__}: {line}" if n == 0 else line for n, line in enumerate(str(self).split("\n"))]


class DataError(AdslmError):
    """The user's data cannot be read or holds no usable pair."""


class RecipeError(AdslmError):
    """A recipe has an unknown field, a value out of range, or does not fit the machine."""


class RunError(AdslmError):
    """A run folder is missing, misnamed, incomplete or written by something else."""


class ModelError(AdslmError):
    """No model of the list can be used here."""


class TrainingError(AdslmError):
    """Training cannot start or go on."""


class ExportError(AdslmError):
    """An export would overwrite something, or what was written does not match what was in memory."""


class CopyError(AdslmError):
    """A copy of files differs from its source."""


class SetupError(AdslmError):
    """The runtime lacks something, or a service of it (Drive, upload) refused."""


class Interrupted(AdslmError, KeyboardInterrupt):
    """The user stopped a step; the message says what was kept and how to go on. A KeyboardInterrupt too, for whoever waits for one."""

    exit_code = 130


@contextmanager
def writing_to(folder: Path, codes: Collection[int] | None = None) -> Iterator[None]:
    """What the file system refuses, as a RunError that names the folder. `codes`: only errors of these numbers."""
    try:
        yield
    except OSError as error:
        if codes is not None and error.errno not in codes:
            raise
        reason = error.strerror or str(error)
        raise RunError(
            f"{folder} に書き込めません（{reason}）。前からあるファイルはそのままです。"
            "→ 空き容量と権限を確かめてもう一度実行するか、環境変数 ADSLM_RUNS に書き込める場所を指定してください。",
            f"{folder} cannot be written to ({reason}). What was there is as it was. "
            "-> Check space and permissions and try again, or name a place that can be written to in ADSLM_RUNS.",
        ) from error
