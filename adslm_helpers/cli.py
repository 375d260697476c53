"""`adslm`: the road from the command line, one verb per notebook. Heavy libraries are loaded by the verb that needs them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

from . import __version__, verbs
from .errors import AdslmError
from .foreign_text import harmless
from .recipe import preset_names

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
        print(harmless(json.dumps(value, ensure_ascii=False, indent=2) if arguments.json else "\n".join(lines)))
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
    kinds = parser.add_subparsers(required=True, metavar="VERB")
    command = _verb(kinds, "setup", verbs.setup, "環境を調べる・直す / what this machine is and has; mends it", recipe=True)
    either = command.add_mutually_exclusive_group()
    either.add_argument("--fix", action="store_true", help="足りないものだけを入れる / add what is missing, change nothing else")
    either.add_argument(
        "--as-if", metavar="NAME", default="", help="別の環境なら？ / ask for another one: colab-2026.08-gpu, apple-m2-8gb, ..."
    )
    command = _verb(
        kinds,
        "dataset",
        verbs.dataset,
        "データを読み、確かめ、分ける / read, check and split a file of pairs",
        run=True,
        recipe=True,
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
        kinds,
        "train",
        verbs.train,
        "DPO で学習する（途中からも再開）/ tune by DPO; goes on from the last checkpoint",
        run=True,
        recipe=True,
    )
    command.add_argument("--fresh", action="store_true", help="終わっていても学習し直す / train again even if done")
    _verb(kinds, "evaluate", verbs.evaluate, "学習前後を比べる / compare before and after on held-out briefs", run=True)
    command = _verb(kinds, "export", verbs.export, "持ち出す / adapter, merged model, card and checksums", run=True)
    command.add_argument("--kind", choices=("folder", "zip", "drive"), default="folder", help="形 / form (default: folder)")
    command.add_argument("--target", help="置き場所（上書きしません）/ where to (never overwrites)")
    command.add_argument("--no-merged", action="store_true", help="アダプターだけ / the adapter alone, without the merged model")
    command = _verb(kinds, "chat", verbs.chat, "書かせてみる / let a run or an export write", run=True)
    command.add_argument(
        "--export", metavar="FOLDER", help="実行の代わりに書き出したフォルダーを使う / answer from an export instead of a run"
    )
    command.add_argument("--prompt", help="依頼文。なければ対話 / the brief; without it a dialogue on the terminal")
    command.add_argument("--before", action="store_true", help="学習前の答えも出す / also what the base model answers")
    command.add_argument("--n", type=int, default=1, help="何通り書くか / how many texts (default: 1)")
    command.add_argument("--temperature", type=float, default=0.8, help="0 で毎回同じ / 0 is greedy (default: 0.8)")
    command.add_argument("--seed", type=int, default=42, help="同じ種なら同じ文 / the same seed gives the same texts")
    command = _verb(kinds, "run", verbs.run_all, "ノートブックを順に全部 / all five notebooks in order, headless", run=True)
    command.add_argument("--data", default="", help="adslm dataset の source と同じ / as for adslm dataset")
    command.add_argument("--preset", default="", help=", ".join(preset_names()))
    command.add_argument("--model", default="", help="モデルの名前かフォルダー / hub id or folder, tried first")
    return parser


def _verb(
    kinds: Any, name: str, function: Callable, text: str, run: bool = False, recipe: bool = False
) -> argparse.ArgumentParser:
    command = kinds.add_parser(name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
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


if __name__ == "__main__":
    raise SystemExit(main())
