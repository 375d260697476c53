"""One step of a real training in a fresh process: the proof that what is installed works together, not only that it is there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..errors import SetupError

_PACKAGE_FOLDER = Path(__file__).resolve().parents[2]


def try_one_step(python: str | None = None, added: dict[str, str] | None = None) -> float:
    """Seconds of one DPO step with LoRA on the embedded model, as `adslm train` takes it, in a fresh process and a temporary folder.

    Raises SetupError with what went wrong, and what had been `added` before, when it fails. Needs no network.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="adslm-") as folder:
        for arguments in (["dataset", "sample:16"], ["train", "--set", "max_steps=1"]):
            _run_verb(
                python or sys.executable, [*arguments, "--preset", "smoke", "--run", "check", "--json"], folder, added or {}
            )
    return time.monotonic() - start


def _run_verb(python: str, arguments: list[str], folder: str, added: dict[str, str]) -> None:
    path = os.pathsep.join([str(_PACKAGE_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "ADSLM_RUNS": folder, "ADSLM_HEADLESS": "1", "HF_HUB_OFFLINE": "1"}
    command = [python, "-m", "adslm_helpers", *arguments]
    options = {"env": environment, "cwd": folder, "encoding": "utf-8", "errors": "replace"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        said = " ".join(done.stderr.strip().splitlines()[-2:])[-400:]
        names = ", ".join(f"{name} {version}" for name, version in added.items()) or "-"
        raise SetupError(
            f"LoRA の1ステップの確認が失敗しました: {said}（加えたもの: {names}。ほかは変えていません）"
            "→ 新しい環境で requirements.txt を入れてください。",
            f"The check by one LoRA step failed: {said} (added: {names}; nothing else was changed) "
            "-> Install requirements.txt into a fresh environment.",
        )
