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
from .preference_text import PREFERENCE_TEXT
from .recipe import preset_names
from .recipe_rules import ENGINES, METHODS

EPILOG = """\
手順 / the road:
  adslm setup                                   何があるか / what is there
  adslm dataset my_pairs.jsonl --audit          データを調べるだけ / what is wrong with the data, writing nothing
  adslm dataset my_pairs.jsonl --run spring     読む・確かめる・分ける / read, check, split
  adslm dataset --from-log log.csv --run spring 広告ログから対を作る / make the pairs from an ad log
  adslm train --run spring                      DPO で学習 / tune by DPO
  adslm preference-prompt --run spring          教師が読むベクトル / vectors for a preference-guided teacher
  adslm launch --gpus localhost:0,1 -- train --run spring  複数の GPU で / on several GPUs
  adslm monitor spring                          別の画面で見る / watch it from another terminal
  adslm analyze spring                          何が起きたか / what happened, and why
  adslm check runs/spring/training/adapter      試し書き / a few texts from a checkpoint, on the CPU
  adslm evaluate --run spring                   前と後を比べる / before against after
  adslm rate --run spring --rater mori          人が見分けて選ぶ / the team chooses blindly
  adslm export --run spring                     持ち出す / take it away
  adslm chat --run spring --prompt "..."        書かせてみる / let it write
  adslm run --run quickstart                    ノートブックを順に全部 / all notebooks in order

結果は runs/NAME/ に入ります。どのコマンドも --json で機械向けの結果を出します。
Everything lands in runs/NAME/. Every verb takes --json for machine-readable results.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns 0, 1 for an audit that found errors, 2 for a user's mistake (said on stderr in Japanese and English), 130 when interrupted."""
    arguments = build_parser().parse_args(argv)
    arguments.argv = list(sys.argv[1:] if argv is None else argv)  # for a training that starts itself again in several processes
    try:
        # With --json, standard output holds one JSON value and nothing else; what the libraries print goes to stderr.
        with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
            value, lines, *code = arguments.verb(arguments)
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
    return code[0] if code else 0


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
    _dataset_options(command)
    command = _verb(
        kinds,
        "train",
        verbs.train,
        "DPO で学習する（途中からも再開）/ tune by DPO; goes on from the last checkpoint",
        run=True,
        recipe=True,
    )
    either = command.add_mutually_exclusive_group()
    either.add_argument("--fresh", action="store_true", help="終わっていても学習し直す / train again even if done")
    either.add_argument(
        "--resume", metavar="RUN", default="", help="途中の学習を、そのレシピのまま続ける / go on with what RUN was started with"
    )
    _method_options(command)
    command.add_argument("--deepspeed", metavar="FILE", help="DeepSpeed の設定（zero2 は付属）/ DeepSpeed's file; zero2 is ours")
    command = _verb(
        kinds,
        "preference-prompt",
        verbs.preference_prompt,
        "教師が読むベクトルを学習する / train the vectors that a preference-guided teacher reads",
        run=True,
        recipe=True,
    )
    _prompt_options(command)
    command = _verb(kinds, "launch", verbs.launch, "複数の GPU・マシンで学習する / train on several GPUs or machines")
    command.add_argument(
        "--gpus", metavar="SPEC", default="", help="localhost:0,1 | node1:0,1@node2:0,1 | cpu:2 (default: $GPU_NODES)"
    )
    command.add_argument(
        "--with",
        dest="launcher",
        choices=("torchrun", "accelerate", "deepspeed"),
        default="torchrun",
        help="ランチャー / launcher",
    )
    command.add_argument("--port", type=int, default=29500, help="最初のマシンのポート / port on the first machine")
    command.add_argument("--print", action="store_true", help="コマンドを見せるだけ / only show what would run where")
    command.add_argument("command", nargs=argparse.REMAINDER, metavar="-- train ...", help="adslm train の引数 / what to run")
    command = _verb(kinds, "monitor", verbs.monitor, "学習の様子を別の画面で見る / watch a training from another terminal")
    command.add_argument("name", nargs="?", default="quickstart", help="実行の名前かフォルダー / name or folder of a run")
    command.add_argument("--once", action="store_true", help="一度だけ表示する / look once instead of following")
    command = _verb(kinds, "analyze", verbs.analyze, "学習の記録を読み解く / what a finished or broken training's logs say")
    command.add_argument(
        "where",
        help="実行の名前、フォルダー、trainer_state.json、TensorBoard など / run, folder, trainer_state.json, TensorBoard events",
    )
    command = _verb(kinds, "check", verbs.check, "チェックポイントを CPU で試す / try a checkpoint or an export on the CPU")
    command.add_argument("where", help="チェックポイント、アダプター、書き出し / checkpoint, adapter, export or model folder")
    command.add_argument("--prompt", action="append", default=[], help="依頼文（何度でも）/ a brief; may be repeated")
    command.add_argument("--base", help="ベースのモデル / base model, where the files do not name it")
    command.add_argument("--n", type=int, default=4, help="依頼文の数 / how many briefs (default: 4)")
    command.add_argument("--memory", type=float, metavar="GIB", help="使ってよいメモリ / memory that it may take")
    command = _verb(kinds, "evaluate", verbs.evaluate, "学習前後を比べる / compare before and after on held-out briefs", run=True)
    command.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="RUN_OR_FOLDER",
        help="ほかの実行・アダプター・チェックポイントも比べる（何度でも）/ compare with another run, adapter or checkpoint too",
    )
    command = _verb(
        kinds, "rate", verbs.rate, "前後の文を伏せて選ぶ / blind A/B rating by the team, without a notebook", run=True
    )
    command.add_argument("--rater", default="team", help="選ぶ人の名前 / who rates")
    command.add_argument("--n", type=int, default=50, help="いくつ選ぶか / how many comparisons (default: 50)")
    command.add_argument("--csv", metavar="FILE", default="", help="選ぶための表を書き出す / write the sheet to fill in")
    command.add_argument("--import", dest="filled", metavar="FILE", default="", help="記入した表を読む / read the filled sheet")
    command.add_argument(
        "--pairs", metavar="NEW_RUN", default="", help="投票を次の学習用の対にする / make the next round's pairs of the votes"
    )
    command.add_argument("--only-rated", action="store_true", help="前の学習の対を加えない / without the pairs trained on so far")
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
    command.add_argument(
        "--read-as", choices=("pairs", "log", "votes"), default="pairs", help="データの種類 / what kind of data (default: pairs)"
    )
    command.add_argument("--preset", default="", help=", ".join(preset_names()))
    command.add_argument("--model", default="", help="モデルの名前かフォルダー / hub id or folder, tried first")
    return parser


def _method_options(command: argparse.ArgumentParser) -> None:
    """Shorter spellings of --set for what a training is; None where not given."""
    group = command.add_argument_group("どう学習するか / how it is trained (short for --set)")
    group.add_argument("--engine", choices=ENGINES, help="fast: 独自の速い計算 / our own; trl: TRL の DPOTrainer")
    group.add_argument(
        "--method", choices=METHODS, help="preference_guided: 指示つきの教師に寄せる / with a teacher that sees an instruction"
    )
    group.add_argument("--preference-text", metavar="TEXT", help="教師が読む指示 / the instruction that the teacher sees")
    group.add_argument(
        "--prompt-embeddings", metavar="FILE", help="指示の代わりの学習済みベクトル / learned vectors in its place"
    )


def _prompt_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--preference-text",
        dest="start",
        metavar="TEXT",
        default=PREFERENCE_TEXT,
        help="出発点の言葉 / words that the vectors start from",
    )
    command.add_argument(
        "--kind", choices=("prompt_tuning", "p_tuning"), default="prompt_tuning", help="PEFT の方法 / PEFT's method"
    )
    command.add_argument(
        "--virtual-tokens", type=int, default=16, metavar="N", help="いくつ。0: 言葉と同じ / how many; 0: as the words have"
    )
    command.add_argument("--learning-rate", type=float, metavar="X", help="既定は方法による / by method unless given")
    command.add_argument("--epochs", type=float, metavar="X", help="既定はレシピの値 / the recipe's unless given")


def _dataset_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source",
        nargs="?",
        help="JSONL / JSON / CSV / TSV / Parquet / xlsx (.gz), hf:owner/name, sample, sample:N, adtech (default: sample)",
    )
    either = command.add_mutually_exclusive_group()
    either.add_argument(
        "--from-log", metavar="FILE", default="", help="広告ログ（CSV / TSV / xlsx）から対を作る / make pairs of an ad log"
    )
    either.add_argument("--votes", metavar="FILE", default="", help="人の投票から対を作る / make pairs of human votes")
    command.add_argument("--audit", action="store_true", help="調べて言うだけ。何も書かない / say what is wrong; write nothing")
    command.add_argument("--repair", action="store_true", help="機械的に直せるものを直す / mend what can be mended mechanically")
    command.add_argument(
        "--map",
        action="extend",
        nargs="+",
        default=[],
        metavar="ROLE=COLUMN",
        help="列の読み方を直す / correct columns: --map chosen=採用案 rejected=没案",
    )
    command.add_argument(
        "--strict",
        action="store_true",
        help="使えない行があれば止まる / stop at rows that cannot be used instead of counting them",
    )
    command.add_argument(
        "--every-pair", action="store_true", help="複数の応答から、最良対最悪だけでなく全部の対を / of ranked answers every pair"
    )
    log = command.add_argument_group("広告ログと投票 / ad logs and votes")
    log.add_argument(
        "--period", choices=("all", "month", "week", "day"), default="month", help="この期間の中で比べる / compare within"
    )
    log.add_argument("--p-win", type=float, default=0.95, help="これ以上確かな対だけ / keep pairs at least this sure")
    log.add_argument("--template", default="", help="依頼文の形 / the brief's wording: '{brief}の{channel}を書いてください。'")
    log.add_argument(
        "--platform", choices=("google", "yahoo", "line", "meta"), help="媒体の規則も見る / also this platform's ad rules"
    )
    log.add_argument("--domain", help="業種の規則も見る / also this domain's ad rules: medical, cosmetics, food, finance, ...")
    log.add_argument("--margin", type=int, default=5, help="投票の差 / votes: at least this margin")


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
