"""The run folder: the only thing that passes between notebooks.

runs/NAME/
  manifest.json   what made this run: recipe, versions, device, model used and why, data hash, status of each step
  dataset/ training/ evaluation/ export/ notebooks/
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from .errors import FULL, RunError, writing_to
from .json_files import file_content, json_value
from .run_lock import Process, is_alive, lock_holder, run_lock, this_process
from .run_names import checked_name, refuse_elsewhere, user_path

STEPS = ("setup", "dataset", "training", "evaluation", "export")
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "numpy")
_TEMPORARY = ".tmp"


def parameter(name: str, default: str) -> str:
    """The notebook parameter `name`: environment variable ADSLM_<name>, else what the form remembered, else `default`.

    The variable is how `make run DATA=... MODEL=...` reaches the parameter cell of each notebook; `make run` ignores the form.
    """
    return os.environ.get(f"ADSLM_{name}") or _remembered().get(name) or default


def remember_parameters(values: dict[str, str]) -> Path:
    """Keeps the form's choices (preset, model, data, run) as the defaults of all notebooks in this runs folder."""
    return write_json(runs_root() / "parameters.json", {key.upper(): value for key, value in values.items() if value})


def _remembered() -> dict[str, str]:
    path = runs_root() / "parameters.json"
    if os.environ.get("ADSLM_HEADLESS") or not path.is_file():
        return {}
    values = read_json(path)
    if isinstance(values, dict) and all(isinstance(value, str) for value in values.values()):
        return values
    raise RunError(
        f"{path} はフォームの記録ではありません。→ 消すか、フォームで選び直してください。",
        f"{path} is not what the form remembers. -> Remove it, or choose again in the form.",
    )


def runs_root() -> Path:
    """The folder of all runs: $ADSLM_RUNS, else `runs/` beside the project's pyproject.toml or notebooks/, else `./runs`."""
    if os.environ.get("ADSLM_RUNS"):
        return user_path(os.environ["ADSLM_RUNS"]).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "adslm_helpers").is_dir():
            return folder / "runs"
    return here / "runs"


def write_bytes(path: Path, content: bytes) -> Path:
    """Writes `content` under a temporary name in the same folder, then renames: `path` is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes files that nobody else in the team may read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def remove_temporary(folder: Path) -> None:
    """Removes what a killed process left of `write_bytes` in this folder; only for whoever has the run's lock."""
    for path in folder.glob(f".*.????????{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """`write_bytes` for UTF-8 text. Half a surrogate pair, which UTF-8 cannot hold, is spelt out: in JSON that is the same value."""
    return write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> Path:
    """`write_text` for one JSON value; NaN and infinity are refused, for they are no JSON (write None)."""
    return write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict]) -> Path:
    """`write_text` for one JSON object a line."""
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """The JSON value of a file that we wrote; raises RunError when it is absent, cannot be read or is broken."""
    return json_value(file_content(path), str(path), str(path))


def read_jsonl(path: Path) -> list[dict]:
    """The rows of a JSONL file that we wrote; raises RunError when it is absent or a line is broken or no object."""
    lines = enumerate(file_content(path).split(b"\n"), 1)  # bytes: a line in another encoding is named too
    return [json_value(line, f"{path} {number}行目", f"{path} line {number}", dict) for number, line in lines if line.strip()]


def sha256(path: Path, beat: Callable[[], None] = lambda: None) -> str:
    """Hex SHA-256 of a file, read in blocks; `beat` is called after each."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
            beat()
    return digest.hexdigest()


def now() -> str:
    """Local time with offset, to the second, ISO 8601."""
    return datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds")


def versions() -> dict[str, str | None]:
    """Installed versions of the packages that a result depends on; None where absent. Imports none of them."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


class Run:
    """One run folder: its paths and its manifest. Making the object writes nothing."""

    def __init__(self, name: str, root: Path | str | None = None):
        self.name = checked_name(name)
        self.path = (Path(root) if root else runs_root()) / name
        refuse_elsewhere(self.path)

    def __repr__(self) -> str:
        return f"Run({self.name!r} at {self.path})"

    @property
    def dataset(self) -> Path:
        return self.path / "dataset"

    @property
    def training(self) -> Path:
        return self.path / "training"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    @property
    def export(self) -> Path:
        return self.path / "export"

    def fork(self, name: str) -> Run:
        """Another run on this run's dataset (copied), for a second recipe to compare with; an existing one is kept up to date."""
        self.require("dataset")
        other = Run(name, self.path.parent)
        file_content(self.dataset / "train.jsonl")  # raises with the words for an absent file
        for file in sorted(self.dataset.iterdir()):
            write_bytes(other.dataset / file.name, file_content(file))
        for file in sorted(
            (self.path / "reference").glob("*.safetensors")
        ):  # of the same pairs: another recipe need not score them again
            write_bytes(other.path / "reference" / file.name, file_content(file))
        other.update(steps={**other.manifest()["steps"], "dataset": self.manifest()["steps"]["dataset"]}, forked_from=self.name)
        return other

    def manifest(self) -> dict:
        """The manifest, or a fresh one where there is none yet."""
        if not os.path.lexists(self.path / "manifest.json"):
            return {"name": self.name, "created": now(), "steps": {}}
        manifest = read_json(self.path / "manifest.json")
        steps = manifest.get("steps") if isinstance(manifest, dict) else None
        if isinstance(steps, dict) and all(isinstance(entry, dict) for entry in steps.values()):
            return manifest
        raise RunError(
            f"{self.path / 'manifest.json'} は実行の記録ではありません。→ 別の実行名にするか、このフォルダーを確かめてください。",
            f"{self.path / 'manifest.json'} is not the manifest of a run. -> Use another name, or look into that folder.",
        )

    def update(self, **values: Any) -> dict:
        """Sets top-level keys of the manifest and writes it."""
        manifest = {**self.manifest(), **values, "updated": now()}
        write_json(self.path / "manifest.json", manifest)
        return manifest

    def status(self, step: str) -> str:
        """'absent', 'running', 'done', 'failed', 'interrupted', 'stale', or 'unfinished': started, and nobody is at it any more.

        The last is a step whose process was killed, or could not even note how it ended (a full disk).
        """
        entry = self.manifest()["steps"].get(step, {})
        process = Process.noted(entry.get("process"))
        if entry.get("status") == "running" and process:
            at_work = is_alive(process) is not False and (step == "setup" or lock_holder(self.path))
            return "running" if at_work else "unfinished"
        return entry.get("status", "absent")

    def require(self, step: str) -> dict:
        """What `step` noted in the manifest; raises RunError unless it is done."""
        if self.status(step) != "done":
            notebook = STEPS.index(step)
            raise RunError(
                f"{self.path}: 手順「{step}」がまだ終わっていません（{self.status(step)}）。"
                f"→ ノートブック {notebook:02d} を実行してから、このセルに戻ってください。",
                f"{self.path}: step {step!r} is not done ({self.status(step)}). -> Run notebook {notebook:02d} first.",
            )
        return self.manifest()["steps"][step]

    @contextmanager
    def step(self, name: str, **facts: Any) -> Iterator[dict]:
        """Marks a step as running, then done, failed or interrupted; what the body puts into the yielded dict is noted.

        A step that starts again marks the steps after it as stale; setup does not: looking at the machine changes no result.
        All but setup hold the run's lock: raises RunError when another process has it, or the folder cannot be written to.
        """
        assert name in STEPS, name
        notes: dict[str, Any] = dict(facts)
        started = now()
        with run_lock(self.path) if name != "setup" else nullcontext():
            for folder in (self.path, self.path / name) if name != "setup" else ():
                remove_temporary(folder)
            entry = {"status": "running", "started": started, "process": asdict(this_process()), **notes}
            with writing_to(self.path):
                self._note(name, entry, stale_later=name != "setup")
            try:
                with writing_to(self.path, FULL):
                    yield notes
            except BaseException as error:
                status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                with suppress(OSError):  # a full disk must not hide what happened first
                    self._note(name, {"status": status, "started": started, "ended": now(), **notes})
                raise
            with writing_to(self.path):
                self._note(name, {"status": "done", "started": started, "ended": now(), **notes})

    def _note(self, name: str, entry: dict, stale_later: bool = False) -> None:
        steps = dict(self.manifest()["steps"])
        steps[name] = entry
        if stale_later:
            for later in STEPS[STEPS.index(name) + 1 :]:
                if later in steps:
                    steps[later] = {**steps[later], "status": "stale"}
        self.update(steps=steps, versions=versions())
