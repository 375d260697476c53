"""Training and held-out rows, with each prompt on one side only."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter

from ..errors import DataError
from ..text.brief import whole_prompt

_OVERSHOOT = 1.15  # the held-out side may exceed its share by so much, rather than miss it by more


def prompt_key(prompt: str | list[dict]) -> str:
    """What two prompts have in common that differ only in width (NFKC) and white space."""
    return " ".join(unicodedata.normalize("NFKC", whole_prompt(prompt)).split())


def split_by_prompt(rows: list[dict], eval_fraction: float, seed: int) -> tuple[list[dict], list[dict]]:
    """(train, eval), both in the order of `rows`; eval holds whole prompt groups with about `eval_fraction` of the ROWS.

    Depends on the prompts and the seed, not on the order of the rows. Groups too big for the held-out side stay in
    training; when all are, the smallest is held out. Raises DataError for fewer than two distinct prompts.
    """
    assert 0 < eval_fraction < 1, eval_fraction
    keys = [prompt_key(row["prompt"]) for row in rows]
    sizes = Counter(keys)
    if len(sizes) < 2:
        raise DataError(
            f"プロンプトが {len(sizes)} 種類しかないため、評価用に取り分けられません（同じプロンプトは片側だけに置きます）。"
            "→ 別のプロンプト（商品・対象・訴求の違う依頼）の行を足してください。",
            f"Only {len(sizes)} distinct prompt(s): nothing can be held out, for a prompt stands on one side only. "
            "-> Add rows with other prompts (another product, audience or selling point).",
        )
    held_out = _held_out(sizes, eval_fraction * len(rows), seed)
    train = [row for row, key in zip(rows, keys, strict=True) if key not in held_out]
    held = [row for row, key in zip(rows, keys, strict=True) if key in held_out]
    assert train and held and len(train) + len(held) == len(rows)
    assert not {prompt_key(row["prompt"]) for row in train} & {prompt_key(row["prompt"]) for row in held}
    return train, held


def _held_out(sizes: Counter[str], target: float, seed: int) -> set[str]:
    order = sorted(sizes, key=lambda key: hashlib.sha256(f"{seed}\n{key}".encode()).digest())
    chosen: set[str] = set()
    total = 0
    for key in order:
        closer = abs(total + sizes[key] - target) < abs(total - target)
        if closer and total + sizes[key] <= target * _OVERSHOOT and len(chosen) < len(order) - 1:
            chosen.add(key)
            total += sizes[key]
    return chosen or {min(order, key=lambda key: sizes[key])}
