"""A copy of the run on another folder (Google Drive), kept up to date by wall clock while it trains, in the background.

    with mirroring(run, say=print) as mirror:
        trainer.add_callback(mirror_callback(mirror))

Nothing that the other folder does reaches the training: full, gone or silent, it is said once, tried again later, and noted in
training/mirror.json. The folder is ADSLM_MIRROR ('drive' or a path; 'off'), on Colab by itself a Drive that is mounted.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..environment.colab import on_colab
from ..environment.drive import drive_folder, mounted_drive
from ..run import Run, now, write_json
from .background import Pulse, Work, bounded
from .mirror_state import MirrorStatus, read_mirror_status, trouble, unfinished
from .mirrored import RESULT, STATE, Known, copy_run, is_itself

if TYPE_CHECKING:
    from transformers import TrainerCallback

_log = logging.getLogger(__name__)
FIRST_RETRY = 15.0
SILENCE = 90.0
"""Seconds without any sign of life after which a folder is said not to answer."""
_PATIENCE = 15.0
"""Seconds that a run which ends waits for a folder that does not answer."""
_LONG = 5.0
"""Seconds after which waiting is explained."""
# One copy at a time to a place: a copy that hung may wake up when the next training of the same kernel has begun.
_at_work: dict[str, Work] = {}


def mirror_place(folder: str | Path | None = None) -> Callable[[], Path] | None:
    """How to find the folder for copies; None where there is none. `folder`: a path, 'drive' or 'off', else ADSLM_MIRROR.

    On Colab a Drive that is mounted is taken without being asked for; nothing is ever mounted. The function raises SetupError, OSError.
    """
    wanted = str(folder or os.environ.get("ADSLM_MIRROR") or "")
    if wanted.lower() in ("off", "0", "no", "none") or os.environ.get("RANK", "0") != "0":  # one process of several copies
        return None
    if wanted and wanted != "drive":
        return lambda: Path(wanted).expanduser()
    if wanted == "drive" or _drive_is_mounted():
        return lambda: drive_folder(mount=False)
    return None


def _drive_is_mounted() -> bool:
    if not on_colab():
        return False
    try:
        return bounded(lambda pulse: mounted_drive(), silence=20) is not None
    except TimeoutError:
        return True  # something is there, or the question would have been answered


def mirror_minutes() -> float:
    """Minutes between two copies: ADSLM_MIRROR_MINUTES, else 10."""
    with suppress(ValueError):
        return max(0.1, float(os.environ.get("ADSLM_MIRROR_MINUTES") or 10))
    return 10.0


@contextmanager
def mirroring(run: Run, folder: str | Path | None = None, say: Callable[[str], None] | None = None) -> Iterator[Mirror]:
    """Copies `run` in the background while the block runs, and once more when it ends, by whatever; waits for that, but not for ever."""
    mirror = Mirror(run, mirror_place(folder), say=say)
    try:
        yield mirror
    except KeyboardInterrupt:
        mirror.close(seconds=60)
        raise
    finally:
        mirror.close()


def mirror_callback(mirror: Mirror, flush: bool = False) -> TrainerCallback:
    """Tells `mirror` when training starts, saves and ends. `flush`: waits at the end, for a trainer used outside of `mirroring`."""
    from transformers import TrainerCallback

    class MirrorCallback(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                mirror.start(state.global_step)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                mirror.mark()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero and flush:
                mirror.flush()

    return MirrorCallback()


class _Itself(Exception):
    """The run lies on the mirror already."""


class Mirror:
    """The background copying of one run. `status` says how it stands; no method raises what the other folder does."""

    def __init__(
        self,
        run: Run,
        place: Callable[[], Path] | None,
        minutes: float | None = None,
        say: Callable[[str], None] | None = None,
        silence: float = SILENCE,
    ):
        self.run, self.place, self.silence = run, place, silence
        self.seconds = 60 * (minutes or mirror_minutes())
        self.status = MirrorStatus(state="off" if place is None else "waiting")
        self.known, self.first_step = Known(), 0
        self._say = say or (lambda line: _log.warning("%s", line))
        self._trouble: str | None = None  # the kind that was said last
        self._change = threading.Condition()
        self._asked = self._served = self._marked = 0
        self._thread: threading.Thread | None = None
        self._ended = False

    def start(self, first_step: int = 0) -> None:
        """Begins to copy, at once and then every few minutes. Again: a trainer was built anew, at `first_step`."""
        if self.place is None or self._thread is not None:
            return
        self.first_step = first_step
        self._thread = threading.Thread(target=self._keep, name="adslm-mirror", daemon=True)
        self._thread.start()
        self.ask()

    def mark(self) -> None:
        """A checkpoint was saved: it is copied when its time has come."""
        if self.place is not None:
            self._set(pending=self.status.pending + 1)

    def ask(self) -> int:
        """Asks for a copy now, without waiting; the number of this wish."""
        with self._change:
            self._asked += 1
            self._change.notify_all()
            return self._asked

    def flush(self, seconds: float = 300) -> bool:
        """Copies now and waits, for `seconds` at most and not for a folder that is silent. Whether all is over there."""
        if self.place is None or self._ended:
            return self.status.state == "good"
        self.start()
        wish, began, told = self.ask(), time.monotonic(), False
        with self._change:
            while self._served < wish and (spent := time.monotonic() - began) < seconds:
                if self.status.state == "silent" and spent > min(self.silence, _PATIENCE):
                    break
                if not told and spent > _LONG:
                    told = True
                    self._tell(
                        f"最後の控えを写し終わるのを待っています（最長 {seconds:.0f} 秒）。中断しても手元の学習は無事です。",
                        f"Waiting for the last copy (at most {seconds:.0f} s). The training itself is safe if you interrupt.",
                    )
                self._change.wait(min(seconds - spent, 0.5))
            done = self._served >= wish and self.status.state in ("good", "off")
        if not done:
            self._tell(*unfinished(self.status, self.run.path))
        return done

    def close(self, seconds: float = 300) -> None:
        """A last copy, then no more. One that is still under way goes on by itself, as long as the process lives.

        A training that was done before is copied where its last copy did not get through.
        """
        if self._ended or (self._thread is None and not self._left_over()):
            return
        try:
            if self.flush(seconds) and on_colab():
                self._tell(
                    "控えは揃いました。Colab を閉じる前に、Drive への送信が終わるまで数分待つか、drive.flush_and_unmount() を実行してください。",
                    "The copy is complete. Before you close Colab, wait some minutes for the upload, or run drive.flush_and_unmount().",
                )
        finally:
            with self._change:
                self._ended = True
                self._change.notify_all()

    def _keep(self) -> None:
        """The thread that decides when; it never touches the other folder itself, so it can always answer."""
        due, failures = 0.0, 0
        while True:
            with self._change:
                while not self._ended and self._asked == self._served and time.monotonic() < due:
                    self._change.wait(min(60.0, max(0.01, due - time.monotonic())))
                if self._ended and (failures or self._asked == self._served):
                    return
                wish = self._asked
            failures = 0 if self.attempt() else failures + 1
            retry = FIRST_RETRY * 2 ** min(failures - 1, 20)
            due = time.monotonic() + (min(self.seconds, retry) if failures else self.seconds)
            with self._change:
                self._served = wish
                self._change.notify_all()

    def attempt(self) -> bool:
        """One copy, waited for however long it takes; whether it is complete. What went wrong is in `status`, and was said if new."""
        if self.status.state in ("good", "waiting"):
            self._set(state="copying")
        try:
            if earlier := _at_work.get(str(self.run.path)):
                self._wait(earlier)
            work = _at_work[str(self.run.path)] = Work(self._copy)
            self._wait(work)
            step = work.value()
        except _Itself:
            self._set(state="off")
        except Exception as error:  # whatever a drive, its client or our own mistake raises: training goes on
            if isinstance(error, FileNotFoundError) and str(error.filename).startswith(str(self.run.path)):
                self._set(state=self._trouble or "waiting")  # the run itself moved on while it was read
            else:
                self._failed(error)
            return False
        else:
            self._succeeded(step)
        return True

    def _wait(self, work: Work) -> None:
        while not work.done(min(1.0, self.silence)):
            silent = work.pulse.silent() > self.silence
            if silent and self.status.state != "silent":
                self._failed(TimeoutError(f"{self.silence:g} s"))
            elif not silent and self.status.state == "silent":
                self._set(state="copying")

    def _failed(self, error: Exception) -> None:
        kind, ja, en = trouble(error, self.status.where, self.run.path)
        self._set(state=kind, failures=self.status.failures + 1, ja=ja, en=en)
        if kind != self._trouble:
            self._trouble = kind
            self._tell(ja, en)

    def _copy(self, pulse: Pulse) -> int | None:
        root = self.place()
        pulse()
        self._set(where=str(root))
        self._marked = self.status.pending
        if is_itself(self.run, root):
            raise _Itself
        return copy_run(self.run, root, self.known, self.first_step, pulse)

    def _succeeded(self, step: int | None) -> None:
        first, pending = self.status.time is None, max(0, self.status.pending - self._marked)
        self._set(state="good", step=step, time=now(), pending=pending, failures=0, ja=None, en=None)
        where = self.status.where
        if self.known.set_aside:
            name, self.known.set_aside = self.known.set_aside, None
            self._tell(
                f"控えの場所には、別の学習（別のレシピやデータ、または先に進んだもの）がありました。消さずに {name} という名前で残しました。",
                f"The place of the copy held another training (other recipe or data, or further on). It is kept there as {name}.",
            )
        if first:
            every = f"{self.seconds / 60:g}"
            self._tell(
                f"学習の控えを {where}/adslm/runs/{self.run.name} に写しています（{every} 分ごと。ADSLM_MIRROR=off で止まります）。",
                f"A copy of this run is kept in {where}/adslm/runs/{self.run.name} (every {every} min; ADSLM_MIRROR=off stops that).",
            )
        elif self._trouble:
            self._tell(
                f"控えの場所 {where} がまた使えるようになり、すべて写しました（ステップ {step}）。",
                f"{where} can be used again; everything is copied (step {step}).",
            )
        self._trouble = None

    def _left_over(self) -> bool:
        last = read_mirror_status(self.run.training)
        trained = (self.run.training / RESULT).is_file()
        return self.place is not None and trained and (last is None or last.state != "good")

    def _set(self, **values: Any) -> None:
        with self._change:
            self.status = replace(self.status, **values)
            with suppress(OSError):  # the run's own disk is somebody else's worry
                if self.run.training.is_dir():
                    write_json(self.run.training / STATE, self.status.to_dict())

    def _tell(self, ja: str, en: str) -> None:
        with suppress(Exception):  # a front end that went away
            self._say(f"{ja}\n{en}")
