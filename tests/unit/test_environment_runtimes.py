"""Known Colab runtimes: the facts that are kept are Colab's own, the nearest one is found, and what moved is named."""

import re
from pathlib import Path

import pytest

from adslm_helpers.data_files import read_yaml
from adslm_helpers.environment import runtimes
from adslm_helpers.environment.installed import Installed, normal
from adslm_helpers.environment.runtimes import as_if, described_runtime, drift, nearest_runtime, pinned_versions, runtime_names
from adslm_helpers.errors import SetupError

ROOT = Path(__file__).parents[2]
FREEZES = ROOT.parent / "shared" / "data" / "colab_runtimes"


def live(tag, torch="2.11.0+cu128", **versions):
    return Installed({"torch": torch, **versions}, {}, "3.13", tag)


def test_the_table_has_one_value_per_runtime():
    facts = read_yaml("colab_runtimes.yaml")
    assert all(len(row) == len(facts["runtimes"]) for row in facts["packages"].values())
    known = {f"{name}=={version}" for name, row in facts["packages"].items() for version in row}
    assert set(facts["requires"]) <= known  # a requirement of a version that no runtime has is a slip


@pytest.mark.skipif(not FREEZES.is_dir(), reason="the full freezes are not part of the project")
@pytest.mark.parametrize("name", runtime_names())
def test_what_is_kept_is_what_colab_published(name):
    stem = name.removeprefix("colab-").replace("-", ".")
    file = next(path for path in (FREEZES / f"{stem}.txt", FREEZES / f"{stem.removesuffix('.gpu')}.txt") if path.is_file())
    freeze = {normal(line.split("==")[0]): line.split("==")[1] for line in file.read_text().split()}
    kept = described_runtime(name).versions
    assert kept == {package: freeze[package] for package in kept}
    assert {package for package in read_yaml("colab_runtimes.yaml")["packages"] if package not in kept} & set(freeze) == set()


def test_every_runtime_that_trains_lacks_trl_and_bitsandbytes():
    assert all(
        described_runtime(name).version(package) is None for name in runtime_names() for package in ("trl", "bitsandbytes")
    )


@pytest.mark.parametrize(
    ("tag", "torch", "expected"),
    [
        ("release-colab_20260815-060047_RC00", "2.11.0+cu128", "colab-2026.08-gpu"),
        ("release-colab_20260815-060047_RC00", "2.11.0+cpu", "colab-2026.08-cpu"),
        ("release-colab-external_20251030", "2.8.0+cu126", "colab-2025.10-cpu"),  # the only one known of that month
        ("release-colab_20260301", "2.9.0+cu126", "colab-2026.04-gpu"),
        ("release-colab_20271231", "2.13.0+cu130", "colab-2026.08-gpu"),
        ("unknown", "2.11.0+cpu", "colab-2026.08-cpu"),
        ("release-colab_20250725", "2.6.0+cu124", "colab-2025.10-cpu"),  # July 2025 does not train: nothing good to compare with
    ],
)
def test_the_nearest_known_runtime_in_time_then_in_kind(tag, torch, expected):
    assert nearest_runtime(live(tag, torch)).described == expected


def test_moves_are_named_with_their_direction_and_additions_are_none():
    known = described_runtime("colab-2026.08-gpu")
    versions = {**known.versions, "trl": "0.29.1", "transformers": "5.20.2", "peft": "0.19.1", "rich": "99"}
    del versions["pandas"]
    moved = drift(Installed(versions, {}, "3.13.15", "release-colab_20260815"))
    assert moved.since == "colab-2026.08-gpu" and moved.same_release
    assert {move.name: (move.was, move.now, move.en.split(";")[0]) for move in moved.moves} == {
        "transformers": ("5.15.0", "5.20.2", "newer"),
        "peft": ("0.20.0", "0.19.1", "older"),
        "pandas": ("2.2.3", None, "absent"),
    }
    assert all(re.search("[ぁ-ん]", move.ja) for move in moved.moves)
    assert "3" in moved.summary() and [row["colab-2026.08-gpu"] for row in moved.rows()] == ["5.15.0", "0.20.0", "2.2.3"]


def test_another_build_and_another_python_are_moves():
    known = described_runtime("colab-2026.08-gpu")
    moved = drift(Installed({**known.versions, "torch": "2.11.0+cu130"}, {}, "3.14.0", "release-colab_20260815"))
    assert {move.name: move.en.split(";")[0] for move in moved.moves} == {"python": "newer", "torch": "another build"}


def test_a_local_part_counts_only_where_both_have_one(monkeypatch):
    monkeypatch.setattr(runtimes, "pinned_versions", lambda: {"torch": "2.13.0"})
    assert drift(Installed({"torch": "2.13.0+cpu"}, python="3.11")).moves == []


def test_elsewhere_the_tested_set_is_what_to_compare_with():
    tested = pinned_versions()
    assert tested["torch"] and tested["huggingface-hub"] and "pyyaml" in tested
    moved = drift(Installed({**tested, "trl": "0.29.1"}, python="3.11.7"))
    assert [move.name for move in moved.moves] == ["trl"] and moved.since == "requirements.txt" and not moved.same_release


def test_without_a_tested_set_there_is_nothing_to_compare(monkeypatch):
    monkeypatch.setattr(runtimes, "pinned_versions", dict)
    moved = drift(Installed({"torch": "2.13.0"}, python="3.11"))
    assert moved.since == "" and moved.rows() == [] and "Nothing to compare" in moved.summary()


def test_what_can_be_asked_for_and_what_cannot():
    packages, machine = as_if("colab-2026.01-gpu")
    assert packages.version("torch") == machine.torch == "2.9.0+cu126" and machine.kind == "cuda"
    assert as_if("colab-2026.08-cpu")[1].kind == "cpu"
    assert as_if("apple-m2-8gb")[0] is None
    with pytest.raises(SetupError, match=r"colab-2026\.08-gpu\?"):
        as_if("colab-2026.8-gpu")
    with pytest.raises(SetupError, match=r"(?s)apple-m2-8gb.*h100-80gb|h100-80gb.*apple-m2-8gb"):
        as_if("zzz")
