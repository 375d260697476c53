"""The whole way: train, the machine goes, a new one with the same drive goes on, and the adapter is that of an undisturbed run."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from adslm_helpers.copies import list_files
from adslm_helpers.run import Run, read_jsonl, write_json
from adslm_helpers.training.mirror import mirror_callback, mirroring
from adslm_helpers.training.restore import find_mirrored, restore_run
from adslm_helpers.training.train import train

from .conftest import StopAt


class Seal(TrainerCallback):
    """Finishes a checkpoint as the training does: by a list of its files, written last."""

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if not (folder / "seal.json").exists():
            write_json(folder / "seal.json", {"files": list_files(folder)})


def test_a_new_machine_goes_on_from_the_drive_to_the_same_adapter(run, recipe, tmp_path):
    (tmp_path / "drive").mkdir()
    said = []
    undisturbed = run.fork("undisturbed")
    train(undisturbed, recipe)
    with pytest.raises(KeyboardInterrupt), mirroring(run, tmp_path / "drive", say=said.append) as mirror:
        train(run, recipe, [Seal(), mirror_callback(mirror), StopAt(5)])
    wanted = load_file(undisturbed.training / "adapter" / "adapter_model.safetensors")
    shutil.rmtree(run.path)

    assert [(found.name, found.step, found.finished) for found in find_mirrored(tmp_path / "drive")] == [("t", 4, False)]
    again = Run("t", tmp_path / "another machine")
    assert restore_run(again, tmp_path / "drive", say=said.append).step == 4
    with mirroring(again, tmp_path / "drive", say=said.append) as mirror:
        result = train(again, recipe, [Seal(), mirror_callback(mirror)])
    assert result.resumed_from == 4
    ours = load_file(again.training / "adapter" / "adapter_model.safetensors")
    for name in wanted:
        torch.testing.assert_close(ours[name], wanted[name], atol=1e-6, rtol=0)
    steps = [row["step"] for row in read_jsonl(again.training / "history.jsonl") if "loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6], "the rows of the first machine, and no step twice"

    third = Run("t", tmp_path / "third machine")
    assert restore_run(third, tmp_path / "drive", say=said.append).finished
    assert train(third, recipe).reused and not [text for text in said if "NOTE" in text]
