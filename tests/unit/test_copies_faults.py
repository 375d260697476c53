"""Every file operation of every copy fails once: nothing half-written gets a name, nothing good is lost, the next try succeeds.

Here each operation fails in one of the ways; `python scripts/file_faults.py` makes each fail in all of them.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from adslm_helpers import copies
from adslm_helpers.training.mirrored import Known
from scripts.file_faults import Faults, fast_folder, scenes

SCENES = {scene.name: scene for scene in scenes()}


@pytest.mark.parametrize("name", SCENES)
def test_every_file_operation_may_fail(name):
    with fast_folder() as folder:
        survived, total, wrong = SCENES[name].walk(Path(folder), thin=True)
    assert not wrong and survived == total > 30


def test_the_walk_would_see_a_copy_that_is_not_read_back(monkeypatch):
    monkeypatch.setattr(copies, "differing_files", lambda folder, files, beat: [])
    scene = replace(SCENES["export to a drive"], kinds=("half written",), lines=[])
    with fast_folder() as folder:
        survived, total, wrong = scene.walk(Path(folder))
    assert survived < total and "not complete" in wrong[0]


def test_the_faults_reach_every_kind_of_operation(tmp_path):
    scene = SCENES["mirror, new session"]
    scene.prepare(tmp_path)
    with Faults(tmp_path / "drive") as faults:
        scene.act(tmp_path, {"known": Known()})
    assert set(faults.seen) >= {
        "open", "read", "write", "fsync", "close", "stat", "lstat", "mkdir", "scandir", "rename", "replace", "unlink", "rmdir",
    }  # fmt: skip
