"""Human votes between two texts -> preference pairs by margin. A row that nobody judged is not a tie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import comb
from typing import Any

from ..errors import DataError
from ..foreign_text import brief as shown
from ..foreign_text import harmless
from .rows import Problem, RawRow
from .vote_columns import count_of, find_columns, side_of

MARGIN = 5
DISAGREEMENT = ((7, 0.038), (5, 0.074), (1, 0.206))
"""From a margin on: how often a second panel of 10 decides the other way. Measured on pairs that were judged twice."""
REASONS = {
    "not_judged": ("未評価", "not judged"),
    "all_skipped": ("全員スキップ", "all skipped"),
    "tie": ("同点", "tie"),
    "below_margin": ("票差が足りない", "margin too small"),
    "same_text": ("両側が同じ文", "same text on both sides"),
}
ROW_REASONS = {
    "unreadable": ("読めない行", "unreadable row"),
    "no_text": ("プロンプトか文がない", "prompt or text missing"),
    "not_a_count": ("票数でない", "no count"),
    "unknown_winner": ("判定が分からない", "winner not understood"),
}
_SAMPLED = 50  # rows that the column map is read from
_REPORTED = 20


@dataclass
class VotePairs:
    """What `pairs_from_votes` found: counted['pairs'] == counted['kept'] + sum(dropped.values()), and
    counted['rows'] == rows that were used + sum(dropped_rows.values()).

    Rows hold prompt, chosen, rejected, votes_a (for chosen), votes_b, votes_skip, margin, p_win. `by_margin`: pairs at other margins.
    """

    rows: list[dict]
    counted: dict[str, int]
    dropped: dict[str, int]
    dropped_rows: dict[str, int]
    columns: dict[str, str]
    margin: int
    by_margin: dict[int, int]
    problems: list[Problem] = field(default_factory=list)

    @property
    def expected_disagreement(self) -> float:
        """How often a second panel would decide the other way, at this margin."""
        return next(share for least, share in DISAGREEMENT if self.margin >= least)

    @property
    def expected_false_share(self) -> float:
        """Mean of 1 - p_win of the kept pairs; 0 without any."""
        return sum(1 - row["p_win"] for row in self.rows) / len(self.rows) if self.rows else 0.0

    def to_dict(self) -> dict:
        """Plain JSON values without the rows."""
        facts = {key: value for key, value in asdict(self).items() if key not in ("rows", "problems", "by_margin")}
        problems = [{"code": p.code, "source": p.place.short, "ja": p.line_ja, "en": p.line_en} for p in self.problems]
        return {**facts, "by_margin": {str(key): n for key, n in self.by_margin.items()}, "problems": problems}

    def lines(self) -> list[str]:
        """The column map and the counts, each line in Japanese, then in English."""
        names = ", ".join(f"{role} = {shown(name)}" for role, name in self.columns.items() if name)
        count, kept = self.counted, self.counted["kept"]
        (ja, en), (row_ja, row_en) = _worded(self.dropped, REASONS), _worded(self.dropped_rows, ROW_REASONS)
        margins = ", ".join(f"{margin}: {n:,}" for margin, n in self.by_margin.items())
        pairs = [
            (f"列の読み方: {names}", f"Columns as understood: {names}"),
            (
                f"{count['rows']:,} 行（使えない行: {row_ja}）、{count['votes']:,} 票、比べた2文 {count['pairs']:,} 組 → 対 {kept:,} 組。除外: {ja}",
                f"{count['rows']:,} rows (not usable: {row_en}), {count['votes']:,} votes on {count['pairs']:,} pairs of texts -> "
                f"{kept:,} pairs. Not used: {en}",
            ),
            (
                f"票差 {self.margin} 以上では、もう一度投票しても {self.expected_disagreement:.1%} は逆になります（10人の投票を2回した実測）。"
                f"票差ごとの対の数: {margins}",
                f"At a margin of {self.margin} or more a second vote decides {self.expected_disagreement:.1%} the other way "
                f"(measured, ten raters twice). Pairs by margin: {margins}",
            ),
        ]
        if not kept:
            best = max((margin for margin, n in self.by_margin.items() if n), default=0)
            pairs.append(_nothing(best, self.margin))
        pairs += [(problem.line_ja, problem.line_en) for problem in self.problems[:5]]
        return [harmless(line) for pair in pairs for line in pair]


@dataclass
class _Tally:
    """Votes for the first and the second of two texts, in the order in which they were first seen."""

    prompt: str
    first: str
    second: str
    votes: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])


def pairs_from_votes(rows: Iterable[RawRow], margin: int = MARGIN, columns: Mapping[str, str] | None = None) -> VotePairs:
    """Pairs whose votes differ by at least `margin`, from rows with counts (n for A, n for B, skipped) or with one judgement each.

    Columns are recognised under many names and can be given: {"votes_a": "票A", ...}; roles: prompt, text_a, text_b, votes_a, votes_b,
    skip, winner ("" for none). Votes on the same prompt and texts are added up, also where A and B stand the other way round.
    Raises DataError for a margin below 1 and where the columns cannot be understood.
    """
    if margin < 1:
        raise DataError(
            f"票差 {margin} は使えません。→ 1 以上にしてください（既定は {MARGIN}）。",
            f"A margin of {margin} cannot be used. -> Give 1 or more (the default is {MARGIN}).",
        )
    rows = list(rows)
    readable = [row for row in rows if row.problem is None and isinstance(row.value, dict)]
    sampled = [row.value for row in readable[:_SAMPLED]]
    names = list(dict.fromkeys(str(name) for value in sampled for name in value))
    samples = {name: [value.get(name) for value in sampled] for name in names}
    found = find_columns(names, samples, columns)
    tallies, dropped_rows, problems = _tallied(rows, found)
    dropped: Counter[str] = Counter()
    pairs, margins = [], Counter()
    for tally in tallies:
        reason = _reason(tally, margin)
        margins[int(abs(tally.votes[0] - tally.votes[1])) if reason in (None, "below_margin") else 0] += 1
        if reason:
            dropped[reason] += 1
        else:
            pairs.append(_pair(tally))
    counted = {
        "rows": len(rows),
        "pairs": len(tallies),
        "kept": len(pairs),
        "votes": int(sum(sum(tally.votes) for tally in tallies)),
    }
    assert counted["pairs"] == counted["kept"] + sum(dropped.values())
    by_margin = {least: sum(n for found, n in margins.items() if found >= least) for least in sorted({1, 3, 5, 7, margin})}
    shown_columns = {role: " + ".join(columns) for role, columns in found.items()}
    return VotePairs(pairs, counted, dict(dropped), dict(dropped_rows), shown_columns, margin, by_margin, problems)


def _tallied(rows: list[RawRow], found: dict[str, list[str]]) -> tuple[list[_Tally], Counter[str], list[Problem]]:
    tallies: dict[tuple, _Tally] = {}
    dropped: Counter[str] = Counter()
    problems: list[Problem] = []
    for row in rows:
        outcome = _read(row, found)
        if isinstance(outcome, Problem):
            dropped[outcome.code] += 1
            if len(problems) < _REPORTED:
                problems.append(outcome)
            continue
        prompt, one, two, votes = outcome
        tally = tallies.setdefault((prompt, *sorted((one, two))), _Tally(prompt, one, two))
        if one != tally.first:
            votes = [votes[1], votes[0], votes[2]]
        tally.votes = [sum(both) for both in zip(tally.votes, votes, strict=True)]
    return list(tallies.values()), dropped, problems


def _read(row: RawRow, found: dict[str, list[str]]) -> tuple[str, str, str, list[float]] | Problem:
    if row.problem or not isinstance(row.value, dict):
        return Problem("unreadable", *_said(row.problem), row.place)
    prompt, one, two = (_text(row.value, found[role]) for role in ("prompt", "text_a", "text_b"))
    if not (prompt and one and two):
        return Problem(
            "no_text", "プロンプトか2つの文のどれかが空です。", "The prompt or one of the two texts is empty.", row.place
        )
    if found["votes_a"] and found["votes_b"]:
        return _counts(row, found, (prompt, one, two))
    value = row.value.get(found["winner"][0])
    side = side_of(value)
    if side is None:
        ja, en = (
            f"判定 {shown(value)} が分かりません（A / B / tie / skip）。",
            f"The winner {shown(value)} is not A, B, tie or skip.",
        )
        return Problem("unknown_winner", ja, en, row.place)
    return prompt, one, two, [float(side == "a"), float(side == "b"), float(side in ("tie", "skip"))]


def _counts(row: RawRow, found: dict[str, list[str]], texts: tuple[str, str, str]) -> tuple[str, str, str, list[float]] | Problem:
    columns = (found["votes_a"], found["votes_b"], found["skip"])
    votes = []
    for names in columns:
        counts = [(value := row.value.get(name), count_of(value)) for name in names]
        if wrong := next((value for value, count in counts if count is None), None):
            return Problem(
                "not_a_count", f"{shown(wrong)} は票数ではありません。", f"{shown(wrong)} is no count of votes.", row.place
            )
        votes.append(sum(count for _, count in counts))
    return *texts, votes


def _reason(tally: _Tally, margin: int) -> str | None:
    one, two, skipped = tally.votes
    if tally.first == tally.second:
        return "same_text"
    if not one + two:
        return "all_skipped" if skipped else "not_judged"
    if one == two:
        return "tie"
    return "below_margin" if abs(one - two) < margin else None


def _pair(tally: _Tally) -> dict:
    one, two, skipped = (int(count) for count in tally.votes)
    chosen, rejected = (tally.first, tally.second) if one > two else (tally.second, tally.first)
    high, low = max(one, two), min(one, two)
    return {
        "prompt": tally.prompt,
        "chosen": chosen,
        "rejected": rejected,
        "votes_a": high,
        "votes_b": low,
        "votes_skip": skipped,
        "margin": high - low,
        "p_win": round(share_above_half(high, low), 5),
        "origin": "votes",
    }


def share_above_half(one: int, two: int) -> float:
    """P(more than half of all people prefer the first) after `one` votes for it and `two` against, Beta(1, 1) before: exact.

    P(Beta(a + 1, b + 1) > 1/2) = P(Binomial(a + b + 1, 1/2) <= a) (Abramowitz and Stegun 26.5.24). One vote gives .75, three of three .9375.
    """
    size = one + two + 1
    if size > 10_000:  # whole numbers of thousands of digits; the normal curve is exact enough out there
        from statistics import NormalDist

        return NormalDist().cdf((one - two) / size**0.5)
    return sum(comb(size, k) for k in range(one + 1)) / 2**size


def _text(value: dict, names: list[str]) -> str:
    cell: Any = value.get(names[0])
    return cell.strip() if isinstance(cell, str) else ""


def _said(problem: Problem | None) -> tuple[str, str]:
    return (problem.ja, problem.en) if problem else ("表の行ではありません。", "No row of a table.")


def _worded(counts: Mapping[str, int], words: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = [(*words[name], count) for name, count in ordered]
    if not named:
        return "なし", "none"
    return "、".join(f"{ja} {n:,}" for ja, _, n in named), ", ".join(f"{en} {n:,}" for _, en, n in named)


def _nothing(best: int, margin: int) -> tuple[str, str]:
    if not best:
        return (
            "票差のある組がありません。→ 同じ2文をもっと多くの人に見てもらってください。",
            "No two texts differ in votes. -> Show the same two texts to more people.",
        )
    return (
        f"票差 {margin} 以上の組がありません。→ 評価する人を増やすか、margin={best} を試してください（逆になる割合は増えます）。",
        f"No two texts differ by {margin} votes. -> Ask more people, or try margin={best} (more of them will be the wrong way round).",
    )
