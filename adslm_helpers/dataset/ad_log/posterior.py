"""Which of two texts has the higher rate (CTR, CVR), and how surely: beta posteriors, and the prior that the log itself gives.

Everything is computed over the log-odds t = log(x / (1 - x)): there a beta density is log-concave and bounded, also for
Beta(0.01, 3), whose density over the rate x has no finite value at 0. Numpy only: the normalising constant cancels in the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import DataError

STRENGTH = (10.0, 1e5)
"""What the strength M of a prior is held to, in impressions."""
# Points for each text. A plain sum needs 4,000 for an error of 1e-5; with the slopes at the ends of each cell the error falls with
# the fourth power of the step, and 157 points are below 1e-6 (a test holds it against sums of other kinds).
_POINTS = 157
_STRIDE = 4  # every fourth point is enough for the outer integral: the sum over a smooth curve that falls off at both ends
_DROP = 26.0  # nats below the mode where a grid ends: the mass beyond is below 1e-10
_TAIL = 1e-6  # where (a + b) * rate is below this, the density is a pure power of the rate: its integral is known
_FARTHEST = 700.0  # log-odds: e to this power is the largest number there is, and no rate is so small
_CHUNK = 4096  # pairs at once, with up to twice as many grids: 60 MB


@dataclass(frozen=True)
class Prior:
    """Beta(mean * strength, (1 - mean) * strength) for the texts of one key: `mean` has shape (keys,), `strength` is in impressions."""

    mean: np.ndarray
    strength: float

    def alpha(self, key: np.ndarray) -> np.ndarray:
        return self.mean[key] * self.strength

    def beta(self, key: np.ndarray) -> np.ndarray:
        return (1 - self.mean[key]) * self.strength


def p_better(clicks_a, n_a, clicks_b, n_b, alpha=1.0, beta=1.0) -> np.ndarray:
    """P(rate of a > rate of b) under a Beta(alpha, beta) prior for both, to within 1e-5; arrays broadcast.

    `clicks` of `n` impressions each; numbers need not be whole. Raises DataError for clicks outside 0..n and for a prior that is none.
    """
    values = np.broadcast_arrays(*(np.asarray(v, float) for v in (clicks_a, n_a, clicks_b, n_b, alpha, beta)))
    shape = values[0].shape
    clicks_a, n_a, clicks_b, n_b, alpha, beta = (value.ravel() for value in values)
    _check(clicks_a, n_a, alpha, beta)
    _check(clicks_b, n_b, alpha, beta)
    size = len(clicks_a)
    a = np.concatenate([clicks_a + alpha, clicks_b + alpha])
    b = np.concatenate([n_a - clicks_a + beta, n_b - clicks_b + beta])
    return p_greater(a, b, np.arange(size), np.arange(size) + size).reshape(shape)


def p_greater(a: np.ndarray, b: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """P(x[first] > x[second]) for independent x[i] ~ Beta(a[i], b[i]); `first` and `second` (pairs,) index `a` and `b`.

    Pairs that stand near each other and share texts share their grids. Memory does not grow with the number of pairs.
    """
    out = np.empty(len(first))
    for start in range(0, len(first), _CHUNK):
        part = slice(start, start + _CHUNK)
        both = np.concatenate([first[part], second[part]])
        used, index = np.unique(both, return_inverse=True)
        left, right = np.split(index.reshape(-1), 2)
        out[part] = _p_chunk(a[used], b[used], left, right)
    return out


def can_reach(odds: tuple[np.ndarray, np.ndarray], first: np.ndarray, second: np.ndarray, p: float) -> np.ndarray:
    """False only where P(x[first] > x[second]) is surely below `p`: a cheap look before the grid; shape (pairs,). `odds`: of `log_odds`.

    The difference D of two log-odds is log-concave. Its extreme points under a given mean m and deviation s are log-affine in two pieces
    (Fradelizi and Guedon 2004), and the least m / s with P(D > 0) >= p is nearly that of an exponential with its tail on the right,
    1 + ln p, or on the left, -1 - ln(1 - p); 0.05 less for some p between them, so 0.06 less is safe.
    """
    least = min(1 + np.log(p), -1 - np.log(1 - p)) - 0.06
    mean, variance = odds
    gap = mean[first] - mean[second]
    return gap >= least * np.sqrt(variance[first] + variance[second])


def log_odds(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of log(x / (1 - x)) for x ~ Beta(a, b)."""
    (digamma_a, trigamma_a), (digamma_b, trigamma_b) = _polygamma(a), _polygamma(b)
    return digamma_a - digamma_b, trigamma_a + trigamma_b


def fit_prior(key: np.ndarray, clicks: np.ndarray, n: np.ndarray) -> Prior:
    """The prior that a log gives by itself. `key` (arms,) holds 0 .. keys - 1; `clicks` of `n` impressions for each arm.

    Mean: the pooled rate of the key. Strength: by moments, pooled over the keys: the M at which the weighted squares of the arms
    around their key's rate are what they must be on average (Kleinman 1973, Williams 1982), held to STRENGTH.
    A key without clicks, or with nothing but clicks, tells nothing of M and gets a mean half a click inside.
    """
    keys = int(key.max()) + 1 if len(key) else 0
    clicks, n = np.asarray(clicks, float), np.asarray(n, float)
    total, hits = np.bincount(key, n, keys), np.bincount(key, clicks, keys)
    mean = np.clip(hits, 0.5, np.maximum(total - 0.5, 0.5)) / np.maximum(total, 1.0)
    telling = (hits > 0) & (hits < total) & (np.bincount(key[n > 0], minlength=keys) > 1)
    used = telling[key] & (n > 0)
    code = np.cumsum(telling)[key[used]] - 1
    if not len(code):
        return Prior(mean, STRENGTH[1])
    return Prior(mean, _strength(code, clicks[used], n[used]))


def _strength(key: np.ndarray, clicks: np.ndarray, n: np.ndarray) -> float:
    low, high = np.log(STRENGTH[0]), np.log(STRENGTH[1])
    if _excess(key, clicks, n, STRENGTH[1]) <= 0:
        return STRENGTH[1]
    if _excess(key, clicks, n, STRENGTH[0]) >= 0:
        return STRENGTH[0]
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if _excess(key, clicks, n, np.exp(middle)) > 0 else (middle, high)
    return float(np.exp((low + high) / 2))


def _excess(key: np.ndarray, clicks: np.ndarray, n: np.ndarray, strength: float) -> float:
    """Weighted squares around the keys' rates minus their expectation under `strength`; grows where M is taken too large."""
    # Var(clicks / n) = v / weight with v = mean (1 - mean) and the correlation 1 / (M + 1) of two impressions of one text.
    weight = n / (1 + (n - 1) / (strength + 1))
    total = np.bincount(key, n)
    rate = np.bincount(key, clicks) / total
    spread = np.bincount(key, n * n / weight) / total**2  # Var(rate) / v
    squares = np.bincount(key, weight * (clicks / n - rate[key]) ** 2)
    v = rate * (1 - rate) / np.maximum(1 - spread, 1e-9)
    expected = np.bincount(key) - 2 + np.bincount(key, weight) * spread
    return float(np.sum(squares / v - expected))


def _p_chunk(a: np.ndarray, b: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    size = a + b
    largest = size.copy()  # of all that an arm is compared with: its grid must reach as far down as the other's power law
    np.maximum.at(largest, left, size[right])
    np.maximum.at(largest, right, size[left])
    low, step, density, below = _grids(a, b, largest)
    swap = step[left] > step[right]  # the narrow density is summed over its own grid, the wide distribution is interpolated
    outer, inner = np.where(swap, right, left), np.where(swap, left, right)
    f, h = density[outer, ::_STRIDE], _STRIDE * step[outer][:, None]
    points = low[outer][:, None] + h * np.arange(f.shape[1])
    product = f * _interpolated(points, inner, a, b, low, step, density, below)
    first, last, under = product[:, 0], product[:, -1], product[:, -1] / f[:, -1]
    a_out, b_out, a_in, b_in, h = a[outer], b[outer], a[inner], b[inner], h[:, 0]
    slopes = (a_out + a_in) * first + b_out * last - f[:, -1] * b_in * (1 - under)
    total = h * (product.sum(1) - (first + last) / 2) + h * h / 12 * slopes
    total += first / (a_out + a_in) + f[:, -1] * (1 / b_out - (1 - under) / (b_out + b_in))
    return np.clip(np.where(swap, 1 - total, total), 0.0, 1.0)


def _grids(a: np.ndarray, b: np.ndarray, largest: np.ndarray) -> tuple[np.ndarray, ...]:
    """Per arm: where its grid begins, its step, and density and distribution (arms, points) of the log-odds."""
    mode = np.log(a / b)
    low = np.maximum(mode - _reach(a, b), np.minimum(np.log(_TAIL / largest), mode - 1))
    high = np.minimum(mode + _reach(b, a), np.maximum(np.log(largest / _TAIL), mode + 1))
    step = (high - low) / (_POINTS - 1)
    d = (low - mode)[:, None] + step[:, None] * np.arange(_POINTS)
    log_f, slope = _from_mode(a[:, None], b[:, None], d)
    f = np.exp(log_f)
    slope *= f
    h = step[:, None]
    cells = h / 2 * (f[:, 1:] + f[:, :-1]) + h * h / 12 * (slope[:, :-1] - slope[:, 1:])
    below = np.cumsum(np.column_stack([f[:, 0] / a, cells]), axis=1)
    total = (below[:, -1] + f[:, -1] / b)[:, None]
    return low, step, f / total, below / total


def _reach(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far left of its mode the density of the log-odds has fallen by _DROP nats: Newton from outside, where a concave curve is safe."""
    d = np.minimum((_DROP + (a + b) * np.log1p(a / b)) / a, _FARTHEST)
    for _ in range(24):
        log_f, slope = _from_mode(a, b, -d)
        d = np.minimum(d + (log_f + _DROP) / np.maximum(slope, 1e-300), _FARTHEST)
    return d


def _from_mode(a: np.ndarray, b: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log density of the log-odds at `d` from the mode less that at the mode, and its slope.

    log f = a d - (a + b) log(1 + (e^d - 1) a / (a + b)). Seen from the rarer side nothing cancels, be the other 10^13.
    """
    size, turned = a + b, a > b
    rare, common, s = np.where(turned, b, a), np.where(turned, a, b), np.where(turned, -d, d)
    rise = rare / size * np.expm1(s)
    slope = -common * rise / (1 + rise)
    return rare * s - size * np.log1p(rise), np.where(turned, -slope, slope)


def _interpolated(
    points: np.ndarray,
    arm: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    low: np.ndarray,
    step: np.ndarray,
    density: np.ndarray,
    below: np.ndarray,
) -> np.ndarray:
    """The distribution of each pair's `arm` at its `points` (pairs, points): cubic between grid points, power laws beyond the grid."""
    h = step[arm][:, None]
    place = (points - low[arm][:, None]) / h
    cell = np.clip(place, 0, _POINTS - 2).astype(np.int64)
    r = np.clip(place - cell, 0.0, 1.0)
    flat = arm[:, None] * _POINTS + cell
    f0, f1 = below.ravel()[flat], below.ravel()[flat + 1]
    s0, s1 = density.ravel()[flat] * h, density.ravel()[flat + 1] * h
    rise = f1 - f0
    value = f0 + r * (s0 + r * (3 * rise - 2 * s0 - s1 + r * (s0 + s1 - 2 * rise)))
    before, beyond = np.minimum(place, 0) * h, np.maximum(place - (_POINTS - 1), 0) * h
    return 1 - (1 - value * np.exp(a[arm][:, None] * before)) * np.exp(-b[arm][:, None] * beyond)


def _polygamma(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Digamma and trigamma for x > 0: recurrence up to 6, then the asymptotic series (Abramowitz and Stegun 6.3.18, 6.4.12)."""
    y = np.array(x, float)
    first, second = np.zeros_like(y), np.zeros_like(y)
    for _ in range(6):
        small = y < 6
        first -= np.where(small, 1 / y, 0.0)
        second += np.where(small, 1 / y**2, 0.0)
        y += small
    s = 1 / y**2
    first += np.log(y) - 0.5 / y - s * (1 / 12 - s * (1 / 120 - s / 252))
    second += 1 / y + 0.5 * s + s / y * (1 / 6 - s * (1 / 30 - s / 42))
    return first, second


def _check(clicks: np.ndarray, n: np.ndarray, alpha: np.ndarray, beta: np.ndarray) -> None:
    bad = ~((clicks >= 0) & (clicks <= n) & np.isfinite(n))
    if bad.any():
        at = int(np.argmax(bad))
        raise DataError(
            f"表示 {n[at]:g} 回に対してクリック {clicks[at]:g} 回はありえません。→ 0 ≦ クリック ≦ 表示 にしてください。",
            f"{clicks[at]:g} clicks of {n[at]:g} impressions cannot be. -> Give 0 <= clicks <= impressions.",
        )
    bad = ~((alpha > 0) & (beta > 0) & np.isfinite(alpha) & np.isfinite(beta))
    if bad.any():
        at = int(np.argmax(bad))
        raise DataError(
            f"Beta({alpha[at]:g}, {beta[at]:g}) は事前分布になりません。→ どちらも正の数にしてください。",
            f"Beta({alpha[at]:g}, {beta[at]:g}) is no prior. -> Use positive numbers.",
        )
