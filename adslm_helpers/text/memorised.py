"""Texts that a model has by heart: those that stand in its training data, word for word or nearly."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

NEAR = 95.0
"""Likeness in percent (rapidfuzz `ratio`, 100 * (1 - insertions and deletions / all characters)) from which a text counts as the same."""
_LEAST = 8  # of shorter texts one letter is more than 5 %: only the same text counts
_AT_ONCE = 4_000_000  # comparisons whose results are held, one byte each


def find_memorised(texts: Sequence[str], training: Iterable[str]) -> list[str | None]:
    """For each text 'verbatim', 'near' or None: whether it is a text of `training`, by NFKC and without white space.

    Only training texts of about the same length are compared, for others cannot be 95 % alike.
    """
    plain = [_plain(text) for text in texts]
    known = {_plain(text) for text in training} - {""}
    near = _near(sorted({text for text in plain if text not in known and len(text) >= _LEAST}, key=len), known)
    return ["verbatim" if text in known else "near" if text in near else None for text in plain]


def _near(texts: list[str], known: set[str]) -> set[str]:
    """Those of `texts` (sorted by length) that are nearly one of `known`."""
    import bisect

    import numpy as np
    from rapidfuzz import fuzz, process

    ordered = sorted(known, key=len)
    lengths = [len(text) for text in ordered]
    found: set[str] = set()
    for start in range(0, len(texts), 64):
        block = texts[start : start + 64]
        # ratio >= 95 needs 2 * shorter / (shorter + longer) >= .95: the longer has at most 1.05 / .95 times the characters.
        stretch = (200 - NEAR) / NEAR
        first = bisect.bisect_left(lengths, len(block[0]) / stretch)
        last = bisect.bisect_right(lengths, len(block[-1]) * stretch)
        width = max(1, _AT_ONCE // len(block))
        for left in range(first, last, width):
            right = min(left + width, last)
            alike = process.cdist(block, ordered[left:right], scorer=fuzz.ratio, score_cutoff=NEAR, dtype=np.uint8)
            found |= {text for text, hit in zip(block, alike.any(axis=1), strict=True) if hit}
    return found


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())
