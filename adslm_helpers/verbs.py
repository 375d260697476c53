"""What each verb of `adslm` does: its arguments in, (JSON value, lines to read) out. Heavy libraries are loaded by the verb that needs them."""

from __future__ import annotations

import argparse
import functools
import sys
from dataclasses import asdict
from typing import Any

from .errors import DataError
from .foreign_text import harmless
from .recipe import load_recipe, parse_overrides, recipe_from_dict, try_first
from .run import Run
from .run_names import user_path


def setup(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm setup`."""
    from .environment.device import configure_mps_environment

    configure_mps_environment()
    from .environment.packages import optional_needs
    from .environment.repair import plan_install, quick_fix
    from .models.readiness import readiness

    recipe, repair = _recipe(arguments), None
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
    from .dataset.build import build_dataset
    from .dataset.usable import look_at

    recipe, source, reading = _recipe(arguments), *_source(arguments)
    if arguments.audit:
        found = look_at(source, recipe.seed, reading, mend=arguments.repair, say=_say)
        return found.to_dict(), found.lines(), int(not found.passed)
    options = {"drop_invalid": not arguments.strict, "mend": arguments.repair, "say": _say}
    report = build_dataset(Run(arguments.run), source, recipe, reading=reading, **options)
    return report.to_dict(), report.lines()


def _source(arguments: argparse.Namespace) -> tuple[str | None, Any]:
    """What to read, and how."""
    from .dataset.ad_log.pairs import PairRules
    from .dataset.forms.columns import parse_map
    from .dataset.sources import Reading

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


def _say(line: str) -> None:
    """Progress, beside the result."""
    print(harmless(line), file=sys.stderr, flush=True)


def train(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm train`."""
    from .environment.device import configure_mps_environment

    configure_mps_environment()
    from .training.mirror_state import mirror_line
    from .training.restore import restore_run
    from .training.resume import started_recipe
    from .training.train import expected_steps
    from .training.train import train as train_run
    from .widgets.live import live_view

    run = Run(arguments.resume or arguments.run)
    restore_run(run, say=print)  # before the recipe is asked for: on a new machine it is not here yet
    recipe = started_recipe(run) if arguments.resume and not _changes(arguments) else _recipe(arguments, run)
    view = live_view(expected_steps(run, recipe), notes=[lambda: mirror_line(run.training)])
    result = train_run(run, recipe, [view], fresh=arguments.fresh, resume=bool(arguments.resume), say=print)
    return asdict(result), result.lines()


def _changes(arguments: argparse.Namespace) -> bool:
    """Whether the command line asks for another recipe than the run's own."""
    return bool(arguments.preset or arguments.model or arguments.set)


def evaluate(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm evaluate`."""
    from .evaluation.evaluate import evaluate as evaluate_run

    evaluation = evaluate_run(Run(arguments.run), arguments.against)
    return evaluation.metrics, evaluation.lines()


def rate(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm rate`: the blind rating without a notebook; what was rated so far where nothing else is asked."""
    from .evaluation.evaluate import refresh_report
    from .evaluation.next_round import write_next_round
    from .evaluation.rating_result import rating_summary
    from .evaluation.rating_sheet import export_csv, import_csv

    run, value, lines = Run(arguments.run), {}, []
    if arguments.filled:
        read = import_csv(run, arguments.filled, arguments.rater)
        value["import"], lines = read.to_dict(), read.lines()
    if arguments.csv:
        path = export_csv(run, arguments.csv, arguments.rater, arguments.n)
        value["csv"] = str(path)
        lines += [
            f"記入してください（A・B・引分・スキップ）/ fill in A, B, tie or skip: {path}",
            f"  adslm rate --run {run.name} --rater {arguments.rater} --import {path}",
        ]
    summary = rating_summary(run)
    value["summary"], lines = summary.to_dict(), [*lines, *summary.lines()]
    if summary.votes:
        lines.append(f"report: {refresh_report(run)}")
    if arguments.pairs:
        following = write_next_round(run, arguments.pairs, with_previous=not arguments.only_rated)
        value["pairs"], lines = following.to_dict(), [*lines, *following.lines()]
    return value, lines


def export(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm export`."""
    from .export.export import export_run

    result = export_run(Run(arguments.run), arguments.target, arguments.kind, merged=not arguments.no_merged)
    return asdict(result), result.lines()


def monitor(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm monitor`."""
    from .watching.monitor import monitor as look
    from .watching.screen import follow

    snapshot = look(arguments.name) if arguments.once or arguments.json else follow(arguments.name)
    return snapshot.to_dict(), snapshot.lines()


def analyze(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm analyze`."""
    from .watching.analyze import analyze as diagnose

    analysis = diagnose(arguments.where)
    return analysis.to_dict(), analysis.lines()


def check(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm check`."""
    from .watching.check_checkpoint import check_checkpoint

    say = functools.partial(print, file=sys.stderr, flush=True)
    options = {"base": arguments.base, "n": arguments.n, "limit_gib": arguments.memory, "say": say}
    found = check_checkpoint(arguments.where, arguments.prompt, **options)
    return found.to_dict(), found.lines()


def chat(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm chat`."""
    from .models.tuned import load_tuned

    if arguments.export:
        from .export.load import load_export

        loaded = load_export(arguments.export)
    else:
        loaded = load_tuned(Run(arguments.run))
    if arguments.prompt is not None:
        answers = _answers(loaded, arguments, arguments.prompt)
        return answers, _spoken(answers)
    print(
        "\n".join(loaded.lines()) + "\n依頼文を入れてください（空行で終わり）。/ Type a brief; an empty line ends.",
        file=sys.stderr,
    )
    said = []
    while prompt := _ask():
        said.append(_answers(loaded, arguments, prompt))
        print(harmless("\n".join(_spoken(said[-1]))))
    return said, []


def run_all(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm run`."""
    from .evaluation.evaluate import load_evaluation
    from .evaluation.report import spread
    from .road import peak_gib, run_notebooks
    from .text.brief import whole_prompt

    run = Run(arguments.run)
    data, model = _absolute(arguments.data), _absolute(arguments.model)
    parameters = {"RUN": run.name, "PRESET": arguments.preset, "MODEL": model, "DATA": data, "READ_AS": arguments.read_as}
    timings = run_notebooks(run, parameters)
    evaluation = load_evaluation(run)
    lines = ["", f"実行 / run {run.name}: {sum(t['seconds'] for t in timings):.0f} s, {peak_gib():.1f} GiB", ""]
    lines += [f"{label}: {value}" for label, value in evaluation.table()]
    for row in spread(evaluation.comparisons, 3):
        lines += [
            "",
            f"依頼 / brief: {whole_prompt(row['prompt'])}",
            f"  前 / before: {row['base']}",
            f"  後 / after:  {row['tuned']}",
        ]
    lines += ["", evaluation.verdict.ja, evaluation.verdict.en, "", f"レポート / report: {evaluation.report}"]
    return {"metrics": evaluation.metrics, "timings": timings, "report": str(evaluation.report)}, lines


def _absolute(name: str) -> str:
    """A path as it reads from here, for the notebooks run in their own folder; a hub id or 'sample:N' as it is."""
    try:
        path = user_path(name)
        return str(path.resolve()) if name and path.exists() else name
    except (OSError, ValueError):  # no file can have such a name: the notebook says so
        return name


def _recipe(arguments: argparse.Namespace, run: Run | None = None) -> Any:
    """The recipe of the command line; without --preset the one that the run already has."""
    overrides = parse_overrides(arguments.set)
    known = run.manifest().get("recipe") if run else None
    if arguments.preset is None and known:
        return try_first(recipe_from_dict({**known, **overrides}), arguments.model)
    return load_recipe(arguments.preset or "tiny", arguments.model, **overrides)


def _answers(loaded: Any, arguments: argparse.Namespace, prompt: str) -> dict[str, Any]:
    from .models.generation import generate_texts

    if not prompt.strip():
        raise DataError("依頼文が空です。→ --prompt に書いてください。", "The brief is empty. -> Write it after --prompt.")
    options = {"seed": arguments.seed, "temperature": arguments.temperature}
    answers = {"prompt": prompt, "model": loaded.name, "texts": []}
    prompts = [prompt] * max(1, arguments.n)
    if arguments.before and hasattr(loaded.model, "disable_adapter"):
        with loaded.model.disable_adapter():
            answers["before"] = [answer.text for answer in generate_texts(loaded.model, loaded.tokenizer, prompts, **options)]
    answers["texts"] = [answer.text for answer in generate_texts(loaded.model, loaded.tokenizer, prompts, **options)]
    return answers


def _spoken(answers: dict[str, Any]) -> list[str]:
    if "before" not in answers:
        return answers["texts"]
    return [f"前 / before: {text}" for text in answers["before"]] + [f"後 / after:  {text}" for text in answers["texts"]]


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""
