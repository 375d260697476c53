"""Whole or absent: temporary names, verified copies, one rename at the end; nothing that exists is overwritten."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import ExportError
from ..run import sha256

MANIFEST = "manifest.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def refuse_existing(target: Path) -> None:
    """Raises ExportError when something, a broken link included, has the name already."""
    if os.path.lexists(target):
        raise ExportError(
            f"書き出し先 {target} は既にあります。上書きはしません。→ 別の名前にするか、不要ならご自分で消してください。",
            f"{target} exists already and is not overwritten. -> Choose another name, or remove it yourself.",
        )


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A temporary name `.NAME.partial` beside `target`; whatever is left under it is removed, however the block ends.

    The same name left by an export that was killed is removed first. Errors of the file system become an ExportError.
    """
    partial = target.with_name(f".{target.name}.partial")
    left: list[Path] = []
    with _told(target, left):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        try:
            yield partial
        finally:
            # A drive whose connection broke cannot be cleaned either: that must not hide what happened first.
            try:
                _remove(partial)
            except OSError:
                left.append(partial)


def publish(partial: Path, target: Path) -> None:
    """Gives what is finished its final name."""
    refuse_existing(target)  # again: writing took minutes
    os.rename(partial, target)


def list_files(folder: Path) -> list[dict]:
    """{"path", "bytes", "sha256"} of every file below `folder`, by path with '/', without the manifest itself."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    named = sorted((path.relative_to(folder).as_posix(), path) for path in files)
    return [{"path": name, "bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in named if name != MANIFEST]


def differing_files(folder: Path, files: Sequence[dict]) -> list[str]:
    """The paths of `files` (as `list_files` gives them) that are absent below `folder` or have another size or SHA-256."""
    wrong = []
    for entry in files:
        path = folder / entry["path"]
        if not path.is_file() or path.stat().st_size != entry["bytes"] or sha256(path) != entry["sha256"]:
            wrong.append(entry["path"])
    return wrong


def write_zip(folder: Path, target: Path, top: str) -> None:
    """`folder` as a zip whose members all lie below `top`/; read back (names, checksums) before it gets its name."""
    names = {f"{top}/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*")) if path.is_file()}
    with staging(target) as partial:
        with zipfile.ZipFile(partial, "w", strict_timestamps=False) as archive:
            for name, path in names.items():
                # Weights do not compress; deflating them only takes minutes.
                packing = zipfile.ZIP_STORED if path.suffix == ".safetensors" else zipfile.ZIP_DEFLATED
                archive.write(path, name, compress_type=packing)
        _verify_zip(partial, target, list(names))
        publish(partial, target)


def copy_folder(folder: Path, target: Path) -> None:
    """`folder` copied to `target` (a synchronised drive): read back by size and SHA-256 before it gets its name."""
    files = list_files(folder)
    files.append({"path": MANIFEST, "bytes": (folder / MANIFEST).stat().st_size, "sha256": sha256(folder / MANIFEST)})
    with staging(target) as partial:
        for entry in files:
            (partial / entry["path"]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / entry["path"], partial / entry["path"])
        if wrong := differing_files(partial, files):
            raise ExportError(
                f"{target} への写しが元と一致しません（{', '.join(wrong)}）。→ 空き容量と接続を確かめて、もう一度実行してください。",
                f"The copy for {target} differs from its source ({', '.join(wrong)}). -> Check space and connection, then try again.",
            )
        publish(partial, target)


def _verify_zip(path: Path, target: Path, names: list[str]) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            found = archive.namelist()
    except zipfile.BadZipFile as error:
        broken, found = str(error), names
    if broken is not None or sorted(found) != sorted(names):
        what = broken or f"{len(found)} / {len(names)} members"
        raise ExportError(
            f"zip {target.name} を読み返せませんでした（{what}）。→ 空き容量を確かめて、もう一度実行してください。",
            f"The zip {target.name} could not be read back ({what}). -> Check the free space and try again.",
        )


@contextmanager
def _told(target: Path, left: Sequence[Path]) -> Iterator[None]:
    """File system errors as an ExportError that names the target; safetensors has an error class of its own for them.

    `left`: what could not be removed, known when the block has ended.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise _cannot_write(target, "os error 28" in str(error), str(error), left) from error
    except OSError as error:
        raise _cannot_write(target, error.errno in _FULL, error.strerror or str(error), left) from error


def _cannot_write(target: Path, full: bool, text: str, left: Sequence[Path]) -> ExportError:
    names = ", ".join(map(str, left))
    fate_ja = (
        f"途中のファイル {names} が残っています（次の書き出しには使われません）。" if left else "途中のファイルは消しました。"
    )
    fate_en = (
        f"unfinished files remain in {names} (the next export will not use them)" if left else "the partial files were removed"
    )
    if full:
        return ExportError(
            f"容量が足りず、{target} に書き出せません。{fate_ja}"
            "→ 空きを作るか、別の場所（target）にするか、merged=False（アダプターだけ、数十 MB）にしてください。",
            f"No space left for {target}; {fate_en}. "
            "-> Free some space, choose another `target`, or set merged=False (adapter only, some MB).",
        )
    return ExportError(
        f"{target} に書き出せません（{text}）。{fate_ja}→ 書き込める場所を target に指定してください。",
        f"{target} cannot be written ({text}); {fate_en}. -> Give a `target` that you may write to.",
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
