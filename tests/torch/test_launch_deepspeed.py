"""The launchers' own parsers read our commands as they are meant; DeepSpeed trains to the same adapter, where it is installed."""

import pytest

from adslm_helpers.training.launch.commands import plan_launch

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
