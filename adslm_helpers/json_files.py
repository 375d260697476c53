"""JSON that we wrote, and that may have been changed or cut off since: its value, or words with the place."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from .errors import RunError


def file_content(path: Path) -> bytes:
    """The bytes of a file; raises RunError when it is absent, a folder, a pipe, or may not be read."""
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise OSError("no regular file")
        return path.read_bytes()
    except FileNotFoundError:
        raise RunError(
            f"{path} がありません。→ 前の手順（ノートブック）を先に実行してください。",
            f"{path} does not exist. -> Run the step (notebook) before this one first.",
        ) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise RunError(
            f"{path} を読めません（{why}）。→ 権限とファイルの状態を確かめてください。",
            f"{path} cannot be read ({why}). -> Check its permissions and that it is whole.",
        ) from None


def json_value(content: bytes, place_ja: str, place_en: str, kind: type = object) -> Any:
    """The value of a JSON text, of type `kind`; RunError, naming the place, for anything else. NaN and Infinity are no JSON."""
    try:
        value = json.loads(content, parse_constant=_no_number)
        if not isinstance(value, kind):
            raise ValueError(f"no {kind.__name__}")
        return value
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{place_ja} が壊れています（{error}）。→ この手順をもう一度実行してください。",
            f"{place_en} is broken ({error}). -> Run the step that wrote it again.",
        ) from None


def json_number(value: float) -> float | str:
    """The value, as text where JSON has no number for it (NaN, infinity)."""
    return value if math.isfinite(value) else str(value)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
