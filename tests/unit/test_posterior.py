"""P(a > b): the reference values, the cases where a naive grid fails, the bound that spares the grid, and the prior that a log gives."""

from math import exp, lgamma, log

import numpy as np
import pytest

from adslm_helpers.dataset.ad_log.posterior import STRENGTH, can_reach, fit_prior, log_odds, p_better, p_greater
from adslm_helpers.errors import DataError

REFERENCE = [
    (120, 10000, 100, 10000, 1, 1, 0.91201),
    (3, 100, 1, 100, 1, 1, 0.81563),
    (30, 1000, 15, 1000, 1, 1, 0.98789),
    (0, 50, 0, 500, 1, 1, 0.90761),
    (12, 300, 4, 300, 1, 1, 0.97704),
    (1, 10, 30, 1000, 1, 1, 0.95540),
    (5000, 100000, 4800, 100000, 1, 1, 0.98085),
    (12, 300, 4, 300, 43, 1394, 0.79035),
    (120, 10000, 100, 10000, 43, 1394, 0.87555),
]


@pytest.mark.parametrize("row", REFERENCE)
def test_the_reference_values(row):
    *arguments, expected = row
    assert float(p_better(*arguments)) == pytest.approx(expected, abs=1e-5)


def closed_form(a, b, c, d):
    """P(Beta(a, b) > Beta(c, d)) for a whole number a: a finite sum (Miller 2015)."""

    def log_beta(x, y):
        return lgamma(x) + lgamma(y) - lgamma(x + y)

    return sum(exp(log_beta(c + i, b + d) - log(b + i) - log_beta(1 + i, b) - log_beta(c, d)) for i in range(int(a)))


def test_against_the_closed_form_over_ten_orders_of_magnitude():
    """Grids of 4,000 plain points get 1e-5; this must as well."""
    rng = np.random.default_rng(0)
    n = np.floor(10 ** rng.uniform(0, 7, (2, 150)))
    clicks = np.minimum(rng.integers(0, 300, (2, 150)), n)
    alpha, beta = 1.0, 25.5
    found = p_better(clicks[0], n[0], clicks[1], n[1], alpha, beta)
    for at in range(150):
        a, b = clicks[0, at] + alpha, n[0, at] - clicks[0, at] + beta
        c, d = clicks[1, at] + alpha, n[1, at] - clicks[1, at] + beta
        assert found[at] == pytest.approx(closed_form(a, b, c, d), abs=1e-5), (clicks[:, at], n[:, at])


def test_against_a_plain_sum_where_the_density_has_no_finite_value_at_zero():
    """A prior of mean 0.002 and strength 10 is Beta(0.02, 9.98): most of its mass lies below any grid over the rate."""
    t = np.linspace(-900, 40, 1_000_001)

    def density(a, b):
        log_density = a * t - (a + b) * np.logaddexp(0, t)
        return np.exp(log_density - log_density.max())

    for c1, n1, c2, n2 in ((0, 30, 0, 3000), (1, 40, 0, 10), (0, 0, 0, 10**6), (2, 500, 1, 100_000)):
        f, g = density(c1 + 0.02, n1 - c1 + 9.98), density(c2 + 0.02, n2 - c2 + 9.98)
        below = np.cumsum(g) - g / 2
        expected = (f * below).sum() / f.sum() / g.sum()
        assert float(p_better(c1, n1, c2, n2, 0.02, 9.98)) == pytest.approx(expected, abs=1e-5)


def test_extreme_counts_stay_finite_and_sensible():
    assert float(p_better(0, 10**8, 1, 10)) < 1e-9
    assert float(p_better(10, 10, 10, 10)) == pytest.approx(0.5, abs=1e-9)
    assert float(p_better(0, 0, 0, 0)) == pytest.approx(0.5, abs=1e-9)
    assert float(p_better(10**8, 10**8, 10**8 - 1, 10**8)) == pytest.approx(0.75, abs=1e-5)  # two exponentials, one twice as wide
    z = 3000 / np.sqrt(2 * 10**6 * 0.99)
    normal = 0.5 * (1 + np.tanh(z * 0.7978845608 * (1 + 0.044715 * z * z)))
    assert float(p_better(10**6, 10**8, 10**6 - 3000, 10**8)) == pytest.approx(normal, abs=1e-3)


def test_a_rate_of_nearly_one_of_very_many_cancels_nothing():
    """1 - rate is Beta too: seen from the other side the same numbers must come out, with 10^13 on one side and a hair on the other."""
    a, b = np.array([1e13, 3e12, 50.0, 1e7]), np.array([5e-9, 2.0, 1e-3, 0.3])
    first, second = np.array([0, 1, 2, 3, 0]), np.array([1, 3, 0, 1, 3])
    np.testing.assert_allclose(p_greater(a, b, first, second), 1 - p_greater(b, a, first, second), atol=1e-5)


def test_the_two_directions_add_up_to_one_and_shapes_are_kept():
    rng = np.random.default_rng(1)
    n = rng.integers(0, 10**5, (2, 40, 3))
    clicks = rng.binomial(n, 0.02)
    there, back = p_better(clicks[0], n[0], clicks[1], n[1]), p_better(clicks[1], n[1], clicks[0], n[0])
    assert there.shape == (40, 3)
    np.testing.assert_allclose(there + back, 1, atol=1e-6)


def test_chunks_change_nothing():
    """More pairs than one chunk holds, with shared texts: the same numbers as one by one."""
    rng = np.random.default_rng(2)
    a, b = rng.uniform(0.5, 300, 60), rng.uniform(10, 10**4, 60)
    first, second = rng.integers(0, 60, (2, 4500))
    found = p_greater(a, b, first, second)
    for at in (0, 1, 4095, 4096, 4499):
        alone = p_greater(a, b, first[at : at + 1], second[at : at + 1])[0]
        assert found[at] == pytest.approx(alone, abs=2e-6)


def test_the_bound_loses_no_pair():
    """Arms of every kind: nothing that the cheap look rules out reaches p on the grid."""
    rng = np.random.default_rng(3)
    size = 10_000
    mean, strength = 10 ** rng.uniform(-4, -0.1, size), 10 ** rng.uniform(1, 5, size)
    n = np.floor(10 ** rng.uniform(0, 6, (2, size)))
    clicks = rng.binomial(n.astype(int), np.minimum(mean * np.exp(rng.normal(0, 1, (2, size))), 1))
    a = (mean * strength + clicks).ravel()
    b = ((1 - mean) * strength + n - clicks).ravel()
    first, second = np.arange(size), np.arange(size) + size
    odds, p = log_odds(a, b), p_greater(a, b, first, second)
    for least in (0.7, 0.8, 0.9, 0.95, 0.99):
        ruled_out = ~can_reach(odds, first, second, least)
        assert p[ruled_out].max() < least
        assert ruled_out.mean() > 0.4  # else the look would spare nothing


def test_the_bound_holds_for_every_log_concave_difference_that_could_be_worst():
    """Two log-affine pieces with a break: (mean - quantile) / deviation stays above the constant of the bound."""
    least = dict.fromkeys((0.65, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99), np.inf)
    x, slopes = np.linspace(0, 1, 20_001), (-60, -20, -6, -1, 0, 1, 6, 20, 60)  # per width
    for place in (0.0, 0.03, 0.1, 0.3, 0.7, 0.9, 1.0):
        for left, right in [(u, v) for u in slopes for v in slopes if v <= u]:
            bent = np.where(x < place, left, right) * (x - place)
            f = np.exp(bent - bent.max())
            below = np.cumsum(f) / f.sum()
            mean = (x * f).sum() / f.sum()
            deviation = np.sqrt(((x - mean) ** 2 * f).sum() / f.sum())
            for p in least:
                least[p] = min(least[p], (mean - x[np.searchsorted(below, 1 - p)]) / deviation)
    assert all(found > min(1 + np.log(p), -1 - np.log(1 - p)) - 0.06 for p, found in least.items()), least


def log_of(keys, arms, strength, impressions, seed=0, mean=0.03):
    rng = np.random.default_rng(seed)
    key = np.repeat(np.arange(keys), arms)
    rate = mean * np.exp(rng.normal(0, 0.4, keys))[key]
    n = np.maximum(1, rng.lognormal(np.log(impressions), 1.0, len(key))).astype(int)
    return key, rng.binomial(n, rng.beta(rate * strength, (1 - rate) * strength)), n


@pytest.mark.parametrize("strength", [100, 1437, 8000])
def test_the_strength_of_the_prior_is_recovered(strength):
    key, clicks, n = log_of(4000, 5, strength, 3000)
    assert fit_prior(key, clicks, n).strength == pytest.approx(strength, rel=0.12)


def test_one_giant_key_does_not_decide_the_strength():
    """A sum that weighs by impressions would take the strength of the one key that has most of them."""
    key, clicks, n = log_of(2000, 4, 1000, 2000)
    rng = np.random.default_rng(9)
    giant = rng.binomial(10**8, rng.beta(0.03 * 1e5, 0.97 * 1e5, 4))
    key = np.append(key, [2000] * 4)
    found = fit_prior(key, np.append(clicks, giant), np.append(n, [10**8] * 4))
    assert found.strength == pytest.approx(1000, rel=0.2)


def test_the_strength_is_clamped_and_the_mean_is_the_pooled_rate():
    key, _, n = log_of(500, 4, 1000, 1000)
    rng = np.random.default_rng(4)
    assert fit_prior(key, rng.binomial(n, 0.03), n).strength > 2e4  # texts that do not differ
    assert fit_prior(key, n * (np.arange(len(key)) % 2), n).strength == STRENGTH[0]  # all or nothing
    prior = fit_prior(np.array([0, 0, 1]), np.array([30, 10, 5]), np.array([1000, 1000, 50]))
    np.testing.assert_allclose(prior.mean, [0.02, 0.1])
    assert prior.alpha(np.array([0]))[0] / prior.strength == pytest.approx(0.02)


def test_keys_that_tell_nothing_give_a_proper_prior():
    prior = fit_prior(np.array([0, 0, 1, 1]), np.array([0, 0, 9, 9]), np.array([100, 0, 9, 9]))
    assert prior.strength == STRENGTH[1] and (prior.mean > 0).all() and (prior.mean < 1).all()


@pytest.mark.parametrize(
    "arguments", [(5, 4, 0, 1), (0, 1, -1, 5), (float("nan"), 1, 0, 1), (0, float("inf"), 0, 1), (0, 1, 0, 1, 0, 1)]
)
def test_impossible_numbers_are_refused(arguments):
    with pytest.raises(DataError) as caught:
        p_better(*arguments)
    assert "→" in caught.value.ja and "->" in caught.value.en
