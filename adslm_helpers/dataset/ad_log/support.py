"""What a log supports, in words: how many pairs, why not more, and what more would take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist

from ...foreign_text import brief as shown
from ...foreign_text import harmless
from ..statistics import Finding
from .candidates import SMALL
from .posterior import STRENGTH

FEW = 100  # pairs: below, a training has nothing to hold on to, and nothing to be judged by
_POWER = 0.8
REASONS = {
    "same_text": ("同じ文", "same text"),
    "below_p": ("差が確かでない", "difference not sure"),
    "no_click_in_key": ("比べる組にクリックがない", "no click in the key"),
    "not_considered": ("文が多い組で比べなかった", "not compared (keys with many texts)"),
    "capped": ("同じ組での1文の上限", "cap per text in its key"),
    "capped_overall": ("全体での1文の上限", "cap per wording overall"),
    "repeated": ("同じプロンプトと2文の繰り返し", "same prompt and texts again"),
    "contradicted": ("時期や端末で勝敗が逆", "keys of one prompt disagree"),
    "false_share": ("誤りの見込みの上限", "expected false share"),
}


@dataclass(frozen=True)
class LogPairs:
    """What `pairs_from_log` found: counted['pairs'] == counted['kept'] + sum(dropped.values()), and counted['kept'] == len(rows).

    Rows hold prompt, chosen, rejected, p_win, lift (relative, shrunk: what a new run should show, not the raw gap), ctr_a and ctr_b
    (posterior means of chosen and rejected), n_a, n_b, clicks_a, clicks_b and the key. `expected_false_share`: mean of 1 - p_win.
    `needed`: impressions for each text that the usual gap between two texts would take, and how many keys cannot give any pair.
    """

    rows: list[dict]
    counted: dict[str, int]
    dropped: dict[str, int]
    expected_false_share: float
    warnings: list[Finding]
    needed: dict

    @property
    def expected_lift(self) -> float:
        """Mean shrunk lift of the chosen over the rejected text; 0 without pairs."""
        return sum(row["lift"] for row in self.rows) / len(self.rows) if self.rows else 0.0

    def to_dict(self) -> dict:
        """Plain JSON values without the rows."""
        facts = {key: value for key, value in asdict(self).items() if key not in ("rows", "warnings")}
        return {
            **facts,
            "expected_lift": round(self.expected_lift, 4),
            "warnings": [finding.to_dict() for finding in self.warnings],
        }

    def lines(self) -> list[str]:
        """The summary, each line in Japanese, then in English."""
        count, reasons = self.counted, _reasons(self.dropped)
        kept, pairs = count["kept"], count["pairs"]
        pairs_of_lines = [
            (
                f"このログから作れる対は {kept:,} 組です（比べる組 {count['keys']:,}、文 {count['arms']:,}、"
                f"ありうる対 {pairs:,}）。除外: {reasons[0]}",
                f"Your log supports {kept:,} pairs (keys {count['keys']:,}, texts {count['arms']:,}, "
                f"possible pairs {pairs:,}). Not used: {reasons[1]}",
            )
        ]
        if kept:
            pairs_of_lines.append(
                (
                    f"向きが逆の対の見込みは {self.expected_false_share:.1%}、選ばれた文の CTR は平均 {self.expected_lift:+.1%} の見込みです"
                    "（偶然の分を差し引いた値）。",
                    f"Expected share of pairs the wrong way round: {self.expected_false_share:.1%}. Expected CTR of the chosen texts: "
                    f"{self.expected_lift:+.1%} on average (shrunk: chance taken off).",
                )
            )
        pairs_of_lines += [(finding.ja, finding.en) for finding in self.warnings]
        return [harmless(line) for pair in pairs_of_lines for line in pair]


def _reasons(dropped: Mapping[str, int]) -> tuple[str, str]:
    if not dropped:
        return "なし", "none"
    ordered = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    words = [(*(REASONS.get(name) or (name.replace("policy:", "広告ルール違反 "), name)), count) for name, count in ordered]
    return "、".join(f"{ja} {count:,}" for ja, _, count in words), ", ".join(f"{en} {count:,}" for _, en, count in words)


def needed_impressions(strength: float, rate: float) -> dict:
    """Impressions for each of two texts at which the usual gap between two texts of a key is found (P >= 0.95) four times out of five.

    The usual gap is the mean |difference| of two rates drawn from the prior: 2 sd / sqrt(pi). The rate cancels: with n = k * M, both the
    gap and the noise scale with sqrt(rate (1 - rate) / M), and the posterior mean holds the share n / (n + M) of the gap.
    """
    quantile, spare = NormalDist().inv_cdf(0.95), NormalDist().inv_cdf(_POWER)

    def lacking(k: float) -> float:
        seen = k / (k + 1)
        return quantile + spare * math.sqrt(seen) - math.sqrt(2 / math.pi) * k / math.sqrt(k + 1)

    low, high = 0.0, 1e3
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if lacking(middle) > 0 else (low, middle)
    gap = 2 / math.sqrt(math.pi) * math.sqrt((1 - rate) / (rate * (strength + 1))) if rate else 0.0
    return {
        "strength": round(strength, 1),
        "typical_ctr": rate,
        "typical_gap": round(gap, 4),
        "impressions_per_text": math.ceil(high * strength),
    }


def support_warnings(counted: Mapping[str, int], dropped: Mapping[str, int], needed: Mapping) -> list[Finding]:
    """What to say of a log that supports few pairs, and of keys that were not compared as a whole."""
    found = []
    if counted["kept"] < FEW:
        found.append(_few(counted, needed))
    if number := dropped.get("not_considered"):
        finding = Finding(
            "not_considered", "info", number,
            f"文が {SMALL} を超える組では、上位と下位の文どうしを比べました（{number:,} 対は見ていません）。",
            f"In keys of more than {SMALL} texts the best were compared with the worst ({number:,} pairs were not looked at).",
        )  # fmt: skip
        found.append(finding)
    return found


def _few(counted: Mapping[str, int], needed: Mapping) -> Finding:
    kept = counted["kept"]
    what = (
        ("このログからは対を作れません。", "Your log cannot support any pair.")
        if not kept
        else ("対が少ないです。", "These are few pairs.")
    )
    if needed["keys"] == needed["keys_with_one_text"]:
        return Finding(
            "no_pairs", "error", kept,
            f"{what[0]}どの組（依頼・媒体・端末・位置・時期）にも文が1つしかありません。"
            "→ 同じ依頼で2つ以上の文を同じ時期に配信するか、期間をまとめて（period=all）読んでください。",
            f"{what[1]} Every key (brief, channel, device, position, period) has one text only. "
            "-> Run two or more texts for a brief at the same time, or read the log with period=all.",
        )  # fmt: skip
    ja = f"文の表示は中央値 {needed['median_impressions']:,.0f} 回、よくある差は CTR の {needed['typical_gap']:.0%} で、"
    en = f"Median impressions of a text: {needed['median_impressions']:,.0f}; the usual gap is {needed['typical_gap']:.0%} of the CTR, "
    much = _two_digits(needed["impressions_per_text"])
    if needed["strength"] >= STRENGTH[1]:
        ja, en = (
            "同じ組の文どうしの CTR に、偶然を超える差が見えません。",
            "Texts of one key show no CTR difference beyond chance. ",
        )
        ja += f"1文 {much} 回より多い表示でも、差はないかもしれません。"
        en += f"Even with more than {much} impressions a text there may be none. "
    else:
        ja += f"それを5回中4回見つけるには1文あたり約 {much} 回の表示が要ります。"
        en += f"to find it four times in five takes about {much} impressions a text. "
    return Finding(
        "few_pairs" if kept else "no_pairs", "warn" if kept else "error", kept,
        f"{what[0]}{ja}文が1つだけの組 {needed['keys_with_one_text']:,}、クリックのない組 {needed['keys_without_click']:,}"
        f"（全 {needed['keys']:,} 組）。→ 期間を長くする、1つの依頼の文を減らして表示を集める、もっと違う文を試す、のどれかにしてください。",
        f"{what[1]} {en}Keys with one text: {needed['keys_with_one_text']:,}; without a click: {needed['keys_without_click']:,} "
        f"(of {needed['keys']:,}). -> Take a longer period, fewer texts for each brief, or texts that differ more.",
    )  # fmt: skip


def _two_digits(number: float) -> str:
    """14,103 as '14,000': it is an estimate."""
    return f"{float(f'{number:.2g}'):,.0f}"


def cvr_warning(losers: list[dict], kept: int) -> list[Finding]:
    """The CTR winner may be the one that sells less."""
    if not losers:
        return []
    examples = "、".join(shown(row["chosen"], 40) for row in losers[:3])
    finding = Finding(
        "ctr_winner_loses_cvr", "warn", len(losers),
        f"{kept:,} 組のうち {len(losers):,} 組では、CTR で勝つ文が CVR では負けています（確率 0.9 超）。例: {examples}"
        " → クリックと成約のどちらを学ばせるか決め、p_cvr_worse のある行を見直してください。",
        f"In {len(losers):,} of {kept:,} pairs the CTR winner loses on CVR (P > 0.9). For example: {examples} "
        "-> Decide whether clicks or conversions are the aim, and look at the rows with p_cvr_worse.",
    )  # fmt: skip
    return [finding]
