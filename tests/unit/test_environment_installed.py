"""What is installed: names spelt as they come, first folder first, markers of that Python, and no description taken for metadata."""

from fake_packages import install, install_all
from packaging.requirements import Requirement

from adslm_helpers.environment.installed import Installed, normal, read_installed


def test_names_agree_however_they_are_spelt_and_descriptions_are_not_read(tmp_path):
    install(tmp_path, "huggingface_hub", "1.27.0", ["PyYAML>=5.1"])
    found = read_installed([tmp_path])
    assert found.version("HuggingFace-Hub") == "1.27.0" and normal("Jinja2") == "jinja2"
    assert found.requires == {"huggingface-hub": ["PyYAML>=5.1"]}


def test_the_first_folder_wins_as_for_import(tmp_path):
    install_all(tmp_path / "first", {"trl": "0.29.1"})
    install_all(tmp_path / "second", {"trl": "0.11.4", "tyro": "0.9"})
    assert read_installed([tmp_path / "first", tmp_path / "second"]).versions == {"trl": "0.29.1", "tyro": "0.9"}


def test_a_folder_without_metadata_and_an_old_egg_are_no_reason_to_stop(tmp_path):
    (tmp_path / "torch-2.6.0.dist-info").mkdir()
    egg = tmp_path / "old.egg-info"
    egg.mkdir()
    (egg / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: old\nVersion: 0.1\n")
    (egg / "requires.txt").write_text("numpy>=1.17\n")
    found = read_installed([tmp_path])
    assert found.versions == {"old": "0.1"} and found.requires["old"] == ["numpy>=1.17"]


def test_without_paths_it_is_this_python():
    found = read_installed()
    assert found.version("pytest") and found.python.count(".") == 2


def test_markers_are_those_of_the_described_python():
    requirement = Requirement('tomli; python_version < "3.11"')
    assert Installed({}, python="3.10").applies(requirement) and not Installed({}, python="3.13").applies(requirement)
    assert not Installed({}, python="3.12").applies(Requirement('x; extra == "dev"'))
    assert Installed({}, python="3.12").applies(Requirement('x; python_full_version < "3.12.1"'))


def test_conflicts_are_those_of_pip_check():
    there = Installed(
        {"a": "1.0", "b": "2.0+cu128", "c": "not a version"},
        {"a": ["b==2.0", "c>=1", "absent", 'extra-only; extra == "x"', "b<2; python_version < '3.0'", "@@ no requirement"]},
        "3.12",
    )
    assert [(name, str(requirement)) for name, requirement in there.conflicts()] == [("a", "c>=1"), ("a", "absent")]


def test_the_closure_follows_needs_and_ends_in_circles():
    there = Installed({}, {"trl": ["transformers"], "transformers": ["tokenizers", "trl"], "other": ["numpy"]}, "3.12")
    assert there.closure(["TRL"]) == {"trl", "transformers", "tokenizers"}
