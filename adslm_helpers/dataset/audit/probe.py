"""The prompt-blind probe: how well a judge that never sees the prompt tells chosen from rejected by their letters."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

BUCKETS = 4096
FOLDS = 5
MOST_PAIRS = 6_000
"""A sample of so many gives the accuracy to within 1.3 points (two standard errors at 0.5)."""
LEAST_TEXTS = 100  # distinct chosen texts: below, five folds of them say nothing
_LONGEST = 400  # characters of a text that are looked at, half from its beginning and half from its end
_STEPS = 30
_DECAY = 1e-3
_MIX = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: spreads neighbouring code points over the buckets


@dataclass(frozen=True)
class Probe:
    """`accuracy` on held-out folds, ties counted half; 0.5 says nothing. `telling`: the most telling letters, (letters, side)."""

    accuracy: float
    pairs: int
    telling: list[tuple[str, str]]


def prompt_blind_probe(rows: Sequence[dict], seed: int = 0) -> Probe | None:
    """Logistic regression on the difference of hashed character 1- to 3-grams; None for fewer than LEAST_TEXTS chosen texts.

    Five folds, all rows of one chosen text in the same. There is no intercept: that is the same as adding every pair the other
    way round, so "the left one is chosen" cannot be learnt. Of more than MOST_PAIRS rows a sample is looked at.
    """
    import numpy

    if len(rows) > MOST_PAIRS:
        rows = random.Random(seed).sample(list(rows), MOST_PAIRS)
    groups: dict[str, int] = {}
    group = [groups.setdefault(row["chosen"], len(groups)) for row in rows]
    if len(groups) < LEAST_TEXTS:
        return None
    difference = _grams([row["chosen"] for row in rows]) - _grams([row["rejected"] for row in rows])
    used = numpy.flatnonzero(difference.any(axis=0))
    x = numpy.ascontiguousarray(difference[:, used])
    x /= numpy.maximum(numpy.linalg.norm(x, axis=1, keepdims=True), 1)
    fold = numpy.random.default_rng(seed).permutation(len(groups))[group] % FOLDS
    weights = _fit(x, fold)
    score = numpy.take_along_axis(x @ weights, fold[:, None], axis=1)[:, 0]
    accuracy = float(numpy.mean(score > 0) + numpy.mean(score == 0) / 2)
    return Probe(round(accuracy, 4), len(rows), _telling(rows, dict(zip(used.tolist(), weights.mean(axis=1), strict=True))))


def _fit(x: numpy.ndarray, fold: numpy.ndarray) -> numpy.ndarray:
    """Weights (features, FOLDS), column k fitted to all rows but those of fold k. Nesterov's accelerated gradient, step 1 / Lipschitz."""
    import numpy

    share = (fold[:, None] != numpy.arange(FOLDS)).astype(numpy.float32)
    share /= share.sum(axis=0)
    vector = numpy.ones(x.shape[1], numpy.float32)
    for _ in range(8):  # power iteration: the largest eigenvalue of x'x
        vector = x.T @ (x @ (vector / (numpy.linalg.norm(vector) or 1)))
    step = 1 / (0.3 * float(numpy.linalg.norm(vector)) * float(share.max()) + _DECAY)
    weights = ahead = numpy.zeros((x.shape[1], FOLDS), numpy.float32)
    for k in range(_STEPS):
        pull = share / (1 + numpy.exp(numpy.clip(x @ ahead, -30, 30)))
        moved = ahead + numpy.float32(step) * (x.T @ pull - _DECAY * ahead)
        ahead = moved + numpy.float32(k / (k + 3)) * (moved - weights)
        weights = moved
    return weights


def _grams(texts: Sequence[str]) -> numpy.ndarray:
    """Counts (texts, BUCKETS) of hashed character 1- to 3-grams."""
    import numpy

    texts = [_cut(text) for text in texts]
    counts = numpy.zeros(len(texts) * BUCKETS, numpy.float32)
    letters = numpy.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), numpy.uint32).astype(numpy.uint64)
    owner = numpy.repeat(numpy.arange(len(texts)), [len(text) for text in texts])
    for size in (1, 2, 3):
        if len(letters) < size:
            break
        starts = len(letters) - size + 1
        whole = owner[:starts] == owner[size - 1 :]
        places = owner[:starts][whole] * BUCKETS + _buckets(letters, size)[whole]
        for start in range(0, len(places), 1 << 22):
            numpy.add.at(counts, places[start : start + (1 << 22)], 1)
    return counts.reshape(len(texts), BUCKETS)


def _buckets(letters: numpy.ndarray, size: int) -> numpy.ndarray:
    import numpy

    mix, starts = numpy.uint64(_MIX), len(letters) - size + 1
    mixed = numpy.zeros(starts, numpy.uint64)
    for k in range(size):
        mixed = (mixed ^ letters[k : starts + k]) * mix
        mixed ^= mixed >> numpy.uint64(29)
    return ((mixed * mix) >> numpy.uint64(52)).astype(numpy.int64)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST // 2] + text[-_LONGEST // 2 :]


def _telling(rows: Sequence[dict], weight: dict[int, float], most: int = 5) -> list[tuple[str, str]]:
    """The 1- to 3-grams of the texts with the largest weights, out of the first 500 rows, one for each bucket."""
    import numpy

    best: dict[int, str] = {}
    for text in sorted({_cut(row[side]) for row in rows[:500] for side in ("chosen", "rejected")}):
        letters = numpy.frombuffer(text.encode("utf-32-le", "surrogatepass"), numpy.uint32).astype(numpy.uint64)
        for size in (1, 2, 3):
            if len(letters) >= size:
                for start, bucket in enumerate(_buckets(letters, size).tolist()):
                    best.setdefault(bucket, text[start : start + size])
    ordered = sorted(best, key=lambda bucket: (-abs(weight.get(bucket, 0.0)), best[bucket]))
    return [(best[bucket], "chosen" if weight.get(bucket, 0.0) > 0 else "rejected") for bucket in ordered[:most]]
