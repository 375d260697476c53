"""The audit of a set of pairs: what a model would learn from it instead of the task, and whether held-out numbers would prove anything."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import DataError
from ...foreign_text import harmless
from ..split import FEW_GROUPS, Split, prompt_key, split_pairs
from .counts import find_contradictions, find_duplicates, find_few_answers, find_few_prompts, find_near_duplicates
from .finding import Finding, by_severity, findings_html
from .leaks import UNTRUSTED, Sides, find_few_groups, find_leaks, held_out_groups
from .shortcuts import find_length_imbalance, find_prompt_blind, find_surface_rule
from .texts import find_breaking_texts, find_broken_texts, find_character_faults, find_disobedience

_FRACTION, _SEED = 0.15, 42  # of the split that is tried where none is given: the recipe's defaults
_SLOW = 5_000  # rows, from which on the stages are announced


@dataclass(frozen=True)
class Audit:
    """What was found, the worst first. `counts`: rows, distinct prompts and answers, held-out groups, findings by severity.

    `trustworthy`: whether held-out numbers may be promised: at least 20 independent groups are held out, and most of their answers
    are not in training.
    """

    findings: list[Finding]
    counts: dict[str, int]
    trustworthy: bool

    @property
    def passed(self) -> bool:
        """Whether nothing of severity 'error' was found."""
        return not self.counts["error"]

    @property
    def verdict_ja(self) -> str:
        counts = self.counts
        if not self.passed:
            first = f"このままでは、モデルは違うことを学びます（要対処 {counts['error']} 件、注意 {counts['warn']} 件）。"
        elif counts["warn"]:
            first = f"学習に使えますが、注意が {counts['warn']} 件あります。"
        else:
            first = "学習の妨げになる問題は見つかりませんでした。"
        trust = f"評価側の数値は約束できません（独立した組が {counts['eval_groups']} 組。{FEW_GROUPS} 組以上が必要です）。"
        shared = "評価側の数値は約束できません（応答文の半分以上が学習側にもあります）。"
        return first if self.trustworthy else first + (trust if counts["eval_groups"] < FEW_GROUPS else shared)

    @property
    def verdict_en(self) -> str:
        counts = self.counts
        if not self.passed:
            first = f"As it is, a model learns the wrong thing ({counts['error']} error(s), {counts['warn']} warning(s))."
        elif counts["warn"]:
            first = f"Fit for training, with {counts['warn']} warning(s)."
        else:
            first = "Nothing was found that stands in the way of training."
        trust = f" Held-out numbers are not promised ({counts['eval_groups']} independent groups; {FEW_GROUPS} are needed)."
        shared = " Held-out numbers are not promised (half of the answers or more stand in training too)."
        return first if self.trustworthy else first + (trust if counts["eval_groups"] < FEW_GROUPS else shared)

    def to_dict(self) -> dict:
        """Plain JSON values."""
        return {
            "passed": self.passed,
            "trustworthy": self.trustworthy,
            "verdict_ja": self.verdict_ja,
            "verdict_en": self.verdict_en,
            "counts": dict(self.counts),
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def lines(self) -> list[str]:
        """The verdict, the counts and each finding, Japanese before English."""
        head = [self.verdict_ja, self.verdict_en, *self._counted()]
        return [harmless(line) for line in head] + [line for finding in self.findings for line in finding.lines()]

    def _repr_html_(self) -> str:
        """The same for a notebook; every text is escaped, for it may come from the user's data."""
        ja, en = (html.escape(harmless(line)) for line in self._counted())
        colour = "#b3261e" if not self.passed else "#8a5a00" if self.counts["warn"] or not self.trustworthy else "#1b6e3c"
        return (
            f"<div style='max-width:60em'><p style='border-left:6px solid {colour}; padding-left:10px'><b>{html.escape(self.verdict_ja)}</b>"
            f"<br><small>{html.escape(self.verdict_en)}</small></p><p>{ja}<br><small>{en}</small></p>{findings_html(self.findings)}</div>"
        )

    def _counted(self) -> tuple[str, str]:
        c = self.counts
        return (
            f"{c['rows']:,}対、異なるプロンプト {c['prompts']:,}・chosen {c['chosen']:,}・rejected {c['rejected']:,}、"
            f"評価側の独立した組 {c['eval_groups']:,}",
            f"{c['rows']:,} pairs, distinct prompts {c['prompts']:,}, chosen {c['chosen']:,}, rejected {c['rejected']:,}, "
            f"independent held-out groups {c['eval_groups']:,}",
        )


def audit(
    rows: Sequence[dict],
    split: Split | Sides | None = None,
    *,
    dropped_duplicates: int = 0,
    tokenizer: Any = None,
    breaches: Callable[[str], list] | None = None,
    say: Callable[[str], None] | None = None,
) -> Audit:
    """Looks for what spoils training on `rows` (of `validate`): shortcuts, copies, disobedience, leaks, rule breaches, broken text.

    `split`: how the rows are divided; without one `split_pairs` is tried. `dropped_duplicates` counts exact copies that are no longer in
    `rows`. `tokenizer`: compares lengths in tokens too. `breaches(text)`: what a text breaks of the ad rules, in place of `find_breaches`
    with the prompt as its brief (for another platform, or for none: `lambda text: []`).
    `say` hears what is being done, where that takes long. Raises DataError for no rows.
    """
    if not rows:
        raise DataError("調べる対がありません。→ データを指定してください。", "There are no pairs to audit. -> Give a dataset.")
    told = say if say and len(rows) >= _SLOW else lambda line: None
    stages: list[tuple[str, str, Callable[[], list[Finding | None]]]] = [
        ("件数", "counts", lambda: [find_few_prompts(rows), *(find_few_answers(rows, side) for side in ("chosen", "rejected"))]),
        ("見た目だけの判定", "shortcuts", lambda: [find_surface_rule(rows), find_prompt_blind(rows), find_length_imbalance(rows, tokenizer)]),
        ("依頼の指定", "obedience", lambda: find_disobedience(rows)),
        ("重複と矛盾", "copies and contradictions", lambda: [find_duplicates(rows, dropped_duplicates), find_near_duplicates(rows), *find_contradictions(rows)]),
        ("文字・言語・壊れた文", "characters, language, broken texts", lambda: [*find_character_faults(rows), *find_broken_texts(rows)]),
        ("広告の規則", "ad rules", lambda: [find_breaking_texts(rows, breaches)]),
    ]  # fmt: skip
    split = split or _tried_split(rows)
    if split:
        stages.append(
            ("評価側への漏れ", "leaks into the held-out side", lambda: [find_few_groups(rows, split), *find_leaks(split)])
        )
    found: list[Finding | None] = []
    for number, (ja, en, look) in enumerate(stages, 1):
        told(f"監査 {number}/{len(stages)}: {ja} / Audit: {en} ({len(rows):,} pairs)")
        found += look()
    findings = by_severity(found)
    groups = held_out_groups(split) if split else 0
    shared = next((finding.number for finding in findings if finding.code == "answers_on_both_sides"), 0.0)
    trustworthy = groups >= FEW_GROUPS and shared < UNTRUSTED
    return Audit(findings, _counts(rows, findings, groups), trustworthy)


def _tried_split(rows: Sequence[dict]) -> Split | None:
    try:
        return split_pairs(list(rows), _FRACTION, _SEED)
    except DataError:  # fewer than two prompts: `few_prompts` says so
        return None


def _counts(rows: Sequence[dict], findings: list[Finding], groups: int) -> dict[str, int]:
    return {
        "rows": len(rows),
        "prompts": len({prompt_key(row["prompt"]) for row in rows}),
        **{side: len({row[side] for row in rows}) for side in ("chosen", "rejected")},
        "eval_groups": groups,
        **{severity: sum(finding.severity == severity for finding in findings) for severity in ("error", "warn", "info")},
    }
