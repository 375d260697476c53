"""Which column of a sheet of votes holds what, under any of the names that people give them."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DataError
from ..foreign_text import brief as shown

ROLES = ("prompt", "text_a", "text_b", "votes_a", "votes_b", "skip", "winner")


def _plain(name: str) -> str:
    """A heading or a judgement without what people vary: width, case, spaces, marks, and the particles of 「Aの票数」."""
    text = unicodedata.normalize("NFKC", str(name)).casefold()
    return re.sub(r"[\s_\-.:・/()\[\]「」『』【】のをがにへはで?!]+", "", text)


def _words(listed: str) -> tuple[str, ...]:
    return tuple(_plain(word) for word in listed.split())


_PROMPT = _words(
    "prompt プロンプト 依頼 依頼文 指示 指示文 お題 テーマ ブリーフ brief instruction input 入力 質問 question query 課題"
)
_TEXT = _words(
    "text テキスト 文 案 文案 文章 文面 広告 広告文 コピー 見出し 候補 回答 応答 出力 answer response output completion option candidate"
    " copy headline ad creative variant version title タイトル description 説明文"
)
_VOTES = _words(
    "votes vote prefer preferred preference preferences prefers 票 票数 投票 投票数 得票 得票数 支持 支持数 支持者数 人数 count counts"
    " num n wins win likes 勝ち 勝数 選択数 好み"
)
_SKIP = _words(
    "skip skips skipped スキップ 引き分け 引分け 引分 同点 同じ どちらでもない どちらとも言えない どちらともいえない わからない 分からない 棄権 パス"
    " tie ties tied draw draws neither none same equal nopreference undecided"
)
_WINNER = _words(
    "winner 勝者 勝ち 選択 選んだ方 選んだ文 判定 結果 choice chosenside judgement judgment label ラベル better 良い方 よい方 好み"
    " preferred preference vote 投票 評価 answer 回答 verdict"
)
_SIDES = {"a": "a", "b": "b", "1": "a", "2": "b", "左": "a", "右": "b", "left": "a", "right": "b"}
_VALUES = {
    **dict.fromkeys(_SKIP, "tie"),
    **dict.fromkeys(_words("both bothbad tiebothbad どちらも 両方 ="), "tie"),
    **dict.fromkeys(_words("skip skips skipped スキップ 棄権 パス わからない 分からない"), "skip"),
}


def find_columns(
    names: Sequence[str], samples: Mapping[str, Sequence[Any]], asked: Mapping[str, str] | None
) -> dict[str, list[str]]:
    """Role -> the columns that hold it ([] for none; `skip` may be several), read from the headings, and corrected by `asked`.

    `samples`: some values of each column; a column called just "A" is a text or a count by what stands in it. Raises DataError where a
    role or heading of `asked` is unknown, or the sheet cannot be read as votes.
    """
    found: dict[str, list[str]] = {role: [] for role in ROLES}
    asked = dict(asked or {})
    for role, name in asked.items():
        _refuse_unknown(role, name, names)
        found[role] = [name] if name else []
    taken = {name for columns in found.values() for name in columns}
    for name in names:
        role = None if name in taken else _role(name, samples.get(name, ()))
        if role and role not in asked and (role == "skip" or not found[role]):
            found[role].append(name)
    if "winner" not in asked and not (found["votes_a"] and found["votes_b"]) and not found["winner"]:
        taken |= {name for columns in found.values() for name in columns}
        found["winner"] = [name for name in names if name not in taken and _plain(name) in _WINNER][:1]
    _refuse_missing(found, names)
    return found


def side_of(value: Any) -> str | None:
    """'a', 'b', 'tie' or 'skip' of a single judgement; '' for a blank one, None for what cannot be understood."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    plain = _plain(str(int(value)) if isinstance(value, float) and value.is_integer() else str(value))
    if plain in ("", "nan", "null"):
        return ""
    if plain in _VALUES:
        return _VALUES[plain]
    sided = _sided(plain)
    return sided[0] if sided and sided[1] in ("", "model", "モデル", *_TEXT) else None


def count_of(value: Any) -> float | None:
    """A count of votes: 7, '7', '７票', '7/10'; 0.0 for a blank cell, None for what is no count."""
    if value is None or value == "" or (isinstance(value, float) and value != value):
        return 0.0
    if isinstance(value, bool):
        return None
    match = re.fullmatch(
        r"(\d{1,9})(?:\.0*)?(?:票|人|名)?(?:/\d{1,9})?", unicodedata.normalize("NFKC", str(value)).replace(" ", "")
    )
    return float(match[1]) if match else (0.0 if str(value).strip() in ("", "-", "--", "—") else None)


def _role(name: str, values: Sequence[Any]) -> str | None:
    plain = _plain(name)
    if plain in _PROMPT:
        return "prompt"
    if plain in _SKIP or _without(plain, _VOTES) in _SKIP:
        return "skip"
    if plain in _WINNER and any(side_of(value) in ("a", "b") for value in values):
        return "winner"
    sided = _sided(plain)
    if not sided:
        return None
    side, rest = sided
    words = _without(rest, _TEXT)
    if rest in _VOTES or words in _VOTES or (rest == "" and _are_counts(values)):
        return f"votes_{side}"
    return f"text_{side}" if rest == "" or rest in _TEXT else None


def _sided(plain: str) -> tuple[str, str] | None:
    """('a', 'votes') for 'votesa', 'avotes', '票1'; the rest must be a word that is known, which the caller looks at."""
    for mark, side in _SIDES.items():
        if plain.endswith(mark) and _known(rest := plain.removesuffix(mark)):
            return side, rest
        if plain.startswith(mark) and _known(rest := plain.removeprefix(mark)):
            return side, rest
    return None


def _known(rest: str) -> bool:
    return rest in ("", "model", "モデル", *_TEXT, *_VOTES) or _without(rest, _TEXT) in _VOTES


def _without(text: str, words: Sequence[str]) -> str:
    """`text` less one of `words` at its beginning or end, the longest that fits."""
    for word in sorted(words, key=len, reverse=True):
        if text != word and text.startswith(word):
            return text.removeprefix(word)
        if text != word and text.endswith(word):
            return text.removesuffix(word)
    return text


def _are_counts(values: Sequence[Any]) -> bool:
    filled = [value for value in values if value is not None and str(value).strip()]
    return bool(filled) and all(count_of(value) is not None for value in filled)


def _refuse_unknown(role: str, name: str, names: Sequence[str]) -> None:
    for value, known, ja, en in ((role, ROLES, "役割", "role"), (name, names, "列", "column")):
        if value and value not in known:
            near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.3)
            close_ja, close_en = (f"近い名前: {near[0]}。", f"The nearest is {near[0]}. ") if near else ("", "")
            listed = ", ".join(map(str, [*known][:20]))
            raise DataError(
                f"{ja} {shown(value)} はありません。{close_ja}→ 次から選んでください: {listed}",
                f"There is no {en} {shown(value)}. {close_en}-> Choose one of: {listed}",
            )


def _refuse_missing(found: Mapping[str, list[str]], names: Sequence[str]) -> None:
    missing = [role for role in ("prompt", "text_a", "text_b") if not found[role]]
    if not found["winner"] and not (found["votes_a"] and found["votes_b"]):
        missing.append("votes_a + votes_b / winner")
    if not missing:
        return
    listed = ", ".join(shown(name, 40) for name in names[:20])
    example = f"columns={{{', '.join(f'{role!r}: ...' for role in missing[0].split(' / ')[0].split(' + '))}}}"
    raise DataError(
        f"投票の表として読めません。{', '.join(missing)} の列が見つかりません（ある列: {listed}）。→ {example} のように列名で指定してください。",
        f"This cannot be read as votes: no column for {', '.join(missing)} (found: {listed}). -> Name the columns, like {example}.",
    )
