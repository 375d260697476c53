"""Raw rows -> pair rows; every row that is dropped is counted by its reason, and the first ones are named by their place."""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..foreign_text import brief
from ..text.brief import whole_prompt
from .rows import Place, Problem, RawRow, Unusable

SIDES = ("prompt", "chosen", "rejected")
ROLES = ("system", "user", "assistant")
_LONGEST_TEXT = 200_000  # characters: more than the longest max_length holds
_LONGEST_LIST = 100
_SURROGATE = re.compile("[\ud800-\udfff]")
_LISTED = re.compile(r'\[\s*\{.*"role"', re.DOTALL)
_RESERVED = ("id", "source")  # ours; a user's column of that name is kept as original_id, original_source


@dataclass
class Validation:
    """What became of the rows: pairs_in == len(pairs) + sum(dropped.values()).

    `rows_in` counts rows of the source, `pairs_in` what they gave: more than rows_in only where a row holds several answers and
    every pair of them was asked for. A row that gives no pair counts as one that was dropped, so rows_in <= pairs_in.
    `problems` holds the first dropped rows (at most a quarter of them of one kind); `notes` counts what was changed or
    left out in rows that were kept: 'stripped' (outer white space), 'left_out:COLUMN' (a value that is no plain JSON).
    """

    pairs: list[dict] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    rows_in: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    pairs_in: int = 0


def validate(rows: Iterable[RawRow], max_reported: int = 20) -> Validation:
    """All usable pairs of `rows`, in their order, each once, and the count of the others by reason."""
    result = Validation()
    seen: dict[str, Place] = {}
    for raw in rows:
        result.pairs_in += 1
        result.rows_in += not raw.again
        outcome, notes = _normalise(raw)
        if isinstance(outcome, dict):
            digest = _digest(outcome)
            if digest not in seen:
                seen[digest] = raw.place
                result.pairs.append(outcome)
                result.notes.update(notes)
                continue
            earlier = seen[digest]
            ja, en = f"{earlier.ja} と同じ対です。", f"The same pair as {earlier.en}."
            outcome = Problem("duplicate", ja, en, raw.place)
        result.dropped[outcome.code] += 1
        if len(result.problems) < max_reported and result.dropped[outcome.code] <= max(1, max_reported // 4):
            result.problems.append(outcome)
    assert result.rows_in <= result.pairs_in == len(result.pairs) + sum(result.dropped.values())
    return result


def normalise_row(raw: RawRow) -> dict | Problem:
    """The pair row {"prompt", "chosen", "rejected", "id", "source", ...} of `raw`, or what is wrong with it.

    `prompt` stays a list of messages only where it holds more than one user message; chosen and rejected are text.
    """
    return _normalise(raw)[0]


def _normalise(raw: RawRow) -> tuple[dict | Problem, list[str]]:
    if raw.problem:
        return raw.problem, []
    notes: list[str] = []
    try:
        row = _pair(raw.value, notes)
    except Unusable as unusable:
        return unusable.at(raw.place), []
    ours = {**{side: row[side] for side in SIDES}, "id": _digest(row)[:12], "source": raw.place.short}
    return {**ours, **{key: value for key, value in row.items() if key not in ours}}, sorted(set(notes))


def _digest(row: dict) -> str:
    canonical = json.dumps([row[side] for side in SIDES], ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _pair(value: Any, notes: list[str]) -> dict:
    if not isinstance(value, dict):
        kind = type(value).__name__
        ja = f"行が JSON オブジェクトではありません（{kind}）。" + '{"prompt": …, "chosen": …, "rejected": …} の形が必要です。'
        _no("not_object", ja, f"The row is no JSON object but {kind}.")
    keys = {side: _column(value, side) for side in SIDES}
    for side in ("chosen", "rejected"):
        if keys[side] is None:
            _no_column(side, value)
    cells = {side: _cell(side, value[key], notes) for side, key in keys.items() if key is not None}
    if "prompt" not in cells and not (isinstance(cells["chosen"], list) and isinstance(cells["rejected"], list)):
        _no_column("prompt", value)
    row = _sides(cells)
    _check_texts(row)
    return {**row, **_extras(value, set(keys.values()), notes)}


def _sides(cells: dict[str, str | list[dict]]) -> dict:
    """Prompt and the two answers, out of texts or dialogues; a dialogue may repeat the prompt, or be its only copy."""
    before, texts = {}, {}
    for side in ("chosen", "rejected"):
        before[side], texts[side] = _last_answer(side, cells[side])
        if _is_blank(texts[side]):
            _empty(side)
    shared = before["chosen"] or before["rejected"]
    if before["chosen"] and before["rejected"] and before["chosen"] != before["rejected"]:
        ja = "chosen と rejected の対話が最後の応答より前で分かれています。同じプロンプトへの応答どうしが必要です。"
        _no("bad_messages", ja, "The dialogues of chosen and rejected part before the last answer.")
    prompt = cells.get("prompt", shared)
    if shared and prompt != shared:
        if whole_prompt(prompt) != shared[-1]["content"]:
            ja = "chosen・rejected の対話の初めの部分が prompt と違います。どちらが本当か決められません。"
            _no("bad_messages", ja, "The dialogue in chosen or rejected does not begin with the prompt.")
        prompt = shared
    row = {"prompt": _plain_prompt(prompt), **texts}
    if row["chosen"] == row["rejected"]:
        _no("same_answers", "chosen と rejected が同じ文です。学ぶ差がありません。", "chosen equals rejected: nothing to learn.")
    return row


def _last_answer(side: str, cell: str | list[dict]) -> tuple[list[dict], str]:
    if isinstance(cell, str):
        return [], cell
    if cell and cell[-1]["role"] != "assistant":
        role = cell[-1]["role"]
        ja = f'"{side}" の最後の発言が assistant ではなく {role} です。'
        _no("bad_messages", ja, f'The last message of "{side}" is by {role}, not by the assistant.')
    return cell[:-1], cell[-1]["content"] if cell else ""


def _plain_prompt(prompt: str | list[dict]) -> str | list[dict]:
    if not prompt or _is_blank(prompt if isinstance(prompt, str) else prompt[-1]["content"]):
        _empty("prompt")
    if isinstance(prompt, str):
        return prompt
    if prompt[-1]["role"] != "user":
        role = prompt[-1]["role"]
        ja = f'"prompt" の最後の発言が user ではなく {role} です。'
        _no("bad_messages", ja, f'The last message of "prompt" is by {role}, not by the user.')
    return prompt[0]["content"] if len(prompt) == 1 else prompt


def _cell(side: str, value: Any, notes: list[str]) -> str | list[dict]:
    """Stripped text, or messages with stripped content; the cell of a CSV may hold messages as JSON text."""
    if value is None:
        return ""
    if isinstance(value, str):
        if _LISTED.match(value.lstrip()) and (listed := _json_list(value)):
            return _messages(side, listed, notes)
        return _strip(value, notes)
    if isinstance(value, list):
        return _messages(side, value, notes)
    shown = brief(value, 40)
    _no("not_text", f'"{side}" が文字列ではありません（{shown}）。', f'"{side}" is no text ({shown}).')


def _json_list(text: str) -> list:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return value if isinstance(value, list) else []


def _messages(side: str, items: list, notes: list[str]) -> list[dict]:
    messages = []
    for number, item in enumerate(items, 1):
        role, content = (item.get("role"), item.get("content")) if isinstance(item, dict) else (None, None)
        if not isinstance(role, str) or role not in ROLES or not isinstance(content, str):
            ja = f'"{side}" の{number}番目の発言が {{"role": "user" など, "content": 文字列}} の形ではありません。'
            _no("bad_messages", ja, f'Message {number} of "{side}" is not {{"role": system|user|assistant, "content": text}}.')
        messages.append({"role": role, "content": _strip(content, notes)})
    return messages


def _strip(text: str, notes: list[str]) -> str:
    stripped = text.strip()
    if stripped != text:
        notes.append("stripped")
    return stripped


def _is_blank(text: str) -> bool:
    """Whether nothing of it can be seen: white space, zero-width and control characters only."""
    return all(unicodedata.category(character) in ("Zs", "Zl", "Zp", "Cc", "Cf") for character in text)


def _check_texts(row: dict) -> None:
    for side in SIDES:
        text = whole_prompt(row[side])
        if _SURROGATE.search(text):
            ja = f'"{side}" に対のないサロゲート（壊れた絵文字など）があります。UTF-8 にできません。'
            _no("lone_surrogate", ja, f'"{side}" holds a lone surrogate (half an emoji), which UTF-8 cannot hold.')
        if len(text) > _LONGEST_TEXT:
            ja = f'"{side}" が長すぎます（{len(text):,} 文字。{_LONGEST_TEXT:,} 文字まで）。ファイル全体が1つの欄に入っているようです。'
            _no(
                "too_long",
                ja,
                f'"{side}" is too long ({len(text):,} characters, up to {_LONGEST_TEXT:,}): a whole file in one cell?',
            )
        if "\0" in text:
            _no("nul_character", f'"{side}" に NUL 文字があります。', f'"{side}" holds a NUL character.')


def _extras(value: dict, used: set, notes: list[str]) -> dict:
    kept = {}
    for key, item in value.items():
        if key in used:
            continue
        name = f"original_{key}" if key in _RESERVED else key
        if not _is_plain(item) or not _is_plain(key):
            notes.append(f"left_out:{key!a}")
        elif name == key or name not in value:
            kept[name] = item
    return kept


def _is_plain(item: Any, depth: int = 2) -> bool:
    """Whether one line of JSON in UTF-8 can hold it: a value, or lists of values in each other (the key terms of a question)."""
    if isinstance(item, list):
        return depth > 0 and len(item) <= _LONGEST_LIST and all(_is_plain(part, depth - 1) for part in item)
    if isinstance(item, str):
        return not _SURROGATE.search(item)
    return item is None or isinstance(item, bool | int) or (isinstance(item, float) and math.isfinite(item))


def _column(value: dict, side: str) -> str | None:
    """The key for `side`; ' Prompt ' and 'ＰＲＯＭＰＴ' will do where there is no 'prompt'."""
    if side in value:
        return side
    names = (key for key in value if isinstance(key, str))
    return next((key for key in names if unicodedata.normalize("NFKC", key).strip().lower() == side), None)


def _no(code: str, ja: str, en: str) -> NoReturn:
    raise Unusable(code, ja, en)


def _no_column(side: str, value: dict) -> NoReturn:
    found = ", ".join(brief(key, 40) for key in [*value][:8])
    ja = f'列 "{side}" がありません（ある列: {found}）。DPO には prompt, chosen, rejected が必要です。'
    _no("missing_column", ja, f'No column "{side}" (found: {found}). DPO needs prompt, chosen and rejected.')


def _empty(side: str) -> NoReturn:
    why_ja, why_en = (
        ("何への応答か分かりません。", "An answer needs a prompt.")
        if side == "prompt"
        else ("DPO には対が必要です。", "DPO needs both sides.")
    )
    _no(f"empty_{side}", f'"{side}" が空です。{why_ja}', f'"{side}" is empty. {why_en}')
