"""What a set of pairs looks like: numbers and a table. What is wrong with it: `audit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..text.brief import whole_prompt
from .audit.finding import Finding
from .surface import Rule, surface_rules
from .validate import SIDES

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Finding", "Rule", "describe", "describe_table", "surface_rules"]


def describe(rows: list[dict], tokenizer: Any = None) -> dict:
    """Counts and lengths of pair rows, as plain JSON values.

    `chars` and, with a tokenizer, `tokens` (no special tokens) hold min, median, mean, p95 and max for each column;
    `length_ratio` is the mean length of chosen / rejected; `chosen_longer` the share of pairs with the longer chosen.
    """
    assert rows, "describe needs at least one row"
    texts = {side: [whole_prompt(row[side]) for row in rows] for side in SIDES}
    triples = set(zip(*texts.values(), strict=True))
    chars = {side: [len(text) for text in column] for side, column in texts.items()}
    stats = {
        "rows": len(rows),
        "distinct": {**{side: len(set(column)) for side, column in texts.items()}, "triple": len(triples)},
        "duplicates": len(rows) - len(triples),
        "chars": {side: _summary(lengths) for side, lengths in chars.items()},
        "length_ratio": {"chars": _ratio(chars)},
        "chosen_longer": _share(left > right for left, right in zip(chars["chosen"], chars["rejected"], strict=True)),
    }
    if tokenizer is not None:
        tokens = {side: _token_lengths(column, tokenizer) for side, column in texts.items()}
        stats["tokens"] = {side: _summary(lengths) for side, lengths in tokens.items()}
        stats["length_ratio"]["tokens"] = _ratio(tokens)
    return stats


def describe_table(stats: dict) -> DataFrame:
    """`describe` as a table: a line for each column and unit."""
    import pandas

    lines = {
        (side, unit): {"distinct": stats["distinct"][side], **stats[unit][side]}
        for unit in ("chars", "tokens")
        if unit in stats
        for side in SIDES
    }
    table = pandas.DataFrame.from_dict(lines, orient="index")
    table.index = pandas.MultiIndex.from_tuples(lines, names=["column", "unit"])
    return table


def _summary(lengths: list[int]) -> dict[str, float]:
    import numpy

    values = numpy.asarray(lengths)
    shape: dict[str, Callable] = {"min": numpy.min, "median": numpy.median, "mean": numpy.mean}
    summary = {name: round(float(function(values)), 2) for name, function in shape.items()}
    return {**summary, "p95": round(float(numpy.percentile(values, 95)), 2), "max": float(values.max())}


def _token_lengths(texts: list[str], tokenizer: Any) -> list[int]:
    distinct = sorted(set(texts))
    ids = tokenizer(distinct, add_special_tokens=False)["input_ids"]
    lengths = {text: len(tokens) for text, tokens in zip(distinct, ids, strict=True)}
    return [lengths[text] for text in texts]


def _ratio(lengths: dict[str, list[int]]) -> float:
    return round(sum(lengths["chosen"]) / max(1, sum(lengths["rejected"])), 4)


def _share(flags: Any) -> float:
    values = [bool(flag) for flag in flags]
    return round(sum(values) / len(values), 4) if values else 0.0
