"""4-bit for real, on the CPU: trained, evaluated in between, resumed, saved, loaded, exported unquantised."""

import math
import os
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from adslm_helpers.dataset.samples import sample_pairs
from adslm_helpers.environment.described import MACHINES
from adslm_helpers.environment.device import choose_device
from adslm_helpers.evaluation.heldout import score_heldout
from adslm_helpers.export.export import export_run
from adslm_helpers.export.load import load_export
from adslm_helpers.models import loading
from adslm_helpers.models.generation import generate_texts
from adslm_helpers.models.loading import load_model
from adslm_helpers.models.tuned import load_tuned, trained_recipe
from adslm_helpers.recipe import load_recipe, recipe_from_dict
from adslm_helpers.run import Run, read_jsonl, write_json, write_jsonl
from adslm_helpers.training.checks import run_checks
from adslm_helpers.training.float32_on_cpu import float32_on_cpu
from adslm_helpers.training.train import train

from .conftest import StopAt
from .test_architectures import SHAPES, save_model

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes has no wheel for this machine")

ROWS = sample_pairs(36, seed=3)
PROMPTS = list(dict.fromkeys(row["prompt"] for row in ROWS))[:8]


def make_run(folder, name):
    run = Run(name, folder)
    with run.step("dataset"):
        write_jsonl(run.dataset / "train.jsonl", ROWS[:28])
        write_jsonl(run.dataset / "eval.jsonl", ROWS[28:])
        write_json(run.dataset / "report.json", {"source": "sample", "rows_in": 36, "dropped": {}, "split": {}})
    return run


def losses(run, key="loss"):
    return [row[key] for row in read_jsonl(run.training / "history.jsonl") if key in row]


def adapter(run):
    return load_file(run.training / "adapter" / "adapter_model.safetensors")


def layers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}


class Dtypes(TrainerCallback):
    """The dtypes of what is trained, as the optimizer gets it."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.seen = {p.dtype for p in model.parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def recipe():
    """The embedded model: its layers are several quantisation blocks wide."""
    return load_recipe("smoke", device="cpu", load_in_4bit=True, max_steps=6, evals_per_run=6, save_steps=2, sft_weight=0.0)


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    """The same recipe in 4-bit and in float32."""
    folder = tmp_path_factory.mktemp("four-bit")
    run, whole = make_run(folder, "four"), make_run(folder, "whole")
    dtypes = Dtypes()
    result = train(run, recipe, [dtypes])
    train(whole, recipe_from_dict({**recipe.to_dict(), "load_in_4bit": False}))
    return SimpleNamespace(run=run, whole=whole, result=result, dtypes=dtypes.seen, loaded=load_tuned(run))


def test_what_is_quantised_and_what_is_not(trained):
    model = trained.loaded.model.get_base_model()
    quantised = layers(model)
    assert len(quantised) == 4 * 7 and all("self_attn" in name or "mlp" in name for name in quantised)
    states = [module.weight.quant_state for module in quantised.values()]
    assert all(state.quant_type == "nf4" and state.nested for state in states), "NF4, double quantisation"
    assert all(module.compute_dtype == torch.float32 for module in quantised.values()), "exact on a CPU"
    assert model.lm_head.weight.dtype == model.model.embed_tokens.weight.dtype == torch.float32


def test_an_evaluation_after_every_step_and_the_losses_of_float32(trained):
    """Once a RuntimeError after the first evaluation: bitsandbytes repacks the weights then, on some CPUs."""
    four, whole = losses(trained.run), losses(trained.whole)
    assert four[0] == pytest.approx(math.log(2), abs=1e-5)
    assert four == pytest.approx(whole, abs=0.02) and four != whole
    assert len(losses(trained.run, "eval_loss")) == 6
    assert losses(trained.run, "eval_loss") == pytest.approx(losses(trained.whole, "eval_loss"), abs=0.01)


def test_evaluating_changes_no_answer(recipe):
    """The layout for inference rounds the scales to bfloat16 and has no gradient; on a CPU without AVX512-BF16 it never comes."""
    loaded = load_model(recipe)
    ids = loaded.tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    before = {name: module.weight.data.clone() for name, module in layers(loaded.model).items()}
    with torch.no_grad():
        training = loaded.model.train()(ids).logits
        evaluating = loaded.model.eval()(ids).logits
        again = loaded.model.train()(ids).logits
    assert torch.equal(training, again)
    torch.testing.assert_close(evaluating, training, atol=1e-4, rtol=0)
    assert all(torch.equal(module.weight.data, before[name]) for name, module in layers(loaded.model).items())
    assert not any(getattr(m.weight.quant_state, "packing_format_for_cpu", False) for m in layers(loaded.model).values())


@pytest.mark.skipif(not bitsandbytes.functional.has_avx512bf16(), reason="this CPU has no AVX512-BF16")
def test_without_our_setting_bitsandbytes_does_repack(recipe, monkeypatch):
    """When this fails, bitsandbytes has changed, and `_keep_layout` may go."""
    monkeypatch.setattr(loading, "_keep_layout", lambda model: model)
    loaded = load_model(recipe)
    ids = loaded.tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        training = loaded.model.train()(ids).logits
        evaluating = loaded.model.eval()(ids).logits
    assert any(getattr(m.weight.quant_state, "packing_format_for_cpu", False) for m in layers(loaded.model).values())
    assert (training - evaluating).abs().max() > 1e-3


def test_the_adapter_is_float32_moves_and_is_found_again(trained):
    assert trained.dtypes == {torch.float32}, "TRL makes it bfloat16"
    saved = adapter(trained.run)
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    assert all(weight.abs().max() > 0 for name, weight in saved.items() if "lora_B" in name), "B starts at 0"
    loaded = {name.replace(".default", ""): p for name, p in trained.loaded.model.named_parameters() if "lora_" in name}
    assert loaded.keys() == saved.keys() and all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_the_reloaded_model_scores_what_the_trainer_scored(trained, recipe):
    heldout = score_heldout(trained.loaded.model, trained.loaded.tokenizer, ROWS[28:], recipe)
    metrics = heldout.metrics()
    assert metrics["reward_margin"] == pytest.approx(trained.result.final["eval_rewards/margins"], abs=2e-4)
    assert metrics["heldout_loss"] == pytest.approx(trained.result.final["eval_loss"], abs=2e-4)


def test_an_interrupted_run_ends_with_the_same_adapter(trained, recipe, tmp_path):
    run = make_run(tmp_path, "stopped")
    with pytest.raises(KeyboardInterrupt):
        train(run, recipe, [StopAt(5)])
    result = train(run, recipe)
    assert result.resumed_from == 4
    ours, theirs = adapter(run), adapter(trained.run)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=0)


def test_the_export_is_unquantised_holds_the_same_adapter_and_does_the_same(trained, tmp_path):
    """Merging into 4-bit layers would quantise the sum again. The base differs by its rounding, the tuning must not."""
    result = export_run(trained.run, tmp_path / "out")
    written = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(weight, written[name]) for name, weight in adapter(trained.run).items())
    merged = load_file(tmp_path / "out" / "merged" / "model.safetensors")
    assert {weight.dtype for weight in merged.values()} == {torch.float32}, "the embedded model's own dtype; no packed uint8"
    verified = result.verified
    assert verified.merged_difference < 1e-3
    assert verified.four_bit.effect_difference < 0.4, (
        "root-mean-square, of what the adapter does to the logits: 0.1 to 0.3 measured"
    )
    assert "4-bit" in "\n".join(result.lines()) and "much" not in "\n".join(result.lines())
    loaded = load_export(tmp_path / "out")
    options = {"temperature": 0, "max_new_tokens": 24}
    ours = generate_texts(trained.loaded.model, trained.loaded.tokenizer, PROMPTS, **options)
    theirs = generate_texts(loaded.model, loaded.tokenizer, PROMPTS, **options)
    same = sum(one.text == other.text for one, other in zip(ours, theirs, strict=True))
    assert same >= len(PROMPTS) // 2, "NF4 rounds the base: some greedy texts part at a near tie, most do not"


def test_an_export_where_4_bit_cannot_be_loaded_goes_on_without_the_comparison(trained, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    original = AutoModelForCausalLM.from_pretrained

    def refuse(*args, **options):
        if "quantization_config" in options:
            raise ImportError("bitsandbytes is not installed")
        return original(*args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    assert export_run(trained.run, tmp_path / "out").verified.four_bit is None


def test_the_adapter_alone_is_checked_on_the_4_bit_base(trained, tmp_path):
    result = export_run(trained.run, tmp_path / "out", merged=False)
    assert result.verified.adapter_difference < 1e-5 and result.verified.merged_dtype is None
    assert trained_recipe(trained.run).load_in_4bit and os.listdir(tmp_path / "out" / "adapter")


def test_dequantised_on_the_cpu_it_is_the_same_model(recipe):
    """What the pre-flight compares a GPU's 4-bit kernels with."""
    loaded = load_model(recipe)
    ids = loaded.tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    forwards = {name: module.__dict__.get("forward") for name, module in layers(loaded.model).items()}
    with torch.no_grad():
        wanted = loaded.model.eval()(ids).logits
        with float32_on_cpu(loaded.model):
            got = loaded.model(ids).logits
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)
        assert torch.equal(loaded.model(ids).logits, wanted)
    assert forwards == {name: module.__dict__.get("forward") for name, module in layers(loaded.model).items()}


# --- described machines ---------------------------------------------------------------------------------------------


EAGER = {"attn_implementation": "eager"}  # fused attention gives NaN on MPS for rows that are all padding


@pytest.mark.parametrize(
    ("machine", "asked", "expected"),
    [
        ("colab-t4", {"load_in_4bit": True}, {"dtype": torch.float32, "device_map": {"": "cuda"}, "compute": torch.float16}),
        ("colab-l4", {"load_in_4bit": True}, {"dtype": torch.bfloat16, "device_map": {"": "cuda"}, "compute": torch.bfloat16}),
        ("cpu-16gb", {"load_in_4bit": True}, {"dtype": torch.float32, "device_map": {"": "cpu"}, "compute": torch.float32}),
        # A bfloat16 checkpoint read as float32 straight onto an Apple GPU ends in a segmentation fault.
        (
            "apple-m1-16gb",
            {"load_in_4bit": True},
            {"dtype": "auto", "device_map": {"": "mps"}, "compute": torch.bfloat16, **EAGER},
        ),
        ("apple-m1-16gb", {}, {"dtype": torch.float32, **EAGER}),
        ("apple-m1-16gb", {"dtype": "bfloat16"}, {"dtype": torch.bfloat16, **EAGER}),
        ("colab-l4", {}, {"dtype": torch.bfloat16}),
    ],
)
def test_how_weights_reach_each_device(machine, asked, expected, monkeypatch):
    """The arguments for from_pretrained, and then `.to(device)` only where they were read on the CPU."""
    from transformers import AutoModelForCausalLM

    recipe = recipe_from_dict({**load_recipe("smoke").to_dict(), **asked})
    moved, seen = [], {}
    model = SimpleNamespace(config=SimpleNamespace(), modules=list, get_output_embeddings=lambda: torch.nn.Linear(1, 1))
    model.to = lambda device: moved.append(device) or model

    def fake(where, **options):
        seen.update(options)
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fake)
    plan = choose_device(recipe, MACHINES[machine])
    load_model(recipe, plan)
    seen["dtype"] = seen.pop("torch_dtype", seen.get("dtype"))
    assert seen.pop("local_files_only") and seen.pop("token") is None and seen.pop("trust_remote_code") is False
    if quantisation := seen.pop("quantization_config", None):
        seen["compute"] = quantisation.bnb_4bit_compute_dtype
        assert quantisation.bnb_4bit_use_double_quant and quantisation.bnb_4bit_quant_type == "nf4"
    assert seen == expected
    assert moved == ([] if asked.get("load_in_4bit") else [plan.device])


def test_the_preflight_of_a_t4_plan_in_4_bit(recipe, tmp_path, monkeypatch):
    """float16 AMP over 4-bit layers that compute in float16, float32 adapters: what a T4 does, done here by the CPU."""
    from dataclasses import replace

    from adslm_helpers.training import attempts

    class Stop(Exception):
        pass

    def look(recipe_, loaded, build, pairs):
        trainer = build(loaded)
        checks = {
            check.name: check
            for check in run_checks(trainer, loaded.tokenizer, replace(loaded.plan, fp16=True, bf16=False), pairs)
        }
        raise Stop(checks)

    monkeypatch.setattr(attempts, "checked_trainer", look)
    monkeypatch.setattr(attempts, "load_model", lambda recipe: _with_compute(load_model(recipe), torch.float16))
    with pytest.raises(Stop) as stopped:
        train(make_run(tmp_path, "t4"), recipe)
    checks = stopped.value.args[0]
    assert all(check.ok for check in checks.values()), [check.line() for check in checks.values() if not check.ok]
    assert 0 < checks["same_as_cpu"].measured < 0.5


def _with_compute(loaded, dtype):
    for module in layers(loaded.model).values():
        module.compute_dtype = dtype
    return loaded


# --- every architecture ---------------------------------------------------------------------------------------------


def round_to_4_bit(folder, recipe):
    """Rewrites the model in `folder` with the weights that its 4-bit form has: quantising it again changes next to nothing."""
    from transformers import AutoModelForCausalLM

    quantised = layers(load_model(recipe).model)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name, module in quantised.items():
        weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        target = model.get_submodule(name)
        target.weight.data = (weight if isinstance(target, torch.nn.Linear) else weight.T).contiguous()  # Conv1D: [in, out]
    model.save_pretrained(folder)
    return quantised


@pytest.mark.parametrize("kind", list(SHAPES))
def test_every_architecture_in_4_bit_to_the_export(kind, tokenizer, tmp_path):
    """The road for a T4 has gpt2 models on its list: their Conv1D becomes a 4-bit linear layer, and is Conv1D again in the export.

    With a base whose weights 4 bit can hold, nothing but a mistake (a transposed adapter, a lost layer) can tell the export apart.
    """
    save_model(kind, tokenizer, tmp_path / "base", hidden_size=64, intermediate_size=128, n_inner=128)
    run = make_run(tmp_path / "runs", "arch")
    recipe = recipe_from_dict(
        {
            "preset": "smoke", "models": [str(tmp_path / "base")], "fallback": False, "device": "cpu", "load_in_4bit": True,
            "learning_rate": 2e-3, "max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
            "per_device_eval_batch_size": 8, "max_length": 256, "max_prompt_length": 200, "logging_steps": 1, "evals_per_run": 3,
            "max_new_tokens": 12, "save_steps": 10,
        }
    )  # fmt: skip
    quantised = round_to_4_bit(tmp_path / "base", recipe)
    assert len(quantised) == 2 * {"gpt2": 4, "gpt_neox": 4}.get(kind, 7)
    assert not any(name.endswith(("lm_head", "embed_out")) for name in quantised)
    result = train(run, recipe)
    assert losses(run)[0] == pytest.approx(math.log(2), abs=1e-5) and math.isfinite(result.final["eval_loss"])
    verified = export_run(run, tmp_path / "out").verified
    assert verified.merged_difference < 0.02 * verified.adapter_effect
    assert verified.four_bit.effect_difference < 0.02, "0.001 to 0.003 measured; sqrt(2) if the adapter lay the other way round"
    assert verified.four_bit.changed_texts <= 1, "a near tie"
