"""The whole way: train, the machine goes, a new one with the same drive goes on, and the adapter is that of an undisturbed run."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from adslm_helpers.run import Run, read_jsonl
from adslm_helpers.training.restore import find_mirrored
from adslm_helpers.training.train import train

from .conftest import StopAt


@pytest.fixture
def drive(tmp_path, monkeypatch):
    (tmp_path / "drive").mkdir()
    monkeypatch.setenv("ADSLM_MIRROR", str(tmp_path / "drive"))
    return tmp_path / "drive"


def test_a_new_machine_goes_on_from_the_drive_to_the_same_adapter(run, recipe, tmp_path, drive, monkeypatch):
    said = []
    undisturbed = run.fork("undisturbed")
    with monkeypatch.context() as patch:
        patch.setenv("ADSLM_MIRROR", "off")
        train(undisturbed, recipe)
    with pytest.raises(KeyboardInterrupt):
        train(run, recipe, [StopAt(5)], say=said.append)
    wanted = load_file(undisturbed.training / "adapter" / "adapter_model.safetensors")
    shutil.rmtree(run.path)

    assert [(found.name, found.step, found.finished) for found in find_mirrored()] == [("t", 4, False)]
    again = Run("t", tmp_path / "another machine")
    result = train(again, recipe, say=said.append)
    assert result.resumed_from == 4
    ours = load_file(again.training / "adapter" / "adapter_model.safetensors")
    for name in wanted:
        torch.testing.assert_close(ours[name], wanted[name], atol=1e-6, rtol=0)
    steps = [row["step"] for row in read_jsonl(again.training / "history.jsonl") if "loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6], "the rows of the first machine, and no step twice"

    third = Run("t", tmp_path / "third machine")
    assert train(third, recipe, say=said.append).reused and any("came back" in text for text in said)
    assert not [text for text in said if "NOTE" in text]
