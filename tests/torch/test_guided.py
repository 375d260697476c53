"""Preference-guided DPO on the engine's own trainer: m, m0 and mp are what the formulation says, and the teacher only teaches.

m = log pi(chosen|x) - log pi(rejected|x), m0 the same of the reference, mp of a teacher that also reads the instruction;
L = mean -log sigmoid(beta (m - m0)) + alpha mean relu(beta (mp - m)), no gradient through mp.
"""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, GemmaConfig, GPT2Config, LlamaConfig, Qwen2Config

from adslm_helpers.dataset.samples import sample_pairs
from adslm_helpers.evaluation.evaluate import evaluate
from adslm_helpers.evaluation.instruction import guided_metrics, guided_rows
from adslm_helpers.models.loading import load_model
from adslm_helpers.models.tiny import build_model
from adslm_helpers.models.tuned import load_tuned, trained_recipe
from adslm_helpers.training.fast.layout import lay_out
from adslm_helpers.training.fast.objective import aligned_losses, pair_losses
from adslm_helpers.training.fast.scores import score
from adslm_helpers.training.fast.trainer import build_trainer
from adslm_helpers.training.guided.embeddings import write_prompt_embeddings
from adslm_helpers.training.guided.explain import margins_of
from adslm_helpers.training.guided.step_cost import step_cost
from adslm_helpers.training.guided.teacher import encode_guided, make_teacher
from adslm_helpers.training.maths import sequence_logps
from adslm_helpers.training.prompts import collate
from adslm_helpers.training.train import train

from .conftest import SMALL

P = "商品名を必ず入れてください。"
ROWS = sample_pairs(12, seed=3)
PLAIN = {"engine": "fast", "sft_weight": 0.0, "save_steps": 1000, "evals_per_run": 1, "warmup_ratio": 0.0, "recoveries": 0}


@pytest.fixture(scope="module")
def sharp_model(tokenizer, tmp_path_factory):
    """A random model that an instruction moves by nats, not by rounding."""
    model = build_model(tokenizer, seed=1, **SMALL)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 2:
                value *= 2 if "embed" in name else 5
    folder = tmp_path_factory.mktemp("sharp-model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def guided(recipe, sharp_model):
    """Eight pairs in batches of four, two epochs: every pair is trained on twice."""
    return replace(
        recipe, **PLAIN, max_steps=4, models=(str(sharp_model),), method="preference_guided", preference_text=P, alpha=0.2
    )


def built(recipe, folder, rows=ROWS):
    """A trainer of the recipe on eight pairs, four held out."""
    loaded = load_model(recipe)
    train, eval_ = (encode_guided(loaded.tokenizer, part, recipe, loaded.model) for part in (rows[:8], rows[8:]))
    teacher = make_teacher(recipe, loaded.model, {"train": train[1], "eval": eval_[1]})
    pairs = train[0].pairs, eval_[0].pairs
    given = {"teacher": teacher} if recipe.method == "preference_guided" else {}
    trainer, _ = build_trainer(recipe, loaded.plan, loaded.model, loaded.tokenizer, *pairs, folder / "t" / "training", **given)
    return trainer


def adapter(model):
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def margins(logps):
    chosen, rejected = torch.as_tensor(logps).chunk(2)
    return chosen - rejected


def swapped(pair):
    return replace(pair, chosen_ids=pair.rejected_ids, rejected_ids=pair.chosen_ids)


def batch_of(trainer, items=None):
    return trainer._prepare_inputs(trainer.data_collator(items or trainer.train_dataset[:4]))


def test_alpha_zero_is_plain_dpo_bit_for_bit_whoever_teaches(guided, tmp_path):
    runs = {}
    for name, changes in {
        "plain": {"method": "dpo"}, "frozen": {"alpha": 0.0}, "live": {"alpha": 0.0, "teacher": "policy"},
    }.items():  # fmt: skip
        trainer = built(replace(guided, **changes), tmp_path / name)
        trainer.train()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        runs[name] = losses, adapter(trainer.model), trainer.state.log_history
    losses, weights, _ = runs["plain"]
    assert len(losses) == 4 and len(set(losses)) > 2
    for name in ("frozen", "live"):
        assert runs[name][0] == losses
        assert all(torch.equal(weights[key], value) for key, value in runs[name][1].items())
        assert any(row.get("loss_components/aligned_loss", 0) > 1e-3 for row in runs[name][2]), (
            "or there is no teacher to leave out"
        )


def test_the_first_loss_is_ln_2_and_alpha_beta_times_the_mean_lead_of_the_teacher(guided, tmp_path):
    trainer = built(guided, tmp_path)
    batch = batch_of(trainer)
    gaps = margins(batch["teacher_logps"].double()) - margins(batch["ref_logps"].double())
    wanted = math.log(2) + guided.alpha * guided.beta * gaps.relu().mean().item()
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(wanted, abs=1e-5)
    assert wanted > math.log(2) + 2e-4, "one pair at least on which the teacher is ahead"
    # the objective itself, in float64, at the start of a training: the policy is the reference
    logps, taught = torch.randn(2, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 20
    losses, *_ = pair_losses(logps, logps, torch.ones(32, 2), guided)
    aligned, gaps = aligned_losses(logps, taught, guided.beta)
    exact = math.log(2) + guided.alpha * guided.beta * (margins(taught) - margins(logps)).relu().mean()
    assert (losses.mean() + guided.alpha * aligned.mean() - exact).abs() < 1e-15
    assert torch.equal(gaps, margins(taught) - margins(logps))


def test_the_gradient_of_the_margin_at_the_start_and_none_where_or_for_whom_there_should_be_none(guided):
    """dL/dm = -(beta/2 + alpha beta) where the teacher is ahead, else -beta/2; the hinge's share is 2 alpha of DPO's, whatever beta is."""
    for beta in (0.05, 0.5):
        recipe = replace(guided, beta=beta)
        m = torch.tensor([-3.0, 0.5, 2.0, 1.0], dtype=torch.float64, requires_grad=True)
        mp = torch.tensor([1.0, -4.0, 2.0, 1.5], dtype=torch.float64, requires_grad=True)
        logps, taught = (torch.cat([values, torch.zeros(4, dtype=torch.float64)]) for values in (m, mp))
        losses, *_ = pair_losses(logps, logps.detach(), torch.ones(4, 2), recipe)
        aligned, _ = aligned_losses(logps, taught, beta)
        (losses + recipe.alpha * aligned).sum().backward()
        ahead, behind = -(beta / 2 + recipe.alpha * beta), -beta / 2
        torch.testing.assert_close(m.grad, torch.tensor([ahead, behind, behind, ahead], dtype=torch.float64), atol=1e-16, rtol=0)
        assert mp.grad is None and aligned[1] == aligned[2] == 0


def test_no_gradient_goes_through_a_live_teacher(guided, tmp_path):
    """The gradient is that of the same margins handed in as numbers."""
    trainer = built(replace(guided, teacher="policy", learning_rate=2e-2), tmp_path)
    trainer.train()  # away from the start: there the policy is the reference
    items = trainer.train_dataset[:4]
    turned = [replace(item, pair=swapped(item.pair), taught=swapped(item.taught)) for item in items]
    batch, gradients = batch_of(trainer, items + turned), []  # of each pair one side's teacher is ahead
    said = trainer._teacher_logps(trainer.model, batch)
    frozen = {name: value for name, value in batch.items() if name != "taught"}
    for inputs in (batch, {**frozen, "teacher_logps": said.clone()}, frozen):
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, inputs).backward()
        gradients.append({name: value.grad.clone() for name, value in trainer.model.named_parameters() if value.grad is not None})
    live, handed, without = gradients
    assert all(torch.equal(live[name], handed[name]) for name in live)
    assert any(not torch.equal(live[name], without[name]) for name in live)


def test_a_frozen_teacher_says_the_same_at_every_step_and_a_live_one_follows_the_policy(guided, tmp_path):
    for kind in ("reference", "policy"):
        trainer = built(replace(guided, teacher=kind), tmp_path / kind)
        said, ask = {}, trainer._teacher_logps

        def listen(model, inputs, ask=ask, said=said):
            found = ask(model, inputs)
            for ref, mp in zip(inputs["ref_logps"].tolist(), found.tolist(), strict=True):
                said.setdefault(ref, []).append(mp)
            return found

        trainer._teacher_logps = listen
        trainer.train()
        moved = [max(values) - min(values) > 1e-4 for values in said.values() if len(values) > 1]
        assert len(moved) == 16, "both answers of eight pairs, twice each"
        assert all(moved) if kind == "policy" else not any(moved)


def test_without_an_instruction_the_ratio_is_one_and_the_aligned_loss_nothing(guided, tmp_path):
    """At every step where the policy teaches itself; of a frozen teacher, which then is the reference, at the start."""
    names = ("preference_metrics/pref_advantage_ratio", "loss_components/aligned_loss")
    live = built(replace(guided, preference_text="", teacher="policy"), tmp_path / "live")
    live.train()
    logged = [tuple(row[name] for name in names) for row in live.state.log_history if "loss" in row]
    assert logged == [(1.0, 0.0)] * 4
    frozen = built(replace(guided, preference_text=""), tmp_path / "frozen")
    assert all(item.teacher_logps == item.ref_logps for item in frozen.train_dataset)


SMALL_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512}
SMALL_LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 512,
}  # fmt: skip
SHAPES = {
    "qwen2": (Qwen2Config, SMALL_LLAMA),
    "llama": (LlamaConfig, SMALL_LLAMA),
    "gemma": (GemmaConfig, {**SMALL_LLAMA, "head_dim": 16}),
    "gpt2": (GPT2Config, SMALL_GPT2),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_learned_vectors_are_a_prefix_of_tokens_and_pefts_prompt_tuning(shape, guided, tokenizer, model_folder, tmp_path):
    """E = input_embeddings(tokens(p)): the same numbers as the tokens themselves, and as PEFT's forward with TEXT initialisation."""
    from peft import PromptTuningConfig, get_peft_model

    kind, small = SHAPES[shape]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(vocab_size=len(tokenizer), **small)).eval()
    ids = tokenizer(P, add_special_tokens=False)["input_ids"]
    vectors = model.get_input_embeddings()(torch.tensor(ids)).detach()
    file = write_prompt_embeddings(tmp_path / "prompt_embeddings.pt", vectors)
    in_text = replace(guided, preference_placement="prefix")
    in_vectors = replace(guided, preference_text="", prompt_embeddings=str(file))
    found = {}
    for name, recipe in {"text": in_text, "vectors": in_vectors}.items():
        plain, taught = encode_guided(tokenizer, ROWS[:4], recipe, model)
        teacher = make_teacher(recipe, model, {"train": taught})
        virtual = 0 if teacher.prefix is None else len(teacher.prefix)
        batches = [lay_out(taught, tokenizer.pad_token_id, shared=shared, virtual=virtual) for shared in (False, True)]
        with torch.no_grad():
            found[name], packed = (score(model, batch, None, teacher.prefix)[0] for batch in batches)
        torch.testing.assert_close(packed, found[name], atol=1e-5, rtol=1e-6)
        assert virtual == (len(ids) if name == "vectors" else 0)
    assert torch.equal(found["text"], found["vectors"])
    tuning = PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=len(ids), prompt_tuning_init="TEXT", prompt_tuning_init_text=P,
        tokenizer_name_or_path=str(model_folder),
    )  # fmt: skip
    rows = collate(plain.pairs, tokenizer.pad_token_id)
    peft = get_peft_model(copy.deepcopy(model), tuning).eval()
    with torch.no_grad():
        logits = peft(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits[:, len(ids) :]
        without = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
    by_peft, plainly = (sequence_logps(one, rows["input_ids"], rows["completion_mask"]) for one in (logits, without))
    torch.testing.assert_close(found["vectors"], by_peft, atol=1e-5, rtol=1e-6)  # sums of -400 nats in float32
    assert (by_peft - plainly).abs().max() > 1e-3, "an instruction that changes nothing would prove nothing"


def test_swapping_the_answers_turns_both_margins_round_and_padding_changes_nothing(guided, tokenizer):
    model = load_model(guided).model
    rows = [{**row, "prompt": row["prompt"] + "。" * (7 * i)} for i, row in enumerate(ROWS[:4])]
    other = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    straight, turned = (margins_of(model, tokenizer, one, guided) for one in (rows, other))
    alone = [margins_of(model, tokenizer, [row], guided)[0] for row in rows]
    for name in ("m0", "mp", "m", "m_prompted"):
        values = torch.tensor([[getattr(one, name) for one in side] for side in (straight, turned, alone)])
        torch.testing.assert_close(values[0], -values[1], atol=1e-4, rtol=0)
        torch.testing.assert_close(values[0], values[2], atol=1e-4, rtol=0)
    plain, taught = encode_guided(tokenizer, rows, guided, model)
    batches = [lay_out(pairs, tokenizer.pad_token_id, shared=False) for pairs in (plain.pairs, taught)]
    assert torch.equal(batches[0]["lengths"], batches[1]["lengths"])
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in ("targets", "sequence", "counted"))


def test_the_base_is_as_it_was_and_explained_margins_are_those_of_the_training(guided, tokenizer, tmp_path):
    untouched = load_model(guided).model
    trainer = built(guided, tmp_path)
    at_first = adapter(trainer.model)
    trainer.train()
    base = {name.replace(".base_layer", ""): value for name, value in trainer.model.get_base_model().named_parameters()}
    assert all(torch.equal(base[name], value) for name, value in untouched.named_parameters())
    assert any(not torch.equal(at_first[name], value) for name, value in adapter(trainer.model).items())
    ids = torch.tensor([trainer.train_dataset[0].pair.prompt_ids])
    with torch.no_grad(), trainer.model.disable_adapter():
        assert torch.equal(trainer.model(ids).logits, untouched(ids).logits)
    explained = margins_of(trainer.model, tokenizer, ROWS[8:], guided)
    held_out = trainer.evaluate()
    assert sum(one.learned for one in explained) / 4 * guided.beta == pytest.approx(held_out["eval_rewards/margins"], abs=1e-5)
    assert sum(one.gap for one in explained) / 4 == pytest.approx(held_out["eval_preference_metrics/margin_gap"], abs=1e-4)
    assert any(abs(one.m_prompted - one.mp) > 1e-3 for one in explained) and json.dumps([one.row() for one in explained])
    of_base = margins_of(untouched, tokenizer, ROWS[8:], guided)
    for one, other in zip(explained, of_base, strict=True):
        assert (one.m0, one.mp) == (other.m0, other.mp) == (other.m, other.m_prompted)


def test_the_cost_of_a_step_is_measured_on_steps_that_differ_in_the_teacher_alone(guided):
    cost = step_cost(guided, ROWS[:8], steps=2)
    assert len(cost.plain) == len(cost.guided) == 2 and cost.ratio > 0 and cost.teacher_pass > 0 and cost.pairs == 8
    assert len(cost.lines()) == 2
    assert len(step_cost(replace(guided, teacher="policy"), ROWS[:8], steps=1).lines()) == 1


def test_an_evaluation_says_what_the_teacher_read_and_does_not_need_it_any_more(guided, run, tmp_path, monkeypatch):
    """The file of the vectors may be gone, or of another model, when somebody evaluates later."""
    monkeypatch.setattr("adslm_helpers.evaluation.evaluate._figures", lambda *given: [])  # half of the time
    file = write_prompt_embeddings(tmp_path / "prompt_embeddings.pt", torch.randn(3, SMALL["hidden_size"]))
    result = train(run, replace(guided, preference_text="", prompt_embeddings=str(file), max_steps=2))
    found = evaluate(run)
    told = found.metrics["guided"]
    assert (
        told["n_pairs"] == 8 and told["shift"] != 0 and told["alpha"] == guided.alpha and told["prompt_embeddings"] == str(file)
    )
    assert told["learned"] * guided.beta == pytest.approx(found.metrics["reward_margin"], abs=2e-4)
    assert told["gap"] == pytest.approx(result.final["eval_preference_metrics/margin_gap"], abs=1e-3)
    page = found.report.read_text(encoding="utf-8")
    assert "preference_guided: alpha 0.2, teacher reference" in page and "prompt_embeddings.pt" in page
    file.unlink()
    loaded = load_tuned(run)
    gone = guided_metrics(loaded.model, loaded.tokenizer, ROWS, trained_recipe(run))["guided"]
    assert "shift" not in gone and "prompt_embeddings.pt" in gone["not_measured"][1] and list(guided_rows(gone))
