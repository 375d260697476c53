"""Rows of any form -> rows with prompt, chosen and rejected; a row that gives no pair is handed on with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any, NoReturn

from ...foreign_text import brief
from ..rows import Problem, RawRow, Unusable
from . import columns as names
from .labels import TIE, answer_suffixes, winner
from .messages import conversation, history_messages, listed
from .shape_refusals import NO_SHAPES
from .shapes import SHAPES, Shape, fit, is_optional

REASONS = {
    "diverges": ("対話が途中で分かれる", "dialogues part early"),
    "tie": ("引き分け", "tie"),
    "small_margin": ("差が小さい", "small margin"),
    "no_winner": ("どれが良いか不明", "no winner named"),
    "one_answer": ("比べる応答がない", "nothing to compare"),
    "other_shape": ("ほかの形の行", "row of another form"),
}
"""Codes of dropped rows that only the forms bring: for the list of the dataset report."""
_SIDES = ("prompt", "chosen", "rejected")


def shaped(rows: Iterator[RawRow], shape: Shape, every_pair: bool = False, margin: float = 0.0) -> Iterator[RawRow]:
    """Each row of `rows` as {"prompt", "chosen", "rejected", ...its other columns}, or with the problem why it gives none.

    Several answers give their best against their worst, or `every_pair` of them; a pair whose scores or ranks differ by less
    than `margin`, or not at all, is none. Every row gives at least one row; further ones have `again` set.
    """
    plain = shape.name == "pairs" and all(shape.columns.get(side) == side for side in _SIDES) and len(shape.columns) == 3
    for raw in rows:
        if raw.problem or not isinstance(raw.value, dict) or (plain and _is_plain(raw.value) and not _late(raw.value, shape)):
            yield raw
        else:
            for number, outcome in enumerate(_outcomes(raw, shape, every_pair, margin)):
                problem = outcome if isinstance(outcome, Problem) else None
                yield RawRow(None if problem else outcome, raw.place, problem, again=number > 0)


def _is_plain(row: dict) -> bool:
    """Whether nothing has to be read out of the cells: by far the most rows."""
    for side in _SIDES:
        cell = row.get(side)
        if not isinstance(cell, str) or (start := cell.lstrip()[:20])[:1] == "[" or ":" in start or "：" in start:
            return False
    return True


def _outcomes(raw: RawRow, shape: Shape, every_pair: bool, margin: float) -> list[dict | Problem]:
    row = raw.value
    try:
        mapped = _columns_of(row, shape)
        found = _pairs(row, mapped, shape, every_pair, margin)
    except Unusable as unusable:
        return [unusable.at(raw.place)]
    extras = _extras(row, set(mapped.values()))
    outcomes: list[dict | Problem] = []
    for pair in found:
        try:
            if isinstance(pair, Unusable):
                raise pair
            chosen, rejected, facts = pair
            outcomes.append({**_assembled(row, mapped, chosen, rejected), **extras, **facts})
        except Unusable as unusable:
            outcomes.append(unusable.at(raw.place))
    return outcomes


def _columns_of(row: dict, shape: Shape) -> dict[str, str]:
    """Role -> column of this row, whatever its capitals and spaces; raises Unusable for a row that lacks one."""
    late = {role: role for role in _late(row, shape)}
    if all(column in row for column in shape.columns.values()):
        return {**shape.columns, **late} if late else shape.columns
    found = names.keyed(row)
    mapped = {role: column if column in row else found.get(names.key_of(column), "") for role, column in shape.columns.items()}
    missing = next((shape.columns[role] for role, column in mapped.items() if not column and not is_optional(role)), None)
    if missing is None:
        return {**{role: column for role, column in mapped.items() if column}, **late}
    name, columns = fit(row, {})
    present = any(column for role, column in mapped.items() if role not in ("prompt", "input", "system", "history"))
    if present or name in ("unknown", "no_prompt"):
        listing = ", ".join(brief(key, 40) for key in [*row][:8])
        ja, en = f"列 {missing!r} がありません（ある列: {listing}）。", f"No column {missing!r} (found: {listing})."
        raise Unusable("missing_column", ja, en)
    ja, en = SHAPES[name] if name in SHAPES else (NO_SHAPES[name][0][0], NO_SHAPES[name][1][0])
    listing = ", ".join(f"{role}={column}" for role, column in columns.items())
    raise Unusable(
        "other_shape",
        f"ほかの行と形が違います（{ja.rstrip('。')}。{listing}）。",
        f"Of another form than the other rows ({en.rstrip('.')}. {listing}).",
    )


def _late(row: dict, shape: Shape) -> list[str]:
    """What belongs to the prompt and did not stand in any of the first rows."""
    roles = [role for role in ("system", "history") if role not in shape.columns and isinstance(row.get(role), str | list)]
    used = (*shape.columns.values(), *shape.settings.get("left_out", ()))
    return [role for role in roles if row[role] and role not in used]


def _extras(row: dict, used: set[str]) -> dict:
    """The other columns; one that is called like a side but is none is kept under another name."""
    return {f"original_{key}" if key in _SIDES else key: value for key, value in row.items() if key not in used}


def _pairs(row: dict, mapped: dict[str, str], shape: Shape, every_pair: bool, margin: float) -> list:
    """(chosen cell, rejected cell, further facts) of a row, or the Unusable that stands for one."""
    if shape.name in ("pairs", "dialogues"):
        return [(row[mapped["chosen"]], row[mapped["rejected"]], {})]
    answers = _answers(row, mapped)
    if len(answers) < 2:
        _too_few(len(answers))
    if shape.name == "choice":
        best = winner(row, mapped, shape.settings.get("label", "name"), [text for text, _ in answers])
        if best == TIE:
            raise Unusable("tie", "引き分けです。学ぶ差がありません。", "A tie: nothing to learn.")
        others = [text for number, (text, _) in enumerate(answers) if number != best]
        filled = [text for text in others if text not in (None, "")]  # a table has as many columns as its longest row needs
        return [(answers[best][0], text, {}) for text in filled or others[:1]]
    sign = -1 if shape.name == "ranked" else 1
    if shape.name == "ordered":
        judged = [(text, -float(place), {}) for place, (text, _) in enumerate(answers)]
    else:
        key = "rank" if sign < 0 else "score"
        judged = [
            (text, sign * value, {key: value})
            for (text, item), said in zip(answers, _said(row, mapped, key, answers), strict=True)
            if (value := names.number(said)) is not None
        ]
    return _compared(judged, every_pair, margin)


def _answers(row: dict, mapped: dict[str, str]) -> list[tuple[Any, Any]]:
    """(text, the item it came from) of each answer."""
    if "answers" in mapped:
        items = listed(row.get(mapped["answers"])) or []
    else:
        items = [row.get(mapped[f"answer_{suffix}"]) for suffix in answer_suffixes(mapped)]
    answers = []
    for item in items:
        text_key = names.first_of(names.ITEM_TEXT, names.keyed(item)) if isinstance(item, dict) else ""
        message = isinstance(item, dict) and ("role" in item or "from" in item)
        answers.append((item[text_key] if text_key and not message else item, item))
    return answers


def _said(row: dict, mapped: dict[str, str], key: str, answers: list[tuple[Any, Any]]) -> list[Any]:
    """The score or rank of each answer, None where it has none."""
    if f"{key}s" in mapped:
        said = listed(row.get(mapped[f"{key}s"])) or []
        if len(said) != len(answers):
            raise Unusable(
                "one_answer",
                f"応答は {len(answers)} 個ですが、列 {mapped[f'{key}s']!r} の値は {len(said)} 個です。",
                f"{len(answers)} answers but {len(said)} values in column {mapped[f'{key}s']!r}.",
            )
        return said
    if "answers" in mapped:
        keys = names.ITEM_SCORE if key == "score" else names.ITEM_RANK
        return [item.get(names.first_of(keys, names.keyed(item))) if isinstance(item, dict) else None for _, item in answers]
    return [row.get(mapped.get(f"{key}_{suffix}")) for suffix in answer_suffixes(mapped)]


def _compared(judged: list[tuple[Any, float, dict]], every_pair: bool, margin: float) -> list:
    """Pairs (better, worse) of the judged answers; an Unusable in place of each that differs too little."""
    if len(judged) < 2:
        _too_few(len(judged))
    ordered = sorted(judged, key=lambda one: -one[1])
    found: list = []
    for better, worse in combinations(ordered, 2) if every_pair else [(ordered[0], ordered[-1])]:
        difference = better[1] - worse[1]
        if difference <= 0:
            found.append(Unusable("tie", "点数か順位が同じです。", "The same score or rank."))
        elif difference < margin:
            ja, en = f"差 {difference:g} は {margin:g} より小さいです。", f"A difference of {difference:g} is below {margin:g}."
            found.append(Unusable("small_margin", ja, en))
        else:
            facts = {
                f"{key}_{side}": one[2][key] for side, one in zip(_SIDES[1:], (better, worse), strict=True) for key in one[2]
            }
            found.append((better[0], worse[0], facts))
    return found


def _too_few(number: int) -> NoReturn:
    ja = f"判断の付いた応答が {number} 個です。比べるには2つ要ります。"
    raise Unusable("one_answer", ja, f"{number} judged answers: two are needed to compare.")


def _assembled(row: dict, mapped: dict[str, str], chosen: Any, rejected: Any) -> dict:
    asked: dict[str, Any] = {}
    turns = [listed(cell) for cell in (row.get(mapped.get("prompt")), chosen, rejected)]
    if all(_are_texts(turn) and len(turn) == len(turns[0]) for turn in turns):  # the turns of a dialogue, side by side
        sides = [_dialogue(turns[0], answers) for answers in turns[1:]]
    else:
        sides = [_cell(cell, f'"{side}": ') for side, cell in zip(_SIDES[1:], (chosen, rejected), strict=True)]
        asked = {"prompt": _prompt(row, mapped)} if "prompt" in mapped else {}
    sides = _with_texts(sides)
    _refuse_diverging(sides)
    if before := _before(row, mapped):
        sides = [_after(before, side) if isinstance(side, list) and len(side) > 1 else side for side in sides]
        asked = {side: _after(before, cell) for side, cell in asked.items()}
    return {**asked, "chosen": sides[0], "rejected": sides[1]}


def _cell(cell: Any, where: str) -> Any:
    try:
        read = conversation(cell)
    except Unusable as unusable:
        raise Unusable(unusable.code, where + unusable.ja, where + unusable.en) from None
    alone = isinstance(read, list) and len(read) == 1 and _are_texts(read)
    return read[0] if alone else read


def _with_texts(sides: list[Any]) -> list[Any]:
    """An answer of one assistant message is its text: the other side may be text already."""
    single = [isinstance(side, list) and len(side) == 1 and isinstance(side[0], dict) for side in sides]
    return [
        side[0]["content"] if one and side[0].get("role") == "assistant" else side
        for side, one in zip(sides, single, strict=True)
    ]


def _are_texts(items: list | None) -> bool:
    return bool(items) and all(isinstance(item, str) for item in items)


def _dialogue(questions: list[str], answers: list[str]) -> list[dict]:
    texts = [text for turn in zip(questions, answers, strict=True) for text in turn]
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


def _prompt(row: dict, mapped: dict[str, str]) -> Any:
    """The question, with its input on a line below."""
    asked, further = _cell(row[mapped["prompt"]], '"prompt": '), row.get(mapped.get("input"))
    if isinstance(further, str) and further.strip() and isinstance(asked, str):
        return f"{asked}\n{further}" if asked.strip() else further
    bare = isinstance(asked, list) and len(asked) > 1 and asked[-1] == {"role": "assistant", "content": ""}
    return asked[:-1] if bare else asked  # a transcript's prompt ends in "Assistant:"


def _before(row: dict, mapped: dict[str, str]) -> list[dict]:
    """What was said before the question: the system's words and earlier turns."""
    system = row.get(mapped.get("system"))
    said = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
    return said + history_messages(row.get(mapped.get("history")))


def _after(before: list[dict], asked: Any) -> Any:
    """`asked` after `before`, whose system prompt is left out where `asked` has one; an empty question stays empty."""
    if isinstance(asked, list) and asked:
        begins = asked[0].get("role") if isinstance(asked[0], dict) else None
        return [*(message for message in before if begins != "system" or message["role"] != "system"), *asked]
    return [*before, {"role": "user", "content": asked}] if isinstance(asked, str) and asked.strip() else asked


def _refuse_diverging(sides: list[Any]) -> None:
    """Dialogues that part before their last answers compare answers to different questions; cutting them would invent a pair."""
    if not all(isinstance(side, list) and len(side) > 1 and all(isinstance(item, dict) for item in side) for side in sides):
        return
    before = [[(message["role"], message["content"].strip()) for message in side[:-1]] for side in sides]
    if before[0] == before[1]:
        return
    same = next((n for n, (a, b) in enumerate(zip(*before, strict=False)) if a != b), min(map(len, before)))
    raise Unusable(
        "diverges",
        f"chosen と rejected の対話が {same + 1} 番目の発言から分かれています（最後の応答だけが違う対話が要ります）。切りそろえはしません。",
        f"The dialogues of chosen and rejected part at message {same + 1}; only their last answers may differ. They are not cut.",
    )
