"""A run on a mirror: what lies there, and one pass that brings it up to date.

MIRROR/adslm/runs/NAME/
  mirrored.json         size and SHA-256 of every file but the checkpoints', the fingerprint, the last step, when: written last
  manifest.json dataset/ training/   as in the run folder, without events and earlier trainings; at most two checkpoints

Files that change are replaced one by one, so mirrored.json first lists the versions that are there and those to come ("complete" false); a
pass that dies between leaves nothing that is not listed. A checkpoint is whole by its own seal.json, which the run wrote last.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import copies
from ..copies import FULL, checked_entries, differing_files, exists, file_entry, folder_names, make_folders, place_file
from ..errors import CopyError
from ..run import Run, now
from .checkpoints import SEAL
from .guided.embeddings import FILE
from .resume import STARTED

LISTING, STATE, RESULT = "mirrored.json", "mirror.json", "result.json"
KEEP = 2
_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,12})")


@dataclass
class Known:
    """What this session knows to lie on the mirror, so that a slow drive is not read back at every pass."""

    checked: bool = False
    listed: bool = False
    """Whether mirrored.json says what lies there, no more and no less."""
    files: dict[str, dict] = field(default_factory=dict)
    """Path in the run folder -> the entry that lies on the mirror."""
    seals: dict[str, bytes] = field(default_factory=dict)
    """Checkpoint name -> its seal there."""
    hashes: dict[str, tuple[tuple[int, int], dict]] = field(default_factory=dict)
    """Path in the run folder -> ((size, mtime) of the local file, its entry)."""
    device: int | None = None
    """The file system of the mirror."""
    set_aside: str | None = None
    """The new name of another training's copy that had the place."""

    def forget(self) -> None:
        """Looks at the mirror anew."""
        self.checked, self.listed, self.files, self.seals = False, False, {}, {}


def place_of(root: Path, name: str) -> Path:
    """Where the run `name` lies on a mirror."""
    return root / "adslm" / "runs" / name


def copy_run(run: Run, root: Path, known: Known, first_step: int = 0, beat: Callable[[], None] = lambda: None) -> int | None:
    """Brings the copy of `run` below `root` up to date; gives the step of the newest checkpoint there. The run itself is only read.

    Raises OSError, CopyError. `first_step`: the step that this training started at. What lies there from another training (other recipe
    or data, or further on than this run ever was) is renamed as a whole, never mixed with this one.
    """
    os.scandir(root).close()  # stat alone may be answered from a cache
    beat()
    base, device = place_of(root, run.name), os.stat(root).st_dev
    if known.checked and not exists(base / LISTING):
        if device != known.device:  # the folder under a mount that is gone
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(root))
        known.forget()  # somebody tidied up
    known.device = device
    if not known.checked:
        known.set_aside = _set_aside(run, base, first_step) or known.set_aside
    make_folders(base / "training" / "checkpoints", root)
    if not (known.checked and known.listed):
        copies.sweep(base)
    _copy_files(run, base, known, beat)
    _copy_checkpoints(run, base, known, beat)
    if not (known.checked and known.listed):
        _write_listing(run, base, list(known.files.values()), complete=True)
    known.checked = known.listed = True
    return max(checkpoint_steps(base / "training" / "checkpoints"), default=None)


def is_itself(run: Run, root: Path) -> bool:
    """Whether the run folder itself lies in its place on the mirror: then there is nothing to copy."""
    return os.path.realpath(place_of(root, run.name)) == os.path.realpath(run.path)


def read_listing(base: Path) -> dict[str, Any]:
    """mirrored.json of a run on a mirror; one with no files where there is none or, read twice, it is not ours."""
    for _ in range(2):
        with suppress(FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
            value = json.loads((base / LISTING).read_bytes())
            if isinstance(value, dict) and checked_entries(value.get("files")):
                return value
    return {"files": []}


def checkpoint_steps(folder: Path) -> dict[int, str]:
    """{step: name} of the checkpoints of a folder that have a seal, by step."""
    found = {int(match[1]): match[0] for name in folder_names(folder) if (match := _CHECKPOINT.fullmatch(name))}
    return {step: found[step] for step in sorted(found) if exists(folder / found[step] / SEAL)}


def sealed(checkpoint: Path) -> tuple[bytes, list[dict]] | None:
    """The seal of a finished checkpoint and the files it lists, itself included; None where there is none."""
    try:
        seal = (checkpoint / SEAL).read_bytes()
        files = checked_entries(json.loads(seal)["files"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return (seal, [*files, file_entry(checkpoint / SEAL, SEAL)]) if files else None


def _set_aside(run: Run, base: Path, first_step: int) -> str | None:
    """Renames what lies in the run's place from another training; its new name."""
    theirs = _content(base / "training" / STARTED)
    if theirs is None:
        return None
    ours = max([first_step, *checkpoint_steps(run.training / "checkpoints")])
    done = [exists(folder / "training" / RESULT) for folder in (base, run.path)]
    ahead = max(checkpoint_steps(base / "training" / "checkpoints"), default=0) > ours
    if theirs == _content(run.training / STARTED) and not ahead and done != [True, False]:
        return None
    names, number = folder_names(base.parent), 1
    while (name := f"{run.name[:59]}-{number}") in names:
        number += 1
    os.rename(base, base.with_name(name))
    if done[0]:  # a finished training needs them no more, and they are most of its size
        copies.discard(base.with_name(name) / "training" / "checkpoints")
    return name


def _copy_files(run: Run, base: Path, known: Known, beat: Callable[[], None]) -> None:
    """All but the checkpoints."""
    contents = _records(run)
    entries = {name: _entry(content, name) for name, content in contents.items()} | _still_entries(run, known, beat)
    order = sorted(entries, key=lambda name: (name == "manifest.json", name.endswith(f"/{RESULT}"), name))
    if known.checked:
        changed = [name for name in order if known.files.get(name) != entries[name]]
        there = list(known.files.values())
    else:
        changed = differing_files(base, [entries[name] for name in order], beat)
        there = read_listing(base)["files"]
    # A snapshot that the run dropped goes here too; any other file that is missed over there is kept here.
    gone = [entry for entry in there if entry["path"] not in entries and entry["path"].startswith("training/snapshots/")]
    there = [entry for entry in there if entry not in gone]
    if changed or gone:
        versions = {(entry["path"], entry["sha256"]): entry for entry in [*there, *gone, *(entries[name] for name in changed)]}
        known.listed = False
        _write_listing(run, base, list(versions.values()), complete=False)
    for name in changed:
        make_folders((base / name).parent, base)
        with io.BytesIO(contents[name]) if name in contents else open(run.path / name, "rb") as stream:
            place_file(stream, base / name, beat)
    for entry in gone:
        copies.remove(base / entry["path"])
    known.files = {entry["path"]: entry for entry in there} | entries


def _copy_checkpoints(run: Run, base: Path, known: Known, beat: Callable[[], None]) -> None:
    """The newest finished checkpoints, newest first; older ones go when a newer one is whole."""
    here, there = run.training / "checkpoints", base / "training" / "checkpoints"
    steps = checkpoint_steps(here)
    for step in sorted(steps, reverse=True)[:KEEP]:
        try:
            _copy_checkpoint(here / steps[step], there / steps[step], known, beat)
        except OSError as error:
            if error.errno not in FULL or not _make_room(there, step, known):
                raise
            _copy_checkpoint(here / steps[step], there / steps[step], known, beat)
    found = checkpoint_steps(there)
    # Those beyond the run's newest one it went back from; it will write them again.
    stale = [step for step in found if steps and step > max(steps) and found[step] in known.seals]
    kept = [step for step in found if step not in stale]
    if kept and found[kept[-1]] in known.seals:
        stale += kept[:-KEEP]
    for step in stale:
        known.listed = False
        copies.discard(there / found[step])
        known.seals.pop(found[step], None)


def _make_room(folder: Path, step: int, known: Known) -> bool:
    """Whether a checkpoint could go from a full mirror: the oldest of those before `step`, when a newer one of them is whole."""
    whole = [name for earlier, name in checkpoint_steps(folder).items() if earlier < step and name in known.seals]
    for name in whole[:-1][:1]:
        known.seals.pop(name)
        copies.discard(folder / name)
    return len(whole) > 1


def _copy_checkpoint(source: Path, target: Path, known: Known, beat: Callable[[], None]) -> None:
    seal = sealed(source)
    if seal is None or known.seals.get(source.name) == seal[0]:
        return
    if _content(target / SEAL) != seal[0] or differing_files(target, seal[1], beat):
        known.listed = False
        try:
            copies.copy_folder(source, target, seal[1], beat, replace=True)
        except (CopyError, FileNotFoundError):
            if _still_whole(source, seal, beat):
                raise
            return  # pruned or sealed again while it was copied: the next pass sees to it
    known.seals[source.name] = seal[0]


def _still_whole(source: Path, seal: tuple[bytes, list[dict]], beat: Callable[[], None]) -> bool:
    return sealed(source) == seal and not differing_files(source, seal[1], beat)


def _records(run: Run) -> dict[str, bytes]:
    """The records of the run as they are now; of a file that grows, the whole lines."""
    names = ["manifest.json", *(f"training/{name}" for name in folder_names(run.training) if _is_record(name))]
    found = {name: _content(run.path / name) for name in names}
    whole = {name: content for name, content in found.items() if content is not None}
    return {name: content[: content.rfind(b"\n") + 1] if name.endswith(".jsonl") else content for name, content in whole.items()}


def _is_record(name: str) -> bool:
    return name.endswith((".json", ".jsonl")) and not name.startswith(".") and name != STATE


def _still_entries(run: Run, known: Known, beat: Callable[[], None]) -> dict[str, dict]:
    """Files that are written once: data, snapshots, a teacher's vectors, and the adapter when result.json says that it is all there.

    They are hashed again only when their size or time changed.
    """
    folders, found = [run.dataset, run.training / "snapshots"], {}
    if exists(run.training / RESULT):
        folders.append(run.training / "adapter")
    for path in sorted([run.training / FILE, *(path for folder in folders for path in folder.rglob("*"))]):
        name = path.relative_to(run.path).as_posix()
        try:
            if "/." in name or not path.is_file():
                continue
            stamp = (path.stat().st_size, path.stat().st_mtime_ns)
            if name not in known.hashes or known.hashes[name][0] != stamp:
                known.hashes[name] = (stamp, file_entry(path, name, beat))
        except FileNotFoundError:
            continue  # a snapshot that was dropped meanwhile
        found[name] = known.hashes[name][1]
    return found


def _entry(content: bytes, name: str) -> dict:
    return {"path": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _write_listing(run: Run, base: Path, files: list[dict], complete: bool) -> None:
    value = {
        "run": run.name,
        "fingerprint": _fingerprint(run),
        "step": max(checkpoint_steps(base / "training" / "checkpoints"), default=None),
        "finished": exists(base / "training" / RESULT),
        "time": now(),
        "complete": complete,
        "files": sorted(files, key=lambda entry: entry["path"]),
    }
    place_file(io.BytesIO(json.dumps(value, ensure_ascii=False, indent=1).encode()), base / LISTING)


def _fingerprint(run: Run) -> str:
    with suppress(ValueError, TypeError, KeyError):
        return str(json.loads(_content(run.training / STARTED))["fingerprint"])
    return ""


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
