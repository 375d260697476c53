"""What may leave this machine: public names instead of local folders, and configs that other programs read as well."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..run import Run, read_json, write_json, write_text

# What transformers notes about the place a tokenizer was loaded from; it would make a later load look there.
_LOCAL_KEYS = ("name_or_path", "local_files_only", "is_local")
_TEXT_FILES = (".json", ".jsonl", ".html", ".md")
_LEFT_ALONE = ("tokenizer.json", "vocab.json")  # vocabularies: no paths in them, and not one letter may change


def is_local(name: str) -> bool:
    """Whether a model's name is a folder of some machine rather than a hub id or 'embedded-tiny'."""
    path = Path(name).expanduser()
    return path.is_absolute() or path.is_dir() or name.startswith(("~", ".")) or "\\" in name


def public_name(name: str) -> str:
    """The name of a base model without the way to it: of a folder its last part, anything else as it is."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if is_local(name) else name


def private_paths(run: Run, base_folder: str, base: str) -> list[tuple[str, str]]:
    """(path of this machine, what to write instead), the longest path first."""
    pairs = {
        base_folder: base,
        str(run.path): run.name,
        str(run.path.parent): "runs",
        str(Path.cwd()): ".",
        str(Path.home()): "~",
    }
    # '/' or '/a' would match in innocent text.
    usable = [(path, name) for path, name in pairs.items() if Path(path).is_absolute() and len(path) >= 5]
    return sorted(usable, key=lambda pair: -len(pair[0]))


def clean_text(text: str, paths: Sequence[tuple[str, str]]) -> str:
    """`text` without those paths, also where JSON or HTML escaped them or Windows' backslashes were turned."""
    for path, name in paths:
        spellings = {
            path,
            Path(path).as_posix(),
            json.dumps(path)[1:-1],
            json.dumps(path, ensure_ascii=False)[1:-1],
            html.escape(path),
        }
        for spelling in sorted(spellings, key=len, reverse=True):
            text = re.sub(rf"(?<![\w.+]){re.escape(spelling)}(?![\w.-])", lambda _, name=name: name, text)
    return text


def clean_folder(folder: Path, paths: Sequence[tuple[str, str]]) -> None:
    """`clean_text` for every text file below `folder` but the vocabularies."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in _TEXT_FILES and path.name not in _LEFT_ALONE:
            before = path.read_text(encoding="utf-8")
            after = clean_text(before, paths)
            if after != before:
                write_text(path, after)


def fix_adapter_config(path: Path, base: str) -> None:
    """Names the base model by `base`; PEFT had written the folder it was loaded from."""
    write_json(path, {**read_json(path), "base_model_name_or_path": base})


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
    return {key: value for key, value in found.items() if key not in config}
