"""The five notebooks in order, headless: executed copies into the run folder, a line for each, the short table at the end."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import AdslmError, RunError
from .foreign_text import redacted
from .run import Run, runs_root, write_json, write_text

ROAD = ("00_setup", "01_dataset", "02_train", "03_evaluate", "04_export")
CELL_TIMEOUT_S = 24 * 3600  # a hub model on a CPU trains for hours


class NotebookError(AdslmError):
    """A cell of a notebook failed; its executed copy shows where."""

    exit_code = 1


def notebooks_folder() -> Path:
    """The folder of the lessons in this clone; raises RunError where only the package is installed."""
    folder = runs_root().parent / "notebooks"
    beside = Path(__file__).resolve().parents[1] / "notebooks"
    for candidate in (beside, folder):
        if (candidate / f"{ROAD[0]}.ipynb").is_file():
            return candidate
    raise RunError(
        "ノートブックが見つかりません。→ リポジトリを clone したフォルダーで実行してください。",
        "The notebooks are not here. -> Run this in a clone of the repository.",
    )


def run_notebooks(run: Run, parameters: dict[str, str], say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Executes all notebooks with `parameters` (RUN, PRESET, MODEL, DATA) and returns name, seconds and status of each.

    Executed copies, with outputs and figures, go to runs/NAME/notebooks/. Raises NotebookError at the first cell that fails.
    """
    folder = notebooks_folder()
    timings = []
    for number, name in enumerate(ROAD, 1):
        started = time.monotonic()
        say(f"[{number}/{len(ROAD)}] {name} ...")
        _execute(folder / f"{name}.ipynb", run.path / "notebooks" / f"{name}.ipynb", parameters, run)
        timings.append({"notebook": name, "seconds": round(time.monotonic() - started, 1)})
        say(f"      {timings[-1]['seconds']:.0f} 秒 / s   {run.path / 'notebooks' / name}.ipynb")
    write_json(run.path / "notebooks" / "timings.json", {"notebooks": timings, "peak_gib": peak_gib()})
    return timings


def peak_gib() -> float:
    """Largest memory of any finished child process (the kernels), in GiB. macOS counts bytes, Linux KiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1024**3, 2)


def _execute(source: Path, target: Path, parameters: dict[str, str], run: Run) -> None:
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    notebook = nbformat.read(source, as_version=4)
    environment = {**os.environ, **{f"ADSLM_{key}": value for key, value in parameters.items() if value}, "ADSLM_HEADLESS": "1"}
    environment |= {
        "ADSLM_RUNS": str(run.path.parent),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(source.parents[1]), os.environ.get("PYTHONPATH")))),
    }
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        skip_cells_with_tag="nbval-skip",
        extra_arguments=["--log-level=40"],  # ipykernel warns, five times, that its local socket is not encrypted
        resources={"metadata": {"path": str(source.parent)}},
    )
    try:
        client.execute(env=environment)  # not inside setup_kernel(): both would take the kernel down
    except CellExecutionError as error:
        raise NotebookError(*_failure(target, _last_words(error))) from None
    except DeadKernelError:
        raise NotebookError(*_failure(target, "the kernel died (memory?)")) from None
    finally:
        write_text(target, redacted(nbformat.writes(notebook)))  # an output may hold what a library said of its request


def _failure(target: Path, words: str) -> tuple[str, str]:
    return (
        f"{target.name} のセルが失敗しました。\n{words}\n→ {target} を開くと、どのセルかが分かります。",
        f"A cell of {target.name} failed (see above). -> Open {target} to see which.",
    )


def _last_words(error: Any) -> str:
    """What the failed cell said: our own errors whole, a traceback's last line otherwise."""
    import re

    plain = re.sub(r"\x1b\[[0-9;]*m", "", error.traceback or str(error))
    lines = [line for line in plain.splitlines() if line.strip()]
    return "\n".join(lines[-6:])
