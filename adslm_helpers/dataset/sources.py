"""Where pairs come from: a file of pairs, an ad log, votes, the samples; opened, with what was understood of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data_files import data_path
from ..errors import DataError
from ..run_names import user_path
from .adtech import adtech_pairs
from .formats import read_pairs
from .log_pairs import PairRules, pairs_from_log
from .rows import Place, RawRow
from .samples import sample_pairs

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


@dataclass
class Source:
    """An opened source: `rows` to be read once, `digest` complete when they are, and what was understood of it."""

    name: str
    rows: Iterator[RawRow]
    digest: Any
    understood: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def open_source(
    source: str | Path | None, seed: int, reading: Reading = Reading(), say: Callable[[str], None] | None = None
) -> Source:
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
        return Source(name, _hashed(rows, digest), digest)
    if name.startswith("hf:"):
        opened = _opened(name, reading, say)
        return Source(name, _hashed(opened.rows, digest), digest, opened.understood, opened.facts)
    path = data_path("sample_pairs.jsonl") if name == "sample" else user_path(name)
    before = _state(path)
    opened = _opened(path, reading, say)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return Source(name, _unchanged(opened.rows, path, before), digest, opened.understood, opened.facts)


def _made_up(name: str, seed: int) -> list[dict] | None:
    """The rows of a source that is no file."""
    kind, colon, count = name.partition(":")
    if kind == "sample" and colon:
        return sample_pairs(_whole(name, count), seed=seed)
    return adtech_pairs() if name == "adtech" else None
