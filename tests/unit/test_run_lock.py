"""The run's lock: one of many that start at once, refused with a name, never in the way of the next one after a kill."""

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from adslm_helpers import run_lock as module
from adslm_helpers.errors import RunError
from adslm_helpers.run import Run, write_json
from adslm_helpers.run_lock import LOCK, Process, is_alive, lock_holder, run_lock, this_process

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from adslm_helpers.errors import RunError
from adslm_helpers.run_lock import run_lock
folder, start, links = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
if links == "no":
    import os
    def refuse(*names): raise OSError(95, "not supported")
    os.link = refuse
print("ready", flush=True)
while not start.exists():
    pass
try:
    with run_lock(folder):
        print("mine", flush=True)
        sys.stdin.read()
except RunError:
    print("refused", flush=True)
"""


def start(folder, signal, links="yes"):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(signal), links],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def end(*processes):
    for process in processes:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


@pytest.mark.parametrize("links", ["yes", "no"], ids=["hard links", "O_EXCL alone, as on Drive"])
@pytest.mark.parametrize("before", ["nobody", "killed"])
def test_of_those_that_start_at_once_exactly_one_wins(tmp_path, links, before):
    """After a kill, too: all of them find the stale lock at the same moment, and only one may take it over."""
    folder, signal = tmp_path / "r", tmp_path / "go"
    if before == "killed":
        (tmp_path / "now").touch()
        first = start(folder, tmp_path / "now")
        assert first.stdout.readline() == "mine\n"
        first.kill()
        end(first)
    processes = [start(folder, signal, links) for _ in range(4)]
    signal.touch()
    said = sorted(process.stdout.readline() for process in processes)
    end(*processes)
    assert said == ["mine\n", "refused\n", "refused\n", "refused\n"]


def test_the_second_is_told_who_has_it_and_a_killed_holder_is_no_obstacle(tmp_path):
    folder, signal = tmp_path / "r", tmp_path / "go"
    signal.touch()
    first = start(folder, signal)
    assert first.stdout.readline() == "mine\n"
    with pytest.raises(RunError, match=f"pid {first.pid}, .*, 20.*-> Wait for it") as refused, run_lock(folder):
        pass
    assert f"pid {first.pid}" in refused.value.ja and lock_holder(folder).pid == first.pid
    first.kill()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie still: its pid is taken
    with run_lock(folder):
        assert lock_holder(folder).pid == os.getpid()
    end(first)


def test_the_same_process_enters_again_and_leaves_it_free(tmp_path):
    with run_lock(tmp_path):
        with run_lock(tmp_path / "." / ""), pytest.raises(ValueError), run_lock(tmp_path):
            raise ValueError
        assert lock_holder(tmp_path).pid == os.getpid()
    assert lock_holder(tmp_path) is None
    with run_lock(tmp_path):
        pass
    assert len(os.listdir(tmp_path / LOCK)) == 1, "locks do not pile up"


def test_an_interrupt_releases_it(tmp_path):
    with pytest.raises(KeyboardInterrupt), run_lock(tmp_path):
        raise KeyboardInterrupt
    assert lock_holder(tmp_path) is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_a_forked_child_does_not_hold_what_its_parent_holds(tmp_path):
    code = """
import os, sys
from pathlib import Path
from adslm_helpers.errors import RunError
from adslm_helpers.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        try:
            with run_lock(Path(sys.argv[1])):
                os._exit(0)
        except RunError:
            os._exit(7)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code, tmp_path], env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 7


def leave(folder, holder):
    write_json(folder / LOCK / "3", asdict(holder))


def test_a_pid_that_is_another_process_now_is_no_holder(tmp_path):
    leave(tmp_path, replace(this_process(), birth="long ago"))
    with run_lock(tmp_path):
        assert lock_holder(tmp_path).birth == this_process().birth


def test_without_proc_the_start_time_tells_processes_apart(monkeypatch):
    """macOS: psutil's create_time."""
    read_text = Path.read_text

    def no_proc(path, *args, **options):
        if str(path).startswith("/proc"):
            raise FileNotFoundError
        return read_text(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", no_proc)
    ours = this_process()
    assert float(ours.birth) > 1e9 and is_alive(ours) and is_alive(replace(ours, birth="1.00")) is False


def test_a_holder_on_another_machine_is_not_judged_from_here(tmp_path):
    leave(tmp_path, Process(4321, "elsewhere", "b/1", "2026-11-01T10:00:00+09:00"))
    with pytest.raises(RunError, match=r"pid 4321, elsewhere, 2026.*remove .*\.lock/3, and try again"), run_lock(tmp_path):
        pass
    (tmp_path / LOCK / "3").unlink()  # as it says
    with run_lock(tmp_path):
        pass


def test_a_lock_whose_maker_was_killed_before_it_wrote_a_word_ages_out(tmp_path):
    path = tmp_path / LOCK / "1"
    path.parent.mkdir()
    path.touch()
    os.utime(path, (time.time() - 60, time.time() - 60))
    with run_lock(tmp_path):
        pass


def test_one_that_is_late_does_not_get_a_number_that_others_are_past(tmp_path, monkeypatch):
    """It saw lock 1 released; before it makes 2, others took 2 and 3 and removed the older ones."""
    with run_lock(tmp_path):
        pass
    create, other = module._create, replace(this_process(), pid=os.getppid(), birth=module._birth(os.getppid()))

    def late(path):
        if path.name == "2":
            leave(tmp_path, other)
            (tmp_path / LOCK / "1").unlink()
        return create(path)

    monkeypatch.setattr(module, "_create", late)
    with pytest.raises(RunError, match=f"pid {os.getppid()}"), run_lock(tmp_path):
        pass
    assert sorted(os.listdir(tmp_path / LOCK)) == ["3"]


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_folder_that_cannot_be_written_to_is_said(tmp_path, monkeypatch, code):
    def refuse(*args, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module.tempfile, "mkstemp", refuse)
    with pytest.raises(RunError, match=f"cannot be written to.*{os.strerror(code)}.*ADSLM_RUNS"), run_lock(tmp_path):
        pass


def test_steps_hold_it_and_setup_does_not(tmp_path):
    """Looking at the machine while a run trains is nothing to be refused."""
    leave(tmp_path / "a", replace(this_process(), pid=os.getppid(), birth=module._birth(os.getppid())))
    made = Run("a", tmp_path)
    with made.step("setup"):
        pass
    with pytest.raises(RunError, match="in use by another process"), made.step("training"):
        pass
    assert made.status("training") == "absent"


def test_a_step_of_a_process_that_is_gone_reads_as_unfinished(tmp_path):
    made = Run("a", tmp_path)
    with made.step("training"):
        assert made.status("training") == "running"
        path = made.path / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["steps"]["training"]["process"]["birth"] = "long ago"
        write_json(path, manifest)
        assert made.status("training") == "unfinished"
        with pytest.raises(RunError, match="not done \\(unfinished\\)"):
            made.require("training")


def test_a_full_disk_does_not_hide_what_happened_in_a_step(tmp_path, monkeypatch):
    made = Run("a", tmp_path)
    with pytest.raises(ValueError, match="first"), made.step("training"):
        monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        raise ValueError("first")
    assert made.status("training") == "unfinished", "its end could not be noted, and this process lives"


def test_a_disk_that_fills_up_in_any_step_is_said_in_words(tmp_path):
    made = Run("a", tmp_path)
    with pytest.raises(RunError, match=r"a cannot be written to .No space left"), made.step("evaluation"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert made.status("evaluation") == "failed"
    with pytest.raises(FileNotFoundError), made.step("evaluation"):
        raise FileNotFoundError(errno.ENOENT, "no such file")
