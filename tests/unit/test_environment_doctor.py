"""The doctor on made-up installations and described runtimes: every finding says what it means, and harmless things stay harmless."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from fake_packages import install_all

from adslm_helpers.environment.conflicts import MOVED_BY, absent_needs
from adslm_helpers.environment.doctor import diagnose, loaded_version
from adslm_helpers.environment.installed import Installed, read_installed
from adslm_helpers.environment.runtimes import described_runtime, runtime_names

ROOT = Path(__file__).parents[2]
GOOD = {
    "torch": "2.13.0", "transformers": "5.20.2", "trl": "1.16.0", "peft": "0.21.2", "accelerate": "1.15.0", "datasets": "5.1.0",
    "safetensors": "0.8.0", "numpy": "2.4.6", "pandas": "3.1.0", "matplotlib": "3.11.2", "ipywidgets": "8.1.9", "pyyaml": "6.0.3",
    "packaging": "26.3", "psutil": "7.2.2", "jinja2": "3.1.6", "tensorboard": "2.21.0",
    "duckdb": "2.0.1", "openpyxl": "3.1.5", "rapidfuzz": "3.14.6", "sacrebleu": "2.6.0",
}  # fmt: skip

# By the install cell, on Colab.
INSTALLED = {
    "trl": "0.29.1", "bitsandbytes": "0.50.2", "rapidfuzz": "3.14.6", "sacrebleu": "2.6.0", "portalocker": "4.4.2", "colorama": "0.4.6",
}  # fmt: skip


def there(colab=None, requires=None, leftovers=(), described="made-up", **versions) -> Installed:
    changed = {name.replace("_", "-"): version for name, version in versions.items()}
    kept = {name: version for name, version in {**GOOD, **changed}.items() if version is not None}
    return Installed(kept, requires or {}, "3.12", colab, described, leftovers)


def runtime(name="colab-2026.08-gpu", **changed) -> Installed:
    """A Colab runtime after a working install cell, with versions changed by somebody."""
    known = described_runtime(name)
    versions = {**INSTALLED, **{n.replace("_", "-"): version for n, version in changed.items()}}
    return Installed({**known.versions, **versions}, known.requires, known.python, known.colab, name)


def kinds(diagnosis, severity):
    return {(finding.kind, finding.package) for finding in diagnosis.findings if finding.severity == severity}


def only(diagnosis, kind):
    (finding,) = [finding for finding in diagnosis.findings if finding.kind == kind]
    return finding


def test_a_good_set_has_nothing_to_mend():
    diagnosis = diagnose(there())
    assert diagnosis.problems == [] and kinds(diagnosis, "note") == {("optional", "bitsandbytes")}
    assert diagnose(there(bitsandbytes="0.50.2")).rows()[0][""] == "OK"


@pytest.mark.parametrize("name", [name for name in runtime_names() if "2025.07" not in name])
def test_a_fresh_colab_lacks_three_packages_and_its_own_oddities_are_harmless(name):
    diagnosis = diagnose(described_runtime(name))
    assert kinds(diagnosis, "problem") == {("missing", name) for name in ("trl", "rapidfuzz", "sacrebleu")}
    assert kinds(diagnosis, "harmless") == {("conflict", "ipython"), ("wandb", "wandb")}
    assert "do not mend" in only(diagnosis, "conflict").en and "report_to" in only(diagnosis, "wandb").en
    assert kinds(diagnose(runtime(name)), "problem") == set()


def test_the_torchao_trap_is_a_note_where_it_bites_and_nothing_elsewhere():
    assert ("torchao", "torchao") in kinds(diagnose(runtime("colab-2026.07-gpu")), "note")
    assert ("torchao", "torchao") not in kinds(diagnose(runtime("colab-2026.04-gpu")), "note")


def test_a_runtime_that_is_too_old_is_one_problem_with_one_remedy():
    diagnosis = diagnose(described_runtime("colab-2025.07-gpu"))
    assert kinds(diagnosis, "problem") == {("runtime", "transformers")}
    (problem,) = diagnosis.problems
    assert "4.53.2" in problem.en and "Runtime > Change runtime type" in problem.en and "ランタイムのバージョン" in problem.ja


def test_an_old_runtime_that_an_upgrade_got_going_is_still_told_to_switch():
    """The install cell's pip replaces transformers there, because nothing holds it back."""
    old = described_runtime("colab-2025.07-gpu")
    versions = {**old.versions, **INSTALLED, "transformers": "5.20.2", "datasets": "5.1.0", "tokenizers": "0.22.2"}
    diagnosis = diagnose(Installed({**versions, "huggingface-hub": "2.2.0"}, {}, "3.11", "release-colab_20250725", "old"))
    assert diagnosis.problems == [] and "Change runtime type" in only(diagnosis, "runtime").en
    assert not [f for f in diagnose(described_runtime("colab-2025.10-cpu")).findings if f.kind == "runtime"]


def test_a_new_trl_on_a_runtime_that_is_too_old_does_not_hide_that(monkeypatch):
    """`pip install --no-deps` puts trl 0.29.1 there; it does not start with transformers 4.53.2."""
    requires = {"trl": ["transformers>=4.56.2"]}
    old = described_runtime("colab-2025.07-gpu")
    diagnosis = diagnose(Installed({**old.versions, "trl": "0.29.1"}, {**old.requires, **requires}, "3.11", old.colab, "old"))
    assert kinds(diagnosis, "problem") == {("runtime", "transformers")}


def test_what_this_project_itself_needs_is_said_once_and_never_called_harmless():
    diagnosis = diagnose(there(requires={"adslm-helpers": ["peft>=0.13", "torch>=9"]}, adslm_helpers="0.1.0", peft=None))
    assert kinds(diagnosis, "harmless") == set() and not [f for f in diagnosis.findings if f.kind == "conflict"]
    assert kinds(diagnosis, "problem") == {("missing", "peft")}


@pytest.mark.parametrize(
    ("trl", "transformers", "fine"),
    [("0.18.1", "5.15.0", False), ("0.28.0", "5.0.0", False), ("0.29.1", "5.15.0", True), ("0.11.4", "4.53.2", False), ("0.24.0", "4.57.1", True)],
)  # fmt: skip
def test_a_trl_that_installs_and_then_crashes_is_found(trl, transformers, fine, monkeypatch):
    diagnosis = diagnose(there(trl=trl, transformers=transformers))
    found = [finding for finding in diagnosis.problems if finding.kind == "trl"]
    assert (found == []) is fine
    assert all(trl in finding.en and transformers in finding.ja for finding in found)


def test_the_two_messages_of_the_guide_are_reproduced_and_explained():
    """fastai 2.7.19 / torch 2.7.1 and gcsfs 2025.3.2 / fsspec 2025.3.0: what pip prints in red after the guide's upgrades."""
    before = described_runtime("colab-2025.07-gpu")
    versions = {**before.versions, "torch": "2.7.1", "fsspec": "2025.3.0", "torchvision": "0.22.1"}
    requires = {**before.requires, "torchvision": ["torch==2.7.1"]}
    after = Installed(versions, requires, "3.11", before.colab, before.described)
    found = {f.package: f for f in diagnose(after).findings if f.kind == "conflict" and f.package != "ipython"}
    assert set(found) == {"fastai", "gcsfs"} and all(finding.severity == "harmless" for finding in found.values())
    assert re.search(r"fastai 2\.7\.19 wants torch<2\.7,>=1\.10; 2\.7\.1 is there", found["fastai"].en)
    assert re.search(r"gcsfs 2025\.3\.2 wants fsspec==2025\.3\.2; 2025\.3\.0 is there", found["gcsfs"].en)
    assert "pip install --upgrade torch" in found["fastai"].en and "pip install --upgrade datasets" in found["gcsfs"].ja
    assert all("does not use" in finding.en and "使わない" in finding.ja for finding in found.values())


def test_torch_upgraded_alone_leaves_a_torchvision_that_stops_everything():
    diagnosis = diagnose(runtime(torch="2.13.0"))
    (problem,) = diagnosis.problems
    assert problem.package == "torchvision" and "--upgrade torch" in problem.en and "Disconnect and delete" in problem.en


def test_torch_of_another_cuda_generation_is_found_although_the_version_is_right():
    diagnosis = diagnose(runtime(torch="2.11.0+cu130"))
    assert [problem.package for problem in diagnosis.problems] == ["torchvision"] and "CUDA" in diagnosis.problems[0].ja
    assert diagnose(runtime(torch="2.11.0+cu126")).problems == []  # the same generation


def test_what_pip_install_upgrade_trl_did_to_colab_is_said():
    diagnosis = diagnose(runtime(datasets="5.2.0", pyarrow="26.0.1", huggingface_hub="1.33.0"))
    moved = {finding.package: finding for finding in diagnosis.findings if finding.kind == "moved"}
    assert set(moved) == {"datasets", "pyarrow", "huggingface-hub"}
    assert "18.1.0" in moved["pyarrow"].en and "pip install --upgrade trl" in moved["pyarrow"].ja


def test_a_newer_release_of_colab_is_no_accusation():
    """Versions that moved with a release that is not known yet are drift, not findings."""
    newer = runtime(transformers="5.16.0")
    newer = Installed(newer.versions, newer.requires, "3.13", "release-colab_20261105-060047_RC00")
    diagnosis = diagnose(newer)
    assert [move.name for move in diagnosis.drift.moves] == ["transformers"]
    assert not [finding for finding in diagnosis.findings if finding.kind == "moved"]


def test_a_conflict_among_what_trains_is_a_problem_and_among_the_rest_is_not():
    requires = {"transformers": ["tokenizers<0.22"], "gradio": ["pandas<3"], "ipywidgets": ["comm"]}
    diagnosis = diagnose(there(requires=requires, tokenizers="0.23.0", gradio="5.0.0"))
    assert kinds(diagnosis, "problem") == {("conflict", "transformers")}
    assert kinds(diagnosis, "harmless") == {("conflict", "gradio")}
    assert ("conflict", "ipywidgets") in kinds(diagnosis, "note") and "forms" in only(
        diagnose(there(requires={"ipywidgets": ["comm"]})), "conflict"
    ).en
    assert absent_needs(diagnosis.installed) == []


def test_wandb_without_its_needs_breaks_the_import_of_trl_although_nobody_uses_it():
    """Measured: `from trl import DPOTrainer` imports wandb wherever it is, and died of its missing pydantic."""
    diagnosis = diagnose(there(requires={"wandb": ["pydantic<3,>=2.6", "click>=8"]}, wandb="0.28.1", click="7.0"))
    assert kinds(diagnosis, "problem") == {("conflict", "wandb")} and "pydantic" in diagnosis.problems[0].en
    assert [str(requirement) for requirement in absent_needs(diagnosis.installed)] == ["pydantic<3,>=2.6"]


def test_trl_beside_what_its_metadata_refuses_is_harmless_where_it_was_measured():
    requires = {"trl": ["datasets>=4.7.0", "missing-thing"]}
    diagnosis = diagnose(there(requires=requires, datasets="4.0.0"))
    assert {finding.severity: finding.en for finding in diagnosis.findings if finding.kind == "conflict"}.keys() == {
        "harmless",
        "problem",
    }


def test_a_leftover_of_an_interrupted_pip_is_no_second_torch(tmp_path):
    install_all(tmp_path, {"torch": "2.13.0", "~orch": "2.6.0"})
    (tmp_path / "~orch-2.6.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.6.0\n")
    found = read_installed([tmp_path])
    assert found.versions == {"torch": "2.13.0"} and found.leftovers == ("~orch-2.6.0.dist-info",)
    finding = only(diagnose(there(leftovers=found.leftovers)), "leftover")
    assert finding.severity == "harmless" and "~orch" in finding.ja


def test_a_package_replaced_under_a_running_process_asks_for_a_restart(monkeypatch):
    module = ModuleType("pyarrow")
    module.__version__ = "18.1.0"
    monkeypatch.setitem(sys.modules, "pyarrow", module)
    requires = {"datasets": ["pyarrow>=21"]}
    finding = only(diagnose(there(requires=requires, pyarrow="26.0.1", described="")), "restart")
    assert finding.severity == "problem" and "18.1.0" in finding.en and "26.0.1" in finding.en and "再起動" in finding.ja
    assert not [
        f for f in diagnose(there(requires=requires, pyarrow="18.1.0+local", described="")).findings if f.kind == "restart"
    ]
    assert not [f for f in diagnose(there(requires=requires, pyarrow="26.0.1")).findings if f.kind == "restart"]  # described


def test_modules_are_looked_up_by_the_name_they_are_imported_under(monkeypatch):
    for package, module in (("pyyaml", "yaml"), ("huggingface-hub", "huggingface_hub")):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
        assert loaded_version(package) is None  # it does not say
        sys.modules[module].__version__ = "1"
        assert loaded_version(package) == "1"


def test_problems_come_first_and_every_finding_speaks_both_languages():
    diagnosis = diagnose(runtime(torch="2.13.0", datasets="5.2.0"))
    order = [finding.severity for finding in diagnosis.findings]
    assert order == sorted(order, key=["problem", "note", "harmless"].index) and len(set(order)) == 3
    assert all(re.search("[ぁ-ん]", finding.ja) and re.search("[a-z]{3}", finding.en) for finding in diagnosis.findings)
    assert all("→" in finding.ja and "->" in finding.en for finding in diagnosis.problems)
    assert [row["package"] for row in diagnosis.rows()] == [finding.package for finding in diagnosis.findings]
    json.dumps(diagnosis.to_dict(), allow_nan=False)


def test_the_doctor_imports_none_of_the_packages_it_looks_at():
    code = (
        "import sys; from adslm_helpers.environment.doctor import diagnose; diagnose()\n"
        "print(sorted({'torch', 'transformers', 'trl', 'peft', 'datasets', 'pandas', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_command_named_as_the_cause_exists_for_both_messages_of_the_guide():
    assert {"torch", "fsspec"} <= set(MOVED_BY)
