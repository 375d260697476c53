"""Shared fixtures: nothing here reaches the network, and nothing is written outside pytest's temporary folders."""

from __future__ import annotations

import os

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
