"""The names that columns of preference data go by, in English and Japanese, and which role each plays in a row."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from ...foreign_text import brief
from ..rows import fail

ROLES = ("prompt", "chosen", "rejected", "input", "system", "history", "answers", "scores", "ranks", "label", "first", "second")
"""What a user may map to a column. `first` and `second` are the two answers that `label` decides between."""

# The first name that a row has counts, so the surest come first.
NAMES: dict[str, tuple[str, ...]] = {
    role: tuple(names.split())
    for role, names in {
        "prompt": "prompt instruction question query user_prompt user_input prompts conversations conversation messages dialogue post "
        "input context user brief history プロンプト 依頼 依頼文 指示 指示文 質問 質問文 問い お題 ブリーフ 要件 入力 入力文",
        "chosen": "chosen accepted preferred chosen_response response_chosen chosen_answer answer_chosen chosen_output preferred_response "
        "preferred_output response_j winner_response winner_text winning_response winning better better_response better_answer best "
        "best_response good good_response good_answer positive winner ok 良い 良い例 良い回答 良い応答 良い文 良い案 良いコピー 良 良例 "
        "採用 採用案 採用文 採用コピー 好ましい 好ましい回答 好ましい応答 選ばれた 選ばれた回答 勝ち 勝者 正例 推奨",
        "rejected": "rejected dispreferred rejected_response response_rejected rejected_answer answer_rejected rejected_output "
        "dispreferred_response dispreferred_output response_k loser_response loser_text losing_response losing worse worse_response "
        "worse_answer worst worst_response bad bad_response bad_answer negative loser ng 悪い 悪い例 悪い回答 悪い応答 悪い文 悪い案 "
        "悪いコピー 悪 悪例 不採用 不採用案 不採用文 不採用コピー 好ましくない 好ましくない回答 好ましくない応答 選ばれなかった "
        "選ばれなかった回答 負け 敗者 負例 没 没案 ボツ ボツ案 非推奨",
        "input": "input context 入力 入力文 補足 文脈",
        "system": "system system_prompt system_message システム システムプロンプト",
        "history": "history 履歴",
        "answers": "completions responses answers candidates outputs generations summaries options output 回答 応答 候補 案",
        "scores": "scores ratings rewards score rating reward overall_score overall_scores 点数 点 評価 スコア 得点",
        "ranks": "ranks rank 順位",
        "label": "better_response_id better winner preference preferred chosen label labels choice chosen_id preferred_id chosen_index "
        "preference_strength overall_preference 勝者 勝ち 選択 良い方 好ましい方 判定 採用 どちら",
    }.items()
}
ANSWER = ("response", "answer", "completion", "output", "text", "message", "回答", "応答", "返答", "文")
"""One answer: the other side of `rejected_response`, or all that a row of ordinary fine-tuning has."""
ITEM_TEXT = ("response", "text", "answer", "content", "completion", "output", "回答", "応答", "本文", "文")
ITEM_SCORE = ("overall_score", "score", "rating", "reward", "fine_grained_score", "点数", "点", "評価", "スコア")
ITEM_RANK = ("rank", "順位")
SIGNED = ("preference_strength", "overall_preference")  # below 0 the first is better, above 0 the second
_STEMS = "response|answer|completion|output|text|candidate|generation|option|summary|copy|conversation|human_ref|" + (
    "案|回答|応答|コピー|文案|候補|広告文|テキスト|文"
)
_SCORE_STEMS, _RANK_STEMS = "score|rating|reward|points?|点数?|評価|スコア|得点", "rank|順位"
_NUMBER = r"(?P<n>[a-h]|\d{1,2})"
_WIDE = tuple(
    (kind, tuple(re.compile(pattern) for pattern in patterns))
    for kind, patterns in (
        ("answer", (rf"(?:(?:{_STEMS})_?)?{_NUMBER}", rf"{_NUMBER}_?(?:{_STEMS})")),
        *(
            (
                kind,
                (
                    rf"(?:(?:{_STEMS})_?)?(?:{stems})_?{_NUMBER}",
                    rf"(?:(?:{_STEMS})_?)?{_NUMBER}_?(?:の_?)?(?:{stems})",
                    rf"(?:{stems})_?(?:{_STEMS})_?{_NUMBER}",
                ),
            )
            for kind, stems in (("score", _SCORE_STEMS), ("rank", _RANK_STEMS))
        ),
    )
)
_WINNERS = re.compile(r"winner_(?:model_)?(?P<who>[ab]|tie)")


def parse_map(items: Iterable[str]) -> dict[str, str]:
    """['prompt=質問', 'input='] -> {'prompt': '質問', 'input': ''}, as `--map` takes it; DataError for anything else."""
    mapped: dict[str, str] = {}
    for item in items:
        role, mark, column = item.partition("=")
        if not mark or not role.strip() or role.strip() in mapped:
            fail(
                f"--map の {brief(item)} は「役割=列名」の形ではないか、同じ役割が2回あります。→ 例: --map prompt=質問 chosen=良い",
                f"{brief(item)} after --map is not role=column, or names a role twice. -> For example: --map prompt=質問 chosen=良い",
            )
        mapped[role.strip()] = column.strip()
    return mapped


@lru_cache(maxsize=4096)
def key_of(name: str) -> str:
    """A column's name as names are compared: 'Response (A)', 'response-a' and 'ＲＥＳＰＯＮＳＥ　Ａ' are one."""
    return re.sub(r"[\s\-./・（）()\[\]:：_]+", "_", unicodedata.normalize("NFKC", name).strip().lower()).strip("_")


def keyed(row: dict) -> dict[str, str]:
    """Compared name -> column, for the columns of a row; of two that are alike the first."""
    found: dict[str, str] = {}
    for name in row:
        if isinstance(name, str):
            found.setdefault(key_of(name), name)
    return found


def first_of(names: Iterable[str], found: dict[str, str]) -> str:
    """The column that goes by the first of `names` which a row has; '' for none."""
    return next((found[name] for name in names if name in found), "")


def wide(found: dict[str, str], row: dict) -> dict[str, dict[str, str]]:
    """{'answer': {'a': column, ...}, 'score': {...}, 'rank': {...}}: columns that hold one answer, score or rank each.

    Answers are columns of text; a bare 'A' or '1' is one only where nothing else is.
    """
    columns: dict[str, dict[str, str]] = {"answer": {}, "score": {}, "rank": {}}
    for name, column in sorted(found.items(), key=lambda item: len(item[0]) < 2):
        for kind, patterns in reversed(_WIDE):
            match = next((match for pattern in patterns if (match := pattern.fullmatch(name))), None)
            if match and (kind != "answer" or isinstance(row[column], str | list | dict | None)):
                columns[kind].setdefault(match["n"], column)
                break
    return columns


def winners(found: dict[str, str]) -> dict[str, str]:
    """'a', 'b' and 'tie' -> column, where each outcome has a column of its own."""
    return {match["who"]: column for name, column in found.items() if (match := _WINNERS.fullmatch(name))}


def is_number(value: Any) -> bool:
    """Whether a cell is a number, or a table's text of one."""
    return number(value) is not None


def number(value: Any) -> float | None:
    """The number in a cell, finite; None where there is none."""
    if not isinstance(value, str | int | float) or isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


_IMPRESSIONS = re.compile(r"impr(essions?)?\.?|imps?|インプレッション数?|表示回数|表示数")
_CLICKS = re.compile(r"clicks?(_all)?|link_clicks|クリック数?|クリック_すべて|リンクのクリック数?")
_VOTES = re.compile(r"(?:.*_)?votes?(?:_.*)?|.*票数?|票[a-h1-9]|.*支持数|(?:n|prefer)_[a-h1-9]")


def is_log(found: dict[str, str]) -> bool:
    """Whether the columns are those of an ad log: impressions and clicks."""
    return all(any(pattern.fullmatch(name) for name in found) for pattern in (_IMPRESSIONS, _CLICKS))


def is_votes(found: dict[str, str], row: dict) -> bool:
    """Whether two columns count votes, or 'A', 'B' and 'skip' do beside two texts."""
    counts = {name for name, column in found.items() if is_number(row[column])}
    texts = sum(isinstance(row[column], str) and name not in counts for name, column in found.items())
    return sum(bool(_VOTES.fullmatch(name)) for name in counts) > 1 or ({"a", "b", "skip"} <= counts and texts > 1)
