"""What this machine has of a model before the network is asked: its config, in a folder or in the hub's cache."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def local_config(name: str) -> Any | None:
    """config.json of a model folder, or of the hub's cache on this machine, as attributes; None where there is none to read."""
    folder = Path(name).expanduser()
    path = folder / "config.json" if folder.is_dir() else _cached(name)
    if path is None or not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # the loader will say what is wrong with it
        return None
    return SimpleNamespace(**values) if isinstance(values, dict) and {"vocab_size", "model_type"} <= set(values) else None


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
