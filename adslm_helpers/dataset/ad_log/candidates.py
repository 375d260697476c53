"""Which texts of a key are compared: all pairs of a small key, the best with the worst of a large one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SMALL = 16
"""Up to so many texts every pair of a key is compared. With the caps on pairs per text, more would be compared in vain."""
_MIRRORED = 12  # pairs for each two texts of a larger key
_BATCH = 1 << 17  # pairs at once: a second or two of work


def candidate_pairs(sizes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of (better, worse), which index arms that stand key by key, the highest posterior mean of each key first.

    `sizes` (keys,) is the number of arms of each key. A key with more than SMALL texts gives 12 pairs for each two texts, not all:
    those whose ranks mirror each other, nearly (the best with the worst, and so on), where a difference is surest. So the number of
    pairs grows with the number of texts, not with its square.
    """
    starts = np.cumsum(sizes) - sizes
    for size in np.unique(sizes[sizes > 1]):
        first, second = _ranks(int(size))
        keys = starts[sizes == size]
        many = max(1, _BATCH // len(first))
        for part in range(0, len(keys), many):
            base = keys[part : part + many, None]
            yield from _cut((base + first).ravel(), (base + second).ravel())


def candidate_count(sizes: np.ndarray) -> int:
    """How many pairs `candidate_pairs` gives."""
    kinds, keys = np.unique(sizes[sizes > 1], return_counts=True)
    return sum(len(_ranks(int(size))[0]) * int(many) for size, many in zip(kinds, keys, strict=True))


def _ranks(size: int) -> tuple[np.ndarray, np.ndarray]:
    if size <= SMALL:
        return np.triu_indices(size, 1)
    pairs = [(first := np.arange((size - shift) // 2), size - 1 - shift - first) for shift in range(_MIRRORED)]
    return np.concatenate([first for first, _ in pairs]), np.concatenate([second for _, second in pairs])


def _cut(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(first), _BATCH):
        yield first[start : start + _BATCH], second[start : start + _BATCH]
