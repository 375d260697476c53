"""Where the time goes: steps per second of the default recipe, the notebooks of the last `make run`, start-up of the command line.

make bench
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

from adslm_helpers.dataset.build import build_dataset
from adslm_helpers.recipe import load_recipe
from adslm_helpers.run import Run, read_json, read_jsonl
from adslm_helpers.training.train import train


def main() -> None:
    print(f"adslm --help: {start_up():.2f} s (median of 5)")
    steps_per_second(40)
    show_road(Run("quickstart"))


def start_up() -> float:
    """Wall seconds of a whole `adslm --help` process."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "adslm_helpers", "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def steps_per_second(steps: int) -> None:
    """Trains the default recipe for some steps in a temporary folder; the first log is left out (warm-up)."""
    with tempfile.TemporaryDirectory() as folder:
        run, recipe = (
            Run("bench", folder),
            load_recipe("tiny", max_steps=steps, save_steps=10**6, evals_per_run=1, watch_prompts=0),
        )
        build_dataset(run, "sample", recipe)
        train(run, recipe)
        rows = [row for row in read_jsonl(run.training / "history.jsonl") if "loss" in row]
    rate = (rows[-1]["step"] - rows[1]["step"]) / (rows[-1]["time"] - rows[1]["time"])
    peak = max(row["memory_gib"].get("process", 0) for row in rows)
    print(f"training: {rate:.2f} steps/s, {rate * recipe.per_device_train_batch_size:.1f} pairs/s, {peak:.2f} GiB resident")


def show_road(run: Run) -> None:
    """The share of each notebook in the last `make run`."""
    path = run.path / "notebooks" / "timings.json"
    if not path.is_file():
        print("no `make run` yet: its notebooks are not timed")
        return
    timings = read_json(path)
    total = sum(entry["seconds"] for entry in timings["notebooks"])
    for entry in timings["notebooks"]:
        print(f"{entry['notebook']:<14}{entry['seconds']:>7.1f} s  {entry['seconds'] / total:>5.0%}")
    print(f"{'make run':<14}{total:>7.1f} s   peak {timings['peak_gib']} GiB in one kernel")


if __name__ == "__main__":
    main()
