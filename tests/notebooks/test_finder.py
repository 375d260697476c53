"""The cell that finds the package, run by IPython where there is none: on a fresh Colab it is the first thing that can go wrong."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "01_dataset.ipynb"


@pytest.mark.skipif(any(map(os.path.exists, ("/content/adslm", "/content/drive/MyDrive/adslm"))), reason="a real copy is here")
def test_a_clone_that_fails_says_what_to_correct(tmp_path):
    """`!git` raises nothing: without the check the user reads ModuleNotFoundError two lines further down."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    source = next(cell.source for cell in cells if cell.cell_type == "code" and "REPOSITORY = " in cell.source)
    (tmp_path / "cell.ipy").write_text(source, encoding="utf-8")
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text('#!/bin/sh\necho "fatal: could not read Username" >&2\nexit 128\n')
    git.chmod(0o755)
    environment = {**os.environ, "PATH": f"{git.parent}{os.pathsep}{os.environ['PATH']}", "IPYTHONDIR": str(tmp_path / "ipython")}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", "cell.ipy"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    told = done.stdout + done.stderr
    assert "REPOSITORY を直す" in told and "correct REPOSITORY, or mount Drive" in told, told
    assert "ModuleNotFoundError" not in told
