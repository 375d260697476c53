"""The whole road with tokens planted in every place where a machine keeps one: none reaches an output or a file."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

from adslm_helpers import road
from adslm_helpers.road import NotebookError
from adslm_helpers.run import Run

from ..gated_hub import REFUSED, GatedHub

PLANTED = {
    "HF_TOKEN": "hf_PLANTEDinTheEnvironment0123456789",
    "HUGGING_FACE_HUB_TOKEN": "hf_PLANTEDunderTheOldName0123456789",
    "file": "hf_PLANTEDbyALogin0123456789abcdefgh",
    "address": "hf_PLANTEDinAnAddress0123456789abcde",
    "WANDB_API_KEY": "planted-without-a-usual-shape-0123",
}
SCRIPT = """
import logging, sys
logging.basicConfig()
from adslm_helpers.dataset.build import build_dataset
from adslm_helpers.environment.hub_token import token_row
from adslm_helpers.environment.report import environment_report
from adslm_helpers.errors import AdslmError
from adslm_helpers.evaluation.evaluate import evaluate
from adslm_helpers.export.export import export_run
from adslm_helpers.models.loading import load_model
from adslm_helpers.recipe import load_recipe
from adslm_helpers.run import Run
from adslm_helpers.training.train import train
from adslm_helpers.widgets.live import live_view

folder, refused, address = sys.argv[1:]
run = Run("road")
recipe = load_recipe("smoke", models=[refused, "ads/absent", folder], device="cpu", max_steps=2, eval_prompts=2, samples_per_prompt=1,
                     max_new_tokens=8, save_steps=1, evals_per_run=1)
print(*environment_report(recipe).lines(), token_row([refused]), sep="\\n")
print(*build_dataset(run, "sample:40", recipe).lines(), sep="\\n")
print(*train(run, recipe, [live_view()]).lines(), sep="\\n")
print(*evaluate(run).lines(), sep="\\n")
print(*export_run(run).lines(), sep="\\n")
print(*export_run(run, kind="zip").lines(), sep="\\n")

def failing(use):
    try:
        use()
    except AdslmError as error:
        print(error, error.args)
    else:
        raise SystemExit("no error")

failing(lambda: load_model(load_recipe("smoke", models=[refused], fallback=False, device="cpu")))
failing(lambda: load_recipe("smoke", model=address + "/ads/x"))
failing(lambda: build_dataset(Run("other"), address + "/a.jsonl", recipe))
failing(lambda: build_dataset(Run("other"), "hf:ads/none", recipe))
failing(lambda: Run(address))
run.update(note="done")
"""


def test_no_token_in_anything_that_a_road_writes(tmp_path, model_folder):
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text(PLANTED["file"])
    with GatedHub(PLANTED["HF_TOKEN"]) as hub:
        address = hub.url.replace("http://", f"http://user:{PLANTED['address']}@")
        environment = {
            **os.environ,
            **{name: value for name, value in PLANTED.items() if name.isupper()},
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(home),
            "NO_PROXY": "127.0.0.1",
            "WANDB_MODE": "disabled",
            "ADSLM_RUNS": str(tmp_path / "runs"),
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(model_folder), REFUSED, address],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert f"{REFUSED}: " in told and "***" in told and "FALLBACK" in told
    run = tmp_path / "runs" / "road"
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != home / "token"]
    names = {path.name for path in written}
    assert {"manifest.json", "result.json", "report.html", "README.md", "history.jsonl", "comparisons.jsonl"} <= names
    assert any(name.startswith("events.out") for name in names) and list((run / "export").glob("*.zip"))
    for where, token in PLANTED.items():
        assert token not in told, where
        assert [name for name, content in contents(written) if token.encode() in content] == [], where


def contents(paths):
    """Name and bytes of every file, and of every member of the zips among them."""
    for path in paths:
        yield path.name, path.read_bytes()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                yield from ((name, archive.read(name)) for name in archive.namelist())


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """A notebook through a real kernel whose library quotes the request that failed, token and all."""
    folder = tmp_path_factory.mktemp("clone") / "notebooks"
    folder.mkdir()
    address = f"https://me:{PLANTED['address']}@hub/x"
    code = f"import os\nprint('{address}', os.environ['HF_TOKEN'])\nraise OSError('\\x1b[31m401 for {address}\\n' + os.environ['HF_TOKEN'])"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), folder / "bad.ipynb")
    run, before = Run("spring", folder.parent / "runs"), dict(os.environ)
    os.environ.update({"PYTHONPATH": str(Path(__file__).parents[2]), "HF_TOKEN": PLANTED["HF_TOKEN"]})
    try:
        with pytest.raises(NotebookError) as caught:
            road._execute(folder / "bad.ipynb", run.path / "notebooks" / "bad.ipynb", {}, run)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return run.path / "notebooks" / "bad.ipynb", str(caught.value)


def test_an_executed_notebook_and_the_words_of_its_failure_hold_no_token(failed):
    copy, words = failed
    text = copy.read_text(encoding="utf-8")
    assert "401 for https://***@hub" in words and "***" in text and "401 for" in text
    for token in PLANTED.values():
        assert token not in text and token not in words
    nbformat.validate(nbformat.read(copy, as_version=4))
