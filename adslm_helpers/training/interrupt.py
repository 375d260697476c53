"""Ctrl-C, or a kernel's interrupt: the step is finished and a checkpoint saved; a second one stops at once."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import Interrupted
from .checkpoints import last_valid, step_of
from .ranks import any_rank, is_echo

_log = logging.getLogger(__name__)


class Interruption:
    """Takes the first Ctrl-C while it listens and remembers it."""

    def __init__(self) -> None:
        self.asked = False
        self._since: float | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C is ours inside the block; not in a thread, where Python has no say in it, nor where the user ignores it (nohup)."""
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
            yield
            return
        signal.signal(signal.SIGINT, self._take)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _take(self, *_: Any) -> None:
        if self.asked:
            if self._since is not None and is_echo(time.monotonic() - self._since):
                return
            raise KeyboardInterrupt
        self.asked, self._since = True, time.monotonic()
        _log.warning(
            "中断します。このステップが終わったら保存します（すぐに止めるには、もう一度中断してください）。\n"
            "Stopping: this step is finished and saved first (interrupt once more to stop at once)."
        )

    def heard(self) -> bool:
        """Whether any process of the training was asked to stop; all of them have to ask this at the same place."""
        self.asked = any_rank(self.asked)
        return self.asked

    def callback(self) -> Any:
        """A `transformers.TrainerCallback` that logs, saves and ends the training at the first step boundary after a Ctrl-C.

        An evaluation is finished before it: it stands at such a boundary, and its numbers belong to the checkpoint.
        """
        from transformers import TrainerCallback

        interruption = self

        class StopWhenAsked(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if interruption.heard():
                    control.should_log = control.should_save = control.should_training_stop = True

            def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if interruption.heard():
                    control.should_save = control.should_training_stop = True

        return StopWhenAsked()


@contextmanager
def told_how_to_go_on(training: Path) -> Iterator[None]:
    """A KeyboardInterrupt as an `Interrupted` that says what is kept and how to go on."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise interrupted(training) from None


def interrupted(training: Path) -> Interrupted:
    """What to tell a user who stopped the training of this folder."""
    kept = last_valid(training)
    if kept is None:
        return Interrupted(
            "学習を中断しました。チェックポイントはまだありません。→ 同じセル（同じコマンド）をもう一度実行すると、最初から始まります。",
            "The training was interrupted before its first checkpoint. -> The same cell (the same command) starts it again.",
        )
    return Interrupted(
        f"学習を中断しました。ステップ {step_of(kept)} まで保存してあります（{kept}）。"
        "→ 同じセル（同じコマンド）をもう一度実行すると、そこから続きます。",
        f"The training was interrupted; it is saved up to step {step_of(kept)} ({kept}). "
        "-> The same cell (the same command) goes on from there.",
    )
