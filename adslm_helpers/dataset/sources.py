"""Where pairs come from: a file of pairs, an ad log, votes, the samples; opened, with what was understood of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ..data_files import data_path
from ..errors import DataError
from ..text.ad_rules import Breach, find_breaches
from .ad_log.pairs import PairRules, pairs_from_log
from .ad_log.read import read_log
from .adtech import adtech_pairs
from .formats import file_and_sheet, read_pairs, read_rows
from .rows import Place, RawRow
from .samples import sample_pairs
from .votes import pairs_from_votes

KINDS = ("pairs", "log", "votes")
MOST_SAMPLES = 1_000_000


@dataclass(frozen=True)
class Reading:
    """How a source is to be read: what it is, which columns mean what, and how a log becomes pairs."""

    kind: str = "pairs"
    columns: Mapping[str, str] = field(default_factory=dict)
    """Corrections of the column map: role -> header."""
    period: str = "month"
    """Ads of a log are compared within this: 'all', 'month', 'week' or 'day'."""
    rules: PairRules = field(default_factory=PairRules)
    margin: int = 5
    """Votes: so many more for one side than for the other."""
    every_pair: bool = False
    """Several answers with scores or ranks: every pair of them, not only the best against the worst."""


@dataclass
class Source:
    """An opened source: `rows` to be read once, `digest` complete when they are, and what was understood of it."""

    name: str
    rows: Iterator[RawRow]
    digest: Any
    understood: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)

    def counted(self) -> dict[str, int]:
        """How many rows the log had that the pairs were made of; empty for other sources."""
        return {"log_rows": self.facts["log"]["rows_in"]} if "log" in self.facts else {}


def open_source(source: str | Path | None, seed: int, reading: Reading, say: Callable[[str], None] | None = None) -> Source:
    """Opens `source`: a file, `hf:owner/name[:split]`, `sample` (or None), `sample:N` or `adtech`.

    Raises DataError for what is not there or is of another kind, and for a log or votes that support no pair.
    """
    name = "sample" if source is None else str(source)
    digest = hashlib.sha256()
    if reading.kind not in KINDS:
        raise DataError(
            f"{reading.kind!r} という種類のデータはありません。→ {', '.join(KINDS)} のどれかです。",
            f"There is no kind of data {reading.kind!r}. -> One of {', '.join(KINDS)}.",
        )
    made = _made_up(name, seed) if reading.kind == "pairs" else None
    if made is not None:
        rows = (RawRow(pair, Place(name, number, "row")) for number, pair in enumerate(made, 1))
        return Source(name, _hashed(rows, digest), digest, reading=reading)
    if name.startswith("hf:"):
        opened = _opened(name, reading, say)
        return Source(name, _hashed(opened.rows, digest), digest, opened.understood, opened.facts, reading)
    place = str(data_path("sample_pairs.jsonl")) if name == "sample" else name
    path, _ = file_and_sheet(place)
    before = _state(path)
    opened = _opened(place, reading, say)
    if path.is_dir():  # a dataset in several files
        return Source(name, _hashed(opened.rows, digest), digest, opened.understood, opened.facts, reading)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return Source(name, _unchanged(opened.rows, path, before), digest, opened.understood, opened.facts, reading)


def _made_up(name: str, seed: int) -> list[dict] | None:
    """The rows of a source that is no file."""
    kind, colon, count = name.partition(":")
    if kind == "sample" and colon:
        return sample_pairs(_whole(name, count), seed=seed)
    return adtech_pairs() if name == "adtech" else None


def _opened(source: Path | str, reading: Reading, say: Callable[[str], None] | None) -> Source:
    return {"pairs": _pairs, "log": _log, "votes": _votes}[reading.kind](source, reading, say)


def _pairs(source: Path | str, reading: Reading, say: Callable[[str], None] | None) -> Source:
    shape, rows = read_pairs(source, dict(reading.columns) or None, say, reading.every_pair)
    return Source(str(source), rows, None, shape.lines(), {"shape": asdict(shape)})


def _log(path: Path | str, reading: Reading, say: Callable[[str], None] | None) -> Source:
    log = read_log(path, dict(reading.columns) or None, reading.period, say)
    made = pairs_from_log(log.arms, reading.rules, _gate(reading.rules), say)
    words = [*log.lines(), *made.lines()]
    if not made.rows:
        _refuse_support(str(path), words)
    if Path(path).resolve() == data_path("sample_ad_log.csv").resolve():
        made.rows[:] = [{**row, "synthetic": True} for row in made.rows]
    facts = {"columns": log.columns, "rows_in": log.rows_in, "dropped": log.dropped, **log.facts, "pairs": made.to_dict()}
    return Source(str(path), _numbered(made.rows, path), None, words, {"log": facts})


def _votes(path: Path | str, reading: Reading, say: Callable[[str], None] | None) -> Source:
    made = pairs_from_votes(read_rows(path), reading.margin, dict(reading.columns) or None)
    if not made.rows:
        _refuse_support(str(path), made.lines())
    return Source(str(path), _numbered(made.rows, path), None, made.lines(), {"votes": made.to_dict()})


def rules_broken(text: str, platform: str | None = None, domain: str | None = None) -> list[Breach]:
    """The ad rules that a text breaks, its length aside: which part of an ad it is (headline, description) is not known here."""
    found = find_breaches(text, platform=platform, domain=domain)
    return [breach for breach in found if not breach.rule.startswith("len.")]


def _gate(rules: PairRules) -> Callable[[str], list[str]]:
    """Text -> the rules of severity 'error' that it breaks: such a text is never chosen."""
    return lambda text: [b.rule for b in rules_broken(text, rules.platform, rules.domain) if b.severity == "error"]


def _numbered(rows: list[dict], path: Path | str) -> Iterator[RawRow]:
    return (RawRow(row, Place(str(path), number, "row")) for number, row in enumerate(rows, 1))


def _refuse_support(name: str, words: list[str]) -> NoReturn:
    ja, en = ("\n".join(words[side::2]) for side in (0, 1))
    raise DataError(
        f"{name}: 対を1つも作れません。→ 下に、何が足りないかを挙げます。\n{ja}",
        f"{name} supports no pair at all. -> What it would take stands below.\n{en}",
    )


def _unchanged(rows: Iterator[RawRow], path: Path, before: tuple[int, int] | None) -> Iterator[RawRow]:
    """`rows`; DataError at the end of a file that another program wrote to meanwhile: its hash is not that of what was read."""
    yield from rows
    if _state(path) != before:
        raise DataError(
            f"{path} は、読んでいる間に書き換えられました。→ ほかのプログラムで閉じてから、もう一度実行してください。",
            f"{path} was changed while it was read. -> Close it in other programs, then run this again.",
        )


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # whoever opens it says what is wrong
        return None
    return found.st_size, found.st_mtime_ns


def _whole(name: str, count: str) -> int:
    try:
        if (number := int(count)) <= MOST_SAMPLES:
            return number
        raise ValueError
    except ValueError:
        raise DataError(
            f"{name} の件数が {MOST_SAMPLES:,} までの整数ではありません。→ 例: sample:1000",
            f"{name} does not end in a whole number up to {MOST_SAMPLES:,}. -> For example: sample:1000",
        ) from None


def _hashed(rows: Iterator[RawRow], digest: Any) -> Iterator[RawRow]:
    for row in rows:
        digest.update(json.dumps(row.value, default=str).encode())
        yield row
