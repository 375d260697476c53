"""The copy of a run that is kept while it trains: nothing that its folder does reaches the training, and each trouble is said once."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from adslm_helpers.copies import differing_files
from adslm_helpers.environment import drive as drive_module
from adslm_helpers.run import Run, write_json
from adslm_helpers.training import mirror as mirror_module
from adslm_helpers.training import mirrored
from adslm_helpers.training.mirror import Mirror, mirror_minutes, mirror_place, mirroring
from adslm_helpers.training.mirror_state import MirrorStatus, mirror_line, read_mirror_status
from adslm_helpers.training.mirrored import Known, checkpoint_steps, copy_run, place_of
from scripts.file_faults import content_of, make_checkpoint, make_run

ROOT = Path(__file__).parents[2]
WAIT = 20
"""Seconds that a thread gets; no test needs them unless it fails."""


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("ADSLM_MIRROR", "ADSLM_MIRROR_MINUTES", "ADSLM_DRIVE", "COLAB_RELEASE_TAG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "runs", 4)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "drive").mkdir()
    return tmp_path / "drive"


@pytest.fixture
def said():
    return []


def mirror_of(run, folder, said, **options):
    return Mirror(run, lambda: folder, say=said.append, **options)


def steps_at(folder):
    return list(checkpoint_steps(place_of(folder, "t") / "training" / "checkpoints"))


def fails(monkeypatch, number):
    """Writing to the mirror fails from now on; undone by monkeypatch.undo()."""

    def pour(stream, target, beat):
        raise OSError(number, os.strerror(number), str(target))

    monkeypatch.setattr(mirrored.copies, "_pour", pour)


def test_a_run_is_copied_with_its_last_two_checkpoints_and_the_place_is_said_once(run, folder, said):
    make_checkpoint(run, 6)
    with mirroring(run, folder, say=said.append) as mirror:
        mirror.start()
        assert mirror.flush(WAIT) and mirror.flush(WAIT)
    assert steps_at(folder) == [4, 6] and len(said) == 1 and str(folder) in said[0]
    here, there = (
        content_of(run.path, without=("training/mirror.json",)),
        content_of(place_of(folder, "t"), without=("mirrored.json",)),
    )
    assert there.items() <= here.items() and {name for name in set(here) - set(there)} == {
        f"training/checkpoints/checkpoint-2/{name}" for name in ("adapter_model.safetensors", "seal.json", "trainer_state.json")
    }
    status = read_mirror_status(run.training)
    assert (status.state, status.step, status.pending, status.en) == ("good", 6, 0, None) and "step 6" in status.line()


def test_a_checkpoint_without_a_seal_is_not_finished_and_not_copied(run, folder):
    (make_checkpoint(run, 6) / "seal.json").unlink()
    assert copy_run(run, folder, Known()) == 4 and steps_at(folder) == [2, 4]


@pytest.mark.parametrize("change", ["altered", "pruned"])
def test_a_checkpoint_that_is_changed_or_pruned_while_it_is_copied_is_no_trouble(run, folder, monkeypatch, change):
    newest, pour = make_checkpoint(run, 6), mirrored.copies._pour

    def meanwhile(stream, target, beat):
        if "checkpoint-6" in str(target) and newest.is_dir():
            shutil.rmtree(newest) if change == "pruned" else (newest / "trainer_state.json").write_text("{}")
        return pour(stream, target, beat)

    monkeypatch.setattr(mirrored.copies, "_pour", meanwhile)
    assert copy_run(run, folder, Known()) == 4 and steps_at(folder) == [4]


def test_old_checkpoints_go_only_when_a_newer_one_is_whole(run, folder, monkeypatch):
    known = Known()
    copy_run(run, folder, known)
    make_checkpoint(run, 6)
    fails(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        copy_run(run, folder, known)
    assert steps_at(folder) == [2, 4]
    monkeypatch.undo()
    assert copy_run(run, folder, known) == 6 and steps_at(folder) == [4, 6]


def test_a_full_drive_gives_up_its_oldest_checkpoint_for_a_newer_one_but_never_its_last(run, folder, monkeypatch):
    known, pour = Known(), mirrored.copies._pour
    copy_run(run, folder, known)
    make_checkpoint(run, 6)

    def room_for_two(stream, target, beat):
        if "checkpoint-6" in str(target) and len(steps_at(folder)) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return pour(stream, target, beat)

    monkeypatch.setattr(mirrored.copies, "_pour", room_for_two)
    assert copy_run(run, folder, known) == 6 and steps_at(folder) == [4, 6]
    make_checkpoint(run, 8)
    fails(monkeypatch, errno.ENOSPC)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            copy_run(run, folder, known)
    assert steps_at(folder) == [6]


def test_the_folder_under_a_mount_that_is_gone_is_not_taken_for_it(run, folder, monkeypatch):
    known, real = Known(), os.stat
    copy_run(run, folder, known)
    shutil.rmtree(folder / "adslm")

    def another_device(path, **options):
        facts = real(path, **options)
        return SimpleNamespace(st_dev=facts.st_dev + 1) if path == folder else facts

    monkeypatch.setattr(mirrored.os, "stat", another_device)
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        copy_run(run, folder, known)
    assert not list(folder.iterdir())
    monkeypatch.undo()
    assert copy_run(run, folder, known) == 4, "the same file system, tidied up"


def test_of_a_file_that_grows_only_whole_lines_are_copied(run, folder):
    with open(run.training / "history.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')
    copy_run(run, folder, Known())
    rows = [json.loads(line) for line in (place_of(folder, "t") / "training" / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]


def test_what_the_run_went_back_from_goes_and_a_lost_local_file_stays(run, folder):
    known = Known()
    copy_run(run, folder, known)
    shutil.rmtree(run.training / "checkpoints" / "checkpoint-4")
    (run.dataset / "train.jsonl").unlink()
    copy_run(run, folder, known)
    assert steps_at(folder) == [2] and (place_of(folder, "t") / "dataset" / "train.jsonl").is_file()


def test_losing_all_checkpoints_here_takes_none_from_the_mirror(run, folder):
    known = Known()
    copy_run(run, folder, known)
    shutil.rmtree(run.training / "checkpoints")
    copy_run(run, folder, known)
    assert steps_at(folder) == [2, 4]


@pytest.mark.parametrize("reason", ["another recipe", "further on", "finished"])
def test_another_training_in_the_place_is_renamed_and_never_mixed(tmp_path, folder, reason):
    other = make_run(
        tmp_path / "other", 6, finished=reason == "finished", fingerprint="two" if reason == "another recipe" else "one"
    )
    copy_run(other, folder, Known())
    run, known = make_run(tmp_path / "runs", 2 if reason == "further on" else 6), Known()
    copy_run(run, folder, known)
    assert known.set_aside == "t-1" and steps_at(folder) == list(checkpoint_steps(run.training / "checkpoints"))
    kept = place_of(folder, "t-1")
    assert not differing_files(kept, [entry for entry in mirrored.read_listing(kept)["files"]])


def test_a_resumed_session_goes_on_in_the_same_place(run, folder):
    copy_run(run, folder, Known())
    make_checkpoint(run, 6)
    known = Known()
    copy_run(run, folder, known, first_step=4)
    assert known.set_aside is None and steps_at(folder) == [4, 6]


@pytest.mark.parametrize(
    ("number", "state", "word"),
    [(errno.ENOSPC, "full", "空き"), (errno.EDQUOT, "full", "空き"), (errno.ENOTCONN, "gone", "つながりません"),
     (errno.EIO, "gone", "つながりません"), (errno.ESTALE, "gone", "つながりません"), (errno.EACCES, "refused", "書き込めません"),
     (errno.EROFS, "refused", "書き込めません")],
    ids=lambda value: errno.errorcode.get(value, value) if isinstance(value, int) else value,
)  # fmt: skip
def test_each_trouble_is_said_once_and_the_return_once(run, folder, said, monkeypatch, number, state, word):
    mirror = mirror_of(run, folder, said)
    assert mirror.attempt() and len(said) == 1
    make_checkpoint(run, 6)
    mirror.mark()
    fails(monkeypatch, number)
    assert not mirror.attempt() and not mirror.attempt()
    assert len(said) == 2 and word in said[1] and os.strerror(number) in said[1] and "→" in said[1] and "->" in said[1]
    status = read_mirror_status(run.training)
    assert (status.state, status.step, status.pending, status.failures) == (state, 4, 1, 2) and state in status.line()
    assert len(status.lines()) == 4 and 4 in steps_at(folder)
    monkeypatch.undo()
    assert mirror.attempt() and len(said) == 3 and "また使える" in said[2]
    assert mirror.status.state == "good" and mirror.status.pending == 0 and steps_at(folder) == [4, 6]


def test_a_drive_that_was_unmounted_is_gone_and_not_made_again(run, folder, said):
    folder.rmdir()
    mirror = mirror_of(run, folder, said)
    assert not mirror.attempt() and mirror.status.state == "gone" and not folder.exists()
    folder.mkdir()
    assert mirror.attempt() and steps_at(folder) == [2, 4]


def test_a_mistake_of_our_own_does_not_reach_the_training_either(run, folder, said, monkeypatch):
    monkeypatch.setattr(mirror_module, "copy_run", lambda *_: 1 / 0)
    mirror = mirror_of(run, folder, said)
    assert not mirror.attempt() and mirror.status.state == "failed" and "ZeroDivisionError" in said[0]


def test_a_run_that_is_moved_while_it_is_read_is_no_trouble_of_the_mirror(run, folder, said, monkeypatch):
    def gone(*_):
        raise FileNotFoundError(errno.ENOENT, "No such file", str(run.training / "history.jsonl"))

    monkeypatch.setattr(mirror_module, "copy_run", gone)
    mirror = mirror_of(run, folder, said)
    assert not mirror.attempt() and not said and mirror.status.state == "waiting"


def test_a_folder_that_never_answers_holds_nobody_up_and_one_copy_runs_at_a_time(run, folder, said):
    """A FUSE mount can hang in the system: the next training of the same kernel must not copy beside it."""
    answer, asked = threading.Event(), []

    def place():
        asked.append(threading.current_thread())
        answer.wait(WAIT)
        return folder

    first = Mirror(run, place, say=said.append, silence=0.05)
    first.start()
    first.close(WAIT)
    assert first.status.state == "silent" and "応答しません" in said[0] and "not complete yet" in said[1]
    second = Mirror(run, place, say=said.append, silence=0.05)
    second.start()
    assert not second.flush(WAIT) and len(asked) == 1
    answer.set()
    assert second.flush(WAIT) and steps_at(folder) == [2, 4]
    second.close(WAIT)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_process_ends_although_its_copy_hangs_in_the_system(tmp_path, run, folder):
    """Opening a pipe that nobody writes to waits for ever, as a dead FUSE mount does."""
    os.makedirs(place_of(folder, "t") / "training")
    os.mkfifo(place_of(folder, "t") / "training" / "fingerprint.json")
    code = """
import sys
from pathlib import Path
from adslm_helpers.run import Run
from adslm_helpers.training.mirror import Mirror
mirror = Mirror(Run("t", sys.argv[1]), lambda: Path(sys.argv[2]), say=print, silence=0.2)
mirror.start()
mirror.close()
print(mirror.status.state)
"""
    command = [sys.executable, "-c", code, str(run.path.parent), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=5 * WAIT, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "silent", done.stderr


def test_the_live_view_shows_how_the_copy_stands(run, folder, said):
    from adslm_helpers.widgets.live import LiveView

    view = LiveView(10, notes=[lambda: mirror_line(run.training)])
    before = view.status()
    mirror_of(run, folder, said).attempt()
    assert "copy" not in before and "copy: step 4" in view.status()


def test_it_copies_again_and_again_by_the_clock_and_after_a_failure(run, folder, said, monkeypatch):
    monkeypatch.setattr(mirror_module, "FIRST_RETRY", 0.01)
    passes, enough = [], threading.Event()

    def copy(*_):
        passes.append(1)
        if len(passes) == 2:
            raise OSError(errno.EIO, "I/O error")
        if len(passes) > 4:
            enough.set()
        return 4

    monkeypatch.setattr(mirror_module, "copy_run", copy)
    mirror = mirror_of(run, folder, said, minutes=0.0002)
    mirror.start()
    assert enough.wait(WAIT)
    mirror.close(WAIT)


@pytest.mark.parametrize("ending", [KeyboardInterrupt, ValueError])
def test_however_the_training_ends_its_last_checkpoint_is_copied(run, folder, ending):
    with pytest.raises(ending), mirroring(run, folder) as mirror:
        mirror.start()
        mirror.flush(WAIT)
        make_checkpoint(run, 6)
        raise ending
    assert steps_at(folder) == [4, 6]


def test_a_last_copy_that_takes_long_is_waited_for_and_explained(run, folder, said, monkeypatch):
    monkeypatch.setattr(mirror_module, "_LONG", 0.0)
    explained, real = threading.Event(), mirror_module.copy_run

    def slow(*arguments):
        assert explained.wait(WAIT)
        return real(*arguments)

    def say(text):
        said.append(text)
        if "Waiting for the last copy" in text:
            explained.set()

    monkeypatch.setattr(mirror_module, "copy_run", slow)
    mirror = Mirror(run, lambda: folder, say=say)
    assert mirror.flush(WAIT) and explained.is_set() and steps_at(folder) == [2, 4]


def test_a_front_end_and_a_disk_that_fail_do_not_matter(run, folder, monkeypatch):
    def broken(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mirror_module, "write_json", broken)
    mirror = Mirror(run, lambda: folder, say=broken)
    assert mirror.attempt() and steps_at(folder) == [2, 4]


def test_a_finished_training_is_copied_later_where_its_last_copy_failed(tmp_path, folder):
    run = make_run(tmp_path / "runs", 4, finished=True)
    write_json(run.training / "mirror.json", MirrorStatus("full", str(folder)).to_dict())
    with mirroring(run, folder):
        pass  # the same cell again: the result is reused, no trainer starts
    assert (place_of(folder, "t") / "training" / "adapter" / "adapter_model.safetensors").is_file()
    shutil.rmtree(folder / "adslm")
    with mirroring(run, folder):
        pass
    assert not (folder / "adslm").exists(), "what was copied is not read back at every call"


def test_without_a_folder_nothing_happens(run, said):
    with mirroring(run, say=said.append) as mirror:
        mirror.start()
        mirror.mark()
        assert not mirror.flush(WAIT)
    assert not said and mirror.status.line() == "" and not (run.training / "mirror.json").exists()


def test_a_run_that_lies_on_the_drive_itself_is_not_copied_onto_itself(folder, said):
    run = make_run(folder / "adslm" / "runs", 6)
    make_checkpoint(run, 2)
    before = content_of(folder)
    with mirroring(run, folder, say=said.append) as mirror:
        mirror.start()
    assert (
        content_of(folder, without=("adslm/runs/t/training/mirror.json",)) == before and not said and mirror.status.state == "off"
    )


@pytest.mark.parametrize("text", ["", "[]", "{", '{"state": "good", "what": 1}', "null"])
def test_a_state_that_cannot_be_read_is_none(run, text):
    (run.training / "mirror.json").write_text(text)
    assert read_mirror_status(run.training) is None


def test_the_folder_is_the_argument_then_the_variable(tmp_path, monkeypatch):
    assert mirror_place() is None and mirror_place("off") is None
    monkeypatch.setenv("ADSLM_MIRROR", str(tmp_path / "a"))
    assert mirror_place()() == tmp_path / "a" and mirror_place(tmp_path / "b")() == tmp_path / "b" and mirror_place("off") is None
    monkeypatch.setenv("ADSLM_MIRROR", "off")
    assert mirror_place() is None
    monkeypatch.setenv("RANK", "1")  # torchrun: the first process copies
    assert mirror_place(tmp_path) is None
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("ADSLM_MIRROR", "drive")
    monkeypatch.setenv("ADSLM_DRIVE", str(tmp_path))
    assert mirror_place()() == tmp_path


@pytest.mark.parametrize(("text", "minutes"), [("", 10), ("3", 3), ("soon", 10), ("-1", 0.1)])
def test_the_minutes_come_from_the_variable(monkeypatch, text, minutes):
    monkeypatch.setenv("ADSLM_MIRROR_MINUTES", text)
    assert mirror_minutes() == minutes


def mount(colab, monkeypatch):
    """The system's table of mounts shows Drive."""
    colab.drive.mount(str(colab.point))
    table = [SimpleNamespace(fstype="fuse.drive", mountpoint=str(colab.point))]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all=False: table)


def test_on_colab_a_mounted_drive_is_used_by_itself_and_an_unmounted_one_is_left_alone(colab, run, said, monkeypatch):
    monkeypatch.setattr(psutil, "disk_partitions", lambda all=False: [])
    assert mirror_place() is None and not colab.point.exists(), "mounting asks the user; a training must not"
    mount(colab, monkeypatch)
    with mirroring(run, say=said.append) as mirror:
        mirror.start()
    assert steps_at(colab.root / "my_drive") == [2, 4] and "flush_and_unmount" in said[-1]
    monkeypatch.setenv("ADSLM_MIRROR", "off")
    assert mirror_place() is None


def test_on_colab_a_mount_that_broke_is_gone_until_it_answers(colab, run, said, monkeypatch):
    mount(colab, monkeypatch)
    broken, real = [True], os.scandir

    def scandir(path="."):
        if broken[0] and str(path).startswith(str(colab.point)):
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected", str(path))
        return real(path)

    monkeypatch.setattr(drive_module.os, "scandir", scandir)
    mirror = Mirror(run, mirror_place(), say=said.append)
    assert not mirror.attempt() and mirror.status.state == "gone" and "force_remount=True" in said[0]
    broken[0] = False
    assert mirror.attempt() and steps_at(colab.root / "my_drive") == [2, 4]


def test_the_name_of_a_run_can_be_as_long_as_it_may_and_still_be_set_aside(tmp_path, folder):
    name = "n" * 64
    for fingerprint in ("one", "two"):
        made = make_run(tmp_path / fingerprint, 2, fingerprint=fingerprint)
        run = Run(name, tmp_path / fingerprint)
        made.path.rename(run.path)
        copy_run(run, folder, Known())
    assert {path.name for path in (folder / "adslm" / "runs").iterdir()} == {name, "n" * 59 + "-1"}
