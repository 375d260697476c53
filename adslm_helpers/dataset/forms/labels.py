"""A label that says which answer is better -> that answer, where it can mean only one."""

from __future__ import annotations

import unicodedata
from typing import Any

from ...foreign_text import brief
from ..rows import RawRow, Unusable, fail
from .columns import SIGNED, key_of, number
from .messages import listed

TIE = -1
_TIES = {
    *("tie", "ties", "tied", "draw", "equal", "same", "both", "neither", "tie_bothbad", "both_bad", "bothbad"),
    *("引き分け", "引分", "同じ", "同等", "互角", "どちらも", "両方", "同点"),
}
_ORDINALS = ({"first", "left", "左", "前"}, {"second", "right", "右", "後"})


def label_reading(mapped: dict[str, str], rows: list[RawRow]) -> str:
    """How the label column is to be read: 'signed', 'from_0', 'from_1' or 'name'; DataError where it could mean both answers.

    Numbers 0 and 1 beside answers called A and B mean 'index' in some sets and 'A is better' in others: nobody may guess.
    """
    if key_of(mapped["label"]) in SIGNED:
        return "signed"
    suffixes = answer_suffixes(mapped)
    seen = {_plain(row.value.get(mapped["label"])) for row in rows} - {""}
    found = {number(text) for text in seen}
    if not seen or None in found:
        return "name"
    numbers = {int(value) if value.is_integer() else value for value in found}
    if not suffixes:  # a list of answers
        if 0 in numbers:
            return "from_0"
        longest = max(len(listed(row.value.get(mapped["answers"])) or ()) for row in rows)
        if longest in numbers:
            return "from_1"
    elif {str(number) for number in numbers} <= {*suffixes}:
        return "name"
    elif 0 not in numbers and len(suffixes) in numbers:
        return "from_1"
    shown = ", ".join(str(number) for number in sorted(numbers)[:5])
    fail(
        f"{rows[0].place.ja}ほか: 列 {mapped['label']!r} の数（{shown}）は、どの応答を指すのか決められません。取り違えると逆のことを学びます。"
        "→ 良い方の名前（a / b など、応答の列の名前）に書き換えてください。",
        f"{rows[0].place.en} and others: the numbers in column {mapped['label']!r} ({shown}) could point at either answer, and mixing them up would teach the "
        "opposite. -> Write the better one's name there (a / b, or the name of its column).",
    )


def answer_suffixes(mapped: dict[str, str]) -> list[str]:
    """What tells the answer columns apart: ['a', 'b'], ['0', '1'], ...; [] where the answers stand in a list."""
    return [role.removeprefix("answer_") for role in mapped if role.startswith("answer_")]


def winner(row: dict, mapped: dict[str, str], reading: str, texts: list[Any]) -> int:
    """The number (from 0) of the better answer, or TIE; raises Unusable where the label names none."""
    if "label" not in mapped:
        return _one_hot(row, mapped)
    label = row.get(mapped["label"])
    text = _plain(label)
    if text in _TIES:
        return TIE
    value = number(text)
    if reading == "signed" and value is not None:
        return TIE if value == 0 else int(value > 0)
    if reading in ("from_0", "from_1") and value is not None and value.is_integer():
        place = int(value) - (reading == "from_1")
    else:
        place = _named(label, text, mapped, texts)
    if not 0 <= place < len(texts):
        column, shown = mapped["label"], brief(label, 40)
        raise Unusable(
            "no_winner",
            f"列 {column!r} の {shown} は、どの応答が良いのかを示していません。",
            f"{shown} in column {column!r} does not say which answer is better.",
        )
    return place


def _named(label: Any, text: str, mapped: dict[str, str], texts: list[Any]) -> int:
    suffixes = answer_suffixes(mapped)
    for place, suffix in enumerate(suffixes):
        column = key_of(mapped[f"answer_{suffix}"])
        if text in (suffix, column, column.replace("_", ""), f"model_{suffix}", f"{suffix}案", f"案{suffix}"):
            return place
    if len(suffixes) == 2:
        for place, words in enumerate(_ORDINALS):
            if text in words:
                return place
    wanted = label.strip() if isinstance(label, str) else ""
    same = (place for place, answer in enumerate(texts) if isinstance(answer, str) and answer.strip() == wanted != "")
    return next(same, len(texts))


def _one_hot(row: dict, mapped: dict[str, str]) -> int:
    won = {role.removeprefix("winner_"): row.get(column) for role, column in mapped.items() if role.startswith("winner_")}
    names = [who for who, value in won.items() if _plain(value) in ("1", "true")]
    suffixes = answer_suffixes(mapped)
    if names == ["tie"]:
        return TIE
    if len(names) == 1 and names[0] in suffixes:
        return suffixes.index(names[0])
    raise Unusable(
        "no_winner", "どの応答が勝ったのかの印が1つではありません。", "Not exactly one answer is marked as the winner."
    )


def _plain(label: Any) -> str:
    """A label as labels are compared; a whole number without its '.0'."""
    if label is None:
        return ""
    if isinstance(label, bool):
        return str(label).lower()
    if (value := number(label)) is not None:
        return f"{value:g}"
    return key_of(unicodedata.normalize("NFKC", label)) if isinstance(label, str) else ""
