"""Smaller tiles for TRL's log-probabilities where no GPU kernel folds them: less memory, the same numbers."""

from __future__ import annotations

import importlib
from typing import Any

from ..models.memory import SMALL_TILES

# Private names of TRL 1.16, hence looked for and never relied on. They are read at each call, so setting them is enough.
_SETTINGS = (
    ("trl.kernels.chunked_logprob", "TOKEN_CHUNK_SIZE", SMALL_TILES[0]),
    ("trl.trainer.utils", "_CHUNKED_LOGPROB_CHUNK_SIZE", SMALL_TILES[1]),
)


def use_small_tiles(device: str) -> bool:
    """Makes TRL score tokens in tiles of 512 x 4,096 instead of 4,096 x 32,768, and says whether it did.

    On CPU and MPS torch holds eight float32 copies of a tile: 1.1 GB for a vocabulary of 150,000 becomes 0.1 GB. On CUDA a kernel
    folds the tile in place and small ones would only be slow. A TRL without these settings is left as it is.
    """
    if device == "cuda":
        return False
    modules = [_module(name) for name, _, _ in _SETTINGS]
    if any(not hasattr(module, setting) for module, (_, setting, _) in zip(modules, _SETTINGS, strict=True)):
        return False
    for module, (_, setting, size) in zip(modules, _SETTINGS, strict=True):
        setattr(module, setting, min(size, getattr(module, setting)))
    return True


def _module(name: str) -> Any:
    """The module, or None in a TRL that has none of this name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("trl."):
            raise  # not TRL's own module but something that it needs
        return None
