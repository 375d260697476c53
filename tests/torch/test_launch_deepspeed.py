"""The launchers' own parsers read our commands as they are meant; DeepSpeed trains to the same adapter, where it is installed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import adslm_helpers
from adslm_helpers.errors import TrainingError
from adslm_helpers.training.launch import quiet_torchrun, zero
from adslm_helpers.training.launch.commands import plan_launch
from adslm_helpers.training.train import train

from .conftest import made_run

TRAIN = ["train", "--run", "ddp", "--preset", "smoke"]


def test_torchrun_reads_the_command_as_it_is_meant():
    """An option that it does not know would become part of the training's own arguments, or stop the other machine."""
    from torch.distributed.run import get_args_parser

    found = get_args_parser().parse_args(plan_launch("a:0,1@b:0,1", TRAIN).commands[1].argv[1:])
    assert (found.nnodes, found.node_rank, found.nproc_per_node, found.master_addr, found.master_port) == (
        "2",
        1,
        "2",
        "a",
        29500,
    )
    assert found.rdzv_backend == "static"  # the only one that gives ranks by --node_rank
    assert found.module and found.training_script == "adslm_helpers" and found.training_script_args == TRAIN
    assert get_args_parser().parse_args(plan_launch("cpu:2", TRAIN).commands[0].argv[1:]).standalone


def test_accelerate_reads_the_command_as_it_is_meant():
    from accelerate.commands.launch import launch_command_parser

    found = launch_command_parser().parse_args(plan_launch("a:0,1@b:2,3", TRAIN, "accelerate").commands[1].argv[2:])
    assert (found.num_machines, found.machine_rank, found.num_processes, found.main_process_ip) == (2, 1, 4, "a")
    assert found.multi_gpu and found.gpu_ids == "2,3" and found.module and found.training_script_args == TRAIN


def test_deepspeed_reads_the_hostfile_and_the_command_as_they_are_meant():
    runner = pytest.importorskip("deepspeed.launcher.runner", reason="DeepSpeed is not installed")
    launch = plan_launch("node1:0,3,node2:1", TRAIN, "deepspeed")
    found = runner.parse_args(list(launch.commands[0].argv[1:]))
    pool = runner._parse_hostfile(launch.hostfile_text.splitlines())
    assert dict(runner.parse_inclusion_exclusion(pool, found.include, "")) == {"node1": [0, 3], "node2": [1]}
    assert found.module and found.no_local_rank and found.user_script == "adslm_helpers"
    assert found.user_args == [*TRAIN, "--deepspeed", "zero2"]


PROGRAM = """
import json, sys
from adslm_helpers.recipe import recipe_from_dict
from adslm_helpers.run import Run
from adslm_helpers.training.launch.zero import use_deepspeed
from adslm_helpers.training.train import train

use_deepspeed("zero2")
train(Run("t", sys.argv[1]), recipe_from_dict(json.loads(sys.argv[2])))
"""


def test_two_processes_under_zero_2_train_the_adapter_of_one_process(recipe, tmp_path, monkeypatch):
    """DeepSpeed's file, not the recipe, once decided on the learning rate and the accumulation."""
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    from safetensors.torch import load_file

    asked = dataclasses.replace(
        recipe, engine="fast", sft_weight=0.0, max_steps=3, gradient_accumulation_steps=2, max_grad_norm=0.01
    )
    one, two = made_run(tmp_path / "one"), made_run(tmp_path / "two")
    monkeypatch.delenv("ADSLM_DEEPSPEED", raising=False)
    train(one, asked)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--", str(program)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(adslm_helpers.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, str(tmp_path / "two"), json.dumps(asked.to_dict())],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )  # the first run on a machine builds DeepSpeed's part for CPUs: minutes
    assert done.returncode == 0, done.stderr[-4000:]
    assert list(two.training.glob("checkpoints/*/zero_to_fp32.py"))  # DeepSpeed wrote the checkpoint: it was not plain DDP
    ours, theirs = (load_file(run.training / "adapter" / "adapter_model.safetensors") for run in (one, two))
    assert ours.keys() == theirs.keys() and max(abs(ours[name] - theirs[name]).max() for name in ours) < 1e-4
    assert max(abs(value).max() for name, value in theirs.items() if "lora_B" in name) > 1e-4  # it did learn


def test_deepspeed_without_a_launcher_or_without_deepspeed_is_refused_in_words(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(zero.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(TrainingError, match="launcher"):
        zero.use_deepspeed("zero2")
    monkeypatch.setattr(zero.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match="not installed"):
        zero.use_deepspeed("zero2")
    assert "ADSLM_DEEPSPEED" not in os.environ


@pytest.mark.parametrize(("exit_code", "status"), [(2, 2), (-9, 1)])
def test_what_ends_torchrun_ends_in_a_number_and_not_in_its_traceback(exit_code, status, monkeypatch, tmp_path):
    """2 is a user's mistake, which the first process has said in words."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    failure = ProcessFailure(0, 77, exit_code, str(tmp_path / "none"))
    monkeypatch.setattr(run, "main", raising(ChildFailedError("adslm_helpers", {0: failure})))
    assert quiet_torchrun.main() == status
    monkeypatch.setattr(run, "main", raising(SignalException("Ctrl-C", sigval=signal.SIGINT)))
    assert quiet_torchrun.main() == 130
    monkeypatch.setattr(run, "main", lambda: None)
    assert quiet_torchrun.main() == 0


def raising(error):
    def raise_it():
        raise error

    return raise_it
