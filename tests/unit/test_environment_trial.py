"""The trial step runs as a user would: own process, own runs folder, no network, and its failure is told in words."""

import sys

import pytest

from adslm_helpers.environment import trial
from adslm_helpers.errors import SetupError


def test_it_leaves_nothing_in_the_users_runs_and_asks_no_hub(runs_in_tmp, monkeypatch):
    seen = []

    def run(command, **options):
        seen.append((command, options["env"]["ADSLM_RUNS"], options["env"]["HF_HUB_OFFLINE"]))
        return type("Done", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(trial.subprocess, "run", run)
    assert trial.try_one_step() >= 0
    assert [command[:4] for command, *_ in seen] == [
        [sys.executable, "-m", "adslm_helpers", verb] for verb in ("dataset", "train")
    ]
    assert all(folder != str(runs_in_tmp) and offline == "1" for _, folder, offline in seen)
    assert "max_steps=1" in seen[1][0]


def test_a_failing_verb_is_told_with_its_last_words(monkeypatch):
    done = type("Done", (), {"returncode": 1, "stderr": "Traceback\nImportError: peft wants another torchao"})
    monkeypatch.setattr(trial.subprocess, "run", lambda command, **options: done)
    with pytest.raises(SetupError, match="peft wants another torchao"):
        trial.try_one_step()
