"""Is the reward accuracy more than a look at the surface? By length of the pair, and beside the best one-feature rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..dataset.surface import Rule, surface_rules
from .heldout import Heldout
from .intervals import mean_with_interval

STRATA = ("chosen_longer", "about_equal", "chosen_shorter")
ABOUT_EQUAL = 0.1
"""Lengths that differ by at most this share of the longer count as equal."""
MOST_PAIRS = 1000
"""Of more held-out pairs so many, at equal distances, are asked whether the rule fits them: it is asked pair by pair."""
_RULE_WORKS = 0.7  # of a few dozen pairs, one of many hundred rules is right that often by chance


def strata_metrics(heldout: Heldout, seed: int = 0) -> dict[str, Any]:
    """`reward_accuracy_by_length` {stratum: {n, accuracy, ci95}} and `shortcut`, from the held-out pairs.

    `shortcut` is the surface rule that tells the sides of the held-out pairs best: {name, name_ja, accuracy, side}, and, where it is
    right in 70 % of them, `in_line` and `against` {n, accuracy, ci95}: the reward accuracy on the pairs that it gets right, and on
    the others. A model that has learnt the task is right there too; one that has learnt the rule is not. None where no rule is
    better than 55 %.
    """
    hits = [float(margin > 0) for margin in heldout.margins]
    prompts = [pair.prompt_text for pair in heldout.pairs]
    rows = [{"prompt": pair.prompt_text, "chosen": pair.chosen, "rejected": pair.rejected} for pair in heldout.pairs]
    kinds = [length_stratum(row["chosen"], row["rejected"]) for row in rows]
    by_length = {stratum: _share(hits, prompts, [kind == stratum for kind in kinds], seed) for stratum in STRATA}
    return {"reward_accuracy_by_length": by_length, "shortcut": _shortcut(rows, hits, prompts, seed)}


def length_stratum(chosen: str, rejected: str) -> str:
    """The name of STRATA that a pair belongs to, by characters."""
    difference = len(chosen) - len(rejected)
    if abs(difference) <= ABOUT_EQUAL * max(len(chosen), len(rejected)):
        return "about_equal"
    return "chosen_longer" if difference > 0 else "chosen_shorter"


def _shortcut(rows: list[dict], hits: list[float], prompts: list[str], seed: int) -> dict[str, Any] | None:
    best = next(iter(surface_rules(rows)), None)
    if best is None:
        return None
    found = {"name": best.name, "name_ja": best.name_ja, "accuracy": best.accuracy, "side": best.side}
    if best.accuracy < _RULE_WORKS:
        return found
    n = min(len(rows), MOST_PAIRS)
    asked = [i * len(rows) // n for i in range(n)]
    fits = {i: _is_right(best, rows[i]) for i in asked}
    return {
        **found,
        "in_line": _share(hits, prompts, [fits.get(i) is True for i in range(len(rows))], seed),
        "against": _share(hits, prompts, [fits.get(i) is False for i in range(len(rows))], seed),
    }


def _is_right(rule: Rule, row: dict) -> bool:
    """Whether the rule finds the chosen side of this pair. The pair stands there twice: what one text alone holds is left out."""
    return any(alone.name == rule.name and alone.side == rule.side for alone in surface_rules([row, row], least=1.0))


def _share(hits: Sequence[float], prompts: Sequence[str], asked: Sequence[bool], seed: int) -> dict[str, Any]:
    kept = [i for i, wanted in enumerate(asked) if wanted]
    if not kept:
        return {"n": 0, "accuracy": None, "ci95": None}
    mean, interval = mean_with_interval([hits[i] for i in kept], [prompts[i] for i in kept], seed)
    return {"n": len(kept), "accuracy": round(mean, 4), "ci95": interval}
