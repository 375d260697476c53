"""Blind A/B ratings of comparisons.jsonl by the team: what was chosen, and what it says of the tuned text.

runs/NAME/evaluation/ratings/RATER.jsonl holds one line for each choice: item, choice, rater, time, and the hash of the comparisons.
Which side was the tuned text stands nowhere: it follows from comparisons.jsonl and the rater's name.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..dataset.rows import RawRow
from ..dataset.textfiles import read_jsonl as read_lines
from ..errors import RunError, writing_to
from ..foreign_text import brief
from ..run import Run, now, write_jsonl
from ..run_lock import run_lock
from .blind_items import SideKey, checked_rater, comparisons_hash, load_comparisons, side_key

CHOICES = ("a", "b", "tie", "skip")
_PATIENCE_S = 3.0  # the lock of a rater's file is held for milliseconds


@dataclass(frozen=True)
class Vote:
    """What one rater says of row `index` of comparisons.jsonl. `side`: 'tuned', 'base', 'tie' or 'skip'; `choice`: as it was clicked."""

    rater: str
    index: int
    choice: str
    side: str


@dataclass(frozen=True)
class Ratings:
    """All votes on a run's comparisons, the last one of each rater for each row. `set_aside`: votes on other comparisons, by rater:
    the model or the briefs changed after they were given; `replaced`: earlier votes of raters who changed their mind."""

    comparisons: list[dict] = field(repr=False)
    votes: list[Vote] = field(repr=False)
    set_aside: dict[str, int]
    replaced: int


def save_rating(run: Run, item_id: str, choice: str, rater: str = "team") -> Path:
    """Saves one choice ('a', 'b', 'tie', 'skip') at once; an earlier one for the same item stays in the file and no longer counts.

    Raises RunError for an unknown item or choice, and when the file cannot be written (then it is as it was).
    """
    return save_ratings(run, {item_id: choice}, rater)


def save_ratings(run: Run, choices: Mapping[str, str], rater: str) -> Path:
    """`save_rating` for several items at once: all of them or, when one is wrong, none."""
    rows = load_comparisons(run)
    key = side_key(rows, rater)
    known = key.indices(rows)
    for item, choice in choices.items():
        if item not in known:
            raise RunError(
                f"項目 {brief(item)} は、{run.name} の今の比較で {key.rater} に見せるものにありません。"
                "→ 評価をやり直したあとは、画面（または CSV）も開き直してください。",
                f"Item {brief(item)} is none that {key.rater} is shown of the present comparisons of {run.name}. "
                "-> After a new evaluation open the form (or write the CSV) again.",
            )
        if choice not in CHOICES:
            raise RunError(
                f"選択 {brief(choice)} は使えません。→ {', '.join(CHOICES)} のどれかにしてください。",
                f"{brief(choice)} is no choice. -> Use one of {', '.join(CHOICES)}.",
            )
    path = ratings_path(run, key.rater)
    same = {"rater": key.rater, "at": now(), "comparisons": key.comparisons}
    added = [{"item": item, "choice": choice, **same} for item, choice in choices.items()]
    with writing_to(path.parent), _alone(path):
        return write_jsonl(path, [*(row.value for row in _records(path)), *added])


def load_ratings(run: Run) -> Ratings:
    """All votes of all raters. Raises RunError when there are no comparisons, or a line of a rater's file is broken."""
    rows = load_comparisons(run)
    digest = comparisons_hash(rows)
    votes: list[Vote] = []
    set_aside: Counter[str] = Counter()
    replaced = 0
    for path in sorted((run.evaluation / "ratings").glob("*.jsonl")):
        key, last = SideKey(digest, path.stem), {}
        known = key.indices(rows)
        for row in _records(path):
            if row.value["comparisons"] != digest:
                set_aside[key.rater] += 1
                continue
            index = known.get(row.value["item"])
            if index is None:
                item, rater = brief(row.value["item"]), brief(key.rater)
                raise _broken(
                    row,
                    f"項目 {item} は {rater} に見せたものではありません（ファイルの名前が評価者の名前です）。",
                    f"Item {item} was not shown to {rater} (the name of the file is the rater's).",
                )
            replaced += index in last
            last[index] = row.value["choice"]
        votes += [Vote(key.rater, index, choice, key.side(choice, index)) for index, choice in last.items()]
    return Ratings(rows, votes, dict(set_aside), replaced)


def choices_of(run: Run, rater: str) -> dict[str, str]:
    """Item id -> the choice that counts, of one rater."""
    ratings = load_ratings(run)
    key = side_key(ratings.comparisons, rater)
    return {key.item_id(vote.index): vote.choice for vote in ratings.votes if vote.rater == key.rater}


def ratings_path(run: Run, rater: str) -> Path:
    """The file of one rater's choices."""
    return run.evaluation / "ratings" / f"{checked_rater(rater)}.jsonl"


def _records(path: Path) -> Iterator[RawRow]:
    if not path.exists():
        return
    try:
        rows = [*read_lines(path)]
    except OSError as error:
        raise RunError(
            f"{path} を読めません（{error.strerror}）。→ 権限を確かめてください。",
            f"{path} cannot be read ({error.strerror}). -> Check its permissions.",
        ) from None
    for row in rows:
        if row.problem:
            raise _broken(row, row.problem.ja, row.problem.en)
        value = row.value if isinstance(row.value, dict) else {}
        texts = all(isinstance(value.get(key), str) for key in ("item", "choice", "comparisons"))
        if not texts or value["choice"] not in CHOICES:
            raise _broken(row, "評価の記録ではありません。", "It is no rating.")
        yield row


def _broken(row: RawRow, ja: str, en: str) -> RunError:
    return RunError(
        f"{row.place_ja}: {ja}→ その行を直すか消してください（ほかの行はそのまま使えます）。",
        f"{row.place_en}: {en} -> Mend or remove that line; the others stay good.",
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time in a rater's file: two windows under one name would each write back what they had read."""
    deadline = time.monotonic() + _PATIENCE_S
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(run_lock(path.parent / f".{path.stem}"))
                break
            except RunError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield
