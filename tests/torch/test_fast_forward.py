"""The shared-prompt forward gives the usual forward's numbers and gradients, and where a model cannot, it is not used."""

import contextlib
import random
from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from adslm_helpers.errors import TrainingError
from adslm_helpers.models.loading import load_model, lora_config
from adslm_helpers.recipe import load_recipe, recipe_from_dict
from adslm_helpers.training.fast import head as heads
from adslm_helpers.training.fast import self_check
from adslm_helpers.training.fast.head import TiledHead, tiled_head
from adslm_helpers.training.fast.layout import allowed, attention_share, cost, lay_out, pack
from adslm_helpers.training.fast.scores import score
from adslm_helpers.training.fast.self_check import choose_forward
from adslm_helpers.training.maths import sequence_logps
from adslm_helpers.training.prompts import EncodedPair, collate

from .test_architectures import SHAPES, save_model

PAD, EOS, VOCABULARY = 0, 1, 97
RECIPE = load_recipe("smoke", lora_dropout=0.0)


def pair(prompt, chosen, rejected, common=0, seed=0):
    """Random ids; both answers begin with `common` same ones and end in EOS. Lengths without EOS."""
    draw = random.Random(seed)
    prompt, chosen, rejected = ([draw.randrange(2, VOCABULARY) for _ in range(n)] for n in (prompt, chosen, rejected))
    return EncodedPair(prompt, [*chosen, EOS], [*chosen[:common], *rejected[common:], EOS], "", "", "", 0)


# A common beginning; answers of EOS alone; the same answer twice; one the other's beginning; short ones that share a row.
PAIRS = [
    pair(20, 9, 7, common=3, seed=1),
    pair(9, 0, 4, seed=2),
    pair(5, 3, 0, seed=3),
    pair(4, 2, 2, common=2, seed=4),
    pair(6, 2, 5, common=2, seed=5),
    pair(1, 1, 1, seed=6),
]


def random_model(kind, **shape):
    """Weights large enough that every mask and position shows, small enough that a log-probability is a few nats a token."""
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        kind,
        vocab_size=VOCABULARY,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=EOS,
        **{**small, **SHAPES.get(kind, {}), **shape},
    )
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.requires_grad_(False).eval()


def tuned(model, std=0.1):
    """With an adapter that does something, and no dropout."""
    model.config.use_cache = False
    model = get_peft_model(model, lora_config(RECIPE, model))
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def plain(model, pairs=PAIRS):
    """[2B], by the function that the lesson shows."""
    batch = collate(pairs, PAD)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return sequence_logps(logits, batch["input_ids"], batch["completion_mask"])


def gradients(model, logps):
    """Of every adapter weight, for a loss in which every sequence counts differently."""
    model.zero_grad(set_to_none=True)
    (logps * torch.linspace(-0.5, 1, len(logps))).sum().backward(retain_graph=True)
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def assert_same(model, ours, wanted):
    """Log-probabilities to 1e-4 nats and gradients to 1e-4 of the largest; both tensors carry their graph."""
    assert wanted.abs().max() > 5 and wanted.abs().max() < 200, "else 1e-4 says little"
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=0)
    got, expected = gradients(model, ours), gradients(model, wanted)
    assert got.keys() == expected.keys() and all(gradient.abs().max() > 0 for gradient in expected.values())
    for name, gradient in expected.items():
        assert (got[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max(), name


# --- the same numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("kind", list(SHAPES))
def test_log_probabilities_and_gradients_of_every_architecture(kind, checkpointing):
    model = tuned(random_model(kind)).train()
    wanted = plain(model)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    head = tiled_head(model)
    assert head is not None
    assert_same(model, score(model, lay_out(PAIRS, PAD), head)[0], wanted)
    assert_same(model, score(model, lay_out(PAIRS, PAD, shared=False), head)[0], wanted)
    chosen = choose_forward(model, PAIRS, PAD)
    assert (chosen.shared, chosen.head is None, chosen.told) == (True, False, []) and model.training


@pytest.mark.parametrize("kind", list(SHAPES))
def test_4_bit(kind, tokenizer, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no wheel for this machine")
    save_model(kind, tokenizer, tmp_path, hidden_size=64, intermediate_size=128, n_inner=128)
    recipe = {"preset": "smoke", "models": [str(tmp_path)], "fallback": False, "device": "cpu", "load_in_4bit": True}
    loaded = load_model(recipe_from_dict({**recipe, "max_length": 256, "max_prompt_length": 200, "max_new_tokens": 12}))
    model = tuned(loaded.model).train()
    chosen = choose_forward(model, PAIRS, PAD)
    assert (chosen.shared, chosen.head is None, chosen.told) == (True, False, [])
    assert_same(model, score(model, lay_out(PAIRS, PAD), chosen.head)[0], plain(model))


def test_the_adapter_off_is_the_untouched_model():
    base = random_model("llama")
    wanted = plain(base)
    model = tuned(base)
    with torch.no_grad(), model.disable_adapter():
        off = score(model, lay_out(PAIRS, PAD), tiled_head(model))[0]
    torch.testing.assert_close(off, wanted, atol=1e-4, rtol=0)
    assert (plain(model) - wanted).abs().max() > 0.1, "an adapter that does nothing would prove nothing"


@pytest.mark.parametrize("shared", [True, False])
def test_vectors_before_the_prompt_are_the_tokens_whose_embeddings_they_are(shared):
    model = tuned(random_model("gemma"))  # scales its embeddings after looking them up
    front = [11, 12, 13]
    prefix = model.get_input_embeddings()(torch.tensor(front)).detach().requires_grad_()
    wanted = plain(model, [replace(one, prompt_ids=front + one.prompt_ids) for one in PAIRS])
    got = score(model, lay_out(PAIRS, PAD, shared=shared, virtual=3), tiled_head(model), prefix)[0]
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)
    got.sum().backward()
    assert prefix.grad.abs().min() > 0, "what is to be learned hears of every loss"


def test_mean_logits_are_those_of_the_answers():
    model, batch = random_model("gpt2"), collate(PAIRS, PAD)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    mask = batch["completion_mask"][:, 1:]
    wanted = (logits.mean(-1) * mask).sum(-1) / mask.sum(-1)
    for head in (tiled_head(model), None):
        torch.testing.assert_close(score(model, lay_out(PAIRS, PAD), head)[1], wanted, atol=1e-5, rtol=1e-5)


def test_bfloat16_is_as_far_from_float32_as_the_usual_forward_in_bfloat16():
    """Of the order of the rounding itself: the layout adds nothing of its own."""
    model = random_model("qwen2")
    exact = plain(model)
    model = model.to(torch.bfloat16)
    chosen = choose_forward(model, PAIRS, PAD)
    assert (chosen.shared, chosen.head is None, chosen.told) == (True, False, [])
    ours, usual = score(model, lay_out(PAIRS, PAD), chosen.head)[0], plain(model)
    assert ours.dtype == torch.float32
    assert 1e-3 < (usual - exact).abs().max() < 0.5, "else this compares nothing"
    assert (ours - exact).abs().max() < 2 * (usual - exact).abs().max()


def test_under_autocast_a_backward_pass_goes_through_the_tiles():
    model = tuned(random_model("qwen2")).train()
    exact = plain(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert choose_forward(model, PAIRS, PAD).told == []
        ours = score(model, lay_out(PAIRS, PAD), tiled_head(model))[0]
    assert ours.dtype == torch.float32 and (ours - exact).abs().max() < 0.5
    assert all(gradient.isfinite().all() for gradient in gradients(model, ours).values())


# --- the layout -----------------------------------------------------------------------------------------------------


def test_a_position_sees_its_own_prompt_and_its_own_answer():
    """Read off the token ids: what a position sees, in order, is the beginning of prompt + answer that it stands for."""
    pairs = [pair(3, 2, 3, seed=1), pair(12, 4, 5, common=1, seed=2), pair(2, 1, 0, seed=3)]
    batch = lay_out(pairs, PAD)
    rows, width = batch["input_ids"].shape
    assert rows == 2, "the two short pairs share a row"
    sees = allowed(batch["blocks"])
    beginnings = {
        tuple(ids[:n])
        for one in pairs
        for answer in (one.chosen_ids, one.rejected_ids)
        for ids in [one.prompt_ids + answer]
        for n in range(1, len(ids))
    }
    seen = set()
    for r in range(rows):
        for at in range(width):
            if batch["blocks"][r, at]:
                read = tuple(batch["input_ids"][r, sees[r, at]].tolist())
                assert read in beginnings and len(read) == batch["position_ids"][r, at] + 1
                seen.add(read)
            else:
                assert sees[r, at].nonzero().flatten().tolist() == [at], "padding must see something, or it is NaN"
    assert seen == beginnings


def test_rows_are_filled_and_none_is_longer_than_the_longest_piece():
    lengths = [7, 3, 9, 2, 2, 6, 1]
    rows = pack(lengths)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert max(sum(lengths[index] for index in row) for row in rows) == 9 and len(rows) == 4


@pytest.mark.parametrize("virtual", [0, 5])
@pytest.mark.parametrize("shared", [True, False])
def test_the_work_of_a_layout_is_foretold(shared, virtual):
    rows, width = lay_out(PAIRS, PAD, shared=shared, virtual=virtual)["input_ids"].shape
    assert cost(PAIRS, shared, 0.25, virtual) == rows * width * (1 + 0.25 * width)


@pytest.mark.parametrize(
    ("prompt", "answers", "shared"), [(96, 32, True), (64, 128, True), (16, 64, True), (16, 128, False), (16, 512, False)]
)
def test_long_answers_behind_a_short_prompt_get_a_row_each(prompt, answers, shared):
    """As measured: 1.5, 1.15, 1.06 and 1.0 times as fast in one row, for the first four. Attention over a row grows with its square."""
    shape = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
    config = AutoConfig.for_model("qwen2", vocab_size=4096, num_attention_heads=8, num_key_value_heads=2, **shape)
    share = attention_share(config)
    assert 4.5e-4 < share < 6e-4
    pairs = [pair(prompt, answers, answers)] * 4
    assert (cost(pairs, True, share) < cost(pairs, False, share)) is shared


# --- heads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_tiles_give_the_softmax_of_the_whole_vocabulary(bias, monkeypatch):
    monkeypatch.setitem(heads._TILE, "cpu", 1)
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, 1300, bias=bias).requires_grad_(False)  # three tiles, the last one shorter
    layer.weight[600:].mul_(40)  # the largest logit moves from tile to tile, up to some hundreds
    hidden, targets = torch.randn(40, 16, requires_grad=True), torch.randint(1300, (40,))
    weights = torch.randn(40)
    wanted = layer(hidden).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    (wanted * weights).sum().backward()
    expected, hidden.grad = hidden.grad, None
    got, means = TiledHead(layer).token_logps(hidden, targets)
    (got * weights).sum().backward()
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(hidden.grad, expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(means, layer(hidden).mean(-1).detach(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "shape"), [("gemma2", {"num_key_value_heads": 1, "head_dim": 16, "final_logit_softcapping": 3.0}), ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32})]
)  # fmt: skip
def test_the_models_own_way_in_chunks_never_holds_all_logits(kind, shape, monkeypatch):
    model = tuned(random_model(kind, **shape)).eval()  # the dropout of opt is no module
    wanted = plain(model)
    monkeypatch.setattr(heads, "_OWN", 5 * VOCABULARY)
    sizes = []
    model.get_output_embeddings().register_forward_hook(lambda layer, inputs, output: sizes.append(output.shape[1]))
    ours = score(model, lay_out(PAIRS, PAD))[0]
    assert max(sizes) == 5 and len(sizes) > 5
    assert_same(model, ours, wanted)


def test_a_head_that_is_trained_is_computed_by_the_model():
    model = random_model("llama")
    model.lm_head.weight.requires_grad_(True)
    assert tiled_head(model) is None
    score(model, lay_out(PAIRS, PAD))[0].sum().backward()
    ours, model.lm_head.weight.grad = model.lm_head.weight.grad, None
    plain(model).sum().backward()
    torch.testing.assert_close(ours, model.lm_head.weight.grad, atol=1e-3, rtol=1e-4)


# --- what a model does not honour -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shape", "said"),
    [
        ("mistral", {"num_key_value_heads": 1, "sliding_window": 8}, "look back 8 tokens, and the longest pair has 30"),
        ("bloom", {}, "ValueError"),  # ALiBi from a mask of two dimensions
        ("mpt", {"d_model": 32, "n_heads": 2, "n_layers": 2}, "nats"),  # ALiBi by the place in the row: nothing is raised
    ],
)
def test_a_model_that_does_not_keep_answers_apart_gets_a_row_for_each(kind, shape, said):
    model = random_model(kind, **shape)
    chosen = choose_forward(model, PAIRS, PAD)
    assert not chosen.shared and len(chosen.told) == 1 and said in chosen.told[0] and " / " in chosen.told[0]
    batch = lay_out(PAIRS, PAD, shared=False)
    torch.testing.assert_close(score(model, batch, chosen.head)[0], plain(model), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("mistral", {"num_key_value_heads": 1, "sliding_window": 30}),
        ("mistral", {"num_key_value_heads": 1, "sliding_window": None}),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": False}),
        ("gemma3_text", {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 8, "layer_types": ["full_attention"] * 2}),
    ],
)
def test_a_window_that_no_pair_or_no_layer_has_is_none(kind, shape):
    assert choose_forward(random_model(kind, **shape), PAIRS, PAD).told == []


def test_a_capped_head_is_the_models_own():
    model = random_model("gemma2", num_key_value_heads=1, head_dim=16, final_logit_softcapping=3.0)
    chosen = choose_forward(model, PAIRS, PAD)
    assert chosen.shared and chosen.head is None
    torch.testing.assert_close(score(model, lay_out(PAIRS, PAD))[0], plain(model), atol=1e-4, rtol=0)


def test_a_head_whose_cap_has_a_name_that_nobody_knows_is_found_out(monkeypatch):
    monkeypatch.setattr(heads, "_AFTER_THE_HEAD", ())
    chosen = choose_forward(random_model("gemma2", num_key_value_heads=1, head_dim=16, final_logit_softcapping=3.0), PAIRS, PAD)
    assert chosen.shared and chosen.head is None and "the model's own way is taken" in chosen.told[0]


def test_numbers_that_are_nobodys_end_in_a_message(monkeypatch):
    model = random_model("llama")
    monkeypatch.setattr(self_check, "tiled_head", lambda model: None)
    monkeypatch.setattr(heads.OwnHead, "_logits", lambda self, hidden: hidden @ torch.ones(32, VOCABULARY))
    with pytest.raises(TrainingError, match='engine="trl"'):
        choose_forward(model, PAIRS, PAD)


def test_memory_that_runs_out_is_not_taken_for_an_architecture(monkeypatch):
    """Its remedy is a smaller batch, not another layout."""

    def fail(*arguments):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(self_check, "score", fail)
    with pytest.raises(torch.OutOfMemoryError):
        choose_forward(random_model("llama"), PAIRS, PAD)


def test_numbers_that_are_not_finite_are_left_to_the_preflight():
    """A precision that overflows says nothing of the layout."""
    model = random_model("llama")
    model.model.norm.weight.data.fill_(torch.inf)
    chosen = choose_forward(model.train(), PAIRS, PAD, contextlib.nullcontext)
    assert chosen.shared and not chosen.told and model.training


# --- the last MLP --------------------------------------------------------------------------------------------------------


def test_the_last_mlp_sees_only_what_is_read_and_changes_no_number(model_folder):
    """The other layers see every position; with activations computed again nothing is left out, for the second pass would not know."""
    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    batch = lay_out(PAIRS, 0)
    seen = []
    layers = model.model.layers
    for layer in (layers[0], layers[-1]):
        layer.mlp.gate_proj.register_forward_hook(lambda module, arguments, output: seen.append(output.shape[:-1].numel()))
    with torch.no_grad():
        found = score(model, batch, tiled_head(model))[0]
    assert seen == [batch["input_ids"].numel(), len(set(batch["read_at"].tolist()))] and seen[1] < seen[0]
    model.gradient_checkpointing_enable()
    seen.clear()
    again = score(model.train(), batch, tiled_head(model))[0]
    assert seen == [batch["input_ids"].numel()] * 2 and torch.allclose(found, again, atol=1e-4)


def test_rows_padded_to_a_multiple_give_the_same_numbers(model_folder):
    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    plain, wide = lay_out(PAIRS, 0), lay_out(PAIRS, 0, multiple=64)
    assert wide["input_ids"].shape[1] % 64 == 0 and wide["input_ids"].shape[1] > plain["input_ids"].shape[1]
    with torch.no_grad():
        assert torch.allclose(score(model, plain)[0], score(model, wide)[0], atol=1e-4)
