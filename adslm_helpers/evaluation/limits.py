"""From where on a number of metrics.json means something: what the verdict, the costs and the reasons share."""

from __future__ import annotations

from typing import Any

FEW_PROMPTS = 20
PRODUCT_LOSS = 0.02
LEVEL = 0.05
"""Of the sign test; the interval's 95 % say the same of the win rate."""
LEAST = 0.02
"""A share must get worse by this much, beside its interval, to count: with many looks, some interval misses 0 by chance."""
LEAST_CHRF = 5.0

Words = tuple[str, str]
"""The same in Japanese and in English."""


def is_ruined(metrics: dict[str, Any]) -> bool:
    """Whether more than one text in twenty is broken, and more than twice as many as before."""
    return metrics["degenerate_tuned"] > max(0.05, 2 * metrics["degenerate_base"])


def witnesses(metrics: dict[str, Any]) -> int:
    """How many independent prompts speak: those that were asked, or fewer where the audit found groups among the held-out ones."""
    groups = metrics.get("n_heldout_groups")
    return metrics["n_prompts"] if groups is None else min(groups, metrics["n_prompts"])


def is_worse(metrics: dict[str, Any], name: str, least: float = LEAST, sign: int = 1) -> bool:
    """Whether `name`_difference is at least `least` in the bad direction (`sign`), and its whole interval lies on that side of 0."""
    change, interval = metrics.get(f"{name}_difference"), metrics.get(f"{name}_difference_ci95")
    if change is None or interval is None:
        return False
    return sign * change >= least and min(sign * end for end in interval) > 0
