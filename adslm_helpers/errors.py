"""One exception family: every message says what happened, why and what to do, in Japanese, then English."""

from __future__ import annotations


class AdslmError(Exception):
    """A mistake or a limit that the user can act on; never a bug of ours.

    Shown without a traceback in notebooks and by the CLI. `ja` and `en` each hold what happened, why,
    and after an arrow what to do, with the value, the file and the line where there is one.
    """

    exit_code = 2

    def __init__(self, ja: str, en: str):
        super().__init__(ja, en)
        self.ja, self.en = ja, en

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
