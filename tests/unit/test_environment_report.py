"""The report: readable, complete, honest about what is wrong, and safe to show as HTML."""

import json
import sys

import pytest

from adslm_helpers.environment import report as report_module
from adslm_helpers.environment.machine import Probe
from adslm_helpers.environment.packages import PackageStatus
from adslm_helpers.environment.report import environment_report
from adslm_helpers.errors import SetupError
from adslm_helpers.recipe import load_recipe

T4 = Probe("cuda", "Tesla T4", (7, 5), 14.56, torch="2.11.0+cu128", ram_gb=12.7)
GOOD = PackageStatus("trl", "1.16.0", ">=0.29.1", "ok", "DPO 学習に使えます。", "fit for DPO training.")
NOTE = PackageStatus("torchao", "0.10.0", ">=0.16", "note", "作業は要りません。", "nothing to do.")
BAD = PackageStatus("peft", None, ">=0.13", "problem", "入っていません。→ 入れてください。", "absent. -> Install it.")


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A T4 machine off Colab with a good package, roomy disk; each test breaks one thing."""
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    monkeypatch.setattr(report_module, "probe_machine", lambda: T4)
    monkeypatch.setattr(report_module, "check_packages", lambda needed=(): [GOOD, NOTE])
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
        NOTE.meaning_ja,
    ):
        assert part in text, part
    assert len(report.lines()) <= 12


def test_preset_that_does_not_fit_shows_the_device_and_the_problem():
    report = environment_report(load_recipe("colab_l4"))
    assert report.plan.device == "cuda" and not report.ok
    assert any("colab_t4" in line for line in report.lines())
    assert not any("Ready" in line for line in report.lines())


def test_broken_package_is_a_problem_in_both_languages(monkeypatch):
    monkeypatch.setattr(report_module, "check_packages", lambda needed=(): [GOOD, BAD])
    report = environment_report()
    assert report.problems == [("peft: 入っていません。→ 入れてください。", "peft: absent. -> Install it.")]
    assert "2 個中 1 個" in "\n".join(report.lines())


def test_4bit_recipe_makes_bitsandbytes_required(monkeypatch):
    asked = []
    monkeypatch.setattr(report_module, "check_packages", lambda needed=(): asked.append(needed) or [])
    environment_report(load_recipe("colab_t4"))
    environment_report(load_recipe("tiny"))
    assert asked == [("bitsandbytes",), ()]


def test_absent_torch_and_unknown_ranges_are_reported_not_raised(monkeypatch):
    def refuse(*_args, **_keywords):
        raise SetupError("だめです。→ 直してください。", "No. -> Mend it.")

    monkeypatch.setattr(report_module, "probe_machine", refuse)
    monkeypatch.setattr(report_module, "check_packages", refuse)
    report = environment_report()
    assert report.plan is None and len(report.problems) == 2 and report.lines()


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
    monkeypatch.setattr(report_module, "check_packages", lambda needed=(): [PackageStatus("x", "1", "", "problem", "<b>", "<i>")])
    shown = environment_report()._repr_html_()
    assert "<script>" not in shown and "<b>" not in shown and "&lt;script&gt;" in shown
