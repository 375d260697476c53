"""Stage 1 of embedding mode: only the vectors move, by the gradient that PEFT's own forward gives; what is left behind is whole or absent."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel, PromptEncoderConfig, get_peft_model
from transformers import AutoModelForCausalLM

from adslm_helpers.errors import Interrupted, TrainingError
from adslm_helpers.models.generation import generate_texts
from adslm_helpers.training.fast.layout import lay_out
from adslm_helpers.training.fast.scores import score
from adslm_helpers.training.guided import prompt_trainer
from adslm_helpers.training.guided.embeddings import read_prompt_embeddings
from adslm_helpers.training.guided.prompt_result import spoken_texts
from adslm_helpers.training.guided.prompt_trainer import vectors
from adslm_helpers.training.guided.prompt_tuning import KINDS, train_prompt_embeddings
from adslm_helpers.training.history import HISTORY, read_history
from adslm_helpers.training.prompts import collate, encode_pairs

from .conftest import made_run

TEXT = "商品の名前を書いてください。"


@pytest.fixture
def short(recipe):
    """Two steps, two texts."""
    return replace(recipe, max_steps=2, watch_prompts=2, learning_rate=1e-3)


@pytest.fixture
def base(model_folder):
    return AutoModelForCausalLM.from_pretrained(model_folder).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_behind(runs_in_tmp, short, tokenizer, base, kind, monkeypatch):
    run, seen = made_run(runs_in_tmp), []
    build = prompt_trainer.build_prompt_trainer

    def watch(*arguments):
        trainer, *others = build(*arguments)
        seen.append((trainer.model, vectors(trainer.model).detach().clone()))
        return trainer, *others

    monkeypatch.setattr("adslm_helpers.training.guided.prompt_tuning.build_prompt_trainer", watch)
    result = train_prompt_embeddings(run, short, text=TEXT, virtual_tokens=0 if kind == "prompt_tuning" else 5, kind=kind)
    ((model, start),) = seen
    folder = run.path / "prompt"

    # Only the vectors moved, from where they were said to start.
    ids = tokenizer(TEXT)["input_ids"]
    if kind == "prompt_tuning":
        assert torch.equal(start, base.get_input_embeddings().weight[ids].detach())
    assert len(start) == result.virtual_tokens == (len(ids) if kind == "prompt_tuning" else 5)
    for name, weight in model.get_base_model().state_dict().items():
        assert torch.equal(weight, base.state_dict()[name]), name
    hidden = base.config.hidden_size
    found = read_prompt_embeddings(folder / "prompt_embeddings.pt", hidden)
    assert torch.equal(found, vectors(model).detach()) and not torch.equal(found, start)

    # The same vectors for adslm train and for PEFT.
    assert torch.equal(read_prompt_embeddings(run.training / "prompt_embeddings.pt", hidden), found)
    assert torch.equal(read_prompt_embeddings(folder / "adapter", hidden), found)
    assert torch.equal(PeftModel.from_pretrained(base, folder / "adapter").get_prompt(batch_size=1)[0], found)
    assert result.next_command().endswith("--prompt-embeddings " + result.copy)

    # What was measured, and that it can be read again.
    assert [row["step"] for row in read_history(folder / HISTORY) if "loss" in row] == [1, 2]
    assert result.without["loss"] == pytest.approx(0.693147, abs=1e-6) and result.without["rewards/margins"] == 0
    assert result.before["loss"] != result.without["loss"] and result.after != result.before
    assert len(result.texts) == 2 and result.lines()
    again = train_prompt_embeddings(run, short, text=TEXT, virtual_tokens=0 if kind == "prompt_tuning" else 5, kind=kind)
    assert again == replace(result, reused=True) and len(seen) == 1
    assert json.loads((folder / "result.json").read_text())["sha256"] == run.manifest()["prompt_embeddings"]["sha256"]


def test_the_gradient_is_that_of_pefts_own_forward(base, tokenizer, run):
    """P-tuning: the vectors come out of a network, whose weights are what is trained."""
    from adslm_helpers.dataset.build import load_split

    pairs = encode_pairs(tokenizer, load_split(run, "train"), 256, 200).pairs[:3]
    config = PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16)
    model = get_peft_model(base.double(), config).double()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    rows = collate(pairs, tokenizer.pad_token_id)
    logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits[:, 4:-1].log_softmax(-1)
    theirs = (logits.gather(-1, rows["input_ids"][:, 1:, None])[..., 0] * rows["completion_mask"][:, 1:]).sum(-1)
    their_gradients = torch.autograd.grad(theirs.chunk(2)[0].sum() - theirs.chunk(2)[1].sum(), trained)

    batch = lay_out(pairs, tokenizer.pad_token_id, virtual=4)
    ours, _ = score(model.get_base_model(), batch, None, vectors(model))
    our_gradients = torch.autograd.grad(ours.chunk(2)[0].sum() - ours.chunk(2)[1].sum(), trained)
    assert torch.allclose(ours.double(), theirs, atol=1e-3)  # sums of the engine are float32
    for ours_one, theirs_one in zip(our_gradients, their_gradients, strict=True):
        assert torch.allclose(ours_one, theirs_one, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
def test_texts_are_those_of_pefts_own_generate(base, tokenizer, run, short):
    """Prompts of several lengths, each alone: PEFT would leave gaps between vectors and prompt in a padded batch."""
    from adslm_helpers.dataset.build import load_split

    model = get_peft_model(base, PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16)).eval()
    texts = spoken_texts(model, tokenizer, load_split(run, "eval"), replace(short, watch_prompts=4, temperature=0.0))
    assert len(texts) == 4
    for side, one in (("without", base), ("with", model)):
        answers = generate_texts(
            one, tokenizer, [row["prompt"] for row in texts], temperature=0.0, max_new_tokens=12, batch_size=1
        )
        assert [answer.text for answer in answers] == [row[side] for row in texts]


class Stops:
    """Hears the progress and raises."""

    def __init__(self, error):
        self.error = error

    def __call__(self, line):
        if "eval loss" in line:
            raise self.error


def test_a_stop_leaves_nothing_that_looks_finished_and_keeps_the_earlier_vectors(run, short):
    short = replace(short, max_steps=1, watch_prompts=0)
    first = train_prompt_embeddings(run, short, text=TEXT)
    stops = {
        Interrupted: KeyboardInterrupt(),
        TrainingError: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    }
    for number, (kind, error) in enumerate(stops.items(), 1):
        with pytest.raises(kind) as stopped:
            train_prompt_embeddings(run, replace(short, beta=0.2 + number / 10), text=TEXT, say=Stops(error))
        assert "->" in stopped.value.en
        assert not (run.path / "prompt").exists()
    assert read_prompt_embeddings(run.path / "prompt-1" / "prompt_embeddings.pt", 32).shape[0] == first.virtual_tokens
    assert read_prompt_embeddings(run.training / "prompt_embeddings.pt", 32).shape[0] == first.virtual_tokens


def test_texts_that_cannot_be_written_do_not_cost_the_vectors(run, short, monkeypatch):
    def fails(*arguments):
        raise TypeError("no such cache")

    monkeypatch.setattr("adslm_helpers.training.guided.prompt_tuning.spoken_texts", fails)
    result = train_prompt_embeddings(run, replace(short, max_steps=1), text="  ", kind="prompt_tuning", virtual_tokens=3)
    assert result.texts == [] and any("no such cache" in line for line in result.lines())
    assert result.text == "" and read_prompt_embeddings(result.copy, 32).shape == (3, 32)


def test_numbers_that_are_not_finite_end_in_words(run, short, monkeypatch):
    monkeypatch.setattr(prompt_trainer, "score", lambda *arguments: [part * float("nan") for part in score(*arguments)])
    with pytest.raises(TrainingError, match="not finite") as stopped:
        train_prompt_embeddings(run, short, text=TEXT)
    assert "0.01" in stopped.value.en and not (run.path / "prompt").exists()
    assert not (run.training / "prompt_embeddings.pt").exists()


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"kind": "prefix"}, "prompt_tuning"),
        ({"virtual_tokens": -1}, "1024"),
        ({"virtual_tokens": 2.5}, "1024"),
        ({"virtual_tokens": 5000}, "1024"),
    ],
)
def test_what_cannot_be_asked_for(run, short, wrong, word):
    with pytest.raises(TrainingError, match=word):
        train_prompt_embeddings(run, short, **wrong)


def test_several_processes_are_refused(run, short, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="one process"):
        train_prompt_embeddings(run, short)
