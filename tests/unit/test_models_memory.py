"""The memory plan: the estimate that decides what is downloaded at all. Measured: docs/results/memory.md."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from adslm_helpers.environment.described import described_machine
from adslm_helpers.environment.device import choose_device
from adslm_helpers.models import memory
from adslm_helpers.models.catalog import CATALOG, ModelFacts
from adslm_helpers.models.memory import GIB, OVERHEAD_GB, Head, head_of_fast, head_of_trl, plan_memory, reference_times
from adslm_helpers.recipe import load_recipe
from adslm_helpers.training.fast import head, reference, self_check

CPU = choose_device(load_recipe("tiny"), described_machine("cpu-16gb"))
TILES = Head("torch", 8.25, 4.25, tile=(512, 4096))
FACTS = CATALOG["Qwen/Qwen2.5-1.5B-Instruct"]
MEASURED = Path(__file__).parents[2] / "docs" / "results" / "memory.json"


def test_parts_by_hand():
    """Width 8, MLP 16, two layers, 4 heads of 2 and 2 for keys and values, 10 words; 2 x 1 x 16 = 32 tokens of 4 bytes.

    One layer keeps for a token: two norms' inputs 2*8, LoRA's input 8, queries and attention output 2*8, keys and values repeated to
    all heads 2*8, and three MLP tensors 3*16: 104 numbers. At work: 3*16 + 3*8 = 72 numbers. Head: 8.25 tiles of 32 x 10, hidden states and gradient 2*32*8.
    """
    recipe = load_recipe("tiny", per_device_train_batch_size=1, max_length=16, max_prompt_length=8, lora_r=2)
    facts = ModelFacts("llama", 8, 2, 16, 10, 4, 2, 2)
    plan = plan_memory(facts, recipe, CPU, TILES)
    adapter = 2 * 2 * (16 + 12 + 12 + 16)  # two layers, rank 2, q 8->8, k and v 8->4, o 8->8
    assert plan.overhead == OVERHEAD_GB["cpu"]
    assert plan.weights == pytest.approx(4 * (80 + 2 * (64 + 32 + 32 + 64 + 3 * 128 + 16) + 8) / GIB)
    assert plan.lora == plan.optimizer == pytest.approx(8 * adapter / GIB)
    assert plan.activations == pytest.approx(2 * 32 * 104 * 4 / GIB)
    assert plan.work == pytest.approx(32 * 72 * 4 / GIB)
    assert plan.logits == pytest.approx((8.25 * 32 * 10 * 4 + 2 * 32 * 8 * 4) / GIB)
    assert plan.reference == 0
    assert plan.total == pytest.approx(
        plan.overhead + plan.weights + 2 * plan.lora + max(plan.activations + max(plan.work, plan.logits), plan.evaluation)
    )


def test_parts_of_the_engine_fast_by_hand():
    """The same model; two pairs of a prompt of 6 and answers of 10 tokens: one row each of 6 + 2 x 9 = 24 positions, 20 of them scored.

    One layer keeps 104 numbers for each of the 48 positions, as with TRL; all layers share a mask of 2 x 24 x 24. Head: one tile of
    40 x 10, the last hidden states 48*8, and four of 40*8: states, rows of the targets, the mean row, its share of a tile. The
    reference pass has four times the pairs: 192 positions and their mask, one layer at work.
    """
    recipe = load_recipe(
        "tiny",
        engine="fast",
        per_device_train_batch_size=2,
        per_device_eval_batch_size=1,
        max_length=16,
        max_prompt_length=8,
        lora_r=2,
    )
    facts = ModelFacts("llama", 8, 2, 16, 10, 4, 2, 2)
    plan = plan_memory(facts, recipe, CPU, prompt=6)
    mask = 2 * 24 * 24
    assert plan.activations == pytest.approx(4 * (2 * 48 * 104 + mask) / GIB)
    assert plan.work == pytest.approx(4 * 48 * 72 / GIB)
    assert plan.logits == pytest.approx(4 * (40 * 10 + 48 * 8 + 4 * 40 * 8) / GIB)
    assert plan.evaluation == pytest.approx(4 * (192 * 72 + 4 * mask) / GIB)
    # With many words the check before the training is the peak of what has no gradient: 48 positions, whole logits three times.
    many = plan_memory(replace(facts, vocabulary=100_000), recipe, CPU, prompt=6)
    assert many.evaluation == pytest.approx(4 * 3 * 48 * 100_000 / GIB)
    trl = plan_memory(
        facts, load_recipe("tiny", engine="trl", per_device_train_batch_size=2, max_length=16, max_prompt_length=8), CPU, TILES
    )
    assert plan.activations < trl.activations


def test_what_is_not_known_of_the_prompts_is_planned_for_on_the_safe_side():
    recipe = load_recipe("cpu", engine="fast", max_length=512)
    unknown, long = plan_memory(FACTS, recipe, CPU), plan_memory(FACTS, recipe, CPU, prompt=384)
    assert unknown.total > long.total
    assert unknown.activations == pytest.approx(2 * 511 / (384 + 2 * 127) * long.activations, rel=0.02)


def test_the_engine_fast_keeps_no_logits():
    """Twice the vocabulary costs its weights and nothing else, also in half precision, where a tile's product comes first."""
    recipe = load_recipe("cpu", engine="fast")
    twice = replace(FACTS, vocabulary=2 * FACTS.vocabulary)
    for device in (CPU, replace(CPU, dtype="bfloat16")):
        small, large = plan_memory(FACTS, recipe, device, prompt=128), plan_memory(twice, recipe, device, prompt=128)
        assert large.logits == small.logits and large.weights > small.weights
    assert head_of_fast("cuda").tile[0] > head_of_fast("cpu").tile[0]


def test_the_sizes_that_the_plan_counts_with_are_those_of_the_engine():
    """The plan comes before the engine in the order of imports, so it names them again: a tile, the check, the reference pass."""
    assert (memory._FAST_TILE, memory._FAST_LEAST) == (head._TILE, head._LEAST)
    assert memory._CHECKED == 2 * (self_check._PROMPT + self_check._TOKENS)
    assert reference_times(False) == reference._TIMES_A_STEP and reference_times(True) == reference._TIMES_A_STEP_CHECKPOINTED


def test_checkpointing_and_4_bit_save_what_they_are_for():
    recipe = load_recipe("cpu")
    plain = plan_memory(FACTS, recipe, CPU, TILES)
    assert plan_memory(FACTS, load_recipe("cpu", gradient_checkpointing=True), CPU, TILES).activations < plain.activations / 5
    assert plan_memory(FACTS, load_recipe("cpu", load_in_4bit=True), CPU, TILES).weights < plain.weights / 3


def test_4_bit_leaves_the_embedding_alone():
    """1,310 M weights in the layers' matrices at 0.516 bytes; 233 M of embedding and the norms at 4."""
    plan = plan_memory(FACTS, load_recipe("cpu", load_in_4bit=True), CPU, TILES)
    assert plan.weights == pytest.approx((1_310_195_712 * 0.51586 + 233_518_592 * 4) / GIB, rel=1e-3)


def test_whole_logits_cost_what_tiles_save():
    recipe = load_recipe("tiny", per_device_train_batch_size=2, max_length=512)
    whole, large, small = (
        plan_memory(FACTS, recipe, CPU, head).logits for head in (Head("full", 3, 1.5), Head("torch", 8.25, 4.25), TILES)
    )
    assert whole == pytest.approx(3 * 2048 * 151_936 * 4 / GIB, rel=0.02)
    assert whole > large > 4 * small


def test_a_large_evaluation_batch_is_the_peak():
    recipe = load_recipe("tiny", per_device_train_batch_size=1, max_length=512)
    small = plan_memory(FACTS, recipe, CPU, Head("full", 3, 1.5))
    large = plan_memory(FACTS, replace(recipe, per_device_eval_batch_size=64), CPU, Head("full", 3, 1.5))
    assert large.evaluation > large.activations + large.logits and large.total > small.total


def test_eager_attention_keeps_its_matrices():
    recipe = load_recipe("tiny", max_length=512)
    eager = plan_memory(FACTS, recipe, replace(CPU, attention="eager"), TILES)
    fused = plan_memory(FACTS, recipe, CPU, TILES)
    rows = 2 * 8 * 512  # both sides of 8 pairs
    kept = 28 * rows * 12 * 512 * 4  # 28 layers, a row of the softmax for each of 12 heads
    assert eager.activations - fused.activations == pytest.approx(kept / GIB)


TRAINERS = {
    "1.16": ("from ..kernels import x", ("torch", 8.25, 4.25, 0)),
    "1.9": ("shift_logits = outputs.logits[..., :-1, :]\nselective_log_softmax\nentropy_from_logits", ("full", 3, 3, 384)),
    "0.29": ("shift_logits = outputs.logits[..., :-1, :].contiguous()\nentropy_from_logits", ("full", 4.5, 4.5, 0)),
    "0.24": ("per_token_logps = selective_log_softmax(logits, labels)", ("full", 3, 1.5, 0)),
    "0.9": ("logits.log_softmax(-1)\npolicy_chosen_logits\nnll_loss", ("full", 5.5, 4, 0)),
    "0.7": ("logits.log_softmax(-1)\npolicy_chosen_logits", ("full", 5, 4, 0)),
    "0.14": ("logits.log_softmax(-1)", ("full", 3, 2, 0)),
}


@pytest.mark.parametrize("version", TRAINERS)
def test_the_head_is_read_from_the_files_of_the_installed_trl(monkeypatch, tmp_path, version):
    words, expected = TRAINERS[version]
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "dpo_trainer.py").write_text(words)
    if version == "1.16":
        (tmp_path / "kernels").mkdir()
        (tmp_path / "kernels" / "chunked_logprob.py").write_text("")
    monkeypatch.setattr(memory, "_trl_folder", lambda: tmp_path)
    found = head_of_trl("cpu")
    assert (found.kind, found.copies, found.eval_copies, found.rows) == expected
    assert (head_of_trl("cuda").kind == "triton") == (version == "1.16")


def test_the_plan_meets_what_was_measured():
    """Enough configurations, and the formula of today within 15 % of each peak that was measured (above the loaded libraries)."""
    rows = json.loads(MEASURED.read_text(encoding="utf-8"))["rows"]
    assert len(rows) >= 8
    assert {row["in_4bit"] for row in rows} == {row["checkpointing"] for row in rows} == {True, False}
    assert {row["engine"] for row in rows} == {"fast", "trl"}
    assert len({row["vocabulary"] for row in rows}) > 1 and len({row["versions"]["trl"] for row in rows}) > 1
    ratios = {row["name"]: predicted(row) / row["measured_mib"] for row in rows}
    assert not {name: ratio for name, ratio in ratios.items() if not 0.85 <= ratio <= 1.15}


def predicted(row):
    """MiB above the libraries."""
    shape = row["shape"]
    facts = ModelFacts(
        row["architecture"], shape["hidden"], shape["layers"], shape["intermediate"], row["vocabulary"], shape["heads"],
        shape["kv_heads"], shape["hidden"] // shape["heads"], tied=row["architecture"] != "gpt_neox",
        positions=1024 if row["architecture"] == "gpt2" else 0,
    )  # fmt: skip
    recipe = load_recipe(
        "tiny", per_device_train_batch_size=row["batch"], max_length=row["length"], max_prompt_length=row["length"] - 1, load_in_4bit=row["in_4bit"],
        gradient_checkpointing=row["checkpointing"], per_device_eval_batch_size=row["eval_batch"], engine=row["engine"],
    )  # fmt: skip
    device = replace(CPU, dtype=row["dtype"], attention=row["attention"])
    head = Head(**{**row["head"], "tile": tuple(row["head"]["tile"])})
    plan = plan_memory(facts, recipe, device, head, row["prompt"])
    return 1024 * (plan.total - plan.overhead)
