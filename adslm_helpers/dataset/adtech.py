"""Questions and answers of the ad trade: the second sample set, for models that know Japanese (`data/adtech_qa.yaml`)."""

from __future__ import annotations

from ..data_files import read_yaml


def adtech_pairs() -> list[dict]:
    """The pairs, as rows with prompt, chosen, rejected, topic, keywords (for `judge_answer`) and is_ad False.

    Both sides are true, of one length and of one style: only the use of the answer tells them apart. The questions of
    `adtech_questions` are not among them.
    """
    return [_row(pair) for pair in read_yaml("adtech_qa.yaml")["pairs"] if not pair.get("asked")]


def adtech_questions() -> list[dict]:
    """The ten questions that are asked before and after, as rows like those of `adtech_pairs`: no model was trained on them."""
    return [_row(pair) for pair in read_yaml("adtech_qa.yaml")["pairs"] if pair.get("asked")]


def _row(pair: dict) -> dict:
    # Lists of their own: the file is parsed once, and a caller may change a row.
    return {
        "prompt": pair["question"],
        **{key: pair[key] for key in ("chosen", "rejected", "topic")},
        "keywords": [list(group) for group in pair["keywords"]],
        "is_ad": False,
    }
