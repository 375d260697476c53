"""A training seen from outside: `adslm monitor`, `analyze`, `check`."""

from __future__ import annotations

import argparse
import functools
import sys
from typing import Any


def monitor(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm monitor`."""
    from ..watching.monitor import monitor as look
    from ..watching.screen import follow

    snapshot = look(arguments.name) if arguments.once or arguments.json else follow(arguments.name)
    return snapshot.to_dict(), snapshot.lines()


def analyze(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm analyze`."""
    from ..watching.analyze import analyze as diagnose

    analysis = diagnose(arguments.where)
    return analysis.to_dict(), analysis.lines()


def check(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm check`."""
    from ..watching.check_checkpoint import check_checkpoint

    say = functools.partial(print, file=sys.stderr, flush=True)
    options = {"base": arguments.base, "n": arguments.n, "limit_gib": arguments.memory, "say": say}
    found = check_checkpoint(arguments.where, arguments.prompt, **options)
    return found.to_dict(), found.lines()
