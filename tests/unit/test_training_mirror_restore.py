"""A new session with the same drive finds the run: what comes back is verified, and nothing here that is newer or other is touched."""

import errno
import json
import os
import shutil
import threading

import pytest

from adslm_helpers.run import Run, read_json, write_json, write_jsonl
from adslm_helpers.training import restore
from adslm_helpers.training.mirror_state import read_mirror_status
from adslm_helpers.training.mirrored import Known, checkpoint_steps, copy_run, place_of
from adslm_helpers.training.restore import find_mirrored, restore_run
from scripts.file_faults import content_of, make_checkpoint, make_run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A mirror that holds the run `t` at step 6, its machine killed in the middle."""
    monkeypatch.delenv("ADSLM_MIRROR", raising=False)
    (tmp_path / "drive").mkdir()
    run = make_run(tmp_path / "old machine", 6)
    run.update(
        steps={**run.manifest()["steps"], "setup": {"status": "done"}, "training": {"status": "running"}}, recipe={"beta": 0.1}
    )
    copy_run(run, tmp_path / "drive", Known())
    return tmp_path / "drive"


@pytest.fixture
def here(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def said():
    return []


def training_of(root):
    return content_of(root / "t" / "training", without=("mirror.json",))


def test_a_run_comes_back_whole_where_there_is_none(folder, here, said, tmp_path):
    restored = restore_run(Run("t", here), folder, said.append)
    assert (restored.step, restored.finished, restored.left_out, restored.set_aside) == (6, False, [], None)
    assert training_of(here) == training_of(tmp_path / "old machine")
    manifest = Run("t", here).manifest()
    assert manifest["steps"]["training"]["status"] == "interrupted" and "setup" not in manifest["steps"], "that machine is gone"
    assert manifest["restored"]["step"] == 6 and len(said) == 1 and "ステップ 6" in said[0] and "step 6" in said[0]
    assert not list(here.glob(".*")) and read_mirror_status(Run("t", here).training).step == 6


def test_a_second_time_there_is_nothing_to_bring_back(folder, here, said):
    restore_run(Run("t", here), folder, said.append)
    before = content_of(here)
    assert restore_run(Run("t", here), folder, said.append) is None
    assert content_of(here) == before and len(said) == 1


def test_a_run_folder_that_holds_a_lock_and_nothing_else_is_filled(folder, here, said, tmp_path):
    """Whoever restores holds the run's lock, a file in its folder."""
    (here / "t").mkdir(parents=True)
    (here / "t" / ".lock.json").write_text("{}")
    assert restore_run(Run("t", here), folder, said.append).step == 6
    assert training_of(here) == training_of(tmp_path / "old machine") and (here / "t" / ".lock.json").exists()
    assert Run("t", here).status("dataset") == "done" and Run("t", here).manifest()["recipe"] == {"beta": 0.1}


def test_the_dataset_of_notebook_01_stays_and_the_training_comes_to_it(folder, here, said):
    run = make_run(here, 0)
    shutil.rmtree(run.training)
    restored = restore_run(run, folder, said.append)
    assert restored.step == 6 and restored.set_aside is None
    assert run.status("dataset") == "done" and run.manifest()["recipe"] == {"beta": 0.1}


def test_an_older_training_of_the_run_is_kept_beside(folder, here, said):
    run = make_run(here, 2)
    before = training_of(here)
    restored = restore_run(run, folder, said.append)
    assert restored.set_aside == "training-1" and content_of(run.path / "training-1") == before
    assert list(checkpoint_steps(run.training / "checkpoints")) == [4, 6] and "training-1" in said[1]


def test_a_checkpoint_here_that_is_damaged_does_not_count(folder, here, said):
    run = make_run(here, 6)
    for step in (4, 6):
        (run.training / "checkpoints" / f"checkpoint-{step}" / "adapter_model.safetensors").write_bytes(b"cut")
    assert restore_run(run, folder, said.append).step == 6


@pytest.mark.parametrize(("last", "finished"), [(6, False), (8, False), (2, True)])
def test_what_is_as_far_here_or_finished_is_left_alone_without_a_word(folder, here, said, last, finished):
    run = make_run(here, last, finished=finished)
    before = content_of(here)
    assert restore_run(run, folder, said.append) is None and content_of(here) == before and not said


@pytest.mark.parametrize("other", ["recipe", "data"])
def test_another_training_here_is_left_alone_and_said(folder, here, said, other):
    run = make_run(here, 2, fingerprint="two" if other == "recipe" else "one")
    if other == "data":
        write_jsonl(run.dataset / "train.jsonl", [{"prompt": "another"}])
    before = content_of(here)
    assert restore_run(run, folder, said.append) is None and content_of(here) == before
    assert len(said) == 1 and other in said[0] and "→" in said[0] and "->" in said[0]


def test_a_finished_training_comes_back_with_its_adapter(tmp_path, here, said):
    (tmp_path / "drive").mkdir()
    copy_run(make_run(tmp_path / "old machine", 6, finished=True), tmp_path / "drive", Known())
    restored = restore_run(Run("t", here), tmp_path / "drive", said.append)
    assert restored.finished and (here / "t" / "training" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_finished_training_whose_adapter_is_damaged_goes_on_from_its_checkpoint(tmp_path, here, said):
    (tmp_path / "drive").mkdir()
    copy_run(make_run(tmp_path / "old machine", 6, finished=True), tmp_path / "drive", Known())
    (place_of(tmp_path / "drive", "t") / "training" / "adapter" / "adapter_model.safetensors").write_bytes(b"cut")
    restored = restore_run(Run("t", here), tmp_path / "drive", said.append)
    assert not restored.finished and restored.step == 6 and not (here / "t" / "training" / "result.json").exists()
    assert restored.left_out == ["training/adapter/adapter_model.safetensors"] and "damaged" in said[-1]


@pytest.mark.parametrize("damage", ["altered", "cut", "no seal", "seal is none", "seal lies", "half copied"])
def test_a_damaged_checkpoint_is_left_out_and_the_one_before_it_taken(folder, here, said, damage):
    newest = place_of(folder, "t") / "training" / "checkpoints" / "checkpoint-6"
    weights = newest / "adapter_model.safetensors"
    if damage == "altered":
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "no seal":
        (newest / "seal.json").unlink()
    elif damage == "seal is none":
        (newest / "seal.json").write_text("[1, 2")
    elif damage == "seal lies":
        write_json(newest / "seal.json", {"files": [{"path": "../../../manifest.json", "bytes": 1, "sha256": "0"}]})
    else:
        newest.rename(newest.with_name(".checkpoint-6.partial"))
    restored = restore_run(Run("t", here), folder, said.append)
    assert restored.step == 4 and list(checkpoint_steps(here / "t" / "training" / "checkpoints")) == [4]
    assert not list((here / "t").rglob(".*")) and bool(restored.left_out) == (damage not in ("no seal", "half copied"))


@pytest.mark.parametrize("name", ["dataset/train.jsonl", "manifest.json", "training/fingerprint.json", "mirrored.json"])
def test_without_what_it_needs_nothing_comes_back_and_it_is_said(folder, here, said, name):
    path = place_of(folder, "t") / name
    path.write_bytes(path.read_bytes()[:-2])
    assert restore_run(Run("t", here), folder, said.append) is None
    assert len(said) == 1 and name in said[0] and "damaged" in said[0] and not list(here.iterdir() if here.exists() else [])


def test_a_listing_cannot_write_outside_of_the_run(folder, here, said):
    path = place_of(folder, "t") / "mirrored.json"
    listing = read_json(path)
    listing["files"].append({"path": "../../outside.json", "bytes": 2, "sha256": "0"})
    path.write_text(json.dumps(listing))
    assert restore_run(Run("t", here), folder, said.append) is None and not (here.parent / "outside.json").exists()


def test_a_drive_that_is_gone_or_silent_does_not_stop_the_training(folder, here, said, monkeypatch):
    def dead(path):
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))

    monkeypatch.setattr(restore.os, "scandir", dead)
    assert restore_run(Run("t", here), folder, said.append) is None and os.strerror(errno.ENOTCONN) in said[0]
    monkeypatch.undo()
    answer = threading.Event()
    monkeypatch.setattr(restore, "SILENCE", 0.05)
    monkeypatch.setattr(restore, "mirror_place", lambda given: lambda: answer.wait(20) and folder)
    assert restore_run(Run("t", here), folder, said.append) is None and "no answer" in said[1]
    answer.set()


def test_a_full_disk_here_leaves_nothing_half_restored(folder, here, said, monkeypatch):
    def full(stream, target, beat):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(restore.copies, "_pour", full)
    assert restore_run(Run("t", here), folder, said.append) is None
    assert os.strerror(errno.ENOSPC) in said[0] and not list(here.iterdir())


def test_nothing_is_done_or_said_without_a_mirror_or_a_copy(folder, here, said):
    assert restore_run(Run("t", here), say=said.append) is None and restore_run(Run("u", here), folder, said.append) is None
    assert (find_mirrored() == [] and not said and not here.exists()) or not list(here.iterdir())


def test_what_lies_on_the_mirror_is_listed_the_last_copied_first(folder, tmp_path, monkeypatch):
    done = make_run(tmp_path / "second", 2, finished=True)
    done.path.rename(done.path.with_name("u"))
    monkeypatch.setattr("adslm_helpers.training.mirrored.now", lambda: "2999-01-01T00:00:00+00:00")
    copy_run(Run("u", tmp_path / "second"), folder, Known())
    (folder / "adslm" / "runs" / "no run").mkdir()
    found = find_mirrored(folder)
    assert [(one.name, one.step, one.finished) for one in found] == [("u", 2, True), ("t", 6, False)]
    assert "step 6" in found[1].line() and "finished" in found[0].line()


def test_a_further_checkpoint_after_coming_back_is_copied_to_the_same_place(folder, here, said):
    run = Run("t", here)
    restore_run(run, folder, said.append)
    make_checkpoint(run, 8)
    known = Known()
    assert copy_run(run, folder, known, first_step=6) == 8 and known.set_aside is None
