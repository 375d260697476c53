"""The plan before the download, for machines that are only described: no torch, no network."""

import json
from dataclasses import replace

import pytest

from adslm_helpers.environment.described import MACHINES, described_machine
from adslm_helpers.environment.device import check_preset_fits
from adslm_helpers.environment.machine import Probe
from adslm_helpers.errors import ModelError, RecipeError, SetupError
from adslm_helpers.models import plan as plan_module
from adslm_helpers.models.catalog import CATALOG
from adslm_helpers.models.memory import Head
from adslm_helpers.models.plan import fit, plan_run
from adslm_helpers.recipe import EMBEDDED, DpoRecipe, load_recipe, preset_names

GEMMA = "google/gemma-2b-it"
SWALLOW_8B = "tokyotech-llm/Llama-3-Swallow-8B-Instruct-v0.1"


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """No token, an empty cache, today's TRL: whatever this computer has plays no part."""
    tiles = {"cuda": Head("triton", 2, 1)}
    monkeypatch.setattr(plan_module, "has_hub_token", lambda: False)
    monkeypatch.setattr("adslm_helpers.models.local._cached", lambda name: None)
    monkeypatch.setattr(
        "adslm_helpers.models.memory.head_of_trl", lambda device: tiles.get(device, Head("torch", 8.25, 4.25, tile=(512, 4096)))
    )


def plan(preset, machine, **changes):
    return plan_run(load_recipe(preset, **changes), described_machine(machine))


@pytest.mark.parametrize(
    ("preset", "machine", "dtype", "amp", "in_4bit"),
    [
        ("colab_t4", "colab-t4", "float32", "fp16", True),
        ("colab_t4", "v100", "float32", "fp16", True),
        ("colab_l4", "colab-l4", "bfloat16", "bf16", False),
        ("colab_l4", "colab-a100", "bfloat16", "bf16", False),
        ("gpu_80gb", "a100-80gb", "bfloat16", "bf16", False),
        ("gpu_80gb", "h100-80gb", "bfloat16", "bf16", False),
        ("apple_m1_16gb", "apple-m1-16gb", "float32", None, False),
        ("apple_m2_8gb", "apple-m2-8gb", "float32", None, False),
        ("cpu", "cpu-16gb", "float32", None, False),
    ],
)
def test_each_machine_gets_the_first_model_of_its_preset(preset, machine, dtype, amp, in_4bit):
    planned = plan(preset, machine)
    device = planned.device
    assert planned.model == load_recipe(preset).models[0] and not planned.skipped
    assert (device.dtype, device.bf16, device.fp16) == (dtype, amp == "bf16", amp == "fp16")
    assert planned.recipe.load_in_4bit == in_4bit and planned.memory.total <= device.usable_gb
    assert planned.changes == {}  # presets are made for their machines
    values = {choice.name.rsplit("/ ")[-1]: choice.value for choice in planned.choices}
    assert values["adapter"] == "float32"
    assert values["attention"] == ("eager" if device.device == "mps" else "sdpa")


def test_gemma_in_16_bit_on_an_8_gb_mac_is_refused_with_what_fits():
    """The setting that swapped for hours: 16-bit weights alone are 4.7 GiB of the 5.3 that such a Mac hands out."""
    for recipe in (
        load_recipe("apple_m2_8gb", models=GEMMA, fallback=False),
        load_recipe("apple_m2_8gb", models=GEMMA, dtype="bfloat16", fallback=False),
        load_recipe("colab_quick", models=GEMMA, fallback=False),  # 128 tokens: 5.3 GB by the count, which is not enough of 5.3
    ):
        with pytest.raises(ModelError) as caught:
            plan_run(recipe, described_machine("apple-m2-8gb"))
        assert "bfloat16" in caught.value.en and "5.3 GiB are usable" in caught.value.en
        for text in (caught.value.ja, caught.value.en):
            assert "load_in_4bit=true" in text and "TinySwallow-1.5B" in text


def test_what_the_refusal_offers_does_fit(monkeypatch):
    monkeypatch.setattr(plan_module, "has_hub_token", lambda: True)
    planned = plan("apple_m2_8gb", "apple-m2-8gb", model=GEMMA, load_in_4bit=True)
    assert planned.model == GEMMA and planned.memory.total <= planned.device.usable_gb
    assert planned.device.compute_dtype == "bfloat16"
    smaller = plan("apple_m2_8gb", "apple-m2-8gb", model="SakanaAI/TinySwallow-1.5B-Instruct")
    assert smaller.model.startswith("SakanaAI") and smaller.device.dtype == "bfloat16"  # in float32 it would not


def test_a_refused_model_gives_way_to_the_next_and_is_told_first():
    planned = plan("apple_m2_8gb", "apple-m2-8gb", model=GEMMA)
    assert planned.model == "Qwen/Qwen2.5-0.5B-Instruct"
    assert [(skip.name, skip.kind) for skip in planned.skipped] == [(GEMMA, "does_not_fit")]
    assert GEMMA in planned.lines()[1]


def test_a_gated_model_without_a_token_is_said_before_any_download(monkeypatch):
    planned = plan("colab_l4", "colab-l4", model=GEMMA)
    assert [(skip.name, skip.kind) for skip in planned.skipped] == [(GEMMA, "gated")]
    assert "HF_TOKEN" in planned.skipped[0].ja and "HF_TOKEN" in planned.skipped[0].en
    monkeypatch.setattr(plan_module, "has_hub_token", lambda: True)
    assert plan("colab_l4", "colab-l4", model=GEMMA).model == GEMMA


def test_no_plan_on_a_mac_has_float16_in_it():
    for preset in ("tiny", "apple_m1_16gb", "apple_m2_8gb", "colab_quick"):
        for machine in ("apple-m1-16gb", "apple-m2-8gb"):
            for in_4bit in (False, True):
                device = plan(preset, machine, load_in_4bit=in_4bit).device
                assert {device.dtype, device.compute_dtype} <= {"float32", "bfloat16"} and not device.fp16


def test_a_batch_that_is_too_large_is_split_and_the_effective_batch_stays():
    asked = load_recipe("apple_m1_16gb", per_device_train_batch_size=32, gradient_accumulation_steps=2)
    planned = plan_run(asked, described_machine("apple-m1-16gb"))
    assert planned.recipe.per_device_train_batch_size < 32
    assert planned.recipe.per_device_train_batch_size * planned.recipe.gradient_accumulation_steps == 64
    assert planned.recipe.max_length == asked.max_length
    assert planned.changes["per_device_train_batch_size"][0] == 32
    told = "\n".join(planned.lines())
    assert (
        "実効バッチは変わりません" in told
        and "effective batch stays" in told
        and "changed: per_device_train_batch_size 32 ->" in told
    )


def test_activations_are_recomputed_only_when_a_smaller_batch_does_not_help():
    asked = load_recipe("apple_m1_16gb", gradient_checkpointing=False, per_device_train_batch_size=1, max_length=2048)
    planned = plan_run(asked, described_machine("apple-m1-16gb"))
    assert planned.recipe.gradient_checkpointing and planned.changes == {"gradient_checkpointing": (False, True)}
    half_a_billion = ("Qwen/Qwen2.5-0.5B-Instruct",)
    split = replace(asked, models=half_a_billion, max_length=512, per_device_train_batch_size=8, gradient_accumulation_steps=1)
    planned = plan_run(split, described_machine("apple-m1-16gb"))
    assert not planned.recipe.gradient_checkpointing and planned.recipe.per_device_train_batch_size < 8


def test_8_billion_weights_go_into_4_bit_by_themselves_on_cuda_only_where_the_dtype_is_open():
    planned = plan("gpu_80gb", "colab-t4")
    assert planned.model == SWALLOW_8B and planned.recipe.load_in_4bit and planned.device.fp16
    assert planned.changes["load_in_4bit"] == (False, True)
    explicit = plan("gpu_80gb", "colab-t4", dtype="float32")
    assert explicit.skipped[0].kind == "does_not_fit" and not explicit.recipe.load_in_4bit
    assert not plan("gpu_80gb", "apple-m1-16gb").recipe.load_in_4bit


def test_an_evaluation_never_needs_more_than_a_step():
    planned = plan("apple_m1_16gb", "apple-m1-16gb", per_device_eval_batch_size=64)
    assert planned.recipe.per_device_eval_batch_size < 64
    memory = planned.memory
    assert memory.evaluation <= max(0.5, memory.activations + max(memory.work, memory.logits))


def test_learned_positions_are_a_limit_and_rotary_ones_are_none():
    planned = plan("colab_quick", "cpu-16gb", max_length=2048)
    assert planned.model == EMBEDDED and planned.skipped[0].kind == "too_long" and "1024" in planned.skipped[0].ja
    assert plan("cpu", "cpu-16gb", max_length=2048).model == "Qwen/Qwen2.5-0.5B-Instruct"


def test_licence_and_a_missing_chat_template_are_said():
    told = "\n".join(plan("colab_quick", "cpu-16gb").lines())
    assert "gpt2, 124 M、ライセンス / licence: MIT" in told and "no chat template" in told
    assert "no chat template" not in "\n".join(plan("colab_t4", "colab-t4").lines())


def test_an_unknown_model_is_left_to_its_config_and_the_plan_says_so():
    planned = plan("colab_l4", "colab-l4", model="org/unheard-of")
    assert planned.model == "org/unheard-of" and planned.memory is None and planned.warnings == []
    assert "once the model's config is downloaded" in planned.lines()[-1]


def folder_with(tmp_path, **values):
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "vocab_size": 100}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **shape, **values}))
    return str(tmp_path)


def test_a_folder_is_planned_by_its_config(tmp_path):
    planned = plan("tiny", "cpu-16gb", model=folder_with(tmp_path, architectures=["LlamaForCausalLM"]))
    assert planned.model == str(tmp_path) and 0 < planned.memory.weights < 0.01
    huge = plan("tiny", "cpu-16gb", model=folder_with(tmp_path, hidden_size=16384, num_hidden_layers=80, intermediate_size=65536))
    assert huge.model == EMBEDDED and huge.skipped[0].kind == "does_not_fit"


def test_an_encoder_decoder_is_refused_by_its_config(tmp_path):
    folder = folder_with(tmp_path, architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True)
    planned = plan("tiny", "cpu-16gb", model=folder)
    assert planned.model == EMBEDDED and planned.skipped[0].kind == "wrong_architecture"
    assert "T5ForConditionalGeneration" in planned.skipped[0].ja and "T5ForConditionalGeneration" in planned.skipped[0].en


def test_too_little_free_memory_is_a_warning_and_changes_no_setting():
    """What other programs hold now must not decide what is trained: the same recipe has to give the same run tomorrow."""
    recipe, machine = load_recipe("colab_t4"), described_machine("colab-t4")
    busy = plan_run(recipe, machine, free_gb=1.0)
    assert busy.recipe == plan_run(recipe, machine).recipe and busy.model == plan_run(recipe, machine).model
    assert len(busy.warnings) == 1 and "1.0 GiB" in busy.warnings[0][1] and "WARNING" in busy.lines()[-1]
    assert plan_run(recipe, replace(machine, free_gb=0.5)).warnings and not plan_run(recipe, machine, free_gb=10.0).warnings


def test_impossible_wishes_are_refused_as_ever():
    with pytest.raises(SetupError):
        plan("tiny", "cpu-16gb", device="cuda")
    with pytest.raises(RecipeError):
        plan("tiny", "apple-m1-16gb", dtype="float16")


def test_unknown_memory_refuses_nothing():
    assert plan_run(load_recipe("cpu"), Probe("cpu", "x")).model == "Qwen/Qwen2.5-0.5B-Instruct"


def test_every_choice_has_its_reason_in_both_languages_and_the_plan_is_plain_json():
    for preset, machine in (("colab_t4", "colab-t4"), ("apple_m2_8gb", "apple-m2-8gb"), ("tiny", "cpu-16gb")):
        planned = plan(preset, machine)
        assert all(choice.ja.endswith("。") and choice.en.endswith(".") for choice in planned.choices)
        written = json.loads(json.dumps(planned.to_dict()))
        assert written["memory_gb"]["total"] == round(planned.memory.total, 3) and written["device"]["dtype"]
        assert sum(written["memory_gb"][part] for part in ("weights", "lora", "optimizer")) < written["memory_gb"]["total"]


@pytest.mark.parametrize("preset", preset_names())
def test_the_plan_and_the_presets_own_figure_agree(preset):
    """A preset that fits by `needs_memory_gb` must get its first model unchanged: two rules, one verdict."""
    recipe = load_recipe(preset)
    for name, machine in MACHINES.items():
        try:
            check_preset_fits(recipe, machine)
        except RecipeError:
            continue
        planned = plan_run(recipe, machine)
        assert (planned.model, planned.changes) == (recipe.models[0], {}), name
        assert planned.memory.total <= recipe.needs_memory_gb or recipe.needs_memory_gb <= 1, name


def test_the_fit_is_monotone_a_larger_machine_takes_whatever_a_smaller_one_did():
    for facts in CATALOG.values():
        fits = [fit(facts, DpoRecipe(), Probe("cpu", "x", memory_gb=size)) is not None for size in (2, 4, 8, 16, 32, 64)]
        assert fits == sorted(fits)


def test_the_table_says_all_that_the_lines_say():
    plan = plan_run(load_recipe("apple_m2_8gb", model="google/gemma-2b-it"), described_machine("apple-m2-8gb"))
    values = [row["値 / value"] for row in plan.rows()]
    assert values[0] == "google/gemma-2b-it" and values[1] == plan.model
    assert {choice.value for choice in plan.choices} <= set(values)
    assert f"{plan.memory.total:.1f} GiB" in values and all(len(row) == 3 for row in plan.rows())
