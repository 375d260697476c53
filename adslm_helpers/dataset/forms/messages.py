"""One cell -> text or role/content messages, however a tool wrote them: chat messages, from/value, content parts, a transcript."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any, NoReturn

from ...foreign_text import brief
from ..rows import Unusable

_ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "client", "customer", "ユーザー", "ユーザ", "人間"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "ai", "chatbot", "アシスタント"), "assistant"),
    **dict.fromkeys(("system", "developer", "システム"), "system"),
}
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from", "speaker"), ("content", "value", "text")
_WORDS = r"Human|User|Assistant|System|ユーザー|アシスタント|システム"
_START = re.compile(rf"\s*(?:{_WORDS})[ \t]*[:：]")
_TURN = re.compile(rf"(?:\A\s*|\n[ \t]*\n)({_WORDS})[ \t]*[:：]")  # \s* between the line feeds would be quadratic
_TURN_OF_A_LINE = re.compile(rf"(?:\A\s*|\n)({_WORDS})[ \t]*[:：]")
_LISTED = re.compile(r"""\[?\s*\{\s*["'](?:role|from|content|value|speaker|text)["']\s*:""")
_LONGEST_LITERAL = 200_000  # characters


def conversation(cell: Any) -> Any:
    """Text or messages [{"role", "content"}] where `cell` is either, in any spelling; another value as it is.

    Raises Unusable for messages that are broken: an unknown role, an image, a list that was cut off.
    """
    if isinstance(cell, str):
        if _LISTED.match(cell.lstrip()):
            return [_message(item, number) for number, item in enumerate(_messages_in(cell), 1)]
        return transcript(cell) or cell
    if isinstance(cell, dict) and _is_message(cell):
        return [_message(cell, 1)]
    if isinstance(cell, list) and any(isinstance(item, dict) for item in cell):
        return [_message(item, number) for number, item in enumerate(cell, 1)]
    return cell


def listed(cell: Any) -> list | None:
    """A list, also one that a table holds as text (JSON, or what Python prints); None for anything else."""
    if isinstance(cell, str) and cell.lstrip()[:1] == "[":
        cell = _literal(cell)
    return cell if isinstance(cell, list) else None


def transcript(text: str) -> list[dict] | None:
    r"""The messages of "\n\nHuman: ...\n\nAssistant: ..."; None where the text is none."""
    if not _START.match(text):
        return None
    marks = list(_TURN.finditer(text))
    if len(marks) < 2:
        marks = list(_TURN_OF_A_LINE.finditer(text))
    roles = [_ROLES[mark[1].lower()] for mark in marks]
    alone = roles == ["assistant"] and text.startswith("\n\n")  # as sets of this kind write an answer by itself
    if not alone and (roles[0] == "assistant" or not {"user", "assistant"} <= {*roles}):
        return None
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    contents = [text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)]
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


def is_dialogue(cell: Any) -> bool:
    """Whether a cell holds a user's message and an answer to it."""
    try:
        messages = conversation(cell)
    except Unusable:
        return True  # it wanted to be one
    return isinstance(messages, list) and len(messages) > 1 and all(isinstance(item, dict) for item in messages)


def history_messages(cell: Any) -> list[dict]:
    """Earlier turns: messages, or pairs [question, answer] as some trainers keep them."""
    cell = listed(cell) if isinstance(cell, str) else cell
    if not cell:
        return []
    turns = conversation(cell)
    if isinstance(turns, list) and all(isinstance(turn, list | tuple) and len(turn) == 2 for turn in turns):
        texts = [text for turn in turns for text in turn]
        turns = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and isinstance(turn["content"], str) for turn in turns):
        _bad(f"履歴を読めません（{brief(cell, 40)}）。", f"The history cannot be read ({brief(cell, 40)}).")
    return turns


def _messages_in(text: str) -> list:
    items = _literal(text)
    if isinstance(items, list | dict):
        return items if isinstance(items, list) else [items]
    shown = brief(text, 40)
    _bad(f"発言の並びが途中で壊れています（{shown}）。", f"A list of messages in a cell is broken ({shown}).")


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    text = text.strip()
    if len(text) > _LONGEST_LITERAL or text[-1:] not in ("]", "}"):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a backslash in somebody's text
            return ast.literal_eval(text)  # pandas writes a list into a CSV as Python prints it
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _is_message(item: Any) -> bool:
    return isinstance(item, dict) and any(key in item for key in _ROLE_KEYS) and any(key in item for key in _CONTENT_KEYS)


def _message(item: Any, number: int) -> dict:
    if not _is_message(item):
        shown = brief(item, 40)
        _bad(
            f'{number}番目の発言が {{"role": …, "content": …}} の形ではありません（{shown}）。',
            f'Message {number} is not {{"role": ..., "content": ...}} ({shown}).',
        )
    named = next(item[key] for key in _ROLE_KEYS if key in item)
    role = _ROLES.get(named.strip().lower()) if isinstance(named, str) else None
    if role is None:
        shown = brief(named, 40)
        _bad(
            f"{number}番目の発言の役割 {shown} は使えません（user, assistant, system とその別名だけ）。",
            f"Message {number} is by {shown}, which cannot be used (only user, assistant, system and their other names).",
        )
    return {"role": role, "content": _content(next(item[key] for key in _CONTENT_KEYS if key in item), number)}


def _content(content: Any, number: int) -> Any:
    if not isinstance(content, list):
        return content if isinstance(content, str) else _no_text(number, type(content).__name__)
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        text = part.get("text") if isinstance(part, dict) else part
        if kind != "text" or not isinstance(text, str):
            _no_text(number, kind if isinstance(kind, str) and kind != "text" else type(part).__name__)
        texts.append(text)
    return "".join(texts)


def _no_text(number: int, kind: str) -> NoReturn:
    raise Unusable(
        "not_text",
        f"{number}番目の発言に文字以外のもの（{brief(kind, 30)}）があります。文だけを学べます。",
        f"Message {number} holds something that is no text ({brief(kind, 30)}). Only text can be learned.",
    )


def _bad(ja: str, en: str) -> NoReturn:
    raise Unusable("bad_messages", ja, en)
