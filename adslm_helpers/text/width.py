"""How wide a text stands on a terminal, where a Japanese character takes two columns."""

from __future__ import annotations

import unicodedata


def display_width(text: str) -> int:
    """Columns of `text` on a terminal: two for wide and full-width characters, none for combining marks."""
    return sum(_columns(character) for character in text)


def cut(text: str, columns: int) -> str:
    """`text` in at most so many columns, "…" at its end where something is missing."""
    if display_width(text) <= columns:
        return text
    kept, used = [], 1  # the dots
    for character in text:
        used += _columns(character)
        if used > columns:
            break
        kept.append(character)
    return "".join(kept) + "…"


def padded(text: str, columns: int) -> str:
    """`text` cut or filled with spaces to exactly so many columns."""
    text = cut(text, columns)
    return text + " " * (columns - display_width(text))


def printable(text: str) -> str:
    """`text` on one line without control characters, line ends and direction marks: what a file holds cannot steer a terminal."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)


def wrapped(text: str, columns: int) -> list[str]:
    """`text` in lines of at most so many columns, broken anywhere in Japanese and between words elsewhere."""
    lines, line = [], ""
    for piece in _pieces(text):
        if line and display_width(line) + display_width(piece.rstrip()) > columns:
            lines.append(line.rstrip())
            line = piece.lstrip()
        else:
            line += piece
    return [*lines, line.rstrip()] if line.strip() or not lines else lines


def _pieces(text: str) -> list[str]:
    """Words with the space after them, and single Japanese characters; a mark stays with what stands before it."""
    pieces: list[str] = []
    for character in text:
        closing = character in "、。，．）」』】！？ー・"
        wide = _columns(character) == 2
        after_wide = bool(pieces) and _columns(pieces[-1][-1]) == 2
        after_space = bool(pieces) and pieces[-1].endswith(" ")
        if pieces and (closing or character == " " or not (wide or after_wide or after_space)):
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clock_face(seconds: float | None) -> str:
    """Minutes and seconds, with hours where there are any; "--:--" for None."""
    if seconds is None:
        return "--:--"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute:02d}:{second:02d}"
