"""How much there is to learn from: distinct prompts and answers, copies, labels that contradict each other."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from ...text.brief import whole_prompt
from ..near_duplicates import near_copies
from ..split import prompt_key
from .finding import EXAMPLES, Finding, examples_of, pair_examples, place_of, quoted
from .words import finding

FEW_PROMPTS = 20
_FEW_ANSWERS = (0.05, 0.01)
_MANY_ROWS = 100  # from here on few prompts are an error: a small set is merely small
_NEAR = (0.05, 0.20)


def find_few_prompts(rows: Sequence[dict]) -> Finding | None:
    counts = Counter(prompt_key(row["prompt"]) for row in rows)
    if (number := len(counts)) >= FEW_PROMPTS:
        return None
    often = counts.most_common(EXAMPLES)
    return finding(
        "few_prompts", "error" if len(rows) >= _MANY_ROWS else "warn", number,
        f"異なるプロンプトが {number} 種類だけです（{len(rows):,}行）。",
        f"Only {number} distinct prompt(s) in {len(rows):,} rows.",
        [f"{count:,} × {quoted(prompt)}" for prompt, count in often],
    )  # fmt: skip


def find_few_answers(rows: Sequence[dict], side: str) -> Finding | None:
    counts = Counter(row[side] for row in rows)
    share = (number := len(counts)) / len(rows)
    if share >= _FEW_ANSWERS[0]:
        return None
    return finding(
        f"few_{side}", "error" if share < _FEW_ANSWERS[1] else "warn", number,
        f"異なる {side} が {number:,} 種類だけです（{len(rows):,}行の {share:.1%}）。",
        f"Only {number:,} distinct {side} texts ({share:.1%} of {len(rows):,} rows).",
        [f"{count:,} × {quoted(text)}" for text, count in counts.most_common(EXAMPLES)],
    )  # fmt: skip


def find_duplicates(rows: Sequence[dict], dropped: int = 0) -> Finding | None:
    """Exact copies: those in `rows`, and those that were dropped when it was read."""
    copies = exact_copies(rows)
    if not (number := dropped + len(copies)):
        return None
    share = number / (len(rows) + dropped)
    removed = (
        (f"（うち {dropped:,} 行は読み込み時に除きました）", f" ({dropped:,} of them were dropped on reading)")
        if dropped
        else ("", "")
    )
    severity = "error" if share >= 0.5 else "warn" if share >= 0.05 else "info"
    return finding(
        "duplicates", severity, number,
        f"全く同じ対が {number:,} 行あります（{share:.1%}）{removed[0]}。",
        f"{number:,} rows ({share:.1%}) are exact copies of another{removed[1]}.",
        examples_of(rows, copies),
    )  # fmt: skip


def find_near_duplicates(rows: Sequence[dict]) -> Finding | None:
    """Rows that repeat an earlier one but for width, marks, digits or one character in ten; exact copies left out."""
    exact = exact_copies(rows)
    copies = {number: earlier for number, earlier in near_copies(rows).items() if number not in exact}
    share = len(copies) / len(rows)
    if not copies:
        return None
    shown = list(copies.items())[:EXAMPLES]
    return finding(
        "near_duplicates", "error" if share >= _NEAR[1] else "warn" if share >= _NEAR[0] else "info", len(copies),
        f"ほぼ同じ対が {len(copies):,} 行あります（{share:.1%}。同じ依頼で、両側の文が 90 % 以上同じ）。",
        f"{len(copies):,} rows ({share:.1%}) nearly repeat another (the same prompt, both answers at least 90 % alike).",
        [
            f"{place_of(rows[n], n)} ~ {place_of(rows[earlier], earlier)}: {quoted(rows[n]['chosen'], 40)} ~ {quoted(rows[earlier]['chosen'], 40)}"
            for n, earlier in shown
        ],
    )  # fmt: skip


def find_contradictions(rows: Sequence[dict]) -> list[Finding | None]:
    """Pairs that also occur the other way round, and labels that go in a longer circle."""
    turned, circles = contradicting(rows)
    number = (len(turned) + 1) // 2
    return [
        finding(
            "reversed_pairs", _severity(len(turned) / len(rows)), number,
            f"chosen と rejected が逆の対が {number:,} 組あります。", f"{number:,} pairs also occur the other way round.",
            pair_examples(rows, sorted(turned)),
        ) if turned else None,
        finding(
            "contradictions", _severity(len(circles) / len(rows)), len(circles),
            f"同じ依頼の中で優劣が一周する行が {len(circles):,} 行あります（A > B > C > A）。",
            f"In {len(circles):,} rows the preferences of one prompt go round in a circle (A > B > C > A).",
            pair_examples(rows, sorted(circles)),
        ) if circles else None,
    ]  # fmt: skip


def exact_copies(rows: Sequence[dict]) -> dict[int, int]:
    """For each row that repeats an earlier one exactly, the number of that one."""
    first: dict[tuple, int] = {}
    copies = {}
    for number, row in enumerate(rows):
        key = (whole_prompt(row["prompt"]), row["chosen"], row["rejected"])
        if (earlier := first.setdefault(key, number)) != number:
            copies[number] = earlier
    return copies


def contradicting(rows: Sequence[dict]) -> tuple[set[int], set[int]]:
    """(rows that also occur the other way round, other rows on a longer circle of preferences), within each prompt.

    Texts are the same here when they differ in width and spaces only.
    """
    edges: dict[str, dict[tuple[str, str], list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, row in enumerate(rows):
        texts = tuple(" ".join(unicodedata.normalize("NFKC", row[side]).split()) for side in ("chosen", "rejected"))
        if texts[0] != texts[1]:
            edges[prompt_key(row["prompt"])][texts].append(number)
    turned: set[int] = set()
    circles: set[int] = set()
    for graph in edges.values():
        both = {edge for edge in graph if edge[::-1] in graph}
        turned.update(number for edge in both for number in graph[edge])
        for edge in _on_circles(set(graph) - both):
            circles.update(graph[edge])
    return turned, circles


def _on_circles(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Edges (better, worse) that are left when every text that nothing beats, or that beats nothing, is taken away in turn."""
    while edges:
        better, worse = ({edge[end] for edge in edges} for end in (0, 1))
        left = {edge for edge in edges if edge[0] in worse and edge[1] in better}
        if len(left) == len(edges):
            break
        edges = left
    return edges


def _severity(share: float) -> str:
    return "error" if share >= 0.2 else "warn"
