"""All notebooks as on Colab: the stand-in of tests/fake_colab, a folder for Drive, a secret token, and a hub that wants it.

Not collected by name; `tests/run_all.sh` runs it after the local round, in the same runs folder where ADSLM_RUNS names one. The executed
copies keep their outputs, so that the search for the token covers what a reader would see.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from adslm_helpers.copies import differing_files
from adslm_helpers.road import ROAD
from adslm_helpers.run import Run, read_json

from .gated_hub import REFUSED, GatedHub

ROOT = Path(__file__).parents[1]
TOKEN = "hf_ASONCOLABsecretASONCOLAB0123"


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """One round of `adslm run` on the made-up Colab, and all that it left behind."""
    folder = tmp_path_factory.mktemp("content")  # Drive is mounted at content/drive, as there
    runs = Path(os.environ.get("ADSLM_RUNS") or folder / "runs")
    behind = folder / "behind"
    behind.mkdir()
    (behind / "calls.jsonl").touch()
    (behind / "secrets.json").write_text(json.dumps({"HF_TOKEN": {"value": TOKEN}}), encoding="utf-8")
    with GatedHub(TOKEN) as hub:
        environment = {
            **{
                key: value
                for key, value in os.environ.items()
                if key not in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "ADSLM_DRIVE")
            },
            "COLAB_RELEASE_TAG": "release-colab_20260815-060052_RC00",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "fake_colab")]),
            "FAKE_COLAB": str(behind),
            "ADSLM_MOUNT": str(folder / "drive"),
            "ADSLM_RUNS": str(runs),
            "ADSLM_SMOKE": "1",
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(folder / "hub"),
            "NO_PROXY": "127.0.0.1",
        }
        command = [sys.executable, "-m", "adslm_helpers", "run", "--run", "quickstart", "--model", REFUSED]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder, timeout=1800)
    (folder / "told.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    calls = [json.loads(line) for line in (behind / "calls.jsonl").read_text(encoding="utf-8").splitlines()]
    books = {path.stem: nbformat.read(path, as_version=4) for path in (runs / "quickstart" / "notebooks").glob("*.ipynb")}
    return SimpleNamespace(
        folder=folder, behind=behind, run=Run("quickstart", runs), code=done.returncode, calls=calls, books=books, sent=hub.sent,
        environment=environment,
    )  # fmt: skip


def outputs(book):
    return "\n".join(str(output) for cell in book.cells if cell.cell_type == "code" for output in cell.outputs)


def test_every_notebook_runs_to_its_end(road):
    assert road.code == 0, (road.folder / "told.txt").read_text(encoding="utf-8")
    assert sorted(road.books) == list(ROAD)
    assert all("Google Colab (release-colab_20260815" in outputs(book) for book in road.books.values())


def test_drive_is_asked_for_once_and_by_the_export(road):
    mounts = [call for call in road.calls if call["call"] == "drive.mount"]
    assert [call["mountpoint"] for call in mounts] == [str(road.folder / "drive")]
    assert "Mounted at" in outputs(road.books["04_export"])


def test_export_on_drive_is_whole(road):
    note = road.run.require("export")
    export = Path(note["path"])
    assert note["kind"] == "drive" and export.parent == road.folder / "drive" / "MyDrive" / "adslm"
    on_drive = road.behind / "my_drive" / "adslm"
    assert [path.name for path in on_drive.iterdir()] == [export.name]
    manifest = read_json(on_drive / export.name / "manifest.json")
    assert len(manifest["files"]) + 1 == note["files"] and not differing_files(on_drive / export.name, manifest["files"])
    assert {"adapter", "merged", "README.md"} <= {path.name for path in (on_drive / export.name).iterdir()}


def test_refused_drive_ends_in_a_next_step_and_not_in_a_traceback(road):
    book = nbformat.read(ROOT / "notebooks" / "04_export.ipynb", as_version=4)
    last = next(number for number, cell in enumerate(book.cells) if "export_run(" in cell.source)
    book.cells = book.cells[: last + 1]
    place = {"metadata": {"path": str(ROOT / "notebooks")}}
    client = NotebookClient(
        book, timeout=300, skip_cells_with_tag="nbval-skip", extra_arguments=["--log-level=40"], resources=place
    )
    with pytest.raises(CellExecutionError):
        client.execute(env={**road.environment, "FAKE_COLAB_DRIVE": "refused"})
    assert not any(output.output_type == "error" for cell in book.cells[:last] for output in cell.get("outputs", []))
    (error,) = [output for output in book.cells[last].outputs if output.output_type == "error"]
    assert error.ename == "SetupError" and "Traceback" not in "".join(error.traceback)
    assert len(error.traceback) == 2 and "全項目にチェック" in error.traceback[0] and "every permission" in error.traceback[1]


def test_gated_model_is_asked_for_with_the_secret_and_its_refusal_is_told(road):
    assert {call["key"] for call in road.calls if call["call"] == "userdata.get"} == {"HF_TOKEN"}
    assert {sent for path, sent in road.sent if REFUSED in path} == {f"Bearer {TOKEN}"}
    assert re.search(rf"{REFUSED}: .*gated", outputs(road.books["02_train"]))


def test_token_stands_in_nothing_that_was_written_or_shown(road):
    """Nor does half of it. The secret's own store aside: executed notebooks, runs, exports, the hub's cache, what the command printed."""
    halves = [half.encode() for half in (TOKEN[:15], TOKEN[15:])]
    files = [path for place in (road.folder, road.run.path.parent) for path in place.rglob("*") if path.is_file()]
    found = [path for path in files if any(half in path.read_bytes() for half in halves)]
    assert len(files) > 30 and found == [road.behind / "secrets.json"]
