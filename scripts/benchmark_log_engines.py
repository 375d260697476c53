"""Which engine sums up an ad log larger than memory: time and peak memory of DuckDB, Polars, pyarrow and of `read_log` on one made-up log.

python scripts/benchmark_log_engines.py 1000000 10000000

Each engine runs in a fresh process on the same file and does the same work: numbers out of "1,234", rows with more clicks than
impressions left out, sums by key and text. `read_log` does more: it judges every row, finds lines, dates and spellings.
Polars is no dependency: `pip install polars` (elsewhere: put it on PYTHONPATH); an engine that is not there is left out.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KEYS = ("広告グループ", "デバイス", "日付", "広告見出し")
NUMBERS = ("表示回数", "クリック数")
ENGINES = ("duckdb", "polars", "pyarrow", "read_log")
_ROWS_A_BRIEF = 200


def write_log(path: Path, rows: int, seed: int = 0) -> None:
    """A made-up export of `rows` rows (about 105 bytes each; 10^6 in about 2 s) by DuckDB: five texts a brief, three devices, 180 days.

    Clicks are normal around impressions x CTR, each text with a CTR of its own. Every 1000th row has more clicks than impressions.
    """
    import duckdb

    briefs = max(1, rows // _ROWS_A_BRIEF)
    query = f"""
WITH drawn AS (
    SELECT i, (hash(i, {seed}, 1) % {briefs})::BIGINT AS brief, (hash(i, {seed}, 2) % 5)::BIGINT AS text,
        100 + (hash(i, {seed}, 3) % 400)::BIGINT AS impressions, (1 + hash(i, {seed}, 4) % 1000000) / 1000002.0 AS u,
        (hash(i, {seed}, 5) % 1000) / 1000.0 AS v
    FROM range({rows}) t(i)),
rated AS (SELECT *, 0.02 + 0.01 * text + 0.01 * ((brief % 7) / 7.0) AS ctr FROM drawn),
counted AS (
    SELECT *, CASE WHEN i % 1000 = 999 THEN impressions + 1 ELSE least(impressions, greatest(0, round(
        impressions * ctr + sqrt(impressions * ctr) * sqrt(-2 * ln(u)) * cos(2 * pi() * v))))::BIGINT END AS clicks
    FROM rated)
SELECT strftime(DATE '2026-01-01' + (hash(i, {seed}, 6) % 180)::INTEGER, '%Y/%m/%d') AS "日付", '夏の' || brief % 97 AS "キャンペーン",
    '商品' || brief AS "広告グループ", ['モバイル', 'PC', 'タブレット'][1 + (i % 3)::INTEGER] AS "デバイス",
    '今すぐ' || brief || 'が' || text || '割引の人気商品' AS "広告見出し", format('{{:,}}', impressions * 10) AS "表示回数",
    clicks * 10 AS "クリック数", (clicks // 20)::VARCHAR AS "コンバージョン", format('¥{{:,}}', clicks * 57) AS "費用"
FROM counted"""
    duckdb.connect().execute(f"COPY ({query}) TO '{path}' (FORMAT csv, HEADER)")


def sum_duckdb(path: str) -> int:
    import duckdb

    with tempfile.TemporaryDirectory() as folder:
        connection = duckdb.connect(config={"memory_limit": "1GB", "temp_directory": folder})
        numbers = ", ".join(f"""sum(replace("{name}", ',', '')::BIGINT)""" for name in NUMBERS)
        keys = ", ".join(f'"{name}"' for name in KEYS)
        possible = f"""replace("{NUMBERS[1]}", ',', '')::BIGINT <= replace("{NUMBERS[0]}", ',', '')::BIGINT"""
        query = f"SELECT {keys}, {numbers} FROM read_csv(?, all_varchar = true, header = true) WHERE {possible} GROUP BY ALL"
        return connection.sql(query, params=[path]).to_arrow_table().num_rows


def sum_polars(path: str) -> int:
    import polars as pl

    number = {name: pl.col(name).str.replace_all(",", "", literal=True).cast(pl.Int64) for name in NUMBERS}
    log = pl.scan_csv(path, infer_schema=False).with_columns(**number).filter(pl.col(NUMBERS[1]) <= pl.col(NUMBERS[0]))
    return log.group_by(KEYS).agg(pl.col(NUMBERS).sum()).collect(engine="streaming").height


def sum_pyarrow(path: str) -> int:
    """By blocks, each summed up, then their sums: Arrow has no aggregation that spills."""
    import pyarrow
    import pyarrow.compute as pc
    from pyarrow import csv

    options = csv.ConvertOptions(
        include_columns=[*KEYS, *NUMBERS], column_types=dict.fromkeys((*KEYS, *NUMBERS), pyarrow.string())
    )
    parts = []
    for batch in csv.open_csv(path, csv.ReadOptions(block_size=8 << 20), convert_options=options):
        table = pyarrow.Table.from_batches([batch])
        for at, name in enumerate(NUMBERS, len(KEYS)):
            table = table.set_column(at, name, pc.replace_substring(table[name], ",", "").cast(pyarrow.int64()))
        table = table.filter(pc.less_equal(table[NUMBERS[1]], table[NUMBERS[0]]))
        parts.append(table.group_by(KEYS).aggregate([(name, "sum") for name in NUMBERS]))
    whole = pyarrow.concat_tables(parts)
    return whole.group_by(KEYS).aggregate([(f"{name}_sum", "sum") for name in NUMBERS]).num_rows


def sum_read_log(path: str) -> int:
    from adslm_helpers.dataset.ad_log.read import read_log

    return len(read_log(path, period="day").arms)


def measure(engine: str, path: str) -> dict:
    started = time.monotonic()
    groups = globals()[f"sum_{engine}"](path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (30 if sys.platform == "darwin" else 20))
    return {"groups": groups, "seconds": time.monotonic() - started, "cpu": time.process_time(), "gib": peak}


def main() -> None:
    print("| rows | engine | seconds | CPU seconds | peak GiB | groups |\n|---|---|---|---|---|---|", flush=True)
    for rows in map(int, sys.argv[1:] or ["1000000"]):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "log.csv"
            write_log(path, rows)
            for engine in ENGINES:
                if engine == "polars" and importlib.util.find_spec("polars") is None:
                    continue
                command = [sys.executable, __file__, "--one", engine, str(path)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    reason = done.stderr.strip().splitlines()[-1][:80] if done.stderr.strip() else f"signal {-done.returncode}"
                    print(f"| {rows:,} | {engine} | failed: {reason} | | | |", flush=True)
                    continue
                got = json.loads(done.stdout)
                figures = f"{got['seconds']:.1f} | {got['cpu']:.1f} | {got['gib']:.2f} | {got['groups']:,}"
                print(f"| {rows:,} | {engine} | {figures} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(*sys.argv[2:4])))
    else:
        main()
