"""What the team's blind ratings say: does it prefer the tuned texts, do its members agree, do they favour one side of the screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..dataset.split import prompt_key
from ..run import Run
from .agreement import krippendorff_alpha, percent_agreement, wilson_interval
from .ratings import Ratings, Vote, load_ratings

FEW_DECIDED = 20
RELIABLE, TENTATIVE = 0.8, 0.667  # Krippendorff 2004, "Content Analysis", p. 241


@dataclass(frozen=True)
class RatingSummary:
    """The ratings of a run. A prompt is one witness, however many raters and texts it had: it is a win where more than half of the votes
    on it (skips left out) are for the tuned text, a loss where more than half are for the base text, else a tie.

    `win_rate` is among the decided, with its Wilson interval; None, with (0, 1), where none is decided. `share_a`: of the votes for a side,
    how many were for A, which is tuned or base at random. `by_rater`: votes; `shared_items`: texts that two or more raters judged.
    """

    wins: int
    ties: int
    losses: int
    win_rate: float | None
    win_rate_ci95: tuple[float, float]
    votes: dict[str, int]
    by_rater: dict[str, dict[str, Any]]
    shared_items: int
    percent_agreement: float | None
    alpha: float | None
    share_a: float | None
    share_a_ci95: tuple[float, float]
    set_aside: dict[str, int]
    replaced: int

    @property
    def code(self) -> str:
        """'none', 'too_few', 'better', 'worse' or 'within_noise', as the team sees it."""
        low, high = self.win_rate_ci95
        if not self.votes:
            return "none"
        if self.wins + self.losses < FEW_DECIDED:
            return "too_few"
        return "better" if low > 0.5 else "worse" if high < 0.5 else "within_noise"

    @property
    def favours_a_side(self) -> bool:
        """Whether the side of the screen decided some votes: an even share of A lies outside its interval."""
        low, high = self.share_a_ci95
        return low > 0.5 or high < 0.5

    def lines(self) -> list[str]:
        """Result and warnings, Japanese and English."""
        return [line for pair in self._sentences() for line in pair]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, with 'code', 'ja' and 'en' (one sentence each, what the ratings say) and 'warnings' ([ja, en] each)."""
        (ja, en), *others = self._sentences()
        warnings = [list(pair) for pair in others if pair[0].startswith("注意")]
        return {**asdict(self), "code": self.code, "ja": ja, "en": en, "warnings": warnings}

    def _sentences(self) -> list[tuple[str, str]]:
        sentences = [self._verdict()]
        if self.votes:
            sentences.append(self._raters())
        if self.alpha is not None or self.shared_items:
            sentences.append(self._agreement())
        if self.favours_a_side:
            sentences.append(
                (
                    f"注意: A（左）が {self.share_a:.0%} 選ばれています（{_interval(self.share_a_ci95)}）。"
                    "左右で選ぶ癖があり、差は小さく見えます。",
                    f"Warning: A, the left side, got {self.share_a:.0%} of the votes {_interval(self.share_a_ci95)}: people favour "
                    "a side, which makes any difference look smaller.",
                )
            )
        if self.set_aside:
            n = sum(self.set_aside.values())
            sentences.append(
                (
                    f"注意: 前の評価の文につけた {n} 票は数えていません（文が変わりました）。票のファイルには残っています。",
                    f"Warning: {n} votes on the texts of an earlier evaluation are not counted: the texts changed. They stay in the files.",
                )
            )
        return sentences

    def _verdict(self) -> tuple[str, str]:
        counts = f"{self.wins} / {self.ties} / {self.losses}"
        rate = f"{self.win_rate:.0%} {_interval(self.win_rate_ci95)}" if self.win_rate is not None else "–"
        facts_ja = f"学習後の勝ち・引分・負け {counts}、決着分の勝率 {rate}"
        facts_en = f"wins, ties, losses of the tuned model {counts}, win rate among the decided {rate}"
        return {
            "none": ("チームの評価はまだありません。", "The team has rated nothing yet."),
            "too_few": (
                f"決着のついた依頼が {self.wins + self.losses} 件では、まだ何も言えません（{facts_ja}。{FEW_DECIDED} 件以上必要です）。",
                f"{self.wins + self.losses} decided briefs are too few to say anything ({facts_en}; {FEW_DECIDED} are needed).",
            ),
            "better": (f"チームは学習後の文を選びました（{facts_ja}）。", f"The team prefers the tuned texts ({facts_en})."),
            "worse": (f"チームは学習前の文を選びました（{facts_ja}）。", f"The team prefers the texts from before ({facts_en})."),
            "within_noise": (
                f"チームの好みに差があるとは言えません（{facts_ja}。区間に 50 % が入っています）。",
                f"No measurable preference of the team ({facts_en}; 50 % lies inside the interval).",
            ),
        }[self.code]

    def _raters(self) -> tuple[str, str]:
        rows = [
            f"{rater} {each['tuned']} / {each['tie']} / {each['base']} (skip {each['skip']})"
            for rater, each in self.by_rater.items()
        ]
        listing = "; ".join(rows)
        return (
            f"評価者ごとの票（学習後・引分・学習前）: {listing}",
            f"Votes by rater (tuned, tie, base): {listing}",
        )

    def _agreement(self) -> tuple[str, str]:
        share = f"{self.percent_agreement:.0%}" if self.percent_agreement is not None else "–"
        alpha = f"{self.alpha:.2f}" if self.alpha is not None else "–"
        facts_ja = f"共通の {self.shared_items} 件で評価者の一致 {share}、Krippendorff の α {alpha}"
        facts_en = f"On {self.shared_items} shared items raters agree {share}, Krippendorff's alpha {alpha}"
        if self.alpha is None or self.alpha >= RELIABLE:
            return f"{facts_ja}。", f"{facts_en}."
        if self.alpha >= TENTATIVE:
            return (
                f"{facts_ja}（{RELIABLE} 未満: 仮の結論まで）。",
                f"{facts_en} (below {RELIABLE}: good for tentative conclusions).",
            )
        return (
            f"注意: {facts_ja}（{TENTATIVE} 未満）。好みが分かれています。選ぶ基準を話し合うと、次の票が揃います。",
            f"Warning: {facts_en} (below {TENTATIVE}). Tastes differ: agree on what counts before the next round.",
        )


def rating_summary(run: Run) -> RatingSummary:
    """What the ratings of a run say, from its files; all zeros where nobody has rated yet. Raises RunError without comparisons.jsonl."""
    return summarise(load_ratings(run))


def summarise(ratings: Ratings) -> RatingSummary:
    """`rating_summary` of ratings that were read already."""
    judged = [vote for vote in ratings.votes if vote.side != "skip"]
    outcomes = Counter(
        majority(group) for group in _grouped(judged, lambda v: prompt_key(ratings.comparisons[v.index]["prompt"]))
    )
    wins, losses = outcomes["tuned"], outcomes["base"]
    by_item = [[vote.side for vote in group] for group in _grouped(judged, lambda v: v.index)]
    sided = [vote.choice for vote in judged if vote.side != "tie"]
    decided = wins + losses
    return RatingSummary(
        wins=wins,
        ties=outcomes["tie"],
        losses=losses,
        win_rate=round(wins / decided, 4) if decided else None,
        win_rate_ci95=_rounded(wilson_interval(wins, decided)),
        votes=dict(Counter(vote.side for vote in ratings.votes)),
        by_rater={rater: _of_one(ratings.votes, rater) for rater in sorted({vote.rater for vote in ratings.votes})},
        shared_items=sum(len(sides) > 1 for sides in by_item),
        percent_agreement=_round(percent_agreement(by_item)),
        alpha=_round(krippendorff_alpha(by_item)),
        share_a=round(sided.count("a") / len(sided), 4) if sided else None,
        share_a_ci95=_rounded(wilson_interval(sided.count("a"), len(sided))),
        set_aside=ratings.set_aside,
        replaced=ratings.replaced,
    )


def majority(votes: Iterable[Vote]) -> str:
    """'tuned' or 'base' where more than half of the votes, skips left out, are for it; else 'tie'."""
    sides = Counter(vote.side for vote in votes if vote.side != "skip")
    return next((side for side in ("tuned", "base") if 2 * sides[side] > sides.total()), "tie")


def _grouped(votes: Iterable[Vote], key: Any) -> Iterable[list[Vote]]:
    groups: dict[Any, list[Vote]] = {}
    for vote in votes:
        groups.setdefault(key(vote), []).append(vote)
    return groups.values()


def _of_one(votes: list[Vote], rater: str) -> dict[str, Any]:
    """Votes of one rater by side, and how many of those for a side were for A."""
    own = [vote for vote in votes if vote.rater == rater]
    sides = Counter(vote.side for vote in own)
    decided = sides["tuned"] + sides["base"]
    return {
        **{side: sides[side] for side in ("tuned", "tie", "base", "skip")},
        "win_rate": round(sides["tuned"] / decided, 4) if decided else None,
        "win_rate_ci95": _rounded(wilson_interval(sides["tuned"], decided)),
        "chose_a": sum(vote.choice == "a" for vote in own),
    }


def _interval(pair: tuple[float, float]) -> str:
    return f"[{pair[0]:.0%}, {pair[1]:.0%}]"


def _rounded(pair: tuple[float, float]) -> tuple[float, float]:
    return round(pair[0], 4), round(pair[1], 4)


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
