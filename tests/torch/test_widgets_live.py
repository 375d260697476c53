"""The live view, driven as the trainer drives it: few plain lines, few redraws, and no failure that reaches training."""

import sys
from types import SimpleNamespace

import pytest
from transformers import TrainerCallback, TrainerControl, TrainerState

from adslm_helpers.training.history import Alarm
from adslm_helpers.widgets import live
from adslm_helpers.widgets.live import LiveView, live_view

LOGS = {"loss": 0.512, "rewards/margins": 0.83, "rewards/accuracies": 0.94, "epoch": 1.0}


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    monkeypatch.setattr(live, "_memory_in_use", lambda: {"process": 1.2})


@pytest.fixture
def clock():
    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    return Clock()


class Panel:
    """Stands for the widgets and notes what reaches them."""

    def __init__(self, total=0):
        self.total, self.bars, self.pictures, self.closed = total, [], [], None

    def progress(self, step, parts):
        self.bars.append((step, parts))

    def warn(self, alarms):
        self.warnings = list(alarms)

    def draw(self, png):
        self.pictures.append(png)

    def close(self, text):
        self.closed = text


@pytest.fixture
def front_end(monkeypatch):
    monkeypatch.setattr(live, "has_front_end", lambda: True)
    monkeypatch.setattr(live, "Panel", Panel)
    monkeypatch.setattr(live, "_curves_png", lambda history: b"png")


def drive(callback, steps=200, every=5, clock=None, seconds=0.1, start=0, main=True):
    """What Trainer does: begin, per step end and then log, a summary row, end."""
    state = TrainerState(max_steps=steps, global_step=start, is_world_process_zero=main)
    control, args = TrainerControl(), SimpleNamespace()
    callback.on_train_begin(args, state, control)
    for step in range(start + 1, steps + 1):
        state.global_step = step
        if clock:
            clock.now += seconds
        callback.on_step_end(args, state, control)
        if step % every == 0:
            callback.on_log(args, state, control, logs=dict(LOGS))
        if step % 100 == 0:
            callback.on_log(args, state, control, logs={"eval_loss": 0.6, "eval_rewards/margins": 0.7})
    callback.on_log(args, state, control, logs={"train_runtime": 20.0, "train_loss": 0.55})
    callback.on_train_end(args, state, control)


@pytest.mark.parametrize(("steps", "every"), [(200, 5), (200, 1), (7, 1), (3, 5), (1000, 50), (12, 10)])
def test_at_most_ten_plain_lines_and_the_last_step_among_them(steps, every, capsys):
    drive(live_view(), steps, every)
    lines = capsys.readouterr().out.splitlines()
    assert 1 <= len(lines) <= 10
    assert sum(line.startswith(f"step {steps}/{steps}") for line in lines) == 1


def test_a_line_says_step_metrics_memory_and_time_left(clock):
    view = LiveView(clock=clock)
    view.begin(0, 200)
    clock.now = 3.0
    view.record({"step": 40, **LOGS})
    assert view.lines == ["step 40/200  loss 0.512  margin 0.83  acc 0.94  1.2 GiB  残り 00:12 left"]


@pytest.mark.parametrize(("seconds", "shown"), [(0.0, "00:00"), (59.6, "01:00"), (3599.4, "59:59"), (3600, "1:00:00")])
def test_the_time_left_carries_over_into_minutes_and_hours(seconds, shown):
    assert live.clock_face(seconds) == shown


def test_before_the_first_step_the_time_left_is_unknown():
    view = LiveView()
    view.begin(0, 10)
    assert "残り --:-- left" in view.status()


def test_a_resumed_run_counts_only_its_own_steps_for_the_time_left(clock):
    view = LiveView(clock=clock)
    view.begin(100, 200)
    clock.now = 10.0
    view.advance(110)
    assert "残り 01:30 left" in view.status()


def test_several_devices_are_named(monkeypatch):
    monkeypatch.setattr(live, "_memory_in_use", lambda: {"process": 1.2, "cuda_peak": 3.44})
    assert "process 1.2 GiB, cuda peak 3.4 GiB" in LiveView().status()


def test_only_the_first_process_speaks(capsys):
    drive(live_view(), main=False)
    assert capsys.readouterr().out == ""


def test_it_is_a_callback_that_leaves_the_logs_alone_and_keeps_the_history():
    callback = live_view(total_steps=50)
    assert isinstance(callback, TrainerCallback)
    logs, state = dict(LOGS), TrainerState(max_steps=200, global_step=5, is_world_process_zero=True)
    callback.on_train_begin(None, state, None)
    callback.on_log(None, state, None, logs=logs)
    assert logs == LOGS and callback.view.history == [{**LOGS, "step": 5}] and callback.view.total == 50


def test_the_view_starts_afresh_when_training_starts_again(capsys):
    callback = live_view()
    drive(callback, 20)
    drive(callback, 20)
    assert len(callback.view.history) == 5 and len(callback.view.lines) <= 10


def test_curves_are_redrawn_at_most_every_two_seconds_and_the_bar_three_times_a_second(front_end, clock):
    view = LiveView(clock=clock)
    view.begin(0, 400)
    for step in range(1, 401):  # 40 seconds
        clock.now = step / 10
        view.advance(step)
        view.record({"step": step, **LOGS})
    assert 15 <= len(view.panel.pictures) <= 21
    assert 90 <= len(view.panel.bars) <= 134


def test_slow_drawing_takes_at_most_a_twentieth_of_the_time(front_end, clock, monkeypatch):
    def slow(history):
        clock.now += 1.0
        return b"png"

    monkeypatch.setattr(live, "_curves_png", slow)
    view = LiveView(clock=clock)
    view.begin(0, 1000)
    for step in range(1, 1001):
        clock.now += 0.1
        view.record({"step": step, **LOGS})
    assert 4 <= len(view.panel.pictures) <= 6  # in about 105 seconds


def test_in_a_front_end_the_lines_replace_the_widgets_at_the_end(front_end, clock, capsys):
    callback = live_view()
    state = TrainerState(max_steps=200, is_world_process_zero=True)
    callback.on_train_begin(None, state, None)
    panel = callback.view.panel
    state.global_step = 200
    callback.on_log(None, state, None, logs=LOGS)
    callback.on_train_end(None, state, None)
    assert panel.total == 200 and panel.closed == "\n".join(callback.view.lines) and "step 200/200" in panel.closed
    assert callback.view.panel is None and capsys.readouterr().out == ""


def test_a_failing_drawing_is_told_once_and_training_goes_on(front_end, clock, monkeypatch, capsys):
    def broken(history):
        raise RuntimeError("no font <here>")

    monkeypatch.setattr(live, "_curves_png", broken)
    callback = live_view()
    callback.view.clock = clock
    drive(callback, clock=clock, seconds=1.0)
    said = capsys.readouterr().out
    assert said.count("no font <here>") == 1 and "学習は続きます" in said and "training goes on" in said


def test_widgets_that_die_give_way_to_plain_lines(front_end, clock, monkeypatch, capsys):
    def dead(self, step, parts):
        if step > 100:
            raise ConnectionError("front end gone")

    monkeypatch.setattr(Panel, "progress", dead)
    callback = live_view()
    callback.view.clock = clock
    drive(callback, clock=clock, seconds=1.0)
    lines = capsys.readouterr().out.splitlines()
    assert sum("front end gone" in line for line in lines) == 1
    assert [line for line in lines if line.startswith("step ")] == callback.view.lines
    assert any(line.startswith("step 200/200") for line in lines)


def test_without_ipywidgets_a_front_end_gets_plain_lines(monkeypatch, capsys):
    monkeypatch.setattr(live, "has_front_end", lambda: True)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    drive(live_view(), 20)
    said = capsys.readouterr().out
    assert "step 20/20" in said and said.count("ipywidgets") == 1


def test_memory_that_cannot_be_asked_is_told_once(monkeypatch, capsys):
    def broken():
        raise OSError("no /proc")

    monkeypatch.setattr(live, "_memory_in_use", broken)
    drive(live_view())
    said = capsys.readouterr().out
    assert said.count("no /proc") == 1 and "GiB" not in said and "step 200/200" in said


def test_a_closed_or_ascii_output_does_not_stop_training(monkeypatch, caplog):
    class Closed:
        encoding = "ascii"

        def write(self, text):
            raise UnicodeEncodeError("ascii", text, 0, 1, "ordinal not in range")

        def flush(self):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Closed())
    drive(live_view(), 20)
    assert any("step 20/20" in message for message in caplog.messages)


def test_the_user_can_still_interrupt(front_end, monkeypatch):
    def interrupted(history):
        raise KeyboardInterrupt

    monkeypatch.setattr(live, "_curves_png", interrupted)
    view = LiveView()
    view.begin(0, 10)
    with pytest.raises(KeyboardInterrupt):
        view.record({"step": 1, **LOGS})


def test_a_front_end_is_a_kernel_that_somebody_watches(monkeypatch):
    import IPython

    kernel = SimpleNamespace(_allow_stdin=True)
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    monkeypatch.delenv("ADSLM_HEADLESS", raising=False)
    assert live.has_front_end()
    kernel._allow_stdin = False  # nbclient, nbval
    assert not live.has_front_end()
    kernel._allow_stdin = True
    monkeypatch.setenv("ADSLM_HEADLESS", "1")
    assert not live.has_front_end()
    monkeypatch.setenv("ADSLM_HEADLESS", "0")
    monkeypatch.setattr(IPython, "get_ipython", lambda: None)
    assert not live.has_front_end()


def test_the_real_widgets_and_curves(monkeypatch, clock):
    import IPython.display

    shown = []
    handle = SimpleNamespace(update=lambda data, raw: shown.append(data))
    monkeypatch.setattr(IPython.display, "display", lambda box, display_id: handle)
    monkeypatch.setattr(live, "has_front_end", lambda: True)
    view = LiveView(clock=clock)
    view.begin(0, 4)
    panel = view.panel
    view.advance(2)
    view.record({"step": 2, **LOGS})
    assert panel.bar.value == 2 and panel.bar.max == 4 and "loss" not in panel.text.value
    assert bytes(panel.image.value).startswith(b"\x89PNG") and panel.image.layout.display is None
    view.end(4)
    assert view.failed == set() and shown == [{"text/plain": "\n".join(view.lines)}]


@pytest.mark.parametrize("planned", [0, 10])
def test_more_steps_than_planned_do_not_flood_the_output(planned, capsys):
    view = LiveView()
    view.begin(0, planned)
    for step in range(1, 201):
        view.record({"step": step, **LOGS})
    view.end(200)
    assert len(capsys.readouterr().out.splitlines()) <= 11


ALARM = Alarm(3, "not_finite", "stop", "勾配が有限ではありません", "a gradient is not finite")


def test_an_alarm_is_printed_at_once_and_kept(capsys):
    callback = live_view()
    callback.on_train_begin(SimpleNamespace(), TrainerState(max_steps=9), TrainerControl())
    callback.on_notice(ALARM.line())
    assert capsys.readouterr().out.strip() == ALARM.line() == callback.view.lines[-1]


def test_a_second_attempt_closes_the_first_ones_widgets_and_still_shows_its_alarm(front_end):
    callback, state = live_view(), TrainerState(max_steps=9)
    callback.on_train_begin(SimpleNamespace(), state, TrainerControl())
    first = callback.view.panel
    callback.on_notice(ALARM.line())
    callback.on_train_begin(SimpleNamespace(), state, TrainerControl())
    assert first.warnings == [ALARM.line()] and ALARM.line() in first.closed
    assert callback.view.panel is not first and callback.view.panel.warnings == [ALARM.line()]
