"""Logs of any trainer in one form: what NaN looks like in each, what is broken is said and not lost, nothing hangs or fills the memory."""

import json
import math
import os
import random
import shutil
from pathlib import Path

import pytest

from adslm_helpers.errors import RunError
from adslm_helpers.run import Run, write_json
from adslm_helpers.watching import log_files
from adslm_helpers.watching.analyze import analyze
from adslm_helpers.watching.log_files import one_form, read_events, read_lines, read_state
from adslm_helpers.watching.sources import find_run, read_log, run_names

BROKEN = Path(__file__).parents[1] / "data" / "broken_runs"


def test_nan_is_read_however_it_was_written(tmp_path):
    """Python's json writes NaN, transformers 5 logs text, our history names the keys, TensorBoard has train/ and eval/."""
    path = tmp_path / "trainer_state.json"
    path.write_text(
        '{"log_history": [{"step": 1, "loss": NaN, "grad_norm": "nan", "train/rewards/margins": -Infinity, "eval/loss": "0.5"}]}'
    )
    (row,) = read_state(path).rows
    assert (
        math.isnan(row["loss"])
        and math.isnan(row["grad_norm"])
        and row["rewards/margins"] == -math.inf
        and row["eval_loss"] == 0.5
    )
    assert math.isnan(one_form({"step": 3, "loss": 0.5, "not_finite": ["grad_norm"]})["grad_norm"])


def test_the_log_of_llama_factory_has_the_names_of_trl():
    log = read_log(BROKEN / "llama-factory")
    assert log.rows[0]["step"] == 2 and log.total_steps == 32 and log.last_step == 32
    assert {"loss", "learning_rate", "rewards/accuracies"} <= log.rows[0].keys() and "eval_loss" in log.rows[4]


def test_event_files_hold_what_the_trainers_own_state_holds(tmp_path):
    logged = read_events(BROKEN / "lr-too-big")
    assert logged.last_step == 30 and {"loss", "grad_norm", "rewards/margins", "learning_rate"} <= logged.rows[0].keys()
    assert [row["step"] for row in logged.rows if "eval_loss" in row] == [10, 20, 30]
    alone = next((BROKEN / "lr-too-big").iterdir())
    assert read_log(alone).rows == logged.rows, "the file alone says the same as its folder"


@pytest.mark.parametrize(("cut", "spoilt"), [(0, 0), (7, 0), (200, 0), (5000, 0), (None, 3000), (None, 30)])
def test_a_truncated_or_spoilt_event_file_gives_what_it_has_or_a_message(tmp_path, cut, spoilt):
    (source,) = (BROKEN / "lr-too-big").iterdir()
    content = bytearray(source.read_bytes()[:cut])
    content[spoilt : spoilt + 8] = b"\xff" * min(8, len(content)) if spoilt else content[spoilt : spoilt + 8]
    (tmp_path / source.name).write_bytes(content)
    if cut in (0, 7) or spoilt == 30:
        with pytest.raises(RunError, match="holds no row"):
            read_log(tmp_path)
    else:
        assert 0 < len(read_log(tmp_path).rows) < 33


def test_a_half_line_a_broken_line_and_a_line_without_end_are_said_and_the_rest_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(log_files, "LONGEST_LINE", 1000)
    good = [json.dumps({"step": n, "loss": 0.5}) for n in range(1, 6)]
    deep = "[" * 900
    lines = [good[0], '{"step": 2, "loss"', good[1], '"' + "x" * 5000 + '"', good[2], deep, good[3], "7", '{"step": 8, "lo']
    path = tmp_path / "history.jsonl"
    path.write_text("\n".join(lines))
    logged = read_lines(path)
    assert [row["step"] for row in logged.rows] == [1, 2, 3, 4]
    told = " ".join(en for _, en in logged.notes)
    assert "4 lines are no log rows" in told and "line 2, 4, 6, 8" in told and "cut off" in told


def test_a_log_of_very_many_rows_keeps_its_first_bad_one_and_its_evaluations(tmp_path, monkeypatch):
    monkeypatch.setattr(log_files, "MOST_ROWS", 500)
    path = tmp_path / "history.jsonl"
    with path.open("w") as file:
        for step in range(1, 2001):
            row = {"step": step, "loss": 0.5, **({"not_finite": ["grad_norm"]} if step == 777 else {})}
            file.write(json.dumps(row) + "\n" + (json.dumps({"step": step, "eval_loss": 0.6}) + "\n" if step % 200 == 0 else ""))
    logged = read_lines(path)
    assert len(logged.rows) <= 501 and any(row["step"] == 777 and math.isnan(row["grad_norm"]) for row in logged.rows)
    assert sum("eval_loss" in row for row in logged.rows) == 10 and "only a part" in logged.notes[0][1]


def test_the_newest_checkpoints_state_is_read_and_a_log_that_goes_further_continues_it(tmp_path):
    assert read_log(BROKEN / "plain-trl").files == [BROKEN / "plain-trl" / "checkpoint-32" / "trainer_state.json"]
    shutil.copytree(BROKEN / "plain-trl" / "checkpoint-16", tmp_path / "checkpoint-16")
    shutil.copyfile(BROKEN / "llama-factory" / "trainer_log.jsonl", tmp_path / "trainer_log.jsonl")
    log = read_log(tmp_path)
    assert log.last_step == 32 and [path.name for path in log.files] == ["trainer_state.json", "trainer_log.jsonl"]
    assert "after step 16" in log.notes[0][1]


def test_of_a_step_done_twice_the_later_attempt_counts(tmp_path):
    path = tmp_path / "history.jsonl"
    steps = [1, 2, 3, 4, 5, 3, 4, 5, 6]
    path.write_text("".join(json.dumps({"step": step, "loss": n}) + "\n" for n, step in enumerate(steps)))
    log = read_log(path)
    assert [(row["step"], row["loss"]) for row in log.rows] == [(1, 0), (2, 1), (3, 5), (4, 6), (5, 7), (6, 8)]
    assert log.restarts == [(5, 3)]


def test_the_console_output_of_a_trainer_is_a_log_too(tmp_path):
    """Often all that is left; transformers 5 prints its numbers as text."""
    path = tmp_path / "nohup.log"
    path.write_text(
        "Loading checkpoint shards: 100%\n{'loss': 0.6931, 'grad_norm': 1.2, 'epoch': 0.1}\n"
        "  5%|5         | 2/40 [00:03<01:01]{'loss': '0.0', 'grad_norm': 'nan', 'epoch': '0.2'}\r\n"
        "{'loss': 0.0, 'grad_norm': nan, 'rewards/chosen': -inf, 'epoch': 0.3}\n{'eval_loss': nan}\n"
        "{'loss': __import__('os').abort()}\n{'text': 'no log'}\n"
    )
    log = read_log(path)
    assert [row.get("loss", row.get("eval_loss")) for row in log.rows[:3]] == [0.6931, 0.0, 0.0] and len(log.rows) == 4
    assert (
        math.isnan(log.rows[1]["grad_norm"])
        and log.rows[2]["rewards/chosen"] == -math.inf
        and math.isnan(log.rows[3]["eval_loss"])
    )
    assert "3 lines are no log rows" in log.notes[0][1] and "counted" in log.notes[1][1]


def test_a_log_without_steps_is_counted(tmp_path):
    path = tmp_path / "log.json"
    path.write_text('[{"loss": 0.7}, {"loss": 0.6}, "text", {"note": "no number"}]')
    log = read_log(path)
    assert [row["step"] for row in log.rows] == [1, 2] and len(log.notes) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff\xfe",
        b"{}",
        b'{"log_history": 3}',
        b'{"log_history": []}',
        b"[" * 100_000,
        b'{"log_history": [{"st',
        b"[1, 2]",
    ],
)
@pytest.mark.parametrize("name", ["trainer_state.json", "history.jsonl", "trainer_log.jsonl", "notes.txt"])
def test_a_file_that_is_no_log_is_named_in_a_message(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match="->") as told:
        read_log(tmp_path / name)
    assert str(tmp_path / name) in told.value.ja and str(tmp_path / name) in told.value.en


def test_a_state_too_large_to_be_read_whole_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(log_files, "LARGEST_STATE", 100)
    (tmp_path / "trainer_state.json").write_text('{"log_history": [' + " " * 200 + "]}")
    with pytest.raises(RunError, match="too much to read"):
        read_log(tmp_path / "trainer_state.json")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="a device that never ends")
def test_a_device_and_a_folder_without_logs_are_refused_and_never_read(tmp_path):
    for place in ("/dev/zero", tmp_path):
        with pytest.raises(RunError, match="No log of a training"):
            read_log(place)


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\x00b", "~nobody-of-this-name/x", "a\nb", "/dev/null"])
def test_a_name_that_can_be_none_is_a_message(name):
    for ask in (read_log, find_run):
        with pytest.raises(RunError, match="->"):
            ask(name)


def test_a_checkpoint_cut_off_gives_way_to_the_one_before(tmp_path):
    shutil.copytree(BROKEN / "plain-trl", tmp_path / "out")
    newest = tmp_path / "out" / "checkpoint-32" / "trainer_state.json"
    newest.write_bytes(newest.read_bytes()[:900])
    log = read_log(tmp_path / "out")
    assert log.last_step == 16 and "cannot be read" in log.notes[0][1] and str(newest) in log.notes[0][1]


def test_mutated_logs_give_rows_or_a_message(tmp_path):
    """Bytes flipped, cut, doubled or replaced by what breaks parsers, in every kind of log there is."""
    rng = random.Random(5)
    sources = [path for path in BROKEN.rglob("*") if path.is_file() and path.name != "1"]
    spoil = [
        b"\x00",
        b"NaN",
        b"1e999",
        b"-",
        b'"\\ud800"',
        b"[[",
        b"{",
        b"}",
        b"\n",
        b"null",
        b"9" * 400,
        b"\xff\xfe",
        b'"step":-5',
        b"true",
    ]
    for number in range(300):
        source = rng.choice(sources)
        content = bytearray(source.read_bytes())
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(content) + 1)
            content[place : place + rng.choice((0, 1, 5, 300))] = rng.choice(spoil)
        path = tmp_path / str(number) / source.name
        path.parent.mkdir()
        path.write_bytes(content)
        try:
            analysis = analyze(path, lambda rows, beta: [])
        except RunError:
            continue
        json.dumps(analysis.to_dict(), allow_nan=False)
        assert analysis.lines() and all("step" in row for row in analysis.log.rows)


def test_a_symlink_loop_is_no_log(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(RunError):
        read_log(tmp_path / "a")


def test_an_unknown_name_lists_the_runs_the_newest_first():
    with pytest.raises(RunError, match="no run at all"):
        read_log("spring")
    for number, name in enumerate(("old", "new")):
        Run(name).update()
        os.utime(Run(name).path / "manifest.json", (number, number))
    assert run_names() == ["new", "old"]
    for ask in (read_log, find_run):
        with pytest.raises(RunError, match="new, old"):
            ask("spring")


def test_a_run_is_found_by_name_by_folder_and_from_its_own_checkpoint(runs_in_tmp):
    run = Run("spring")
    run.update()
    inside = run.training / "checkpoints" / "checkpoint-6"
    inside.mkdir(parents=True)
    assert {find_run(place).path for place in ("spring", run.path, run.training, inside)} == {run.path}
    other = runs_in_tmp / "elsewhere" / "manifest.json"
    write_json(other, {"files": []})  # an export's
    with pytest.raises(RunError):
        find_run(other.parent)
