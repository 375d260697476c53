"""Every file operation of a copy made to fail, one after the other: the mirror of a run, its return, an export to a drive, a zip.

    python scripts/file_faults.py            # file-operation faults survived N/N

After each fault: no file under a final name that is not complete, an earlier good copy still good, the source byte-identical, no
exception but those that a user gets in words, and the next try without the fault succeeds.
"""

from __future__ import annotations

import builtins
import errno
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adslm_helpers.copies import differing_files, list_files
from adslm_helpers.errors import AdslmError
from adslm_helpers.export.export import _copy_or_keep
from adslm_helpers.export.publish import copy_folder, write_zip
from adslm_helpers.run import Run, write_json, write_jsonl
from adslm_helpers.training.mirrored import Known, checkpoint_steps, copy_run, place_of, read_listing, sealed
from adslm_helpers.training.restore import restore_run

ERRORS = {"full": errno.ENOSPC, "i/o error": errno.EIO, "no permission": errno.EACCES, "gone": errno.ENOTCONN}
KINDS = (*ERRORS, "dies", "interrupted", "half written", "read wrong")
_LASTING = ("gone", "dies")  # from that operation on; the others happen once


class Died(BaseException):
    """The process was killed here: nothing after it happens, no clean-up either."""


class Faults:
    """Counts the file operations below `root` while it is entered, and makes the one numbered `at` (from 1) go wrong as `kind` says."""

    def __init__(self, root: Path, at: int = 0, kind: str = ""):
        self.root, self.at, self.kind = str(root), at, kind
        self.seen: list[str] = []
        self.struck = False
        self.handles: dict[int, str] = {}
        self.saved: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Faults:
        for name in ("mkdir", "stat", "lstat", "rename", "replace", "unlink", "remove", "rmdir", "scandir", "listdir", "chmod"):
            self._patch(os, name, self._counted(name, getattr(os, name)))
        self._patch(os, "fsync", self._fsync)
        real = os.open

        def os_open(path, flags, mode=0o777, *, dir_fd=None):
            place = self._place(path, dir_fd)
            self._reached("open", place)
            handle = real(path, flags, mode, dir_fd=dir_fd)
            self.handles[handle] = place
            return handle

        self._patch(os, "open", os_open)
        self._patch(io, "open", self._open)
        self._patch(builtins, "open", self._open)
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name, value in reversed(self.saved):
            setattr(owner, name, value)

    def _patch(self, owner: Any, name: str, value: Any) -> None:
        self.saved.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def _place(self, path: Any, dir_fd: int | None = None) -> str:
        if isinstance(path, int):
            return self.handles.get(path, "")
        name = os.fsdecode(os.fspath(path))
        return os.path.join(self.handles.get(dir_fd, ""), name) if dir_fd is not None else name

    def _counted(self, name: str, real: Callable) -> Callable:
        def operation(path=".", *arguments, **options):
            self._reached(name, self._place(path, options.get("dir_fd")))
            return real(path, *arguments, **options)

        return operation

    def _fsync(self, handle: int) -> None:
        self._reached("fsync", self.handles.get(handle, ""))

    def _open(self, path, mode="r", *arguments, **options):
        place = self._place(path)
        if not place.startswith(self.root):
            return REAL_OPEN(path, mode, *arguments, **options)
        self._reached("open", place)
        file = REAL_OPEN(path, mode, *arguments, **options)
        self.handles[file.fileno()] = place
        return Watched(file, self, place)

    def _reached(self, name: str, place: str) -> bool:
        """Notes the operation; raises when it is the one. Whether it is to go wrong silently."""
        if not place.startswith(self.root):
            return False
        if self.struck and self.kind in _LASTING:
            self._fail(place)
        self.seen.append(name)
        if len(self.seen) != self.at:
            return False
        self.struck = True
        if self.kind in ("half written", "read wrong"):
            return True
        self._fail(place)
        return False

    def _fail(self, place: str) -> None:
        if self.kind == "dies":
            raise Died
        if self.kind == "interrupted":
            raise KeyboardInterrupt
        raise OSError(ERRORS[self.kind], os.strerror(ERRORS[self.kind]), place)


REAL_OPEN = io.open


class Watched:
    """An open file whose reads and writes are counted."""

    def __init__(self, file: Any, faults: Faults, place: str):
        self._file, self._faults, self._place = file, faults, place

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Any:
        return iter(self._file)

    def write(self, content: Any) -> int:
        if self._faults._reached("write", self._place):
            self._file.write(content[: len(content) // 2])
            return len(content)
        return self._file.write(content)

    def read(self, *size: int) -> Any:
        wrong = self._faults._reached("read", self._place)
        content = self._file.read(*size)
        return bytes([content[0] ^ 1]) + content[1:] if wrong and content and isinstance(content, bytes) else content

    def flush(self) -> None:
        self._faults._reached("flush", self._place)
        self._file.flush()

    def close(self) -> None:
        if self._file.closed:
            return
        try:
            self._faults._reached("close", self._place)
        finally:
            self._file.close()


@dataclass
class Scene:
    """What one walk does. `act` is done again after the fault; `again` where that is another call."""

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Path, dict], None]
    judge: Callable[[Path, bool], list[str]]
    below: str = "drive"
    kinds: tuple[str, ...] = KINDS
    again: Callable[[Path, dict], None] | None = None
    same_session: bool = False
    lines: list[str] = field(default_factory=list)

    def walk(self, folder: Path, thin: bool = False) -> tuple[int, int, list[str]]:
        """(survived, total, what went wrong). `thin`: every operation fails in one of the ways instead of in each."""
        # Thousands of waits for the disk of this machine would prove nothing.
        slow = {name: getattr(os, name) for name in ("fsync", "posix_fadvise") if hasattr(os, name)}
        try:
            for name in slow:
                setattr(os, name, lambda *_: None)
            return self._walk(folder, thin)
        finally:
            for name, real in slow.items():
                setattr(os, name, real)

    def _walk(self, folder: Path, thin: bool) -> tuple[int, int, list[str]]:
        start = folder / "start"
        start.mkdir(parents=True)
        self.prepare(start)
        operations = self._try(start, folder / "counted", 0, "")[0]
        survived = total = 0
        for number, kind in enumerate(self.kinds):
            only = {"half written": "write", "read wrong": "read"}.get(kind)
            for at in range(1, 2 * len(operations)):  # a fault may cause further operations, whose failing is looked at as well
                if only and at <= len(operations) and operations[at - 1] != only:
                    continue
                if thin and at % len(self.kinds) != number and not only:
                    continue
                seen, struck, wrong = self._try(start, folder / "now", at, kind)
                if not struck:
                    break
                total += 1
                survived += not wrong
                self.lines += [f"{self.name}, {kind} at operation {at} ({seen[at - 1]}): {text}" for text in wrong]
        return survived, total, self.lines

    def _try(self, start: Path, scene: Path, at: int, kind: str) -> tuple[list[str], bool, list[str]]:
        shutil.rmtree(scene, ignore_errors=True)
        shutil.copytree(start, scene, symlinks=True)
        memory: dict = {"known": Known()}
        if self.same_session:  # what it knows, it learned by the copy that is there already
            copy_run(Run("t", scene / "earlier"), scene / "drive", memory["known"])
        wrong = []
        with Faults(scene / self.below if self.below else scene, at, kind) as faults:
            try:
                self.act(scene, memory)
            except (OSError, AdslmError, Died, KeyboardInterrupt):
                pass
            except BaseException as error:
                wrong.append(f"{type(error).__name__}: {error}")
        wrong += self._judged(scene, False)
        if kind == "dies":
            memory["known"] = Known()
        try:
            (self.again or self.act)(scene, memory)
        except Exception as error:
            wrong.append(f"the next try failed: {type(error).__name__}: {error}")
        return faults.seen, faults.struck, [*wrong, *(f"after the next try: {text}" for text in self._judged(scene, True))]

    def _judged(self, scene: Path, done: bool) -> list[str]:
        try:
            return self.judge(scene, done)
        except Exception as error:  # whatever it could not even look at
            return [f"{type(error).__name__}: {error}"]


def content_of(folder: Path, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """{path: content} of all files under final names."""
    found = {}
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.endswith(".partial"))
        for name in files:
            path = os.path.relpath(os.path.join(here, name), folder)
            if not name.endswith(".partial") and path not in without:
                with open(os.path.join(here, name), "rb") as file:
                    found[path] = file.read()
    return found


def make_run(root: Path, last: int, finished: bool = False, fingerprint: str = "one") -> Run:
    """A small run folder as a training leaves it at step `last`, a checkpoint every two steps, two of them kept; no torch needed."""
    run = Run("t", root)
    with run.step("dataset"):
        for side in ("train", "eval"):
            write_jsonl(run.dataset / f"{side}.jsonl", [{"prompt": side, "chosen": "良い", "rejected": "悪い"}])
    write_json(run.training / "fingerprint.json", fingerprint)
    write_json(run.training / "recipe.json", {"beta": 0.1})
    write_jsonl(run.training / "history.jsonl", [{"step": step, "loss": 0.69 - step / 100} for step in range(last)])
    (run.training / "snapshots" / f"step-{last}").mkdir(parents=True)
    (run.training / "snapshots" / f"step-{last}" / "adapter_model.safetensors").write_bytes(b"s" * last)
    for step in (last - 2, last):
        if step > 0:
            make_checkpoint(run, step, fingerprint)
    if finished:
        (run.training / "adapter").mkdir()
        (run.training / "adapter" / "adapter_model.safetensors").write_bytes(b"adapter" * 9)
        write_json(run.training / "result.json", {"steps": last})
    return run


def make_checkpoint(run: Run, step: int, content: str = "one") -> Path:
    """A sealed checkpoint."""
    folder = run.training / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(f"{content}-{step}".encode() * 50)
    write_json(folder / "trainer_state.json", {"global_step": step})
    write_json(folder / "seal.json", {"files": list_files(folder)})
    return folder


def judge_copy(base: Path, versions: list[Path], least: int) -> list[str]:
    """What is wrong with a run on a mirror: files that are none of `versions`, checkpoints that are not whole, no checkpoint >= `least`."""
    wrong = []
    allowed = [content_of(folder) for folder in versions]
    there = content_of(base, without=("mirrored.json",))
    for name, content in there.items():
        if content not in [one.get(name) for one in allowed]:
            wrong.append(f"{name} is no complete file of the run")
    try:
        listed = {(entry["path"], entry["sha256"]) for entry in json.loads((base / "mirrored.json").read_bytes())["files"]}
        small = {name: hashlib.sha256(there[name]).hexdigest() for name in there if not name.startswith("training/checkpoints/")}
        wrong += [f"{name} is not listed" for name in small if (name, small[name]) not in listed]
    except (OSError, ValueError) as error:
        wrong.append(f"mirrored.json: {error}")
    whole = []
    for step, name in checkpoint_steps(base / "training" / "checkpoints").items():
        folder = base / "training" / "checkpoints" / name
        seal = sealed(folder)
        if seal is None or differing_files(folder, seal[1]):
            wrong.append(f"{name} is not whole")
        else:
            whole.append(step)
    if max(whole, default=0) < least:
        wrong.append(f"no whole checkpoint of step {least} or later is left")
    return wrong


def mirror_scene(name: str, same_session: bool) -> Scene:
    """A later copy over an earlier one: at step 4, and now the training is finished at step 6."""

    def prepare(folder: Path) -> None:
        (folder / "drive").mkdir()
        copy_run(make_run(folder / "earlier", 4), folder / "drive", Known())
        make_run(folder / "runs", 6, finished=True)
        shutil.copytree(folder / "runs", folder / "original")

    def act(folder: Path, memory: dict) -> None:
        copy_run(Run("t", folder / "runs"), folder / "drive", memory["known"], 4)

    def judge(folder: Path, done: bool) -> list[str]:
        base = place_of(folder / "drive", "t")
        wrong = judge_copy(base, [folder / "earlier" / "t", folder / "original" / "t"], 6 if done else 4)
        if content_of(folder / "runs") != content_of(folder / "original"):
            wrong.append("the source was harmed")
        if done and content_of(base, without=("mirrored.json",)) != content_of(folder / "original" / "t"):
            wrong.append("the copy is not complete")
        if done and any(name.startswith(".") for _, folders, files in os.walk(folder / "drive") for name in [*folders, *files]):
            wrong.append("temporary names are left")
        back = restore_run(
            Run("t", folder / "back"), folder / "drive", say=lambda text: wrong.append(text) if "NOTE" in text else None
        )
        if back is None or back.step < 4 or back.finished < done:
            wrong.append(f"what comes back is {back}")
        shutil.rmtree(folder / "back", ignore_errors=True)
        return wrong

    return Scene(name, prepare, act, judge, same_session=same_session)


def taken_scene() -> Scene:
    """The place holds a finished training of another recipe."""

    def prepare(folder: Path) -> None:
        (folder / "drive").mkdir()
        copy_run(make_run(folder / "earlier", 4, finished=True, fingerprint="other"), folder / "drive", Known())
        make_run(folder / "runs", 2)

    def act(folder: Path, memory: dict) -> None:
        copy_run(Run("t", folder / "runs"), folder / "drive", memory["known"])

    def judge(folder: Path, done: bool) -> list[str]:
        runs = folder / "drive" / "adslm" / "runs"
        others = [one for one in (runs / "t", runs / "t-1") if read_listing(one).get("fingerprint") == "other"]
        wrong = [] if len(others) == 1 else [f"the other training is in {others}"]
        for one in others:
            theirs = content_of(folder / "earlier" / "t")
            kept = {name: theirs[name] for name in theirs if not name.startswith("training/checkpoints/")}
            if kept.items() - content_of(one).items():
                wrong.append("the other training was harmed")
        return wrong + (judge_copy(runs / "t", [folder / "runs" / "t"], 2) if done else [])

    return Scene("mirror, place taken", prepare, act, judge)


def restore_scene(name: str, older: bool) -> Scene:
    """A run comes back; faults on the drive and here. `older`: an older training of the run is here."""

    def prepare(folder: Path) -> None:
        (folder / "drive").mkdir()
        copy_run(make_run(folder / "source", 6), folder / "drive", Known())
        shutil.copytree(folder / "drive", folder / "original")
        if older:
            make_run(folder / "runs", 2)
            shutil.copytree(folder / "runs", folder / "before")

    def act(folder: Path, memory: dict) -> None:
        restore_run(Run("t", folder / "runs"), folder / "drive", say=lambda text: None)

    def judge(folder: Path, done: bool) -> list[str]:
        wrong = [] if content_of(folder / "drive") == content_of(folder / "original") else ["the mirror was harmed"]
        here, source = folder / "runs" / "t", content_of(folder / "source" / "t" / "training")
        now = content_of(here / "training", without=("mirror.json",))
        before = content_of(folder / "before" / "t" / "training")
        if now and now not in (source, before):
            wrong.append("a training that is neither the old one nor the one that came back")
        if older and before not in (now, content_of(here / "training-1")):
            wrong.append("the older training is lost")
        if done and now != source:
            wrong.append("it did not come back")
        if done and Run("t", folder / "runs").status("training") not in ("interrupted", "absent"):
            wrong.append("the manifest says " + Run("t", folder / "runs").status("training"))
        return wrong

    kinds = tuple(kind for kind in KINDS if kind != "interrupted")  # in a thread nobody is interrupted
    return Scene(name, prepare, act, judge, below="", kinds=kinds)


def export_scene() -> Scene:
    """An export copied to a drive; it becomes a folder of the run where that fails."""

    def prepare(folder: Path) -> None:
        (folder / "drive" / "adslm").mkdir(parents=True)
        make_export(folder / "export" / ".out.partial")
        shutil.copytree(folder / "export" / ".out.partial", folder / "original")
        make_export(folder / "drive" / "adslm" / "earlier")

    def act(folder: Path, memory: dict) -> None:
        _copy_or_keep(folder / "export" / ".out.partial", folder / "drive" / "adslm" / "out", folder / "export" / "out")

    def again(folder: Path, memory: dict) -> None:
        target, kept = folder / "drive" / "adslm" / "out", folder / "export" / "out"
        if not target.exists():
            copy_folder(kept if kept.exists() else folder / "export" / ".out.partial", target)

    def judge(folder: Path, done: bool) -> list[str]:
        original, target = content_of(folder / "original"), folder / "drive" / "adslm" / "out"
        wrong = [] if not target.exists() or content_of(target) == original else ["the copy has a name and is not complete"]
        if content_of(folder / "drive" / "adslm" / "earlier") != original:
            wrong.append("an earlier export was harmed")
        if original not in [content_of(folder / "export" / name) for name in (".out.partial", "out")]:
            wrong.append("the export is lost")
        return wrong + (["it is not there"] if done and not target.exists() else [])

    return Scene("export to a drive", prepare, act, judge, again=again)


def zip_scene() -> Scene:
    """An export as a zip on a drive."""

    def prepare(folder: Path) -> None:
        (folder / "drive").mkdir()
        make_export(folder / "original")
        make_export(folder / "export")

    def act(folder: Path, memory: dict) -> None:
        if not (folder / "drive" / "out.zip").exists():
            write_zip(folder / "export", folder / "drive" / "out.zip", "out")

    def judge(folder: Path, done: bool) -> list[str]:
        target, wrong = folder / "drive" / "out.zip", []
        if content_of(folder / "export") != content_of(folder / "original"):
            wrong.append("the source was harmed")
        if target.exists():
            with zipfile.ZipFile(target) as archive:
                whole = archive.testzip() is None and len(archive.namelist()) == len(content_of(folder / "export"))
            wrong += [] if whole else ["the zip has a name and is not complete"]
        return wrong + (["it is not there"] if done and not target.exists() else [])

    return Scene("zip", prepare, act, judge)


def make_export(folder: Path) -> None:
    """A small exported folder."""
    (folder / "merged").mkdir(parents=True)
    (folder / "merged" / "model.safetensors").write_bytes(bytes(range(256)) * 8)
    (folder / "README.md").write_text("# カード\n" * 9, encoding="utf-8")
    write_json(folder / "manifest.json", {"files": list_files(folder)})


def scenes() -> list[Scene]:
    """Every copy that the package makes."""
    return [
        mirror_scene("mirror, same session", same_session=True),
        mirror_scene("mirror, new session", same_session=False),
        taken_scene(),
        restore_scene("restore, nothing here", older=False),
        restore_scene("restore, older training here", older=True),
        export_scene(),
        zip_scene(),
    ]


def fast_folder() -> tempfile.TemporaryDirectory:
    """A temporary folder in memory where the system has such a place: what is tried here is the order of operations, not a disk."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


def walk_all(folder: Path, thin: bool = False) -> tuple[int, int, list[str]]:
    """(survived, total, lines to print) of all walks, done in `folder`."""
    survived, total, lines = 0, 0, []
    for number, scene in enumerate(scenes()):
        good, tried, wrong = scene.walk(folder / str(number), thin)
        survived, total = survived + good, total + tried
        lines += [*wrong, f"  {scene.name}: {good}/{tried}"]
    return survived, total, [*lines, f"file-operation faults survived {survived}/{total}"]


if __name__ == "__main__":
    with fast_folder() as name:
        survived, total, lines = walk_all(Path(name), thin="--thin" in sys.argv)
    print("\n".join(lines))
    sys.exit(survived != total)
