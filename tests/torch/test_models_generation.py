"""Texts: padding must not change them, seeds must repeat them, and the caller's state must be as before."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from adslm_helpers.models import generation
from adslm_helpers.models.generation import generate_texts, left_padding_works
from adslm_helpers.models.loading import load_model
from adslm_helpers.models.tiny import measure_tiny_model
from adslm_helpers.recipe import load_recipe

SHORT, LONG = (
    "見出しを。",
    "商品：加湿器\nターゲット：シニアの方\n訴求：送料無料\n媒体：見出し（30文字以内）\n広告文を1つ書いてください。",
)


@pytest.fixture(scope="module")
def embedded():
    return load_model(load_recipe("tiny"))


def test_left_padding_does_not_change_a_greedy_text(embedded):
    together = generate_texts(embedded.model, embedded.tokenizer, [SHORT, LONG], temperature=0)
    alone = [generate_texts(embedded.model, embedded.tokenizer, [prompt], temperature=0)[0] for prompt in (SHORT, LONG)]
    assert [answer.text for answer in together] == [answer.text for answer in alone]


def test_the_same_seed_gives_the_same_texts_and_another_seed_others(embedded):
    first, again, other = (
        [answer.text for answer in generate_texts(embedded.model, embedded.tokenizer, [LONG] * 4, seed=seed)]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_the_callers_state_is_untouched(embedded):
    embedded.model.train()
    embedded.tokenizer.padding_side = "right"
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    generate_texts(embedded.model, embedded.tokenizer, [SHORT], seed=9, max_new_tokens=4)
    assert torch.equal(torch.rand(3), expected)
    assert embedded.model.training and embedded.tokenizer.padding_side == "right"
    embedded.model.eval()


def test_a_text_that_does_not_end_is_said_to_be_unstopped(model_folder, tokenizer):
    """A random model practically never emits EOS within three tokens."""
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    answers = generate_texts(model, tokenizer, [SHORT] * 4, temperature=0, max_new_tokens=3)
    assert all(not answer.stopped and answer.n_tokens == 3 for answer in answers)


def test_the_embedded_model_follows_briefs_it_never_read(embedded):
    """The promise of the model card, on fewer briefs: right product, an end, no loops; good and poor copy about equally often."""
    measured = measure_tiny_model(embedded.model, embedded.tokenizer, n=80, seed=4)
    assert measured["right_product"] >= 0.95 and measured["stopped"] >= 0.99 and measured["loops"] <= 0.02
    assert 0.35 <= measured["rubric_pass"] <= 0.65


def test_generate_response_is_one_text(embedded):
    text = embedded.generate_response("【テーマ】家計簿アプリの見出しを、子育て中の方向けに書いてください。")
    assert "家計簿アプリ" in text and "<|" not in text


@pytest.mark.parametrize(
    ("device", "version", "together"),
    [("mps", "2.8.0", False), ("mps", "2.9.1", True), ("mps", "2.13.0", True), ("cpu", "2.2.0", True)],
)
def test_an_old_torch_on_an_apple_gpu_answers_one_by_one(device, version, together, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    assert left_padding_works(SimpleNamespace(device=torch.device(device))) == together


def test_one_by_one_is_the_same_greedy_text(embedded, monkeypatch):
    options = {"temperature": 0, "max_new_tokens": 8}
    together = generate_texts(embedded.model, embedded.tokenizer, [SHORT, LONG], **options)
    sizes, generate = [], embedded.model.generate
    monkeypatch.setattr(generation, "left_padding_works", lambda model: False)
    monkeypatch.setattr(embedded.model, "generate", lambda **kw: sizes.append(len(kw["input_ids"])) or generate(**kw))
    assert generate_texts(embedded.model, embedded.tokenizer, [SHORT, LONG], **options) == together and sizes == [1, 1]
