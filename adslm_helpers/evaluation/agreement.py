"""How far raters can be trusted: the interval of a share, the agreement between raters, what a handful of votes says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

_Z = 1.959963984540054  # the 97.5 % point of the normal distribution


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `successes` among `n`; (0, 1), which means "unknown", for n = 0.

    (p + z²/2n ± z √(p(1 - p)/n + z²/4n²)) / (1 + z²/n): Wilson 1927, JASA 22:209-212, without continuity correction.
    """
    if not n:
        return 0.0, 1.0
    share, z2 = successes / n, _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def krippendorff_alpha(units: Sequence[Sequence[Hashable]]) -> float | None:
    """Agreement beyond chance of any number of raters, any of whom may have left units out; 1 perfect, 0 chance, below 0 worse.

    `units`: the values (nominal) that each unit was given. Units with one value say nothing. None when no unit has two, or
    only one value was ever used. For two raters who rated everything it is nearly Cohen's kappa. (Krippendorff 2011, "Computing
    Krippendorff's Alpha-Reliability", section C: one minus observed over expected disagreement.)
    """
    shared = [Counter(unit) for unit in units if len(unit) > 1]
    totals: Counter = sum(shared, Counter())
    n = totals.total()
    expected = n * n - sum(count * count for count in totals.values())
    if not expected:
        return None
    observed = sum((unit.total() ** 2 - sum(c * c for c in unit.values())) / (unit.total() - 1) for unit in shared)
    return 1 - (n - 1) * observed / expected


def percent_agreement(units: Sequence[Sequence[Hashable]]) -> float | None:
    """The share of pairs of raters who gave one unit the same value; None when no unit has two values."""
    counted = [Counter(unit) for unit in units if len(unit) > 1]
    pairs = sum(math.comb(unit.total(), 2) for unit in counted)
    same = sum(math.comb(count, 2) for unit in counted for count in unit.values())
    return same / pairs if pairs else None
