"""Which TRL trains with which transformers: the table says what was measured, and ranges are narrowed by it."""

import itertools

import pytest
from packaging.requirements import Requirement

from adslm_helpers.data_files import read_yaml
from adslm_helpers.environment.compatibility import narrowed, possible, trl_range, trl_trains
from adslm_helpers.environment.installed import Installed

# TRL x transformers, as measured: a sample of each border of the table.
MEASURED = [
    ("0.7.11", "4.38.1", True), ("0.7.11", "4.40.1", False), ("0.8.6", "4.45.2", True), ("0.8.6", "4.46.3", False),
    ("0.10.1", "4.38.1", False), ("0.11.4", "4.45.2", True), ("0.12.2", "4.45.2", False), ("0.12.2", "4.46.3", True),
    ("0.12.2", "4.48.2", False), ("0.14.0", "4.48.2", True), ("0.14.0", "4.57.1", True), ("0.14.0", "5.4.0", False),
    ("0.18.1", "4.48.2", False), ("0.18.1", "4.52.4", True), ("0.18.1", "5.15.0", False), ("0.29.1", "4.52.4", False),
    ("0.29.1", "4.55.0", True), ("0.29.1", "5.0.0", True), ("0.28.0", "5.15.0", False), ("1.16.0", "5.20.2", True),
    ("1.15.0", "5.15.0", False),
]  # fmt: skip


@pytest.mark.parametrize(("trl", "transformers", "trains"), MEASURED)
def test_the_table_says_what_was_measured(trl, transformers, trains):
    assert trl_trains(Installed({"trl": trl, "transformers": transformers})) is trains


def test_rows_leave_no_gap_and_do_not_overlap():
    bounds = [row["transformers"].split(",") for row in read_yaml("trl_compatibility.yaml")["works"]]
    assert all(upper.removeprefix("<") == lower.removeprefix(">=") for (_, upper), (lower, _) in itertools.pairwise(bounds))


@pytest.mark.parametrize("transformers", [None, "6.0.0", "4.20", "no version"])
def test_what_was_not_measured_is_unknown_not_refused(transformers):
    versions = {"trl": "1.16.0"} if transformers is None else {"trl": "1.16.0", "transformers": transformers}
    assert trl_range(transformers) is None and trl_trains(Installed(versions)) is None
    assert narrowed(Requirement("trl>=0.7.11"), Installed(versions)) == Requirement("trl>=0.7.11")


def test_narrowing_adds_only_what_the_range_does_not_say_itself():
    colab = Installed({"transformers": "5.15.0"})
    assert narrowed(Requirement("trl>=0.29.1,<1"), colab) == Requirement("trl>=0.29.1,<1")
    assert narrowed(Requirement("trl>=0.7.11,<2"), colab) == Requirement("trl>=0.29.0,!=1.15.0,<2")
    assert narrowed(Requirement("peft>=0.13"), colab) == Requirement("peft>=0.13")


def test_a_range_with_nothing_in_it_is_known_without_a_resolver():
    old = Installed({"transformers": "4.53.2"})
    assert not possible(narrowed(Requirement("trl>=0.29.1,<1"), old))
    assert (
        possible(narrowed(Requirement("trl>=0.7.11,<2"), old)) and possible(Requirement("trl<1")) and possible(Requirement("trl"))
    )
