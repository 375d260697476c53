"""Copies that are whole or absent: a temporary name in the same folder, read back by size and SHA-256, one rename at the end.

For folders that may be slow, full or gone at any moment, such as a mounted Google Drive. Trouble of the file system stays an OSError, for
its number says what to do about it; a copy that differs from its source is a CopyError. `beat` is called after every block, so that
somebody else can tell a slow copy from one that hangs.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from .errors import CopyError
from .run import sha256

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
FULL = (errno.ENOSPC, errno.EDQUOT)
_BLOCK = 1 << 20
_PARTIAL = re.compile(r"\..+\.partial")
# A file system that cannot be told to write to its disk now: nothing that a second try would mend.
_NO_FSYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def _quiet() -> None:
    """Nobody listens to the beat."""


def partial_name(target: Path) -> Path:
    """The temporary name beside `target`: in the same folder, for between folders a drive renames by copying."""
    return target.with_name(f".{target.name}.partial")


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A temporary name beside `target`; whatever is left under it is removed, however the block ends.

    The same name left by a process that was killed is removed first. The folder of `target` must be there.
    """
    partial = partial_name(target)
    remove(partial)
    try:
        yield partial
    finally:
        # A drive whose connection broke cannot be cleaned either: that must not hide what happened first.
        with suppress(OSError):
            remove(partial)


def publish(partial: Path, target: Path) -> None:
    """Gives what is finished its final name. Raises FileExistsError when something, a broken link included, has it already."""
    if exists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(partial, target)


def list_files(folder: Path, without: Sequence[str] = (), beat: Callable[[], None] = _quiet) -> list[dict]:
    """{"path", "bytes", "sha256"} of every file below `folder`, by path with '/', but for the paths in `without`."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    named = sorted((path.relative_to(folder).as_posix(), path) for path in files)
    return [file_entry(path, name, beat) for name, path in named if name not in without]


def file_entry(path: Path, name: str, beat: Callable[[], None] = _quiet) -> dict:
    """{"path", "bytes", "sha256"} of one file, under `name`."""
    return {"path": name, "bytes": os.stat(path).st_size, "sha256": sha256(path, beat)}


def checked_entries(value: Any) -> list[dict] | None:
    """`value` where it is a listing as `list_files` makes it; None where it is not, or names a place outside its folder."""
    if not isinstance(value, list):
        return None
    for entry in value:
        if not isinstance(entry, dict) or not {"path", "bytes", "sha256"} <= entry.keys() or not _inside(entry["path"]):
            return None
    return value


def differing_files(folder: Path, files: Iterable[dict], beat: Callable[[], None] = _quiet) -> list[str]:
    """The paths of `files` (as `list_files` gives them) that are absent below `folder` or have another size or SHA-256."""
    wrong = []
    for entry in files:
        path = folder / entry["path"]
        try:
            same = os.stat(path).st_size == entry["bytes"] and sha256(path, beat) == entry["sha256"]
        except ValueError:  # NUL or half a surrogate: a name that no file can have
            same = False
        except OSError as error:
            if error.errno not in _ABSENT:
                raise  # a drive that is gone says nothing about the file
            same = False
        if not same:
            wrong.append(entry["path"])
    return wrong


def copy_folder(
    folder: Path, target: Path, files: Sequence[dict], beat: Callable[[], None] = _quiet, replace: bool = False
) -> None:
    """The `files` of `folder` as a folder `target`; with `replace`, an earlier one goes when the new one is whole.

    Raises CopyError, FileExistsError, OSError; then `target` is as it was or, at the worst, absent.
    """
    with staging(target) as partial:
        fill_folder(folder, partial, files, beat)
        earlier = partial_name(target.with_name(f"{target.name}.old"))
        if replace and exists(target):
            remove(earlier)
            os.rename(target, earlier)
        publish(partial, target)
        remove(earlier)


def fill_folder(folder: Path, target: Path, files: Sequence[dict], beat: Callable[[], None] = _quiet) -> None:
    """The `files` of `folder` written below `target`, a temporary name, and read back. Raises CopyError, OSError."""
    os.mkdir(target)
    for entry in files:
        make_folders((target / entry["path"]).parent, target)
        with open(folder / entry["path"], "rb") as stream:
            _pour(stream, target / entry["path"], beat)
    if wrong := differing_files(target, files, beat):
        raise _differs(target, wrong)


def place_file(stream: BinaryIO, target: Path, beat: Callable[[], None] = _quiet) -> dict:
    """What `stream` holds under the name `target`, which may exist; {"bytes", "sha256"} of it. Raises CopyError, OSError."""
    with staging(target) as partial:
        entry = _pour(stream, partial, beat)
        if differing_files(partial.parent, [{**entry, "path": partial.name}], beat):
            raise _differs(target, [target.name])
        os.replace(partial, target)
    return entry


def make_folders(folder: Path, below: Path) -> None:
    """Makes `folder` and those between it and `below`, which must be there.

    Not os.makedirs: where a drive was unmounted that would make a plain folder of its name, which is lost with the machine and in the
    way of the next mount.
    """
    for number in range(len(folder.relative_to(below).parts)):
        with suppress(FileExistsError):
            os.mkdir(below.joinpath(*folder.relative_to(below).parts[: number + 1]))


def discard(path: Path) -> None:
    """Removes what has a final name: first the name, at once, then what was under it."""
    partial = partial_name(path)
    remove(partial)
    with suppress(FileNotFoundError):
        os.rename(path, partial)
    remove(partial)


def sweep(folder: Path) -> None:
    """Removes the temporary names that a killed process left anywhere below `folder`."""
    for name in folder_names(folder):
        if _PARTIAL.fullmatch(name):
            remove(folder / name)
        elif os.path.isdir(folder / name) and not os.path.islink(folder / name):
            sweep(folder / name)


def folder_names(folder: Path) -> list[str]:
    """The names in a folder, sorted; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries)
    except FileNotFoundError:
        return []


def remove(path: Path) -> None:
    """Removes a file, a link or a folder with all in it; nothing where there is nothing."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return


def exists(path: Path) -> bool:
    """Whether something, a broken link included, has the name. Raises OSError: a drive that does not answer is no "no"."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def sync(path: Path) -> None:
    """Waits until a file is on its disk or drive, and forgets what this machine remembers of it: a later look reads it back."""
    with open(path, "rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _NO_FSYNC:
                raise
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _pour(stream: BinaryIO, target: Path, beat: Callable[[], None]) -> dict:
    """Writes a stream to a file, down to the disk; {"bytes", "sha256"} of what was read."""
    digest, size = hashlib.sha256(), 0
    with open(target, "wb") as file:
        for block in iter(lambda: stream.read(_BLOCK), b""):
            file.write(block)
            digest.update(block)
            size += len(block)
            beat()
    sync(target)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _inside(name: Any) -> bool:
    return (
        isinstance(name, str)
        and not PurePosixPath(name).is_absolute()
        and not {"..", ""} & set(name.split("/"))
        and not set(name) & {"\\", ":", "\0"}
    )


def _differs(target: Path, wrong: Sequence[str]) -> CopyError:
    names = ", ".join(wrong)
    return CopyError(
        f"{target} への写しが元と一致しません（{names}）。→ 空き容量と接続を確かめて、もう一度実行してください。",
        f"The copy for {target} differs from its source ({names}). -> Check space and connection, then try again.",
    )
