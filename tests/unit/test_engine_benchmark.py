"""What the engine's benchmark makes of its runs: ratios within a round, the reference's share, no ratio of trainings that are not the same."""

import importlib
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def benchmark(monkeypatch):
    """The script, which finds its neighbours beside it."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmark_engine")


def run(engine, number, seconds, reference=0.0, losses=(0.6931, 0.65)):
    times = {"wall": [seconds] * 2, "cpu": [seconds] * 2, "reference": [2 * reference] * 2}
    return {"engine": engine, "round": number, **times, "losses": [*losses], "logps": [-9.0, -8.0], "peak_mib": None, "told": []}


def summed(benchmark, runs, name="ads", vocabulary=32_000):
    engines = tuple(dict.fromkeys(one["engine"] for one in runs))
    cell = benchmark.Cell(name, vocabulary, rounds=2, engines=engines)
    floor = {"floor": {"step": 0.5, "reference": 0.3, "operations": 1e9, "rates": {}}}
    return benchmark.summary(cell, [{"tiles": [512, 4096]}, floor, *runs], {"trl": "1.16.0"}, "a machine")


def test_a_ratio_is_of_one_round(benchmark):
    """The machine was half as fast in the second round: twice our time in both, which medians over all rounds would not say."""
    runs = [run(benchmark.BEST, 0, 2.0), run("fast", 0, 1.0), run("fast", 1, 2.0), run(benchmark.BEST, 1, 4.0)]
    found = summed(benchmark, runs)
    assert found["engines"][benchmark.BEST]["ratio"]["cpu 3"] == pytest.approx(2.0)
    assert found["problem"] == ""


def test_the_reference_pass_counts_once_in_so_many_epochs(benchmark):
    runs = [run(benchmark.DEFAULTS, 0, 3.0), run("fast", 0, 1.0, reference=0.5)]
    ratio = summed(benchmark, runs)["engines"][benchmark.DEFAULTS]["ratio"]
    assert ratio["cpu 1"] == pytest.approx(3 / 1.5)
    assert ratio["cpu 3"] == pytest.approx(3 / (1 + 0.5 / 3))


def test_other_losses_are_no_comparison(benchmark):
    same = [run(benchmark.BEST, 0, 9.0), run("fast", 0, 1.0), run(benchmark.DEFAULTS, 0, 9.0)]
    for losses, problem in (((0.6931, 0.6503), "losses differ by 3.0e-04"), ((0.6931, float("nan")), "losses differ by nan")):
        found = summed(
            benchmark, [*same, run(benchmark.BEST, 1, 9.0, losses=losses), run("fast", 1, 1.0), run(benchmark.DEFAULTS, 1, 9.0)]
        )
        assert found["problem"] == problem
        assert "NO RATIO" in benchmark.line(found)
        page = benchmark.page({"cells": [found], "memory": [], "commands": {}})
        assert "9.00x" not in page and "| not measured |" in page
    still = [run(engine, 0, 1.0, losses=(0.6931, 0.6931)) for engine in (benchmark.BEST, "fast")]
    assert "does not move" in summed(benchmark, still)["problem"]


def test_targets_are_judged_by_the_worst_cell(benchmark):
    def cell(vocabulary, times):
        runs = [run(benchmark.BEST, 0, times), run(benchmark.DEFAULTS, 0, 2 * times), run("fast", 0, 1.0)]
        return summed(benchmark, runs, vocabulary=vocabulary)

    peak = {"name": "ads, 151,936", "vocabulary": 151_936, "libraries": 500.0, "tiles": None}
    memory = [{**peak, "engine": "fast", "peak": 900.0}, {**peak, "engine": benchmark.BEST, "peak": 1800.0}]
    page = benchmark.page({"cells": [cell(32_000, 4.0), cell(151_936, 3.0)], "memory": memory, "commands": {"cpu": "x"}})
    rows = {
        row.split("|")[1].strip(): [part.strip() for part in row.split("|")[2:-1]]
        for row in page.splitlines()
        if row.startswith("| ")
    }
    assert rows["TRL at its best, ads, 32k words and more"] == [">= 3.5", "3.00", "ads, 151,936 (TRL 1.16.0)", "no"]
    assert rows["TRL's defaults, any cell"][-1] == "yes"
    assert rows["TRL at its best, ads, 4k words"][1:] == ["not measured", "", "?"]
    assert rows[f"peak memory, {benchmark.BEST}"] == ["<= 0.60", "0.50", "ads, 151,936", "yes"]
