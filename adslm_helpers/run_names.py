"""Names that users give to runs and files, and the places they may lead to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .errors import RunError
from .foreign_text import brief

_NAME = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z._-]{0,62}[0-9A-Za-z_-])?")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)  # on a Drive that Windows reads too


def checked_name(name: Any) -> str:
    """`name` where it can name a run's folder, on every system; else RunError."""
    if isinstance(name, str) and _NAME.fullmatch(name) and not _RESERVED.match(name):
        return name
    raise RunError(
        f"実行名 {brief(name)} は使えません。→ 半角英数字と . _ - だけで、64文字以内にしてください"
        "（最後の「.」と、Windows が使う CON などの名前は不可）。",
        f"{brief(name)} cannot name a run. -> Use up to 64 of A-Z a-z 0-9 . _ - and start with a letter or digit; "
        "no final dot, and none of Windows' own names (CON, NUL, ...).",
    )


def refuse_elsewhere(path: Path) -> None:
    """A link with a run's name would take everything that is written, moved aside or removed to another folder."""
    if not path.is_symlink():
        return
    try:
        inside = path.resolve().parent == path.parent.resolve()
    except (OSError, RuntimeError):  # links in a circle
        inside = False
    if not inside:
        raise RunError(
            f"{path} は別の場所へのリンクです。→ リンクを消して別の実行名にするか、実行の置き場所を環境変数 ADSLM_RUNS に書いてください。",
            f"{path} is a link to another place. -> Remove the link or use another name; to keep runs elsewhere set ADSLM_RUNS.",
        )


def user_path(name: str | Path) -> Path:
    """A path as a user wrote it, `~` and all; one that begins with the home of nobody stays as it is, and will not be found."""
    try:
        return Path(name).expanduser()
    except (RuntimeError, ValueError):
        return Path(name)


def is_folder(name: str | Path) -> bool:
    """Whether a name as a user wrote it is that of a folder here; False too for what no file can be named."""
    try:
        return user_path(name).is_dir()
    except (OSError, ValueError):
        return False
