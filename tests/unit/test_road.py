"""The five notebooks headless: in order, with the parameters, stopped by the first failure, with its words and its copy."""

import json
import os
from pathlib import Path

import nbformat
import pytest

from adslm_helpers import road
from adslm_helpers.errors import AdslmError, RunError
from adslm_helpers.road import ROAD, NotebookError, notebooks_folder, peak_gib, run_notebooks
from adslm_helpers.run import Run, read_json

ROOT = Path(__file__).parents[2]


def test_the_road_is_the_five_lessons_in_order():
    folder = notebooks_folder()
    assert folder == ROOT / "notebooks"
    assert [name[:2] for name in ROAD] == ["00", "01", "02", "03", "04"]
    assert all((folder / f"{name}.ipynb").is_file() for name in ROAD)


def test_an_installed_package_without_notebooks_says_where_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(road, "__file__", str(tmp_path / "site-packages" / "adslm_helpers" / "road.py"))
    monkeypatch.setenv("ADSLM_RUNS", str(tmp_path / "empty" / "runs"))
    with pytest.raises(RunError, match="clone"):
        notebooks_folder()


def test_a_failed_cell_is_no_user_mistake_for_scripts():
    assert issubclass(NotebookError, AdslmError) and NotebookError.exit_code == 1


def test_every_notebook_gets_its_copy_its_line_and_its_time(monkeypatch):
    executed, said = [], []
    monkeypatch.setattr(road, "_execute", lambda source, target, parameters, run: executed.append((source, target, parameters)))
    run = Run("spring")
    timings = run_notebooks(run, {"RUN": "spring"}, say=said.append)
    assert [source.stem for source, _, _ in executed] == list(ROAD) == [timing["notebook"] for timing in timings]
    assert all(target == run.path / "notebooks" / source.name for source, target, _ in executed)
    assert len(said) == 10 and said[0].startswith("[1/5] 00_setup") and str(run.path) in said[9]
    assert read_json(run.path / "notebooks" / "timings.json")["notebooks"] == timings


def test_the_first_failure_stops_the_road(monkeypatch):
    executed = []

    def execute(source, *rest):
        executed.append(source.stem)
        if source.stem == "01_dataset":
            raise NotebookError("だめ。→ 直す", "bad. -> mend")

    monkeypatch.setattr(road, "_execute", execute)
    with pytest.raises(NotebookError):
        run_notebooks(Run("spring"), {}, say=lambda line: None)
    assert executed == ["00_setup", "01_dataset"] and not (Run("spring").path / "notebooks" / "timings.json").exists()


def test_memory_is_read_in_the_unit_of_the_system(monkeypatch):
    class Usage:
        ru_maxrss = 3 * 1024 * 1024

    monkeypatch.setattr(road.resource, "getrusage", lambda who: Usage)
    monkeypatch.setattr(road.sys, "platform", "linux")
    assert peak_gib() == 3.0  # KiB
    monkeypatch.setattr(road.sys, "platform", "darwin")
    assert peak_gib() == 0.0  # bytes


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Two notebooks through a real kernel: one that ends well, one with a mistake of the user's in its second cell."""
    folder = tmp_path_factory.mktemp("clone") / "notebooks"
    folder.mkdir()
    code, new = nbformat.v4.new_code_cell, nbformat.v4.new_notebook
    look = "import json, os\nprint(json.dumps([os.getcwd(), {key: os.environ.get(key) for key in KEYS}]))"
    keys = "KEYS = ['ADSLM_RUN', 'ADSLM_DATA', 'ADSLM_HEADLESS', 'ADSLM_RUNS']"
    wrong = "from adslm_helpers.errors import DataError\nraise DataError('列がありません。→ 足す', 'No such column. -> Add it.')"
    nbformat.write(new(cells=[code("1 / 0", metadata={"tags": ["nbval-skip"]}), code(keys), code(look)]), folder / "good.ipynb")
    nbformat.write(new(cells=[code("print('before')"), code(wrong), code("print('after')")]), folder / "bad.ipynb")
    run, caught, told = Run("spring", folder.parent / "my runs"), None, dict(os.environ)
    os.environ.update({"PYTHONPATH": str(ROOT), "ADSLM_DATA": ""})
    try:
        for name in ("good", "bad"):
            road._execute(folder / f"{name}.ipynb", run.path / "notebooks" / f"{name}.ipynb", {"RUN": "spring", "DATA": ""}, run)
    except NotebookError as error:
        caught = error
    finally:
        os.environ.clear()
        os.environ.update(told)
    return folder, run, caught


def outputs(run, name):
    cells = nbformat.read(run.path / "notebooks" / f"{name}.ipynb", as_version=4).cells
    return ["".join(out.get("text", out.get("ename", "")) for out in cell.outputs) for cell in cells]


def test_the_kernel_works_beside_the_lessons_with_the_parameters_and_skips_the_install_cell(executed):
    folder, run, _ = executed
    skipped, _, said = outputs(run, "good")
    place, seen = json.loads(said)
    assert skipped == "" and Path(place).resolve() == folder.resolve()
    assert (seen["ADSLM_RUN"], seen["ADSLM_HEADLESS"], seen["ADSLM_RUNS"]) == ("spring", "1", str(run.path.parent))
    assert not seen["ADSLM_DATA"]


def test_a_failed_cell_ends_in_its_own_words_and_an_executed_copy(executed):
    _, run, caught = executed
    assert isinstance(caught, NotebookError)
    assert "DataError: 列がありません。→ 足す" in caught.ja and "No such column. -> Add it." in caught.ja
    assert "\x1b[" not in str(caught) and "Traceback" not in str(caught) and "bad.ipynb" in caught.en
    assert outputs(run, "bad") == ["before\n", "DataError", ""]


def test_the_lessons_themselves_stay_without_outputs(executed):
    folder, _, _ = executed
    assert all(
        not cell.outputs for name in ("good", "bad") for cell in nbformat.read(folder / f"{name}.ipynb", as_version=4).cells
    )
