"""What an answer to a question names of what it should name, told by its words."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def judge_answer(keywords: Sequence[Sequence[str]], text: str) -> float:
    """Share of the ideas that `text` names, 0 to 1. `keywords`: one group of spellings an idea, any one of which names it.

    Compared after NFKC, in any case: ｒｏａｓ names ROAS, ５０％ names 50%. An answer of keywords alone gets 1.0: look for degeneration beside it.
    """
    assert keywords and all(keywords), "a rubric has at least one group, and each group one spelling"
    plain = _plain(text)
    named = sum(any(_plain(spelling) in plain for spelling in group) for group in keywords)
    return named / len(keywords)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
