"""Five kills of scripts/chaos.py, wherever they hit; `make chaos` does fifty."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_killed_runs_end_as_the_undisturbed_one():
    """In a process of its own: this one has computed already, and its threads would not live through a fork."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "chaos.py", "--only", "kills", "--kills", "5", "--seed", "7", "--no-fork-check"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0 and done.stdout.rstrip().endswith("5/5"), done.stdout + done.stderr
    assert done.stdout.count(" ok ") == 5
