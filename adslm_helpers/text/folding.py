"""A text in one spelling (NFKC) that remembers where each of its characters stood in the text as written."""

from __future__ import annotations

import unicodedata
from functools import lru_cache


class Folded:
    """`plain` is the NFKC form of `text`; `span` turns a place in it into the place in `text`."""

    __slots__ = ("_first", "_last", "plain", "text")

    def __init__(self, text: str):
        self.text = self.plain = text
        self._first: list[int] | None = None
        self._last: list[int] = []
        if not unicodedata.is_normalized("NFKC", text):
            self._fold()

    def _fold(self) -> None:
        """Piece by piece: a piece is a character with what joins it, so a hit never begins or ends inside one."""
        pieces: list[str] = []
        self._first, self._last = [], []
        start = 0
        length = len(self.text)
        while start < length:
            piece, _ = _folded(self.text[start])
            end = start + 1
            while end < length and _folded(self.text[end])[1]:
                end += 1
            if end > start + 1:
                piece = unicodedata.normalize("NFKC", self.text[start:end])
            pieces.append(piece)
            self._first += [start] * len(piece)
            self._last += [end] * len(piece)
            start = end
        self.plain = "".join(pieces)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where `plain[start:end]` stands in `text`; an empty stretch stays empty."""
        if self._first is None:
            return start, end
        if start >= end:
            place = self._first[start] if start < len(self._first) else len(self.text)
            return place, place
        return self._first[start], self._last[end - 1]


@lru_cache(maxsize=16384)
def _folded(character: str) -> tuple[str, bool]:
    """NFKC of one character, and whether it joins the one before it (a mark such as ﾞ, or the vowel of a Hangul syllable)."""
    first = unicodedata.normalize("NFKD", character)[:1]
    return unicodedata.normalize("NFKC", character), bool(unicodedata.combining(first)) or "\u1161" <= first <= "\u11ff"
