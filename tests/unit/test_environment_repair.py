"""The quick fix with a real pip (and uv where it is) on made-up packages, offline: only additions, refusals that name the pin."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from fake_packages import install_all, venv, wheel
from packaging.requirements import Requirement

from adslm_helpers.environment import repair
from adslm_helpers.environment.installed import Installed, read_installed
from adslm_helpers.environment.repair import plan_install, quick_fix
from adslm_helpers.environment.runtimes import described_runtime, runtime_names
from adslm_helpers.environment.trial import try_one_step
from adslm_helpers.errors import SetupError

ROOT = Path(__file__).parents[2]
FREEZES = ROOT.parent / "shared" / "data" / "colab_runtimes"
# As they declare it.
TRL_1 = ["accelerate>=1.4.0", "datasets>=4.7.0", "packaging>20.0", "transformers>=4.56.2"]
TRL_029 = ["accelerate>=1.4.0", "datasets>=3.0.0", "packaging>20.0", "transformers>=4.56.2"]
TRL_011 = ["torch>=1.4.0", "transformers>=4.40.0", "accelerate", "datasets", "tyro>=0.5.11"]
# What the install cell adds to a Colab runtime, as the made-up index offers it.
ADDED = {
    "trl": "0.29.1", "bitsandbytes": "0.50.2", "rapidfuzz": "3.14.6", "sacrebleu": "2.6.0", "portalocker": "4.4.2", "colorama": "0.4.6",
}  # fmt: skip
GOOD = [name for name in runtime_names() if "2025.07" not in name]
needs_uv = pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """What the package index offers: several TRL, the newer datasets and pyarrow that would replace Colab's, bitsandbytes."""
    folder = tmp_path_factory.mktemp("index")
    wheel(folder, "trl", "1.16.0", [*TRL_1, "pyarrow>=21.0.0"])
    wheel(folder, "trl", "1.0.0", TRL_1)
    wheel(folder, "trl", "0.29.1", TRL_029)
    wheel(folder, "trl", "0.11.4", TRL_011)
    wheel(folder, "datasets", "5.2.0", ["pyarrow>=21.0.0"])
    wheel(folder, "pyarrow", "26.0.1")
    wheel(folder, "transformers", "5.20.2")
    wheel(folder, "tyro", "0.9.0")
    wheel(folder, "bitsandbytes", "0.50.2", ["torch<3,>=2.4", "numpy>=1.17", "packaging>=20.9"])
    wheel(folder, "bitsandbytes", "0.42.0")
    wheel(folder, "sacrebleu", "2.6.0", ["portalocker", "regex", "tabulate>=0.8.9", "numpy>=1.17", "colorama", "lxml"])
    for name, version in ADDED.items():
        if name not in ("trl", "bitsandbytes", "sacrebleu"):
            wheel(folder, name, version)
    return folder


@pytest.fixture(autouse=True)
def offline(index, monkeypatch):
    """pip and uv know the made-up index alone; we are not on Colab unless a test says so."""
    for tool in ("PIP", "UV"):
        monkeypatch.setenv(f"{tool}_NO_INDEX", "1")
        monkeypatch.setenv(f"{tool}_FIND_LINKS", str(index))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)


def wanted(*lines: str) -> list[Requirement]:
    return [Requirement(line) for line in lines]


def environment(tmp_path, versions, requires=None, with_pip=True) -> tuple[str, Path]:
    python, site = venv(tmp_path / "venv", with_pip)
    install_all(site, {name: version for name, version in versions.items() if name != "pip"}, requires)
    return python, site


def install_as_the_notebook_does(python: str) -> None:
    """The install cell: pip with nothing that holds the other packages back."""
    command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(ROOT / "requirements-colab.txt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", GOOD)
def test_the_requirements_for_colab_add_what_it_lacks_and_change_nothing(tmp_path, monkeypatch, name):
    runtime = described_runtime(name)
    python, site = environment(tmp_path, runtime.versions, runtime.requires)
    before = read_installed([site]).versions
    install_as_the_notebook_does(python)
    assert read_installed([site]).versions == {**before, **ADDED}
    monkeypatch.setenv("COLAB_RELEASE_TAG", f"release-{name}")
    assert plan_install(python=python).nothing_to_do


@pytest.mark.skipif(not FREEZES.is_dir(), reason="the full freezes are not part of the project")
@pytest.mark.parametrize("name", GOOD)
def test_the_full_freezes_of_colab_are_left_alone_too(tmp_path, name):
    file = FREEZES / f"{name.removeprefix('colab-').replace('-', '.')}.txt"
    python, site = environment(
        tmp_path, dict(line.split("==") for line in file.read_text().split()), described_runtime(name).requires
    )
    before = read_installed([site]).versions
    install_as_the_notebook_does(python)
    assert read_installed([site]).versions == {**before, **ADDED} and len(before) > 600


def test_newer_requirements_would_replace_what_colab_has(tmp_path):
    """That the tests above can fail: the index does offer what trl 1.x drags in."""
    runtime = described_runtime(GOOD[-1])
    python, site = environment(tmp_path, runtime.versions, runtime.requires)
    subprocess.run([python, "-m", "pip", "install", "-q", "trl>=1"], check=True, capture_output=True)
    after = read_installed([site])
    assert (after.version("trl"), after.version("datasets"), after.version("pyarrow")) == ("1.16.0", "5.2.0", "26.0.1")


@pytest.mark.parametrize("with_pip", [True, pytest.param(False, marks=needs_uv)])
@pytest.mark.parametrize("name", [GOOD[0], GOOD[-1]])
def test_the_quick_fix_adds_the_same_with_pip_and_with_uv_and_then_has_nothing_to_do(tmp_path, monkeypatch, name, with_pip):
    runtime = described_runtime(name)
    python, site = environment(tmp_path, runtime.versions, runtime.requires, with_pip)
    monkeypatch.setenv("COLAB_RELEASE_TAG", f"release-{name}")
    before = read_installed([site]).versions
    done = quick_fix(plan_install(python=python), python, try_step=False)
    assert (done.plan.command[0] == "uv") is not with_pip
    assert done.added == ADDED
    assert read_installed([site]).versions == {**before, **done.added}
    again = plan_install(python=python)
    assert again.nothing_to_do and quick_fix(again, python).lines() == ["入れるものはありません。", "Nothing to install."]


def test_a_user_of_the_runtime_of_july_2025_is_told_to_switch_and_nothing_is_installed(tmp_path, monkeypatch):
    """Without the floor the resolver offers trl 0.11.4, which installs, changes nothing, and then crashes in train()."""
    runtime = described_runtime("colab-2025.07-gpu")
    python, site = environment(tmp_path, runtime.versions, runtime.requires)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20250725")
    with pytest.raises(SetupError, match=r"transformers==4\.53\.2.*Runtime > Change runtime type"):
        plan_install(python=python)
    assert read_installed([site]).version("trl") is None


@pytest.mark.parametrize("with_pip", [True, pytest.param(False, marks=needs_uv)])
def test_an_impossible_request_is_refused_with_the_pin_in_the_way(tmp_path, with_pip):
    runtime = described_runtime("colab-2026.08-gpu")
    python, site = environment(tmp_path, runtime.versions, runtime.requires, with_pip)
    plan = plan_install(python=python, wanted=wanted("trl>=1.0,<2"))
    with pytest.raises(SetupError) as caught:
        quick_fix(plan, python)
    assert "datasets==4.0.0" in caught.value.ja and "datasets==4.0.0" in caught.value.en
    assert "datasets>=4.7.0" in caught.value.en and "torch==" not in caught.value.en
    assert read_installed([site]).version("trl") is None


def test_a_package_that_is_there_in_the_wrong_version_is_not_replaced(tmp_path):
    python, _ = environment(tmp_path, {"trl": "0.18.1", "transformers": "5.15.0"})
    with pytest.raises(SetupError, match=r"trl==0\.18\.1"):
        plan_install(python=python, wanted=wanted("trl>=0.7.11"))  # in that range, but not with these transformers


def test_what_the_installed_transformers_cannot_use_is_not_offered(tmp_path):
    python, _ = environment(
        tmp_path, {"transformers": "4.53.2", "accelerate": "1.8.1", "datasets": "2.14.4", "packaging": "24.2"}
    )
    plan = plan_install(python=python, wanted=wanted("trl>=0.7.11,<2"))
    assert not Requirement(plan.missing[0]).specifier.contains("0.11.4")
    with pytest.raises(SetupError, match=r"trl"):  # the index has no TRL between 0.14 and 0.24
        quick_fix(plan, python)


def test_every_installed_package_is_pinned_with_its_local_version():
    there = Installed({"torch": "2.11.0+cu128", "odd": "2.0-debian-x", "pip": "24.1.2"}, python="3.12")
    plan = plan_install(installed=there, wanted=wanted("bitsandbytes>=0.46.1"))
    assert plan.constraints == ("pip==24.1.2", "torch==2.11.0+cu128")  # what is no version cannot be written as a pin


def test_the_command_can_be_pasted_into_a_terminal():
    plan = plan_install(installed=Installed({"pip": "24"}), wanted=wanted("trl>=0.29.1,<1"))
    assert '"trl' in plan.lines()[-1] and plan.lines()[-1].endswith("-c constraints.txt")


def test_an_optional_package_that_the_recipe_needs_is_installed_without_the_marker_of_its_extra(tmp_path):
    """'bitsandbytes; extra == "quantization"' is skipped by pip, which then reports success."""
    python, site = environment(
        tmp_path,
        {**described_runtime("colab-2026.08-gpu").versions, **{name: ADDED[name] for name in ADDED if name != "bitsandbytes"}},
    )
    plan = plan_install(("bitsandbytes",), python=python)
    assert plan.missing == ("bitsandbytes>=0.46.1",) and plan_install(python=python).nothing_to_do
    quick_fix(plan, python, try_step=False)
    assert read_installed([site]).version("bitsandbytes") == "0.50.2"


def test_what_a_training_imports_gets_back_what_it_lacks(tmp_path):
    """An interrupted uninstall left transformers without tokenizers: that is an addition too."""
    there = Installed({"pip": "24", "transformers": "5.20.2"}, {"transformers": ["tokenizers<0.24,>=0.22"]}, "3.12")
    assert "tokenizers<0.24,>=0.22" in plan_install(installed=there).missing
    colab = described_runtime("colab-2026.08-gpu")  # its own missing jedi is left alone
    assert plan_install(installed=colab).missing == ("rapidfuzz>=3.0", "sacrebleu>=2.4", "trl<1,>=0.29.1", "bitsandbytes>=0.46.1")


def test_an_installer_that_does_nothing_is_found_out(tmp_path, monkeypatch):
    python, _ = environment(tmp_path, {})
    monkeypatch.setattr(repair, "_install", lambda plan: None)
    with pytest.raises(SetupError, match="bitsandbytes is still missing"):
        quick_fix(plan_install(python=python, wanted=wanted("bitsandbytes")), python, try_step=False)


def test_an_installer_that_replaces_something_is_found_out(tmp_path, monkeypatch):
    """The promise is checked on the disk, not believed."""
    python, site = environment(tmp_path, {"numpy": "2.0.2"})
    monkeypatch.setattr(repair, "_install", lambda plan: (site / "numpy-2.0.2.dist-info").rename(site / "old") and None)
    with pytest.raises(SetupError, match=r"numpy 2\.0\.2 -> -"):
        quick_fix(plan_install(python=python, wanted=wanted("trl")), python, try_step=False)


def test_a_failing_trial_step_is_told_with_its_reason(tmp_path):
    python, _ = environment(tmp_path, {})  # an environment without any library
    with pytest.raises(SetupError, match=r"one LoRA step.*No module named"):
        try_one_step(python)


def test_after_a_failing_trial_the_user_knows_what_was_added(tmp_path):
    python, _ = environment(tmp_path, {})
    with pytest.raises(SetupError, match=r"LoRA step failed: .*added: tyro 0\.9\.0; nothing else"):
        quick_fix(plan_install(python=python, wanted=wanted("tyro")), python)


def test_no_installer_at_all_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr(repair.shutil, "which", lambda name: None)
    monkeypatch.setattr(repair.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="ensurepip"):
        plan_install(installed=Installed({}), wanted=wanted("trl"))


def test_an_interpreter_that_is_not_there_is_a_mistake_with_a_name(tmp_path):
    with pytest.raises(SetupError, match="nowhere"):
        plan_install(python=str(tmp_path / "nowhere"))


def test_restart_only_where_something_that_is_loaded_has_looked_for_it(monkeypatch):
    for name in ("transformers", "peft", "accelerate", "bitsandbytes", "trl"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert repair._restart({"trl": "0.29.1", "bitsandbytes": "0.50.2"}) is None
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    assert repair._restart({"trl": "0.29.1"}) is None
    assert "transformers" in repair._restart({"bitsandbytes": "0.50.2"})[1]
    monkeypatch.setitem(sys.modules, "trl", ModuleType("trl"))
    sys.modules["trl"].__version__ = "0.11.4"
    assert "0.11.4" in repair._restart({"trl": "0.29.1"})[1]
