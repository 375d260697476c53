"""What machine this is: its accelerator, memory and versions as plain facts; what follows from them is decided in `device`."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import SetupError

GIB = 2**30
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CONTAINER_USE = Path("/sys/fs/cgroup/memory.current")
_CONTAINER_STATISTICS = Path("/sys/fs/cgroup/memory.stat")


@dataclass(frozen=True)
class Probe:
    """One machine, described; tests and "what if" questions hand in made-up ones."""

    kind: str
    """The best device there is: 'cuda', 'mps' or 'cpu' (which is there beside the other two as well)."""
    name: str
    """Name of the GPU, or of the processor."""
    compute_capability: tuple[int, int] | None = None
    """CUDA only: (7, 5) is a T4."""
    memory_gb: float | None = None
    """GiB that this device can address: of the first GPU, else of the machine. None: unknown."""
    n_devices: int = 1
    """Number of GPUs."""
    macos: tuple[int, ...] | None = None
    """macOS version, (14, 5); None elsewhere."""
    torch: str = ""
    """Version of torch."""
    ram_gb: float | None = None
    """GiB of the machine itself; `memory_gb` where nothing else is said and no GPU has memory of its own."""
    free_gb: float | None = None
    """GiB of `memory_gb` that nobody uses now. None: unknown, as on described machines."""
    ram_free_gb: float | None = None
    """GiB of `ram_gb` that nobody uses now."""

    @property
    def devices(self) -> tuple[str, ...]:
        """Every device that is there, the best first."""
        return (self.kind,) if self.kind == "cpu" else (self.kind, "cpu")

    def memory_of(self, device: str) -> float | None:
        """GiB that `device` can address."""
        return self.memory_gb if device == self.kind else (self.ram_gb if self.kind == "cuda" else self.memory_gb)

    def free_of(self, device: str) -> float | None:
        """GiB that `device` has free now."""
        return self.free_gb if device == self.kind else (self.ram_free_gb if self.kind == "cuda" else self.free_gb)

    def describe(self, device: str | None = None) -> str:
        """'cuda (Tesla T4, 14.7 GiB)'; the machine's best device unless another is named."""
        device = device or self.kind
        memory = self.memory_of(device)
        facts = [self.name] if device == self.kind else []
        facts += [f"{memory:.1f} GiB"] if memory is not None else []
        return f"{device} ({', '.join(facts)})" if facts else device


def probe_machine() -> Probe:
    """The machine under this process; imports torch, and raises SetupError when torch is absent or cannot be loaded."""
    torch = _import_torch()
    ram, free = total_memory_gb(), free_memory_gb()
    facts = {"torch": str(torch.__version__), "macos": _macos_version(), "ram_gb": ram, "ram_free_gb": free}
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        capability = tuple(torch.cuda.get_device_capability(0))
        memory, here = gpu.total_memory / GIB, torch.cuda.mem_get_info(0)[0] / GIB
        return Probe("cuda", gpu.name, capability, memory, n_devices=torch.cuda.device_count(), free_gb=here, **facts)
    kind = "mps" if torch.backends.mps.is_available() else "cpu"
    return Probe(kind, processor_name(), memory_gb=ram, free_gb=free, **facts)


def total_memory_gb() -> float | None:
    """GiB of memory that this process may have: the machine's, or its container's limit; None where nobody says."""
    known = [amount for amount in (_machine_bytes(), _container_bytes(_CONTAINER_LIMIT)) if amount]
    return min(known) / GIB if known else None


def free_memory_gb() -> float | None:
    """GiB that this process could still get without swapping; None without psutil.

    In a container the rest of its limit, if that is less; its cache of files read earlier is given up on demand and counts as free.
    """
    psutil = load_psutil()
    if psutil is None:
        return None
    free = psutil.virtual_memory().available
    limit, used = _container_bytes(_CONTAINER_LIMIT), _container_bytes(_CONTAINER_USE)
    if limit and used:
        free = min(free, max(limit - used + _container_cache(), 0))
    return free / GIB


def processor_name() -> str:
    """'Apple M1', 'Intel(R) Xeon(R) CPU @ 2.20GHz', or the architecture where the system keeps the name to itself."""
    name = ""
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            name = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
        elif sys.platform == "linux":
            found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
            name = found.group(1) if found else ""
    except (OSError, subprocess.SubprocessError):
        name = ""  # a name is for reading only: nothing depends on it
    return name.strip() or platform.processor() or platform.machine()


def load_psutil():
    """The module psutil, or None where it is absent: the report must also work where packages are still to be installed."""
    try:
        import psutil
    except ImportError:
        return None
    return psutil


def _import_torch():
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of torch is missing or broken
        raise SetupError(
            f"torch を読み込めません（{error}）。学習にも生成にも必要です。"
            "→ README の手順でインストールし、カーネルを再起動してください。",
            f"torch cannot be loaded ({error}). Training and writing texts need it. "
            "-> Install it as the README says, then restart the kernel.",
        ) from error
    return torch


def _machine_bytes() -> int | None:
    psutil = load_psutil()
    if psutil:
        return psutil.virtual_memory().total
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _container_bytes(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not Linux, not in a container, or "max": no limit
        return None


def _container_cache() -> int:
    try:
        found = re.search(r"^inactive_file (\d+)$", _CONTAINER_STATISTICS.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found.group(1)) if found else 0


def _macos_version() -> tuple[int, ...] | None:
    numbers = re.findall(r"\d+", platform.mac_ver()[0])
    return tuple(int(number) for number in numbers) or None
