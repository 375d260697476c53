"""How different the texts of one model are from each other: n-grams that do not repeat, and likeness of pairs."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

PAIRS = 200


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Distinct character n-grams of all texts / all their n-grams (Li et al. 2016, arXiv:1510.03055); None where there are none.

    Falls with the amount of text: compare only sets of about as many characters.
    """
    grams = [text[i : i + n] for text in map(_plain, texts) for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def draw_pairs(groups: Sequence[str], seed: int = 0, most: int = PAIRS) -> list[tuple[int, int]]:
    """At most `most` pairs (i, j) of positions of different groups (prompts), drawn without repetition; the same for the same seed.

    Two answers to one prompt should be alike, so they are no pair.
    """
    import random

    size = len(groups)
    rng, drawn = random.Random(f"pairs-{seed}"), {}
    for _ in range(20 * most if len(set(groups)) > 1 else 0):
        i, j = sorted((rng.randrange(size), rng.randrange(size)))
        if groups[i] != groups[j]:
            drawn[i, j] = None
        if len(drawn) == most:
            break
    return list(drawn)


def chrf_of_pairs(texts: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[float]:
    """chrF of each pair, 0 (nothing in common) to 100 (the same text): character 1- to 6-grams, no words (Popović 2015, W15-3049).

    The mean of both directions, for chrF weighs recall more than precision. Two empty texts are the same text.
    """
    from sacrebleu.metrics import CHRF

    metric = CHRF(word_order=0)
    plain = [_plain(text) for text in texts]

    def likeness(one: str, other: str) -> float:
        if one == other:
            return 100.0
        return (metric.sentence_score(one, [other]).score + metric.sentence_score(other, [one]).score) / 2

    return [likeness(plain[i], plain[j]) for i, j in pairs]


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())
