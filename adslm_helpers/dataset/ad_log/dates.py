"""The date forms of ad exports -> the period a row counts for. Each distinct form is read once, not each row."""

from __future__ import annotations

import re
import unicodedata
from datetime import date

PERIODS = ("all", "month", "week", "day")
_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_NAMES, 1)}
_REST = r"(?:[^\d].*)?"  # a time, a weekday, or the end of a span of days: its first day counts
_YEAR_FIRST = re.compile(rf"(\d{{4}})\s*[-/.年]\s*(\d{{1,2}})\s*[-/.月]\s*(\d{{1,2}})日?{_REST}", re.DOTALL)
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})")
_MONTH_ONLY = re.compile(r"(\d{4})\s*[-/.年]\s*(\d{1,2})月?")
_MONTH_NAME = re.compile(rf"(?:[a-z]{{3,9}},\s*)?([a-z]{{3,9}})\.?\s+(?:(\d{{1,2}}),?\s+)?(\d{{4}}){_REST}", re.DOTALL)
_DAY_NAME = re.compile(rf"(\d{{1,2}})[\s-]([a-z]{{3,9}})\.?,?[\s-](\d{{4}}){_REST}", re.DOTALL)
_YEAR_LAST = re.compile(rf"(\d{{1,2}})[/.-](\d{{1,2}})[/.-](\d{{4}}){_REST}", re.DOTALL)


def periods(text: str, period: str) -> tuple[str | None, str | None]:
    """The period of a date as an export wrote it, if a month stands before its day, and if the day stands first; None: no such date.

    Only of `01/05/2026` the two differ. `period`: 'month' gives '2026-01', 'week' the ISO week '2026-W02', 'day' '2026-01-05'. A date
    that names only a month gives the month for each of them, for nothing finer is known.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text[:60]).casefold().split())
    if found := _MONTH_ONLY.fullmatch(plain):
        same = _labelled(int(found[1]), int(found[2]), None, period)
    elif found := _YEAR_FIRST.fullmatch(plain) or _COMPACT.fullmatch(plain):
        same = _labelled(int(found[1]), int(found[2]), int(found[3]), period)
    elif (found := _MONTH_NAME.fullmatch(plain)) and found[1][:3] in _MONTHS:
        same = _labelled(int(found[3]), _MONTHS[found[1][:3]], int(found[2]) if found[2] else None, period)
    elif (found := _DAY_NAME.fullmatch(plain)) and found[2][:3] in _MONTHS:
        same = _labelled(int(found[3]), _MONTHS[found[2][:3]], int(found[1]), period)
    elif found := _YEAR_LAST.fullmatch(plain):
        first, second, year = int(found[1]), int(found[2]), int(found[3])
        return _labelled(year, first, second, period), _labelled(year, second, first, period)
    else:
        return None, None
    return same, same


def _labelled(year: int, month: int, day: int | None, period: str) -> str | None:
    try:
        when = date(year, month, day or 1)
    except ValueError:
        return None
    if not 1990 <= year < 2100:
        return None
    if day is None or period == "month":
        return f"{year:04d}-{month:02d}"
    if period == "day":
        return when.isoformat()
    iso_year, week, _ = when.isocalendar()
    return f"{iso_year:04d}-W{week:02d}"
