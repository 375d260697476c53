"""The machine is described as it is, from a made-up torch: nothing here imports the real one."""

import sys
from types import SimpleNamespace

import pytest

from adslm_helpers.environment import machine
from adslm_helpers.environment.machine import GIB, Probe, probe_machine, total_memory_gb
from adslm_helpers.errors import SetupError


def fake_torch(cuda=False, mps=False):
    gpu = SimpleNamespace(name="Tesla T4", total_memory=int(14.74 * GIB))
    return SimpleNamespace(
        __version__="2.11.0+cu128",
        cuda=SimpleNamespace(
            is_available=lambda: cuda,
            device_count=lambda: 2,
            get_device_properties=lambda index: gpu,
            get_device_capability=lambda index: (7, 5),
            mem_get_info=lambda index: (3 * GIB, 14 * GIB),
        ),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
    )


def test_gpu_memory_is_not_mistaken_for_machine_memory(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", fake_torch(cuda=True))
    monkeypatch.setattr(machine, "total_memory_gb", lambda: 12.7)
    probe = probe_machine()
    assert (probe.kind, probe.name, probe.compute_capability, probe.n_devices) == ("cuda", "Tesla T4", (7, 5), 2)
    assert probe.memory_of("cuda") == pytest.approx(14.74)
    assert probe.memory_of("cpu") == 12.7
    assert probe.free_of("cuda") == 3.0  # another notebook's kernel holds the rest
    assert probe.free_of("cpu") != 3.0
    assert probe.torch == "2.11.0+cu128"


def test_apple_gpu_shares_the_memory_of_the_machine(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", fake_torch(mps=True))
    monkeypatch.setattr(machine, "total_memory_gb", lambda: 16.0)
    monkeypatch.setattr(machine, "processor_name", lambda: "Apple M1")
    monkeypatch.setattr(machine.platform, "mac_ver", lambda: ("14.5", ("", "", ""), "arm64"))
    probe = probe_machine()
    assert (probe.kind, probe.name, probe.macos) == ("mps", "Apple M1", (14, 5))
    assert probe.memory_of("mps") == probe.memory_of("cpu") == 16.0


@pytest.mark.parametrize(
    "error", [ImportError("No module named 'torch'"), OSError("libcudart.so: cannot open shared object file")]
)
def test_absent_or_broken_torch_is_explained_not_thrown(monkeypatch, error):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                raise error

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(SetupError, match="->"):
        probe_machine()


@pytest.mark.parametrize(("text", "expected"), [(str(4 * GIB), 4.0), ("max", 64.0), (None, 64.0)])
def test_container_limit_counts_not_the_host(monkeypatch, tmp_path, text, expected):
    # Without this a 4 GB container on a 64 GB host is told that every preset fits, and is killed in training.
    limit = tmp_path / "memory.max"
    if text is not None:
        limit.write_text(text + "\n")
    monkeypatch.setattr(machine, "_CONTAINER_LIMIT", limit)
    monkeypatch.setattr(machine, "_machine_bytes", lambda: 64 * GIB)
    assert total_memory_gb() == expected


def test_free_memory_of_a_container_is_the_rest_of_its_limit(monkeypatch, tmp_path):
    for name, text in (("LIMIT", 4 * GIB), ("USE", 3 * GIB), ("STATISTICS", f"anon 1\ninactive_file {GIB}\n")):
        (tmp_path / name).write_text(f"{text}\n")
        monkeypatch.setattr(machine, f"_CONTAINER_{name}", tmp_path / name)
    host = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=50 * GIB))
    monkeypatch.setattr(machine, "load_psutil", lambda: host)
    assert machine.free_memory_gb() == 2.0  # 4 - 3, and the cached file is given up on demand
    (tmp_path / "LIMIT").write_text("max\n")
    assert machine.free_memory_gb() == 50.0


def test_memory_is_known_without_psutil(monkeypatch):
    monkeypatch.setattr(
        machine.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2 * GIB // 4096}[name], raising=False
    )
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr(machine, "_CONTAINER_LIMIT", machine.Path("/nonexistent/memory.max"))
    assert total_memory_gb() == 2.0
    assert machine.free_memory_gb() is None


def test_description_of_a_machine_of_unknown_memory():
    assert Probe("cpu", "x").describe() == "cpu (x)"
    assert Probe("cuda", "Tesla T4", (7, 5), 14.74, ram_gb=12.7).describe("cpu") == "cpu (12.7 GiB)"
