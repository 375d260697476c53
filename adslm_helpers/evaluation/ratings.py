"""Blind A/B ratings of comparisons.jsonl by the team: what is shown, in which order of sides, and what was chosen.

runs/NAME/evaluation/ratings/RATER.jsonl holds one line for each choice: item, choice, rater, time, and the hash of the comparisons.
Which side was the tuned text stands nowhere: it follows from comparisons.jsonl and the rater's name.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..dataset.rows import RawRow
from ..dataset.split import prompt_key
from ..dataset.textfiles import read_jsonl as read_lines
from ..errors import RunError, writing_to
from ..foreign_text import brief
from ..run import Run, now, read_jsonl, write_jsonl
from ..run_lock import run_lock
from ..run_names import checked_name
from ..text.brief import whole_prompt

CHOICES = ("a", "b", "tie", "skip")
_PATIENCE_S = 3.0  # the lock of a rater's file is held for milliseconds


@dataclass(frozen=True)
class Item:
    """One thing to rate: a brief and two texts, and no word on which text is whose."""

    item_id: str
    prompt: str
    a: str
    b: str


@dataclass(frozen=True)
class SideKey:
    """What decides the ids and the sides of the items of one rater: a hash that cannot be known without comparisons.jsonl."""

    comparisons: str
    rater: str

    def item_id(self, index: int) -> str:
        """Another one for each rater: a sheet that goes back under another name, for whom other sides are swapped, is refused.

        The letter in front keeps a spreadsheet from reading 12e45... as a number.
        """
        return f"r{self._hash('item', index).hex()[:11]}"

    def tuned_is_a(self, index: int) -> bool:
        """Whether the tuned text of row `index` is shown as A."""
        return self._hash("swap", index)[0] % 2 == 0

    def side(self, choice: str, index: int) -> str:
        """'tuned' or 'base' for 'a' and 'b'; else the choice."""
        if choice not in ("a", "b"):
            return choice
        return "tuned" if (choice == "a") == self.tuned_is_a(index) else "base"

    def indices(self, rows: list[dict]) -> dict[str, int]:
        """Item id -> row of comparisons.jsonl."""
        return {self.item_id(index): index for index in range(len(rows))}

    def _hash(self, what: str, index: int) -> bytes:
        return hashlib.sha256(f"{what}/{self.comparisons}/{self.rater}/{index}".encode()).digest()


@dataclass(frozen=True)
class RatingItems:
    """What one rater is asked. `left_out` counts by reason: 'identical' (both sides the same), 'repeated' (the same two texts
    again for the same prompt), 'beyond_n'."""

    items: list[Item]
    left_out: dict[str, int]

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


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


def rating_items(run: Run, n: int = 50, seed: int = 0, rater: str = "team") -> RatingItems:
    """At most `n` items for `rater`: a second text for a prompt only when each prompt has had one.

    All raters get the same items in the same order (`seed` chooses them), each with the sides swapped anew: by a hash that nobody
    knows without comparisons.jsonl. Raises RunError unless the evaluation is done.
    """
    run.require("evaluation")
    rows = load_comparisons(run)
    key = side_key(rows, rater)
    left_out: Counter[str] = Counter()
    order = _in_order(rows, seed, left_out)
    left_out["beyond_n"] = len(order[n:])
    return RatingItems([_item(rows[i], key, i) for i in order[:n]], {k: v for k, v in left_out.items() if v})


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
                raise _broken(row, f"項目 {brief(row.value['item'])} がありません。", f"No item {brief(row.value['item'])}.")
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


def checked_rater(name: Any) -> str:
    """`name` in lower case, where it can name a file on every system; else RunError. (A Mac's disk takes Ai and ai for one.)"""
    try:
        return checked_name(name).lower()
    except RunError:
        raise RunError(
            f"評価者の名前 {brief(name)} は使えません。→ 半角英数字と . _ - だけで、64文字以内にしてください（例: tanaka）。",
            f"{brief(name)} cannot name a rater. -> Use up to 64 of A-Z a-z 0-9 . _ - and start with a letter or digit.",
        ) from None


def load_comparisons(run: Run) -> list[dict]:
    """The rows of comparisons.jsonl; RunError when one lacks what a rater is shown."""
    path = run.evaluation / "comparisons.jsonl"
    rows = read_jsonl(path)
    for number, row in enumerate(rows, 1):
        sides = isinstance(row.get("base"), str) and isinstance(row.get("tuned"), str)
        if not sides or not isinstance(row.get("prompt"), str | list):
            raise RunError(
                f"{path} {number}件目: prompt・base・tuned がそろっていません。→ ノートブック 03（評価）をもう一度実行してください。",
                f"{path} row {number} lacks prompt, base or tuned. -> Run notebook 03 (evaluate) again.",
            )
    return rows


def comparisons_hash(rows: list[dict]) -> str:
    """What stays the same when an evaluation that is run again writes the same texts, whatever else it says of them."""
    texts = [[row["prompt"], row["base"], row["tuned"]] for row in rows]
    return hashlib.sha256(json.dumps(texts, ensure_ascii=True, sort_keys=True).encode()).hexdigest()


def side_key(rows: list[dict], rater: str) -> SideKey:
    """The key of one rater to the items of these comparisons."""
    return SideKey(comparisons_hash(rows), checked_rater(rater))


def _in_order(rows: list[dict], seed: int, left_out: Counter[str]) -> list[int]:
    """Rows worth rating: prompts at random, first one text of each, then their second ones, and so on."""
    by_prompt: dict[str, list[int]] = {}
    seen = set()
    for index, row in enumerate(rows):
        texts = (row["base"].strip(), row["tuned"].strip())
        key = prompt_key(row["prompt"])
        if texts[0] == texts[1]:
            left_out["identical"] += 1
        elif (key, *texts) in seen:
            left_out["repeated"] += 1
        else:
            seen.add((key, *texts))
            by_prompt.setdefault(key, []).append(index)
    groups = list(by_prompt.values())
    random.Random(seed).shuffle(groups)
    return [group[turn] for turn in range(max(map(len, groups), default=0)) for group in groups if turn < len(group)]


def _item(row: dict, key: SideKey, index: int) -> Item:
    texts = (row["tuned"], row["base"]) if key.tuned_is_a(index) else (row["base"], row["tuned"])
    return Item(key.item_id(index), whole_prompt(row["prompt"]), *texts)


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
