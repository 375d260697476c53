"""Questions and answers of the ad trade: the second sample set, for models that know Japanese (`data/adtech_qa.yaml`)."""

from __future__ import annotations

from functools import cache

from ..data_files import read_yaml
from ..text.brief import prompt_text


def adtech_pairs() -> list[dict]:
    """The pairs, as rows with prompt, chosen, rejected, topic, keywords (for `judge_answer`) and is_ad False.

    Both sides are true, of one length and of one style: only the use of the answer tells them apart. The questions of
    `adtech_questions` are not among them.
    """
    return [_row(pair) for pair in read_yaml("adtech_qa.yaml")["pairs"] if not pair.get("asked")]


def adtech_questions() -> list[dict]:
    """The ten questions that are asked before and after, as rows like those of `adtech_pairs`: no model was trained on them."""
    return [_row(pair) for pair in read_yaml("adtech_qa.yaml")["pairs"] if pair.get("asked")]


def adtech_keywords(prompt: str | list[dict]) -> list[list[str]] | None:
    """The rubric of a question of this set; None for any other prompt. A row on disk has lost its own: `validate` keeps plain values only."""
    return _keywords().get(prompt_text(prompt))


@cache
def _keywords() -> dict[str, list[list[str]]]:
    return {pair["question"]: pair["keywords"] for pair in read_yaml("adtech_qa.yaml")["pairs"]}


def _row(pair: dict) -> dict:
    # Lists of their own: the file is parsed once, and a caller may change a row.
    return {
        "prompt": pair["question"],
        **{key: pair[key] for key in ("chosen", "rejected", "topic")},
        "keywords": [list(group) for group in pair["keywords"]],
        "is_ad": False,
    }
