"""What a prompt asks for, read from its words."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

CHANNELS = "検索広告の見出し|見出し|バナーコピー|キャッチコピー|コピー|メール件名|件名|プッシュ通知|SNS投稿文|SNS投稿|投稿文|説明文|広告文|訴求文|タイトル|宣伝文"
# A field that was left blank is None: its value starts on its own line, and not with a space.
_PRODUCT = (
    re.compile(r"商品(?:名)?\s*[：:][^\S\n]*(?P<product>[^\s、。][^\n、。]*)"),
    # The phrase must start the line and hold no space: "ゲーム アプリの訴求文" names a genre, not a product.
    re.compile(
        rf"^(?:【テーマ】)?(?:[^\s、。]{{1,20}}に向けた)?(?P<product>[^\s、。【】「」]{{1,24}}?)の(?:{CHANNELS})を", re.MULTILINE
    ),
)
_AUDIENCE = (
    re.compile(r"ターゲット\s*[：:][^\S\n]*(?P<audience>[^\s、。][^\n、。]*)"),
    re.compile(r"(?P<audience>[^\s、。]{1,20})(?:に向けた|向けに)"),
)
_APPEAL = (
    re.compile(r"訴求(?:点|ポイント)?は?(?:\s*[：:])?\s*「(?P<appeal>[^「」\n]+)」"),
    re.compile(r"訴求(?:点|ポイント)?\s*[：:][^\S\n]*(?P<appeal>[^「」\s、。][^「」\n、。]*)"),
    re.compile(r"「(?P<appeal>[^「」\n]+)」を(?:入れ(?!ず|ない)|含め(?!ず|ない)|使(?!わ|用し?な|用せ|用禁))"),
)
_CHANNEL = (re.compile(r"媒体\s*[：:][^\S\n]*(?P<channel>[^\s（(、。][^\n（(、。]*)"), re.compile(rf"(?P<channel>{CHANNELS})"))
# 「A」「B」を使って, 「A」と「B」は使わずに, 「A」という言葉を避けて
_QUOTED = re.compile(
    r"(?P<words>(?:「[^「」\n]{1,60}」[、と・や]?){1,8})(?:などの?|という)?(?:言葉|語句|語|単語|表現|文言|キーワード)?[をはも]?(?:必ず|絶対に?)?"
    r"(?:(?P<forbid>使わ|使用し?な|使用せ|使用禁|入れず|入れない|含めず|含めない|含ま|避け|禁止|なし)|(?P<ask>使|入れ|含め))"
)
_WORD = re.compile(r"「([^「」\n]+)」")
# From the first digit on and up to a million: else a text of digits alone takes hours, or ends in a number that Python refuses to read.
_NUMBER = r"(?<!\d)(\d{1,6})"
_MAX = re.compile(rf"{_NUMBER}\s*(?:文字|字)\s*(?:以内|以下|まで)")
_MIN = re.compile(rf"{_NUMBER}\s*(?:文字|字)\s*以上")
_BETWEEN = re.compile(rf"{_NUMBER}\s*(?:(?:文字|字)\s*)?[~〜～-]\s*{_NUMBER}\s*(?:文字|字)")


@dataclass(frozen=True)
class Brief:
    """What a prompt states; None where it states nothing (then nothing is checked)."""

    product: str | None = None
    audience: str | None = None
    appeal: str | None = None
    channel: str | None = None
    min_chars: int | None = None
    max_chars: int | None = None
    required: tuple[str, ...] = ()
    """Words that the text shall hold, the selling point left out."""
    forbidden: tuple[str, ...] = ()
    """Words that it shall not hold."""

    def length_fits(self, text: str) -> bool | None:
        """Whether `text` keeps the stated limits, counted in characters; None where none is stated."""
        if self.min_chars is None and self.max_chars is None:
            return None
        length = len(unicodedata.normalize("NFC", text.strip()))
        return (self.min_chars or 0) <= length <= (self.max_chars or length)

    def kept(self, text: str) -> dict[str, bool]:
        """Whether `text` keeps each thing that is asked: 'length', 'product', 'appeal', 'required', 'forbidden'; no more than those."""
        plain = unicodedata.normalize("NFKC", text)
        holds = lambda words: unicodedata.normalize("NFKC", words) in plain  # noqa: E731
        length = self.length_fits(text)
        kept = {} if length is None else {"length": length}
        kept |= {name: holds(words) for name in ("product", "appeal") if (words := getattr(self, name))}
        kept |= {"required": all(map(holds, self.required))} if self.required else {}
        return kept | ({"forbidden": not any(map(holds, self.forbidden))} if self.forbidden else {})


def parse_brief(prompt: str | list[dict]) -> Brief:
    """Reads product, audience, selling point, channel and limits from a prompt (of messages: the last one of the user)."""
    text = prompt_text(prompt)
    low, high = _limits(text)
    appeal = _first(_APPEAL, "appeal", text)
    asked: dict[str, list[str]] = {"ask": [], "forbid": []}
    for found in _QUOTED.finditer(text):
        asked["forbid" if found["forbid"] else "ask"] += _WORD.findall(found["words"])
    return Brief(
        product=_first(_PRODUCT, "product", text),
        audience=_first(_AUDIENCE, "audience", text),
        appeal=appeal,
        channel=_first(_CHANNEL, "channel", text),
        min_chars=low,
        max_chars=high,
        required=tuple(word for word in asked["ask"] if word != appeal),
        forbidden=tuple(asked["forbid"]),
    )


def prompt_text(prompt: str | list[dict]) -> str:
    """The words of the user: the prompt itself, or the last user message."""
    if isinstance(prompt, str):
        return prompt
    return next((message["content"] for message in reversed(prompt) if message["role"] == "user"), "")


def whole_prompt(prompt: str | list[dict]) -> str:
    """A prompt as one text: messages of a dialogue one below the other, each after its role."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def _limits(text: str) -> tuple[int | None, int | None]:
    plain = unicodedata.normalize("NFKC", text)
    if between := _BETWEEN.search(plain):
        return int(between[1]), int(between[2])
    low, high = _MIN.search(plain), _MAX.search(plain)
    return (int(low[1]) if low else None), (int(high[1]) if high else None)


def _first(patterns: tuple[re.Pattern, ...], name: str, text: str) -> str | None:
    for pattern in patterns:
        if found := pattern.search(text):
            return found[name].strip()
    return None
