"""Sealed checkpoints, growing files, what a training was started with: everything about going on that needs no torch."""

import errno
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from adslm_helpers.errors import Interrupted, RunError, TrainingError
from adslm_helpers.recipe import load_recipe, recipe_from_dict
from adslm_helpers.run import Run, sha256, write_bytes, write_json, write_jsonl, write_text
from adslm_helpers.training import checkpoints as module
from adslm_helpers.training.checkpoints import (
    SEAL,
    broken,
    discard_unusable,
    is_finished,
    last_valid,
    remove_after,
    remove_checkpoint,
    seal,
    set_train_batch_size,
)
from adslm_helpers.training.history import append_row, read_history
from adslm_helpers.training.interrupt import Interruption, told_how_to_go_on
from adslm_helpers.training.resume import (
    bring_back,
    note_start,
    refuse_another,
    same_training,
    set_aside,
    started_recipe,
    training_fingerprint,
)
from adslm_helpers.training.storage import storage_failure, storage_told


def checkpoint(training, step, sealed=True, name="checkpoint"):
    folder = training / "checkpoints" / f"{name}-{step}"
    write_bytes(folder / "adapter_model.safetensors", bytes(range(200)))
    write_bytes(folder / "optimizer.pt", b"moments" * 30)
    state = {"global_step": step, "max_steps": 6, "train_batch_size": 4, "log_history": [{"loss": float("nan")}]}
    write_text(folder / "trainer_state.json", json.dumps(state))
    if sealed:
        seal(folder)
    return folder


def damage(folder, how):
    path = folder / "adapter_model.safetensors"
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[:100])
    elif how == "one bit":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif how == "absent":
        path.unlink()
    elif how == "seal cut":
        (folder / SEAL).write_text('{"files": [')
    elif how == "seal of another kind":
        (folder / SEAL).write_text("[3]")


DAMAGES = ("truncated", "one bit", "absent", "seal cut", "seal of another kind")


def test_the_seal_lists_every_file_with_size_and_hash(tmp_path):
    folder = checkpoint(tmp_path, 2)
    listed = {entry["path"]: entry for entry in json.loads((folder / SEAL).read_text())["files"]}
    assert listed.keys() == {"adapter_model.safetensors", "optimizer.pt", "trainer_state.json"}
    assert listed["optimizer.pt"]["bytes"] == 210 and listed["optimizer.pt"]["sha256"] == sha256(folder / "optimizer.pt")
    assert broken(folder) is None and last_valid(tmp_path) == folder


@pytest.mark.parametrize("how", DAMAGES)
def test_a_changed_checkpoint_is_not_used_and_not_deleted(tmp_path, how):
    """It was whole once: a disk or a person changed it, and only a person can say what it is worth."""
    good, bad = checkpoint(tmp_path, 4), checkpoint(tmp_path, 10)
    damage(bad, how)
    assert last_valid(tmp_path) == good
    (told,) = discard_unusable(tmp_path)
    aside = tmp_path / "checkpoints" / "altered-checkpoint-10"
    assert told.kind == "altered" and told.kept_as == aside and (aside / "optimizer.pt").is_file()
    assert "altered-checkpoint-10" in told.ja and "has changed since it was saved" in told.en
    assert not bad.exists() and good.exists() and discard_unusable(tmp_path) == []


def test_a_second_changed_one_of_the_same_step_does_not_replace_the_first(tmp_path):
    for _ in range(2):
        damage(checkpoint(tmp_path, 4), "one bit")
        discard_unusable(tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"altered-checkpoint-4", "altered-checkpoint-4-2"}


@pytest.mark.parametrize("name", ["checkpoint", "tmp-checkpoint"], ids=["today", "transformers 4.38"])
def test_a_half_written_checkpoint_is_removed_and_said(tmp_path, name):
    good = checkpoint(tmp_path, 2)
    half = checkpoint(tmp_path, 4, sealed=False, name=name)
    (told,) = discard_unusable(tmp_path)
    assert told.kind == "unfinished" and str(half) in told.line() and not half.exists() and last_valid(tmp_path) == good


def test_one_whose_removal_was_cut_off_is_no_alarm(tmp_path):
    """transformers deletes old checkpoints in no order, so the seal may be what is left."""
    old, _ = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    for path in old.iterdir():
        if path.name != SEAL:
            path.unlink()
    assert [found.kind for found in discard_unusable(tmp_path)] == ["pruned"] and not old.exists()


def test_our_own_removal_cut_off_anywhere_never_looks_valid(tmp_path, monkeypatch):
    folder = checkpoint(tmp_path, 2)
    monkeypatch.setattr(module.shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        remove_checkpoint(folder)
    assert folder.exists() and last_valid(tmp_path) is None


def test_going_back_removes_what_came_after(tmp_path):
    kept = [checkpoint(tmp_path, step) for step in (2, 4, 10)][:2]
    assert [path.name for path in remove_after(tmp_path, 4)] == ["checkpoint-10"]
    assert module.checkpoints(tmp_path) == kept


@pytest.mark.parametrize("cut_at", [None, 1, 2, 3])
def test_another_batch_size_leaves_the_checkpoint_valid_wherever_it_is_cut_off(tmp_path, monkeypatch, cut_at):
    folder = checkpoint(tmp_path, 4)
    os.utime(folder, ns=(10**18, 10**18))
    writes = []

    def cut(real):
        def write(path, value):
            writes.append(path.name)
            if len(writes) == cut_at:
                raise KeyboardInterrupt
            return real(path, value)

        return write

    for name in ("write_json", "write_text"):
        monkeypatch.setattr(module, name, cut(getattr(module, name)))
    try:
        set_train_batch_size(folder, 2)
    except KeyboardInterrupt:
        assert cut_at
    size = json.loads((folder / "trainer_state.json").read_text())["train_batch_size"]
    assert last_valid(tmp_path) == folder and size == (4 if cut_at in (1, 2) else 2)
    if cut_at is None:
        assert writes == [SEAL, "trainer_state.json", SEAL] and folder.stat().st_mtime_ns == 10**18
        set_train_batch_size(folder, 2)
        assert len(writes) == 3, "nothing is written where nothing changes"


def test_whether_a_checkpoint_is_of_the_last_step(tmp_path):
    assert not is_finished(checkpoint(tmp_path, 4)) and is_finished(checkpoint(tmp_path, 6))


def test_what_killed_writes_left_is_cleared_and_a_users_file_is_not(tmp_path):
    run = Run("r", tmp_path)
    folder = checkpoint(run.training, 2)
    left = [
        run.training / ".result.json.ab12cd_3.tmp",
        run.path / ".manifest.json.ab12cd_3.tmp",
        folder / ".seal.json.ab12cd_3.tmp",
    ]
    for path in [*left, run.training / ".notes"]:
        path.write_text("x")
    with run.step("training"):
        assert discard_unusable(run.training) == []
    assert [path.exists() for path in left] == [False] * 3
    assert (run.training / ".notes").exists() and last_valid(run.training) == folder


# --- the files that grow -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", ['{"step": 2, "lo', '{"step": 2, "ja": "語'.encode()[:-1], "{", '{"step": 2}'], ids=str)
def test_a_row_after_half_a_line_is_not_lost(tmp_path, tail):
    path = tmp_path / "history.jsonl"
    tail = tail.encode() if isinstance(tail, str) else tail
    path.write_bytes(b'{"step": 1}\n' + tail)
    whole = tail.endswith(b"}")
    assert [row["step"] for row in read_history(path)] == ([1, 2] if whole else [1])
    append_row(path, {"step": 3, "ja": "行\u2028区切り"})
    assert [row["step"] for row in read_history(path)] == ([1, 2, 3] if whole else [1, 3])
    assert path.read_bytes().endswith(b"}\n")


# --- storage -------------------------------------------------------------------------------------------------------


class SafetensorError(Exception):
    pass


REFUSED = {
    "python": OSError(errno.ENOSPC, "No space left on device"),
    "read-only": OSError(errno.EROFS, "Read-only file system"),
    "safetensors": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    "tokenizers": Exception("Read-only file system (os error 30)"),
    "torch.save": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
}
OTHERS = [
    OSError(errno.ENOENT, "No such file"),
    RuntimeError("CUDA out of memory"),
    ValueError("(os error 28)?"),
    Exception("not found (os error 2)"),
]


@pytest.mark.parametrize("error", REFUSED.values(), ids=REFUSED)
def test_whichever_library_writes_a_full_disk_is_named_and_what_is_half_written_makes_room(tmp_path, error):
    kept, half = checkpoint(tmp_path, 4), checkpoint(tmp_path, 6, sealed=False)
    with pytest.raises(TrainingError, match=r"The checkpoint of step 4 is intact.*goes on from there"), storage_told(tmp_path):
        raise error
    assert kept.exists() and not half.exists()


@pytest.mark.parametrize("error", [*OTHERS[:2], OTHERS[3], RunError("ja", "en")], ids=str)
def test_errors_about_something_else_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, storage_told(tmp_path):
        raise error
    assert caught.value is error and storage_failure(error, tmp_path) is None


def test_a_refusal_elsewhere_is_not_blamed_on_the_run_but_a_full_disk_is_named_with_its_place(tmp_path):
    for code, words in ((errno.EACCES, None), (errno.ENOSPC, "No space left on device: /cache/x")):
        error = OSError(code, os.strerror(code), "/cache/x")
        assert storage_failure(error, tmp_path) == words
    inside = OSError(errno.EACCES, "Permission denied", str(tmp_path / "training" / "a"))
    assert storage_failure(inside, tmp_path) == "Permission denied"


# --- interrupt -----------------------------------------------------------------------------------------------------


def test_the_first_interrupt_is_remembered_and_the_second_stops_at_once(caplog):
    before, interruption = signal.getsignal(signal.SIGINT), Interruption()
    with interruption.listening():
        signal.raise_signal(signal.SIGINT)
        assert interruption.asked and "interrupt once more" in caplog.text
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_in_a_thread_and_where_interrupts_are_ignored_nothing_is_touched(monkeypatch):
    seen = []

    def listen():
        with Interruption().listening():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        listen()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [before, signal.SIG_IGN]


def test_an_interrupt_says_what_is_kept_and_is_still_one(tmp_path):
    for step, words in ((None, "before its first checkpoint"), (4, "saved up to step 4 .*goes on from there")):
        if step:
            checkpoint(tmp_path, step)
        with pytest.raises(KeyboardInterrupt, match=words) as caught, told_how_to_go_on(tmp_path):
            raise KeyboardInterrupt
        assert isinstance(caught.value, Interrupted) and caught.value.exit_code == 130


# --- what a training was started with ------------------------------------------------------------------------------


@pytest.fixture
def started(tmp_path):
    run, recipe = Run("r", tmp_path), load_recipe("smoke")
    with run.step("dataset"):
        for side in ("train", "eval"):
            write_jsonl(run.dataset / f"{side}.jsonl", [{"prompt": side}])
    note_start(run, recipe, training_fingerprint(run, recipe))
    return run, recipe


def test_what_it_was_started_with_is_read_back(started):
    run, recipe = started
    assert started_recipe(run) == recipe and refuse_another(run, recipe) == training_fingerprint(run, recipe)
    assert same_training(run, training_fingerprint(run, recipe))


def test_another_recipe_is_refused_by_the_field_that_differs_and_nothing_changes(started):
    run, recipe = started
    other = recipe_from_dict({**recipe.to_dict(), "beta": 0.7})
    before = {path: path.read_bytes() for path in run.path.rglob("*.json*")}
    with pytest.raises(TrainingError, match=rf"another recipe \(beta: {recipe.beta} -> 0.7\).*leave out --resume"):
        refuse_another(run, other)
    assert before == {path: path.read_bytes() for path in run.path.rglob("*.json*")}


def test_a_field_that_a_newer_version_added_does_not_make_it_another_recipe(started):
    run, recipe = started
    path = run.training / "fingerprint.json"
    value = json.loads(path.read_text())
    del value["recipe"]["lora_dropout"]
    write_json(path, {**value, "fingerprint": "as it was then"})
    assert refuse_another(run, recipe) == "as it was then"


def test_changed_and_missing_data_are_told_apart(started):
    run, recipe = started
    write_jsonl(run.dataset / "eval.jsonl", [{"prompt": "changed"}])
    with pytest.raises(TrainingError, match=r"eval\.jsonl in .* changed after this training was started"):
        refuse_another(run, recipe)
    (run.dataset / "train.jsonl").unlink()
    for ask in (refuse_another, training_fingerprint):
        with pytest.raises(RunError, match=r"train\.jsonl does not exist.*The training is as it was"):
            ask(run, recipe)


@pytest.mark.parametrize("left", ["nothing", "a file of an older version"])
def test_nothing_to_resume_is_said(tmp_path, left):
    run = Run("r", tmp_path)
    if left != "nothing":
        write_json(run.training / "fingerprint.json", "0123456789abcdef")
    with pytest.raises(RunError, match=r"no training to go on with.*adslm train --run r"):
        started_recipe(run)


def test_an_unfinished_training_that_makes_room_keeps_its_last_valid_checkpoint(tmp_path):
    training = tmp_path / "training"
    for step in (2, 4):
        checkpoint(training, step)
    damage(checkpoint(training, 6), "truncated")
    (line,) = set_aside(training)
    assert "up to step 4" in line and not training.exists()
    assert last_valid(tmp_path / "training-1") == tmp_path / "training-1" / "checkpoints" / "checkpoint-4"
    assert len(list((tmp_path / "training-1" / "checkpoints").iterdir())) == 1


def test_a_finished_one_keeps_its_result_and_the_names_count_on(tmp_path):
    training = tmp_path / "training"
    (tmp_path / "training-1").mkdir()
    checkpoint(training, 6)
    write_json(training / "result.json", {})
    (line,) = set_aside(training)
    assert "result is kept" in line and not (tmp_path / "training-2" / "checkpoints").exists()
    assert set_aside(training) == [] and Path(tmp_path / "training-2" / "result.json").is_file()


def test_asked_for_again_a_training_that_was_set_aside_goes_on(started):
    run, recipe = started
    ours = training_fingerprint(run, recipe)
    checkpoint(run.training, 4)
    assert bring_back(run, ours) == [], "it is there"
    set_aside(run.training)
    other = recipe_from_dict({**recipe.to_dict(), "beta": 0.7})
    assert bring_back(run, training_fingerprint(run, other)) == [], "no such one"
    note_start(run, other, training_fingerprint(run, other))
    _, line = bring_back(run, ours)
    assert "Back to the same training" in line and same_training(run, ours) and last_valid(run.training)
    assert {path.name for path in run.path.glob("training-*")} == {"training-2"}
    set_aside(run.training)
    write_json(run.path / "training-1" / "result.json", {})
    assert bring_back(run, ours) == [], "a finished one belongs to the model and recipe that the manifest named then"
