"""One thing that is wrong with a set of pairs, as data, as lines and as a part of a notebook's page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from ...foreign_text import harmless
from ...text.brief import whole_prompt

SEVERITIES = {"error": ("要対処", "ERROR"), "warn": ("注意", "WARN"), "info": ("参考", "INFO")}
"""The worst first."""
EXAMPLES = 3
_LONGEST = 60  # characters of a text in an example
_COLOURS = {"error": "#b3261e", "warn": "#8a5a00", "info": "#3b5b7a"}
_LEFT = "text-align:left; vertical-align:top; padding:6px 10px"


@dataclass(frozen=True)
class Finding:
    """One thing to know before training; severity 'error' (the model will learn the wrong thing), 'warn' or 'info'.

    `number` is what was measured. `effect_*`: what it will do to the model. `cure_*`: how to mend it. `repairable`: whether
    `adslm dataset --repair` does. `examples`: up to three, each with the place of its row and the words.
    """

    code: str
    severity: str
    number: float
    ja: str
    en: str
    effect_ja: str = ""
    effect_en: str = ""
    cure_ja: str = ""
    cure_en: str = ""
    repairable: bool = False
    examples: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        return asdict(self)

    def lines(self) -> list[str]:
        """What, then what it does and how to mend it, each in Japanese, then in English; then the examples."""
        ja, en = SEVERITIES[self.severity]
        lines = [f"[{ja}] {self.ja}{self.effect_ja}→ {self.cure_ja}", f"[{en}] {self.en} {self.effect_en} -> {self.cure_en}"]
        return [harmless(line) for line in [*lines, *(f"    {example}" for example in self.examples)]]


def by_severity(findings: Iterable[Finding | None]) -> list[Finding]:
    """Those that were found, the worst first."""
    order = list(SEVERITIES)
    return sorted((finding for finding in findings if finding), key=lambda finding: order.index(finding.severity))


def findings_html(findings: Sequence[Finding]) -> str:
    """A table of the findings; every text is escaped, for it may come from the user's data."""
    return (
        f"<table style='border-collapse:collapse; max-width:60em'>{''.join(map(_row_html, findings))}</table>" if findings else ""
    )


def _row_html(finding: Finding) -> str:
    examples = "".join(f"<li>{_escaped(example)}</li>" for example in finding.examples)
    listing = (
        f"<details><summary><small>例 / Examples</small></summary><ul style='margin:2px 0'>{examples}</ul></details>"
        if examples
        else ""
    )
    ja, en = SEVERITIES[finding.severity]
    return (
        f"<tr style='border-top:1px solid #ccc'><td style='{_LEFT}; white-space:nowrap; color:{_COLOURS[finding.severity]}'>"
        f"<b>{ja}</b><br><small>{en}</small></td><td style='{_LEFT}'>"
        f"<b>{_escaped(finding.ja)}</b> {_escaped(finding.effect_ja)}<br>→ {_escaped(finding.cure_ja)}<br>"
        f"<small>{_escaped(finding.en)} {_escaped(finding.effect_en)} -&gt; {_escaped(finding.cure_en)}</small>{listing}</td></tr>"
    )


def _escaped(text: str) -> str:
    return html.escape(harmless(text))


def place_of(row: dict, number: int) -> str:
    """Where a row stands: `train.jsonl:12 (id 1a2b3c)`, or its number (from 0) counted from 1 where it says nothing itself."""
    source, name = row.get("source"), row.get("id")
    place = source if isinstance(source, str) and source else f"row {number + 1}"
    return f"{place} ({name})" if isinstance(name, str) and name else place


def quoted(text: str | list[dict], longest: int = _LONGEST) -> str:
    """A text in brackets, on one line, cut."""
    flat = " ".join(whole_prompt(text).split())
    return f"「{flat if len(flat) <= longest else flat[: longest - 1] + '…'}」"


def examples_of(rows: Sequence[dict], numbers: Iterable[int], side: str = "chosen") -> list[str]:
    """The first three of the rows, each with one of its texts."""
    shown = [number for number, _ in zip(numbers, range(EXAMPLES), strict=False)]
    return [f"{place_of(rows[number], number)}: {side} {quoted(rows[number][side])}" for number in shown]


def pair_examples(rows: Sequence[dict], numbers: Iterable[int]) -> list[str]:
    """The first three of the rows with both answers."""
    shown = [number for number, _ in zip(numbers, range(EXAMPLES), strict=False)]
    return [
        f"{place_of(rows[n], n)}: chosen {quoted(rows[n]['chosen'], 40)} / rejected {quoted(rows[n]['rejected'], 40)}"
        for n in shown
    ]
