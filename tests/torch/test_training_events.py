"""TensorBoard and history.jsonl tell one story."""

import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback

from adslm_helpers.recipe import recipe_from_dict
from adslm_helpers.training.history import Alarm, write_alarm
from adslm_helpers.training.train import train
from adslm_helpers.watching.log_files import read_events, read_lines


def test_tensorboard_shows_every_scalar_of_the_history_and_no_other(run, recipe):
    train(run, recipe)
    history = read_lines(run.training / "history.jsonl").rows
    events = read_events(run.training / "events").rows
    ours = {(row["step"], key): value for row in history for key, value in row.items() if key not in ("step", "time")}
    theirs = {(row["step"], key): value for row in events for key, value in row.items() if key not in ("step", "time")}
    assert set(ours) == set(theirs) and {"loss", "eval_loss", "eval_rewards/accuracies", "rewards/margins"} <= {
        key for _, key in ours
    }
    wrong = {
        key: (ours[key], theirs[key]) for key in ours if not math.isclose(ours[key], theirs[key], rel_tol=1e-5, abs_tol=1e-6)
    }
    assert wrong == {}


def test_the_evaluation_after_the_last_step_is_shown_with_the_others(run, recipe):
    """transformers opens another writer for it, in a folder of its own among the checkpoints."""
    train(run, recipe_from_dict({**recipe.to_dict(), "max_steps": 5}))  # every second step, and once more after the fifth
    steps = [row["step"] for row in read_events(run.training / "events").rows if "eval_loss" in row]
    assert steps == [2, 4, 5] and not list((run.training / "checkpoints").rglob("events.out.tfevents.*"))


def test_a_resumed_run_shows_each_step_once_in_tensorboard(run, recipe):
    """TensorBoard itself drops what the first session logged after its checkpoint only when the writer says so."""

    class StopOnceLogged(TrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, recipe, [StopOnceLogged()])
    train(run, recipe)
    history = [row for row in read_lines(run.training / "history.jsonl").rows if "loss" in row]
    shown = EventAccumulator(str(run.training / "events"), size_guidance={"scalars": 0})
    shown.Reload()
    assert [event.step for event in shown.Scalars("train/loss")] == [row["step"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert [event.value for event in shown.Scalars("train/loss")] == pytest.approx([row["loss"] for row in history], rel=1e-5)


def test_alarms_stand_in_tensorboard_as_text_each_once(run, recipe):
    class Raise(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step in (2, 4):
                write_alarm(run.training, Alarm(state.global_step, "loops", "warning", "文がくり返しています", "texts loop"))

    train(run, recipe, [Raise()])
    shown = EventAccumulator(str(run.training / "events"), size_guidance={"tensors": 0})
    shown.Reload()
    texts = [(event.step, event.tensor_proto.string_val[0].decode()) for event in shown.Tensors("alarms/text_summary")]
    assert [step for step, _ in texts] == [2, 4] and "texts loop" in texts[0][1]


def test_a_user_of_the_guide_finds_its_names_beside_trls(run, recipe):
    """transformers puts "train/" before every name; the guide's are known without it."""
    asked = {"engine": "fast", "method": "preference_guided", "preference_text": "短く。", "max_steps": 2}
    train(run, recipe_from_dict({**recipe.to_dict(), **asked}))
    shown = EventAccumulator(str(run.training / "events"))
    shown.Reload()
    guide = {"loss/train", "loss_components/dpo_loss", "loss_components/aligned_loss", "rewards_train/accuracy"}
    names = set(shown.Tags()["scalars"])
    assert guide | {"preference_metrics/pref_advantage_ratio", "train/loss", "train/rewards/accuracies"} <= names
    assert not {name for name in names if name.startswith("train/loss_components")}
    both = [[event.value for event in shown.Scalars(name)] for name in ("loss/train", "train/loss")]
    assert both[0] == both[1] and len(both[0]) == 2
