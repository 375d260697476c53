"""How long a log takes to become pairs, and a set of pairs to be audited, from 10^4 to 10^6 rows: seconds, peak memory, and the ratio to the size before.

make bench-data          (BIG=1: a log of 10^7 rows too; python scripts/benchmark_data.py --big --write docs/results/data_benchmark.md)

Every line is measured in a process of its own; what makes the made-up data is not counted. Linear growth is a ratio of 10.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

SIZES = (10_000, 100_000, 1_000_000)
BIG = 10_000_000
_LETTERS = "あいうえおかきくけこさしすせそたちつてとなにぬねの"


def log_to_pairs(path: str) -> dict:
    """read_log, pairs_from_log with the gate of the ad rules: what `adslm dataset --from-log` does before it writes."""
    from adslm_helpers.dataset.sources import Reading, open_source

    opened = open_source(path, 0, Reading("log"))
    return {"pairs": sum(1 for _ in opened.rows), "log_rows": opened.facts["log"]["rows_in"]}


def audit_pairs(path: str) -> dict:
    """The audit with the ad rules, of pairs that are in memory already."""
    from adslm_helpers.dataset.audit.audit import audit
    from adslm_helpers.dataset.sources import rules_broken

    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    started = time.perf_counter()
    found = audit(rows, breaches=rules_broken)
    return {"findings": len(found.findings), "seconds": time.perf_counter() - started}


JOBS = {"log to pairs": log_to_pairs, "audit": audit_pairs}


def write_pairs(path: Path, n: int) -> None:
    """`n` made-up pairs: the sample's, and beyond its 20,000 variants of them with letters of their own."""
    from adslm_helpers.dataset.samples import sample_pairs

    base, rng = sample_pairs(min(n, 20_000)), random.Random(1)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(n):
            row = base[number % len(base)]
            if number >= len(base):
                word = "".join(rng.choice(_LETTERS) for _ in range(4))
                row = {
                    "prompt": f"{row['prompt']}（案{word}）",
                    "chosen": word[:2] + row["chosen"] + word[2:],
                    "rejected": word[1:3] + row["rejected"] + word[3:],
                }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_log(path: Path, n: int) -> None:
    from benchmark_log_engines import write_log as write

    write(path, n)


def one(job: str, path: str) -> None:
    """In the process that is measured."""
    started = time.perf_counter()
    told = {"seconds": None, **JOBS[job](path)}
    told["seconds"] = told["seconds"] or time.perf_counter() - started
    unit = 1 if sys.platform == "darwin" else 1024
    told["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1024**3
    print("RESULT " + json.dumps(told))


def measured(job: str, path: Path) -> dict:
    done = subprocess.run([sys.executable, __file__, "--one", job, str(path)], capture_output=True, text=True)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise SystemExit(f"{job}: {done.stderr.strip()[-2000:]}")
    return json.loads(line.removeprefix("RESULT "))


def table(sizes: dict[str, list[int]]) -> list[str]:
    lines = ["| job | rows | seconds | ratio | peak GiB | gives |", "|---|---|---|---|---|---|"]
    print(*lines, sep="\n", flush=True)
    for job, writer in (("log to pairs", write_log), ("audit", write_pairs)):
        before = None
        for n in sizes[job]:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / ("log.csv" if job == "log to pairs" else "pairs.jsonl")
                writer(path, n)
                told = measured(job, path)
            ratio = f"{told['seconds'] / before:.1f}" if before else ""
            before = told["seconds"]
            gives = f"{told['pairs']:,} pairs" if "pairs" in told else f"{told['findings']} findings"
            lines.append(f"| {job} | {n:,} | {told['seconds']:.1f} | {ratio} | {told['peak_gib']:.2f} | {gives} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--big", action="store_true", help="a log of 10^7 rows too")
    parser.add_argument("--write", metavar="FILE", help="write the table to this file")
    parser.add_argument("--one", nargs=2, metavar=("JOB", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return one(*arguments.one)
    lines = table({"log to pairs": [*SIZES, *([BIG] if arguments.big else [])], "audit": list(SIZES)})
    if arguments.write:
        command = f"python scripts/benchmark_data.py{' --big' if arguments.big else ''} --write {arguments.write}"
        text = f"# Data: time and memory by size\n\nMeasured {date.today()} on {os.cpu_count()} CPU cores with `{command}`.\nRatio: to the size before; 10 is linear.\n\n"
        Path(arguments.write).write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
