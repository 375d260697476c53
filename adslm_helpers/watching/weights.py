"""Weights on disk, looked at before any model is built: safetensors only, every number finite, shapes that fit the base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..errors import ModelError
from .run_files import object_in

# Loading one of these can run code of whoever made it.
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_AT_ONCE = 1 << 24  # numbers looked at in one piece: 64 MiB as float32
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Weights:
    """What the safetensors files of a folder hold."""

    files: tuple[Path, ...]
    shapes: dict[str, tuple[int, ...]]
    not_finite: tuple[str, ...]
    """Tensors with a NaN or an infinity in them."""
    zero: tuple[str, ...]
    """Tensors of which every element is 0."""

    @property
    def numbers(self) -> int:
        """How many weights there are."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of a model ('model') or adapter ('adapter_model'); ModelError where there are none, or only pickles."""
    if (folder / f"{stem}.safetensors").is_file():
        return [folder / f"{stem}.safetensors"]
    names = _indexed(folder) if stem == "model" else []
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ModelError(
            f"{folder} に {', '.join(missing[:3])} がありません（{INDEX} には載っています）。→ フォルダーをもう一度写してください。",
            f"{folder} lacks {', '.join(missing[:3])}, which {INDEX} names. -> Copy the folder again.",
        )
    if names:
        return [folder / name for name in names]
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix.lower() in PICKLES and "model" in path.name)
    if pickles:
        raise refuse_pickle(folder / pickles[0])
    raise ModelError(
        f"{folder} に重み（{stem}.safetensors）がありません。途中で止まったチェックポイントかもしれません。→ 別のチェックポイントを指定してください。",
        f"{folder} has no weights ({stem}.safetensors); a checkpoint cut short, perhaps. -> Give another one.",
    )


def refuse_pickle(path: Path) -> ModelError:
    """Why such a file is not opened."""
    return ModelError(
        f"{path} は pickle 形式です。読むだけで中のプログラムが動きうるので開きません。→ safetensors 形式のチェックポイントを使ってください（作った人が save_safetensors=True で保存し直せます）。",
        f"{path} is a pickle: loading it can run code that somebody put in, so it is not opened. -> Use a safetensors checkpoint (its maker can save it again with save_safetensors=True).",
    )


def read_weights(files: Sequence[Path]) -> Weights:
    """Reads every tensor once, piece by piece; ModelError for a truncated file or a false header."""
    shapes: dict[str, tuple[int, ...]] = {}
    not_finite, zero = [], []
    for path in files:
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 - no dict
                piece = file.get_slice(name)
                shapes[name] = tuple(piece.get_shape())
                finite, empty = _judged(piece, shapes[name])
                not_finite += [] if finite else [name]
                zero += [name] if empty else []
    return Weights(tuple(files), shapes, tuple(not_finite), tuple(zero))


def wrong_shapes(weights: Weights, config: Any) -> list[str]:
    """LoRA tensors that do not fit the base model of `config`, in words; the base is built without memory for its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config)
    modules = dict(base.named_modules())
    wrong = []
    for name, shape in weights.shapes.items():
        where, _, part = name.removeprefix("base_model.model.").partition(".lora_")
        if part not in ("A.weight", "B.weight") or len(shape) != 2:
            continue
        weight = getattr(modules.get(where), "weight", None)
        if weight is None:
            wrong.append(f"{where}: not in the base")
            continue
        transposed = type(modules[where]).__name__ == "Conv1D"
        fan_in, fan_out = weight.shape if transposed else reversed(weight.shape)
        has, needs = (shape[1], fan_in) if part == "A.weight" else (shape[0], fan_out)
        if has != needs:
            wrong.append(f"{where}.lora_{part}: {has}, base {needs}")
    return wrong


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        text = " ".join(str(error).split())[:120]
        raise ModelError(
            f"{path} を safetensors として読めません（{text}）。途中で切れているか、別の種類のファイルです。→ 別のチェックポイントか、元のファイルを使ってください。",
            f"{path} cannot be read as safetensors ({text}): cut off, or another kind of file. -> Use another checkpoint, or the original.",
        ) from None


def _judged(piece: Any, shape: tuple[int, ...]) -> tuple[bool, bool]:
    """(all finite, all zero) of one tensor, by rows that fit into memory."""
    rows = max(1, _AT_ONCE // max(1, math.prod(shape[1:])))
    pieces = (piece[start : start + rows] for start in range(0, shape[0], rows)) if shape else (piece[...],)
    finite, empty = True, True
    for values in pieces:
        values = values.float() if values.is_floating_point() else values  # float8 knows neither question
        finite &= bool(values.isfinite().all())
        empty &= not bool(values.any())
    return finite, empty


def _indexed(folder: Path) -> list[str]:
    """The shards that the index names, in this folder only."""
    shards = object_in(folder / INDEX).get("weight_map")
    names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
    return [name for name in names if Path(name).name == name]


def plain_config(folder: Path) -> SimpleNamespace | None:
    """config.json of a model folder as attributes; None where it is none."""
    values = object_in(folder / "config.json")
    return SimpleNamespace(**values) if {"vocab_size", "model_type"} <= values.keys() else None
