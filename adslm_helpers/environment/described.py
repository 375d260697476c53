"""Machines described by their facts, for "what if" questions and tests: the same decisions as on the real thing, without it."""

from __future__ import annotations

import difflib

from ..errors import SetupError
from .machine import Probe

_MAC = {"macos": (15, 6), "torch": "2.13.0"}
_TORCH = "2.11.0+cu128"

# GPU memory as the driver reports it (GiB), not as the label says (GB); Mac memory is the machine's own.
MACHINES = {
    "colab-t4": Probe("cuda", "Tesla T4", (7, 5), 14.6, torch=_TORCH, ram_gb=12.7),
    "colab-l4": Probe("cuda", "NVIDIA L4", (8, 9), 22.2, torch=_TORCH, ram_gb=53.0),
    "colab-a100": Probe("cuda", "NVIDIA A100-SXM4-40GB", (8, 0), 39.6, torch=_TORCH, ram_gb=83.5),
    "colab-cpu": Probe("cpu", "Intel(R) Xeon(R) CPU @ 2.20GHz", memory_gb=12.7, torch="2.11.0+cpu", ram_gb=12.7),
    "v100": Probe("cuda", "Tesla V100-SXM2-16GB", (7, 0), 15.8, torch=_TORCH, ram_gb=61.0),
    "a100-80gb": Probe("cuda", "NVIDIA A100-SXM4-80GB", (8, 0), 79.2, torch=_TORCH, ram_gb=167.0),
    "h100-80gb": Probe("cuda", "NVIDIA H100 80GB HBM3", (9, 0), 79.1, torch=_TORCH, ram_gb=128.0),
    "apple-m1-16gb": Probe("mps", "Apple M1", memory_gb=16.0, ram_gb=16.0, **_MAC),
    "apple-m2-8gb": Probe("mps", "Apple M2", memory_gb=8.0, ram_gb=8.0, **_MAC),
    "cpu-16gb": Probe("cpu", "CPU", memory_gb=16.0, torch="2.13.0", ram_gb=16.0),
}


def described_machine(name: str) -> Probe:
    """The facts of a machine by its name; raises SetupError, naming the nearest, for an unknown one."""
    if name in MACHINES:
        return MACHINES[name]
    close = difflib.get_close_matches(name, MACHINES, n=1)
    hint = f"{close[0]}?" if close else ", ".join(MACHINES)
    raise SetupError(f"{name!r} というマシンの記述はありません。→ {hint}", f"No machine is described as {name!r}. -> {hint}")
