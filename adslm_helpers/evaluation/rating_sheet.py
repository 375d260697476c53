"""Rating without a front end: a CSV sheet goes out, is filled in with a spreadsheet, and comes back."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..dataset.formats import read_rows
from ..dataset.rows import Problem, RawRow
from ..errors import DataError, writing_to
from ..foreign_text import brief, csv_cell, harmless
from ..run import Run, write_bytes
from ..run_names import user_path
from .blind_items import checked_rater, load_comparisons, rating_items, side_key
from .ratings import choices_of, save_ratings

COLUMNS = ("item", "依頼 / brief", "A", "B", "選択 / choice")
WORDS = {"a": "A", "b": "B", "tie": "引分", "skip": "スキップ"}
_READ = {
    "a": ("a", "あ"),
    "b": ("b",),
    "tie": ("tie", "draw", "even", "same", "=", "引分", "引分け", "引き分", "引き分け", "ひきわけ", "同じ", "どちらも同じ", "どちらでもない"),
    "skip": ("skip", "pass", "スキップ", "パス", "飛ばす", "とばす"),
}  # fmt: skip
_CHOICE = {word: choice for choice, words in _READ.items() for word in words}


@dataclass(frozen=True)
class SheetRead:
    """What became of the rows of a sheet: rows == saved + unchanged + blank + len(problems)."""

    path: Path
    rater: str
    saved: int = 0
    unchanged: int = 0
    blank: int = 0
    problems: list[Problem] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        counts = {"saved": self.saved, "unchanged": self.unchanged, "blank": self.blank}
        return {"rater": self.rater, **counts, "problems": [[p.line_ja, p.line_en] for p in self.problems]}

    def lines(self) -> list[str]:
        """Counts, then each row that could not be read, Japanese and English."""
        said = [
            f"{self.rater}: 保存 {self.saved}、前と同じ {self.unchanged}、未記入 {self.blank}、読めない行 {len(self.problems)}",
            f"{self.rater}: {self.saved} saved, {self.unchanged} as before, {self.blank} blank, {len(self.problems)} cannot be read",
        ]
        return said + [line for problem in self.problems for line in (problem.line_ja, problem.line_en)]


def export_csv(run: Run, path: Path | str, rater: str = "team", n: int = 50, seed: int = 0) -> Path:
    """Writes the sheet of one rater (UTF-8 with BOM, for Excel); what was chosen before is filled in.

    Cells that a spreadsheet would run are defused. Raises RunError where `rating_items` does, and DataError when there
    is a file already: it may hold choices that were not read yet.
    """
    path = user_path(path)
    if path.suffix.lower() != ".csv":
        raise DataError(
            f"{path} は CSV の名前ではありません。→ 名前の終わりを .csv にしてください。",
            f"{path} is no name of a CSV file. -> Let it end in .csv.",
        )
    if path.exists():
        raise DataError(
            f"{path} はもうあります。記入した選択が消えないように、上書きしません。→ 別の名前にするか、先に読み込んでください。",
            f"{path} exists. It is not overwritten, for it may hold choices. -> Use another name, or import it first.",
        )
    items, chosen = rating_items(run, n, seed, rater), choices_of(run, rater)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for item in items:
        shown = (csv_cell(harmless(cell)) for cell in (item.prompt, item.a, item.b))
        writer.writerow([item.item_id, *shown, WORDS.get(chosen.get(item.item_id, ""), "")])
    with writing_to(path.parent):
        return write_bytes(path, text.getvalue().encode("utf-8-sig", "backslashreplace"))


def import_csv(run: Run, path: Path | str, rater: str = "team") -> SheetRead:
    """Reads a sheet that was filled in, in any encoding and order of columns, and saves its choices at once.

    A row without a choice is not judged yet; one that cannot be read is named and counted. Raises DataError, and saves
    nothing, when the sheet lacks a column or holds an item that is not of this rater and these comparisons.
    """
    path, rater = user_path(path), checked_rater(rater)
    rows = load_comparisons(run)
    known = side_key(rows, rater).indices(rows)
    choices: dict[str, str] = {}
    blank, twice, problems, unknown = 0, 0, [], []
    for row in read_rows(path):
        item, choice, problem = _read(row)
        if problem is None and item not in known:
            unknown.append(row)
        elif problem is None and choice and choices.get(item, choice) != choice:
            problem = Problem(
                "twice", f"項目 {item} に別の選択がもうあります。", f"Item {item} has another choice already.", row.place
            )
        elif problem is None and choice:
            twice += item in choices
            choices[item] = choice
        elif problem is None:
            blank += 1
        problems += [problem] if problem else []
    if unknown:
        _refuse_unknown(unknown, rater, run)
    before = choices_of(run, rater)
    new = {item: choice for item, choice in choices.items() if before.get(item) != choice}
    if new:
        save_ratings(run, new, rater)
    return SheetRead(path, rater, len(new), len(choices) - len(new) + twice, blank, problems)


def read_choice(cell: str) -> str | None:
    """'a', 'b', 'tie', 'skip', '' for a blank cell, None for what says nothing; full width and letter case do not matter."""
    word = re.sub(r"\s", "", unicodedata.normalize("NFKC", cell)).lower().strip("'\"()「」。.")
    return _CHOICE.get(word) if word else ""


def _read(row: RawRow) -> tuple[str, str, Problem | None]:
    if row.problem:
        return "", "", row.problem
    cells = (
        {unicodedata.normalize("NFKC", str(key)).lower(): value for key, value in row.value.items()}
        if isinstance(row.value, dict)
        else {}
    )
    item = next((value for key, value in cells.items() if key.strip() == "item"), None)
    choice = next((value for key, value in cells.items() if "choice" in key or "選択" in key), None)
    if item is None or choice is None:
        found = ", ".join(brief(key, 30) for key in [*cells][:8])
        raise DataError(
            f"{row.place_ja}: 列「item」と「選択 / choice」が必要です（ある列: {found}）。→ 書き出したときの見出しに戻してください。",
            f"{row.place_en}: the columns 'item' and '選択 / choice' are needed (found: {found}). -> Restore the headings.",
        )
    read = read_choice(str(choice or ""))
    if read is None:
        return (
            "",
            "",
            Problem(
                "no_choice",
                f"選択 {brief(choice)} を読めません。A・B・引分・スキップのどれかにしてください。",
                f"The choice {brief(choice)} cannot be read. Use A, B, tie or skip.",
                row.place,
            ),
        )
    return str(item).strip(), read, None


def _refuse_unknown(rows: list[RawRow], rater: str, run: Run) -> None:
    ja, en = "、".join(row.place_ja for row in rows[:3]), ", ".join(row.place_en for row in rows[:3])
    raise DataError(
        f"{len(rows)} 行の item が、{run.name} の今の比較で {rater} に見せたものではありません（{ja}）。何も保存していません。"
        "→ 書き出したときの名前（--rater）を指定してください。評価をやり直したあとは、書き出しからやり直してください。",
        f"{len(rows)} rows hold an item that {rater} was not shown of the present comparisons of {run.name} ({en}). Nothing was saved. "
        "-> Give the name (--rater) under which the sheet was written; after a new evaluation write a new sheet.",
    )
