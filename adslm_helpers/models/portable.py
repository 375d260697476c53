"""Model folders that other programs and older versions of transformers read as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..run import read_json, write_json

_LOCAL_KEYS = ("name_or_path", "local_files_only", "is_local")


def fix_tokenizer_config(path: Path) -> None:
    """Drops what is true on this machine only, and names classes and lists as transformers 4 knows them too."""
    config = {key: value for key, value in read_json(path).items() if key not in _LOCAL_KEYS}
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):  # transformers 4 expects a dict under this name, and crashes
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    write_json(path, config)


def fix_model_config(path: Path) -> None:
    """Writes at top level what transformers 5 no longer does and others still read.

    Without `rope_theta` Ollama's importer reads 0 (NaN logits) and transformers 4 silently takes 10000.
    """
    config = read_json(path)
    write_json(path, {**config, **_older_keys(config)})


def _older_keys(config: dict[str, Any]) -> dict[str, Any]:
    rope = config.get("rope_parameters") or {}
    found: dict[str, Any] = {}
    if "rope_theta" in rope:
        found["rope_theta"] = rope["rope_theta"]
    if config.get("model_type") == "gpt_neox" and rope:
        # transformers 4 has other names here, and its default share (0.25) is not what every model was trained with.
        found["rotary_emb_base"] = rope.get("rope_theta", 10000)
        found["rotary_pct"] = rope.get("partial_rotary_factor", 1.0)
    if config.get("model_type") == "gpt2":
        found["n_ctx"] = config.get("n_positions", 1024)
    if isinstance(config.get("dtype"), str):
        found["torch_dtype"] = config["dtype"]
    return {key: value for key, value in found.items() if key not in config}


def fix_tokenizer_file(path: Path) -> None:
    """Writes the merges of a byte-level BPE as "left right" instead of pairs: tokenizers before 0.20 read no other form.

    Left as it is where a token holds a space (no byte-level vocabulary has one).
    """
    if not path.is_file():  # a slow tokenizer
        return
    tokenizer = read_json(path)
    merges = tokenizer["model"].get("merges") or []
    if not merges or not all(isinstance(pair, list) and " " not in "".join(pair) for pair in merges):
        return
    tokenizer["model"]["merges"] = [" ".join(pair) for pair in merges]
    write_json(path, tokenizer)
