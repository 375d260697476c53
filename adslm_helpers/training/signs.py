"""Signs that the texts of a model in training go bad: its answers to a few held-out prompts against the base's own to the same ones.

Sixteen answers are few, so a sign is what chance gives in less than 1 of 100 evaluations. Healthy runs are called bad in how many of 100:
docs/results/health.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from ..text.brief import prompt_text
from ..text.degenerate import identical_answers
from ..text.relevance import on_topic
from ..text.rubric import CHECKS, judge

LEVEL = 0.01
# What is known of broken texts before any is read: at most about 1 of 20 answers of a working model (real ads and the embedded model:
# 0-0.3 %). A base that breaks more often refutes it: then its own answers are all that is known.
_WORKING_MODEL, _UNKNOWN_MODEL = (1, 19), (1, 1)
# A kind of damage that the chosen texts themselves have so often is what the data teaches, not a fault of the training.
_TAUGHT_SHARE = 0.05
_LEAST_TAUGHT = 2
# What so many of the chosen texts do is what the training should teach.
_STANDARD_SHARE = 0.9
_SHRUNK = 0.5

GROUPS = {
    "loops": ("run", "repetition", "period"),
    "empty": ("empty",),
    "foreign": ("foreign", "language", "no_kana"),
    "residue": ("residue",),
    "echo": ("echo",),
    "symbols": ("symbols",),
    "identical": ("identical",),
}
_WORDS = {
    "loops": ("くり返しで壊れています", "loop"),
    "empty": ("空です", "are empty"),
    "foreign": ("日本語でなくなっています", "are no longer Japanese"),
    "residue": ("チャット形式の記号を含みます", "hold residue of the chat format"),
    "echo": ("指示の丸写しです", "give the brief back"),
    "symbols": ("記号ばかりです", "are symbols only"),
    "identical": ("別の依頼への文と同じです", "are the same for another brief"),
    "brief_forgotten": ("依頼にある商品名や訴求点を、学習前より落としています", "name less of the brief's product and selling point than before the training"),
    "falls_short": ("、見本の守る基準を学習前より守れていません", "do less of what the chosen texts do than before the training"),
    "off_topic": ("別の依頼への文に見えます", "belong to another brief by their words"),
    "shrunk": ("学習前の文と見本の半分より短くなりました", "are less than half as long as the base's text and the chosen one"),
    "unstopped": ("自分で終わらなくなりました", "no longer end by themselves"),
}  # fmt: skip
SIGNS = tuple(_WORDS)


@dataclass(frozen=True)
class Asked:
    """One watched prompt with what its answer is held against."""

    prompt: str | list[dict]
    chosen: str

    @property
    def text(self) -> str:
        return prompt_text(self.prompt)


@dataclass(frozen=True)
class Standard:
    """What the chosen texts of a dataset are like: `checks` of the rubric that 9 of 10 hold, and damage that they have themselves."""

    checks: tuple[str, ...] = tuple(CHECKS)
    taught: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """One answer and what was seen in it."""

    text: str
    stopped: bool
    broken: tuple[str, ...]
    """Names of damage, as `find_degeneration` gives them, and 'identical'."""
    held: int
    """How many of the words that the prompt states (product, selling point) the answer names."""
    stated: int
    on_topic: bool
    missed: tuple[str, ...]
    """Checks of the standard that do not hold."""
    score: float
    """The rubric's, 0-1."""

    def to_dict(self) -> dict:
        return {**asdict(self), "broken": list(self.broken), "missed": list(self.missed)}


@dataclass(frozen=True)
class Sign:
    """One thing that got worse since the base: in `count` of `n` answers (`base_count` for the base), and how likely by chance."""

    kind: str
    count: int
    base_count: int
    n: int
    p: float
    severe: bool
    """Most answers are worse than the base's."""
    check: str | None = None
    """Of a standard that is missed: the check that fell most."""

    @property
    def words(self) -> tuple[str, str]:
        """One clause, Japanese and English."""
        ja, en = _WORDS[self.kind]
        if self.check:
            ja, en = f"{ja}（特に「{CHECKS[self.check][0]}」）", f"{en} (above all: {CHECKS[self.check][1]})"
        return (
            f"{self.n} 件中 {self.count} 件の文が{ja}（学習前 {self.base_count} 件）",
            f"{self.count} of {self.n} answers {en} (base: {self.base_count})",
        )

    def to_dict(self) -> dict:
        return {**asdict(self), "p": float(f"{self.p:.3g}")}


@dataclass(frozen=True)
class Answers:
    """All answers of one evaluation, in the order of the watched prompts."""

    items: list[Answer] = field(repr=False)

    @property
    def score(self) -> float:
        """Mean rubric score, 0-1."""
        return sum(item.score for item in self.items) / len(self.items)

    def counts(self) -> dict[str, int]:
        """How many answers show each kind of damage (only kinds that occur)."""
        return dict(Counter(kind for item in self.items for kind in item.broken))


def read_answers(
    asked: Sequence[Asked], texts: Sequence[str], stopped: Sequence[bool], standard: Standard = Standard()
) -> Answers:
    """Judges the answers to the watched prompts, each with whether it ended by itself, by what the data's chosen texts do."""
    repeated = identical_answers([item.text for item in asked], texts)
    topical = on_topic(texts, [f"{item.text}\n{item.chosen}" for item in asked], [item.text for item in asked])
    answers = []
    for item, text, ended, fits in zip(asked, texts, stopped, topical, strict=True):
        judged = judge(item.prompt, text, stopped=ended)
        broken = [*judged.degenerate, *(["identical"] if text.strip() and text.strip() in repeated else [])]
        broken = tuple(kind for kind in broken if kind not in standard.taught)
        stated = [judged.checks[name] for name in ("product", "appeal") if judged.checks[name] is not None]
        missed = tuple(name for name in judged.failures if name in standard.checks)
        applied = [value for value in judged.checks.values() if value is not None]
        score = 0.0 if broken else sum(applied) / len(applied)
        answers.append(Answer(text, ended, broken, sum(stated), len(stated), fits, missed, round(score, 4)))
    return Answers(answers)


def standard_of(rows: Sequence[dict]) -> Standard:
    """The standard that the chosen texts of these pairs set: nobody is held to a check that they miss, or blamed for damage that they have.

    Damage is taught when at least 1 of 20 chosen texts, and at least two, have it.
    """
    judged = [judge(row["prompt"], row["chosen"]) for row in rows]
    counts = Counter(kind for one in judged for kind in one.degenerate)
    repeated = identical_answers([prompt_text(row["prompt"]) for row in rows], [row["chosen"] for row in rows])
    counts["identical"] = sum(row["chosen"].strip() in repeated for row in rows)
    taught = (kind for kind, count in counts.items() if count >= max(_LEAST_TAUGHT, _TAUGHT_SHARE * len(rows)))
    held = {name: [one.checks[name] for one in judged if one.checks[name] is not None] for name in CHECKS}
    checks = (name for name, values in held.items() if values and sum(values) >= _STANDARD_SHARE * len(values))
    return Standard(tuple(checks), tuple(sorted(taught)))


def find_signs(asked: Sequence[Asked], base: Answers, now: Answers) -> list[Sign]:
    """All that got worse since the base, the likeliest damage first; empty when nothing did beyond chance."""
    pairs = list(zip(base.items, now.items, strict=True))
    found = [
        _damage(base, now),
        _paired("brief_forgotten", [(b.held < b.stated, n.held < b.stated, n.held - b.held) for b, n in pairs if b.stated]),
        _falls_short(pairs),
        _paired("off_topic", [(not b.on_topic, not n.on_topic, n.on_topic - b.on_topic) for b, n in pairs]),
        _paired("unstopped", [_two("unstopped" in b.broken, "unstopped" in n.broken) for b, n in pairs]),
        _paired("shrunk", [_length(item, b, n) for item, (b, n) in zip(asked, pairs, strict=True)]),
    ]
    return [sign for sign in found if sign is not None]


def sign_test(worse: int, better: int) -> float:
    """One-sided exact sign test: the probability of at least `worse` of `worse + better` fair coins. 1 where nothing differs."""
    n = worse + better
    return sum(math.comb(n, k) for k in range(worse, n + 1)) / 2**n if n else 1.0


def excess(count: int, base_count: int, n: int) -> float:
    """Probability of at least `count` broken answers of `n`, where the base gave `base_count` of `n`.

    Beta-binomial: the share of broken answers is not known, only estimated by the base's few and the prior.
    """
    broken, sound = _WORKING_MODEL if base_count * sum(_WORKING_MODEL) <= n else _UNKNOWN_MODEL
    a, b = broken + base_count, sound + n - base_count

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    return sum(math.comb(n, k) * math.exp(log_beta(a + k, b + n - k) - log_beta(a, b)) for k in range(count, n + 1))


def _damage(base: Answers, now: Answers) -> Sign | None:
    """Broken answers of any kind but 'unstopped', named by the kind that grew most."""
    before, after = ([set(item.broken) - {"unstopped"} for item in side.items] for side in (base, now))
    count, base_count = sum(map(bool, after)), sum(map(bool, before))
    p = excess(count, base_count, len(after))
    if count <= base_count or p > LEVEL:
        return None
    grown = {
        name: sum(bool(kinds & set(group)) for kinds in after) - sum(bool(kinds & set(group)) for kinds in before)
        for name, group in GROUPS.items()
    }
    return Sign(max(grown, key=grown.__getitem__), count, base_count, len(after), p, 2 * (count - base_count) > len(after))


def _paired(kind: str, pairs: list[tuple[bool, bool, int]]) -> Sign | None:
    """(bad before, bad now, change: below 0 is worse) of every answer that gives evidence -> a sign, by the exact sign test."""
    worse, better = sum(change < 0 for _, _, change in pairs), sum(change > 0 for _, _, change in pairs)
    p = sign_test(worse, better)
    if p > LEVEL:
        return None
    counts = [sum(bad) for bad in list(zip(*pairs, strict=True))[:2]]
    return Sign(kind, counts[1], counts[0], len(pairs), p, 2 * (worse - better) > len(pairs))


def _falls_short(pairs: list[tuple[Answer, Answer]]) -> Sign | None:
    sign = _paired("falls_short", [(bool(b.missed), bool(n.missed), len(b.missed) - len(n.missed)) for b, n in pairs])
    if sign is None:
        return None
    grown = Counter(name for _, now in pairs for name in now.missed)
    grown.subtract(name for base, _ in pairs for name in base.missed)
    return replace(sign, check=grown.most_common(1)[0][0])


def _two(before: bool, now: bool) -> tuple[bool, bool, int]:
    return before, now, before - now


def _length(item: Asked, base: Answer, now: Answer) -> tuple[bool, bool, int]:
    """Much shorter than both the base's answer and the chosen text, against much longer than both."""
    sizes = len(base.text), len(item.chosen)
    short, long = len(now.text) < _SHRUNK * min(sizes), _SHRUNK * len(now.text) > max(sizes)
    return False, short, long - short
