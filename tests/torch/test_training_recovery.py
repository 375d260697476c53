"""A number that is not finite stops before the optimizer step and the training goes on by itself; so does one that ran out of memory."""

import math

import pytest
import torch
from transformers import TrainerCallback

from adslm_helpers.errors import TrainingError
from adslm_helpers.models.loading import load_model
from adslm_helpers.recipe import recipe_from_dict
from adslm_helpers.run import read_json
from adslm_helpers.training import attempts, preflight
from adslm_helpers.training.finite import NotFiniteError
from adslm_helpers.training.history import read_alarms
from adslm_helpers.training.preflight import PreflightReport
from adslm_helpers.training.recoveries import read_recoveries
from adslm_helpers.training.train import train
from scripts.recovery_faults import (
    At,
    Memory,
    OnlyFits,
    adapter,
    blow_up,
    break_bfloat16,
    history,
    largest_difference,
    last_norm,
    spoil_one_gradient_element,
)

from .conftest import StopAt


def changed(recipe, **values):
    return recipe_from_dict({**recipe.to_dict(), **values})


def alarms(run):
    """Without those about the texts: the model here is random."""
    kinds = [alarm.kind for alarm in read_alarms(run.training)]
    return [kind for kind in kinds if kind in ("not_finite", "out_of_memory", "recovery")]


def kept_batch(run):
    (path,) = (run.training / "not_finite").iterdir()
    return read_json(path)


# --- the failure that looked like success: loss 0.0, eval_loss nan, "!!!!!" -----------------------------------------


@pytest.fixture
def overflowing(recipe, tmp_path, monkeypatch):
    """A model whose activations are finite in float32 and overflow in float16, taken to training without a pre-flight."""
    loaded = load_model(recipe)
    with torch.no_grad():
        loaded.model.model.layers[0].post_attention_layernorm.weight.mul_(1e4)
    loaded.model.save_pretrained(tmp_path / "wild")
    loaded.tokenizer.save_pretrained(tmp_path / "wild")

    def in_float16(asked, plan=None):
        from dataclasses import replace

        plan = load_model(asked).plan
        return load_model(asked, plan if asked.dtype == "float32" else replace(plan, dtype="float16"))

    monkeypatch.setattr(attempts, "load_model", in_float16)
    monkeypatch.setattr(
        attempts,
        "checked_trainer",
        lambda r, loaded, build, pairs: (build(loaded), loaded, PreflightReport("?", (), (), 0.0)),
    )
    return changed(recipe, models=[str(tmp_path / "wild")], learning_rate=1e-4, max_steps=4)


def test_a_float16_overflow_is_stopped_in_the_first_step_and_trained_in_float32(run, overflowing):
    result = train(run, overflowing)
    (recovery,) = result.recoveries
    assert (recovery["cause"], recovery["remedy"], recovery["step"]) == ("precision", "float32", 0)
    assert recovery["changes"] == {"dtype": ["auto", "float32"]}
    assert 0.0 not in history(run).values() and math.isfinite(result.final["eval_loss"])
    assert all(weight.isfinite().all() for weight in adapter(run).values())
    assert read_json(run.training / "recipe.json")["dtype"] == "float32"
    assert run.manifest()["recoveries"] == result.recoveries
    assert any("float32" in line and "recovered" in line for line in result.lines())


def test_without_recoveries_it_says_cause_and_cure_and_keeps_the_batch(run, overflowing):
    with pytest.raises(NotFiniteError) as raised:
        train(run, changed(overflowing, recoveries=0))
    assert "loss = nan" in raised.value.en and "precision overflows" in raised.value.en and "float32" in raised.value.en
    batch = kept_batch(run)
    assert batch["cause"] == "precision" and len(batch["pairs"]) == 4
    assert all(pair["prompt"] and pair["pair"].startswith("train ") for pair in batch["pairs"])
    assert not any(pair["finite_by_itself"] for pair in batch["pairs"])
    assert run.status("training") == "failed" and not (run.training / "adapter").exists()


def test_one_nan_in_one_gradient_element_harms_no_weight_and_the_run_goes_on(run, recipe):
    result = train(run, recipe, [At(4, spoil_one_gradient_element)])
    (recovery,) = result.recoveries
    assert (recovery["cause"], recovery["remedy"], recovery["step"]) == ("once", "half_learning_rate", 3)
    assert result.resumed_from == 2, "from the last checkpoint, not from the start"
    assert all(weight.isfinite().all() for weight in adapter(run).values())
    assert alarms(run) == ["not_finite", "recovery"]


def test_weights_are_untouched_at_the_moment_of_the_stop(run, recipe):
    class Copies(At):
        def act_on(self, model):
            self.weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
            self.before = {n: p.detach().clone() for n, p in self.weights.items()}
            spoil_one_gradient_element(model)

    watch = Copies(3, None)
    watch.act = watch.act_on
    with pytest.raises(NotFiniteError, match="step 3"):
        train(run, changed(recipe, recoveries=0), [watch])
    assert all(torch.equal(weight, watch.before[name]) for name, weight in watch.weights.items())
    assert all(weight.grad is None for weight in watch.weights.values())


def test_a_nan_forward_in_training_is_seen_in_the_step_where_it_happens(run, recipe):
    result = train(run, changed(recipe, dtype="bfloat16"), [At(4, break_bfloat16)])
    (recovery,) = result.recoveries
    assert (recovery["cause"], recovery["remedy"], recovery["step"]) == ("precision", "float32", 3)
    assert all(math.isfinite(loss) for loss in history(run).values()) and sorted(history(run)) == [1, 2, 3, 4, 5, 6]


def test_a_nan_in_one_evaluation_batch_is_not_averaged_away(run, recipe):
    """transformers filters it: one NaN batch of several gives a clean eval_loss."""

    class OneBatch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:
                calls = []
                second = 3 if recipe.engine == "trl" else 2  # TRL runs the reference before each batch as well

                def spoil(module, inputs, output):
                    calls.append(1)
                    if len(calls) == second:
                        return output * math.nan
                    return output

                self.handle = last_norm(model).register_forward_hook(spoil)

    with pytest.raises(NotFiniteError, match="in evaluation") as raised:
        train(run, changed(recipe, recoveries=0, per_device_eval_batch_size=4), [OneBatch()])
    assert raised.value.phase == "evaluation" and raised.value.step == 3
    batch = kept_batch(run)
    assert batch["cause"] == "once" and len(batch["pairs"]) == 4 and batch["pairs"][0]["pair"].startswith("eval ")


# --- what recovery does -------------------------------------------------------------------------------------------


def test_weights_that_blew_up_are_put_down_to_the_learning_rate_which_is_halved_from_the_checkpoint_on(run, recipe):
    recipe = changed(recipe, lr_scheduler_type="constant_with_warmup", warmup_ratio=0.0)
    result = train(run, recipe, [At(4, blow_up)])
    (recovery,) = result.recoveries
    assert (recovery["cause"], recovery["remedy"]) == ("learning_rate", "half_learning_rate")
    rates = history(run, "learning_rate")
    assert rates[2] == pytest.approx(2e-3) and rates[3] == pytest.approx(1e-3), "a checkpoint brings its own rate back"
    assert read_json(run.training / "recipe.json")["learning_rate"] == 1e-3


def test_a_pair_that_no_model_can_score_is_named_instead_of_tried_again(run, recipe):
    def always(model):
        last_norm(model).register_forward_hook(lambda module, inputs, output: output * math.nan)

    with pytest.raises(NotFiniteError, match="even the untuned model") as raised:
        train(run, recipe, [At(2, always, times=9)])
    assert "Take the pairs named in that file out of the data" in raised.value.en
    assert alarms(run) == ["not_finite"]


def test_it_gives_up_after_as_many_tries_as_the_recipe_allows(run, recipe):
    with pytest.raises(NotFiniteError, match="recovered by itself 2 times before"):
        train(run, changed(recipe, recoveries=2), [At(3, blow_up, times=9)])
    assert [row["changes"]["learning_rate"] for row in read_recoveries(run)] == [[2e-3, 1e-3], [1e-3, 5e-4]]


def test_what_was_learnt_from_a_failure_outlives_the_session(run, recipe):
    """A training that is cut off after a recovery and started again must not run into the same wall with the old setting."""
    with pytest.raises(KeyboardInterrupt):
        train(run, recipe, [At(3, blow_up), StopAt(5)])
    result = train(run, recipe)
    assert len(result.recoveries) == 1 and result.resumed_from == 4
    assert read_json(run.training / "recipe.json")["learning_rate"] == 1e-3


def test_float16_amp_may_skip_steps_while_its_scale_comes_down_but_not_for_ever(run, recipe):
    class Overflows(TrainerCallback):
        """Gradients as float16 AMP has them in its first steps, with a scaler that is there."""

        def __init__(self, steps):
            self.steps = steps

        def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
            weight = next(p for p in model.parameters() if p.requires_grad)
            weight.register_hook(lambda gradient: gradient * math.inf if state.global_step < self.steps else gradient)
            optimizer.step = lambda *arguments: None  # what the scaler does with such a step

    class Scaler:
        """A GradScaler at scale 1; the real one does nothing on a CPU."""

        def is_enabled(self):
            return True

        def scale(self, loss):
            return loss

        def unscale_(self, optimizer):
            pass

        def state_dict(self):
            return {}

    original = attempts.NumberGuard

    class WithScaler(original):
        def __init__(self, trainer, *arguments):
            super().__init__(trainer, *arguments)
            trainer.accelerator.scaler = Scaler()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempts, "NumberGuard", WithScaler)
        few = changed(recipe, recoveries=0, max_steps=5, evals_per_run=1)
        assert train(run, few, [Overflows(3)]).steps == 5
        with pytest.raises(NotFiniteError, match="step 13"):
            train(run, changed(few, max_steps=20), [Overflows(99)])


# --- out of memory: every rung ------------------------------------------------------------------------------------


def remedies(result):
    return [row["remedy"] for row in result.recoveries]


def test_half_the_batch_gives_the_trajectory_of_the_whole_one(run, recipe):
    """Same data order, same steps: nothing but the memory differs. Without the SFT term, whose mean is over the tokens of a forward."""
    recipe = changed(recipe, sft_weight=0.0, max_steps=8, save_steps=2, gradient_accumulation_steps=2)
    undisturbed = run.fork("undisturbed")
    train(undisturbed, recipe)
    result = train(run, recipe, [Memory(lambda args: args.per_device_train_batch_size <= 2, from_step=4)])
    assert remedies(result) == ["half_batch"] and result.resumed_from == 2
    assert read_json(run.training / "recipe.json")["gradient_accumulation_steps"] == 4
    assert history(run) == pytest.approx(history(undisturbed), abs=1e-5) and len(history(run)) == 8
    assert largest_difference(run, undisturbed) < 1e-5


def test_every_rung_in_turn_and_the_run_ends_well(run, recipe, model_folder, tmp_path):
    import shutil

    shutil.copytree(model_folder, tmp_path / "large")
    recipe = changed(recipe, models=[str(tmp_path / "large"), str(model_folder)], fallback=True, allow_shorter=True)
    result = train(run, recipe, [OnlyFits(model_folder)])
    rungs = ["half_batch"] * 2 + ["checkpointing"] + ["half_eval_batch"] * 3 + ["shorter"] * 2 + ["next_model"]
    assert remedies(result) == rungs
    assert result.model == str(model_folder) and "FALLBACK" in result.lines()[0]
    assert alarms(run) == ["out_of_memory", "recovery"] * len(rungs)
    assert read_json(run.training / "recipe.json")["max_length"] == 256, "the next model starts with all that was asked for"


def test_an_evaluation_that_runs_out_halves_its_own_batch_and_goes_on_from_the_checkpoint(run, recipe):
    result = train(run, recipe, [Memory(evaluation=lambda args: args.per_device_eval_batch_size <= 4)])
    assert remedies(result) == ["half_eval_batch"] and result.resumed_from == 2
    assert read_json(run.training / "recipe.json")["per_device_train_batch_size"] == 4


def test_checkpointing_gives_the_same_adapter(run, recipe):
    recipe = changed(recipe, per_device_train_batch_size=1, gradient_accumulation_steps=2)
    undisturbed = run.fork("undisturbed")
    train(undisturbed, recipe)
    result = train(run, recipe, [Memory(lambda args: args.gradient_checkpointing, from_step=4)])
    assert remedies(result) == ["checkpointing"]
    assert largest_difference(run, undisturbed) < 1e-5


def test_memory_that_runs_out_in_the_look_before_is_answered_by_a_smaller_batch_not_by_another_precision(
    run, recipe, monkeypatch
):
    original = preflight.run_checks

    def checks(trainer, *arguments):
        if trainer.args.per_device_train_batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(trainer, *arguments)

    monkeypatch.setattr(preflight, "run_checks", checks)
    result = train(run, changed(recipe, dtype="bfloat16"))
    assert remedies(result) == ["half_batch"] and result.preflight["rejected"] == []


def test_when_nothing_is_left_it_says_what_to_change_and_keeps_the_checkpoints(run, recipe):
    device = Memory(lambda args: False, from_step=3)
    with pytest.raises(TrainingError, match="have nothing left to give"):
        train(run, recipe, [device])
    assert (run.training / "checkpoints" / "checkpoint-2" / "trainer_state.json").is_file()
    assert train(run, recipe).steps == 6, "on a device with more memory it goes on"


def test_other_errors_are_not_taken_for_a_lack_of_memory(run, recipe):
    class Bug(TrainerCallback):
        def on_step_begin(self, *arguments, **kwargs):
            raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        train(run, recipe, [Bug()])
    assert read_recoveries(run) == []
