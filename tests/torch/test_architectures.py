"""Every architecture of the fallback lists trains: the same promises on a tiny random model of each shape."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback

from adslm_helpers.dataset.samples import sample_pairs
from adslm_helpers.errors import ModelError
from adslm_helpers.export.export import export_run
from adslm_helpers.export.load import load_export
from adslm_helpers.models.generation import generate_texts
from adslm_helpers.models.loading import load_model
from adslm_helpers.models.templates import render_prompt
from adslm_helpers.models.tuned import load_tuned
from adslm_helpers.recipe import recipe_from_dict
from adslm_helpers.run import Run, read_jsonl, write_json, write_jsonl
from adslm_helpers.training.checks import _greedy
from adslm_helpers.training.train import train

# Head of its own (llama, gpt_neox) and tied head; two heads on one key (qwen2, gemma); learned positions (gpt2); Conv1D (gpt2).
SHAPES = {
    "qwen2": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "gemma": {"num_key_value_heads": 1, "head_dim": 16},
    "gpt_neox": {"tie_word_embeddings": False, "rotary_pct": 0.5},
    "gpt2": {"n_positions": 320, "n_inner": 48},
}
PROMPTS = [row["prompt"] for row in sample_pairs(6, seed=9)]


class Watch(TrainerCallback):
    """Keeps a copy of all weights from before and after."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self.after = {name: p.detach().clone() for name, p in model.named_parameters()}


def save_model(kind, tokenizer, folder, **wider):
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **({} if kind == "gpt2" else {"max_position_embeddings": 512}),
        **{**shape, **SHAPES[kind], **wider},
    )
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # from_config starts so near to zero that no mask and no position would show
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module", params=list(SHAPES))
def trained(request, tokenizer, tmp_path_factory):
    """One training of each architecture, with an evaluation in between."""
    folder = tmp_path_factory.mktemp(request.param)
    save_model(request.param, tokenizer, folder / "base")
    run = Run(request.param.replace("_", "-"), folder / "runs")
    rows = sample_pairs(32, seed=3)
    with run.step("dataset"):
        write_jsonl(run.dataset / "train.jsonl", rows[:24])
        write_jsonl(run.dataset / "eval.jsonl", rows[24:])
        write_json(run.dataset / "report.json", {"source": "sample", "rows_in": 32, "dropped": {}, "split": {}})
    recipe = recipe_from_dict(
        {
            "preset": "smoke", "models": [str(folder / "base")], "fallback": False, "device": "cpu", "learning_rate": 2e-3,
            "max_steps": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "per_device_eval_batch_size": 8,
            "max_length": 256, "max_prompt_length": 200, "logging_steps": 1, "evals_per_run": 2, "max_new_tokens": 12,
        }
    )  # fmt: skip
    watch = Watch()
    result = train(run, recipe, [watch])
    return SimpleNamespace(kind=request.param, run=run, recipe=recipe, result=result, watch=watch)


def test_the_first_loss_is_ln_2_and_the_preflight_passed(trained):
    first = read_jsonl(trained.run.training / "history.jsonl")[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5) and first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert trained.result.preflight["dtype"] == "float32" and not trained.result.preflight["rejected"]


def test_every_adapter_weight_moves_and_no_base_weight(trained):
    after, before = trained.watch.after, trained.watch.before
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in after if "lora_" in name}
    layers = 2 * {"gpt2": 3, "gpt_neox": 2}.get(trained.kind, 4)  # gpt2: c_attn and c_proj of attention and of the MLP
    assert len(moved) == 2 * layers


def test_the_saved_adapter_is_the_trained_model(trained):
    """The logits of the reloaded model, and its adapter to the bit."""
    loaded = load_tuned(trained.run)
    reloaded = {name.replace(".default", ""): p for name, p in loaded.model.named_parameters() if "lora_" in name}
    kept = {name.replace(".default", ""): p for name, p in trained.watch.after.items() if "lora_" in name}
    assert reloaded.keys() == kept.keys() and all(torch.equal(reloaded[name], kept[name]) for name in kept)
    ids = loaded.tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        tuned = loaded.model(ids).logits
        with loaded.model.disable_adapter():
            base = loaded.model(ids).logits
    assert (tuned - base).abs().max() > 1e-3, "the training must show"


def test_a_padded_batch_answers_as_each_prompt_alone(trained):
    loaded = load_tuned(trained.run)
    tokenizer = loaded.tokenizer
    rendered = [render_prompt(tokenizer, prompt) for prompt in PROMPTS]
    alone = [tokenizer([text], return_tensors="pt", add_special_tokens=False) for text in rendered]
    tokenizer.padding_side = "left"
    batch = tokenizer(rendered, return_tensors="pt", padding=True, add_special_tokens=False)
    assert len({ids["input_ids"].shape[1] for ids in alone}) > 2
    with torch.no_grad():
        together, scores = _greedy(loaded.model, batch["input_ids"], batch["attention_mask"], tokenizer)
        unmasked = _greedy(loaded.model, batch["input_ids"], torch.ones_like(batch["attention_mask"]), tokenizer)[1]
        for row, ids in enumerate(alone):
            answer, own = _greedy(loaded.model, ids["input_ids"], ids["attention_mask"], tokenizer)
            assert together[row][: len(answer[0])] == answer[0]
            for step, wanted in zip(scores, own, strict=False):
                torch.testing.assert_close(step[row], wanted[0], atol=1e-4, rtol=1e-4)
    assert (scores[0] - unmasked[0]).abs().max() > 1e-2, "padding that is read must show, or this proves nothing"
    texts = [
        generate_texts(loaded.model, tokenizer, prompts, temperature=0, max_new_tokens=8) for prompts in (PROMPTS, PROMPTS[3:])
    ]
    assert texts[0][3:] == texts[1]


def test_the_export_answers_as_the_tuned_model(trained, tmp_path):
    """Conv1D is merged transposed, tied weights are stored once, rotary settings are read again."""
    loaded = load_tuned(trained.run)
    exported = export_run(trained.run, tmp_path / "exported")
    assert exported.verified.merged_difference < 0.01 * exported.verified.adapter_effect
    merged = load_export(tmp_path / "exported")
    ids = loaded.tokenizer(PROMPTS[1], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(merged.model(ids).logits, loaded.model(ids).logits, atol=2e-4, rtol=1e-4)


def test_texts_longer_than_the_learned_positions_are_a_reason_not_an_index_error(trained):
    """gpt2 has one embedding a position: beyond the last torch says 'index out of range in self' in the middle of a training."""
    too_long = recipe_from_dict({**trained.recipe.to_dict(), "max_length": 1024})
    if trained.kind != "gpt2":
        assert load_model(too_long).name == trained.recipe.models[0]
        return
    with pytest.raises(ModelError, match="reads 320 tokens at most, the recipe asks for 1024"):
        load_model(too_long)
    with pytest.raises(ModelError, match="asks for 340"):
        load_model(recipe_from_dict({**trained.recipe.to_dict(), "max_new_tokens": 140}))
    assert load_model(recipe_from_dict({**trained.recipe.to_dict(), "max_new_tokens": 120})).name == trained.recipe.models[0]
