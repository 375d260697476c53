"""The package check against made-up installations: folders of `*.dist-info` on a path of their own."""

import importlib.util
import sys
import sysconfig
from pathlib import Path

import packaging.utils  # loaded here, before `site` narrows the path
import packaging.version  # noqa: F401
import pytest
import yaml  # noqa: F401
from packaging.requirements import Requirement

from adslm_helpers.environment import packages
from adslm_helpers.environment.packages import (
    check_packages,
    colab_requirements,
    hide_old_torchao,
    old_torchao_blocks_lora,
    optional_needs,
    project_file,
    requirements,
)
from adslm_helpers.errors import SetupError
from adslm_helpers.recipe import load_recipe

ROOT = Path(__file__).parents[2]

OWN = """Requires-Dist: trl!=1.15.0,<2,>=0.29.1
Requires-Dist: torch>=2.6
Requires-Dist: pywin32>=300; sys_platform == "nothing"
Provides-Extra: 4bit
Requires-Dist: bitsandbytes>=0.46.1; extra == "4bit"
Provides-Extra: dev
Requires-Dist: pytest>=8; extra == "dev"
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """`site(trl="1.16.0")` makes the only installed distributions that importlib.metadata can find."""
    stdlib = sysconfig.get_paths()["stdlib"]
    monkeypatch.setattr(sys, "path", [str(tmp_path), stdlib, str(Path(stdlib) / "lib-dynload")])
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    monkeypatch.setattr(packages, "_PYPROJECT", tmp_path / "pyproject.toml")

    def install(own: str | None = OWN, **versions: str) -> Path:
        for name, version in {**({"adslm_helpers": "0.1.0"} if own is not None else {}), **versions}.items():
            folder = tmp_path / f"{name}-{version}.dist-info"
            folder.mkdir()
            extra = own if name == "adslm_helpers" else ""
            distribution = name.replace("_", "-")
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{extra}")
        return tmp_path

    return install


def by_name(statuses):
    return {status.name: status for status in statuses}


@pytest.mark.parametrize("torch", ["2.6.0", "2.11.0+cu128", "2.9.0a0+50eac811a6.nv25.9"])  # the last: NVIDIA's containers
def test_good_set_is_ok_and_local_versions_count(site, torch):
    site(trl="1.16.0", torch=torch)
    found = by_name(check_packages())
    assert [found[name].severity for name in ("trl", "torch", "bitsandbytes")] == ["ok", "ok", "note"]
    assert all(status.ok and status.meaning_ja and status.meaning_en for status in found.values())


def test_ranges_are_those_of_the_metadata_without_other_platforms_and_dev_tools(site):
    site()
    assert [(item.name, optional) for item, optional in requirements()] == [
        ("trl", False),
        ("torch", False),
        ("bitsandbytes", True),
    ]


@pytest.mark.parametrize("version", ["0.28.0", "1.15.0", "2.0.0"])
def test_trl_out_of_range_is_a_problem(site, version):
    site(trl=version, torch="2.6.0")
    status = by_name(check_packages())["trl"]
    assert not status.ok and version in status.meaning_en and "DPO" in status.meaning_ja


def test_install_advice_is_quoted(site):
    # Unquoted, `pip install trl>=0.29.1` installs any trl and writes a file.
    site(torch="2.6.0")
    status = by_name(check_packages())["trl"]
    assert status.installed is None and not status.ok
    assert 'pip install "trl' in status.meaning_ja and 'pip install "trl' in status.meaning_en


def test_on_colab_nothing_of_the_runtime_is_to_be_upgraded(site, monkeypatch):
    site(torch="2.5.0")
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20250725")
    found = by_name(check_packages())
    assert "pip" not in found["torch"].meaning_en and "runtime version" in found["torch"].meaning_en
    assert "install cell" in found["trl"].meaning_en and "QUICK_FIX" in found["trl"].meaning_ja


def test_on_colab_the_trl_to_install_leaves_its_packages_alone_and_a_newer_one_is_left_alone(site, monkeypatch):
    """trl 1.x replaces datasets, pyarrow and huggingface_hub there; once somebody has done so, that set trains too."""
    site(torch="2.11.0")
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20260815")
    assert by_name(check_packages())["trl"].required == "<1,>=0.29.1"
    site(own=None, trl="1.16.0")
    assert by_name(check_packages())["trl"].ok


def test_what_colab_lacks_is_read_from_its_one_place(site):
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements-colab.txt").read_text(encoding="utf-8").splitlines()]
    assert [str(item) for item in colab_requirements()] == [str(Requirement(line)) for line in lines if line]
    assert [item.name for item in colab_requirements()] == [
        "trl",
        "bitsandbytes",
        "rapidfuzz",
        "sacrebleu",
        "portalocker",
        "colorama",
    ]


def test_an_installation_without_its_requirement_files_says_so(site, monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "_ROOT", tmp_path)
    monkeypatch.setattr(packages, "_PACKAGED", tmp_path)
    assert project_file("requirements.txt") is None
    with pytest.raises(SetupError, match=r"requirements-colab\.txt"):
        colab_requirements()


def test_the_wheel_carries_what_is_read_at_run_time():
    """`pip install .` on Colab leaves no clone beside the package."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in ("requirements.txt", "requirements-colab.txt"):
        assert f'"{name}" = "adslm_helpers/_data/{name}"' in text


def test_4bit_recipes_need_bitsandbytes():
    assert optional_needs(load_recipe("colab_t4")) == ("bitsandbytes",) and optional_needs(load_recipe("tiny")) == ()


def test_optional_package_that_the_recipe_needs_is_required(site):
    site(trl="1.16.0", torch="2.6.0")
    assert by_name(check_packages())["bitsandbytes"].ok
    assert not by_name(check_packages(needed=("bitsandbytes",)))["bitsandbytes"].ok


def test_version_that_is_no_version_is_a_problem_not_a_crash(site):
    site(trl="unknown", torch="2.6.0")
    assert not by_name(check_packages())["trl"].ok


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib")
def test_clone_that_is_not_installed_reads_its_pyproject(site):
    root = site(own=None, trl="1.16.0")
    (root / "pyproject.toml").write_text(
        '[project]\nname = "adslm-helpers"\ndependencies = ["trl>=0.29.1,!=1.15.0,<2"]\n'
        '[project.optional-dependencies]\n4bit = ["bitsandbytes>=0.46.1; sys_platform != \'nothing\'"]\ndev = ["pytest"]\n'
    )
    assert [(item.name, optional) for item, optional in requirements()] == [("trl", False), ("bitsandbytes", True)]
    assert all(status.ok for status in check_packages())


def test_unknown_ranges_are_an_error_not_an_empty_all_clear(site):
    site(own=None, trl="1.16.0")
    with pytest.raises(SetupError, match="not installed"):
        check_packages()


@pytest.mark.parametrize(
    ("versions", "trapped"),
    [
        ({"peft": "0.20.0", "torchao": "0.10.0"}, True),  # Colab 2026.08
        ({"peft": "0.18.1", "torchao": "0.10.0"}, False),  # Colab 2026.04: this peft does not mind
        ({"peft": "0.20.0", "torchao": "0.16.0"}, False),
        ({"peft": "0.20.0"}, False),
        ({"torchao": "0.10.0"}, False),
    ],
)
def test_torchao_is_hidden_only_where_it_breaks_lora(site, monkeypatch, versions, trapped):
    site(**versions)
    monkeypatch.delitem(sys.modules, "torchao", raising=False)
    assert old_torchao_blocks_lora() is trapped
    assert ("torchao" in by_name(check_packages())) is trapped
    try:
        assert hide_old_torchao() is trapped
        assert ("torchao" in sys.modules) is trapped
        if trapped:  # this is how peft asks
            assert importlib.util.find_spec("torchao") is None
            assert hide_old_torchao() is True
    finally:
        sys.modules.pop("torchao", None)


def test_torchao_trap_needs_no_action_of_the_user(site):
    site(trl="1.16.0", torch="2.11.0", peft="0.20.0", torchao="0.10.0")
    status = by_name(check_packages())["torchao"]
    assert status.ok and status.severity == "note" and "nothing to do" in status.meaning_en
