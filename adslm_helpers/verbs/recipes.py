"""The recipe that a command line asks for, and progress beside its result."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from ..foreign_text import harmless
from ..guide_variables import Overrides, guide_overrides
from ..recipe import load_recipe, parse_overrides, recipe_from_dict, try_first
from ..run import Run


def recipe_of(arguments: argparse.Namespace, run: Run | None = None) -> Any:
    """The recipe of the command line; without --preset the one that the run already has."""
    guide = guide_overrides(os.environ) if arguments.verb.__name__ == "train" else Overrides()
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        for line in guide.lines:
            say(line)
    overrides = guide.below({**_named(arguments), **parse_overrides(arguments.set)})
    model = arguments.model or guide.model
    known = run.manifest().get("recipe") if run else None
    if arguments.preset is None and known:
        return try_first(recipe_from_dict({**known, **overrides}), model)
    return load_recipe(arguments.preset or "tiny", model, **overrides)


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
