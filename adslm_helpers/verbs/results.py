"""What a training is worth and what becomes of it: `adslm evaluate`, `rate`, `export`, `chat`, `run`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

from ..errors import DataError
from ..foreign_text import harmless
from ..run import Run
from ..run_names import user_path


def evaluate(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm evaluate`."""
    from ..evaluation.evaluate import evaluate as evaluate_run

    evaluation = evaluate_run(Run(arguments.run), arguments.against)
    return evaluation.metrics, evaluation.lines()


def rate(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm rate`: the blind rating without a notebook; what was rated so far where nothing else is asked."""
    from ..evaluation.evaluate import refresh_report
    from ..evaluation.next_round import write_next_round
    from ..evaluation.rating_result import rating_summary
    from ..evaluation.rating_sheet import export_csv, import_csv

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
    from ..export.export import export_run

    result = export_run(Run(arguments.run), arguments.target, arguments.kind, merged=not arguments.no_merged)
    return asdict(result), result.lines()


def chat(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm chat`."""
    from ..models.tuned import load_tuned

    if arguments.export:
        from ..export.load import load_export

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


def _answers(loaded: Any, arguments: argparse.Namespace, prompt: str) -> dict[str, Any]:
    from ..models.generation import generate_texts

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


def run_all(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """`adslm run`."""
    from ..evaluation.evaluate import load_evaluation
    from ..evaluation.report import spread
    from ..road import peak_gib, run_notebooks
    from ..text.brief import whole_prompt

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
