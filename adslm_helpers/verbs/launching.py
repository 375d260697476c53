"""`adslm launch`, and what `adslm train` does where GPU_NODES is set."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from ..errors import TrainingError
from ..training.launch.commands import plan_launch
from ..training.launch.start import VARIABLE, asked_for, run_launch
from .recipes import say


def launch(arguments: argparse.Namespace) -> tuple[Any, list[str], int]:
    """`adslm launch`: the exit status of the training is its own."""
    spec = arguments.gpus or os.environ.get(VARIABLE, "")
    passed = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if os.environ.get("RANK"):
        raise TrainingError(
            "すでにランチャーの中で動いています（RANK があります）。→ adslm train を直接書いてください。",
            "This already runs inside a launcher (RANK is set). -> Write adslm train there.",
        )
    planned = plan_launch(spec, passed, arguments.launcher, arguments.port)
    if arguments.print:
        return planned.to_dict(), planned.lines, 0
    code = run_launch(planned, say, sys.stderr if arguments.json else None)  # with --json, standard output is ours
    return {**planned.to_dict(), "exit_code": code}, [], code


def launched(argv: Sequence[str]) -> None:
    """Where GPU_NODES asks for it: runs `adslm ARGV` in one process for each GPU and ends with its exit status; else does nothing.

    Raises TrainingError, with what to run where, when GPU_NODES names other machines: nothing can be started there from here.
    """
    spec = asked_for(os.environ)
    if not spec:
        return
    planned = plan_launch(spec, argv)
    if planned.here:
        raise SystemExit(run_launch(planned, say))
    shown = "\n".join(planned.lines)
    raise TrainingError(
        f"{VARIABLE} のマシンへは、ここからは起動できません。何も学習していません。→ 次のコマンドを各マシンで実行してください。",
        f"The machines of {VARIABLE} cannot be started from here; nothing was trained. -> Run on each of them:\n{shown}",
    )
