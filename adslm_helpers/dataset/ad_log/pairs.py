"""Texts with impressions and clicks -> preference pairs that the log really supports, and why the others are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from ...errors import DataError
from .candidates import candidate_count, candidate_pairs
from .posterior import Prior, can_reach, fit_prior, log_odds, p_better, p_greater
from .prompts import KEY, TEMPLATE, check_template, prompt_from_key
from .support import LogPairs, cvr_warning, needed_impressions, support_warnings

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["LogPairs", "PairRules", "pairs_from_log"]

_SILENT = 2.0  # seconds without a word
_COLUMNS = (*KEY, "text", "impressions", "clicks")


@dataclass(frozen=True)
class PairRules:
    """What makes a pair. Defaults: measured on a public log of headline tests, where they agreed with a second half of it in 0.90."""

    p_win: float = 0.95
    """P(the chosen text has the higher CTR) that a pair needs, from 0.7 on. Below 0.9 much of what is added is chance."""
    max_pairs_per_text: int = 4
    """Pairs that one text may be in, within its key. More of them repeat one judgement."""
    max_uses_of_text: int = 50
    """Pairs that one wording may be in, over all keys: a text that is chosen everywhere is learnt by heart."""
    min_clicks_in_key: int = 1
    """Clicks of all texts of a key together; without any there is nothing to compare."""
    template: str = TEMPLATE
    """The prompt, from the key: {brief}, {channel}, {device}, {position}, {period}, {kind}, {medium}."""
    platform: str | None = None
    """Whose ad rules the gate asks for; kept for whoever makes the gate."""
    domain: str | None = None
    """The trade whose ad rules the gate asks for; kept for whoever makes the gate."""
    max_false_share: float = 0.05
    """The expected share of pairs that stand the wrong way round; the least sure pairs go until it is kept."""

    def __post_init__(self):
        check_template(self.template)
        for name, low, high in (("p_win", 0.7, 1.0), ("max_false_share", 0.0, 1.0)):
            if not low <= (value := getattr(self, name)) < high:
                raise DataError(
                    f"{name} = {value} は使えません。→ {low:g} 以上で {high:g} より小さい数にしてください。",
                    f"{name} = {value} cannot be used. -> Give a number from {low:g} on, below {high:g}.",
                )
        for name in ("max_pairs_per_text", "max_uses_of_text", "min_clicks_in_key"):
            if (value := getattr(self, name)) < 1:
                raise DataError(
                    f"{name} = {value} は使えません。→ 1 以上にしてください。",
                    f"{name} = {value} cannot be used. -> Give 1 or more.",
                )


@dataclass
class _Arms:
    """Arms as arrays, key by key, the highest posterior mean first; `key` (arms,) is 0 .. keys - 1, `sizes` (keys,)."""

    table: DataFrame
    order: np.ndarray  # arm -> row of the table; the table itself is not copied, for it may hold millions of texts
    key: np.ndarray
    sizes: np.ndarray
    clicks: np.ndarray
    n: np.ndarray
    text: np.ndarray  # codes: one wording, one number
    prior: Prior
    a: np.ndarray
    b: np.ndarray

    def rows(self, arms: np.ndarray) -> DataFrame:
        """What the log says of some arms."""
        return self.table.iloc[self.order[arms]]


def pairs_from_log(
    arms: DataFrame,
    rules: PairRules | None = None,
    gate: Callable[[str], list[str]] | None = None,
    say: Callable[[str], None] | None = None,
) -> LogPairs:
    """The pairs that `arms` support. An arm is a row with brief, channel, device, position, period, text, impressions and clicks
    (whole numbers, clicks <= impressions), perhaps conversions: what `read_log` gives.

    Pairs stand within a key (brief x channel x device x position x period). `gate` names the ad rules that a text breaks: such a text is
    never `chosen`. Every possible pair is either kept or counted by the reason why it is not. Raises DataError for arms that are none.
    `say` gets a line every two seconds of work.
    """
    rules = rules or PairRules()
    data = _arranged(arms, rules)
    dropped: Counter[str] = Counter()
    sizes = data.sizes.astype(object)  # whole numbers without end: a million texts in a key are 5 * 10 ** 11 pairs
    considered = int(sum(sizes * (sizes - 1) // 2)) if len(sizes) else 0
    first, second, p = _sure_pairs(data, rules, dropped, say)
    dropped["not_considered"] += considered - len(p) - sum(dropped.values())
    dropped = +dropped  # without zeros
    order = np.lexsort((second, first, -p))
    first, second, p = first[order], second[order], p[order]
    prompts = _prompts(data, first, rules)
    kept = _allowed(data, first, second, p, prompts, rules, gate, dropped)
    first, second, p = first[kept], second[kept], p[kept]
    rows = _rows(data, first, second, p, prompts)
    cvr = _cvr_losers(data, first, second, rows)
    needed = _needed(data, arms)
    counted = {"arms": len(arms), "keys": len(data.sizes), "pairs": considered, "kept": len(rows)}
    assert considered == len(rows) + sum(dropped.values())
    share = float(np.mean(1 - p)) if len(p) else 0.0
    warnings = [*support_warnings(counted, dropped, needed), *cvr_warning(cvr, len(rows))]
    return LogPairs(rows, counted, dict(dropped), share, warnings, needed)


def _arranged(arms: DataFrame, rules: PairRules) -> _Arms:
    import pandas

    missing = [name for name in _COLUMNS if name not in arms.columns]
    if missing:
        raise DataError(
            f"ログの表に列 {', '.join(missing)} がありません。→ read_log で読んだ表を渡してください。",
            f"The table of the log lacks {', '.join(missing)}. -> Give what read_log returns.",
        )
    clicks, n = arms["clicks"].to_numpy(float), arms["impressions"].to_numpy(float)
    bad = ~((clicks >= 0) & (clicks <= n) & np.isfinite(n))
    if bad.any():
        at = int(np.argmax(bad))
        raise DataError(
            f"ログの表の {at + 1} 行目: 表示 {n[at]:g}、クリック {clicks[at]:g} はありえません。→ 0 ≦ クリック ≦ 表示 にしてください。",
            f"Row {at + 1} of the log's table: {clicks[at]:g} clicks of {n[at]:g} impressions cannot be. "
            "-> Give 0 <= clicks <= impressions.",
        )
    key = arms.groupby(list(KEY), sort=True, dropna=False).ngroup().to_numpy()
    prior = fit_prior(key, clicks, n)
    a, b = prior.alpha(key) + clicks, prior.beta(key) + (n - clicks)
    text = pandas.factorize(arms["text"], sort=True)[0]
    order = np.lexsort((text, -log_odds(a, b)[0], key))  # the order of the log must not decide which of equals is capped
    return _Arms(arms, order, key[order], np.bincount(key), clicks[order], n[order], text[order], prior, a[order], b[order])


def _sure_pairs(
    data: _Arms, rules: PairRules, dropped: Counter[str], say: Callable[[str], None] | None
) -> tuple[np.ndarray, ...]:
    """(better, worse, p) of the pairs with P >= p_win; the others that were looked at are counted in `dropped`."""
    odds, found = log_odds(data.a, data.b), [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    clicks_in_key = np.bincount(data.key, data.clicks, len(data.sizes))
    looked_at, total, spoken = 0, candidate_count(data.sizes) if say else 0, monotonic()
    for first, second in candidate_pairs(data.sizes):
        looked_at += len(first)
        alive = clicks_in_key[data.key[first]] >= rules.min_clicks_in_key
        same = data.text[first] == data.text[second]
        near = can_reach(odds, first, second, rules.p_win)
        dropped["no_click_in_key"] += int((~alive).sum())
        dropped["same_text"] += int((alive & same).sum())
        dropped["below_p"] += int((alive & ~same & ~near).sum())
        left = alive & ~same & near
        first, second = first[left], second[left]
        p = p_greater(data.a, data.b, first, second)
        sure = p >= rules.p_win
        dropped["below_p"] += int((~sure).sum())
        found.append((first[sure], second[sure], p[sure]))
        if say and monotonic() - spoken > _SILENT:
            spoken = monotonic()
            say(f"対を比べています / comparing pairs: {looked_at:,} / {total:,}")
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _prompts(data: _Arms, first: np.ndarray, rules: PairRules) -> dict[int, str]:
    """The prompt of each key that has a pair."""
    starts = np.cumsum(data.sizes) - data.sizes
    keys = np.unique(data.key[first])
    records = data.rows(starts[keys])[list(KEY)].astype(str).to_dict("records")
    return {int(key): prompt_from_key(record, rules.template) for key, record in zip(keys, records, strict=True)}


def _allowed(data, first, second, p, prompts, rules, gate, dropped) -> np.ndarray:
    """Which of the sure pairs stay, the surest first: policy, one judgement per prompt and texts, the false share, caps."""
    texts = dict(zip((used := np.unique(first)).tolist(), data.rows(used)["text"].tolist(), strict=True))
    broken: dict[int, list[str]] = {}
    directions = _directions(data, first, second, prompts)
    seen: set[tuple] = set()
    in_key: Counter[int] = Counter()
    overall: Counter[int] = Counter()
    doubt, kept = 0.0, []
    for at, (one, two, sure) in enumerate(zip(first.tolist(), second.tolist(), p.tolist(), strict=True)):
        left, right = int(data.text[one]), int(data.text[two])
        if gate and left not in broken:
            broken[left] = gate(texts[one])
        same = (prompts[int(data.key[one])], min(left, right), max(left, right))
        if gate and broken[left]:
            dropped[f"policy:{broken[left][0]}"] += 1
        elif directions[same] == 3:
            dropped["contradicted"] += 1
        elif same in seen:
            dropped["repeated"] += 1
        elif max(in_key[one], in_key[two]) >= rules.max_pairs_per_text:
            dropped["capped"] += 1
        elif max(overall[left], overall[right]) >= rules.max_uses_of_text:
            dropped["capped_overall"] += 1
        elif doubt + 1 - sure > rules.max_false_share * (len(kept) + 1):
            dropped["false_share"] += 1
        else:
            seen.add(same)
            in_key.update((one, two))
            overall.update((left, right))
            doubt += 1 - sure
            kept.append(at)
    return np.array(kept, np.int64)


def _directions(data: _Arms, first: np.ndarray, second: np.ndarray, prompts: dict[int, str]) -> dict[tuple, int]:
    """By prompt and texts: 1 and 2 for the two directions, 3 where keys under one prompt (two months, two devices) disagree."""
    found: dict[tuple, int] = {}
    for one, two in zip(first.tolist(), second.tolist(), strict=True):
        left, right = int(data.text[one]), int(data.text[two])
        same = (prompts[int(data.key[one])], min(left, right), max(left, right))
        found[same] = found.get(same, 0) | (1 if left < right else 2)
    return found


def _rows(data: _Arms, first: np.ndarray, second: np.ndarray, p: np.ndarray, prompts: dict[int, str]) -> list[dict]:
    mean = data.a / (data.a + data.b)
    one, two = data.rows(first), data.rows(second)
    keys = zip(*(one[name].astype(str).tolist() for name in KEY), strict=True)
    numbers = zip(
        one["text"].tolist(), two["text"].tolist(), p, mean[first], mean[second], data.n[first], data.n[second], data.clicks[first], data.clicks[second],
        strict=True,
    )  # fmt: skip
    return [
        {
            "prompt": prompts[int(key)],
            "chosen": chosen,
            "rejected": rejected,
            "p_win": round(float(sure), 5),
            "lift": round(float(ctr_a / ctr_b - 1), 4),
            "ctr_a": round(float(ctr_a), 6),
            "ctr_b": round(float(ctr_b), 6),
            "n_a": int(n_a),
            "n_b": int(n_b),
            "clicks_a": int(clicks_a),
            "clicks_b": int(clicks_b),
            **{name: value for name, value in zip(KEY, place, strict=True) if value},
            "origin": "ad_log",
        }
        for key, place, (chosen, rejected, sure, ctr_a, ctr_b, n_a, n_b, clicks_a, clicks_b) in zip(
            data.key[first], keys, numbers, strict=True
        )
    ]


def _cvr_losers(data: _Arms, first: np.ndarray, second: np.ndarray, rows: list[dict]) -> list[dict]:
    """Rows whose chosen text converts worse with P > 0.9; each gets `p_cvr_worse`. Conversions above the clicks count as one a click."""
    if "conversions" not in data.table.columns or not len(first):
        return []
    raw = data.table["conversions"].to_numpy(float)[data.order]
    known = np.isfinite(raw) & (data.clicks > 0)
    both = np.flatnonzero(known[first] & known[second])
    if not len(both):
        return []
    hits = np.where(known, np.clip(raw, 0, data.clicks), 0.0)
    prior = fit_prior(data.key, hits, np.where(known, data.clicks, 0.0))
    one, two = first[both], second[both]
    key = data.key[one]
    worse = p_better(hits[two], data.clicks[two], hits[one], data.clicks[one], prior.alpha(key), prior.beta(key))
    losers = [(rows[int(at)], float(p)) for at, p in zip(both, worse, strict=True) if p > 0.9]
    for row, p in losers:
        row["p_cvr_worse"] = round(p, 4)
    return [row for row, _ in losers]


def _needed(data: _Arms, arms: DataFrame) -> dict:
    rates = data.prior.mean[data.sizes > 1]
    clicks = np.bincount(data.key, data.clicks, len(data.sizes))
    return {
        "keys": len(data.sizes),
        "keys_with_one_text": int((data.sizes == 1).sum()),
        "keys_without_click": int(((clicks == 0) & (data.sizes > 1)).sum()),
        "median_impressions": float(np.median(data.n)) if len(data.n) else 0.0,
        **needed_impressions(data.prior.strength, float(np.median(rates)) if len(rates) else 0.0),
    }
