"""What a rater is shown: a brief and two texts, sides swapped at random, and no word on which text is whose."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..dataset.split import prompt_key
from ..errors import RunError
from ..foreign_text import brief
from ..run import Run, read_jsonl
from ..run_names import checked_name
from ..text.brief import whole_prompt


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


def rating_items(run: Run, n: int = 50, seed: int = 0, rater: str = "team") -> RatingItems:
    """At most `n` items for `rater`: a second text for a prompt only when each prompt has had one.

    All raters get the same items in the same order (`seed` chooses them), each with the sides swapped anew: by a hash that nobody
    knows without comparisons.jsonl. Raises RunError unless the evaluation is done.
    """
    if n < 1:
        raise RunError(f"件数が {n} です。→ 1 以上にしてください。", f"The number of items is {n}. -> Ask for 1 or more.")
    run.require("evaluation")
    rows = load_comparisons(run)
    key = side_key(rows, rater)
    left_out: Counter[str] = Counter()
    order = _in_order(rows, seed, left_out)
    left_out["beyond_n"] = len(order[n:])
    return RatingItems([_item(rows[i], key, i) for i in order[:n]], {k: v for k, v in left_out.items() if v})


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
