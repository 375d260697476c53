"""Data that holds no preferences, and what to do with it instead: in words, for the user."""

from __future__ import annotations

from typing import NoReturn

from ...foreign_text import brief
from ..rows import RawRow, fail

_MAP = (
    "列の役割を --map prompt=… chosen=… rejected=… で指定してください。",
    "Say which column is which with --map prompt=... chosen=... rejected=....",
)
# form -> what the data is, why it is not enough, what to do
NO_SHAPES: dict[str, tuple[tuple[str, str, str], tuple[str, str, str]]] = {
    "fine_tuning": (
        (
            "プロンプトに応答が1つだけの、微調整（SFT）用のデータです。",
            "DPO は良い応答と悪い応答の差から学びます。",
            "悪い方の応答を列に足すか、応答を2つ作って --votes や評価画面で人に選んでもらってください。",
        ),
        (
            "These are fine-tuning (SFT) data: one answer to each prompt.",
            "DPO learns from the difference of a better and a worse answer.",
            "Add a worse answer as a column, or write two answers and let people choose (--votes, or the rating widget).",
        ),
    ),
    "unpaired": (
        (
            "応答1つごとに良い・悪いの印が付いた、対になっていないデータ（KTO 用）です。",
            "DPO には、同じプロンプトへの2つの応答が要ります。",
            "同じプロンプトの良い応答と悪い応答を1行に並べ、chosen と rejected にしてください。KTO には TRL の KTOTrainer があります。",
        ),
        (
            "These are unpaired data (for KTO): single answers, each marked good or bad.",
            "DPO needs two answers to the same prompt.",
            "Put a good and a bad answer to one prompt into one row as chosen and rejected. For KTO there is TRL's KTOTrainer.",
        ),
    ),
    "one_answer_a_row": (
        (
            "1行に応答が1つと、その点数があるデータです。",
            "どの応答とどの応答を比べるのかが行に書かれていません。",
            "同じプロンプトの応答を1行に並べてください（列: prompt, answer_1, score_1, answer_2, score_2）。広告の成績なら --from-log です。",
        ),
        (
            "Each row holds one answer and its score.",
            "No row says which answers are to be compared.",
            "Put the answers to one prompt into one row (columns prompt, answer_1, score_1, answer_2, score_2). For ad results use --from-log.",
        ),
    ),
    "unjudged": (
        (
            "応答は複数ありますが、どれが良いかの列がありません。",
            "DPO には、どちらが良いかの判断が要ります。",
            "winner などの列に a か b を入れるか、点数の列を足すか、" + _MAP[0],
        ),
        (
            "There are several answers but no column says which is better.",
            "DPO needs that judgement.",
            "Add a column winner with a or b, or scores, or " + _MAP[1][0].lower() + _MAP[1][1:],
        ),
    ),
    "no_prompt": (
        (
            "応答の対はありますが、何への応答か（プロンプト）の列がありません。",
            "依頼の分からない応答からは学べません。",
            _MAP[0],
        ),
        (
            "There are pairs of answers but no column holds the prompt.",
            "An answer teaches nothing without what was asked.",
            _MAP[1],
        ),
    ),
    "log": (
        (
            "広告の成績（表示回数とクリック数）の表です。",
            "対にするには、クリック率の差が偶然でないことを確かめる必要があります。",
            "adslm dataset --from-log にこのファイルを渡してください。",
        ),
        (
            "This is an ad log (impressions and clicks).",
            "Before it gives pairs, differences of click rates must be shown not to be chance.",
            "Give this file to adslm dataset --from-log.",
        ),
    ),
    "votes": (
        (
            "人が投票した数の表です。",
            "対にするには、票の差が十分かを確かめる必要があります。",
            "adslm dataset --votes にこのファイルを渡してください。",
        ),
        (
            "This is a table of votes by people.",
            "Before it gives pairs, the margins of the votes must be large enough.",
            "Give this file to adslm dataset --votes.",
        ),
    ),
    "unknown": (
        (
            "どの列がプロンプト・良い応答・悪い応答なのか、名前から分かりません。",
            "取り違えると逆のことを学びます。",
            f"{_MAP[0]}（広告の配信ログなら --from-log）",
        ),
        (
            "The names of the columns do not tell prompt, better and worse answer.",
            "Mixing them up would teach the opposite.",
            f"{_MAP[1]} (An ad log: --from-log.)",
        ),
    ),
}


def refuse_shape(name: str, mapped: dict[str, str], rows: list[RawRow], looked: int) -> NoReturn:
    """DataError: where, what the data is, why it does not do, the columns that were found, and what to do."""
    (what_ja, why_ja, do_ja), (what_en, why_en, do_en) = NO_SHAPES[name]
    found = ", ".join(brief(column, 40) for column in [*rows[0].value][:12])
    known = ", ".join(f"{role}={column}" for role, column in mapped.items())
    source = rows[0].place.source
    ja = "、".join(row.place.ja.removeprefix(source).strip() for row in rows[:3])
    en = ", ".join(row.place.en.removeprefix(source).strip() for row in rows[:3])
    fail(
        f"{source} {ja}（見た {looked:,} 行のうち {len(rows):,} 行）: {what_ja}{why_ja}（列: {found}"
        + (f"。分かった役割: {known}" if known else "")
        + f"）→ {do_ja}",
        f"{source} {en} ({len(rows):,} of the {looked:,} rows looked at): {what_en} {why_en} (Columns: {found}"
        + (f"; understood: {known}" if known else "")
        + f") -> {do_en}",
    )
