"""The diagnosis of trainings that really went wrong (tests/data/broken_runs), and of made-up ones of ours."""

import json
import shutil
from pathlib import Path

import pytest

from adslm_helpers.run import Run, write_json, write_jsonl
from adslm_helpers.training.history import Alarm, append_row, write_alarm
from adslm_helpers.watching.analyze import analyze

BROKEN = Path(__file__).parents[1] / "data" / "broken_runs"


def quiet(rows, beta):
    return []


def told(analysis):
    return "\n".join(analysis.lines())


@pytest.mark.parametrize(
    ("name", "kind", "step", "words"),
    [
        ("nan-forward", "nan_forward", 1, "never the learning rate"),
        ("nan-gradient", "poisoned", 5, "hide NaN"),
        ("lr-too-big", "learning_rate_too_high", 2, "Train again with a third"),
        ("killed", "killed", 8, "it goes on from step 6"),
        ("stopped", "not_finite", 5, "the alarms say why"),
        ("recovered", "not_finite", 5, "half the learning rate"),
    ],
)
def test_the_first_bad_step_and_its_cause(name, kind, step, words):
    analysis = analyze(BROKEN / name, quiet)
    assert (analysis.first_bad.kind, analysis.first_bad.step) == (kind, step) and analysis.findings[0].kind == kind
    assert f"First bad step: {step}" in told(analysis) and words in told(analysis)
    value = json.loads(json.dumps(analysis.to_dict(), allow_nan=False))
    assert value["first_bad_step"] == step and value["healthy"] is False


def test_a_run_in_which_no_weight_moves_is_not_called_healthy():
    analysis = analyze(BROKEN / "frozen")
    assert analysis.first_bad.kind == "frozen" and analysis.first_bad.step == 2 and "no weight moves" in told(analysis)


@pytest.mark.parametrize("name", ["plain-trl", "llama-factory"])
def test_a_healthy_log_is_called_so_and_nothing_more(name):
    analysis = analyze(BROKEN / name, quiet)
    assert analysis.first_bad is None and analysis.findings == []
    assert "as far as the log tells" in told(analysis) and "adslm check" in told(analysis), "numbers say nothing of the texts"


def test_the_last_checkpoint_of_a_training_that_went_no_further_says_so():
    analysis = analyze(BROKEN / "plain-trl" / "checkpoint-16", quiet)
    assert [finding.kind for finding in analysis.findings] == ["ends_early"] and "16 of 32" in told(analysis)


def test_drift_is_asked_only_for_the_part_of_the_log_that_can_be_judged():
    asked = []

    def drift(rows, beta):
        asked.append((rows, beta))
        return [Alarm(3, "saturated", "warning", "差が開ききりました", "saturated", {"margin": 9.0})]

    analysis = analyze(BROKEN / "nan-gradient", drift)
    rows, beta = asked[0]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4] and beta is None
    assert {finding.kind for finding in analysis.findings} == {"poisoned", "saturated"} and "margin 9" in told(analysis)
    analyze(BROKEN / "killed", drift)
    assert asked[1][1] == 0.1, "beta of a run of ours"


@pytest.fixture
def run():
    made = Run("spring")
    made.update(steps={"training": {"status": "done"}})
    write_json(made.training / "result.json", {"resumed_from": 0})
    write_jsonl(made.training / "history.jsonl", [{"step": n, "loss": 0.7 - 0.01 * n, "grad_norm": 1.0} for n in range(1, 21)])
    return made


def test_a_run_is_analyzed_by_its_name(run):
    analysis = analyze("spring", quiet)
    assert analysis.log.run.name == "spring" and analysis.first_bad is None
    append_row(run.training / "health.jsonl", {"step": 20, "healthy": True})
    assert "adslm check" not in told(analyze("spring", quiet)), "this one looked at its texts itself"


def test_alarms_are_told_once_a_kind_at_their_first_step_and_their_worst(run):
    for step, severity in ((6, "warning"), (12, "stop"), (18, "warning")):
        write_alarm(run.training, Alarm(step, "loops", severity, "文がくり返しています", "texts loop", {"share": 0.5}))
    write_alarm(run.training, Alarm(4, "saturated", "note", "開ききりました", "all told apart"))
    analysis = analyze("spring", lambda rows, beta: [Alarm(9, "saturated", "note", "x", "x")])
    assert [(one.kind, one.step, one.severity) for one in analysis.findings] == [("loops", 6, "stop"), ("saturated", 4, "note")]
    assert "3 times, last at step 18" in told(analysis) and "First bad step: 6 (loops)" in told(analysis)


def test_what_a_run_recovered_from_did_not_stop_it_and_what_came_after_did(run):
    assert [finding.severity for finding in analyze(BROKEN / "recovered", quiet).findings] == ["warning", "warning"]
    run.update(steps={"training": {"status": "failed"}})
    append_row(run.training / "recoveries.jsonl", {"step": 4, "cause": "once", "remedy": "x", "ja": "半分", "en": "half"})
    for step, kind, severity in ((5, "out_of_memory", "stop"), (4, "recovery", "note"), (9, "not_finite", "stop")):
        write_alarm(run.training, Alarm(step, kind, severity, "警報", "alarm"))
    severities = {finding.kind: finding.severity for finding in analyze("spring", quiet).findings}
    assert severities == {"out_of_memory": "warning", "recovered": "warning", "not_finite": "stop", "failed": "stop"}


def test_recoveries_and_unhealthy_texts_are_findings(run):
    row = {
        "step": 7,
        "cause": "out_of_memory",
        "remedy": "batch 4 -> 2",
        "ja": "メモリ不足で半分にしました",
        "en": "half the batch",
    }
    append_row(run.training / "recoveries.jsonl", row)
    append_row(run.training / "health.jsonl", {"step": 20, "healthy": False, "reasons": ["loops"]})
    analysis = analyze("spring", quiet)
    assert [finding.kind for finding in analysis.findings] == ["recovered", "texts_unhealthy"]
    assert "out_of_memory -> batch 4 -> 2" in told(analysis)


@pytest.mark.parametrize(
    ("status", "kind"), [("running", "running_or_killed"), ("interrupted", "interrupted"), ("failed", "failed")]
)
def test_how_a_run_of_ours_ended(run, status, kind):
    run.update(steps={"training": {"status": status}})
    (run.training / "result.json").unlink()
    (run.training / "checkpoints" / "checkpoint-15").mkdir(parents=True)
    (finding,) = analyze("spring", quiet).findings
    assert finding.kind == kind and "goes on from step 15" in finding.do_en


def test_many_restarts_are_a_pattern_and_one_is_a_note(tmp_path):
    path = tmp_path / "history.jsonl"
    for times, severity in ((1, "note"), (4, "warning")):
        steps = [*range(1, 10), *([*range(5, 10)] * times)]
        write_jsonl(path, [{"step": step, "loss": 0.6} for step in steps])
        (finding,) = analyze(path, quiet).findings
        assert (finding.kind, finding.severity) == ("resumed", severity) and f"{times} times" in finding.en


def test_a_zero_loss_alarm_is_not_told_twice(run):
    nan = float("nan")
    path = run.training / "history.jsonl"
    path.write_text("".join(json.dumps({"step": n, "loss": 0.0, "grad_norm": nan}) + "\n" for n in range(1, 5)))
    write_alarm(run.training, Alarm(1, "zero_loss", "warning", "0.0 です", "is 0.0"))
    assert [finding.kind for finding in analyze("spring", quiet).findings] == ["nan_forward"]


def test_what_a_file_holds_is_escaped_in_a_notebook_and_plain_on_a_terminal(run):
    write_alarm(run.training, Alarm(3, "<b>", "warning", "<script>alert(1)</script>\x1b[2J", "\u202eleft"))
    analysis = analyze("spring", quiet)
    assert "<script>" not in analysis._repr_html_() and "\x1b" not in told(analysis) and "\u202e" not in told(analysis)


def test_a_run_that_logged_nothing_yet_still_says_how_it_ended(run):
    run.update(steps={"training": {"status": "failed"}})
    shutil.rmtree(run.training)
    analysis = analyze("spring", quiet)
    assert [finding.kind for finding in analysis.findings] == ["failed"] and "no checkpoint yet" in told(analysis)
