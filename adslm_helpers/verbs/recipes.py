"""The recipe that a command line asks for, and progress beside its result."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..foreign_text import harmless
from ..recipe import load_recipe, parse_overrides, recipe_from_dict, try_first
from ..run import Run


def recipe_of(arguments: argparse.Namespace, run: Run | None = None) -> Any:
    """The recipe of the command line; without --preset the one that the run already has."""
    overrides = {**_named(arguments), **parse_overrides(arguments.set)}
    known = run.manifest().get("recipe") if run else None
    if arguments.preset is None and known:
        return try_first(recipe_from_dict({**known, **overrides}), arguments.model)
    return load_recipe(arguments.preset or "tiny", arguments.model, **overrides)


def changes_recipe(arguments: argparse.Namespace) -> bool:
    """Whether the command line asks for another recipe than the run's own."""
    return bool(arguments.preset or arguments.model or arguments.set or _named(arguments))


def _named(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of the recipe that have an option of their own, where given."""
    names = ("engine", "method", "preference_text", "prompt_embeddings")
    return {name: value for name in names if (value := getattr(arguments, name, None)) is not None}


def say(line: str) -> None:
    """Progress, beside the result."""
    print(harmless(line), file=sys.stderr, flush=True)
