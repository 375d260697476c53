"""DuckDB over the blocks of a log: judges each row, sums what is alike, and spills to disk what memory does not hold.

It was chosen by measuring (docs/results/log_engines.md). Headings and cells never become part of a statement, its access to files other than
its own temporary ones is off, and it may load no extension.
"""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from ...foreign_text import brief as shown
from ..rows import fail
from .columns import Columns
from .dates import periods

if TYPE_CHECKING:
    import duckdb
    import pandas
    import pyarrow

T = TypeVar("T")
MEMORY = "1GB"
KEYS = ("brief", "channel", "device", "position")
MOST_IMPRESSIONS = 10**11
"""In one row. More is no count of people, and sums of more might not fit into an int64."""
_TOTAL = r"^\s*(合計|総計|小計|総合計|全体|grand total|sub ?total|totals?)\s*([:：\-–(（].*)?$"
_CHUNK = 50_000
_SPACES = " \t\n\u3000\u00a0"
_SPACE = r"[\s\x{3000}\x{a0}]"
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d{1,18})(?:\.\d+)?"
_COUNTED = ("impressions", "clicks", "conversions", "cost")
# Trimming and translating cost five times as much as asking whether there is anything to do (measured), so each asks first.
_MACROS = (
    f"CREATE MACRO bare(s) AS CASE WHEN regexp_matches(s, '^{_SPACE}') OR regexp_matches(s, '{_SPACE}$')"
    f" THEN trim(s, '{_SPACES}') ELSE s END",
    # Dashes stand for "nothing" in exports.
    r"CREATE MACRO blank(s) AS CASE WHEN regexp_full_match(s, '[\s\x{3000}\x{a0}−–—―－-]*') THEN '' ELSE bare(s) END",
    "CREATE MACRO narrow(s) AS translate(s, '０１２３４５６７８９，．￥－−▲△', '0123456789,.¥----')",
    f"CREATE MACRO unmarked(s) AS trim(narrow(s), '¥$€£円回件JPYUSD{_SPACES}')",
    f"CREATE MACRO grouped(s) AS CASE WHEN regexp_full_match(s, '-?{_NUMBER}') THEN replace(s, ',', '') END",
    f"CREATE MACRO marked(s) AS replace(nullif(regexp_extract(s, '^[¥￥$€£]({_NUMBER})$', 1), ''), ',', '')",
    "CREATE MACRO digits(s) AS coalesce(grouped(s), marked(s), CASE WHEN s <> '' THEN grouped(unmarked(s)) END)",
    f"CREATE MACRO is_total(s) AS lower(left(s, 1)) IN ('合', '総', '小', '全', 'g', 's', 't') AND regexp_matches(s, '{_TOTAL}', 'i')",
)


@contextmanager
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory that spills to a temporary folder, which goes with it, after Ctrl-C too."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="adslm-log-", ignore_cleanup_errors=True) as folder:
        config = {
            "memory_limit": MEMORY,
            "temp_directory": f"{folder}/spill",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "preserve_insertion_order": False,
        }
        connection = duckdb.connect(":memory:", config=config)
        try:
            connection.execute("SET enable_progress_bar = false")  # in a notebook it would draw one per block
            connection.execute("SET enable_external_access = false")  # last: it would refuse the folder to spill to
            connection.execute("SET lock_configuration = true")
            yield connection
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            fail(
                f"広告の実績を集計できません（{shown(str(error), 120)}）。→ {folder} のあるディスクを空けるか、環境変数 TMPDIR に広い場所を指定してください。",
                f"The log cannot be summed up ({shown(str(error), 120)}). -> Free the disk of {folder}, or name a larger place in TMPDIR.",
            )
        finally:
            connection.close()


def interruptible(connection: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """What `work` gives; Ctrl-C ends it at once. DuckDB 2.0 does not notice a signal while a statement runs."""
    import duckdb

    pool, future = ThreadPoolExecutor(1), None
    try:
        future = pool.submit(work)
        return future.result()
    except KeyboardInterrupt:
        while future is not None and not future.done():  # one that comes between two statements has no effect
            with suppress(duckdb.Error):
                connection.interrupt()
            wait([future], timeout=0.1)
        raise
    finally:
        pool.shutdown()


class Sums:
    """The sums of a log so far, in a database of `engine()`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, columns: Columns, period: str):
        self.connection, self.columns = connection, columns
        self.period = "all" if not columns.of["date"] else period
        self.dropped: dict[str, int] = {}
        self.rates = [0, 0]
        """Rows whose click-through rate can be compared with clicks / impressions, and those where it differs."""
        for statement in _MACROS:
            connection.execute(statement)
        connection.execute("CREATE TABLE dates (raw VARCHAR, month_first VARCHAR, day_first VARCHAR)")
        heading = [columns.header(role) for role in ("impressions", "clicks")]
        connection.execute("CREATE TABLE heading AS SELECT '' AS impressions, '' AS clicks")
        connection.execute("UPDATE heading SET impressions = ?, clicks = ?", heading)
        connection.execute(
            "CREATE TABLE parts (brief VARCHAR, campaign VARCHAR, channel VARCHAR, device VARCHAR, position VARCHAR, date VARCHAR,"
            " text VARCHAR, impressions BIGINT, clicks BIGINT, conversions DOUBLE, cost DOUBLE, n BIGINT)"
        )
        self._judge = _judging(columns, self.period != "all")

    def add(self, rows: pyarrow.Table, examples: int) -> list[tuple]:
        """Takes a block in; gives the first `examples` refused rows: (line, reason, values of the numbers, date) each as written."""
        con = self.connection
        con.register("block", rows)
        if self.period != "all":
            self._learn_dates()
        con.execute(f"CREATE OR REPLACE TEMP TABLE judged AS {self._judge}")
        con.execute(
            "INSERT INTO parts SELECT brief, campaign, channel, device, position, date, text, sum(impressions), sum(clicks),"
            " sum(conversions), sum(cost), count(*) FROM judged WHERE reason = '' GROUP BY ALL"
        )
        for reason, count in con.execute("SELECT reason, count(*) FROM judged WHERE reason <> '' GROUP BY reason").fetchall():
            self.dropped[reason] = self.dropped.get(reason, 0) + count
        if self.columns.rate is not None:
            self._compare_rates()
        of = self.columns.of
        cells = ", ".join(f"c{of[role][0]}" if of[role] else "''" for role in (*_COUNTED, "date"))
        refused = f"SELECT line, reason, {cells} FROM judged JOIN block USING (line) WHERE reason <> '' ORDER BY line LIMIT ?"
        examples = con.execute(refused, [examples]).fetchall() if examples else []
        con.unregister("block")
        return examples

    def _learn_dates(self) -> None:
        date = _date(self.columns)
        new = self.connection.execute(f"SELECT DISTINCT {date} FROM block WHERE {date} NOT IN (SELECT raw FROM dates)").fetchall()
        self._insert("dates", [(raw, *periods(raw, self.period)) for (raw,) in new], ("raw", "month_first", "day_first"))

    def _insert(self, into: str, rows: list[tuple], names: tuple[str, ...]) -> None:
        import pyarrow

        if rows:
            columns = zip(*rows, strict=True)
            kinds = [pyarrow.int64() if name == "n" else pyarrow.string() for name in names]
            arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
            self.connection.register("more", pyarrow.table(dict(zip(names, arrays, strict=True))))
            self.connection.execute(f"INSERT INTO {into} SELECT * FROM more")
            self.connection.unregister("more")

    def _compare_rates(self) -> None:
        true = "(100.0 * clicks / impressions)"
        apart = " AND ".join(f"abs(rate * {scale} - {true}) > greatest(0.06, 0.1 * {true})" for scale in (1, 100))
        counts = f"SELECT count(rate), count(*) FILTER (WHERE {apart}) FROM judged WHERE reason = '' AND impressions > 0"
        seen, differing = self.connection.execute(counts).fetchone()
        self.rates = [self.rates[0] + seen, self.rates[1] + differing]

    def shared_briefs(self) -> int:
        """Briefs that stand under more than one campaign."""
        query = "SELECT count(*) FROM (SELECT brief FROM parts GROUP BY brief HAVING count(DISTINCT campaign) > 1)"
        return self.connection.execute(query).fetchone()[0]

    def unclear_date(self) -> str | None:
        """A date whose day and month nothing in the whole column tells apart, or None; then settles how all are read."""
        seen = "SELECT month_first, day_first, raw FROM dates"
        months = self.connection.execute(f"{seen} WHERE day_first IS NULL AND month_first IS NOT NULL LIMIT 1").fetchone()
        days = self.connection.execute(f"{seen} WHERE month_first IS NULL AND day_first IS NOT NULL LIMIT 1").fetchone()
        unclear = self.connection.execute(f"{seen} WHERE month_first <> day_first LIMIT 1").fetchone()
        if unclear and bool(months) == bool(days):
            return unclear[2]
        first, second = ("day_first", "month_first") if days else ("month_first", "day_first")
        self.connection.execute(f"CREATE TABLE read_dates AS SELECT raw, coalesce({first}, {second}) AS period FROM dates")
        return None

    def arms(self) -> pandas.DataFrame:
        """One row per key and normalised text, in order of them; `unclear_date` comes first."""
        return interruptible(self.connection, self._arms)

    def _arms(self) -> pandas.DataFrame:
        con = self.connection
        spelt = {column for column in (*KEYS, "text") if self.columns.of[column] and self._spell(column)}
        names = [
            f"coalesce(shown_{key}.shown, parts.{key}) AS {key}" if key in spelt else f"parts.{key}" for key in (*KEYS, "text")
        ]
        joins = [f"LEFT JOIN shown_{key} ON shown_{key}.raw = parts.{key}" for key in sorted(spelt)]
        if self.period != "all":
            joins.append("JOIN read_dates ON read_dates.raw = parts.date")
        names.insert(len(KEYS), "read_dates.period AS period" if self.period != "all" else "'' AS period")
        con.execute(
            f"CREATE TABLE arms AS SELECT {', '.join(names)}, sum(impressions)::BIGINT AS impressions, sum(clicks)::BIGINT AS clicks,"
            f" sum(conversions)::DOUBLE AS conversions, sum(cost)::DOUBLE AS cost, sum(n)::BIGINT AS rows"
            f" FROM parts {' '.join(joins)} GROUP BY ALL"
        )
        con.execute("DROP TABLE parts")
        return (
            con.sql("SELECT * FROM arms ORDER BY brief, channel, device, position, period, text")
            .to_arrow_table()
            .to_pandas(split_blocks=True, self_destruct=True)
        )

    def _spell(self, column: str) -> bool:
        """Makes the table shown_COLUMN: each spelling -> the most frequent one that normalises alike. False: all are as they stay."""
        con = self.connection
        con.execute(f"CREATE TABLE forms_{column} (raw VARCHAR, shown VARCHAR, normal VARCHAR, n BIGINT)")
        reading = con.cursor()
        reading.execute(f"SELECT {column}, sum(n)::BIGINT FROM parts GROUP BY {column}")
        changed = False
        while rows := reading.fetchmany(_CHUNK):
            forms = [(raw, one_line := " ".join(raw.split()), unicodedata.normalize("NFKC", one_line), n) for raw, n in rows]
            changed = changed or any(raw != normal for raw, _, normal, _ in forms)
            self._insert(f"forms_{column}", forms, ("raw", "shown", "normal", "n"))
        if changed:
            con.execute(
                f"CREATE TABLE shown_{column} AS SELECT raw, best.shown FROM forms_{column} JOIN"
                f" (SELECT normal, first(shown ORDER BY n DESC, shown) AS shown FROM forms_{column} GROUP BY normal) AS best"
                " USING (normal)"
            )
        con.execute(f"DROP TABLE forms_{column}")
        return changed


def _date(columns: Columns) -> str:
    """The date as written; of a time stamp only the day, of which there are few."""
    cell = f"bare(c{columns.of['date'][0]})"
    return f"CASE WHEN {cell} ~ '\\d{{4}}-\\d\\d-\\d\\d.+' THEN left({cell}, 10) ELSE {cell} END"


def _judging(columns: Columns, dated: bool) -> str:
    """The statement that gives each row of `block` its values and the reason why it cannot be used, '' for none."""
    of = columns.of
    cells = {role: _cell(of[role], " / ") for role in ("brief", "campaign", "channel", "device", "position")}
    cells["text"] = _cell(of["text"], " | ")
    cells["date"] = _date(columns) if dated else "''"
    cells |= {f"raw_{role}": f"blank(c{of[role][0]})" if of[role] else "''" for role in _COUNTED}
    read = ", ".join(f"{sql} AS {name}" for name, sql in cells.items())
    numbers = ", ".join(f"TRY_CAST(digits(raw_{role}) AS DOUBLE) AS {role}" for role in _COUNTED)
    no_number = " OR ".join(f"(raw_{role} <> '' AND {role} IS NULL)" for role in _COUNTED)
    no_date = "WHEN dates.month_first IS NULL AND dates.day_first IS NULL THEN 'bad_date'" if dated else ""
    join = "LEFT JOIN dates ON dates.raw = date" if dated else ""
    # Only compared with what it should be, so what it is read as may be coarse.
    rate = f"TRY_CAST(trim(c{columns.rate}, '% ') AS DOUBLE)" if columns.rate is not None else "NULL"
    every = ", ".join(f"c{index}" for index in columns.used())
    return f"""
WITH cells AS (SELECT *, {read} FROM block),
numbers AS (SELECT *, {numbers} FROM cells)
SELECT line, brief, campaign, channel, device, position, date, text, impressions, clicks, conversions, cost, {rate} AS rate, CASE
    WHEN text = '' THEN CASE
        WHEN bare(concat({every})) = '' THEN 'blank_row'
        WHEN is_total(bare(c0)) OR is_total(brief) OR is_total(campaign) THEN 'total_row'
        ELSE 'no_text' END
    WHEN is_total(text) AND (brief = '' OR is_total(brief)) THEN 'total_row'
    WHEN raw_impressions = (SELECT impressions FROM heading) AND raw_clicks = (SELECT clicks FROM heading) THEN 'heading_row'
    WHEN contains(text, chr(0)) OR contains(brief, chr(0)) THEN 'nul_character'
    WHEN raw_impressions = '' OR raw_clicks = '' THEN 'missing_number'
    WHEN {no_number} THEN 'not_a_number'
    WHEN impressions < 0 OR clicks < 0 OR conversions < 0 OR cost < 0 THEN 'negative'
    WHEN impressions <> floor(impressions) OR clicks <> floor(clicks) THEN 'not_whole'
    WHEN impressions > {MOST_IMPRESSIONS} THEN 'too_large'
    WHEN clicks > impressions THEN 'clicks_over_impressions'
    {no_date}
    ELSE '' END AS reason
FROM numbers {join}"""


def _cell(indices: list[int], between: str) -> str:
    if len(indices) < 2:
        return f"blank(c{indices[0]})" if indices else "''"
    return f"concat_ws('{between}', {', '.join(f'''nullif(blank(c{index}), '')''' for index in indices)})"


def values(row: tuple) -> dict[str, Any]:
    """What a refused row of `Sums.add` says, by role."""
    return dict(zip((*_COUNTED, "date"), row[2:], strict=True))
