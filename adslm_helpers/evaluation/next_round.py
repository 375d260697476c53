"""The team's ratings as pairs for the next round of training, and what that costs: a rated brief is no test any more."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..dataset.build import load_split
from ..dataset.split import prompt_key
from ..dataset.votes import share_above_half
from ..errors import DataError
from ..recipe import load_recipe, recipe_from_dict
from ..run import Run, write_jsonl
from ..run_names import checked_name
from .rating_result import FEW_DECIDED, majority
from .ratings import Ratings, Vote, load_ratings

REASONS = {
    "tie": ("引分", "tie"),
    "skip": ("スキップだけ", "only skips"),
    "disagree": ("評価者が割れた", "raters disagree"),
    "empty": ("片方が空の文", "one text is empty"),
}


@dataclass(frozen=True)
class NextRound:
    """The file of the next round: `path`, for `adslm dataset`; `counts`: 'rated' items == 'pairs' + those of REASONS.

    `previous`: pairs of this run's training side in the file; `untouched`: held-out prompts of this run that nobody rated.
    `command`: what reads the file, with this run's recipe.
    """

    path: Path
    run: str
    name: str
    counts: dict[str, int]
    previous: int
    rated_prompts: int
    untouched: int
    command: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**asdict(self), "path": str(self.path)}

    def lines(self) -> list[str]:
        """What is in the file, what to do with it, and what can no longer be claimed; Japanese and English."""
        left = {reason: self.counts[reason] for reason in REASONS if self.counts.get(reason)}
        left_ja = "・".join(f"{REASONS[reason][0]} {n}" for reason, n in left.items()) or "なし"
        left_en = ", ".join(f"{REASONS[reason][1]} {n}" for reason, n in left.items()) or "none"
        n, p = self.rated_prompts, self.untouched
        few_ja = f"（{FEW_DECIDED} 種類未満では何も言えません）" if p < FEW_DECIDED else ""
        few_en = f" (fewer than {FEW_DECIDED} say nothing)" if p < FEW_DECIDED else ""
        return [
            f"評価した {self.counts['rated']} 件から {self.counts['pairs']} 対（除いた: {left_ja}）"
            + (f"、前回の学習用 {self.previous} 対" if self.previous else ""),
            f"{self.counts['pairs']} pairs from {self.counts['rated']} rated items (left out: {left_en})"
            + (f", and {self.previous} pairs of the training side before" if self.previous else ""),
            f"ファイル / file: {self.path}",
            f"次のコマンド / next: {shlex.join(self.command)}",
            f"注意: この {n} 種類の依頼は、ここから先は学習用です。これらで {self.run} と {self.name} を比べた数字は信用できません。"
            f"{self.run} の検証用で誰も評価していない依頼が {p} 種類残っています。比べるときはそれだけを使ってください{few_ja}。",
            f"Warning: these {n} briefs are for training from now on. No number measured on them compares {self.run} with {self.name} "
            f"honestly. {p} held-out briefs of {self.run} were rated by nobody: compare on those alone{few_en}.",
        ]


def ratings_to_pairs(run: Run) -> tuple[list[dict], dict[str, int]]:
    """The rated items as pairs, and the counts: 'rated' == 'pairs' + 'tie' + 'skip' + 'disagree' + 'empty'.

    A pair needs more than half of the votes on the item (skips left out). `p_win`: the posterior probability that more than half of all
    people would choose so (`share_above_half`): .75 after one vote. `rated`: true marks rows whose prompt was held out before, and is
    no test any more.
    """
    return _pairs(load_ratings(run), run.name)


def write_next_round(run: Run, name: str, with_previous: bool = False) -> NextRound:
    """Writes the rated pairs to evaluation/next_round/NAME.jsonl, for `adslm dataset FILE --run NAME`; written again from the votes each time.

    `with_previous`: this run's training pairs come first (a handful of ratings alone tunes nothing); its held-out
    pairs never do. Raises DataError when the votes give no pair, or fewer than two prompts; for this run's own name as well;
    RunError for a name that no run can have.
    """
    if checked_name(name) == run.name:
        raise DataError(
            f"次の実行の名前が今と同じ {name} です。今の結果が消えます。→ 別の名前にしてください。",
            f"The next run has this run's own name, {name}, and would replace its results. -> Choose another name.",
        )
    ratings = load_ratings(run)
    rows, counts = _pairs(ratings, run.name)
    rated = {prompt_key(row["prompt"]) for row in rows}
    previous = load_split(run, "train") if with_previous else []
    if not rows or len(rated | {prompt_key(row["prompt"]) for row in previous}) < 2:
        why_ja, why_en = (
            "、".join(f"{REASONS[r][0]} {counts[r]}" for r in REASONS),
            ", ".join(f"{REASONS[r][1]} {counts[r]}" for r in REASONS),
        )
        raise DataError(
            f"{counts['rated']} 件の評価から {counts['pairs']} 対しかできず、学習用になりません（{why_ja}）。"
            "→ A か B を選んだ評価を増やしてください（依頼は2種類以上）。",
            f"{counts['rated']} rated items give {counts['pairs']} pairs, too few to train on ({why_en}). "
            "-> Rate more items as A or B, of two briefs at least.",
        )
    untouched = {prompt_key(row["prompt"]) for row in untouched_rows(run)}
    path = write_jsonl(run.evaluation / "next_round" / f"{name}.jsonl", [*previous, *rows])
    command = ["adslm", "dataset", str(path), "--run", name, *_options(run)]
    return NextRound(path, run.name, name, counts, len(previous), len(rated), len(untouched), command)


def untouched_rows(run: Run) -> list[dict]:
    """The held-out pairs whose prompt nobody has rated: on these alone may this run be compared with one that trained on the ratings."""
    ratings = load_ratings(run)
    rated = {prompt_key(ratings.comparisons[vote.index]["prompt"]) for vote in ratings.votes}
    return [row for row in load_split(run, "eval") if prompt_key(row["prompt"]) not in rated]


def _pairs(ratings: Ratings, run: str) -> tuple[list[dict], dict[str, int]]:
    by_item: dict[int, list[Vote]] = {}
    for vote in ratings.votes:
        by_item.setdefault(vote.index, []).append(vote)
    counts: Counter[str] = Counter(rated=len(by_item))
    rows = []
    for index, votes in sorted(by_item.items()):
        reason, row = _pair(ratings.comparisons[index], votes, run)
        counts[reason] += 1
        rows += [row] if row else []
    assert counts["rated"] == len(rows) + sum(counts[reason] for reason in REASONS)
    return rows, {key: counts[key] for key in ("rated", "pairs", *REASONS)}


def _options(run: Run) -> list[str]:
    """What has `adslm dataset` use this run's recipe: its preset, its model and what else it changed."""
    noted = run.manifest().get("recipe")
    if not noted:
        return []
    recipe = recipe_from_dict(noted)
    plain = load_recipe(recipe.preset)
    options = ["--preset", recipe.preset]
    if recipe.models[0] != plain.models[0]:
        options += ["--model", recipe.models[0]]
    for key, value in recipe.to_dict().items():
        if isinstance(value, str | int | float) and value != getattr(plain, key):
            options += ["--set", f"{key}={value}"]
    return options


def _pair(compared: dict, votes: list[Vote], run: str) -> tuple[str, dict | None]:
    sides = Counter(vote.side for vote in votes)
    winner = majority(votes)
    if winner == "tie":
        kinds = {side for side in sides if side != "skip"}
        return ("skip" if not kinds else "tie" if kinds == {"tie"} else "disagree"), None
    loser = "base" if winner == "tuned" else "tuned"
    if not (compared[winner].strip() and compared[loser].strip()):
        return "empty", None
    return "pairs", {
        "prompt": compared["prompt"],
        "chosen": compared[winner],
        "rejected": compared[loser],
        "votes_chosen": sides[winner],
        "votes_rejected": sides[loser],
        "votes_tie": sides["tie"],
        "p_win": round(share_above_half(sides[winner], sides[loser]), 4),
        "rated": True,
        "source": f"{run}/evaluation/ratings",
    }
