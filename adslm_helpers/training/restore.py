"""A new session goes on from the copy of an old one: `restore_run` brings a run back from the mirror, as if the machine had stayed.

Everything is fetched under a temporary name and compared with what the old session noted (size, SHA-256) before it gets its place. What is
here and newer, or of another recipe or other data, is never touched.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import copies
from ..copies import differing_files, exists, file_entry, folder_names, make_folders, place_file, staging
from ..errors import AdslmError, CopyError
from ..run import Run, now, read_json, write_json
from .background import Pulse, bounded
from .mirror import SILENCE, mirror_place
from .mirror_state import MirrorStatus
from .mirrored import LISTING, RESULT, STATE, checkpoint_steps, is_itself, place_of, read_listing, sealed
from .resume import STARTED, free_name

_log = logging.getLogger(__name__)
_NEEDED = ("manifest.json", f"training/{STARTED}", "training/recipe.json", "dataset/train.jsonl", "dataset/eval.jsonl")


@dataclass(frozen=True)
class Mirrored:
    """A run that lies on a mirror. `step`: of its newest checkpoint; `time`: of its last copy, ISO 8601."""

    name: str
    path: str
    step: int | None
    finished: bool
    time: str | None
    fingerprint: str

    def line(self) -> str:
        """One bilingual line."""
        how = "学習済み finished" if self.finished else f"step {self.step or 0}"
        return f"{self.name}: {how}（{(self.time or '?')[:16]}）"


@dataclass(frozen=True)
class Restored:
    """What came back. `step`: where training goes on; `set_aside`: the new name of the older training that was here."""

    run: str
    where: str
    step: int
    finished: bool
    files: int
    set_aside: str | None
    left_out: list[str]

    def lines(self) -> list[str]:
        """The result in a few bilingual lines."""
        how_ja = "学習は終わっています" if self.finished else f"ステップ {self.step} から続けられます"
        how_en = "its training is finished" if self.finished else f"training can go on from step {self.step}"
        told = [
            f"控え {self.where} から実行 {self.run} を戻しました（{self.files} ファイル、照合済み）。{how_ja}。"
            f"/ Run {self.run} came back from {self.where} ({self.files} files, verified); {how_en}."
        ]
        if self.set_aside:
            told.append(f"手元の古い学習は {self.set_aside} に残しました。/ The older training here is kept as {self.set_aside}.")
        if self.left_out:
            names = ", ".join(self.left_out)
            told.append(f"【注意】壊れているため戻さなかったもの: {names} / NOTE: damaged over there, left out: {names}")
        return told


class _NotWanted(Exception):
    """The copy is not for this run; the words say why, or are empty where there is nothing to say."""


def find_mirrored(folder: str | Path | None = None) -> list[Mirrored]:
    """The runs on the mirror (`mirror_place`), the last copied first; empty without one. Raises SetupError, OSError (TimeoutError)."""
    place = mirror_place(folder)
    return bounded(lambda pulse: _found(place(), pulse), SILENCE) if place else []


def restore_run(run: Run, folder: str | Path | None = None, say: Callable[[str], None] | None = None) -> Restored | None:
    """Brings `run` back from the mirror where that is further on than what is here; None, said where it matters, otherwise.

    Whatever is wrong over there is said and ends in None: training then starts from what is here.
    """
    place = mirror_place(folder)
    if place is None:
        return None
    tell = say or (lambda text: _log.warning("%s", text))
    try:
        base = bounded(lambda pulse: _look(run, place(), pulse), SILENCE)
        run.path.parent.mkdir(parents=True, exist_ok=True)
        with staging(run.path) as partial:
            restored = bounded(lambda pulse: _fetch(run, base, partial, pulse), SILENCE)
            restored = _install(run, partial, restored)
    except _NotWanted as reason:
        if str(reason):
            tell(str(reason))
        return None
    except (OSError, AdslmError) as error:
        tell(_cannot(run, error))
        return None
    for line in restored.lines():
        tell(line)
    return restored


def _found(root: Path, pulse: Pulse) -> list[Mirrored]:
    found = []
    for name in folder_names(place_of(root, "any").parent):
        pulse()
        listing = read_listing(place_of(root, name))
        if not listing["files"]:
            continue
        step, time = listing.get("step"), listing.get("time")
        found.append(
            Mirrored(
                name=name,
                path=str(place_of(root, name)),
                step=step if isinstance(step, int) else None,
                finished=bool(listing.get("finished")),
                time=time if isinstance(time, str) else None,
                fingerprint=str(listing.get("fingerprint", "")),
            )
        )
    return sorted(found, key=lambda one: one.time or "", reverse=True)


def _look(run: Run, root: Path, pulse: Pulse) -> Path:
    """The copy's folder when it is worth bringing back; raises _NotWanted otherwise. Reads little over there."""
    os.scandir(root).close()
    base = place_of(root, run.name)
    files = [] if is_itself(run, root) else _listing(run, base)["files"]
    if not files:
        raise _NotWanted
    if not exists(run.path / "manifest.json"):
        return base
    ours = _local_step(run, pulse)
    step, finished = max(checkpoint_steps(base / "training" / "checkpoints"), default=0), exists(base / "training" / RESULT)
    if exists(run.training / RESULT) or not (finished or step > ours):
        raise _NotWanted
    if exists(run.training / STARTED) and not _is_listed(run, f"training/{STARTED}", files):
        raise _NotWanted(_other(run, base, "レシピかデータ", "recipe or data"))
    for name in ("dataset/train.jsonl", "dataset/eval.jsonl"):
        if exists(run.path / name) and not _is_listed(run, name, files):
            raise _NotWanted(_other(run, base, "データ", "data"))
    return base


def _local_step(run: Run, pulse: Pulse) -> int:
    """The newest whole checkpoint that is here."""
    folder = run.training / "checkpoints"
    for step, name in reversed(checkpoint_steps(folder).items()):
        if (seal := sealed(folder / name)) and not differing_files(folder / name, seal[1], pulse):
            return step
    return 0


def _is_listed(run: Run, name: str, files: list[dict]) -> bool:
    here = file_entry(run.path / name, name)
    return any(all(entry[key] == here[key] for key in here) for entry in files)


def _fetch(run: Run, base: Path, partial: Path, pulse: Pulse) -> Restored:
    """The copy below `partial`, verified; what is damaged over there is left out, or the whole where it cannot go without."""
    os.mkdir(partial)
    left_out, files = _fetch_files(run, base, partial, pulse)
    finished = not any(name.startswith("training/adapter/") for name in left_out) and exists(partial / "training" / RESULT)
    if not finished:
        copies.remove(partial / "training" / RESULT)
    there, last = base / "training" / "checkpoints", 0
    make_folders(partial / "training" / "checkpoints", partial)
    for step, name in reversed(checkpoint_steps(there).items()):
        if number := _fetch_checkpoint(there / name, partial / "training" / "checkpoints" / name, pulse):
            files, last = files + number, max(last, step)
        else:
            left_out.append(f"training/checkpoints/{name}")
    if exists(run.path / "manifest.json") and not finished and last <= _local_step(run, pulse):
        raise _NotWanted(_damaged(run, base, left_out))
    return Restored(run.name, str(base), last, finished, files, None, left_out)


def _fetch_checkpoint(source: Path, target: Path, pulse: Pulse) -> int:
    """The number of files that were fetched; 0 when it is not whole over there, read twice."""
    for _ in range(2):
        with suppress(CopyError, FileNotFoundError):
            if seal := sealed(source):
                copies.copy_folder(source, target, seal[1], pulse)
                return len(seal[1])
    return 0


def _fetch_files(run: Run, base: Path, partial: Path, pulse: Pulse) -> tuple[list[str], int]:
    """(names of the damaged, number fetched) of all but the checkpoints."""
    listing, versions = _listing(run, base), {}
    for entry in listing["files"]:
        versions.setdefault(entry["path"], []).append((entry["bytes"], entry["sha256"]))
    fetched, left_out = 0, []
    for name, listed in versions.items():
        make_folders((partial / name).parent, partial)
        if _fetch_file(base / name, partial / name, listed, pulse):
            fetched += 1
        elif exists(base / name) or listing.get("complete", True):  # else it was yet to come, or to go
            left_out.append(name)
    if missing := [name for name in _NEEDED if not exists(partial / name)]:
        raise _NotWanted(_damaged(run, base, missing))
    return left_out, fetched


def _fetch_file(source: Path, target: Path, listed: list[tuple], pulse: Pulse) -> bool:
    """Whether `target` is now one of the versions that are listed; a slip of the connection gets a second try."""
    for _ in range(2):
        with suppress(CopyError, FileNotFoundError, IsADirectoryError, NotADirectoryError):
            with open(source, "rb") as stream:
                got = place_file(stream, target, pulse)
            if (got["bytes"], got["sha256"]) in listed:
                return True
            copies.remove(target)
    return False


def _listing(run: Run, base: Path) -> dict[str, Any]:
    """mirrored.json; raises _NotWanted, with words, when it is broken."""
    listing = read_listing(base)
    if not listing["files"] and exists(base / LISTING):
        raise _NotWanted(_damaged(run, base, [LISTING]))
    return listing


def _install(run: Run, partial: Path, restored: Restored) -> Restored:
    """Gives what was fetched its place by renames; the manifest first, so that a kill in between leaves a run that is restored again."""
    theirs = read_json(partial / "manifest.json")
    root = str(Path(restored.where).parents[2])
    write_json(partial / "training" / STATE, MirrorStatus("good", root, restored.step, now()).to_dict())
    record = {"restored": {**asdict(restored), "time": now()}}
    steps = {name: _ended(step) for name, step in theirs.get("steps", {}).items() if name in ("dataset", "training")}
    if not exists(run.path):
        _write_manifest(partial, {**theirs, **record, "steps": steps})
        copies.publish(partial, run.path)
        return restored
    ours = run.manifest() if exists(run.path / "manifest.json") else {**theirs, "steps": {}}
    kept = {key: theirs[key] for key in ("recipe", "model", "plan") if key in theirs}
    steps = {**steps, **ours["steps"], "training": steps.get("training", {"status": "interrupted"})}
    _write_manifest(run.path, {**ours, **kept, **record, "steps": steps})
    if not exists(run.dataset) and exists(partial / "dataset"):
        os.rename(partial / "dataset", run.dataset)
    set_aside = _set_aside(run)
    os.rename(partial / "training", run.training)
    return replace(restored, set_aside=set_aside)


def _write_manifest(folder: Path, value: dict) -> None:
    content = json.dumps({**value, "updated": now()}, ensure_ascii=False, indent=2) + "\n"
    place_file(io.BytesIO(content.encode()), folder / "manifest.json")


def _ended(step: dict[str, Any]) -> dict[str, Any]:
    """A step that was running when it was copied runs no more: its machine is gone."""
    return {**step, "status": "interrupted"} if step.get("status") == "running" else step


def _set_aside(run: Run) -> str | None:
    if not exists(run.training):
        return None
    aside = free_name(run.training)
    os.rename(run.training, aside)
    return aside.name


def _other(run: Run, base: Path, what_ja: str, what_en: str) -> str:
    return (
        f"控え {base} は、手元の {run.path} とは別の{what_ja}の学習なので、戻しません（どちらもそのままです）。"
        "→ 控えから続けるには、手元の実行のフォルダーの名前を変えてから、もう一度実行してください。\n"
        f"The copy in {base} is of a training with other {what_en} than {run.path}; it is not brought back, both stay as they are. "
        "-> To go on from the copy, rename the run folder that is here and start again."
    )


def _damaged(run: Run, base: Path, names: list[str]) -> str:
    listed = ", ".join(names)
    return (
        f"控え {base} は壊れているか途中までのため、戻せません（{listed}）。手元の {run.name} から始めます。→ 控えは消さずに残してあります。\n"
        f"The copy in {base} is damaged or incomplete and does not come back ({listed}); run {run.name} starts from what is here. -> The copy is left as it is."
    )


def _cannot(run: Run, error: Exception) -> str:
    ja, en = (error.ja, error.en) if isinstance(error, AdslmError) else (str(error), str(error))
    return (
        f"控えから戻せないので、手元の {run.path} から始めます（{ja}）。→ 控えから続けるには、原因を直してから、もう一度実行してください。\n"
        f"Nothing comes back from the mirror; starting from {run.path} ({en}). -> To go on from the copy, mend that and start again."
    )
