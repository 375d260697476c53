"""Whether an answer belongs to its own prompt, told by the letters that they share; needs no stated product or word."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise


def on_topic(answers: Sequence[str], references: Sequence[str], topics: Sequence[str]) -> list[bool]:
    """For each answer, whether no reference of another topic is more like it than its own one.

    `references[i]`: the words that answer i should be about (its prompt and its chosen text). `topics[i]`: equal for answers to the same
    prompt. Likeness is the cosine of character-bigram counts, each weighted by how few topics use the bigram (TF-IDF): what all prompts
    say counts nothing. An answer that shares nothing with any reference is off topic; with one topic every answer is on it.
    """
    distinct = {topic: reference for topic, reference in zip(topics, references, strict=True)}
    if len(distinct) < 2:
        return [True] * len(answers)
    counts = {topic: _bigrams(reference) for topic, reference in distinct.items()}
    spread = Counter(bigram for bigrams in counts.values() for bigram in bigrams)
    weights = {bigram: math.log(len(distinct) / n) for bigram, n in spread.items()}
    vectors = {topic: _weighted(bigrams, weights) for topic, bigrams in counts.items()}
    return [
        _is_nearest(_weighted(_bigrams(answer), weights), topic, vectors) for answer, topic in zip(answers, topics, strict=True)
    ]


def _is_nearest(answer: dict[str, float], own: str, vectors: dict[str, dict[str, float]]) -> bool:
    likeness = {
        topic: sum(value * vector.get(bigram, 0.0) for bigram, value in answer.items()) for topic, vector in vectors.items()
    }
    return likeness[own] > 0 and likeness[own] >= max(likeness.values())


def _weighted(bigrams: Counter[str], weights: dict[str, float]) -> dict[str, float]:
    """Unit length; bigrams that no reference holds are left out."""
    vector = {bigram: count * weights[bigram] for bigram, count in bigrams.items() if weights.get(bigram)}
    norm = math.sqrt(sum(value * value for value in vector.values())) or 1.0
    return {bigram: value / norm for bigram, value in vector.items()}


def _bigrams(text: str) -> Counter[str]:
    plain = "".join(unicodedata.normalize("NFKC", text).split())
    return Counter(left + right for left, right in pairwise(plain))
