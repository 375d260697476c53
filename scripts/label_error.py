"""How often a label from an ad log is wrong, by the rule that made it, on logs whose truth is known.

.venv/bin/python scripts/label_error.py             # prints the table: about two minutes on one core
.venv/bin/python scripts/label_error.py --write     # and writes docs/results/label_error.md
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np

from adslm_helpers.dataset.ad_log.candidates import candidate_pairs
from adslm_helpers.dataset.ad_log.posterior import can_reach, fit_prior, log_odds, p_greater
from adslm_helpers.dataset.ad_log.sample import sample_log
from adslm_helpers.run import write_text

RESULT = Path(__file__).resolve().parents[1] / "docs" / "results" / "label_error.md"
ARMS = 5
WORLDS = {
    "beta": "Texts of a brief differ as the prior supposes (one strength for all briefs)",
    "log_odds": "Texts of a brief differ by the same share of the CTR in every brief (the prior fits less well)",
}
RULES = (
    "any CTR difference",
    ">= 1,000 impressions each",
    ">= 20 clicks each",
    "CTR ratio >= 1.5",
    "flat prior, P > .95",
    "empirical Bayes, P > .95",
    "empirical Bayes, P > .99",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.relative_to(RESULT.parents[2])}")
    parser.add_argument("--keys", type=int, default=10_000, help="briefs in each log, five texts each")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--impressions", type=float, nargs="+", default=[100, 300, 1000, 3000, 10_000], help="medians of a text")
    arguments = parser.parse_args()
    tables = {}
    for world in WORLDS:
        lines = ["| median impressions | rule | pairs kept | label error | over the seeds |", "|---|---|---|---|---|"]
        for median, rule, kept, error, spread in measured(arguments.keys, arguments.seeds, arguments.impressions, world):
            lines.append(f"| {median:,.0f} | {rule} | {kept:.2%} | {error} | {spread} |")
        tables[world] = "\n".join(lines)
        print(WORLDS[world], tables[world], sep="\n\n", end="\n\n", flush=True)
    if arguments.write:
        write_text(RESULT, page(tables, arguments))


def measured(keys: int, seeds: int, medians: list[float], world: str) -> Iterator[tuple[float, str, float, str, str]]:
    """(median, rule, share of pairs kept, error over all seeds, least and largest error of a seed)."""
    for median in medians:
        logs = [look(keys, median, seed, world) for seed in range(seeds)]
        for rule in RULES:
            kept, wrong, pairs = np.array([log[rule] for log in logs]).T
            if not kept.sum():
                yield median, rule, 0.0, "-", "-"
                continue
            each = wrong[kept > 0] / kept[kept > 0]
            yield (
                median,
                rule,
                kept.sum() / pairs.sum(),
                f"{wrong.sum() / kept.sum():.1%}",
                f"{each.min():.1%} - {each.max():.1%}",
            )


def look(keys: int, median: float, seed: int, world: str) -> dict[str, tuple[int, int, int]]:
    """By rule: pairs kept, wrong ones among them, all pairs of the log."""
    log = sample_log(keys, ARMS, median, seed, world)
    clicks, n, true = (log[name].to_numpy(float) for name in ("clicks", "impressions", "true_ctr"))
    batches = list(candidate_pairs(np.full(keys, ARMS)))
    one, two = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    ctr = clicks / n
    swap = ctr[one] < ctr[two]
    better, worse = np.where(swap, two, one), np.where(swap, one, two)
    differ = ctr[better] > ctr[worse]
    prior = fit_prior(np.repeat(np.arange(keys), ARMS), clicks, n)
    key = np.arange(len(log)) // ARMS
    masks = {
        RULES[0]: (better, worse, differ),
        RULES[1]: (better, worse, differ & (np.minimum(n[one], n[two]) >= 1000)),
        RULES[2]: (better, worse, differ & (np.minimum(clicks[one], clicks[two]) >= 20)),
        RULES[3]: (better, worse, differ & (ctr[better] >= 1.5 * ctr[worse])),
    }
    for rule, alpha, beta, least in (
        (RULES[4], 1.0, 1.0, 0.95),
        (RULES[5], prior.alpha(key), prior.beta(key), 0.95),
        (RULES[6], prior.alpha(key), prior.beta(key), 0.99),
    ):
        masks[rule] = sure(clicks + alpha, n - clicks + beta, one, two, least)
    return {
        rule: (int(mask.sum()), int((true[left] < true[right])[mask].sum()), len(one))
        for rule, (left, right, mask) in masks.items()
    }


def sure(a: np.ndarray, b: np.ndarray, one: np.ndarray, two: np.ndarray, least: float) -> tuple[np.ndarray, ...]:
    odds = log_odds(a, b)
    swap = odds[0][one] < odds[0][two]
    better, worse = np.where(swap, two, one), np.where(swap, one, two)
    mask = can_reach(odds, better, worse, least)
    mask[mask] = p_greater(a, b, better[mask], worse[mask]) > least
    return better, worse, mask


def page(tables: dict[str, str], arguments: argparse.Namespace) -> str:
    found = "\n\n".join(f"## {WORLDS[world]}\n\n{table}" for world, table in tables.items())
    return (
        "# How often a label from an ad log is wrong\n\n"
        f"Measured {date.today()} with `python scripts/label_error.py --keys {arguments.keys} --seeds {arguments.seeds}` (numpy {np.__version__}, "
        f"Python {platform.python_version()}). Made-up logs whose true CTR is known (`dataset/ad_log/sample.py`): {ARMS} texts a brief, mean CTR 3 %, "
        "true CTRs of one brief 15 % apart, variance between briefs 13 times that, impressions log-normal (deviation 1.2). "
        "A label is wrong where the text that it calls better has the lower true CTR. Every rule takes the text that it thinks better; "
        "a pair without a difference in clicks is none.\n\n"
        f"{found}\n\n"
        "Floors of impressions and clicks choose pairs with more data, and little else: the gap between two texts is small beside "
        "chance. The prior that the log gives by itself is what makes P mean what it says, and where the texts do not differ as it supposes, the "
        "error is slightly larger than the P says, by up to 0.2 points (second table). The price is the number of pairs: with 300 impressions a text, a log supports "
        "hardly any; with 100 it supports some fifty of 100,000 pairs, too few to measure their error well.\n"
    )


if __name__ == "__main__":
    main()
