"""Which form of preference data a file holds: told from its first rows, shown, and open to correction."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ...foreign_text import brief, harmless
from ..rows import RawRow, fail
from . import columns as names
from .labels import label_reading
from .messages import is_dialogue, listed
from .shape_refusals import NO_SHAPES, refuse_shape

LOOKED_AT = 200
"""Rows that decide on the form of a file."""
SHAPES = {
    "pairs": ("プロンプトと、良い応答・悪い応答", "a prompt, a better and a worse answer"),
    "dialogues": ("2つの対話（初めの共通部分がプロンプト）", "two whole dialogues; what they share is the prompt"),
    "choice": ("プロンプトと複数の応答と、どれが良いか", "a prompt, answers, and which one is better"),
    "scored": ("プロンプトと複数の応答と点数", "a prompt and answers with scores"),
    "ranked": ("プロンプトと複数の応答と順位（1 が最良）", "a prompt and answers with ranks (1 is best)"),
    "ordered": ("プロンプトと、良い順に並んだ応答", "a prompt and answers from best to worst"),
}
_WHOLE = ("prompt", "user_prompt", "プロンプト", "conversations", "conversation", "messages")  # nothing is to be added to these
_VAGUE = ("conversations", "conversation", "messages", "dialogue", "prompts", "context", "input", "user")


@dataclass(frozen=True)
class Shape:
    """A form of preference data and where it stands: `columns` maps role -> column, `share` is that of the rows looked at.

    Roles are those of `columns.ROLES`, and `answer_N`, `score_N`, `rank_N`, `winner_N` where each has a column of its own.
    """

    name: str
    columns: dict[str, str]
    ja: str
    en: str
    rows_looked_at: int = 0
    share: float = 1.0
    settings: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """What was understood, in Japanese, then in English."""
        listing = ", ".join(f"{role}={column}" for role, column in self.columns.items())
        ja, en = f"形式: {self.ja}。列: {listing}", f"Form: {self.en}. Columns: {listing}"
        if self.share < 1:
            ja += f"。初めの {self.rows_looked_at:,} 行のうち {self.share:.0%} がこの形です。ほかの形の行は除きます"
            en += f". {self.share:.0%} of the first {self.rows_looked_at:,} rows have it; rows of another form are dropped"
        return [harmless(f"{ja}。"), harmless(f"{en}.")]


def detect_shape(rows: Iterable[RawRow], columns: dict[str, str] | None = None) -> Shape:
    """The form that most of the first 200 rows have. `columns` corrects it: role -> column, '' for a role that has none.

    Rows that could not be read do not count; where there is no other, the form is 'pairs' and each row will tell its problem.
    Raises DataError for an unknown role or column, and, with what to do, for data that holds no preferences: fine-tuning texts,
    single answers with a label or a score, an ad log, votes.
    """
    looked = [row for row in islice(rows, LOOKED_AT) if isinstance(row.value, dict)]
    forced = _checked(columns or {}, [row.value for row in looked])
    if not looked:
        sides = {side: side for side in ("prompt", "chosen", "rejected")}
        return Shape("pairs", sides, *SHAPES["pairs"])
    groups: dict[tuple, list[tuple[RawRow, dict[str, str]]]] = {}
    for row in looked:
        name, mapped = fit(row.value, forced)
        needed = tuple(sorted(item for item in mapped.items() if not is_optional(item[0])))
        groups.setdefault((name, needed) if name in SHAPES else (name,), []).append((row, mapped))
    (name, *_), members = max(groups.items(), key=lambda group: (len(group[1]), group[0][0] in SHAPES))
    if name not in SHAPES:
        refuse_shape(name, members[0][1], [row for row, _ in members], len(looked))
    union: dict[str, str] = {}
    for _, mapped in members:
        union = {**mapped, **union}
    settings: dict[str, Any] = {"left_out": [role for role, column in forced.items() if not column]}
    if "label" in union:
        settings["label"] = label_reading(union, [row for row, _ in members])
    return Shape(name, _in_order(union), *SHAPES[name], len(looked), len(members) / len(looked), settings)


def is_optional(role: str) -> bool:
    """Whether a row may do without a role: one row has a system's words or a third answer, the next has not."""
    return role in ("input", "system", "history") or role.startswith(("answer_", "score_", "rank_"))


def fit(row: dict, forced: dict[str, str]) -> tuple[str, dict[str, str]]:
    """(form, role -> column) of one row; the form is one of NO_SHAPES where the row holds no preference."""
    taken = {column for column in forced.values() if column}
    found = {name: column for name, column in names.keyed(row).items() if column not in taken}
    chosen = _role("chosen", row, found, forced)
    rejected = _role("rejected", row, found, forced)
    if rejected and not chosen and "chosen" not in forced:
        chosen = _textual(names.ANSWER, row, found)
    if chosen and rejected and chosen != rejected:
        return _pair_fit(row, _without(found, chosen, rejected), forced, {"chosen": chosen, "rejected": rejected})
    prompt = _asked(row, found, forced)
    rest = _without(found, *prompt.values())
    if names.is_log(rest):
        return "log", prompt
    judged = _judged(row, rest, forced)
    if judged and prompt.get("prompt"):
        return judged[0], {**prompt, **judged[1]}
    if names.is_votes(rest, row):
        return "votes", prompt
    if judged:
        return "no_prompt", judged[1]
    return _no_preference(row, rest, chosen or rejected, bool(prompt)), prompt


def _pair_fit(row: dict, found: dict, forced: dict, sides: dict[str, str]) -> tuple[str, dict[str, str]]:
    asked = _asked(row, found, forced)
    both = [row[column] for column in sides.values()]
    vague = (
        names.key_of(asked.get("prompt", "")) in _VAGUE and "prompt" not in forced
    )  # beside whole dialogues it may hold anything
    if asked.get("prompt") and not (vague and all(isinstance(cell, list | str) and is_dialogue(cell) for cell in both)):
        return "pairs", {**asked, **sides}
    asked.pop("prompt", None)
    if any(isinstance(cell, list) or is_dialogue(cell) for cell in both):
        return "dialogues", {**asked, **sides}
    return "no_prompt", sides


def _asked(row: dict, found: dict, forced: dict) -> dict[str, str]:
    """Where the question stands: prompt, and what goes with it."""
    prompt = _role("prompt", row, found, forced)
    rest = _without(found, prompt)
    roles = {"prompt": prompt, **{role: _role(role, row, rest, forced) for role in ("input", "system", "history")}}
    if names.key_of(prompt) in _WHOLE and "input" not in forced:
        roles["input"] = ""
    return {role: column for role, column in roles.items() if column}


def _judged(row: dict, found: dict, forced: dict) -> tuple[str, dict[str, str]] | None:
    """Several answers and what was said of them."""
    label = forced["label"] if "label" in forced else names.first_of(names.NAMES["label"], found)
    if answers := _list_of_answers(row, found, forced):
        return _judged_list(row, found, forced, answers, label)
    table = names.wide(_without(found, label), row)
    if "first" in forced and "second" in forced:
        table["answer"] = {side: forced[side] for side in ("first", "second")}
    if len(table["answer"]) < 2:
        return None
    cells = {f"answer_{n}": column for n, column in table["answer"].items()}
    for kind, name in (("score", "scored"), ("rank", "ranked")):
        if len(table["answer"].keys() & table[kind].keys()) >= 2:
            return name, {**cells, **{f"{kind}_{n}": table[kind][n] for n in table["answer"] if n in table[kind]}}
    if len(won := names.winners(found)) > 1:
        return "choice", {**cells, **{f"winner_{who}": column for who, column in won.items()}}
    return ("choice", {**cells, "label": label}) if label else None


def _judged_list(row: dict, found: dict, forced: dict, answers: str, label: str) -> tuple[str, dict[str, str]] | None:
    items = listed(row[answers]) or []
    for role, name, keys in (("scores", "scored", names.ITEM_SCORE), ("ranks", "ranked", names.ITEM_RANK)):
        column = forced[role] if role in forced else names.first_of(names.NAMES[role], found)
        if column and column != answers and listed(row[column]) is not None:
            return name, {"answers": answers, role: column}
        if any(isinstance(item, dict) and names.first_of(keys, names.keyed(item)) for item in items):
            return name, {"answers": answers}
    if label:
        return "choice", {"answers": answers, "label": label}
    ordered = all(isinstance(item, str) for item in items) and names.key_of(answers) in ("output", "outputs")
    return ("ordered", {"answers": answers}) if ordered or "answers" in forced else None


def _list_of_answers(row: dict, found: dict, forced: dict) -> str:
    if "answers" in forced:
        return forced["answers"]
    return next((found[n] for n in names.NAMES["answers"] if n in found and len(listed(row[found[n]]) or ()) > 1), "")


def _no_preference(row: dict, found: dict, one_side: str, asked: bool) -> str:
    """Why a row gives no pair: what it holds instead."""
    answer = one_side or _textual((*names.ANSWER, *names.NAMES["answers"]), row, found)
    label = names.first_of(names.NAMES["label"], found)
    score = names.first_of((*names.NAMES["scores"], *names.NAMES["ranks"]), found)
    if len(names.wide(found, row)["answer"]) > 1 or len(listed(row.get(answer)) or ()) > 1:
        return "unjudged"
    if not (answer and (asked or label or score)) and not any(is_dialogue(cell) for cell in row.values()):
        return "unknown"
    return "unpaired" if label else "one_answer_a_row" if score else "fine_tuning"


def _role(role: str, row: dict, found: dict, forced: dict) -> str:
    return forced[role] if role in forced else _textual(names.NAMES[role], row, found)


def _textual(wanted: Iterable[str], row: dict, found: dict) -> str:
    """The first column of such a name that can hold text or messages: `chosen: 1` is a label."""
    return next((found[n] for n in wanted if n in found and isinstance(row[found[n]], str | list | dict | None)), "")


def _without(found: dict[str, str], *columns: str) -> dict[str, str]:
    return {name: column for name, column in found.items() if column not in columns}


def _in_order(mapped: dict[str, str]) -> dict[str, str]:
    order = {role: number for number, role in enumerate(names.ROLES)}
    return dict(sorted(mapped.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


def _checked(columns: dict[str, str], values: list[dict]) -> dict[str, str]:
    """`columns` with each column as it stands in the data; DataError for a role or a column that does not exist."""
    seen = {column for value in values for column in value if isinstance(column, str)}
    by_key = {names.key_of(column): column for column in sorted(seen)}
    for role, column in columns.items():
        if role not in names.ROLES:
            _refuse_name(role, names.ROLES, "役割", "role")
        if column and column not in seen and names.key_of(column) not in by_key and values:
            _refuse_name(column, sorted(seen), "列", "column")
    return {
        role: column if column in seen or not column else by_key.get(names.key_of(column), column)
        for role, column in columns.items()
    }


def _refuse_name(name: str, known: Iterable[str], ja: str, en: str) -> None:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
    listing = ", ".join(brief(item, 40)[1:-1] for item in known[:30])
    fail(
        f"{brief(name)} という{ja}はありません。" + (f"近い名前: {near[0]}。" if near else "") + f"→ 使える{ja}: {listing}",
        f"There is no {en} {brief(name)}." + (f" Nearest: {near[0]}." if near else "") + f" -> Possible: {listing}",
    )


__all__ = ["LOOKED_AT", "NO_SHAPES", "SHAPES", "Shape", "detect_shape", "fit"]
