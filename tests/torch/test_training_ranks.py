"""Several processes train what one would, the first alone writes and speaks, and a killed one ends the job in words."""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adslm_helpers.errors import RecipeError, SetupError
from adslm_helpers.recipe import recipe_from_dict
from adslm_helpers.training.checkpoints import SEAL, broken
from adslm_helpers.training.history import read_history
from adslm_helpers.training.interrupt import Interruption
from adslm_helpers.training.ranks import launcher_lines, share_of_batch, this_rank
from adslm_helpers.training.train import train
from tests.torch.conftest import made_run

ROOT = Path(__file__).parents[2]
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)


def changed(recipe, **values):
    return recipe_from_dict({**recipe.to_dict(), "engine": "fast", "sft_weight": 0.0, "watch_prompts": 2, **values})


def distance(run, other):
    """The largest difference of any weight of two runs' adapters."""
    one, two = (load_file(str(made.training / "adapter" / "adapter_model.safetensors")) for made in (run, other))
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def in_processes(count, run, recipe):
    """`train` in forked processes numbered as torchrun does it, which saves them the imports; what they wrote to standard output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = [run.path.parent / f"said-{rank}.txt" for rank in range(count)]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_one, args=(rank, count, port, said[rank], run, recipe)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * count, "\n".join(path.read_text() for path in said)
    return [path.read_text() for path in said]


def _one(rank, count, port, said, run, recipe):
    os.environ |= dict(zip(LAUNCHED, (str(rank), str(count), str(rank), str(count), "127.0.0.1", str(port)), strict=False))
    torch.set_num_threads(1)  # the threads of the parent's pool were not forked
    output = os.open(said, os.O_CREAT | os.O_WRONLY)
    os.dup2(output, 1), os.dup2(output, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)
    code = 1
    try:
        print(*train(run, recipe).lines(), sep="\n", flush=True)
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


@pytest.mark.skipif(sys.platform != "linux", reason="forking a process that has computed is safe on Linux only")
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "preference_guided", "preference_text": "短く書いてください。", "per_device_train_batch_size": 4},
        {"engine": "trl", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    ],
    ids=["guided", "trl"],
)
def test_two_processes_train_the_adapter_of_one_with_the_same_effective_batch(run, recipe, tmp_path, settings):
    """Every rank with the same batches, or a mean of means that is not that of the whole, shows here (the SFT term counts tokens)."""
    recipe = changed(recipe, watch_prompts=0, sft_weight=1.0, **settings)
    alone = made_run(tmp_path / "alone")
    train(alone, recipe)
    said = in_processes(2, run, recipe)
    assert distance(run, alone) < 1e-4
    result = json.loads((run.training / "result.json").read_bytes())
    assert result["processes"] == 2 and result["steps"] == 6 and "2 プロセス" in said[0] and said[1] == ""
    one, two = ([row["loss"] for row in read_history(made.training / "history.jsonl") if "loss" in row] for made in (alone, run))
    assert two == pytest.approx(one, abs=1e-4) and len(two) == 6
    last = run.training / "checkpoints" / "checkpoint-6"
    sealed = {entry["path"] for entry in json.loads((last / SEAL).read_bytes())["files"]}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= sealed and broken(last) is None
    assert len(list((run.training / "events").iterdir())) == len(list((alone.training / "events").iterdir()))


def test_a_killed_process_ends_the_job_in_words_and_one_process_goes_on_to_the_same_adapter(run, recipe, tmp_path, monkeypatch):
    recipe = changed(recipe, max_steps=12, evals_per_run=1, watch_prompts=0)
    run.update(recipe=recipe.to_dict())  # what `adslm train` goes by without --preset
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "--", "adslm_helpers", "train", "--run", "t"]  # without "--" torchrun takes --run for its own --run-path
    monkeypatch.setenv("ADSLM_RUNS", str(run.path.parent))
    told = tmp_path / "told.txt"
    with open(told, "wb") as output:
        job = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 120
            while not (run.training / "checkpoints" / "checkpoint-2" / SEAL).is_file() and job.poll() is None:
                assert time.monotonic() < deadline, told.read_text()
                time.sleep(0.05)
            assert job.poll() is None, told.read_text()
            os.kill(_second_process_of(job.pid), signal.SIGKILL)
            assert job.wait(60) != 0
        finally:
            job.kill()
    text = told.read_text()
    assert text.count("この学習の別のプロセスが終わった") == 1 and text.count("Another process of this training ended") == 1
    assert re.search(r"saved up to step \d+", text) and run.status("training") in ("failed", "unfinished")
    assert train(run, recipe).resumed_from >= 2
    alone = made_run(tmp_path / "alone")
    train(alone, recipe)
    assert distance(run, alone) < 1e-4


def _second_process_of(launcher):
    import psutil

    for process in psutil.Process(launcher).children():
        if process.environ().get("RANK") == "1":
            return process.pid
    raise AssertionError("torchrun started no second process")


@pytest.mark.parametrize(
    "batch, accumulation, count, share",
    [(4, 1, 2, (2, 1)), (4, 8, 2, (4, 4)), (2, 2, 4, (1, 1)), (4, 3, 2, (2, 3)), (1, 512, 8, (1, 64)), (8, 1, 1, (8, 1))],
)
def test_the_effective_batch_stays_that_of_the_recipe(recipe, batch, accumulation, count, share):
    shape = changed(recipe, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    assert share_of_batch(shape, count) == share
    assert share[0] * share[1] * count == batch * accumulation


def test_a_batch_that_cannot_be_shared_names_what_can(recipe):
    with pytest.raises(RecipeError, match=r"3 pairs of a step .* 2 processes. -> Start 1, 3 of them, or set .* to 4"):
        share_of_batch(changed(recipe, per_device_train_batch_size=3), 2)


@pytest.mark.parametrize("variables", [{"WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x", "WORLD_SIZE": "2"}])
def test_variables_of_a_launcher_that_contradict_each_other_are_refused(monkeypatch, variables):
    """Two processes that both take themselves for the only one would train the same run twice."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SetupError, match="torchrun"):
        this_rank()


def test_accelerate_that_starts_one_process_of_several_is_noticed(monkeypatch):
    """`accelerate launch --cpu --num_processes 2` sets an address to meet at, and starts one process (measured with 1.15)."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert launcher_lines() == []
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert "torchrun" in launcher_lines()[0]


def test_the_launchers_echo_of_ctrl_c_is_no_second_one(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    asked = Interruption()
    with asked.listening():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert asked.asked
        asked._since -= 10
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
