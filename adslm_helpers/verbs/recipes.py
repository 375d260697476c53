"""The recipe that a command line asks for, and progress beside its result."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from typing import Any

from ..foreign_text import harmless
from ..guide_variables import Overrides, guide_overrides
from ..preference_text import PREFERENCE_TEXT
from ..recipe import DpoRecipe, load_recipe, parse_overrides, recipe_from_dict, try_first
from ..run import Run


def recipe_of(arguments: argparse.Namespace, run: Run | None = None) -> Any:
    """The recipe of the command line; without --preset the one that the run already has."""
    guide = guide_overrides(os.environ) if arguments.verb.__name__ == "train" else Overrides()
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        for line in guide.lines:
            say(line)
    explicit = {**_named(arguments), **parse_overrides(arguments.set)}
    overrides = guide.below(explicit)
    if explicit.get("prompt_embeddings"):  # in place of the words that the run was trained with before
        overrides = {"preference_text": "", **overrides}
    elif explicit.get("preference_text"):
        overrides = {"prompt_embeddings": "", **overrides}
    model = arguments.model or guide.model
    known = run.manifest().get("recipe") if run else None
    if arguments.preset is None and known:
        return _instructed(try_first(recipe_from_dict({**known, **overrides}), model))
    return _instructed(load_recipe(arguments.preset or "tiny", model, **overrides))


def _instructed(recipe: DpoRecipe) -> DpoRecipe:
    """With the project's own instruction where a teacher has nothing to read: it would teach nothing."""
    if recipe.method != "preference_guided" or recipe.preference_text or recipe.prompt_embeddings:
        return recipe
    if os.environ.get("RANK", "0") == "0":
        say(
            f"指示がないので既定の文を使います / no instruction given, the project's own is used: --preference-text {PREFERENCE_TEXT!r}"
        )
    return replace(recipe, preference_text=PREFERENCE_TEXT)


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
