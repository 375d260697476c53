"""Rules that tell chosen from rejected without reading them: what a model learns instead of the task where they work."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

_LEAST_SHARE = 0.05  # a bigram in fewer texts cannot separate the sides, and there are very many of them
_NAMES = {
    "length": ("文字数", "length in characters"),
    "lines": ("行数", "number of lines"),
    "variety": ("異なる文字の割合", "share of distinct characters"),
    "digit": ("数字の割合", "share of digits"),
    "punctuation": ("記号・句読点の割合", "share of punctuation"),
    "bracket": ("括弧の割合", "share of brackets"),
    "hiragana": ("ひらがなの割合", "share of hiragana"),
    "katakana": ("カタカナの割合", "share of katakana"),
    "kanji": ("漢字の割合", "share of kanji"),
    "latin": ("英字の割合", "share of Latin letters"),
    "other": ("絵文字などの割合", "share of emoji and other characters"),
}
_CLASSES = ("digit", "punctuation", "bracket", "hiragana", "katakana", "kanji", "latin", "other")


@dataclass(frozen=True)
class Rule:
    """One surface feature as a judge: `accuracy` of "the side with more of it is `side`", ties counted half.

    0.5 says nothing, 1.0 separates the sides; never below 0.5, for the side is the one that fits.
    """

    name: str
    name_ja: str
    accuracy: float
    side: str
    kind: str = "whole"
    """'whole' (length, a share of the text), 'ending', 'character' or 'pair' (of characters)."""


def surface_rules(rows: list[dict], least: float = 0.55) -> list[Rule]:
    """The one-feature rules of at least `least` accuracy on the pairs, the best first.

    Features of a text: its length, lines and kinds of characters, how often each character and each frequent pair of
    characters occurs, and each last character. About 0.2 ms a pair of short ads.
    """
    if not rows:
        return []
    common = _common_bigrams(rows)
    balance: Counter[str] = Counter()  # pairs with more on the chosen side, minus pairs with more on the rejected side
    for row in rows:
        chosen, rejected = _features(row["chosen"], common), _features(row["rejected"], common)
        for key in chosen.keys() | rejected.keys():
            left, right = chosen.get(key, 0), rejected.get(key, 0)
            if left != right:
                balance[key] += 1 if left > right else -1
    rules = [(0.5 + abs(count) / (2 * len(rows)), key, "chosen" if count > 0 else "rejected") for key, count in balance.items()]
    rules.sort(key=lambda rule: (-rule[0], rule[1] not in _NAMES, len(rule[1]), rule[2], rule[1]))
    return [Rule(*_worded(key)[::-1], round(accuracy, 4), side, _sort(key)) for accuracy, key, side in rules if accuracy >= least]


def _common_bigrams(rows: list[dict]) -> set[str]:
    counts: Counter[str] = Counter()
    for row in rows:
        for side in ("chosen", "rejected"):
            counts.update(_bigrams(row[side]).keys())
    least = max(2, _LEAST_SHARE * 2 * len(rows))
    return {bigram for bigram, count in counts.items() if count >= least}


def _bigrams(text: str) -> Counter[str]:
    return Counter(left + right for left, right in pairwise(text))


def _features(text: str, common: set[str]) -> dict[str, float]:
    """By key: a character, a pair of characters, 'ends:X', or a name of _NAMES (all longer than a pair)."""
    counts = Counter(text)
    features: dict[str, float] = dict(counts)
    features.update((key, count) for key, count in _bigrams(text).items() if key in common)
    for character, count in counts.items():
        kind = _kind(character)
        features[kind] = features.get(kind, 0) + count
    size = len(text) or 1
    features.update((kind, features[kind] / size) for kind in _CLASSES if kind in features)
    features.update({"length": len(text), "lines": text.count("\n") + 1, "variety": len(counts) / size})
    features[f"ends:{text[-1:]}"] = 1
    return features


@lru_cache(maxsize=20_000)
def _kind(character: str) -> str:
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    if category in ("Ps", "Pe"):
        return "bracket"
    if category[0] == "P" or character in "~〜～+=<>|^`":
        return "punctuation"
    if category[0] == "N":
        return "digit"
    for mark, kind in (("HIRAGANA", "hiragana"), ("KATAKANA", "katakana"), ("CJK", "kanji"), ("LATIN", "latin")):
        if mark in name:
            return kind
    return "other"


def _sort(key: str) -> str:
    if key in _NAMES:
        return "whole"
    return {1: "character", 2: "pair"}.get(len(key), "ending")


def _worded(key: str) -> tuple[str, str]:
    if key in _NAMES:
        ja, en = _NAMES[key]
    elif key.startswith("ends:") and len(key) == 6:
        ja, en = f"末尾が「{key[5:]}」", f"ends with '{key[5:]}'"
    else:
        ja, en = f"「{key}」の数", f"count of '{key}'"
    return ja, en
