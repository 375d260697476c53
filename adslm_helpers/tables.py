"""Small tables for notebooks: left-aligned, wrapped, escaped; plain lines where nothing renders HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

from .foreign_text import harmless

_CELL = "text-align:left; vertical-align:top; white-space:pre-wrap; padding:4px 10px"


class Table:
    """Rows of label -> value, as a table; as the last line of a cell it shows itself. The first row gives the columns."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]):
        self.rows = [{harmless(str(key)): harmless(str(value)) for key, value in row.items()} for row in rows]

    def _repr_html_(self) -> str:
        head = html_row(self.rows[0], "th") if self.rows else ""
        return f"<table>{head}{''.join(html_row(row.values(), 'td') for row in self.rows)}</table>"

    def __repr__(self) -> str:
        lines = [" | ".join(self.rows[0])] if self.rows else []
        return "\n".join(lines + [" | ".join(value.replace("\n", " / ") for value in row.values()) for row in self.rows])


def html_row(values: Iterable[str], cell: str) -> str:
    """One escaped row of `cell` elements ('th' or 'td'). The style stands in each: front ends align cells to the right otherwise."""
    cells = (f'<{cell} style="{_CELL}">{html.escape(value)}</{cell}>' for value in values)
    return f"<tr>{''.join(cells)}</tr>"
