"""A training that was cut off, and goes on: from what, to what end, and what the user is told."""

import errno
import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from adslm_helpers.errors import Interrupted, RunError, TrainingError
from adslm_helpers.recipe import recipe_from_dict
from adslm_helpers.run import read_jsonl, sha256, write_json
from adslm_helpers.training import callbacks as callbacks_module
from adslm_helpers.training import train as train_module
from adslm_helpers.training.checkpoints import checkpoints, last_valid, step_of
from adslm_helpers.training.resume import note_start, training_fingerprint
from adslm_helpers.training.train import train

from .conftest import StopAt


class InterruptAt(TrainerCallback):
    """Ctrl-C, once or twice, while a step is taken."""

    def __init__(self, step, times=1):
        self.step, self.times = step, times

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


def weights(run):
    return load_file(run.training / "adapter" / "adapter_model.safetensors")


def losses(run):
    return {row["step"]: row["loss"] for row in read_jsonl(run.training / "history.jsonl") if "loss" in row}


_ENDS = {}


@pytest.fixture
def undisturbed(run):
    """(adapter, loss of every step) of the same training without any trouble; trained once for all tests."""

    def end(recipe):
        key = json.dumps(recipe.to_dict())
        if key not in _ENDS:
            other = run.fork("undisturbed")
            train(other, recipe)
            _ENDS[key] = weights(other), losses(other)
        return _ENDS[key]

    return end


@pytest.fixture
def same_as_undisturbed(run, recipe, undisturbed):
    def check(recipe=recipe):
        adapter, history = undisturbed(recipe)
        for name, ours in weights(run).items():
            torch.testing.assert_close(ours, adapter[name], atol=1e-6, rtol=0)
        steps = [row["step"] for row in read_jsonl(run.training / "history.jsonl") if "loss" in row]
        assert steps == sorted(set(steps)) and losses(run) == pytest.approx(history, abs=1e-6)

    return check


def steps(run):
    return [step_of(path) for path in checkpoints(run.training)]


def test_the_last_step_has_a_checkpoint_wherever_the_interval_falls(run, recipe):
    train(run, recipe_from_dict({**recipe.to_dict(), "max_steps": 5}))
    assert steps(run) == [4, 5] and last_valid(run.training).name == "checkpoint-5"


def test_an_altered_checkpoint_is_set_aside_and_the_one_before_it_used(run, recipe, same_as_undisturbed):
    with pytest.raises(KeyboardInterrupt):
        train(run, recipe, [StopAt(5)])
    newest = last_valid(run.training)
    optimizer = newest / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-100])
    result = train(run, recipe)
    assert result.resumed_from == 2 and "optimizer.pt" in result.kept[0] and result.kept[0] in result.lines()
    assert (newest.parent / f"altered-{newest.name}" / "optimizer.pt").is_file()
    same_as_undisturbed()


def test_stopped_after_its_last_step_a_run_takes_no_further_one(run, recipe, monkeypatch, same_as_undisturbed):
    """max_steps in the middle of an epoch: transformers would train step 5 of 4."""
    short = recipe_from_dict({**recipe.to_dict(), "max_steps": 4, "lr_scheduler_type": "constant_with_warmup"})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_module, "save_adapter", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        train(run, short)
    result = train(run, short)
    assert (result.resumed_from, result.steps) == (4, 4) and result.final["eval_loss"] > 0
    same_as_undisturbed(recipe=short)


@pytest.mark.parametrize(("times", "kept"), [(1, 3), (2, 2)], ids=["finishes the step", "stops at once"])
def test_ctrl_c_saves_what_it_can_and_says_how_to_go_on(run, recipe, times, kept, same_as_undisturbed):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=f"saved up to step {kept} .*The same cell .* goes on from there"):
        train(run, recipe, [InterruptAt(3, times)])
    assert run.status("training") == "interrupted" and step_of(last_valid(run.training)) == kept
    assert signal.getsignal(signal.SIGINT) is before
    assert train(run, recipe).resumed_from == kept
    same_as_undisturbed()


def no_space(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_after(function, calls, error=no_space):
    """The disk is full from the so-manieth call on, or when a file of this name is to be written."""
    done = []

    def write(*args, **options):
        done.append(args[0].name if isinstance(calls, str) else 1)
        full = done[-1] == calls if isinstance(calls, str) else len(done) >= calls
        return error() if full else function(*args, **options)

    return write


def torch_full():
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")


@pytest.mark.parametrize(
    ("owner", "name", "calls", "error", "kept"),
    [
        (torch, "save", 6, torch_full, 2),  # the second checkpoint: 5 files a checkpoint by torch, some versions
        (callbacks_module, "append_row", 4, no_space, 2),
        (train_module, "write_json", "result.json", no_space, 6),
    ],
    ids=["a checkpoint", "a row of the history", "the result"],
)
def test_a_full_disk_ends_in_words_and_with_space_the_same_call_goes_on(
    run, recipe, monkeypatch, same_as_undisturbed, owner, name, calls, error, kept
):
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match=f"(?s)step {kept} is intact.*space and permissions"):
        patch.setattr(owner, name, full_after(getattr(owner, name), calls, error))
        train(run, recipe)
    assert run.status("training") == "failed" and steps(run)[-1] == kept, "what is half-written made room"
    assert train(run, recipe).resumed_from == kept
    same_as_undisturbed()


def test_resume_goes_on_with_what_is_there_and_with_nothing_else(run, recipe, runs_in_tmp):
    with pytest.raises(RunError, match="no training to go on with"):
        train(run, recipe, resume=True)
    with pytest.raises(KeyboardInterrupt):
        train(run, recipe, [StopAt(3)])
    files = {path: sha256(path) for path in run.training.rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match=r"another recipe \(beta: .* -> 0.3\)"):
        train(run, recipe_from_dict({**recipe.to_dict(), "beta": 0.3}), resume=True)
    data = run.dataset / "train.jsonl"
    original = data.read_bytes()
    for change, kind, words in (
        (original[: len(original) // 2], TrainingError, "changed after"),
        (None, RunError, "does not exist"),
    ):
        data.write_bytes(change) if change else data.unlink()
        with pytest.raises(kind, match=words):
            train(run, recipe, resume=True)
    data.write_bytes(original)
    assert files == {path: sha256(path) for path in run.training.rglob("*") if path.is_file()}, "nothing was overwritten"
    assert train(run, recipe, resume=True).resumed_from == 2


def test_another_recipe_keeps_the_unfinished_training_up_to_its_last_checkpoint(run, recipe):
    with pytest.raises(KeyboardInterrupt):
        train(run, recipe, [StopAt(5)])
    result = train(run, recipe_from_dict({**recipe.to_dict(), "max_steps": 1}))
    assert "up to step 4" in result.lines()[1] and last_valid(run.path / "training-1").name == "checkpoint-4"
    back = train(run, recipe)
    assert back.resumed_from == 4 and "Back to the same training" in " ".join(back.lines())
    assert (run.path / "training-2" / "result.json").is_file()


def test_a_second_process_is_refused_before_it_changes_anything(run, recipe):
    from dataclasses import asdict, replace

    from adslm_helpers import run_lock as lock

    holder = replace(lock.this_process(), pid=os.getppid(), birth=lock._birth(os.getppid()))
    with pytest.raises(KeyboardInterrupt):
        train(run, recipe, [StopAt(3)])
    write_json(run.path / lock.LOCK / "9", asdict(holder))
    with pytest.raises(RunError, match=f"pid {os.getppid()}"):
        train(run, recipe_from_dict({**recipe.to_dict(), "beta": 0.3}))
    assert last_valid(run.training).name == "checkpoint-2" and not (run.path / "training-1").exists()


def test_half_the_batch_and_twice_the_accumulation_go_on_from_a_checkpoint(run, recipe, undisturbed):
    """transformers 4 takes the batch size from the checkpoint: it would train on twice the pairs of each step, and say nothing.

    Without the SFT term, which is a mean over the tokens of a batch and so not the mean of its halves.
    """
    plain = recipe_from_dict({**recipe.to_dict(), "sft_weight": 0.0})
    halved = recipe_from_dict({**plain.to_dict(), "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2})
    with pytest.raises(KeyboardInterrupt):
        train(run, plain, [StopAt(5)])
    note_start(run, halved, training_fingerprint(run, halved))
    assert train(run, halved).resumed_from == 4
    assert losses(run) == pytest.approx(undisturbed(plain)[1], abs=1e-5)
    assert json.loads((last_valid(run.training) / "trainer_state.json").read_text())["train_batch_size"] == 2
