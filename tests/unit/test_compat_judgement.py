"""The judgement behind docs/compat.md: each broken promise is named, and a sound run has none."""

import math

import pytest

from tests.compat.run import deviation, failures, known_versions, table

SOUND = {
    "versions": dict.fromkeys(("transformers", "peft", "accelerate", "datasets", "numpy"), "1"),
    "first_loss": 0.6931, "eos_per_response": [1], "scored": "abc", "loss": [1.0, 0.9], "margins": [0.0, 0.1], "eval_loss": [0.95],
    "resumed_from": 10, "resumed_difference": 0.0, "ending": {"ending": 3, "last": 6, "healthy": False, "difference": 0.0},
    "exported": {"files": 20, "changed_texts": 0}, "seconds": 40.0, "done_by_us": [],
    "preflight": {f"check{n}": True for n in range(7)},
    "fast": {"loss": 1e-6, "rewards/margins": 0.0, "eval_loss": 0.0, "resumed_from": 10, "resumed_difference": 0.0, "done_by_us": []},
}  # fmt: skip


def test_a_sound_run_breaks_no_promise():
    assert failures(SOUND, SOUND) == []


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"first_loss": 0.70}, "ln 2"),
        ({"eos_per_response": [1, 2]}, "EOS"),
        ({"preflight": {**SOUND["preflight"], "ln_2": False}}, "pre-flight"),
        ({"preflight": {}}, "pre-flight"),
        ({"scored": "abd"}, "other ids"),
        ({"loss": [1.0, 0.9002]}, "loss differs"),
        ({"margins": [0.0, 0.1002]}, "margins differ"),
        ({"eval_loss": [0.9502]}, "eval loss differs"),
        ({"loss": [1.0]}, "loss differs by inf"),
        ({"loss": [1.0, math.nan]}, "loss differs by nan"),
        ({"resumed_from": 0}, "resumed from 0"),
        ({"resumed_difference": 1e-5}, "resumed adapter"),
        ({"ending": {"ending": 12, "last": 12, "healthy": True, "difference": 0.0}}, "ruined text"),
        ({"fast": {**SOUND["fast"], "eval_loss": 2e-4}}, "engine fast: eval_loss differs"),
        ({"fast": {**SOUND["fast"], "resumed_from": 0}}, "engine fast: resumed from 0"),
        ({"exported": {"files": 20, "changed_texts": 1}}, "export changed 1"),
    ],
)
def test_each_broken_promise_is_named(changed, named):
    (words,) = failures({**SOUND, **changed}, SOUND)
    assert named in words
    assert words in table({"1": {**SOUND, **changed}}, SOUND)[-1]


def test_a_crash_is_a_failure_with_its_last_words():
    assert failures({"error": "TypeError: no"}, SOUND) == ["TypeError: no"]


def test_every_era_has_its_lock_file_in_order():
    found = known_versions()
    assert found[0] == "0.7.11" and found[-1] == "1.16.0" and len(found) == 16 and found.index("0.9.6") < found.index("0.10.1")


def test_curves_of_different_length_are_infinitely_far():
    assert deviation({"loss": []}, {"loss": []}, "loss") == math.inf
