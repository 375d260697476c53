"""Shared fixtures: nothing here reaches the network, and nothing is written outside pytest's temporary folders."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

# Before any library is imported: a test that asks the hub must fail at once, not after a minute of retries.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ADSLM_HEADLESS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def runs_in_tmp(tmp_path, monkeypatch):
    """Every test has its own runs folder."""
    monkeypatch.setenv("ADSLM_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """A Colab kernel with the stand-in of tests/fake_colab: `.root` is the folder behind it, `.point` where Drive gets mounted."""
    import importlib

    from adslm_helpers.environment import colab as module
    from adslm_helpers.environment import drive, hub_token

    root, point = tmp_path / "colab", tmp_path / "content" / "drive"
    for folder in (root, point.parent):
        folder.mkdir()
    for name in ("ADSLM_DRIVE", "FAKE_COLAB_DRIVE", *hub_token.VARIABLES):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"COLAB_RELEASE_TAG": "release-colab_20260815", "FAKE_COLAB": root, "ADSLM_MOUNT": point}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fake_colab"))
    for user in (module, drive, hub_token):
        if hasattr(user, "in_notebook"):
            monkeypatch.setattr(user, "in_notebook", lambda: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-login"))
    hub_token._colab_secret.cache_clear()
    services = {
        name: importlib.import_module(f"google.colab.{name}") for name in ("drive", "files", "userdata", "errors", "_state")
    }
    yield SimpleNamespace(root=root, point=point, drive_folder=point / "MyDrive", **services)
    hub_token._colab_secret.cache_clear()
    for name in [name for name in sys.modules if name == "google.colab" or name.startswith("google.colab.")]:
        del sys.modules[name]
