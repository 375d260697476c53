"""The command that starts `adslm train` on several GPUs: torchrun's, accelerate's or DeepSpeed's, for one machine or for each of several."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import TrainingError
from ...foreign_text import brief
from ...recipe_rules import nearest
from ...run import Run
from .nodes import Node, parse_nodes, world_size

LAUNCHERS = ("torchrun", "accelerate", "deepspeed")
PROGRAM = "adslm_helpers"
PORT = 29500
EXPECTED = "ADSLM_WORLD_SIZE"
"""How many processes were asked for: the training compares it with how many there are. `accelerate launch --cpu` silently starts one."""


@dataclass(frozen=True)
class Command:
    """What to run on one machine."""

    host: str
    argv: tuple[str, ...]
    environment: dict[str, str]
    """Variables to set for it."""

    def __str__(self) -> str:
        """As a shell takes it."""
        return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in self.environment.items()), shlex.join(self.argv)])


@dataclass(frozen=True)
class Launch:
    """How a training is started; make one with `plan_launch`."""

    launcher: str
    """'torchrun', 'accelerate', 'deepspeed', or 'none': one process needs no launcher."""
    nodes: tuple[Node, ...]
    commands: tuple[Command, ...]
    """One for each machine, the first one's first; a single one with DeepSpeed, which reaches the others by ssh."""
    port: int
    run: str
    hostfile: Path | None = None
    """Where `run_launch` writes `hostfile_text`: beside the run."""
    hostfile_text: str = ""

    @property
    def world_size(self) -> int:
        """Processes of the whole job."""
        return world_size(self.nodes)

    @property
    def here(self) -> bool:
        """Whether one command on this machine starts it all."""
        return len(self.nodes) == 1 and self.nodes[0].here

    @property
    def lines(self) -> list[str]:
        """What will run where, Japanese and English, each command on a line of its own."""
        told = [f"プロセス / processes: {self.world_size} ({', '.join(map(str, self.nodes))}), {_NAMES[self.launcher]}"]
        if self.launcher == "deepspeed" and len(self.nodes) > 1:
            told.append(
                f"{self.nodes[0].host} で実行します（ほかのマシンへは pdsh と ssh で届くこと）。hostfile: {self.hostfile} / "
                f"to be run on {self.nodes[0].host}, which must reach the others by pdsh and ssh"
            )
        elif not self.here:
            told.append(
                "各マシンで、同じフォルダー・同じデータ・同じ版で実行します。実行フォルダーは最初のマシンに書かれます。/ "
                "Run each on its machine, with the same folder, data and versions; the run folder is written on the first."
            )
        for command in self.commands:
            told.append(str(command) if self.here else f"[{command.host}] {command}")
        return told

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "launcher": self.launcher,
            "world_size": self.world_size,
            "nodes": [asdict(node) for node in self.nodes],
            "commands": [{"host": one.host, "argv": list(one.argv), "environment": one.environment} for one in self.commands],
            "hostfile": str(self.hostfile) if self.hostfile else None,
        }


_NAMES = {
    "none": "1つなのでランチャーは要りません / one process needs no launcher",
    "torchrun": "torchrun",
    "accelerate": "accelerate launch",
    "deepspeed": "DeepSpeed",
}


def plan_launch(
    gpu_nodes: str,
    arguments: Sequence[str],
    launcher: str = "torchrun",
    port: int = PORT,
    environ: Mapping[str, str] | None = None,
) -> Launch:
    """The commands that run `adslm ARGUMENTS` (`["train", "--run", "ddp"]`) with one process for each GPU of `gpu_nodes`.

    Starts and writes nothing. Raises TrainingError for what is no list of GPUs, an unknown launcher, another verb than train, and for what
    a launcher cannot do.
    """
    nodes, arguments = parse_nodes(gpu_nodes), list(arguments)
    if launcher not in LAUNCHERS:
        hint = nearest(str(launcher), list(LAUNCHERS))
        raise TrainingError(
            f"ランチャー {brief(launcher)} はありません。→ {hint}", f"There is no launcher {brief(launcher)}. -> {hint}"
        )
    if not isinstance(port, int) or not 1024 <= port <= 65535:
        raise TrainingError(
            f"ポート {brief(port)} は使えません。→ 1024 から 65535 の間にしてください。",
            f"Port {brief(port)} cannot be used. -> Choose between 1024 and 65535.",
        )
    if not arguments or arguments[0] != "train":
        raise TrainingError(
            f"複数のプロセスで動かせるのは train だけです（{brief(' '.join(arguments))}）。→ 例: adslm launch --gpus localhost:0,1 -- train --run NAME",
            f"Only train runs in several processes, not {brief(' '.join(arguments))}. -> For example: "
            "adslm launch --gpus localhost:0,1 -- train --run NAME",
        )
    run = _run(arguments)
    if launcher == "deepspeed":
        return _deepspeed(nodes, arguments, port, run)
    if world_size(nodes) == 1:
        program = ("python", "-m", PROGRAM, *arguments)
        return Launch("none", nodes, (Command(nodes[0].host, program, _visible(nodes[0])),), port, run.name)
    make = _torchrun if launcher == "torchrun" else _accelerate
    return Launch(
        launcher, nodes, tuple(make(nodes, rank, arguments, port, environ) for rank in range(len(nodes))), port, run.name
    )


def _torchrun(
    nodes: tuple[Node, ...], rank: int, arguments: Sequence[str], port: int, environ: Mapping[str, str] | None = None
) -> Command:
    node = nodes[rank]
    where = ["--standalone", "--nproc_per_node", str(len(node.slots))]
    if len(nodes) > 1:
        # Not `--rdzv_backend c10d`: it ignores --node_rank and sorts the machines by name, so that rank 0 may write elsewhere.
        where = [
            *("--nnodes", str(len(nodes)), "--node_rank", str(rank), "--nproc_per_node", str(len(node.slots))),
            *("--master_addr", nodes[0].host, "--master_port", str(port)),
        ]
    environment = _visible(node) | _threads(node, os.environ if environ is None else environ)
    # The two dashes: argparse before Python 3.12.7 takes our --run for an ambiguous --run-path or --run_path of torchrun's, and stops.
    return Command(node.host, ("torchrun", *where, "-m", "--", PROGRAM, *arguments), environment)


def _accelerate(
    nodes: tuple[Node, ...], rank: int, arguments: Sequence[str], port: int, environ: Mapping[str, str] | None = None
) -> Command:
    node = nodes[rank]
    if node.cpu:
        raise TrainingError(
            "accelerate launch は CPU では、頼まれた数によらず1つのプロセスしか始めません。→ --with torchrun を使ってください。",
            "On CPUs accelerate launch starts one process, whatever number it is given. -> Use --with torchrun.",
        )
    if len({len(one.slots) for one in nodes}) > 1:
        raise TrainingError(
            f"accelerate はどのマシンでも同じ数の GPU を使います（{', '.join(map(str, nodes))}）。→ 数を揃えるか、--with torchrun を使ってください。",
            f"accelerate uses the same number of GPUs on every machine ({', '.join(map(str, nodes))}). -> Even them out, or use --with torchrun.",
        )
    machines = ["--num_machines", str(len(nodes))]
    if len(nodes) > 1:
        machines += ["--machine_rank", str(rank), "--main_process_ip", nodes[0].host]
    settings = [
        *("--multi_gpu", "--gpu_ids", ",".join(map(str, node.slots)), "--num_processes", str(world_size(nodes)), *machines),
        *("--main_process_port", str(port)),
        # Else the user's own file of defaults decides on precision and compilation; the recipe does.
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
    ]
    environment = {EXPECTED: str(world_size(nodes))}
    return Command(node.host, ("accelerate", "launch", *settings, "-m", PROGRAM, *arguments), environment)


def _deepspeed(nodes: tuple[Node, ...], arguments: Sequence[str], port: int, run: Run) -> Launch:
    """One command; with several machines DeepSpeed wants to know of each how many GPUs it has, in a file."""
    if not any(argument.partition("=")[0] == "--deepspeed" for argument in arguments):
        arguments = [*arguments, "--deepspeed", "zero2"]
    if nodes[0].cpu:  # its own launcher asks numactl how many CPUs there are
        command = _torchrun(nodes, 0, arguments, port)
        command = Command(command.host, command.argv, {**command.environment, "DS_ACCELERATOR": "cpu"})
        return Launch("deepspeed", nodes, (command,), port, run.name)
    hostfile = run.path / "deepspeed_hostfile" if len(nodes) > 1 else None
    if hostfile:
        _refuse_unsafe(arguments)
    program = [
        *("deepspeed", *(("--hostfile", str(hostfile)) if hostfile else ())),
        "--include=" + "@".join(map(str, nodes)),
        *("--master_port", str(port)),
        *("--no_local_rank", "--module", PROGRAM, *arguments),  # else it adds --local_rank=0 as our first argument
    ]
    text = "".join(f"{node.host} slots={max(node.slots) + 1}\n" for node in nodes) if hostfile else ""
    return Launch("deepspeed", nodes, (Command(nodes[0].host, tuple(program), {}),), port, run.name, hostfile, text)


def _refuse_unsafe(arguments: Sequence[str]) -> None:
    """pdsh hands the command to a shell of each machine and replaces %h, %u and %n in it; DeepSpeed quotes only what holds a space."""
    for argument in arguments:
        if shlex.quote(argument) != argument or "%" in argument:
            raise TrainingError(
                f"DeepSpeed は複数のマシンへ {brief(argument)} を安全に渡せません（シェルを通ります）。→ --with torchrun を使ってください。",
                f"DeepSpeed cannot hand {brief(argument)} to several machines safely (it goes through a shell). -> Use --with torchrun.",
            )


def _visible(node: Node) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": "" if node.cpu else ",".join(map(str, node.slots))}


def _threads(node: Node, environ: Mapping[str, str]) -> dict[str, str]:
    """torchrun gives each process one thread unless told otherwise."""
    if not node.cpu or environ.get("OMP_NUM_THREADS"):
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // len(node.slots)))}


def _run(arguments: Sequence[str]) -> Run:
    """The run that the arguments name."""
    found = "quickstart"
    for position, argument in enumerate(arguments):
        if named := re.match(r"--(?:run|resume)(?:=(.*))?$", argument, re.DOTALL):
            found = named[1] if named[1] is not None else "".join(arguments[position + 1 : position + 2])
    return Run(found)


def own_python(argv: Sequence[str]) -> list[str]:
    """The same launcher by the Python that runs now: the one on the path may belong to another environment, or be missing."""
    return [sys.executable, *_MODULES[argv[0]], *argv[1:]]


_MODULES = {
    "python": (),
    "torchrun": ("-m", "adslm_helpers.training.launch.quiet_torchrun"),
    "accelerate": ("-m", "accelerate.commands.accelerate_cli"),
    "deepspeed": ("-m", "deepspeed.launcher.runner"),
}
