"""A file of prompt embeddings: the learned vectors that stand before a prompt, read without running anything that is in the file."""

from __future__ import annotations

import io
import os
import pickletools
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import AdslmError, DataError
from ...foreign_text import brief
from ...run import sha256, write_bytes
from ...run_names import user_path

if TYPE_CHECKING:
    from torch import Tensor

KEYS = ("prompt_embeddings", "embeddings", "weight")
"""Names that the tensor of a file may have: the last is an nn.Embedding's state dict."""
FILE = "prompt_embeddings.pt"
"""Its name in a run folder."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
LARGEST = 64 << 20
"""Bytes of the largest file that is read: 4096 vectors of 4096 numbers. Usual are 8 to 100 vectors, less than 1 MiB."""

_LARGEST_PICKLE = 16 << 10  # of a single tensor they are some 200 bytes
_MOST_RECORDS = 32
# All that a tensor, a parameter and a state dict are made of.
_HARMLESS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
_STORAGES = {
    f"torch {kind}Storage" for kind in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
}
_MAKES_OBJECTS = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}


def read_prompt_embeddings(path: Path | str, hidden_size: int) -> Tensor:
    """The vectors of a file, [T, hidden_size] in float32 on the CPU, independent of the file.

    A .pt, .bin or .pth file of torch.save (a bare tensor, or one under a name of `KEYS`), a .safetensors file, or the folder of a PEFT
    prompt tuning or P-tuning adapter; [H] counts as one vector. Raises DataError, saying what was found, for everything else.
    """
    import torch

    file = _file(user_path(path))
    content = _content(file)
    tensor = _only_tensor(file, _safetensors(file, content) if _is_safetensors(content) else _torch_saved(file, content))
    if not tensor.is_floating_point():
        raise _refused(file, f"数値の型が {tensor.dtype} です", f"its numbers are {tensor.dtype}, not floating point")
    shape = list(tensor.shape)
    if len(shape) not in (1, 2) or not tensor.numel():
        raise _refused(
            file,
            f"形が {shape} です。[ベクトルの数, 隠れ層の大きさ] が必要です",
            f"its shape is {shape}, not [vectors, hidden size]",
        )
    if shape[-1] != hidden_size:
        raise DataError(
            f"{file} のベクトルの大きさは {shape[-1]} ですが、モデルの隠れ層の大きさは {hidden_size} です。"
            "→ このモデルで学習したベクトルを使うか、adslm preference-prompt で作り直してください。",
            f"The vectors in {file} have {shape[-1]} numbers each, but the model's hidden size is {hidden_size}. "
            "-> Use vectors that were trained with this model, or train new ones: adslm preference-prompt.",
        )
    vectors = tensor.detach().to(torch.float32, copy=True).reshape(-1, hidden_size).contiguous()
    if odd := int((~vectors.isfinite()).sum()):
        raise _refused(file, f"有限でない数が {odd} 個あります", f"{odd} of its numbers are not finite")
    return vectors


def write_prompt_embeddings(path: Path, vectors: Tensor) -> Path:
    """Writes [T, H] vectors as float32 under the name 'prompt_embeddings': safetensors by that suffix, else as torch.save does."""
    import torch
    from safetensors.torch import save

    tensors = {KEYS[0]: vectors.detach().to("cpu", torch.float32, copy=True).contiguous()}
    if path.suffix == ".safetensors":
        return write_bytes(path, save(tensors))
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return write_bytes(path, buffer.getvalue())


def embeddings_hash(path: str) -> list[str]:
    """[SHA-256] of the file that a recipe's `prompt_embeddings` means, [] for none: part of what decides a training's outcome.

    Raises DataError where there is no such file.
    """
    return [sha256(_file(user_path(path)))] if path else []


def keep_in_place(aside: Path, training: Path) -> None:
    """Puts a copy of the vectors of a training that was set aside back where recipes name them."""
    if (aside / FILE).is_file():
        write_bytes(training / FILE, (aside / FILE).read_bytes())


def _file(path: Path) -> Path:
    """The file that a user's path means: an adapter's folder means its weights."""
    try:
        if path.is_dir():
            if (path / ADAPTER_WEIGHTS).is_file():
                return path / ADAPTER_WEIGHTS
            raise _refused(
                path, f"フォルダーで、中に {ADAPTER_WEIGHTS} がありません", f"it is a folder without {ADAPTER_WEIGHTS}"
            )
        if path.is_file():
            return path
        if os.path.lexists(path):
            raise _refused(path, "通常のファイルではありません", "it is no regular file")
    except (OSError, ValueError):  # what no file can be named, or a folder that may not be looked into
        pass
    raise DataError(
        f"プロンプト埋め込みのファイル {brief(str(path), 200)} がありません。→ パスを確かめるか、adslm preference-prompt で作ってください。",
        f"There is no file of prompt embeddings {brief(str(path), 200)}. -> Check the path, or make one: adslm preference-prompt.",
    )


def _content(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1) if os.fstat(file.fileno()).st_size <= LARGEST else None
    except OSError as error:
        why = error.strerror or error
        raise DataError(
            f"{path} を読めません（{why}）。→ 権限を確かめてください。",
            f"{path} cannot be read ({why}). -> Check its permissions.",
        ) from None
    if content is None or len(content) > LARGEST:  # it may grow meanwhile
        megabytes = LARGEST >> 20
        raise _refused(path, f"{megabytes} MiB を超えています", f"it is larger than {megabytes} MiB")
    return content


def _is_safetensors(content: bytes) -> bool:
    return content[8:9] == b"{"


def _safetensors(path: Path, content: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError, OverflowError, MemoryError) as error:
        raise _broken(path, error) from None


def _torch_saved(path: Path, content: bytes) -> Any:
    """What torch.save wrote, by weights_only: the pickle's names and sizes are looked at first, and only what was looked at is handed on.

    torch takes a pickle's word for the size of a tensor's record, and, before 2.6, ran code in files that are no zip archive.
    """
    import torch

    if not content.startswith(b"PK\x03\x04"):
        raise _refused(
            path,
            "safetensors でも、今の torch.save の形式でもありません（途中で切れたファイルか、古い形式か、別の種類のファイルです）",
            "it is neither safetensors nor what torch.save writes today (cut off, an old format, or another kind of file)",
        )
    pickled, records = _parts(path, content)
    if why := _wants_more(pickled):
        raise _refused(
            path, f"テンソル以外のものを読み込もうとします（{why}）", f"it asks for more than a tensor ({why}), and is not opened"
        )
    if len(records) != 1:
        raise _refused(
            path, f"テンソルが {len(records)} 個あります。1個だけが必要です", f"it holds {len(records)} tensors; one is wanted"
        )
    ((key, record),) = records.items()
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as archive:
        for name, value in (
            ("data.pkl", pickled),
            ("version", b"3\n"),
            ("byteorder", sys.byteorder.encode()),
            (f"data/{key}", record),
        ):
            archive.writestr(f"archive/{name}", value)
    copy.seek(0)
    try:
        value = torch.load(copy, map_location="cpu", weights_only=True)
        sound = all(_within(tensor, len(record)) for tensor in (value.values() if isinstance(value, dict) else [value]))
    except Exception as error:  # of a false pickle: IndexError, KeyError, AssertionError, whatever its stack runs into
        raise _broken(path, error) from None
    if not sound:
        raise _broken(path, ValueError("a tensor is larger than its record"))
    return value


def _parts(path: Path, content: bytes) -> tuple[bytes, dict[str, bytes]]:
    """(data.pkl, tensors' records by name) of an archive as torch.save writes it: nothing compressed, every name once, little-endian."""
    try:
        if content.count(b"PK\x01\x02") > _MOST_RECORDS:
            raise ValueError("too many records")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            sizes = sum(entry.file_size for entry in archive.infolist())
            plain = all(e.compress_type == zipfile.ZIP_STORED and e.file_size == e.compress_size for e in entries.values())
            if not plain or sizes > len(content) or len(entries) != len(archive.infolist()):
                raise ValueError("no archive of torch.save")
            (pickle_name,) = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
            root = pickle_name.removesuffix("data.pkl")
            if f"{root}byteorder" in entries and archive.read(f"{root}byteorder").decode() != sys.byteorder:
                raise ValueError("another byte order")
            start = f"{root}data/"
            records = {name.removeprefix(start): archive.read(name) for name in entries if name.startswith(start)}
            return archive.read(pickle_name), records
    except Exception as error:  # zipfile raises what its struct, its decoder and its codecs raise
        raise _broken(path, error) from None


def _wants_more(pickled: bytes) -> str:
    """The first thing in a pickle that no tensor needs; '' where there is none."""
    if len(pickled) > _LARGEST_PICKLE:
        return f"{len(pickled)} bytes"
    try:
        for operation, argument, _ in pickletools.genops(pickled):
            if operation.name in _MAKES_OBJECTS:
                return operation.name
            if operation.name == "GLOBAL" and argument not in _HARMLESS | _STORAGES:
                return brief(str(argument).replace(" ", "."))
    except Exception as error:  # genops raises what int(), float() and the decoders raise
        return brief(str(error))
    return ""


def _within(tensor: Any, size: int) -> bool:
    """Whether a tensor lies in its record of `size` bytes, and is no small record spread over a large shape. Other values are looked at later."""
    import torch

    if not isinstance(tensor, torch.Tensor):
        return True
    return tensor.untyped_storage().nbytes() <= size and tensor.numel() * tensor.element_size() <= size


def _only_tensor(path: Path, value: Any) -> Tensor:
    import torch

    if isinstance(value, torch.Tensor):
        return value
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise _refused(path, f"中身が {kind} です", f"it holds a {kind}")
    if len(value) == 1 and (name := next(iter(value))) in KEYS and isinstance(value[name], torch.Tensor):
        return value[name]
    names = ", ".join(brief(name) for name in list(value)[:4]) + ", ..." * (len(value) > 4)
    raise _refused(path, f"中身の名前が {names or 'なし'} です", f"it holds {names or 'nothing'}")


def _broken(path: Path, error: Exception) -> AdslmError:
    said = " ".join(str(error).split())[:120]
    said = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return DataError(
        f"{path} を読めません。途中で切れているか、壊れています（{said}）。→ 元のファイルをもう一度写すか、adslm preference-prompt で作り直してください。",
        f"{path} cannot be read: it is cut off or damaged ({said}). -> Copy the original again, or make a new one: adslm preference-prompt.",
    )


def _refused(path: Path, ja: str, en: str) -> DataError:
    return DataError(
        f"{path} はプロンプト埋め込みとして使えません（{ja}）。→ [ベクトルの数, 隠れ層の大きさ] の小数のテンソル1個だけを "
        f"torch.save か safetensors で保存してください（そのまま、または {'、'.join(KEYS)} のどれかの名前で）。",
        f"{path} cannot serve as prompt embeddings: {en}. -> Save one tensor of floats [vectors, hidden size] by torch.save or "
        f"safetensors, bare or under one of the names {', '.join(KEYS)}.",
    )
