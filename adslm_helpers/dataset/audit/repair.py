"""Mends what can be mended in a set of pairs without judgement: characters, padding, copies, labels that cancel each other."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field

from ...foreign_text import harmless
from ...text.brief import parse_brief, whole_prompt
from ...text.characters import mended
from ..near_duplicates import near_copies
from .counts import contradicting, exact_copies
from .finding import EXAMPLES, place_of, quoted
from .texts import chosen_breaches

LIKE = 0.95
"""From here on a row is dropped as a copy of another; the audit speaks of such rows from 0.90 on. One word may be what a test is about."""

KINDS = {
    "characters": (
        "文字を直しました（文字化け・全角半角・見えない文字・NFC）",
        "Characters mended (mojibake, width, invisible, NFC)",
    ),
    "spaces": ("前後の空白を除きました", "Outer spaces removed"),
    "quotes": ("文全体を囲む引用符を除きました", "Quotation marks around the whole text removed"),
    "padding": ("末尾の記号の連続を1つにしました", "A run of marks at the end made one"),
    "empty": ("直すと空になる行を除きました", "Rows dropped: nothing is left of a text"),
    "same_answers": ("直すと両側が同じになる行を除きました", "Rows dropped: both sides become the same"),
    "duplicate": ("全く同じ対を除きました", "Rows dropped: exact copies"),
    "near_duplicate": ("ほぼ同じ対（95 % 以上）を除きました", "Rows dropped: at least 95 % like another row"),
    "reversed": ("chosen と rejected が逆でもある対を除きました", "Rows dropped: the pair also occurs the other way round"),
    "contradiction": ("優劣が一周する行を除きました", "Rows dropped: their preferences go round in a circle"),
    "length_disobeyed": (
        "chosen が文字数の指定を破り、rejected は守る行を除きました",
        "Rows dropped: chosen breaks the stated length, rejected keeps it",
    ),
    "ad_rules": (
        "chosen が広告の規則（error）に触れる行を除きました",
        "Rows dropped: chosen breaks an ad rule of severity error",
    ),
}
"""What can be done to a row, in words: the first four change it, the others drop it."""
CHANGES = ("characters", "spaces", "quotes", "padding")

Numbered = tuple[int, dict]
"""A row and its number among those that came in."""

_MARKS = "!！?？。．…~〜～★☆♪♥❤‼"
_PADDING = re.compile(rf"(?P<mark>[{_MARKS}])(?P<more>(?:\s*(?P=mark))+)\Z")
_PADDED, _SYSTEMATIC = 3, 0.2  # marks at the end; share of the rows of a side from which on two are padding as well
_QUOTES = {"「": "」", "『": "』", '"': '"', "“": "”", "'": "'", "‘": "’"}


@dataclass(frozen=True)
class Change:
    """One kind of change (a key of KINDS): how often, and up to three examples (place, before, after; None for a dropped row)."""

    kind: str
    number: int
    examples: list[tuple[str, str, str | None]] = field(default_factory=list)


@dataclass(frozen=True)
class Repair:
    """What is left of the rows and what was done: rows_in == len(rows) + sum(dropped.values())."""

    rows: list[dict]
    changes: list[Change]
    rows_in: int

    @property
    def dropped(self) -> dict[str, int]:
        """How many rows were dropped, by kind."""
        return {change.kind: change.number for change in self.changes if change.kind not in CHANGES}

    def to_dict(self) -> dict:
        """Plain JSON values, without the rows."""
        changes = [{**asdict(change), "examples": [list(example) for example in change.examples]} for change in self.changes]
        return {"rows_in": self.rows_in, "kept": len(self.rows), "dropped": self.dropped, "changes": changes}

    def lines(self) -> list[str]:
        """The counts, then each kind of change with its examples, Japanese before English."""
        lines = [*self._counted()]
        for change in self.changes:
            lines += [f"{words}: {change.number:,}" for words in KINDS[change.kind]]
            lines += [f"    {place}: {before} → {after or '×'}" for place, before, after in change.examples]
        return [harmless(line) for line in lines]

    def _repr_html_(self) -> str:
        """The same for a notebook; every text is escaped, for it comes from the user's data."""
        ja, en = self._counted()
        rows = "".join(self._row_html(change) for change in self.changes)
        return f"<div style='max-width:60em'><p><b>{ja}</b><br><small>{en}</small></p><table>{rows}</table></div>"

    @staticmethod
    def _row_html(change: Change) -> str:
        left = "text-align:left; vertical-align:top; padding:4px 10px"
        ja, en = KINDS[change.kind]
        shown = "<br>".join(
            f"<small>{html.escape(harmless(place))}</small> {html.escape(harmless(before))} → {html.escape(harmless(after or '×'))}"
            for place, before, after in change.examples
        )
        return (
            f"<tr><td style='{left}'>{ja}<br><small>{en}</small></td><td style='{left}'>{change.number:,}</td>"
            f"<td style='{left}'>{shown}</td></tr>"
        )

    def _counted(self) -> tuple[str, str]:
        gone = sum(self.dropped.values())
        mended_ = sum(change.number for change in self.changes if change.kind in CHANGES)
        return (
            f"修復: {self.rows_in:,}対 → {len(self.rows):,}対（除外 {gone:,}、直した文 {mended_:,}）",
            f"Repair: {self.rows_in:,} pairs -> {len(self.rows):,} ({gone:,} dropped, {mended_:,} changes to texts)",
        )


def repair(
    rows: Sequence[dict], *, breaches: Callable[[str], list] | None = None, say: Callable[[str], None] | None = None
) -> Repair:
    """Mends the pairs `rows` (of `validate`) as far as that needs no judgement and makes up no text; each change is counted and shown.

    Texts: characters, outer spaces and quotation marks, runs of marks at the end. Rows are dropped that are empty or have equal sides
    after that, exact and near copies, pairs that contradict each other, and such whose chosen breaks the length that its rejected keeps
    or an ad rule of severity 'error' (`breaches` as for the audit). `repair(repair(rows).rows)` changes nothing.
    """
    told = say or (lambda line: None)
    log = _Log(rows)
    told(f"修復: 文字と記号 / Repair: characters and marks ({len(rows):,} pairs)")
    # Before too: a rejected text that kept the length by its padding still stood for the length.
    kept = log.without([(number, dict(row)) for number, row in enumerate(rows)], "length_disobeyed", _breaks_length)
    padded = {side: _is_padded([row[side] for row in rows]) for side in ("chosen", "rejected")}
    for number, row in kept:
        _mend_row(number, row, padded, log)
    told(f"修復: 重複と矛盾 / Repair: copies and contradictions ({len(rows):,} pairs)")
    kept = log.without(kept, "empty", lambda row: not row["chosen"] or not row["rejected"] or not whole_prompt(row["prompt"]))
    kept = log.without(kept, "same_answers", lambda row: row["chosen"] == row["rejected"])
    kept = log.without(kept, "length_disobeyed", _breaks_length)
    kept = log.without(kept, "ad_rules", lambda row: any(breach.severity == "error" for breach in chosen_breaches(row, breaches)))
    kept = _drop_related(kept, log)
    return Repair([row for _, row in kept], log.changes(), len(rows))


def _drop_related(kept: list[Numbered], log: _Log) -> list[Numbered]:
    """Without copies and contradictions. Until nothing is found: without some rows others become neighbours."""
    while True:
        before = len(kept)
        kept = log.dropping(kept, "duplicate", exact_copies([row for _, row in kept]))
        turned, circles = contradicting([row for _, row in kept])
        kept = log.dropping(kept, {**dict.fromkeys(turned, "reversed"), **dict.fromkeys(circles, "contradiction")})
        kept = log.dropping(kept, "near_duplicate", near_copies([row for _, row in kept], LIKE))
        if len(kept) == before:
            return kept


def _mend_row(number: int, row: dict, padded: dict[str, bool], log: _Log) -> None:
    prompt = row["prompt"]
    if isinstance(prompt, str):
        row["prompt"] = log.changed(number, "characters", prompt, mended(prompt))
    else:
        row["prompt"] = [{**m, "content": log.changed(number, "characters", m["content"], mended(m["content"]))} for m in prompt]
    for side, twice in padded.items():
        text = row[side]
        while True:  # a pair of quotes may hold spaces, and what padding hid another pair
            before = text
            text = log.changed(number, "characters", text, mended(text))
            text = log.changed(number, "spaces", text, text.strip())
            text = log.changed(number, "quotes", text, _unquoted(text))
            text = log.changed(number, "padding", text, _unpadded(text, 2 if twice else _PADDED))
            if text == before:
                break
        row[side] = text


def _unquoted(text: str) -> str:
    """Without the marks that enclose all of it; those of a text that holds more of them belong to its words."""
    close = _QUOTES.get(text[:1])
    if close is None or len(text) < 3 or not text.endswith(close) or any(mark in text[1:-1] for mark in (text[0], close)):
        return text
    return text[1:-1]


def _unpadded(text: str, least: int) -> str:
    """With one mark in place of a run of `least` or more of it at the end; …… is how an ellipsis is written."""
    found = _PADDING.search(text)
    if not found:
        return text
    length = 1 + found["more"].count(found["mark"])
    if length < max(least, 3 if found["mark"] == "…" else 2):
        return text
    return text[: found.end("mark")]


def _is_padded(texts: Sequence[str]) -> bool:
    """Whether so many texts of a side end in a run of marks that it fills them up: then a run of two is padding too."""
    ends = sum(_unpadded(text, _PADDED) != text for text in texts)
    return bool(texts) and ends >= _SYSTEMATIC * len(texts)


def _breaks_length(row: dict) -> bool:
    brief = parse_brief(row["prompt"])
    return brief.length_fits(row["chosen"]) is False and bool(brief.length_fits(row["rejected"]))


class _Log:
    """What was done so far, with the first three examples of each kind."""

    def __init__(self, rows: Sequence[dict]):
        self._rows = rows
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[tuple[str, str, str | None]]] = {}

    def changed(self, number: int, kind: str, before: str, after: str) -> str:
        if before != after:
            self._note(number, kind, quoted(before), quoted(after))
        return after

    def without(self, kept: list[Numbered], kind: str, bad: Callable[[dict], bool]) -> list[Numbered]:
        return self.dropping(kept, kind, [place for place, (_, row) in enumerate(kept) if bad(row)])

    def dropping(self, kept: list[Numbered], kinds: str | dict[int, str], places: Iterable[int] | None = None) -> list[Numbered]:
        """`kept` without the rows at `places` (in `kept`), all of one kind, or each of its own."""
        by_place = kinds if isinstance(kinds, dict) else dict.fromkeys(places or (), kinds)
        for place in sorted(by_place):
            number, row = kept[place]
            self._note(number, by_place[place], f"{quoted(row['chosen'], 40)} / {quoted(row['rejected'], 40)}", None)
        return [entry for place, entry in enumerate(kept) if place not in by_place]

    def changes(self) -> list[Change]:
        return [Change(kind, self._counts[kind], self._examples[kind]) for kind in KINDS if self._counts[kind]]

    def _note(self, number: int, kind: str, before: str, after: str | None) -> None:
        self._counts[kind] += 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append((place_of(self._rows[number], number), before, after))
