"""What may leave this machine: public names instead of local folders, and configs that other programs read as well."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

from ..foreign_text import redacted
from ..run import Run, read_json, write_json, write_text
from ..run_names import is_folder, user_path

# What transformers notes about the place a tokenizer was loaded from; it would make a later load look there.
_TEXT_FILES = (".json", ".jsonl", ".html", ".md")
_LEFT_ALONE = ("tokenizer.json", "vocab.json")  # vocabularies: no paths in them, and not one letter may change


def is_local(name: str) -> bool:
    """Whether a model's name is a folder of some machine rather than a hub id or 'embedded-tiny'."""
    path = user_path(name)
    return path.is_absolute() or is_folder(name) or name.startswith(("~", ".")) or "\\" in name


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
    """`clean_text` for every text file below `folder` but the vocabularies, and no secret in one of them."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in _TEXT_FILES and path.name not in _LEFT_ALONE:
            before = path.read_text(encoding="utf-8")
            after = redacted(clean_text(before, paths))
            if after != before:
                write_text(path, after)


def fix_adapter_config(path: Path, base: str) -> None:
    """Names the base model by `base`; PEFT had written the folder it was loaded from."""
    write_json(path, {**read_json(path), "base_model_name_or_path": base})
