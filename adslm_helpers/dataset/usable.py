"""What of an opened source can be trained on: its rows validated, mended where that was asked for, audited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from .audit.audit import Audit, audit
from .audit.repair import Repair, repair
from .report import reason_counts
from .sources import Reading, Source, open_source, rules_broken
from .split import Split
from .validate import Validation, validate


@dataclass(frozen=True)
class UsablePairs:
    """validation.pairs_in == len(rows) + sum(dropped.values()); `dropped`: by the validation and by the repair."""

    rows: list[dict]
    validation: Validation
    repair: Repair | None = None
    breaches: Callable[[str], list] | None = None
    """The ad rules that a text breaks, where a platform or a line of business was named; else the brief decides, row by row."""

    @property
    def dropped(self) -> dict[str, int]:
        return dict(self.validation.dropped + Counter(self.repair.dropped if self.repair else {}))

    def audited(self, split: Split | None = None, say: Callable[[str], None] | None = None) -> Audit:
        """The audit of what is left, with the ad rules."""
        return audit(self.rows, split, dropped_duplicates=self.dropped.get("duplicate", 0), breaches=self.breaches, say=say)


def usable_pairs(
    opened: Source, drop_invalid: bool = True, mend: bool = False, say: Callable[[str], None] | None = None
) -> UsablePairs:
    """Reads `opened` to its end. Raises DataError when nothing is left, or, with `drop_invalid=False`, when something cannot be used."""
    validation = validate(opened.rows)
    if validation.dropped and not drop_invalid:
        _refuse_invalid(opened.name, validation)
    if not validation.pairs:
        _refuse_all(opened.name, validation)
    rules = opened.reading.rules
    named = (lambda text: rules_broken(text, rules.platform, rules.domain)) if rules.platform or rules.domain else None
    if not mend:
        return UsablePairs(validation.pairs, validation, breaches=named)
    mended = repair(validation.pairs, breaches=named, say=say)
    if not mended.rows:
        raise DataError(
            f"{opened.name}: 直したあとに使える対が残りません。\n"
            + "\n".join(mended.lines()[::2])
            + "\n→ データを作り直してください。",
            f"{opened.name}: no pair is left after the repair.\n" + "\n".join(mended.lines()[1::2]) + "\n-> Make the data anew.",
        )
    return UsablePairs(mended.rows, validation, mended, named)


@dataclass(frozen=True)
class Look:
    """What `adslm dataset --audit` shows; nothing of it is written. `after`: the audit of the mended pairs, where mending was asked for."""

    source: Source
    pairs: UsablePairs
    before: Audit
    after: Audit | None = None

    @property
    def passed(self) -> bool:
        """Whether what would be trained on has no finding of severity 'error'."""
        return (self.after or self.before).passed

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        validation = self.pairs.validation
        mended = {"repair": self.pairs.repair.to_dict(), "after": self.after.to_dict()} if self.after else {}
        return {
            "source": self.source.name,
            "understood": self.source.understood,
            "rows_in": validation.rows_in,
            "pairs_in": validation.pairs_in,
            "dropped": dict(validation.dropped),
            "audit": self.before.to_dict(),
            **mended,
        }

    def lines(self) -> list[str]:
        """What was understood, what was dropped, the findings; then what the repair did, and what is left."""
        validation = self.pairs.validation
        ja, en = reason_counts(validation.dropped)
        lines = [
            *self.source.understood,
            f"{self.source.name}: {validation.rows_in:,}行 → 調べた対 {len(validation.pairs):,}" + (f"、除外 {ja}" if ja else ""),
            f"{self.source.name}: {validation.rows_in:,} rows -> {len(validation.pairs):,} pairs looked at"
            + (f", dropped: {en}" if en else ""),
            *self.before.lines(),
        ]
        if self.after:
            lines += ["", *self.pairs.repair.lines(), "", "直したあと / after the repair:", *self.after.lines()]
        return lines


def look_at(
    source: str | Path | None,
    seed: int,
    reading: Reading | None = None,
    mend: bool = False,
    say: Callable[[str], None] | None = None,
) -> Look:
    """The audit of a source, before and (`mend`) after the repair; writes nothing. Raises DataError as `open_source` and `usable_pairs` do."""
    opened = open_source(source, seed, reading or Reading(), say)
    pairs = usable_pairs(opened, mend=mend, say=say)
    raw = UsablePairs(pairs.validation.pairs, pairs.validation, breaches=pairs.breaches)
    return Look(opened, pairs, raw.audited(say=say), pairs.audited(say=say) if mend else None)


def _refuse_invalid(name: str, validation: Validation) -> None:
    number, shown = sum(validation.dropped.values()), validation.problems[:5]
    raise DataError(
        f"{name}: 使えない行が {number:,} 行あります。\n"
        + "".join(f"  {problem.line_ja}\n" for problem in shown)
        + "→ 行を直すか、--strict（drop_invalid=False）を外してください。",
        f"{name}: {number:,} rows cannot be used.\n"
        + "".join(f"  {problem.line_en}\n" for problem in shown)
        + "-> Fix the rows or leave out --strict (drop_invalid=False).",
    )


def _refuse_all(name: str, validation: Validation) -> None:
    ja, en = reason_counts(validation.dropped)
    shown = validation.problems[:3]
    raise DataError(
        f"{name}: {validation.rows_in:,}行のうち使える行がありません（{ja}）。\n"
        + "".join(f"  {problem.line_ja}\n" for problem in shown)
        + "→ 各行に prompt, chosen, rejected（文字列か role/content の発言）を入れてください。",
        f"{name}: none of {validation.rows_in:,} rows can be used ({en}).\n"
        + "".join(f"  {problem.line_en}\n" for problem in shown)
        + "-> Give each row prompt, chosen and rejected (text, or role/content messages).",
    )
