"""What `build_dataset` did, for people: lines for a terminal, a table for a notebook, plain values for report.json."""

from __future__ import annotations

import html
from dataclasses import dataclass, fields

from ..foreign_text import harmless
from .audit.audit import Audit
from .audit.finding import Finding
from .audit.repair import Repair
from .forms.shaping import REASONS as SHAPE_REASONS
from .rows import Problem

REASONS = {
    "not_json": ("JSON でない", "not JSON"),
    "duplicate_key": ("同じ項目が2回", "a key twice"),
    "too_long": ("長すぎる", "too long"),
    "not_csv": ("CSV でない", "not CSV"),
    "too_many_cells": ("セルが多すぎる", "too many cells"),
    "bad_encoding": ("文字コードが壊れている", "broken encoding"),
    "not_object": ("オブジェクトでない", "no object"),
    "missing_column": ("列がない", "column missing"),
    "empty_prompt": ("prompt が空", "empty prompt"),
    "empty_chosen": ("chosen が空", "empty chosen"),
    "empty_rejected": ("rejected が空", "empty rejected"),
    "not_text": ("文字列でない", "no text"),
    "same_answers": ("両側が同じ", "same answers"),
    "bad_messages": ("対話の形が違う", "bad messages"),
    "lone_surrogate": ("壊れた文字", "lone surrogate"),
    "nul_character": ("NUL 文字", "NUL character"),
    "duplicate": ("重複", "duplicate"),
}
_WORDS = {**REASONS, **SHAPE_REASONS}


@dataclass(frozen=True)
class DatasetReport:
    """The result of `build_dataset`: pairs_in == kept + sum(dropped.values()), and kept == split['train'] + split['eval'].

    `rows_in`: rows of the source; `pairs_in` is more only where every pair of a row with several answers was asked for. `understood`: what
    was understood of the source, in words; `facts`: the same for programs.
    """

    run: str
    source: str
    understood: list[str]
    facts: dict
    rows_in: int
    pairs_in: int
    kept: int
    dropped: dict[str, int]
    notes: dict[str, int]
    problems: list[Problem]
    repair: Repair | None
    statistics: dict
    audit: Audit
    split: dict
    sha256: dict[str, str]

    @property
    def findings(self) -> list[Finding]:
        return self.audit.findings

    def to_dict(self) -> dict:
        """Plain JSON values, as report.json holds them."""
        problems = [
            {"code": problem.code, "source": problem.place.short, "ja": problem.line_ja, "en": problem.line_en}
            for problem in self.problems
        ]
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        mended = self.repair.to_dict() if self.repair else None
        return {**plain, "problems": problems, "repair": mended, "audit": self.audit.to_dict()}

    def lines(self) -> list[str]:
        """The summary, each line in Japanese, then in English."""
        pairs = [*self._counts(), *((problem.line_ja, problem.line_en) for problem in self.problems[:5])]
        lines = [harmless(line) for line in self.understood] + [harmless(line) for pair in pairs for line in pair]
        return [*lines, *(self.repair.lines() if self.repair else []), *self.audit.lines()]

    def _counts(self) -> list[tuple[str, str]]:
        dropped = sum(self.dropped.values())
        ja, en = (f"（{reasons}）" if dropped else "" for reasons in reason_counts(self.dropped))
        several = self.pairs_in != self.rows_in
        held_ja, held_en = (f"（{self.pairs_in:,}対）", f" ({self.pairs_in:,} pairs)") if several else ("", "")
        unit_ja, unit_en = ("対", " pairs") if several else ("行", "")
        counts = [
            (
                f"{self.source}: {self.rows_in:,}行{held_ja} → 採用 {self.kept:,}{unit_ja}、除外 {dropped:,}{unit_ja}{ja}",
                f"{self.source}: {self.rows_in:,} rows{held_en} -> {self.kept:,}{unit_en} kept, "
                f"{dropped:,}{unit_en} dropped{en.translate(_ASCII)}",
            )
        ]
        if stripped := self.notes.get("stripped"):
            counts.append((f"前後の空白を除いた行: {stripped:,}行", f"Outer white space removed: {stripped:,} rows"))
        left_out = ", ".join(f"{key.partition(':')[2]} ({n:,})" for key, n in self.notes.items() if key.startswith("left_out:"))
        if left_out:
            counts.append((f"残さなかった列の値: {left_out}", f"Column values left out: {left_out}"))
        split = self.split
        counts.append(
            (
                f"学習 {split['train']:,}行（{split['train_prompts']:,}プロンプト）、評価 {split['eval']:,}行"
                f"（{split['eval_prompts']:,}プロンプト、{split['eval_share']:.1%}）。{split['statement_ja']}",
                f"Training {split['train']:,} rows ({split['train_prompts']:,} prompts), held out {split['eval']:,} rows "
                f"({split['eval_prompts']:,} prompts, {split['eval_share']:.1%}). {split['statement_en']}",
            )
        )
        return counts

    def _repr_html_(self) -> str:
        """The same for a notebook; every text is escaped, for it may come from the user's data."""
        understood = zip(self.understood[::2], self.understood[1::2], strict=False)
        counts = "".join(f"<p>{_both(ja, en)}</p>" for ja, en in [*understood, *self._counts()])
        problems = "".join(f"<li>{_both(problem.line_ja, problem.line_en)}</li>" for problem in self.problems)
        listing = f"<details><summary>除外した行の例 / Dropped rows</summary><ul>{problems}</ul></details>" if problems else ""
        mended = self.repair._repr_html_() if self.repair else ""
        return f"<div>{counts}{listing}{mended}{self.audit._repr_html_()}</div>"


_ASCII = str.maketrans({"（": " (", "）": ")"})


def reason_counts(dropped: dict[str, int]) -> tuple[str, str]:
    """'重複 2、JSON でない 1' and 'duplicate 2, not JSON 1', the most frequent first."""
    ordered = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    words = [(*_WORDS.get(code, (code, code)), count) for code, count in ordered]
    return "、".join(f"{ja} {count:,}" for ja, _, count in words), ", ".join(f"{en} {count:,}" for _, en, count in words)


def _both(ja: str, en: str) -> str:
    return f"{html.escape(harmless(ja))}<br><small>{html.escape(harmless(en))}</small>"
