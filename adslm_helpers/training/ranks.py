"""Several processes, one training: which of them this is, its share of the batch, and what the first decides for all.

torchrun, `accelerate launch` and `deepspeed` start the same command once a process and number them in RANK, WORLD_SIZE and LOCAL_RANK.
The first process alone has the run's lock and writes; the others compute their share. What is agreed upon goes over the processors'
network (gloo), gradients over the devices' own (NCCL on CUDA).
"""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import AdslmError, RecipeError, RunError, SetupError, TrainingError
from ..recipe import DpoRecipe
from ..run import Run

T = TypeVar("T")
# Launchers send the terminal's Ctrl-C on; it then arrives twice.
_ECHO = 2.0


@dataclass(frozen=True)
class Ranks:
    """This process among those of one training."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    """Its number on this machine: the GPU that it takes."""

    @property
    def first(self) -> bool:
        """Whether this process decides, writes and speaks."""
        return self.rank == 0


def this_rank() -> Ranks:
    """This process, by the variables of the launcher; a process that nobody numbered is the first of one.

    Raises SetupError where they contradict each other.
    """
    found = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if found["RANK"] is None and found["WORLD_SIZE"] in (None, "1"):
        return Ranks()
    try:
        rank, count, local = (int(value) for value in (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"] or 0))
        if not (0 <= rank < count and 0 <= local < count):
            raise ValueError
    except (TypeError, ValueError):
        said = ", ".join(f"{name}={value}" for name, value in found.items() if value is not None)
        raise SetupError(
            f"複数プロセスの環境変数が揃っていません（{said}）。→ torchrun で起動するか、これらの変数を消してください。",
            f"The variables of a launcher do not fit together ({said}). -> Start with torchrun, or unset them.",
        ) from None
    return Ranks(rank, count, local)


def launcher_lines() -> list[str]:
    """What to say of a launcher that started fewer processes than it was asked for, bilingual; [] where there is nothing to say.

    `accelerate launch --cpu --num_processes 2` sets an address for several processes to meet at, and starts one.
    """
    if "ACCELERATE_MIXED_PRECISION" not in os.environ or "MASTER_ADDR" not in os.environ or "WORLD_SIZE" in os.environ:
        return []
    return [
        "【注意】accelerate launch に複数のプロセスが指定されていますが、起動したのは 1 つだけです（CPU での既知の動作）。1 プロセスで学習します。"
        "→ 複数で動かすには: torchrun --standalone --nproc_per_node 2 -m -- adslm_helpers train ..."
        " / NOTE: accelerate launch was asked for several processes and started one, as it does on CPUs; this one trains alone."
        " -> For several: torchrun --standalone --nproc_per_node 2 -m -- adslm_helpers train ..."
    ]


def share_of_batch(recipe: DpoRecipe, count: int) -> tuple[int, int]:
    """(per_device_train_batch_size, gradient_accumulation_steps) of each of `count` processes, so that their product over all of them is
    the recipe's: learning rate, number of steps and the pairs of each step are those of one process.

    The accumulation is divided first, for a full batch computes best. Raises RecipeError when it cannot be divided.
    """
    batch, accumulation = recipe.per_device_train_batch_size, recipe.gradient_accumulation_steps
    fewer = math.gcd(accumulation, count)
    rest = count // fewer
    if batch % rest == 0:
        return batch // rest, accumulation // fewer
    effective = batch * accumulation
    fitting = ", ".join(str(n) for n in range(1, effective + 1) if batch % (n // math.gcd(accumulation, n)) == 0)
    needed = rest * math.ceil(batch / rest)
    raise RecipeError(
        f"1 ステップの {effective} 対（per_device_train_batch_size {batch} × gradient_accumulation_steps {accumulation}）は {count} プロセスに等分できません。"
        f"→ プロセス数を {fitting} のどれかにするか、per_device_train_batch_size を {needed} にしてください。",
        f"The {effective} pairs of a step (per_device_train_batch_size {batch} x gradient_accumulation_steps {accumulation}) cannot be shared "
        f"equally by {count} processes. -> Start {fitting} of them, or set per_device_train_batch_size to {needed}.",
    )


def batch_lines(recipe: DpoRecipe, count: int) -> list[str]:
    """What several processes do with the recipe's batch, in one bilingual line; [] for one process."""
    if count == 1:
        return []
    batch, accumulation = share_of_batch(recipe, count)
    effective = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    return [
        f"{count} プロセス: 1 ステップは {effective} 対のままで、それぞれが {batch} 対 × {accumulation} 回を計算します。学習率とステップ数も変わりません。"
        f" / {count} processes: a step stays {effective} pairs, {batch} x {accumulation} in each process; learning rate and steps are the recipe's."
    ]


def first_decides(function: Callable[[], T]) -> T:
    """What `function` gives in the first process, in all of them. The others do not call it; they wait."""
    if not _several():
        return function()
    import torch.distributed as distributed

    value: list[Any] = [function() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(value, src=0)
    return value[0]


def any_rank(flag: bool) -> bool:
    """Whether any process says so. Every process has to ask: one that went on alone would wait for ever."""
    if not _several():
        return bool(flag)
    import torch
    import torch.distributed as distributed

    said = torch.tensor(int(flag))
    distributed.all_reduce(said, op=distributed.ReduceOp.MAX)
    return bool(said)


def together() -> None:
    """Waits until every process is here."""
    any_rank(False)


def refuse_device(device: str, ranks: Ranks) -> None:
    """Raises SetupError where this machine has no device of its own for each of its processes."""
    if ranks.count == 1 or device == "cpu":
        return
    import torch

    here = int(os.environ.get("LOCAL_WORLD_SIZE") or ranks.count)
    there = torch.cuda.device_count() if device == "cuda" else 1
    if here > there:
        raise SetupError(
            f"この計算機の {here} プロセスに対して、{device} は {there} 台です。→ プロセスを {there} つにするか、device を 'cpu' にしてください。",
            f"{here} processes on this machine, and {there} {device} device(s). -> Start {there}, or set device to 'cpu'.",
        )


def refuse_elsewhere_than_first(run: Run) -> None:
    """Raises RunError where this process does not see the run's folder of the first one, as on another machine without shared storage."""
    if not (run.dataset / "train.jsonl").is_file():
        raise RunError(
            f"{run.path} のデータが、この計算機（{platform.node()}）から見えません。→ ADSLM_RUNS に、全部の計算機から見える共有フォルダーを指定してください。",
            f"The dataset in {run.path} is not seen from this machine ({platform.node()}). -> Set ADSLM_RUNS to a folder that all machines share.",
        )


def no_retry(failure: BaseException, count: int) -> AdslmError:
    """What to raise when one of several processes ran into what one process would have recovered from by itself."""
    text = " ".join(str(failure).split())[:200]
    ja, en = (
        (failure.ja, failure.en)
        if isinstance(failure, AdslmError)
        else (f"学習が止まりました（{text}）。", f"The training stopped ({text}).")
    )
    return TrainingError(
        f"{ja}\n{count} プロセスの学習では、自動の復旧はしません。チェックポイントは残っています。"
        "→ 上の対処をするか、メモリ不足なら per_device_train_batch_size を半分、gradient_accumulation_steps を 2 倍にしてください。"
        "1 プロセスで同じコマンドを実行すると、最後のチェックポイントから続け、自動で復旧します。",
        f"{en}\nWith {count} processes nothing is tried again by itself. Checkpoints are kept. "
        "-> Do the above; out of memory: halve per_device_train_batch_size and double gradient_accumulation_steps. "
        "The same command as one process goes on from the last checkpoint, and recovers by itself.",
    )


def is_echo(since: float | None) -> bool:
    """Whether a second Ctrl-C, `since` seconds after the first, is the launcher passing on the same one."""
    return since is not None and since < _ECHO and this_rank().count > 1


def _several() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return bool(distributed and distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1)
