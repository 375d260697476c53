"""Whole or absent: what an export writes gets its name when it was read back; nothing that exists is overwritten."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import copies
from ..copies import FULL, file_entry, partial_name
from ..errors import CopyError, ExportError

MANIFEST = "manifest.json"


def refuse_existing(target: Path) -> None:
    """Raises ExportError when something, a broken link included, has the name already."""
    if copies.exists(target):
        raise ExportError(
            f"書き出し先 {target} は既にあります。上書きはしません。→ 別の名前にするか、不要ならご自分で消してください。",
            f"{target} exists already and is not overwritten. -> Choose another name, or remove it yourself.",
        )


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """`copies.staging` in an export's words: the folder of `target` is made, errors of the file system become an ExportError."""
    with _told(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with copies.staging(target) as partial:
            yield partial


def publish(partial: Path, target: Path) -> None:
    """Gives what is finished its final name."""
    refuse_existing(target)  # again: writing took minutes
    copies.publish(partial, target)


def list_files(folder: Path) -> list[dict]:
    """{"path", "bytes", "sha256"} of every file below `folder`, by path with '/', without the manifest itself."""
    return copies.list_files(folder, without=(MANIFEST,))


def write_zip(folder: Path, target: Path, top: str) -> None:
    """`folder` as a zip whose members all lie below `top`/; read back (names, checksums) before it gets its name."""
    names = {f"{top}/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*")) if path.is_file()}
    with staging(target) as partial:
        with zipfile.ZipFile(partial, "w", strict_timestamps=False) as archive:
            for name, path in names.items():
                # Weights do not compress; deflating them only takes minutes.
                packing = zipfile.ZIP_STORED if path.suffix == ".safetensors" else zipfile.ZIP_DEFLATED
                archive.write(path, name, compress_type=packing)
        copies.sync(partial)
        _verify_zip(partial, target, list(names))
        publish(partial, target)


def copy_folder(folder: Path, target: Path) -> None:
    """`folder` copied to `target` (a synchronised drive): read back by size and SHA-256 before it gets its name."""
    files = [*list_files(folder), file_entry(folder / MANIFEST, MANIFEST)]
    with staging(target) as partial:
        copies.fill_folder(folder, partial, files)
        publish(partial, target)


def _verify_zip(path: Path, target: Path, names: list[str]) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            found = archive.namelist()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        broken, found = str(error) or type(error).__name__, names
    if broken is not None or sorted(found) != sorted(names):
        what = broken or f"{len(found)} / {len(names)} members"
        raise ExportError(
            f"zip {target.name} を読み返せませんでした（{what}）。→ 空き容量を確かめて、もう一度実行してください。",
            f"The zip {target.name} could not be read back ({what}). -> Check the free space and try again.",
        )


@contextmanager
def _told(target: Path) -> Iterator[None]:
    """Errors of the file system and of the copying as an ExportError; safetensors has an error class of its own for the former."""
    from safetensors import SafetensorError

    try:
        yield
    except CopyError as error:
        raise ExportError(error.ja, error.en) from error
    except SafetensorError as error:
        raise _cannot_write(target, "os error 28" in str(error), str(error)) from error
    except OSError as error:
        raise _cannot_write(target, error.errno in FULL, error.strerror or str(error)) from error


def _cannot_write(target: Path, full: bool, text: str) -> ExportError:
    left = _left(target)
    fate_ja = (
        f"途中のファイル {left} が残っています（次の書き出しには使われません）。" if left else "途中のファイルは消しました。"
    )
    fate_en = (
        f"unfinished files remain in {left} (the next export will not use them)" if left else "the partial files were removed"
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


def _left(target: Path) -> Path | None:
    """The temporary name where it could not be removed, or where a broken drive does not say."""
    try:
        return partial_name(target) if copies.exists(partial_name(target)) else None
    except OSError:
        return partial_name(target)
