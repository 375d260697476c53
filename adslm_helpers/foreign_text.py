"""Text that others wrote, made harmless where it goes out: no secret in it, nothing that a terminal, a table or a card would obey."""

from __future__ import annotations

import html
import os
import re
from typing import Any

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Where the model hub's client looks for a token; the second is its old name."""
_SECRET_VARIABLES = (*TOKEN_VARIABLES, "WANDB_API_KEY", "OPENAI_API_KEY", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY")
_SHORTEST_SECRET = 8  # a shorter value would be struck out of innocent words
_HUB_TOKEN = re.compile(r"(?:hf|api_org)_[A-Za-z0-9]{16,}")  # no boundary before it: in JSON it may follow the letter of "\n"
# One slash where the address went through a path.
_CREDENTIALS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]{1,20}:/{1,2})[^\s/@\"'<>]{1,400}@", re.IGNORECASE)
_BEARER = re.compile(r"(?P<head>\bbearer\s+)[\w.~+/=-]{12,}", re.IGNORECASE)
# Control characters but tab and line feed; halves of a surrogate pair; what turns the reading direction of the text around it.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
_MARKDOWN = re.compile(r"([\\`*_\[\]|#~!$])")
_seen: set[str] = set()


def remember_secret(value: str) -> None:
    """Has `redacted` strike out `value` as well: a token that came from elsewhere than the environment (a file, Colab's secrets)."""
    if len(value.strip()) >= _SHORTEST_SECRET:
        _seen.add(value.strip())


def redacted(text: str) -> str:
    """`text` without hub tokens, passwords in addresses and the values of the variables that hold secrets; '***' stands for each."""
    held = {value for name in _SECRET_VARIABLES if len(value := os.environ.get(name, "").strip()) >= _SHORTEST_SECRET}
    for value in sorted(held | _seen, key=len, reverse=True):  # one may be the beginning of another
        text = text.replace(value, "***")
    text = _CREDENTIALS.sub(r"\g<scheme>***@", text)
    return _BEARER.sub(r"\g<head>***", _HUB_TOKEN.sub("***", text))


def visible(text: str) -> str:
    r"""`text` with what a terminal obeys (escape sequences, carriage returns, direction overrides) spelt out: `\u001b`, `\u202e`.

    In JSON text that is the same value in another spelling.
    """
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def harmless(text: str) -> str:
    """`text` for a terminal, a log or an error message: `redacted`, then `visible`."""
    return visible(redacted(text))


def markdown(text: Any) -> str:
    """`text` for one line of Markdown: no markup, no HTML, no link or image, no line break, no cell border; secrets struck out."""
    plain = " ".join(harmless(str(text)).split())
    plain = _MARKDOWN.sub(r"\\\1", plain).replace("://", ":\u200b//")  # else an address becomes a link by itself
    return html.escape(plain, quote=False)


def csv_cell(value: Any) -> Any:
    """`value` for a cell of a CSV file: text that a spreadsheet would run as a formula gets an apostrophe in front. Numbers stay."""
    if not isinstance(value, str):
        return value
    return f"'{value}" if value.lstrip(" \u3000\n").startswith(_FORMULA) else value


def brief(value: Any, longest: int = 60) -> str:
    """`repr` of any value for a message: short, on one line, and never an error, however deep or large the value is."""
    import reprlib

    look = reprlib.Repr()
    look.maxlevel, look.maxstring, look.maxother = 2, longest, longest
    try:
        return look.repr(value)[: 2 * longest]
    except (ValueError, RecursionError):  # an integer of thousands of digits has no repr
        return f"<{type(value).__name__}>"
