"""The run folder: whole files or none, a manifest that never lies about a step, words when something is missing."""

import hashlib
import json
import math
import os
from datetime import datetime
from pathlib import Path

import pytest

from adslm_helpers import run as run_module
from adslm_helpers.errors import RunError
from adslm_helpers.run import (
    Run,
    now,
    parameter,
    read_json,
    read_jsonl,
    remember_parameters,
    runs_root,
    sha256,
    versions,
    write_bytes,
    write_json,
    write_jsonl,
    write_text,
)


def test_a_parameter_is_the_environments_where_it_is_set_and_not_empty(monkeypatch):
    assert parameter("RUN", "quickstart") == "quickstart"
    monkeypatch.setenv("ADSLM_RUN", "spring")
    assert parameter("RUN", "quickstart") == "spring"
    monkeypatch.setenv("ADSLM_RUN", "")  # `make run` hands on RUN= as an empty variable
    assert parameter("RUN", "quickstart") == "quickstart"


def test_what_the_form_chose_is_the_default_of_every_notebook_but_not_of_make_run(monkeypatch):
    """make run sets ADSLM_HEADLESS: a choice made last week in a form must not change what it does."""
    monkeypatch.delenv("ADSLM_HEADLESS", raising=False)
    remember_parameters({"run": "spring", "preset": "cpu", "model": "", "data": "mine.jsonl"})
    assert [parameter(name, "default") for name in ("RUN", "PRESET", "MODEL", "DATA")] == [
        "spring",
        "cpu",
        "default",
        "mine.jsonl",
    ]
    monkeypatch.setenv("ADSLM_RUN", "autumn")
    assert parameter("RUN", "default") == "autumn"
    monkeypatch.setenv("ADSLM_HEADLESS", "1")
    assert [parameter(name, "default") for name in ("RUN", "PRESET")] == ["autumn", "default"]


def test_the_runs_stand_beside_the_notebooks_wherever_the_kernel_works(tmp_path, monkeypatch):
    monkeypatch.delenv("ADSLM_RUNS")
    monkeypatch.chdir(tmp_path)
    assert runs_root() == tmp_path.resolve() / "runs"
    for folder in ("clone/notebooks", "clone/adslm_helpers"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "clone" / "notebooks")
    assert runs_root() == tmp_path.resolve() / "clone" / "runs"


def test_the_environment_decides_where_the_runs_are(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ADSLM_RUNS", "~/elsewhere")
    assert runs_root() == tmp_path.resolve() / "elsewhere"
    assert Run("a").path == tmp_path.resolve() / "elsewhere" / "a"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write_text(tmp_path / "deep" / "a.txt", "old")

    def refuse(*names):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_text() == "old" and os.listdir(path.parent) == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_written_files_can_be_read_by_the_team(tmp_path):
    assert write_text(tmp_path / "a.txt", "a").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("broken", [math.nan, math.inf, [{"loss": -math.inf}]])
def test_nan_and_infinity_never_reach_a_json_file(tmp_path, broken):
    path = write_json(tmp_path / "a.json", {"ok": 1})
    for write in (lambda: write_json(path, {"loss": broken}), lambda: write_jsonl(path, [{"ok": 2}, {"loss": broken}])):
        with pytest.raises(ValueError):
            write()
    assert read_json(path) == {"ok": 1}


def test_rows_come_back_as_they_were_even_with_line_separators_inside(tmp_path):
    """str.splitlines would cut a row at U+2028, U+0085 or a form feed inside a text."""
    rows = [{"chosen": "一行目\n二行目\r\u2028三行目\u0085\x0c"}, {"chosen": "絵文字🎉", "n": 1.5}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert read_jsonl(path) == rows
    assert path.read_bytes().count(b"\n") == 2 and "絵文字🎉".encode() in path.read_bytes()


def test_rows_that_break_off_midway_leave_nothing(tmp_path):
    def rows():
        yield {"a": 1}
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_jsonl(tmp_path / "a.jsonl", rows())
    assert not list(tmp_path.glob("*.jsonl*"))


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_an_absent_file_says_which_step_to_run(tmp_path, read):
    with pytest.raises(RunError, match=r"metrics\.json.*-> Run the step"):
        read(tmp_path / "metrics.json")


def test_a_broken_file_is_named_with_its_line(tmp_path):
    path = write_text(tmp_path / "a.jsonl", '{"a": 1}\n\n{"a": \n')
    with pytest.raises(RunError, match=r"a\.jsonl line 3"):
        read_jsonl(path)
    with pytest.raises(RunError, match=r"a\.jsonl is broken"):
        read_json(path)


def test_a_line_saved_in_another_encoding_is_named_not_a_traceback(tmp_path):
    path = write_bytes(tmp_path / "a.jsonl", '{"a": "良い"}\n'.encode() + '{"a": "悪い"}\n'.encode("cp932"))
    with pytest.raises(RunError, match=r"a\.jsonl line 2"):
        read_jsonl(path)
    with pytest.raises(RunError):
        read_json(write_bytes(tmp_path / "a.json", '"悪い"'.encode("cp932")))


def test_the_hash_of_a_file_larger_than_a_block(tmp_path):
    content = bytes(range(256)) * 4100 + b"end"
    path = write_bytes(tmp_path / "a.bin", content)
    assert len(content) > 1 << 20 and sha256(path) == hashlib.sha256(content).hexdigest()


def test_times_carry_their_offset():
    assert datetime.fromisoformat(now()).utcoffset() is not None


def test_versions_name_every_package_and_say_none_where_it_is_absent(monkeypatch):
    assert versions().keys() == set(run_module.PACKAGES)
    monkeypatch.setattr(run_module, "PACKAGES", ("pytest", "no-such-package-here"))
    assert versions() == {"pytest": pytest.__version__, "no-such-package-here": None}


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "-rf", "春", "a b", "a\n", "x" * 65])
def test_a_name_that_could_leave_the_runs_folder_is_refused(name):
    with pytest.raises(RunError, match="cannot name a run"):
        Run(name)


def test_making_a_run_writes_nothing(tmp_path):
    made = Run("a.b-C_1", tmp_path)
    assert made.manifest()["steps"] == {} and made.status("training") == "absent"
    assert made.dataset == tmp_path / "a.b-C_1" / "dataset" and made.export.name == "export"
    assert not list(tmp_path.iterdir())


def test_a_step_that_ends_well_is_done_with_its_notes(tmp_path):
    made = Run("a", tmp_path)
    with made.step("dataset", source="x.jsonl") as notes:
        assert made.status("dataset") == "running" and made.manifest()["steps"]["dataset"]["source"] == "x.jsonl"
        notes["kept"] = 3
    found = made.require("dataset")
    assert (found["status"], found["source"], found["kept"]) == ("done", "x.jsonl", 3)
    assert found["started"] <= found["ended"] and "torch" in made.manifest()["versions"]


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted"), (SystemExit, "failed")]
)
def test_a_step_that_does_not_end_is_never_done(tmp_path, error, status):
    made = Run("a", tmp_path)
    with pytest.raises(error), made.step("training") as notes:
        notes["model"] = "m"
        raise error
    assert made.status("training") == status and made.manifest()["steps"]["training"]["model"] == "m"
    with pytest.raises(RunError, match=f"{status}.*notebook 02"):
        made.require("training")


def test_a_killed_process_leaves_running_which_does_not_count_as_done(tmp_path):
    made = Run("a", tmp_path)
    step = made.step("training")
    step.__enter__()
    assert Run("a", tmp_path).status("training") == "running"
    with pytest.raises(RunError):
        Run("a", tmp_path).require("training")


def test_a_step_done_again_makes_the_later_ones_stale_and_no_earlier_one(tmp_path):
    made = Run("a", tmp_path)
    for name in ("dataset", "training", "evaluation"):
        with made.step(name) as notes:
            notes["mark"] = name
    with made.step("training"):
        pass
    assert [made.status(name) for name in ("dataset", "training", "evaluation")] == ["done", "done", "stale"]
    assert made.manifest()["steps"]["evaluation"]["mark"] == "evaluation"
    with pytest.raises(RunError):
        made.require("evaluation")


def test_an_update_keeps_what_it_does_not_name(tmp_path):
    made = Run("a", tmp_path)
    made.update(model="m")
    created = made.manifest()["created"]
    made.update(recipe={"beta": 0.1})
    manifest = json.loads((made.path / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["model"], manifest["recipe"], manifest["created"], manifest["name"]) == ("m", {"beta": 0.1}, created, "a")


def test_a_fork_shares_the_dataset_and_nothing_else(tmp_path):
    made = Run("a", tmp_path)
    with pytest.raises(RunError):
        made.fork("b")
    with made.step("dataset") as notes:
        write_jsonl(made.dataset / "train.jsonl", [{"n": 1}])
        notes["kept"] = 1
    with made.step("training"):
        write_text(made.training / "adapter.txt", "a")
    other = made.fork("b")
    assert read_jsonl(other.dataset / "train.jsonl") == [{"n": 1}] and other.require("dataset")["kept"] == 1
    assert other.status("training") == "absent" and not other.training.exists()
    with other.step("training"):
        pass
    write_jsonl(made.dataset / "train.jsonl", [{"n": 2}])
    assert read_jsonl(made.fork("b").dataset / "train.jsonl") == [{"n": 2}] and other.status("training") == "done"
    assert made.status("training") == "done" and Path(other.path) != made.path
