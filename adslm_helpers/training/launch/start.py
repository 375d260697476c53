"""Starts what `plan_launch` planned, hands its output and its end through, and ends it when it is asked to end."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ...errors import TrainingError, writing_to
from ...run import write_text
from .commands import EXPECTED, Launch, own_python

VARIABLE = "GPU_NODES"
_PATIENCE_S = 60
"""After a Ctrl-C: time to finish a step and to save it. torchrun itself gives its processes 30 seconds."""


def asked_for(environ: Mapping[str, str]) -> str:
    """What GPU_NODES asks for, '' where it is unset or where this process is already one of a launcher's."""
    return "" if environ.get("RANK") or environ.get("LOCAL_RANK") else environ.get(VARIABLE, "").strip()


def check_started(environ: Mapping[str, str]) -> None:
    """Raises TrainingError in a process that was started with fewer others than the launch asked for: it would train on alone, in silence."""
    expected, there = environ.get(EXPECTED), environ.get("WORLD_SIZE") or "1"
    if expected and expected != there:
        raise TrainingError(
            f"{expected} プロセスのはずが {there} プロセスで起動されました。→ --with torchrun を使うか、環境変数 {EXPECTED} を消してください。",
            f"{expected} processes were asked for and {there} started. -> Use --with torchrun, or unset {EXPECTED}.",
        )


def run_launch(launch: Launch, say: Callable[[str], None] = print, output: Any = None) -> int:
    """Runs the launch where one command on this machine does it all, else says what to run where; returns the exit status.

    `output`: where the processes write what goes to standard output (a file object; None: to ours). A Ctrl-C, SIGTERM or hang-up reaches
    every process once, so that the training saves its step first; a second one ends them at once. Raises TrainingError where the launcher
    is not installed or its port is taken.
    """
    if launch.hostfile:
        with writing_to(launch.hostfile.parent):
            write_text(launch.hostfile, launch.hostfile_text)
    for line in launch.lines:
        say(line)
    if not launch.here:
        return 0
    _refuse_missing(launch)
    command = launch.commands[0]
    environment = {**os.environ, **command.environment, EXPECTED: str(launch.world_size)}
    environment.pop(VARIABLE, None)  # else a single process would launch itself again
    # A group of its own: a terminal's Ctrl-C would reach each process twice, from the terminal and from the launcher, and the second
    # means "at once, without saving".
    process = subprocess.Popen(own_python(command.argv), env=environment, stdout=output, start_new_session=True)
    with _handed_on(process) as stopped:
        code = process.wait()
    if stopped:
        return 130
    if code:
        say(_ended(code))
    return 128 - code if code < 0 else code


@contextmanager
def _handed_on(process: subprocess.Popen) -> Iterator[list[int]]:
    """Hands signals on while the block runs; what is left of the group afterwards is ended. Yields the signals that came."""
    came: list[int] = []

    def hand_on(number: int, _: Any) -> None:
        came.append(number)
        first = len(came) == 1
        with suppress(ProcessLookupError):
            # To the launcher alone, which passes it to its processes: each gets it once.
            process.send_signal(signal.SIGINT if first else signal.SIGTERM)
        threading.Thread(target=_end_after, args=(process, _PATIENCE_S if first else 5), daemon=True).start()

    ours = threading.current_thread() is threading.main_thread()
    numbers = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
    heard = [
        number for number in numbers if ours and signal.getsignal(number) not in (signal.SIG_IGN, None)
    ]  # nohup: it stays ignored
    before = {number: signal.signal(number, hand_on) for number in heard}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _end_group(process)


def _end_after(process: subprocess.Popen, seconds: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return
    _end_group(process)


def _end_group(process: subprocess.Popen) -> None:
    """Kills what is left of the process and of its children."""
    with suppress(ProcessLookupError, PermissionError, AttributeError):  # macOS says EPERM where only zombies are left
        os.killpg(process.pid, signal.SIGKILL)


def _refuse_missing(launch: Launch) -> None:
    package = {"accelerate": "accelerate", "deepspeed": "deepspeed"}.get(launch.launcher, "torch")
    if importlib.util.find_spec(package) is None:
        raise TrainingError(
            f"{package} がインストールされていません。→ pip install {package} を実行するか、--with torchrun を使ってください。",
            f"{package} is not installed. -> pip install {package}, or use --with torchrun.",
        )
    if launch.commands[0].argv[0] in ("accelerate", "deepspeed") and _taken(launch.port):
        raise TrainingError(
            f"ポート {launch.port} は使われています（別の学習かもしれません）。→ --port で別の番号にしてください。",
            f"Port {launch.port} is in use (by another training?). -> Choose another with --port.",
        )


def _taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _ended(code: int) -> str:
    return (
        f"プロセスの1つが終わったので、学習全体が止まりました（{code}）。理由は上にあります。→ 直して同じコマンドを実行すると、続きから再開します。\n"
        f"One process ended, and the whole training with it ({code}); the reason stands above. "
        "-> Mend it; the same command goes on from the last checkpoint."
    )
