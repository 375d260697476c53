"""Texts and rows that are almost the same, found in time that grows with their number, not with its square."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from ..text.brief import whole_prompt

if TYPE_CHECKING:
    import numpy

LIKE = 0.9
"""rapidfuzz's ratio (1 - insertions and deletions / both lengths): one character in ten replaced."""
SHORTEST = 10  # characters: of shorter texts, one other letter is another text
_BANDS, _ROWS = 12, 2  # MinHash: at a Jaccard of 0.5 a pair is met with 1 - (1 - 0.5**2)**12 = 97 %, at 0.1 with 11 %
_WINDOW = 4  # in a bucket, in sorted order, each text is compared with so many that follow: this keeps the cost linear
_LONGEST = 512  # characters of a text that its signature reads
_SIGNED = 20_000  # texts signed at once
_CHUNK = 50_000  # rows or texts compared at once: this bounds the memory
_NOT_A_WORD = re.compile(r"[\W_]+")
_DIGITS = re.compile(r"\d+(?:[,.]\d+)*")


def near_key(text: str | list[dict], *, mask_digits: bool = True) -> str:
    """What two texts share that differ in width (NFKC), case, spaces and marks only, and in the digits of their numbers (`mask_digits`).

    A text of marks alone is its own key.
    """
    plain = unicodedata.normalize("NFKC", whole_prompt(text)).casefold()
    if mask_digits:
        plain = _DIGITS.sub("0", plain)
    return _NOT_A_WORD.sub("", plain) or " ".join(plain.split())


def near_copies(rows: Sequence[dict], like: float = LIKE) -> dict[int, int]:
    """For each row that nearly repeats an earlier one, the number of that one; a row that is kept repeats none.

    The same prompt (but for width, case, spaces and marks), and each answer the same by its key or by at least `like`. Rows are compared
    that share their keys, or a bucket of MinHash over the letter pairs of both answers.
    """
    by_prompt: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        by_prompt.setdefault(near_key(row["prompt"], mask_digits=False), []).append(number)
    copies: dict[int, int] = {}
    part: list[list[int]] = []
    size = 0
    for group in by_prompt.values():  # rows of two prompts are never compared: some prompts at a time will do
        if len(group) > 1:
            part.append(group)
            size += len(group)
        if size >= _CHUNK:
            copies.update(_copies(rows, part, like))
            part, size = [], 0
    copies.update(_copies(rows, part, like))
    return dict(sorted(copies.items()))


def _copies(rows: Sequence[dict], groups: list[list[int]], like: float) -> dict[int, int]:
    """`near_copies` of rows in groups of one prompt each."""
    first: dict[tuple, int] = {}
    copies: dict[int, int] = {}
    kept: list[int] = []
    prompts: list[int] = []
    answers: list[tuple[str, str]] = []
    for prompt, group in enumerate(groups):
        for number in group:
            keys = (near_key(rows[number]["chosen"]), near_key(rows[number]["rejected"]))
            if (earlier := first.setdefault((prompt, *keys), number)) != number:
                copies[number] = earlier
                continue
            kept.append(number)
            prompts.append(prompt)
            answers.append(keys)
    for left, right in _candidates([f"{chosen}\0{rejected}" for chosen, rejected in answers], prompts):
        earlier, later = kept[left], kept[right]
        if {earlier, later} & copies.keys() or prompts[left] != prompts[right]:
            continue
        if all(map(_alike, answers[left], answers[right], (like, like))):
            copies[later] = earlier
    return {number: _root(copies, number) for number in copies}


def alike_texts(left: Sequence[str], right: Sequence[str]) -> dict[str, str]:
    """For each of `left` (keys of `near_key`) one of `right` that is the same or like it, where there is one."""
    known = dict.fromkeys(right)
    found = {text: text for text in left if text in known}
    there = list(known)
    for start in range(0, len(there), _CHUNK):
        others = [text for text in dict.fromkeys(left) if text not in found]
        texts = [*others, *there[start : start + _CHUNK]]
        for first, second in _candidates(texts, [0] * len(texts), across=len(others)):
            if texts[first] not in found and _alike(texts[first], texts[second]):
                found[texts[first]] = texts[second]
    return found


def _alike(one: str, other: str, like: float = LIKE) -> bool:
    if one == other:
        return True
    return min(len(one), len(other)) >= SHORTEST and _ratio()(one, other, score_cutoff=100 * like) > 0


@cache
def _ratio() -> Callable[..., float]:
    from rapidfuzz import fuzz

    return fuzz.ratio


def _root(copies: dict[int, int], number: int) -> int:
    while number in copies:
        number = copies[number]
    return number


def _candidates(texts: Sequence[str], groups: Sequence[int], across: int | None = None) -> list[tuple[int, int]]:
    """Pairs of numbers, sorted and the smaller first, that share a group and a bucket and stand near each other in it by their letters.

    `across`: only pairs of a number below it and one that is not.
    """
    import numpy

    if len(texts) < 2:
        return []
    rank = numpy.empty(len(texts), numpy.int64)
    rank[sorted(range(len(texts)), key=texts.__getitem__)] = numpy.arange(len(texts))
    met: list[numpy.ndarray] = []
    for bucket in _buckets(texts, numpy.asarray(groups, numpy.uint64)):
        sequence = numpy.lexsort((rank, bucket))
        for step in range(1, min(_WINDOW, len(texts) - 1) + 1):
            left, right = sequence[:-step], sequence[step:]
            same = bucket[left] == bucket[right]
            low, high = numpy.minimum(left[same], right[same]), numpy.maximum(left[same], right[same])
            if across is not None:
                apart = (low < across) & (high >= across)
                low, high = low[apart], high[apart]
            met.append(low * len(texts) + high)
    pairs = numpy.unique(numpy.concatenate(met))
    return list(zip((pairs // len(texts)).tolist(), (pairs % len(texts)).tolist(), strict=True))


def _buckets(texts: Sequence[str], groups: numpy.ndarray) -> numpy.ndarray:
    """(_BANDS, texts): equal numbers are one bucket."""
    import numpy

    mix = numpy.random.default_rng(0).integers(1 << 63, size=(_BANDS * _ROWS, 2), dtype=numpy.uint64) | numpy.uint64(1)
    buckets = numpy.empty((_BANDS, len(texts)), numpy.uint64)
    for start in range(0, len(texts), _SIGNED):
        part = [
            (text[: _LONGEST // 2] + text[-_LONGEST // 2 :] if len(text) > _LONGEST else text) + "\0\0"
            for text in texts[start : start + _SIGNED]
        ]
        letters = numpy.frombuffer("".join(part).encode("utf-32-le", "surrogatepass"), numpy.uint32).astype(numpy.uint64)
        pairs = (letters[:-1] << numpy.uint64(21)) | letters[1:]  # a pair over the end of a text holds its \0: harmless
        pairs *= numpy.uint64(0x9E3779B97F4A7C15)
        pairs ^= pairs >> numpy.uint64(31)
        begins = numpy.concatenate([[0], numpy.cumsum([len(text) for text in part])[:-1]])
        for band in range(_BANDS):
            joint = groups[start : start + len(part)].copy()
            for row in range(_ROWS):
                times, plus = mix[band * _ROWS + row]
                lowest = numpy.minimum.reduceat(((pairs + plus) * times) >> numpy.uint64(20), begins)
                joint = (joint ^ lowest) * times + plus
            buckets[band, start : start + len(part)] = joint
    return buckets
