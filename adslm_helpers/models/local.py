"""What this machine has of a model before the network is asked: its config, in a folder or in the hub's cache."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..run_names import is_folder, user_path

_LARGEST = 8 << 20
# The keys that the size of a model is computed from, and the most that each may be.
_SHAPE = {
    "hidden_size": 1 << 17, "n_embd": 1 << 17, "num_hidden_layers": 1024, "n_layer": 1024, "num_attention_heads": 1024,
    "n_head": 1024, "num_key_value_heads": 1024, "head_dim": 1 << 14, "intermediate_size": 1 << 20, "n_inner": 1 << 20,
    "vocab_size": 1 << 24, "n_positions": 1 << 24, "max_position_embeddings": 1 << 31,
}  # fmt: skip


def local_config(name: str) -> Any | None:
    """config.json of a model folder, or of the hub's cache on this machine, as attributes; None where there is none to read."""
    path = user_path(name) / "config.json" if is_folder(name) else _cached(name)
    try:
        if path is None or not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):  # the loader will say what is wrong with it
        return None
    whole = isinstance(values, dict) and {"vocab_size", "model_type"} <= set(values) and not odd_values(values)
    return SimpleNamespace(**values) if whole else None


def odd_values(values: dict[str, Any]) -> list[str]:
    """What in a config cannot be the shape of a model: a number that is none, is not positive, or is beyond any model's."""
    odd = [key for key, most in _SHAPE.items() if values.get(key) is not None and not _whole(values[key], most)]
    if "vocab_size" in values and values["vocab_size"] is None:
        odd.append("vocab_size")
    odd += [key for key in ("hidden_size", "n_embd") if not odd and key in values and not _heads_fit(values, values[key])]
    names = values.get("architectures")
    if not (names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))):
        odd.append("architectures")
    return odd if isinstance(values.get("model_type", ""), str) else [*odd, "model_type"]


def _whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def _heads_fit(values: dict[str, Any], hidden: Any) -> bool:
    heads = values.get("num_attention_heads") or values.get("n_head")
    return not heads or not hidden or heads <= hidden


def _cached(name: str) -> Path | None:
    """The cached config.json of a hub model."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(name, "config.json")
    return Path(found) if isinstance(found, str) else None
