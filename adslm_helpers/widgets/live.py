"""A live view of training: bar, time left, memory and curves in a notebook; a few plain lines everywhere else.

    train(run, recipe, callbacks=[live_view()])

What it shows may fail (a front end goes away, a font is missing); training goes on, and the view says once what failed.
"""

from __future__ import annotations

import html
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..environment.packages import hide_kernel_notice
from ..foreign_text import harmless
from ..text.width import clock_face

if TYPE_CHECKING:
    from transformers import TrainerCallback

REDRAW_SECONDS = 2.0
DRAWING_SHARE = 0.05  # a redraw costs a third of a second of the CPU that trains, so it may take at most this share of the time
BAR_SECONDS = 0.3
NINTHS = 9  # first line + one per further ninth of the run + last line: at most ten


def live_view(total_steps: int | None = None, notes: Sequence[Callable[[], str]] = ()) -> TrainerCallback:
    """A callback that shows the progress of one training run; `total_steps` overrides what the trainer plans.

    `notes`: asked for a few more words whenever the status is shown, such as how the copy of the run stands; '' for nothing to say.
    """
    hide_kernel_notice()  # importing the trainer imports bitsandbytes
    from transformers import TrainerCallback

    view = LiveView(total_steps, notes=notes)

    class LiveCallback(TrainerCallback):
        """Hands the trainer's events of the first process to the view."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                view.begin(state.global_step, state.max_steps)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                view.advance(state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                view.record({**(logs or {}), "step": state.global_step})

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                view.end(state.global_step)

        def on_notice(self, line: str) -> None:
            view.notice(line)

    callback = LiveCallback()
    callback.view = view
    return callback


def has_front_end() -> bool:
    """Whether somebody can see widgets: in a Jupyter kernel, unless a program (nbclient, nbval) runs the notebook or
    ADSLM_HEADLESS is set."""
    if os.environ.get("ADSLM_HEADLESS", "0") not in ("", "0"):
        return False
    from ..environment.colab import in_notebook

    if not in_notebook():
        return False
    from IPython import get_ipython

    # Programs that run notebooks tell the kernel that nobody can answer input(); every front end says the contrary.
    return bool(getattr(get_ipython().kernel, "_allow_stdin", True))


class LiveView:
    """What `live_view` shows, without the trainer: `begin`, then `advance` and `record` as things happen, then `end`.

    `lines` holds the plain lines; with a front end they replace the widgets at the end, so that a saved notebook stays readable.
    """

    def __init__(
        self,
        total_steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        notes: Sequence[Callable[[], str]] = (),
    ):
        self.total_steps, self.clock, self.notes = total_steps, clock, notes
        self.panel: Panel | None = None
        self.notices: list[str] = []
        self.begin(0, 0, show=False)

    def begin(self, step: int, total: int, show: bool = True) -> None:
        """Training starts at `step` (more than 0 when it resumes) of `total`; a second time when it recovered by itself."""
        if self.panel:  # of the attempt that failed
            self._on_panel("summary", lambda panel: panel.close("\n".join(self.lines)))
        self.first, self.step, self.total = step, step, self.total_steps or total
        self.history: list[dict] = []
        self.lines: list[str] = []
        self.failed: set[str] = set()
        self.panel = None
        self.last_line = (-1, -1)  # (ninth of the run, step) of the last line
        self.started = self.bar_due = self.plot_due = self.clock()
        self.ended = False
        if show and has_front_end():
            self.panel = self._try("widgets", Panel, max(1, self.total))
            if self.notices:
                self._on_panel("alarms", lambda panel: panel.warn(self.notices))

    def advance(self, step: int) -> None:
        """One optimizer step is done."""
        self.step = step
        if self.panel and self.clock() >= self.bar_due:
            self.bar_due = self.clock() + BAR_SECONDS
            self._on_panel("progress", lambda panel: panel.progress(step, self.parts()))

    def record(self, row: dict) -> None:
        """A row of metrics was logged."""
        self.step = row["step"]
        self.history.append(row)
        ninth = min(NINTHS, self.step * NINTHS // max(1, self.total))
        if "loss" in row and ninth > self.last_line[0]:
            self._line(ninth)
        if self.panel and self.clock() >= self.plot_due:
            self._draw()

    def notice(self, line: str) -> None:
        """A guard has something to say: shown at once, and kept."""
        self.notices.append(line)
        self.lines.append(line)
        if self.panel:
            self._on_panel("alarms", lambda panel: panel.warn(self.notices))
        else:
            _say(line)

    def end(self, step: int) -> None:
        """Training is over: one last line, and in a front end the lines instead of the widgets."""
        self.step, self.ended = step, True
        if self.last_line[1] != step or not self.lines:
            self._line(NINTHS)
        if self.panel:
            self._on_panel("summary", lambda panel: panel.close("\n".join(self.lines)))
            self.panel = None

    def status(self) -> str:
        """`parts` as one line."""
        return "  ".join(self.parts())

    def parts(self) -> list[str]:
        """Step, last loss, margin and accuracy, memory, the time left, and the notes."""
        parts = [f"step {self.step}/{self.total}" if self.total else f"step {self.step}"]
        names = (("loss", "loss", ".3f"), ("margin", "rewards/margins", ".2f"), ("acc", "rewards/accuracies", ".2f"))
        for name, key, form in (*names, ("eval_loss", "eval_loss", ".3f")):
            value = next((row[key] for row in reversed(self.history) if isinstance(row.get(key), (int, float))), None)
            if value is not None:
                parts.append(f"{name} {value:{form}}")
        return [*parts, *self._memory(), self._time(), *filter(None, [self._try("notes", note) for note in self.notes])]

    def _time(self) -> str:
        elapsed, done = self.clock() - self.started, self.step - self.first
        if self.ended:
            return f"所要 {clock_face(elapsed)} elapsed"
        left = elapsed / done * max(0, self.total - self.step) if done > 0 and self.total else None
        return f"残り {clock_face(left)} left"

    def _memory(self) -> list[str]:
        used = self._try("memory", _memory_in_use) or {}
        named = [
            f"{gib:.1f} GiB" if len(used) == 1 else f"{device.replace('_', ' ')} {gib:.1f} GiB" for device, gib in used.items()
        ]
        return [", ".join(named)] if named else []

    def _line(self, ninth: int) -> None:
        self.last_line = (ninth, self.step)
        self.lines.append(self.status())
        if not self.panel:
            _say(self.lines[-1])

    def _draw(self) -> None:
        began = self.clock()
        if png := self._try("curves", _curves_png, self.history):
            self._on_panel("curves", lambda panel: panel.draw(png))
        spent = self.clock() - began
        self.plot_due = self.clock() + max(REDRAW_SECONDS, spent / DRAWING_SHARE)

    def _on_panel(self, part: str, show: Callable[[Panel], None]) -> None:
        """Shows something; when the widgets fail, the lines so far are printed and those to come as well."""
        if self.panel and self._try(part, lambda: show(self.panel) or True) is None:
            self.panel = None
            for line in self.lines:
                _say(line)

    def _try(self, part: str, function: Callable, *arguments: Any) -> Any:
        """What `function` gives, or None after saying once that this part cannot be shown: no display may stop training."""
        if part in self.failed:
            return None
        try:
            return function(*arguments)
        except Exception as error:  # whatever a front end, a font or a driver raises
            self.failed.add(part)
            reason = f"{type(error).__name__}: {error}"
            _say(f"表示の一部（{part}）を止めました。学習は続きます。/ No more {part} shown; training goes on. ({reason})")
            return None


class Panel:
    """The widgets of one run: bar, status and curves in one box."""

    def __init__(self, total: int):
        import ipywidgets
        from IPython.display import display

        wide = ipywidgets.Layout(width="98%")
        self.bar = ipywidgets.IntProgress(value=0, min=0, max=total, layout=wide)
        self.text = ipywidgets.HTML()
        self.warnings = ipywidgets.HTML()
        self.image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="98%", display="none"))
        self.box = ipywidgets.VBox([self.bar, self.text, self.warnings, self.image])
        self.handle = display(self.box, display_id=True)

    def progress(self, step: int, parts: list[str]) -> None:
        """Moves the bar and writes the parts of the status under it."""
        self.bar.value = step
        self.text.value = " &nbsp;·&nbsp; ".join(html.escape(part) for part in parts)

    def warn(self, alarms: list[str]) -> None:
        """Shows what the guards said, all of it, under the status."""
        self.warnings.value = "<br>".join(html.escape(line) for line in alarms)

    def draw(self, png: bytes) -> None:
        """Replaces the curves."""
        self.image.value = png
        self.image.layout.display = None

    def close(self, text: str) -> None:
        """Puts plain text where the widgets were: a notebook saved with dead widgets shows nothing to its next reader."""
        self.handle.update({"text/plain": text}, raw=True)
        for widget in (self.bar, self.text, self.warnings, self.image, self.box):
            widget.close()


def _curves_png(history: list[dict]) -> bytes:
    from ..plots import to_png, training_curves

    return to_png(training_curves(history), dpi=80)


def _memory_in_use() -> dict[str, float]:
    from ..environment.device import memory_in_use

    return memory_in_use()


def _say(line: str) -> None:
    """Prints; where that fails (closed pipe, a terminal without Japanese) the line goes to the log."""
    line = harmless(line)
    try:
        print(line, flush=True)
    except (OSError, ValueError):
        logging.getLogger(__name__).warning("%s", line)
