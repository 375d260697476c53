"""An export of an ad system -> one row per brief, channel, device, position, period and text, and what was understood on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...foreign_text import brief as shown
from ...foreign_text import harmless
from ..formats import file_and_sheet
from ..rows import Place, Problem, fail
from ..unpack import GZIP_MARK, unpacked
from .blocks import LARGEST_LOG, Block, blocks, layout
from .columns import JOIN, NUMBERS, Columns, understood, unique_names
from .dates import PERIODS
from .engine import Sums, engine, values
from .sheets import BOOK_MARKS, sheet_blocks, sheet_layout

if TYPE_CHECKING:
    import pandas

_MOST_PROBLEMS = 20
_MOST_JOINED = 3  # of a responsive ad's 15 headlines at most three were ever shown together
_SECONDS = 2.0  # between two lines of progress
REASONS = {
    "blank_row": ("空の行", "empty row"),
    "total_row": ("合計の行", "row of totals"),
    "heading_row": ("見出しの繰り返し", "repeated heading"),
    "no_text": ("広告文がない", "no ad text"),
    "nul_character": ("NUL 文字", "NUL character"),
    "missing_number": ("表示回数かクリック数がない", "no impressions or clicks"),
    "not_a_number": ("数ではない", "not a number"),
    "negative": ("負の数", "negative"),
    "not_whole": ("整数ではない回数", "a count that is not whole"),
    "too_large": ("ありえない大きさ", "impossibly large"),
    "clicks_over_impressions": ("クリック数が表示回数より多い", "more clicks than impressions"),
    "bad_date": ("日付ではない", "not a date"),
    "too_long": ("行が長すぎる", "line too long"),
    "not_csv": ("CSV でない", "not CSV"),
    "too_many_cells": ("セルが多すぎる", "too many cells"),
    "bad_encoding": ("文字コードが壊れている", "broken encoding"),
}
_COUNTS = ("impressions", "clicks")
# Which columns a message shows; all numbers where none is named here.
_AT = {
    **dict.fromkeys(("blank_row", "total_row", "heading_row", "no_text", "nul_character"), ()),
    **dict.fromkeys(("missing_number", "not_whole", "too_large", "clicks_over_impressions"), _COUNTS),
    "bad_date": ("date",),
}
_HARMLESS = ("blank_row", "total_row", "heading_row")


@dataclass(frozen=True)
class AdLog:
    """What a log holds. rows_in == arms['rows'].sum() + sum(dropped.values())."""

    source: str
    rows_in: int
    dropped: dict[str, int]
    """Rows by the reason why they cannot be used (a code of REASONS)."""
    problems: list[Problem]
    """The first dropped rows, at most 20."""
    columns: dict[str, str]
    """Role -> heading as it stands in the file, '' where it has none."""
    ignored: list[str]
    """Headings that nothing uses."""
    facts: dict
    """encoding ('xlsx' for a workbook), delimiter, header_line, preamble_lines, sheet, period, engine, seconds, shared_briefs, rate_rows, rate_differs."""
    arms: pandas.DataFrame
    """brief, channel, device, position, period, text (str, '' where the log has none), impressions, clicks, rows (int64), conversions,
    cost (float64: the sum of the rows that have them, NaN where none has)."""

    def lines(self) -> list[str]:
        """What was understood, each line in Japanese, then in English: columns, counts by reason, warnings, first problems."""
        pairs = [*_columns(self), *_counts(self), *_warnings(self)]
        pairs += [(problem.line_ja, problem.line_en) for problem in self.problems[:5]]
        return [harmless(line) for pair in pairs for line in pair]


def read_log(
    path: str | Path,
    columns: dict[str, str] | None = None,
    period: str = "month",
    say: Callable[[str], None] | None = None,
) -> AdLog:
    """Reads an export in CSV or TSV of any delimiter and encoding and sums it by key and normalised text (NFKC, spaces collapsed).

    `columns` corrects what was understood: role -> heading ('' for "do not use"; "A + B" joins columns of text). `period`: 'all', 'month',
    'week' or 'day'. `say` gets a line of progress every 2 seconds. Rows with impossible numbers are refused one by one, with their lines.
    Raises DataError where no log is there, a column is missing, or no row can be used.
    """
    columns = dict(columns or {})
    if period not in PERIODS:
        known = ", ".join(PERIODS)
        fail(f"period {shown(period)} はありません。→ {known}", f"There is no period {shown(period)}. -> {known}")
    file, sheet = file_and_sheet(str(path))
    if not file.is_file():
        fail(f"{path} というファイルはありません。→ 場所を確かめてください。", f"There is no file {path}. -> Check the place.")
    with _plain(file) as plain:
        return _read(plain, sheet, str(path), columns, period, say)


def _read(
    path: Path, sheet: str | None, source: str, columns: dict[str, str], period: str, say: Callable[[str], None] | None
) -> AdLog:
    started = time.monotonic()
    book = _head(path).startswith(BOOK_MARKS)
    where = sheet_layout(path, sheet, columns) if book else layout(path, columns)
    names = understood(source, unique_names(where.header), columns)
    used = names.used()
    found = sheet_blocks(path, sheet, where, used, source) if book else blocks(path, where, used, source)
    with engine() as connection:
        sums = Sums(connection, names, period)
        rows_in, problems = _take(found, sums, source, say)
        if rows_in == sum(sums.dropped.values()):
            _refuse_all(source, rows_in, sums.dropped, problems)
        if (unclear := sums.unclear_date()) is not None:
            _refuse_unclear(source, names, unclear)
        facts = {
            "encoding": where.encoding,
            "delimiter": where.delimiter,
            "header_line": where.line,
            "preamble_lines": where.line - 1,
            "sheet": sheet or "",
            "period": sums.period,
            "engine": "duckdb",
            "shared_briefs": sums.shared_briefs(),
            "rate_rows": sums.rates[0],
            "rate_differs": sums.rates[1],
        }
        if say and time.monotonic() - started > _SECONDS:
            say(f"{rows_in:,} 行をまとめています / Summing {rows_in:,} rows up")
        arms = sums.arms()
    facts["seconds"] = round(time.monotonic() - started, 1)
    roles = {role: names.header(role) for role in names.of}
    return AdLog(source, rows_in, sums.dropped, problems, roles, names.ignored(), facts, arms)


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(8)


def _plain(path: Path) -> AbstractContextManager[Path]:
    """The file itself, or what a .gz holds."""
    return unpacked(path, LARGEST_LOG) if _head(path).startswith(GZIP_MARK) else nullcontext(path)


def _take(found: Iterator[Block], sums: Sums, source: str, say: Callable[[str], None] | None) -> tuple[int, list[Problem]]:
    """Sums all blocks up; gives the rows seen and the first problems in order of their lines."""
    rows_in, problems, said = 0, [], time.monotonic()
    for block in found:
        refused = sums.add(block.rows, _MOST_PROBLEMS - len(problems)) if block.rows.num_rows else []
        rows_in += block.rows.num_rows + len(block.broken)
        for problem in block.broken:
            sums.dropped[problem.code] = sums.dropped.get(problem.code, 0) + 1
        more = [*block.broken, *(_problem(row, sums.columns, source) for row in refused)]
        problems = [*problems, *sorted(more, key=lambda problem: problem.place.number)][:_MOST_PROBLEMS]
        if say and time.monotonic() - said > _SECONDS:
            say(f"読み込み中 / Reading: {block.done:.0%}, {rows_in:,} 行 / rows")
            said = time.monotonic()
    return rows_in, problems


def _problem(row: tuple, columns: Columns, source: str) -> Problem:
    line, code = row[:2]
    ja, en = REASONS[code]
    at = _AT.get(code, NUMBERS)
    said = {columns.header(role): value for role, value in values(row).items() if role in at and columns.of[role]}
    detail = ", ".join(f"{name[:30]}={shown(value, 30)}" for name, value in said.items())
    return Problem(
        code, f"{ja}{f'（{detail}）' if detail else ''}。", f"{en}{f' ({detail})' if detail else ''}.", Place(source, line)
    )


def _refuse_all(source: str, rows_in: int, dropped: dict[str, int], problems: list[Problem]) -> None:
    if not rows_in:
        fail(
            f"{source}: 見出しの下に行がありません。→ 期間を確かめて書き出し直してください。",
            f"{source}: no rows below the header. -> Export it again.",
        )
    ja, en = _reasons(dropped)
    first = f"\n{problems[0].line_ja}\n{problems[0].line_en}" if problems else ""
    fail(
        f"{source}: {rows_in:,}行のうち使える行がありません（{ja}）。→ 列の対応を --map で直すか、書き出し直してください。",
        f"{source}: none of {rows_in:,} rows can be used ({en}). -> Correct the columns with --map, or export it again.{first}",
    )


def _refuse_unclear(source: str, columns: Columns, value: str) -> None:
    name = columns.header("date")
    fail(
        f"{source}: {name} の {shown(value)} は月/日か日/月か決められません。→ YYYY-MM-DD で書き出すか、--period all を付けてください。",
        f"{source}: {name} {shown(value)} may be month/day or day/month. -> Export it as YYYY-MM-DD, or pass --period all.",
    )


def _reasons(dropped: dict[str, int]) -> tuple[str, str]:
    ordered = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    words = [(*REASONS.get(code, (code, code)), count) for code, count in ordered]
    return "、".join(f"{ja} {count:,}" for ja, _, count in words), ", ".join(f"{en} {count:,}" for _, en, count in words)


def _columns(log: AdLog) -> list[tuple[str, str]]:
    found = ", ".join(f"{role}={header}" for role, header in log.columns.items() if header)
    absent = ", ".join(role for role, header in log.columns.items() if not header)
    facts = log.facts
    delimiter = {"\t": "TAB"}.get(facts["delimiter"], facts["delimiter"])
    pairs = [
        (
            f"{log.source}: 見出しは {facts['header_line']} 行目、区切り {delimiter}、文字コード {facts['encoding']}。列: {found}",
            f"{log.source}: header on line {facts['header_line']}, separator {delimiter}, encoding {facts['encoding']}. Columns: {found}",
        )
    ]
    if absent or log.ignored:
        ignored = ", ".join(name[:40] for name in log.ignored[:20]) + (" ..." if len(log.ignored) > 20 else "")
        pairs.append(
            (
                f"ない列: {absent or 'なし'}。使わない見出し: {ignored or 'なし'}",
                f"Absent: {absent or 'none'}. Not used: {ignored or 'none'}",
            )
        )
    return pairs


def _counts(log: AdLog) -> list[tuple[str, str]]:
    dropped = sum(log.dropped.values())
    ja, en = _reasons(log.dropped)
    return [
        (
            f"{log.rows_in:,}行 → 使う行 {log.rows_in - dropped:,}、除外 {dropped:,}{f'（{ja}）' if ja else ''}。まとめて {len(log.arms):,} 件の広告文",
            f"{log.rows_in:,} rows -> {log.rows_in - dropped:,} used, {dropped:,} dropped{f' ({en})' if en else ''}. Summed: {len(log.arms):,} arms",
        )
    ]


def _warnings(log: AdLog) -> Iterator[tuple[str, str]]:
    refused = sum(count for code, count in log.dropped.items() if code not in _HARMLESS)
    if refused * 2 > log.rows_in:
        yield (
            f"【警告】行の半分以上（{refused:,} / {log.rows_in:,}）が使えません。列の対応か書き出し方が違うおそれがあります。→ --map で直せます。",
            f"[WARNING] More than half of the rows ({refused:,} of {log.rows_in:,}) cannot be used. Columns may be mistaken. -> Correct them with --map.",
        )
    if count := log.dropped.get("missing_number"):
        yield (
            f"【注意】空欄や「--」の回数は 0 とみなしません（{count:,}行）。0 回の意味なら、クリックのない広告だけが抜けるので、0 と書いて書き出し直してください。",
            f"[NOTE] An empty count is not taken for 0 ({count:,} rows). If it means 0, ads without clicks are missing: write 0 and export again.",
        )
    if log.facts["rate_differs"] * 10 > log.facts["rate_rows"]:
        yield (
            f"【警告】{log.facts['rate_differs']:,}行で、ファイルのクリック率がクリック数÷表示回数と違います。列の取り違えがないか確かめてください。",
            f"[WARNING] In {log.facts['rate_differs']:,} rows the file's click-through rate is not clicks / impressions. Check the columns.",
        )
    if (joined := log.columns["text"].count(JOIN) + 1) > _MOST_JOINED:
        first = log.columns["text"].split(JOIN)[0]
        yield (
            f"【注意】{joined} 列の見出しをつなげて1つの広告文として読みました。1列だけにするなら --map 'text={first}'",
            f"[NOTE] The texts of {joined} columns were joined into one. For one of them only: --map 'text={first}'",
        )
    if log.facts["shared_briefs"]:
        brief, campaign = log.columns["brief"], log.columns["campaign"]
        yield (
            f"【注意】同じ {brief} が複数の {campaign} にあるもの: {log.facts['shared_briefs']:,} 件。→ 分けるなら --map 'brief={campaign} + {brief}'",
            f"[NOTE] {log.facts['shared_briefs']:,} values of {brief} stand under several {campaign}. -> To part them: --map 'brief={campaign} + {brief}'",
        )
