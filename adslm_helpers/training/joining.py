"""How the processes of one training find each other, and how all of them end when one does: in words, and within a bounded time."""

from __future__ import annotations

import atexit
import datetime
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import SetupError, TrainingError
from ..run_lock import Process, is_alive, this_process
from .checkpoints import last_valid, step_of
from .ranks import Ranks, first_decides, this_rank

# After so many seconds (torchrun looks every 0.1 or 5, by its age) another process speaks where the first has not, and one that hangs in a collective ends without asking.
_GRACE = 7.0
# The longest work that the first process does alone while the others wait: a download, or fetching a run from its mirror.
_MINUTES = 30.0
_LOST = re.compile(
    r"connection (closed|reset)|connection was (closed|likely closed)|broken pipe|socket|gloo|nccl|timed? ?out|TCPStore|peer",
    re.IGNORECASE,
)


class _Ended(BaseException):
    """The launcher told this process to end. No Exception: what goes on after errors must not go on after this."""


@contextmanager
def joined(training: Path) -> Iterator[Ranks]:
    """This process with the others of its training, for the block; nothing is done where there is one process.

    The others print nothing on standard output. Whatever ends one process ends all: torchrun ends the others, and a collective that
    lost a partner fails. The first then raises TrainingError, which says what `training` holds and how to go on.
    """
    ranks = this_rank()
    if ranks.count == 1:
        yield ranks
        return
    _start_group(ranks)
    end = _End(ranks, first_decides(this_process), training)
    if not ranks.first:
        _be_quiet()
    end.listen()
    try:
        yield ranks
    except BaseException as error:
        last = end.last_words(error)
        # A group that lost a partner is not taken down: that may wait for it, for ever with NCCL.
        atexit.register(_exit_now, getattr(last, "exit_code", 1))
        if last is error:
            raise
        raise last from None
    end.restore()
    import torch.distributed as distributed

    distributed.destroy_process_group()


def _start_group(ranks: Ranks) -> None:
    import torch
    import torch.distributed as distributed

    if distributed.is_initialized():
        return
    cuda = torch.cuda.is_available()
    if cuda and ranks.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(ranks.local_rank)  # 'cuda' is this one from here on
    minutes = _MINUTES
    with suppress(ValueError):
        minutes = max(1.0, float(os.environ.get("ADSLM_RANKS_MINUTES") or _MINUTES))
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=datetime.timedelta(minutes=minutes))
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SetupError(
            f"{ranks.count} プロセスがつながりません（{reason}）。→ torchrun で起動し直すか、MASTER_ADDR と MASTER_PORT を確かめてください。",
            f"The {ranks.count} processes do not find each other ({reason}). -> Start again with torchrun, or check MASTER_ADDR and MASTER_PORT.",
        ) from error


def _be_quiet() -> None:
    """What every process would say alike is said by the first; errors stay."""
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    logging.getLogger(__name__.partition(".")[0]).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()


class _End:
    """How this process ends when another one has, or the launcher says so.

    Launchers send SIGTERM to the processes that are left when one failed. Python raises nothing while a collective waits in C++ for a
    process that is gone; a thread then says the words and ends the process.
    """

    def __init__(self, ranks: Ranks, first: Process, training: Path):
        self.ranks, self.first, self.training = ranks, first, training
        self.before: Any = None

    def listen(self) -> None:
        """Takes SIGTERM from here on, where Python lets us: in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        reading, writing = socket.socketpair()
        writing.setblocking(False)
        self.before = signal.signal(signal.SIGTERM, self._take)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reading, writing), name="adslm-ranks", daemon=True).start()

    def ignore(self) -> None:
        """The launcher's SIGTERM says nothing new any more."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def restore(self) -> None:
        """All went well: SIGTERM means again what it meant before."""
        if self.before is not None:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, self.before)

    def last_words(self, error: BaseException) -> BaseException:
        """The error to end with: that of the first process; the others speak only where it does not."""
        if self.ranks.first:
            self.ignore()  # the words are not out yet
        lost = isinstance(error, _Ended) or (isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None)
        if self.ranks.first:
            return _other_ended(self.training) if lost else error
        if isinstance(error, KeyboardInterrupt):
            return SystemExit(1)
        time.sleep(_GRACE)  # meanwhile torchrun ends this process, where the first has failed as well
        return error if not lost else _other_ended(self.training) if self._speaks() else SystemExit(1)

    def _speaks(self) -> bool:
        """Whether it is for this process to say what happened: for the second where the first is gone."""
        return self.ranks.first or (self.ranks.rank == 1 and is_alive(self.first) is False)

    def _take(self, *_: Any) -> None:
        self.ignore()
        if self.ranks.first:
            raise _Ended
        self._leave()

    def _watch(self, reading: socket.socket, writing: socket.socket) -> None:
        """`writing` is held here: closed, it would take its number with it."""
        while received := reading.recv(1):
            if received[0] == signal.SIGTERM:
                time.sleep(_GRACE)
                self._leave()

    def _leave(self) -> None:
        if self._speaks():
            with suppress(Exception):
                print(_other_ended(self.training), file=sys.stderr, flush=True)
        os._exit(1)


def _exit_now(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _other_ended(training: Path) -> TrainingError:
    kept = None
    with suppress(OSError):
        kept = last_valid(training)
    ja = f"ステップ {step_of(kept)} まで保存してあります（{kept}）" if kept else "チェックポイントはまだありません"
    en = f"It is saved up to step {step_of(kept)} ({kept})" if kept else "There is no checkpoint yet"
    return TrainingError(
        f"この学習の別のプロセスが終わったか、応答しなくなったので、全体を止めました（強制終了、停止、メモリ不足、またはそのプロセスの失敗。理由があれば上に出ています）。{ja}。"
        "→ 原因を除いて同じコマンドをもう一度実行すると、続きから始まります。プロセスの数を変えても続けられます。",
        "Another process of this training ended or no longer answers, so all of it stopped (killed, hanging, out of memory, or it failed: its own words stand above, if any). "
        f"{en}. -> The same command goes on from there, also with another number of processes.",
    )
