"""`adslm`: the road from the command line, one verb per notebook. Heavy libraries are loaded by the verb that needs them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import __version__
from .errors import AdslmError, DataError
from .recipe import load_recipe, parse_overrides, preset_names, recipe_from_dict, try_first
from .run import Run

EPILOG = """\
手順 / the road:
  adslm setup                                   何があるか / what is there
  adslm dataset my_pairs.jsonl --run spring     読む・確かめる・分ける / read, check, split
  adslm train --run spring                      DPO で学習 / tune by DPO
  adslm evaluate --run spring                   前と後を比べる / before against after
  adslm export --run spring                     持ち出す / take it away
  adslm chat --run spring --prompt "..."        書かせてみる / let it write
  adslm run --run quickstart                    ノートブックを順に全部 / all notebooks in order

結果は runs/NAME/ に入ります。どのコマンドも --json で機械向けの結果を出します。
Everything lands in runs/NAME/. Every verb takes --json for machine-readable results.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns 0, 2 for a user's mistake (said on stderr in Japanese and English), 130 when interrupted."""
    arguments = build_parser().parse_args(argv)
    try:
        # With --json, standard output holds one JSON value and nothing else; what the libraries print goes to stderr.
        with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
            value, lines = arguments.verb(arguments)
        print(json.dumps(value, ensure_ascii=False, indent=2) if arguments.json else "\n".join(lines))
        sys.stdout.flush()  # a closed pipe shows itself here, not when the interpreter ends
    except AdslmError as error:
        if arguments.json:
            print(json.dumps({"error": {"kind": type(error).__name__, "ja": error.ja, "en": error.en}}, ensure_ascii=False))
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "\n中断しました。同じコマンドで続きから再開できます。\nInterrupted. The same command goes on from there.",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:  # `adslm ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; reading it is the manual."""
    parser = argparse.ArgumentParser(
        prog="adslm",
        description="自社の広告データで小さな日本語モデルを DPO 学習し、良くなった証拠と一緒に持ち出します。\n"
        "Tune a small Japanese language model on your own ad data by DPO, and take it away with proof.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"adslm {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    command = _verb(verbs, "setup", setup, "環境を調べる・直す / what this machine is and has; mends it", recipe=True)
    either = command.add_mutually_exclusive_group()
    either.add_argument("--fix", action="store_true", help="足りないものだけを入れる / add what is missing, change nothing else")
    either.add_argument(
        "--as-if", metavar="NAME", default="", help="別の環境なら？ / ask for another one: colab-2026.08-gpu, apple-m2-8gb, ..."
    )
    command = _verb(
        verbs, "dataset", dataset, "データを読み、確かめ、分ける / read, check and split a file of pairs", run=True, recipe=True
    )
    command.add_argument(
        "source", nargs="?", help="JSONL / JSON / CSV / TSV / Parquet, hf:owner/name, sample, sample:N (default: sample)"
    )
    command.add_argument(
        "--strict",
        action="store_true",
        help="使えない行があれば止まる / stop at rows that cannot be used instead of counting them",
    )
    command = _verb(
        verbs,
        "train",
        train,
        "DPO で学習する（途中からも再開）/ tune by DPO; goes on from the last checkpoint",
        run=True,
        recipe=True,
    )
    command.add_argument("--fresh", action="store_true", help="終わっていても学習し直す / train again even if done")
    _verb(verbs, "evaluate", evaluate, "学習前後を比べる / compare before and after on held-out briefs", run=True)
    command = _verb(verbs, "export", export, "持ち出す / adapter, merged model, card and checksums", run=True)
    command.add_argument("--kind", choices=("folder", "zip", "drive"), default="folder", help="形 / form (default: folder)")
    command.add_argument("--target", help="置き場所（上書きしません）/ where to (never overwrites)")
    command.add_argument("--no-merged", action="store_true", help="アダプターだけ / the adapter alone, without the merged model")
    command = _verb(verbs, "chat", chat, "書かせてみる / let a run or an export write", run=True)
    command.add_argument(
        "--export", metavar="FOLDER", help="実行の代わりに書き出したフォルダーを使う / answer from an export instead of a run"
    )
    command.add_argument("--prompt", help="依頼文。なければ対話 / the brief; without it a dialogue on the terminal")
    command.add_argument("--before", action="store_true", help="学習前の答えも出す / also what the base model answers")
    command.add_argument("--n", type=int, default=1, help="何通り書くか / how many texts (default: 1)")
    command.add_argument("--temperature", type=float, default=0.8, help="0 で毎回同じ / 0 is greedy (default: 0.8)")
    command.add_argument("--seed", type=int, default=42, help="同じ種なら同じ文 / the same seed gives the same texts")
    command = _verb(verbs, "run", run_all, "ノートブックを順に全部 / all five notebooks in order, headless", run=True)
    command.add_argument("--data", default="", help="adslm dataset の source と同じ / as for adslm dataset")
    command.add_argument("--preset", default="", help=", ".join(preset_names()))
    command.add_argument("--model", default="", help="モデルの名前かフォルダー / hub id or folder, tried first")
    return parser


def _verb(
    verbs: Any, name: str, function: Callable, text: str, run: bool = False, recipe: bool = False
) -> argparse.ArgumentParser:
    command = verbs.add_parser(name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    command.set_defaults(verb=function)
    command.add_argument("--json", action="store_true", help="機械向けの結果 / machine-readable result on standard output")
    if run:
        command.add_argument("--run", default="quickstart", help="実行の名前 / name of the run folder")
    if recipe:
        command.add_argument("--preset", choices=preset_names(), help="プリセット / preset (default: the run's own, else tiny)")
        command.add_argument("--model", help="モデルの名前かフォルダー / hub id or folder, tried before the preset's")
        command.add_argument(
            "--set", action="append", default=[], metavar="FIELD=VALUE", help="レシピの上書き / override, e.g. --set beta=0.3"
        )
    return command


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
        print("\n".join(_spoken(said[-1])))
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
    path = Path(name).expanduser()
    return str(path.resolve()) if name and path.exists() else name


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


if __name__ == "__main__":
    raise SystemExit(main())
