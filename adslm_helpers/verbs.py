"""What each verb of `adslm` does: its arguments in, (JSON value, lines to read) out. Heavy libraries are loaded by the verb that needs them."""

from __future__ import annotations

import argparse
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


def dataset(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm dataset`."""
    from .dataset.build import build_dataset

    report = build_dataset(Run(arguments.run), arguments.source, _recipe(arguments), drop_invalid=not arguments.strict)
    return report.to_dict(), report.lines()


def train(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm train`."""
    from .environment.device import configure_mps_environment

    configure_mps_environment()
    from .training.train import expected_steps
    from .training.train import train as train_run
    from .widgets.live import live_view

    run, recipe = Run(arguments.run), _recipe(arguments, Run(arguments.run))
    result = train_run(run, recipe, [live_view(expected_steps(run, recipe))], fresh=arguments.fresh)
    return asdict(result), result.lines()


def evaluate(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm evaluate`."""
    from .evaluation.evaluate import evaluate as evaluate_run

    evaluation = evaluate_run(Run(arguments.run))
    return evaluation.metrics, evaluation.lines()


def export(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm export`."""
    from .export.export import export_run

    result = export_run(Run(arguments.run), arguments.target, arguments.kind, merged=not arguments.no_merged)
    return asdict(result), result.lines()


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
    parameters = {"RUN": run.name, "PRESET": arguments.preset, "MODEL": model, "DATA": data}
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
