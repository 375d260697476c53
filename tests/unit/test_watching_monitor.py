"""The monitor sees a run from its files alone, while they are being written, cut off, or set aside."""

import io
import json
import os
import platform
import time

import pytest

from adslm_helpers.errors import RunError
from adslm_helpers.run import Run, write_json
from adslm_helpers.text.width import display_width
from adslm_helpers.training.history import Alarm, append_row, write_alarm
from adslm_helpers.watching import screen
from adslm_helpers.watching.monitor import Watch, monitor, sparkline
from adslm_helpers.watching.screen import follow
from adslm_helpers.watching.tail import Tail

DEAD_PID = 2**31 - 2


@pytest.fixture
def run():
    """A run in training: 10 steps of 40 logged, 3 seconds a step."""
    made = Run("spring")
    made.update(steps={"training": {"status": "running"}}, model={"name": "owner/Small-Model"})
    write_json(made.training / "progress.json", {"total_steps": 40})
    for step in range(1, 11):
        append_row(made.training / "history.jsonl", log(step, 3.0 * step))
    append_row(made.training / "history.jsonl", {"step": 10, "eval_loss": 0.61, "eval_rewards/margins": 0.2, "time": 31.0})
    return made


def log(step, seconds):
    return {"step": step, "loss": 0.7 - 0.01 * step, "rewards/margins": 0.02 * step, "rewards/accuracies": 0.8, "time": seconds,
            "memory_gib": {"process": 1.25}}  # fmt: skip


def hold(run, pid, since=None):
    write_json(
        run.path / ".lock" / "1",
        {"pid": pid, "host": platform.node(), "birth": "", "since": since or "2099-01-01T00:00:00+00:00"},
    )


def text(snapshot):
    return "\n".join(snapshot.lines())


def test_step_time_left_metrics_memory_and_checkpoint(run):
    checkpoint = run.training / "checkpoints" / "checkpoint-10"
    write_json(checkpoint / "seal.json", {"files": []})
    (run.training / "checkpoints" / "checkpoint-12").mkdir()  # half written
    hold(run, os.getpid())
    snapshot = monitor("spring")
    assert (snapshot.step, snapshot.state.total_steps, snapshot.phase) == (10, 40, "running")
    assert snapshot.seconds_left == pytest.approx(30 * 28 / 9, abs=5), "31 s at step 10, 3 s at step 1, 30 steps to go"
    shown = text(snapshot)
    for part in (
        "step 10/40",
        "25%",
        "0.6000",
        "0.6100",
        "process 1.25 GiB",
        "step 10 (完全 / whole)",
        f"pid {os.getpid()}",
        "Small-Model",
    ):
        assert part in shown
    json.dumps(snapshot.to_dict(), allow_nan=False)


def test_the_screen_is_no_wider_than_the_terminal_and_no_file_steers_it(run):
    nasty = "\x1b]0;title\x07\u202e\n" + "とても長い警報の文です。" * 40
    write_alarm(run.training, Alarm(9, "loops", "warning", nasty, "a very long alarm " * 30 + "\x1b[2J"))
    append_row(
        run.training / "recoveries.jsonl",
        {"step": 5, "cause": "out_of_memory", "remedy": "half", "ja": nasty, "en": "half the batch"},
    )
    append_row(run.training / "health.jsonl", {"step": 10, "healthy": False, "score": 0.4})
    write_json(run.training / "mirror.json", {"ja": nasty, "en": "gone"})
    for columns in (40, 80, 100):
        lines = monitor("spring").lines(columns)
        assert max(map(display_width, lines)) <= columns and len(lines) <= 23, "and one screen"
        assert not any(ord(character) < 32 or character == "\u202e" for line in lines for character in line)
    assert "NOT healthy" in text(monitor("spring")) and "recoveries: 1" in text(monitor("spring"))


def test_only_the_last_alarms_are_shown_and_all_are_counted(run):
    for step in range(5):
        write_alarm(run.training, Alarm(step, "loops", "warning", "壊れています", "broken"))
    shown = text(monitor("spring"))
    assert "alarms: 5" in shown and "step 4 loops" in shown and "step 1 loops" not in shown


def test_a_growing_file_is_read_on_and_a_half_line_waits_for_its_end(tmp_path):
    path, tail = tmp_path / "history.jsonl", Tail(tmp_path / "history.jsonl")
    assert tail.read() == []
    path.write_bytes('{"step": 1}\n{"step": 2, "ja": "途'.encode()[:-1])
    assert [row["step"] for row in tail.read()] == [1]
    path.write_bytes('{"step": 1}\n{"step": 2, "ja": "途中"}\nnonsense\n'.encode())
    first = tail.read()[0]
    assert [row["step"] for row in tail.read()] == [1, 2]
    append_row(path, {"step": 3})
    assert [row["step"] for row in tail.read()] == [1, 2, 3] and tail.read()[0] is first, "nothing is parsed twice"


def test_a_history_that_was_written_again_or_set_aside_is_read_anew(tmp_path):
    """A resumed run drops the rows after its checkpoint, and may be past its old length before the next look."""
    path, tail = tmp_path / "history.jsonl", Tail(tmp_path / "history.jsonl")
    path.write_text("".join(f'{{"step": {n}, "time": 1}}\n' for n in range(1, 6)))
    tail.read()
    path.write_text("".join(f'{{"step": {n}, "time": {1 + (n > 3)}}}\n' for n in range(1, 9)))
    assert [row["time"] for row in tail.read()] == [1, 1, 1, 2, 2, 2, 2, 2]
    path.rename(tmp_path / "aside")
    assert tail.read() == []


def test_time_left_of_a_resumed_session_is_counted_from_its_own_rows(run):
    """Its clock starts at 0 again: the pace of the first session, hours ago on another machine, says nothing."""
    for step in range(11, 15):
        append_row(run.training / "history.jsonl", log(step, 10.0 * (step - 10)))
    snapshot = monitor("spring")
    assert snapshot.seconds_per_step == pytest.approx(10) and snapshot.seconds == 40


def test_a_run_without_anything_written_yet(run):
    fresh = Run("autumn")
    fresh.update()
    shown = text(monitor("autumn"))
    assert "not started" in shown and "no log yet" in shown
    json.dumps(monitor("autumn").to_dict(), allow_nan=False)


def test_broken_files_leave_their_part_empty_and_nothing_raises(run):
    for name in ("manifest.json", "training/progress.json", "training/health.jsonl", "training/mirror.json", "training/alarms.jsonl",
                 "training/recipe.json", "training/result.json", ".lock/7", "training/recoveries.jsonl", "training/history.jsonl"):  # fmt: skip
        for content in (b"", b"{", b"[1]", b"\xff\x00", b'{"step": [], "steps": 3, "pid": "x", "files": 1}', b"[" * 99_999):
            path = run.path / name
            before = path.read_bytes() if path.is_file() else None
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            text(Watch(run).look())
            json.dumps(Watch(run).look().to_dict(), allow_nan=False)
            path.write_bytes(before) if before is not None else path.unlink()


def test_numbers_that_are_not_finite_are_shown_as_such(run):
    append_row(
        run.training / "history.jsonl",
        {"step": 11, "rewards/accuracies": 0.0, "not_finite": ["loss", "rewards/margins"], "time": 40.0},
    )
    snapshot = monitor("spring")
    assert "nan" in text(snapshot) and "!" in text(snapshot) and snapshot.to_dict()["metrics"]["loss"] == "nan"


@pytest.mark.parametrize(
    ("pid", "since", "phase"),
    [(DEAD_PID, None, "killed"), (os.getpid(), None, "running"), (os.getpid(), "2001-01-01T00:00:00+00:00", "killed")],
)
def test_a_run_marked_as_running_whose_process_is_gone_was_killed(run, pid, since, phase):
    """Also where its pid belongs to another process now: that one was born after the lock was taken."""
    hold(run, pid, since)
    assert monitor("spring").phase == phase


def test_a_process_of_another_machine_may_run_still(run):
    write_json(run.path / ".lock" / "1", {"pid": DEAD_PID, "host": "another-machine", "since": ""})
    snapshot = monitor("spring")
    assert snapshot.phase == "running" and "@ another-machine" in text(snapshot)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_pipe_gets_no_control_codes_and_one_look(run):
    stream = io.StringIO()
    assert follow("spring", stream).step == 10 and stream.getvalue() == ""


def test_following_redraws_in_place_until_the_run_ends(run, monkeypatch):
    monkeypatch.setattr(screen.shutil, "get_terminal_size", lambda fallback: os.terminal_size((80, 12)))
    stream, naps = Terminal(), []

    def sleep(seconds):
        naps.append(seconds)
        append_row(run.training / "history.jsonl", log(10 + len(naps), 31.0 + 3 * len(naps)))
        if len(naps) == 3:
            run.update(steps={"training": {"status": "done"}})

    last = follow("spring", stream, sleep=sleep)
    frames = stream.getvalue().split("\x1b[H")
    assert last.phase == "done" and last.step == 13 and len(naps) == 3
    assert "step 10/40" in frames[1] and "step 12/40" in frames[3]
    assert all(frame.count("\n") <= 12 for frame in frames), "no more lines than the terminal has"
    assert stream.getvalue().endswith("\x1b[?25h"), "the cursor is back"


def test_ctrl_c_closes_the_view_and_gives_the_cursor_back(run):
    def interrupt(seconds):
        raise KeyboardInterrupt

    stream = Terminal()
    assert follow("spring", stream, sleep=interrupt).phase == "running" and stream.getvalue().endswith("\x1b[?25h")


def test_an_unknown_run_lists_those_there_are(run):
    for ask in (monitor, follow):
        with pytest.raises(RunError, match="spring"):
            ask("winter")


def test_in_a_notebook_the_same_text_is_escaped_and_the_curves_stand_below(run):
    write_alarm(run.training, Alarm(9, "loops", "warning", "<script>", "<img src=x>"))
    html = monitor("spring")._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html and "data:image/png;base64," in html


def test_a_sparkline_of_any_length_fits_and_shows_its_direction():
    assert sparkline([], 10) == "" and sparkline([1.0, 1.0], 10) == "▁▁" and sparkline([1, 2, 3], 10) == "▁▅█"
    assert len(sparkline(list(range(1000)), 30)) <= 30 and sparkline([1, float("nan"), 2], 9) == "▁!█"


def test_the_age_of_the_last_log_is_taken_off_the_time_left(run):
    path = run.training / "history.jsonl"
    ago = time.time() - 30
    os.utime(path, (ago, ago))
    snapshot = monitor("spring")
    assert snapshot.silent_seconds >= 30 and snapshot.seconds_left <= 30 * 28 / 9 - 30
