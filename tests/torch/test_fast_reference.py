"""The reference's log-probabilities: the model's own, computed once, kept beside the training, never taken on trust."""

import functools
import math
import pickle

import pytest
import torch
from safetensors.torch import load, load_file, save

from adslm_helpers.dataset.samples import sample_pairs
from adslm_helpers.models.loading import load_model
from adslm_helpers.recipe import recipe_from_dict
from adslm_helpers.training.fast import reference
from adslm_helpers.training.fast.trainer import build_trainer
from adslm_helpers.training.maths import sequence_logps
from adslm_helpers.training.prompts import collate, encode_pairs
from adslm_helpers.training.train import train

from .conftest import StopAt


@pytest.fixture
def loaded(recipe):
    return load_model(recipe)


@pytest.fixture
def pairs(recipe, loaded):
    return encode_pairs(loaded.tokenizer, sample_pairs(20, seed=3), recipe.max_length, recipe.max_prompt_length).pairs


@pytest.fixture
def build(recipe, tmp_path):
    """Builds a trainer of the small model, anew each time, in one run folder."""

    def make(pairs, change=lambda model: None, callbacks=(), **fields):
        asked = recipe_from_dict({**recipe.to_dict(), **fields})
        fresh = load_model(asked)
        change(fresh.model)
        folder = tmp_path / "r" / "training"
        return build_trainer(asked, fresh.plan, fresh.model, fresh.tokenizer, pairs, pairs[:3], folder, callbacks)

    return make


@pytest.fixture
def computed(monkeypatch):
    """How many pairs each call of `reference_logps` computed."""
    calls, original = [], reference.reference_logps

    @functools.wraps(original)
    def counted(trainer, pairs, *arguments):
        calls.append(len(pairs))
        return original(trainer, pairs, *arguments)

    monkeypatch.setattr(reference, "reference_logps", counted)
    return calls


def numbers(trainer):
    return [item.ref_logps for item in trainer.train_dataset]


def logps_in(path):
    """Read as bytes: a file that is mapped into memory must not change."""
    return load(path.read_bytes())[path.stem]


def kept(tmp_path, n):
    """The kept file of so many pairs."""
    (path,) = (p for p in (tmp_path / "r" / "reference").iterdir() if logps_in(p).shape == (n, 2))
    return path


def test_every_pair_gets_the_untouched_models_own_numbers(loaded, pairs, build):
    """Batches go by length: numbers that came back in that order would be other pairs' numbers."""
    batch = collate(pairs, loaded.tokenizer.pad_token_id)
    with torch.no_grad():
        logits = loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    wanted = sequence_logps(logits, batch["input_ids"], batch["completion_mask"]).view(2, -1).T
    torch.testing.assert_close(torch.tensor(numbers(build(pairs)[0])), wanted, atol=1e-4, rtol=1e-5)


def test_they_are_computed_once_and_then_taken_from_the_disk_bit_for_bit(pairs, build, computed):
    first, told = build(pairs)
    assert computed == [len(pairs), 3] and told == []
    second, told = build(pairs, beta=0.3, learning_rate=1e-4, lora_r=4)
    assert numbers(second) == numbers(first) and told == []
    assert computed[2:] == [2, 2], "a short and the longest pair are looked at again"


def nudge(model):
    model.model.layers[1].mlp.down_proj.weight.data.mul_(1.001)


@pytest.mark.parametrize("case", ["weights", "tokens", "precision", "config"])
def test_another_model_or_other_tokens_get_numbers_of_their_own(pairs, build, computed, case):
    build(pairs)
    del computed[:]
    other = {
        "weights": lambda: build(pairs, nudge),
        "tokens": lambda: build([*pairs[:-1], pairs[0]]),
        "precision": lambda: build(pairs, dtype="bfloat16"),
        "config": lambda: build(pairs, lambda model: setattr(model.config, "rms_norm_eps", 1e-3)),
    }
    other[case]()
    assert computed[0] == len(pairs)


def test_learned_vectors_are_part_of_the_key(pairs, build):
    trainer, _ = build(pairs)
    keys = {
        reference.reference_key(trainer, pairs, prefix)
        for prefix in (None, torch.zeros(2, 32), torch.zeros(1, 64), torch.ones(2, 32))
    }
    assert len(keys) == 4


def other_tensors(n, key):
    return save({key: torch.full((n, 2), -3.0)})


BROKEN = {
    "half a file": lambda path, n: path.read_bytes()[:-9],
    "nothing": lambda path, n: b"",
    "a pickle": lambda path, n: pickle.dumps([1.0]),
    "no key": lambda path, n: save({"logps": torch.zeros(n, 2)}),
    "of another training": lambda path, n: other_tensors(n, "0" * 32),
    "of fewer pairs": lambda path, n: other_tensors(n - 1, path.stem),
    "not a number": lambda path, n: save({path.stem: torch.full((n, 2), math.nan)}),
    "whole numbers": lambda path, n: save({path.stem: torch.zeros(n, 2, dtype=torch.int32)}),
    "too large": lambda path, n: save({path.stem: torch.zeros(n + 20000, 2)}),
    "other numbers": lambda path, n: other_tensors(n, path.stem),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_not_what_it_should_be_is_made_anew_and_that_is_said(pairs, build, tmp_path, kind):
    wanted = numbers(build(pairs)[0])
    path = kept(tmp_path, len(pairs))
    whole = logps_in(path)
    path.write_bytes(BROKEN[kind](path, len(pairs)))
    trainer, told = build(pairs)
    assert numbers(trainer) == wanted and torch.equal(logps_in(path), whole)
    (line,) = told
    assert "computed anew" in line and "計算し直しました" in line and str(path) in line


def test_one_wrong_number_of_the_longest_pair_is_noticed(pairs, build, tmp_path):
    wanted = numbers(build(pairs)[0])
    path = kept(tmp_path, len(pairs))
    logps = logps_in(path)
    longest = max(range(len(pairs)), key=lambda i: len(pairs[i].prompt_ids + pairs[i].chosen_ids + pairs[i].rejected_ids))
    logps[longest, 1] += 0.01
    path.write_bytes(save({path.stem: logps}))
    trainer, told = build(pairs)
    assert "0.01 nats" in told[0] and numbers(trainer) == wanted


def test_numbers_that_are_none_are_not_kept(pairs, build, tmp_path):
    trainer, _ = build(pairs, lambda model: model.model.norm.weight.data.fill_(math.nan))
    assert math.isnan(numbers(trainer)[0][0]) and not (tmp_path / "r" / "reference").exists()


def test_a_place_that_cannot_be_written_stops_no_training(pairs, build, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "reference").write_text("a file stands in the way")
    trainer, told = build(pairs)
    assert len(told) == 2 and "computes them again" in told[0] and numbers(trainer)[0][0] < 0


def test_broken_off_in_the_middle_it_leaves_no_half_file_and_begins_again(pairs, build, tmp_path, monkeypatch):
    original, calls = reference.score, []

    def cut(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(reference, "score", cut)
        build(pairs, per_device_train_batch_size=1)
    assert not (tmp_path / "r" / "reference").exists()
    build(pairs)
    assert kept(tmp_path, len(pairs)).is_file()


def test_a_batch_of_the_reference_needs_no_more_than_so_many_training_steps(pairs, build, monkeypatch):
    trainer, _ = build(pairs, per_device_train_batch_size=1)
    seen, original = [], trainer.data_collator.laid_out
    monkeypatch.setattr(
        trainer.data_collator, "laid_out", lambda chosen, virtual: seen.append(chosen) or original(chosen, virtual)
    )
    reference.reference_logps(trainer, pairs)

    def size(pair):
        return len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids)

    longest = max(map(size, pairs))
    assert max(len(chosen) * max(map(size, chosen)) for chosen in seen) <= 4 * longest
    assert sum(map(len, seen)) == len(pairs) and size(seen[0][0]) == longest, "too little memory shows at once"


def test_how_far_it_is_is_said_when_it_takes_long(pairs, build, monkeypatch):
    lines, hears = [], StopAt(99)
    hears.on_notice = lines.append
    build(pairs[:4], callbacks=[hears])
    assert lines == []
    monkeypatch.setattr(reference, "_SILENT", 0.0)
    build(pairs, callbacks=[hears], per_device_train_batch_size=1)
    assert f"of {len(pairs)} pairs" in lines[0] and "残り約" in lines[0]


def test_a_resumed_run_takes_them_from_the_disk_and_ends_with_the_same_adapter_bit_for_bit(run, recipe, computed):
    recipe = recipe_from_dict({**recipe.to_dict(), "watch_prompts": 0})
    undisturbed = run.fork("undisturbed")
    train(undisturbed, recipe)
    with pytest.raises(KeyboardInterrupt):
        train(run, recipe, [StopAt(5)])
    del computed[:]
    assert train(run, recipe).resumed_from == 4 and computed == [2, 2]
    ours, theirs = (load_file(r.training / "adapter" / "adapter_model.safetensors") for r in (run, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert len(list((run.path / "reference").iterdir())) == 2, "outside of training/, which another recipe sets aside"
