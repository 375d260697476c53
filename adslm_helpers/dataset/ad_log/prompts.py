"""The key of an ad log (brief, channel, ...) -> the prompt that a writer would have got."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from string import Formatter

from ...errors import DataError
from ...foreign_text import brief as shown
from ...text.brief import CHANNELS

KEY = ("brief", "channel", "device", "position", "period")
"""What makes two texts comparable: they ran for the same brief, in the same place, at the same time."""
TEMPLATE = "【テーマ】{brief}の{kind}を書いてください。{medium}"
_FIELDS = {
    "brief": "the brief of the log (keyword, ad group, page)",
    "channel": "as the log has it",
    "device": "as the log has it",
    "position": "as the log has it",
    "period": "as the log has it",
    "kind": "the channel where it names a kind of text (見出し, 説明文, ...), else 広告文",
    "medium": "「媒体：CHANNEL。」 where the channel names no kind of text, else nothing",
}
_KIND = re.compile(rf"(?:{CHANNELS})")
_INSTRUCTION = re.compile(
    r"(?:書い|作っ|作成し|考え|提案し|生成し|作り)て|ください|下さい|お願いします|\b(?:write|create|draft)\b", re.IGNORECASE
)


def is_instruction(text: str) -> bool:
    """Whether a brief asks for a text by itself already: then it is a prompt as it stands."""
    return bool(_INSTRUCTION.search(text))


def prompt_from_key(key: Mapping[str, str], template: str = TEMPLATE) -> str:
    """The prompt for one key of a log. A brief that is an instruction already stays as it is, where the template is the usual one."""
    brief, channel = key["brief"].strip(), key.get("channel", "").strip()
    if template == TEMPLATE and is_instruction(brief):
        return brief
    named = bool(_KIND.fullmatch(channel))
    values = {name: key.get(name, "").strip() for name in KEY}
    values["kind"] = channel if named else "広告文"
    values["medium"] = f"媒体：{channel}。" if channel and not named else ""
    return template.format_map(values).strip()


def check_template(template: str) -> None:
    """Raises DataError for a template that cannot be filled, names a field that there is not, or leaves the brief out."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise DataError(
            f"テンプレート {shown(template)} の括弧が正しくありません（{error}）。→ 例: {TEMPLATE}",
            f"The braces of the template {shown(template)} do not match ({error}). -> For example: {TEMPLATE}",
        ) from None
    names = [name for _, name, _, _ in parts if name is not None]
    for _, name, form, conversion in parts:
        if name is not None and (name not in _FIELDS or form or conversion):
            _refuse_field(name if name not in _FIELDS else f"{name}!{conversion or ''}:{form or ''}")
    if "brief" not in names:
        raise DataError(
            f"テンプレート {shown(template)} に {{brief}} がありません。どの依頼も同じプロンプトになります。→ 例: {TEMPLATE}",
            f"The template {shown(template)} lacks {{brief}}: every key would get the same prompt. -> For example: {TEMPLATE}",
        )


def _refuse_field(name: str) -> None:
    near = difflib.get_close_matches(name, _FIELDS, n=1, cutoff=0.4)
    ja, en = (f"近い名前: {near[0]}。", f"The nearest is {near[0]}. ") if near else ("", "")
    fields = " ".join(f"{{{field}}}" for field in _FIELDS)
    raise DataError(
        f"テンプレートの欄 {shown(name)} はありません。{ja}→ 使えるのは {fields} です。",
        f"The template has no field {shown(name)}. {en}-> Use {fields}.",
    )
