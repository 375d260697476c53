"""How sure a number is: bootstrap intervals that respect that answers to one prompt belong together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

RESAMPLES = 2000


def mean_with_interval(values: Sequence[float], groups: Sequence[Hashable], seed: int = 0) -> tuple[float, list[float]]:
    """The mean and its 95 % percentile-bootstrap interval [low, high].

    Whole groups (prompts) are drawn with replacement, not single values: two answers to one prompt are not two independent witnesses.
    With one group the interval is the mean itself twice, which means "unknown". (Efron and Tibshirani 1993, ch. 13; Cameron et al. 2008.)
    """
    if not len(values):
        raise ValueError("no values")
    index = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    sums, counts = np.zeros(len(index)), np.zeros(len(index))
    for value, group in zip(values, groups, strict=True):
        sums[index[group]] += value
        counts[index[group]] += 1
    draws = np.random.default_rng(seed).integers(0, len(index), (RESAMPLES, len(index)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(sums.sum() / counts.sum()), [round(float(low), 4), round(float(high), 4)]
