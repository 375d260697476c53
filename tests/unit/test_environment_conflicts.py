"""The guide's two conflict messages, produced by the real pip with the commands that cause them, then read and explained."""

import re
import subprocess
import sys

import pytest
from fake_packages import install_all, venv, wheel

from adslm_helpers.environment.doctor import diagnose
from adslm_helpers.environment.installed import Installed, read_installed
from adslm_helpers.environment.runtimes import described_runtime


@pytest.fixture
def upgraded(tmp_path, monkeypatch):
    """`upgraded("torch")` is what pip prints for `pip install --upgrade torch` on Colab of July 2025, and what is there afterwards."""
    index = tmp_path / "index"
    wheel(index, "torch", "2.7.1")
    wheel(index, "torchvision", "0.22.1", ["torch==2.7.1"])
    wheel(index, "datasets", "3.6.0", ["fsspec[http]<=2025.3.0,>=2023.1.0", "pyarrow>=15.0.0"])
    wheel(index, "fsspec", "2025.3.0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    python, site = venv(tmp_path / "venv")
    runtime = described_runtime("colab-2025.07-gpu")
    kept = (
        "torch",
        "torchvision",
        "fastai",
        "fsspec",
        "gcsfs",
        "datasets",
        "pyarrow",
        "dill",
        "pandas",
        "multiprocess",
        "huggingface-hub",
    )
    install_all(site, {name: runtime.versions[name] for name in kept}, runtime.requires)

    def upgrade(*packages: str) -> tuple[str, Installed]:
        command = [python, "-m", "pip", "install", "--upgrade", "--disable-pip-version-check", *packages]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr, read_installed([site], "3.11")

    return upgrade


@pytest.mark.parametrize(
    ("packages", "message", "package", "command"),
    [
        (
            ["torch", "torchvision"],
            "fastai 2.7.19 requires torch<2.7,>=1.10, but you have torch 2.7.1 which is incompatible.",
            "fastai",
            "pip install --upgrade torch",
        ),
        (
            ["datasets"],
            "gcsfs 2025.3.2 requires fsspec==2025.3.2, but you have fsspec 2025.3.0 which is incompatible.",
            "gcsfs",
            "pip install --upgrade datasets",
        ),
    ],
)
def test_pip_prints_the_guides_message_and_the_doctor_calls_it_harmless_and_names_the_command(
    upgraded, packages, message, package, command
):
    printed, there = upgraded(*packages)
    assert message in re.sub(r"\s+", " ", printed)
    (finding,) = [finding for finding in diagnose(there).findings if finding.kind == "conflict"]
    assert (finding.severity, finding.package) == ("harmless", package)
    assert command in finding.en and command in finding.ja and "leave it" in finding.en
