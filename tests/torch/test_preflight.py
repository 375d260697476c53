"""The look before a training: every fault that once passed for a training is caught by name, and looking changes nothing."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from adslm_helpers.environment.described import MACHINES
from adslm_helpers.environment.device import DevicePlan, choose_device
from adslm_helpers.errors import TrainingError
from adslm_helpers.models.loading import load_model
from adslm_helpers.models.tuned import load_tuned, trained_recipe
from adslm_helpers.recipe import DpoRecipe, recipe_from_dict
from adslm_helpers.run import read_json
from adslm_helpers.training import attempts, preflight
from adslm_helpers.training.checks import run_checks, trainer_pairs
from adslm_helpers.training.preflight import PreflightReport, checked_trainer, describe_precision, precisions, read_preflight
from adslm_helpers.training.train import train

NAMES = ["one_eos", "adapter_dtype", "finite_no_grad", "finite_with_grad", "ln_2", "same_as_cpu", "left_padding"]


def changed(recipe, **values):
    return recipe_from_dict({**recipe.to_dict(), **values})


@pytest.fixture
def built(run, recipe, monkeypatch):
    """Stops `train` where the pre-flight would begin: (recipe, loaded, build, pairs) as it is called."""

    class Stop(Exception):
        pass

    def capture(*arguments):
        raise Stop(*arguments)

    def made(**values):
        monkeypatch.setattr(attempts, "checked_trainer", capture)
        with pytest.raises(Stop) as stopped:
            train(run, changed(recipe, **values), fresh=True)
        monkeypatch.undo()
        return stopped.value.args

    return made


def failed(trainer, loaded, pairs, plan=None):
    return [check.name for check in run_checks(trainer, loaded.tokenizer, plan or loaded.plan, pairs) if not check.ok]


def break_when(monkeypatch, dtype, spoil):
    """Every model that is loaded in `dtype` has `spoil` done to its last hidden states."""

    def load(recipe, plan=None):
        loaded = load_model(recipe, plan)
        if loaded.plan.dtype == dtype:
            loaded.model.model.norm.register_forward_hook(lambda module, inputs, output: spoil(output))
        return loaded

    monkeypatch.setattr(attempts, "load_model", load)
    monkeypatch.setattr(preflight, "load_model", load)


def feeds(trainer, part, change):
    """The trainer's collator gets other ids for 'prompt' or 'chosen' than were meant: what a version of TRL once made of them."""
    original = trainer.data_collator

    def changed_row(row):
        if isinstance(row, dict):
            key = f"{part}_ids" if f"{part}_ids" in row else f"{part}_input_ids"
            return {**row, key: change(row[key])}
        return replace(row, pair=replace(row.pair, **{f"{part}_ids": change(getattr(row.pair, f"{part}_ids"))}))

    trainer.data_collator = lambda rows: original([changed_row(row) for row in rows])


# --- a healthy training -----------------------------------------------------------------------------------------


def test_every_training_is_preceded_by_all_checks_and_says_so(run, recipe):
    result = train(run, changed(recipe, max_steps=1))
    written = read_json(run.training / "preflight.json")
    assert [check["name"] for check in written["checks"]] == NAMES and written["ok"]
    assert written["dtype"] == "float32" and written["rejected"] == []
    assert result.preflight["checks"] == NAMES and json.loads(json.dumps(read_preflight(run).to_dict())) == written
    assert run.manifest()["steps"]["training"]["preflight"]["dtype"] == "float32"


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_adapter_is_the_same_to_the_bit_with_and_without_the_look(run, recipe, monkeypatch, checkpointing):
    recipe = changed(recipe, max_steps=3, gradient_checkpointing=checkpointing)
    blind = run.fork("blind")
    train(run, recipe)
    monkeypatch.setattr(
        attempts,
        "checked_trainer",
        lambda r, loaded, build, pairs: (build(loaded), loaded, PreflightReport("?", (), (), 0.0)),
    )
    train(blind, recipe)
    ours, theirs = (load_file(r.training / "adapter" / "adapter_model.safetensors") for r in (run, blind))
    assert ours and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_nothing_is_left_behind(built):
    _, loaded, build, pairs = built(gradient_checkpointing=True)
    trainer = build(loaded)
    model = trainer.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mode, checkpointing, state = model.training, model.is_gradient_checkpointing, torch.get_rng_state()
    assert failed(trainer, loaded, pairs) == []
    assert (model.training, model.is_gradient_checkpointing) == (mode, checkpointing)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad == ("lora_" in name) for name, p in model.named_parameters())


def test_bfloat16_weights_pass_within_their_own_limit(built):
    _, loaded, build, pairs = built(dtype="bfloat16")
    checks = {check.name: check for check in run_checks(build(loaded), loaded.tokenizer, loaded.plan, pairs)}
    assert all(check.ok for check in checks.values())
    assert 0 < checks["same_as_cpu"].measured < 0.5, "rounded, but the same function"


# --- faults, each by its name -------------------------------------------------------------------------------------


def test_a_precision_that_gives_nan_is_replaced_and_the_run_says_why(run, recipe, monkeypatch):
    break_when(monkeypatch, "bfloat16", lambda output: output * math.nan)
    result = train(run, changed(recipe, dtype="bfloat16", max_steps=2))
    assert result.preflight["dtype"] == "float32"
    (rejected,) = result.preflight["rejected"]
    assert rejected["dtype"] == "bfloat16" and "finite_no_grad" in rejected["reason"]
    assert any("bfloat16 was rejected" in line and "使わず" in line for line in result.lines())
    assert math.isfinite(result.final["eval_loss"])
    assert run.manifest()["model"]["dtype"] == "float32"
    assert trained_recipe(run).dtype == "float32", "what evaluates and exports must not take the precision that failed"
    assert load_tuned(run).plan.dtype == "float32"
    assert train(run, changed(recipe, dtype="bfloat16", max_steps=2)).reused


def test_a_precision_without_a_kernel_is_replaced_too(run, recipe, monkeypatch):
    """MPS before macOS 14 has no bfloat16; older CPUs lack half the float16 operations."""

    def no_kernel(output):
        raise RuntimeError("\"addmm_impl\" not implemented for 'BFloat16'")

    break_when(monkeypatch, "bfloat16", no_kernel)
    result = train(run, changed(recipe, dtype="bfloat16", max_steps=1))
    assert result.preflight["dtype"] == "float32"
    assert "runs: the computation stopped" in result.preflight["rejected"][0]["reason"]
    assert "not implemented for 'BFloat16'" in result.preflight["rejected"][0]["reason"]


def test_when_every_precision_fails_nothing_is_trained_and_the_table_is_shown(run, recipe, monkeypatch):
    monkeypatch.setattr(attempts, "load_model", _always_broken)
    monkeypatch.setattr(preflight, "load_model", _always_broken)
    with pytest.raises(TrainingError) as raised:
        train(run, changed(recipe, dtype="bfloat16"))
    assert "- bfloat16: finite_no_grad" in raised.value.en and "- float32: finite_no_grad" in raised.value.en
    assert run.status("training") == "failed" and not (run.training / "adapter").exists()


def _always_broken(recipe, plan=None):
    loaded = load_model(recipe, plan)
    loaded.model.model.layers[-1].mlp.register_forward_hook(lambda module, inputs, output: output * math.nan)
    return loaded


@pytest.mark.parametrize("with_grad", [True, False])
def test_nan_with_or_without_gradients_only(built, with_grad):
    """SDPA on MPS gave NaN under no_grad alone. The reference is computed there too, so that no gradient is finite then."""
    _, loaded, build, pairs = built()
    trainer = build(loaded)
    layer = trainer.model.get_base_model().model.layers[-1].mlp
    layer.register_forward_hook(
        lambda module, inputs, output: output * math.nan if torch.is_grad_enabled() == with_grad else output
    )
    names = failed(trainer, loaded, pairs)
    assert "finite_with_grad" in names and ("finite_no_grad" in names) != with_grad


def test_a_gradient_that_is_not_finite(built):
    _, loaded, build, pairs = built()
    trainer = build(loaded)
    weight = next(p for name, p in trainer.model.named_parameters() if "lora_B" in name)
    weight.register_hook(lambda gradient: gradient * math.inf)
    assert failed(trainer, loaded, pairs) == ["finite_with_grad"]


def test_nan_at_padding_alone_is_no_fault(built):
    """A position that is masked out may hold anything: no loss reads it."""
    _, loaded, build, pairs = built()
    trainer = build(loaded)
    first = trainer_pairs(trainer, pairs[:4])
    lengths = [
        len(pair.prompt_ids) + len(ids)
        for side in ("chosen_ids", "rejected_ids")
        for pair in first
        for ids in [getattr(pair, side)]
    ]
    shortest = lengths.index(min(lengths))

    def spoil(at):
        def hook(module, inputs, output):
            if output.shape[:2] != (8, max(lengths)):
                return output
            output = output.clone()
            output[shortest, at] = math.nan
            return output

        return trainer.model.get_base_model().model.norm.register_forward_hook(hook)

    handle = spoil(at=min(lengths))
    assert failed(trainer, loaded, pairs) == []
    handle.remove()
    spoil(at=min(lengths) - 1)
    assert "finite_no_grad" in failed(trainer, loaded, pairs), "the last real token counts"


@pytest.mark.parametrize("engine", ["trl", "fast"])
def test_a_second_eos_stops_at_once_for_no_precision_helps(built, monkeypatch, engine):
    recipe, loaded, build, pairs = built(engine=engine, dtype="bfloat16")

    def doubled(one):
        trainer = build(one)
        eos = one.tokenizer.eos_token_id
        feeds(trainer, "chosen", lambda ids: [*ids, eos])
        return trainer

    monkeypatch.setattr(preflight, "load_model", lambda *_: pytest.fail("loaded again"))
    with pytest.raises(TrainingError, match="one_eos"):
        checked_trainer(recipe, loaded, doubled, pairs)


def test_a_bfloat16_adapter_under_float16_amp(built):
    """The GradScaler of a T4 crashes at it in the first step; here the plan is a T4's and the device is not."""
    _, loaded, build, pairs = built()
    trainer = build(loaded)
    plan = replace(loaded.plan, fp16=True)
    assert "adapter_dtype" not in failed(trainer, loaded, pairs, plan)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    (check,) = [c for c in run_checks(trainer, loaded.tokenizer, plan, pairs) if c.name == "adapter_dtype"]
    assert not check.ok and "GradScaler" in check.en and check.measured > 0


def test_padding_that_changes_the_answer(built):
    """Wrong position ids or a mask that is not read: the row beside a longer one says something else."""
    _, loaded, build, pairs = built()
    trainer = build(loaded)
    generate = trainer.model.generate

    def unmasked(attention_mask=None, **options):
        return generate(attention_mask=torch.ones_like(attention_mask), **options)

    trainer.model.generate = unmasked
    assert failed(trainer, loaded, pairs) == ["left_padding"]


def test_where_padding_is_known_not_to_work_it_is_not_asked(built, monkeypatch):
    """torch before 2.9 on an Apple GPU: a training must not be refused for a batch that is never made there."""
    from adslm_helpers.training import checks

    _, loaded, build, pairs = built()
    trainer = build(loaded)
    trainer.model.generate = lambda **options: pytest.fail("generated")
    monkeypatch.setattr(checks, "left_padding_works", lambda model: False)
    check = run_checks(trainer, loaded.tokenizer, loaded.plan, pairs)[-1]
    assert check.ok and check.measured is None and "one by one" in check.en


def test_a_generation_from_nan(built):
    """Greedy decoding of NaN gives token 0, '!' or nothing, without an error."""
    _, loaded, build, pairs = built()
    trainer = build(loaded)
    generate = trainer.model.generate

    def poisoned(**options):
        output = generate(**options)
        output.scores = tuple(step * math.nan for step in output.scores)
        return output

    trainer.model.generate = poisoned
    assert failed(trainer, loaded, pairs) == ["left_padding"]


def test_a_kernel_that_computes_something_else_in_bfloat16(run, recipe, monkeypatch):
    """Finite, plausible and wrong: only the comparison with float32 on the CPU can see it."""
    break_when(monkeypatch, "bfloat16", lambda output: output * 30 if output.dtype == torch.bfloat16 else output)
    result = train(run, changed(recipe, dtype="bfloat16", max_steps=1))
    assert result.preflight["rejected"][0]["reason"].startswith("same_as_cpu")


def test_an_adapter_that_does_not_start_at_nothing(built):
    _, loaded, build, pairs = built()
    trainer = build(loaded)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 1)
    assert failed(trainer, loaded, pairs) == ["ln_2"]


def test_a_precision_that_does_not_fit_is_a_reason_too(built, monkeypatch):
    """The next precision needs twice the memory: that it is not there belongs into the table, not into a traceback."""
    from adslm_helpers.errors import ModelError

    recipe, loaded, build, pairs = built(dtype="bfloat16")
    loaded.model.model.layers[-1].mlp.register_forward_hook(lambda module, inputs, output: output * math.nan)

    def no_room(*_):
        raise ModelError("メモリ不足", "needs about 9.9 GB")

    monkeypatch.setattr(preflight, "load_model", no_room)
    with pytest.raises(TrainingError, match=r"float32: needs about 9\.9 GB"):
        checked_trainer(recipe, loaded, build, pairs)


# --- described machines -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "dtype", "expected"),
    [
        ("colab-t4", "auto", ["float32 + float16 AMP", "float32"]),
        ("v100", "auto", ["float32 + float16 AMP", "float32"]),
        ("a100-80gb", "auto", ["bfloat16 + bfloat16 AMP", "float32"]),
        ("a100-80gb", "float16", ["float16 + float16 AMP", "float32"]),
        ("apple-m1-16gb", "auto", ["float32", "bfloat16"]),
        ("apple-m1-16gb", "bfloat16", ["bfloat16", "float32"]),
        ("cpu-16gb", "auto", ["float32"]),
        ("cpu-16gb", "bfloat16", ["bfloat16", "float32"]),
    ],
)
def test_order_of_the_precisions(machine, dtype, expected, monkeypatch):
    probe, recipe = MACHINES[machine], DpoRecipe(dtype=dtype)
    monkeypatch.setattr(preflight, "probe_machine", lambda: probe)
    assert [describe_precision(plan) for plan in precisions(recipe, choose_device(recipe, probe))] == expected


def test_an_old_mac_has_no_bfloat16_to_go_to(monkeypatch):
    probe = replace(MACHINES["apple-m1-16gb"], macos=(13, 6))
    monkeypatch.setattr(preflight, "probe_machine", lambda: probe)
    assert len(precisions(DpoRecipe(), choose_device(DpoRecipe(), probe))) == 1


def test_the_report_is_json_and_reads_in_both_languages(built):
    recipe, loaded, build, pairs = built()
    report = checked_trainer(recipe, loaded, build, pairs)[2]
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["seconds"] == report.seconds
    told = report.lines()
    assert len(told) == 1 + len(NAMES) and f"{len(NAMES)}/{len(NAMES)} OK" in told[0] and "確認" in told[0]


@pytest.mark.parametrize("engine", ["trl", "fast"])
def test_what_is_looked_at_is_what_the_trainer_feeds(built, engine):
    """Ids from the trainer's own collator, not those we meant it to have; a layout that nobody knows falls back to the latter."""
    _, loaded, build, pairs = built(engine=engine)
    trainer = build(loaded)
    assert trainer_pairs(trainer, pairs[:3]) == list(pairs[:3])
    feeds(trainer, "prompt", lambda ids: ids[1:])
    assert [pair.prompt_ids for pair in trainer_pairs(trainer, pairs[:3])] == [pair.prompt_ids[1:] for pair in pairs[:3]]
    trainer.data_collator = lambda rows: {"a_layout_of_tomorrow": rows}
    assert trainer_pairs(trainer, pairs[:3]) == list(pairs[:3])


def test_the_plan_of_a_trainer_is_what_is_computed_in(built):
    """Without autocast a float16-AMP plan would be checked in float32, and pass."""
    _, loaded, build, pairs = built()
    trainer = build(loaded)
    seen = set()
    trainer.model.get_base_model().model.layers[0].mlp.gate_proj.register_forward_hook(
        lambda module, inputs, output: seen.add(output.dtype)
    )
    plan: DevicePlan = replace(loaded.plan, fp16=True)
    run_checks(trainer, loaded.tokenizer, plan, pairs)
    assert torch.float16 in seen and torch.float32 in seen, "AMP here, float32 in the comparison"
