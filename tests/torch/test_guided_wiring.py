"""Vectors in the training folder stay where the recipe names them, and other vectors are another training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adslm_helpers.errors import DataError, TrainingError
from adslm_helpers.run import read_json, write_json
from adslm_helpers.training.guided.embeddings import FILE, write_prompt_embeddings
from adslm_helpers.training.mirrored import Known, copy_run, place_of
from adslm_helpers.training.resume import STARTED, bring_back, note_start, refuse_another, set_aside, training_fingerprint


def test_vectors_stay_in_place_whatever_training_comes_and_goes(run, recipe, tmp_path):
    path = write_prompt_embeddings(run.training / FILE, torch.ones(2, 32))
    guided = replace(recipe, engine="fast", method="preference_guided", prompt_embeddings=str(path))
    assert set_aside(run.training) == [] and path.is_file()

    first = training_fingerprint(run, guided)
    note_start(run, guided, first)
    assert refuse_another(run, guided) == first
    assert len(set_aside(run.training)) == 1  # for plain DPO, say
    assert path.is_file() and (run.path / "training-1" / FILE).is_file()
    plain = training_fingerprint(run, recipe)
    note_start(run, recipe, plain)
    assert bring_back(run, first) and refuse_another(run, guided) == first and path.is_file()
    assert bring_back(run, plain) and path.is_file()
    (tmp_path / "mirror").mkdir()
    copy_run(run, tmp_path / "mirror", Known())
    assert (place_of(tmp_path / "mirror", run.name) / "training" / FILE).read_bytes() == path.read_bytes()


def test_other_vectors_are_another_training(run, recipe):
    path = write_prompt_embeddings(run.training / FILE, torch.ones(2, 32))
    guided = replace(recipe, engine="fast", method="preference_guided", prompt_embeddings=str(path))
    note_start(run, guided, before := training_fingerprint(run, guided))
    write_prompt_embeddings(path, torch.zeros(2, 32))
    assert training_fingerprint(run, guided) != before
    with pytest.raises(TrainingError, match="other vectors"):
        refuse_another(run, guided)
    path.unlink()
    with pytest.raises(DataError, match="There is no file"):
        training_fingerprint(run, guided)


def test_a_training_without_vectors_has_the_fingerprint_that_it_always_had(run, recipe):
    """A run of an earlier version goes on."""
    note_start(run, recipe, fingerprint := training_fingerprint(run, recipe))
    started = read_json(run.training / STARTED)
    del started["prompt_embeddings"]
    write_json(run.training / STARTED, started)
    assert refuse_another(run, recipe) == fingerprint
