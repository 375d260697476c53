"""`adslm setup` and `adslm dataset`."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import DataError
from ..run import Run
from .recipes import recipe_of, say


def setup(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm setup`."""
    from ..environment.device import configure_mps_environment

    configure_mps_environment()
    from ..environment.packages import optional_needs
    from ..environment.repair import plan_install, quick_fix
    from ..models.readiness import readiness

    recipe, repair = recipe_of(arguments), None
    report, plan = readiness(recipe, arguments.as_if)
    if arguments.fix:
        repair = quick_fix(plan_install(optional_needs(plan.recipe if plan else recipe)))
        report, plan = readiness(recipe)
    value = {**report.to_dict(), "run_plan": plan.to_dict() if plan else None}
    lines = [*(plan.lines() if plan else []), "", *report.lines()]
    if repair:
        return {**value, "repair": repair.to_dict()}, [*repair.lines(), "", *lines]
    if report.install and not report.install.nothing_to_do:
        lines += ["", *report.install.lines(), "adslm setup --fix で実行します。/ adslm setup --fix does it."]
    return value, lines


def dataset(arguments: argparse.Namespace) -> tuple[Any, ...]:
    """`adslm dataset`: 1 as its exit code where an audit found errors."""
    from ..dataset.build import build_dataset
    from ..dataset.usable import look_at

    recipe, source, reading = recipe_of(arguments), *_source(arguments)
    if arguments.audit:
        found = look_at(source, recipe.seed, reading, mend=arguments.repair, say=say)
        return found.to_dict(), found.lines(), int(not found.passed)
    options = {"drop_invalid": not arguments.strict, "mend": arguments.repair, "say": say}
    report = build_dataset(Run(arguments.run), source, recipe, reading=reading, **options)
    return report.to_dict(), report.lines()


def _source(arguments: argparse.Namespace) -> tuple[str | None, Any]:
    """What to read, and how."""
    from ..dataset.ad_log.pairs import PairRules
    from ..dataset.forms.columns import parse_map
    from ..dataset.sources import Reading

    named = {"pairs": arguments.source, "log": arguments.from_log, "votes": arguments.votes}
    given = {kind: source for kind, source in named.items() if source}
    if len(given) > 1:
        raise DataError(
            f"データが2つ指定されています（{', '.join(given.values())}）。→ どちらか1つにしてください。",
            f"Two sources are given ({', '.join(given.values())}). -> Give one of them.",
        )
    kind, source = next(iter(given.items()), ("pairs", None))
    template = {"template": arguments.template} if arguments.template else {}
    rules = PairRules(p_win=arguments.p_win, platform=arguments.platform, domain=arguments.domain, **template)
    return source, Reading(kind, parse_map(arguments.map), arguments.period, rules, arguments.margin, arguments.every_pair)
