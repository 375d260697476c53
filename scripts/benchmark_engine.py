"""Engine fast against TRL: the same model, data, seed and steps, in turn in one process; time, CPU time, peak memory, distance to the floor.

make bench                                             # --quick, about 6 minutes on 2 quiet cores
.venv/bin/python scripts/benchmark_engine.py --full --versions 0.18.1 0.29.1 --write      # about 25 minutes; docs/results/engine.md
.venv/bin/python scripts/benchmark_engine.py --device cuda --write                        # a random 1.5B Qwen2, bf16 and 4-bit

One thread on a CPU, so that CPU time is what was computed. No ratio is printed of trainings whose losses differ by more than 1e-4.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from engine_page import page
from engine_runs import BEST, FAST, LARGE_TILES, SMALL_TILES, TRL, Cell

from adslm_helpers.run import write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
LOSS_LIMIT = 1e-4
EPOCHS = (1, 3)
DEFAULTS, CONFIGURED = list(TRL)[:2]
_SHORT = (DEFAULTS, BEST, FAST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few cells, few rounds (the default)")
    parser.add_argument("--full", action="store_true", help="every shape with every vocabulary, three rounds")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--versions", nargs="*", default=[], metavar="TRL", help="the ads also under these TRL versions")
    parser.add_argument("--environments", type=Path, default=ROOT / ".compat", help="folder with trl-VERSION environments")
    parser.add_argument("--python", type=Path, help="interpreter that trains, instead of this one")
    parser.add_argument(
        "--only", default="", help="only cells whose name (as in the table) contains this; others keep their rows"
    )
    parser.add_argument("--no-memory", action="store_true", help="time only")
    parser.add_argument("--write", action="store_true", help="docs/results/engine.md and engine.json, after every cell")
    parser.add_argument("--again", action="store_true", help="measure nothing: write the page anew from engine.json")
    arguments = parser.parse_args()
    record = _record(arguments)
    if not arguments.again:
        for _ in measured(arguments, record):
            if arguments.write:
                write(record)
    elif arguments.write:
        write(record)
    print("\n" + page(record))
    sys.exit(any(cell["problem"] for cell in record["cells"]))


def measured(arguments: argparse.Namespace, record: dict[str, Any]) -> Iterator[None]:
    """Puts one cell or one peak after another into `record`."""
    here = arguments.python or Path(sys.executable)
    full = arguments.full or arguments.device == "cuda"
    plans = [(here, cells(full, arguments.device))]
    for version in arguments.versions:
        plans.append((_environment(arguments.environments, version), version_cells(full)))
    for python, planned in plans:
        wanted = [cell for cell in planned if arguments.only in name_of(cell)]
        for row in results(python, wanted):
            _put(record["cells"], row, ("name", "trl"))
            print(line(row), flush=True)
            yield
    if arguments.no_memory or arguments.device == "cuda":
        return
    for cell, engine, tiles in peaks(full):
        if arguments.only in name_of(cell):
            row = memory(here, cell, engine, tiles)
            _put(record["memory"], row, ("name", "engine", "tiles"))
            print(f"{row['name']:<22}{row['engine']:<28}{row['peak']:>8.0f} MiB of the process", flush=True)
            yield


def cells(full: bool, device: str) -> list[Cell]:
    """What is compared under the installed TRL, the most wanted first."""
    if device == "cuda":
        large = [Cell(shape, 151_936, steps=4, rounds=3, batch=8, device="cuda") for shape in ("ads", "long answers", "mixed")]
        return [*large, Cell("ads", 151_936, steps=4, rounds=3, batch=8, device="cuda", in_4bit=True)]
    if not full:
        return [
            Cell("ads", 32_000, rounds=2),
            Cell("ads", 4096, rounds=2, engines=_SHORT),
            Cell("ads", 151_936, rounds=1, batch=2, engines=_SHORT),
            *(Cell(shape, 32_000, rounds=1, batch=2, engines=_SHORT) for shape in ("long answers", "long prompts", "mixed")),
        ]
    others = ("long answers", "long prompts", "mixed")
    return [
        Cell("ads", 32_000),
        Cell("ads", 4096),
        Cell("ads", 151_936, rounds=2, engines=_SHORT),
        *(Cell(shape, 32_000, rounds=2, engines=_SHORT) for shape in others),
        *(Cell(shape, 4096, batch=2, engines=_SHORT) for shape in others),
        *(Cell(shape, 151_936, rounds=1, batch=2, engines=_SHORT) for shape in others),
    ]


def version_cells(full: bool) -> list[Cell]:
    """What is compared under other TRL versions: the ads."""
    return [Cell("ads", vocabulary, rounds=2, engines=_SHORT) for vocabulary in ((32_000, 4096) if full else (32_000,))]


def peaks(full: bool) -> Iterator[tuple[Cell, str, tuple[int, int] | None]]:
    """Whose peak memory is measured: the ads, by TRL at its best with both sizes of its tiles, by its defaults, by ours."""
    if not full:
        cell = Cell("ads", 151_936, steps=1, batch=2)
        yield from ((cell, BEST, LARGE_TILES), (cell, BEST, SMALL_TILES), (cell, FAST, None))
        return
    for vocabulary in (151_936, 32_000):
        cell = Cell("ads", vocabulary, steps=1)
        yield from ((cell, BEST, LARGE_TILES), (cell, BEST, SMALL_TILES), (cell, DEFAULTS, None), (cell, FAST, None))


def results(python: Path, wanted: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    """One summary for each cell, as soon as it is measured in a child of that interpreter."""
    about, rows, number = {}, [], 0
    if not wanted:
        return
    for row in _child(python, {"cells": [dataclasses.asdict(cell) for cell in wanted]}):
        if "versions" in row:
            about = row
            continue
        if row["cell"] != number:
            yield summary(wanted[number], rows, **about)
            rows, number = [], row["cell"]
        rows.append(row)
    if rows:
        yield summary(wanted[number], rows, **about)


def summary(cell: Cell, rows: list[dict[str, Any]], versions: dict[str, str], machine: str) -> dict[str, Any]:
    """Medians of the runs of a cell, and ratios to ours within each round."""
    runs = [row for row in rows if "engine" in row]
    floors = [row["floor"] for row in rows if "floor" in row]
    clock = "cpu" if cell.device == "cpu" else "wall"  # a GPU's work is in no CPU's time
    found = {
        "name": name_of(cell), "trl": versions["trl"], "versions": versions, "shape": cell.shape, "vocabulary": cell.vocabulary,
        "batch": cell.batch, "steps": cell.steps, "rounds": cell.rounds, "device": cell.device, "in_4bit": cell.in_4bit,
        "machine": machine, "date": datetime.now(timezone.utc).date().isoformat(), "clock": clock, "tiles": rows[0].get("tiles"),
        "problem": _difference(runs), "loss_difference": _finite(_largest(runs, "losses")), "logps_difference": _finite(_largest(runs, "logps")),
        "gflop": statistics.median(floor["operations"] for floor in floors) / 1e9,
        "floor": {str(epochs): statistics.median(f["step"] + f["reference"] / epochs for f in floors) for epochs in EPOCHS},
        "told": sorted({words for run in runs for words in run["told"]}), "engines": {},
    }  # fmt: skip
    for engine in cell.engines:
        of = [run for run in runs if run["engine"] == engine]
        found["engines"][engine] = {
            "wall": statistics.median(second for run in of for second in run["wall"]),
            "cpu": statistics.median(second for run in of for second in run["cpu"]),
            "reference_wall": statistics.median(run["reference"][0] for run in of) / cell.steps,
            "reference_cpu": statistics.median(run["reference"][1] for run in of) / cell.steps,
            "peak_mib": max((run["peak_mib"] for run in of if run["peak_mib"]), default=None),
            "ratio": {
                f"{kind} {epochs}": statistics.median(_ratios(runs, engine, kind, epochs))
                for kind in ("wall", "cpu")
                for epochs in EPOCHS
            },
        }
    return found


def per_step(run: dict[str, Any], kind: str, epochs: int) -> float:
    """Seconds of a step of a training of so many epochs, its share of the reference pass included."""
    reference = run["reference"][0 if kind == "wall" else 1] / len(run["wall"])
    return statistics.median(run[kind]) + reference / epochs


def _ratios(runs: list[dict[str, Any]], engine: str, kind: str, epochs: int) -> list[float]:
    """How many times our time this engine takes, round by round."""
    by_round: dict[int, dict[str, float]] = {}
    for run in runs:
        by_round.setdefault(run["round"], {})[run["engine"]] = per_step(run, kind, epochs)
    return [times[engine] / times[FAST] for times in by_round.values()]


def _largest(runs: list[dict[str, Any]], key: str) -> float:
    """The largest difference from ours, NaN where one is."""
    ours = next(run[key] for run in runs if run["engine"] == FAST)
    found = [abs(a - b) for run in runs for a, b in zip(run[key], ours, strict=True)]
    return math.nan if any(map(math.isnan, found)) else max(found)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _difference(runs: list[dict[str, Any]]) -> str:
    """Why the trainings are not the same, empty where they are."""
    off = _largest(runs, "losses")
    moved = [run["losses"][0] != run["losses"][-1] for run in runs]
    if not off <= LOSS_LIMIT:
        return f"losses differ by {off:.1e}"
    return "" if all(moved) else "a loss that does not move shows nothing"


def memory(python: Path, cell: Cell, engine: str, tiles: tuple[int, int] | None) -> dict[str, Any]:
    """The peak of a process that trains by this engine."""
    *_, found = _child(python, {"cells": [dataclasses.asdict(cell)], "memory": engine, "tiles": tiles})
    return {"name": name_of(cell), "vocabulary": cell.vocabulary, "engine": engine, "tiles": tiles and list(tiles), **found}


def _child(python: Path, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a fresh process says, line by line; SystemExit with the end of its errors where it fails."""
    # A fixed threshold: glibc raises its own with use, and then keeps freed tensors of up to 32 MB for itself.
    threads = {} if asked["cells"] and asked["cells"][0]["device"] == "cuda" else {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    allocator = {"MALLOC_MMAP_THRESHOLD_": "1048576"} if "memory" in asked else {}
    quiet = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(python), str(Path(__file__).with_name("engine_runs.py")), json.dumps(asked)]
    # Errors go to a file: a pipe that nobody reads meanwhile would stop the child.
    with tempfile.TemporaryFile("w+") as errors:
        environment = {**os.environ, **quiet, **threads, **allocator}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as child:
            for text in child.stdout:
                if text.startswith("{"):
                    yield json.loads(text)
        if child.returncode:
            errors.seek(0)
            sys.exit(f"{' '.join(command[:2])} failed:\n{errors.read()[-3000:]}")


def _environment(folder: Path, version: str) -> Path:
    python = folder / f"trl-{version}" / "bin" / "python"
    if not python.is_file():
        sys.exit(f"no environment for TRL {version} in {folder}: run `make compat VERSIONS={version}` first")
    return python


def name_of(cell: Cell) -> str:
    return f"{cell.shape}, {cell.vocabulary:,}{', 4-bit' if cell.in_4bit else ''}{', GPU' if cell.device == 'cuda' else ''}"


def line(row: dict[str, Any]) -> str:
    """A cell in a few words, as soon as it is measured."""
    if row["problem"]:
        return f"{row['name']:<22}TRL {row['trl']:<8}NO RATIO: {row['problem']}"
    clock = row["clock"]
    times = {name: row["engines"][name] for name in row["engines"]}
    told = "  ".join(f"{name} {value['ratio'][f'{clock} 3']:.2f}x" for name, value in times.items() if name != FAST)
    ours = times[FAST]
    for words in row["told"]:
        print(f"  {words}")
    return f"{row['name']:<22}TRL {row['trl']:<8}ours {ours[clock]:.2f} s a step ({clock}); over 3 epochs {told}"


def _put(rows: list[dict[str, Any]], row: dict[str, Any], key: tuple[str, ...]) -> None:
    """In place of the earlier row of the same key, or at the end."""
    at = next((i for i, old in enumerate(rows) if all(old[name] == row[name] for name in key)), len(rows))
    rows[at : at + 1] = [row]


def _record(arguments: argparse.Namespace) -> dict[str, Any]:
    """What engine.json holds: with --only and --again all of it, else the rows of the other device."""
    path = RESULTS / "engine.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"cells": [], "memory": [], "commands": {}}
    if arguments.again or arguments.only:
        return kept
    options = ["--full"] if arguments.full else []
    options += ["--device", "cuda"] if arguments.device == "cuda" else []
    options += ["--versions", *arguments.versions] if arguments.versions else []  # and no paths of this machine
    kept["cells"] = [cell for cell in kept["cells"] if cell["device"] != arguments.device]
    kept["memory"] = kept["memory"] if arguments.device == "cuda" else []
    kept["commands"][arguments.device] = " ".join(["scripts/benchmark_engine.py", *options])
    return kept


def write(record: dict[str, Any]) -> None:
    write_json(RESULTS / "engine.json", record)
    write_text(RESULTS / "engine.md", page(record))


if __name__ == "__main__":
    main()
