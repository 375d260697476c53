"""The report: readable, complete, honest about what is wrong, and safe to show as HTML."""

import json
import sys

import pytest

from adslm_helpers.environment import report as report_module
from adslm_helpers.environment.conflicts import Finding
from adslm_helpers.environment.doctor import Diagnosis
from adslm_helpers.environment.machine import Probe
from adslm_helpers.environment.packages import PackageStatus
from adslm_helpers.environment.repair import InstallPlan
from adslm_helpers.environment.report import environment_report
from adslm_helpers.environment.runtimes import Drift
from adslm_helpers.errors import SetupError
from adslm_helpers.recipe import load_recipe

T4 = Probe("cuda", "Tesla T4", (7, 5), 14.56, torch="2.11.0+cu128", ram_gb=12.7)
GOOD = PackageStatus("trl", "1.16.0", ">=0.29.1", "ok", "DPO 学習に使えます。", "fit for DPO training.")
NOTE = Finding("note", "torchao", "torchao", "作業は要りません。", "nothing to do.")
BAD = Finding("problem", "missing", "peft", "入っていません。→ 入れてください。", "absent. -> Install it.")
HARMLESS = Finding("harmless", "conflict", "fastai", "そのままで構いません。", "leave it.")
NOTHING = InstallPlan((), (), ())


def found(*findings: Finding):
    return lambda installed, needed=(): Diagnosis(installed, [GOOD], list(findings), Drift("", []))


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A T4 machine off Colab with a good package, roomy disk; each test breaks one thing."""
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    monkeypatch.setattr(report_module, "probe_machine", lambda: T4)
    monkeypatch.setattr(report_module, "diagnose", found(NOTE))
    monkeypatch.setattr(report_module, "plan_install", lambda needed, installed: NOTHING)
    monkeypatch.setattr(report_module, "_free_disk_gb", lambda: 77.0)


def test_ready_machine_says_device_reason_and_next_step():
    report = environment_report(load_recipe("colab_t4"))
    text = "\n".join(report.lines())
    assert report.ok
    for part in (
        "Tesla T4",
        "float16 AMP",
        "14.6 GiB",
        "77.0 GiB",
        report.plan.reason_ja,
        "準備ができています",
        "Ready",
        NOTE.ja,
    ):
        assert part in text, part
    assert len(report.lines()) <= 12


def test_preset_that_does_not_fit_shows_the_device_and_the_problem():
    report = environment_report(load_recipe("colab_l4"))
    assert report.plan.device == "cuda" and not report.ok
    assert any("colab_t4" in line for line in report.lines())
    assert not any("Ready" in line for line in report.lines())


def test_broken_package_is_a_problem_in_both_languages(monkeypatch):
    monkeypatch.setattr(report_module, "diagnose", found(BAD, HARMLESS))
    report = environment_report()
    assert report.problems == [("peft: 入っていません。→ 入れてください。", "peft: absent. -> Install it.")]


def test_what_is_harmless_is_named_in_one_line_and_is_no_problem(monkeypatch):
    monkeypatch.setattr(report_module, "diagnose", found(HARMLESS))
    report = environment_report()
    assert report.ok and any("fastai" in line and "Harmless" in line for line in report.lines())


def test_what_moved_since_the_runtime_was_made_is_one_line_however_much_it_is(monkeypatch):
    moved = [Finding("note", "moved", name, "新しい。", "newer.") for name in ("torch", "datasets", "pyarrow")]
    monkeypatch.setattr(report_module, "diagnose", found(*moved))
    (line,) = [line for line in environment_report().lines() if "pyarrow" in line]
    assert "torch, datasets, pyarrow" in line and "00_setup" in line


def test_4bit_recipe_makes_bitsandbytes_required(monkeypatch):
    asked = []
    monkeypatch.setattr(report_module, "diagnose", lambda installed, needed: asked.append(needed) or found()(installed))
    environment_report(load_recipe("colab_t4"))
    environment_report(load_recipe("tiny"))
    assert asked == [("bitsandbytes",), ()]


def refuse(*_arguments, **_keywords):
    raise SetupError("だめです。→ 直してください。", "No. -> Mend it.")


def test_absent_torch_and_unknown_ranges_are_reported_not_raised(monkeypatch):
    monkeypatch.setattr(report_module, "probe_machine", refuse)
    monkeypatch.setattr(report_module, "diagnose", refuse)
    report = environment_report()
    assert report.plan is None and report.diagnosis is None and len(report.problems) == 2 and report.lines()
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["diagnosis"] is None


def test_a_repair_that_is_impossible_is_a_problem_unless_one_says_so_already(monkeypatch):
    monkeypatch.setattr(report_module, "plan_install", refuse)
    assert environment_report().problems == [("だめです。→ 直してください。", "No. -> Mend it.")]
    monkeypatch.setattr(report_module, "diagnose", found(BAD))
    assert [ja.split(":")[0] for ja, _ in environment_report().problems] == ["peft"]


def test_without_probing_torch_stays_out(monkeypatch):
    monkeypatch.setattr(report_module, "probe_machine", lambda: pytest.fail("asked torch"))
    assert environment_report(probe_torch=False).plan is None


def test_full_disk_is_found_before_the_download(monkeypatch):
    monkeypatch.setattr(report_module, "_free_disk_gb", lambda: 3.0)
    assert environment_report(load_recipe("tiny")).ok
    assert not environment_report(load_recipe("colab_t4")).ok


def test_disk_is_measured_where_the_runs_will_be(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("ADSLM_RUNS", str(tmp_path / "not" / "yet"))
    asked = []
    real = report_module.shutil.disk_usage
    monkeypatch.setattr(report_module.shutil, "disk_usage", lambda path: asked.append(path) or real(path))
    assert report_module._free_disk_gb() > 0 and asked == [tmp_path.resolve()]


def test_dictionary_is_json_without_tokens(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret0123")
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20260815")
    value = environment_report().to_dict()
    text = json.dumps(value, allow_nan=False)
    assert value["colab"] == "release-colab_20260815" and value["plan"]["fp16"] is True and value["packages"][0]["ok"] is True
    assert "hf_secret" not in text


def test_html_is_escaped(monkeypatch):
    monkeypatch.setattr(report_module, "processor_name", lambda: "<script>alert(1)</script>")
    monkeypatch.setattr(report_module, "diagnose", found(Finding("problem", "missing", "x", "<b>", "<i>")))
    shown = environment_report()._repr_html_()
    assert "<script>" not in shown and "<b>" not in shown and "&lt;script&gt;" in shown


def test_as_if_a_colab_runtime_asks_for_its_machine_and_its_torch(monkeypatch):
    monkeypatch.setattr(report_module, "probe_machine", lambda: pytest.fail("asked this machine"))
    report = environment_report(load_recipe("colab_t4"), as_if="colab-2026.04-gpu")
    assert (report.probe.name, report.probe.torch, report.python) == ("Tesla T4", "2.10.0+cu128", "3.12")
    assert report.plan.compute_dtype == "float16" and report.colab == "colab-2026.04-gpu" and report.disk_free_gb is None
    assert environment_report(as_if="colab-2026.08-cpu").plan.device == "cpu"
    assert report.lines()[0].endswith("colab-2026.04-gpu")


def test_as_if_a_machine_keeps_the_packages_of_this_one(monkeypatch):
    report = environment_report(as_if="apple-m1-16gb")
    assert report.plan.device == "mps" and report.colab is None and report.diagnosis.installed.described == ""
    assert "Apple M1" in "\n".join(report.lines()) and "Darwin" in report.system


def test_an_unknown_name_lists_what_can_be_asked_for():
    with pytest.raises(SetupError, match=r"colab-2026\.08-gpu.*apple-m2-8gb"):
        environment_report(as_if="colab-2031.01")


def test_what_torch_was_told_on_an_apple_chip_can_be_read(monkeypatch):
    monkeypatch.setattr(report_module, "probe_machine", lambda: Probe("mps", "Apple M1", memory_gb=16.0, macos=(15, 6)))
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    monkeypatch.delenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO", raising=False)
    report = environment_report()
    (line,) = [line for line in report.lines() if line.startswith("MPS")]
    assert "PYTORCH_ENABLE_MPS_FALLBACK=1" in line and "HIGH_WATERMARK_RATIO=(未設定" in line
    assert report.to_dict()["mps"]["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"


def test_no_word_of_mps_elsewhere():
    assert not any(line.startswith("MPS") for line in environment_report().lines())


def test_the_settings_named_are_those_that_are_made():
    from adslm_helpers.environment import device

    assert set(report_module.MPS_ENVIRONMENT) == {"PYTORCH_ENABLE_MPS_FALLBACK", *device._WATERMARKS}
