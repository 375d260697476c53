"""How sure a number is: bootstrap intervals that respect that answers to one prompt belong together, and the exact sign test."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

RESAMPLES = 2000
_AT_ONCE = 4_000_000  # drawn numbers held in memory: 32 MB


def mean_with_interval(values: Sequence[float], groups: Sequence[Hashable], seed: int = 0) -> tuple[float, list[float]]:
    """The mean and its 95 % percentile-bootstrap interval [low, high].

    Whole groups (prompts) are drawn with replacement, not single values: two answers to one prompt are not two independent witnesses.
    With one group the interval is the mean itself twice, which means "unknown". (Efron and Tibshirani 1993, ch. 13; Cameron et al. 2008.)
    """
    return ratio_with_interval(values, [1.0] * len(values), groups, seed)


def ratio_with_interval(
    values: Sequence[float], sizes: Sequence[float], groups: Sequence[Hashable], seed: int = 0
) -> tuple[float, list[float]]:
    """sum(values) / sum(sizes), nats per token for instance, and its 95 % interval, whole groups drawn as in `mean_with_interval`."""
    if not len(values):
        raise ValueError("no values")
    index = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    sums, counts = np.zeros(len(index)), np.zeros(len(index))
    for value, size, group in zip(values, sizes, groups, strict=True):
        sums[index[group]] += value
        counts[index[group]] += size
    rng, rows = np.random.default_rng(seed), max(1, _AT_ONCE // len(index))
    ratios = []
    for start in range(0, RESAMPLES, rows):
        draws = rng.integers(0, len(index), (min(rows, RESAMPLES - start), len(index)))
        ratios.append(sums[draws].sum(1) / counts[draws].sum(1))
    low, high = np.percentile(np.concatenate(ratios), [2.5, 97.5])
    return float(sums.sum() / counts.sum()), [round(float(low), 4), round(float(high), 4)]


def with_interval(
    name: str, values: Sequence[float], groups: Sequence[Hashable], seed: int = 0
) -> dict[str, float | list[float] | None]:
    """`{name: mean, name_ci95: [low, high]}` as metrics.json holds it; both None where there is no value."""
    if not len(values):
        return {name: None, f"{name}_ci95": None}
    mean, interval = mean_with_interval(values, groups, seed)
    return {name: round(mean, 4), f"{name}_ci95": interval}


def by_prompt(scores: Iterable[float], prompts: Sequence[Hashable]) -> tuple[int, int, int]:
    """(won, tied, lost) prompts, by the sum of their scores (+1 a win, -1 a loss): two answers to a prompt are one witness."""
    totals: dict[Hashable, float] = {}
    for score, prompt in zip(scores, prompts, strict=True):
        totals[prompt] = totals.get(prompt, 0.0) + score
    won, lost = sum(total > 0 for total in totals.values()), sum(total < 0 for total in totals.values())
    return won, len(totals) - won - lost, lost


def two_sided_sign_test(wins: int, losses: int) -> float:
    """How often `wins + losses` fair coins fall at least as unevenly as this: the exact two-sided sign test; ties are left out.

    1 where nothing differs. (Conover 1999, ch. 3.4.)
    """
    n, least = wins + losses, max(wins, losses)
    ways = total = 1  # C(n, n)
    for k in range(n, least, -1):
        ways = ways * k // (n - k + 1)  # C(n, k - 1), exactly
        total += ways
    return min(1.0, 2 * total / 2**n)
