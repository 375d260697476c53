"""The watch on the text: what it catches, what it keeps, what the run ends with, and that training does not notice it."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback, TrainerControl, TrainerState

from adslm_helpers.dataset.samples import sample_pairs
from adslm_helpers.errors import TrainingError
from adslm_helpers.models.generation import Generated, generate_texts
from adslm_helpers.models.loading import lora_config
from adslm_helpers.recipe import load_recipe, recipe_from_dict
from adslm_helpers.run import read_jsonl, write_jsonl
from adslm_helpers.training import health
from adslm_helpers.training.divergence import mean_kl
from adslm_helpers.training.health import HealthWatch, health_watch, watched_prompts
from adslm_helpers.training.history import read_alarms
from adslm_helpers.training.prompts import encode_pairs
from adslm_helpers.training.snapshots import Ending, best_row, choose_ending, load_ending
from adslm_helpers.training.train import train

LOOP = "安い安い安い安い安い安い安い安い"


def peft_model(model_folder, recipe, seed=0):
    from peft import get_peft_model

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    return get_peft_model(base, lora_config(recipe, base))


def nudge(model, size):
    """Moves the adapter as a training step would."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(size)


@pytest.fixture
def model(model_folder, recipe):
    return peft_model(model_folder, recipe)


@pytest.fixture
def rows():
    return list({row["prompt"]: row for row in sample_pairs(60, seed=3)}.values())[:20]


@pytest.fixture
def script(monkeypatch):
    """Stands for the model: `script.broken` of the answers loop, the others are the chosen texts; the base gives none that loops."""

    class Script:
        broken = 0

        def __call__(self, model, tokenizer, prompts, **options):
            chosen = {row["prompt"]: row["chosen"] for row in sample_pairs(60, seed=3)}
            broken = self.broken if any((p != 0).any() for n, p in model.named_parameters() if "lora_B" in n) else 0
            return [Generated(LOOP if i < broken else chosen[prompt], 9, True) for i, prompt in enumerate(prompts)]

    made = Script()
    monkeypatch.setattr(health, "generate_texts", made)
    return made


@pytest.fixture
def watch(tmp_path, recipe, tokenizer, rows, script, model):
    said = []
    made = HealthWatch(tmp_path / "training", recipe, tokenizer, rows, said.append)
    made.said, made.model = said, model
    made.begin(model, 0)
    nudge(model, 0.01)
    return made


def kinds(watch):
    return [(alarm.step, alarm.kind, alarm.severity) for alarm in read_alarms(watch.training)]


def evaluate(watch, script, step, broken, loss):
    script.broken = broken
    nudge(watch.model, step / 100)
    return watch.evaluated(watch.model, step, {"eval_loss": loss})


def test_a_real_recipe_that_ruins_the_text_is_stopped_and_ends_healthy(run, runs_in_tmp):
    """A learning rate far too high for the embedded model: the first evaluation still reads well, then nothing does."""
    recipe = load_recipe(
        "tiny", learning_rate=2e-2, sft_weight=0.0, beta=0.05, max_steps=16, logging_steps=1, watch_prompts=8, max_new_tokens=40
    )
    rows = sample_pairs(80, seed=4)
    write_jsonl(run.dataset / "train.jsonl", rows[:64])
    write_jsonl(run.dataset / "eval.jsonl", rows[64:])
    hears = TrainerCallback()
    hears.on_notice = (said := []).append
    result = train(run, recipe, [hears])
    assert result.steps < 16, "the training went on with a ruined text"
    raised = {alarm.kind: alarm.severity for alarm in read_alarms(run.training)}
    assert "stop" in raised.values() and raised.get("chosen_falls") == "warning" and len(said) == len(read_alarms(run.training))
    health_rows = read_jsonl(run.training / "health.jsonl")
    assert (
        [row["step"] for row in health_rows][:1] == [0]
        and health_rows[-1]["healthy"] is False
        and health_rows[-1]["answers"][0]["text"] is not None
    )
    assert result.ending < result.steps and any("ends with" in line or "emptied" in line for line in result.lines())
    assert math.isfinite(result.final["eval_loss"])
    weights = load_file(run.training / "adapter" / "adapter_model.safetensors")
    assert result.ending or not any(weight.any() for name, weight in weights.items() if "lora_B" in name)


def test_training_is_the_same_to_the_bit_with_and_without_the_watch(run, recipe):
    """Generation draws random numbers and switches modes; neither may reach the training."""
    bare = run.fork("bare")
    train(bare, recipe_from_dict({**recipe.to_dict(), "watch_prompts": 0}))
    train(run, recipe_from_dict({**recipe.to_dict(), "watch_prompts": 4}))
    assert [len(read_jsonl(one.training / "health.jsonl")[-1]["answers"]) for one in (bare, run)] == [0, 4]
    watched, alone = (load_file(r.training / "adapter" / "adapter_model.safetensors") for r in (run, bare))
    assert all(torch.equal(watched[name], alone[name]) for name in alone)


def test_the_first_bad_texts_are_a_warning_and_bad_ones_again_end_the_training(watch, script):
    assert evaluate(watch, script, 10, 0, 0.6) is False
    assert evaluate(watch, script, 20, 5, 0.5) is False and kinds(watch) == [(20, "loops", "warning")]
    assert evaluate(watch, script, 30, 6, 0.4) is True and kinds(watch)[-1] == (30, "loops", "stop")
    assert len(watch.said) == len(kinds(watch))
    assert choose_ending(watch.training, best=True).step == choose_ending(watch.training, best=False).step == 10


def test_texts_that_get_better_again_go_on_and_a_third_time_does_not(watch, script):
    assert [evaluate(watch, script, step, broken, 0.5) for step, broken in ((10, 7), (20, 5), (30, 0))] == [False, False, False]
    assert kinds(watch) == [(10, "loops", "warning")], "said again although it got better"
    assert [evaluate(watch, script, step, broken, 0.5) for step, broken in ((40, 7), (50, 6), (60, 5))] == [False, False, True]


def test_most_answers_broken_end_the_training_at_once(watch, script):
    assert evaluate(watch, script, 10, 9, 0.1) is True and kinds(watch) == [(10, "loops", "stop")]
    ending = choose_ending(watch.training, best=True)
    assert ending.start and ending.alarm.kind == "ended_as_base" and "IMPORTANT" in ending.line()


def test_a_loss_that_is_not_finite_asks_nothing_and_keeps_nothing(watch, script, monkeypatch):
    monkeypatch.setattr(health, "generate_texts", None)  # drawing from NaN ends a CUDA process
    assert watch.evaluated(watch.model, 10, {"eval_loss": float("nan")}) is False  # to stop for it is the other guard's business
    assert kinds(watch) == [(10, "not_finite", "warning")] and choose_ending(watch.training, best=True).start
    row = read_jsonl(watch.path)[-1]
    assert row["healthy"] is False and row["reasons"] == ["not_finite"] and row["eval_loss"] is None and row["snapshot"] is None


def test_logits_that_are_not_finite_are_seen_before_anything_is_drawn(watch, monkeypatch):
    monkeypatch.setattr(health, "generate_texts", None)
    nudge(watch.model, float("nan"))
    watch.evaluated(watch.model, 10, {"eval_loss": 0.5})
    assert read_jsonl(watch.path)[-1]["reasons"] == ["not_finite"] and kinds(watch) == [(10, "not_finite", "warning")]


def test_a_watch_that_cannot_ask_says_so_once_and_the_training_goes_on(watch, script, monkeypatch):
    def fail(*arguments, **options):
        raise ValueError("no generation here")

    monkeypatch.setattr(health, "generate_texts", fail)
    assert [watch.evaluated(watch.model, step, {"eval_loss": 5 / step}) for step in (10, 20)] == [False, False]
    assert len(watch.said) == 1 and "no generation here" in watch.said[0]
    assert [row["healthy"] for row in read_jsonl(watch.path)[1:]] == [None, None]
    assert choose_ending(watch.training, best=True).step == 20  # nobody saw it ill; never the base for want of a look


def test_a_full_disk_costs_the_snapshot_and_nothing_else(watch, script, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    evaluate(watch, script, 10, 0, 0.6)
    monkeypatch.setattr(health, "take_snapshot", full)
    assert evaluate(watch, script, 20, 0, 0.5) is False
    assert "No space left" in watch.said[0]
    assert evaluate(watch, script, 30, 16, 0.5) is True
    assert choose_ending(watch.training, best=True).step == 10


def test_answers_that_do_not_fit_into_memory_are_asked_in_smaller_batches(watch, script, monkeypatch):
    sizes = []

    def tight(*arguments, batch_size, **options):
        sizes.append(batch_size)
        if batch_size > 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return script(*arguments, **options)

    monkeypatch.setattr(health, "generate_texts", tight)
    assert evaluate(watch, script, 10, 0, 0.5) is False and sizes == [16, 8, 4] and watch.said == []


def test_the_base_answers_once_and_again_only_in_another_precision(watch, script, monkeypatch, recipe, tokenizer, rows):
    evaluate(watch, script, 10, 0, 0.5)
    asked = []
    monkeypatch.setattr(health, "generate_texts", lambda *a, **o: asked.append(1) or script(*a, **o))
    again = HealthWatch(watch.training, recipe, tokenizer, rows, print)
    again.begin(watch.model, 10)
    assert asked == [] and len(again.base.items) == len(again.asked)
    again.begin(watch.model.to(torch.bfloat16), 10)
    assert asked == [1] and [row["step"] for row in read_jsonl(watch.path)] == [0, 10]


def test_a_resumed_run_does_the_later_evaluations_again(watch, script):
    for step in (10, 20, 30):
        evaluate(watch, script, step, 0, 0.5)
    watch.begin(watch.model, 20)
    assert [row["step"] for row in read_jsonl(watch.path)] == [0, 10, 20]
    assert not (watch.training / "snapshots" / "step-30").exists() and (watch.training / "snapshots" / "step-20").is_dir()
    evaluate(watch, script, 30, 16, 0.5)
    assert choose_ending(watch.training, best=False).step == 20


def test_of_the_snapshots_the_best_the_last_healthy_and_the_newest_are_kept(watch, script):
    for step, broken, loss in ((10, 1, 0.6), (20, 0, 0.2), (30, 1, 0.5), (40, 1, 0.5), (50, 6, 0.1)):
        evaluate(watch, script, step, broken, loss)
    (watch.training / "snapshots" / ".step-60.writing").mkdir()
    kept = {path.name for path in (watch.training / "snapshots").iterdir()}
    assert kept == {"step-20", "step-30", "step-40", "step-50", ".step-60.writing"}
    evaluate(watch, script, 60, 0, 0.9)
    assert not (watch.training / "snapshots" / ".step-60.writing").exists()


def test_clearly_worse_texts_lose_whatever_their_loss_and_within_the_noise_the_loss_decides(watch, script):
    evaluate(watch, script, 10, 0, 0.6)
    evaluate(watch, script, 20, 3, 0.1)  # three loops of sixteen: no sign yet, but worse than noise
    assert choose_ending(watch.training, best=True).step == 10
    evaluate(watch, script, 30, 1, 0.3)
    assert choose_ending(watch.training, best=True).step == 30
    assert choose_ending(watch.training, best=False).step == 30
    assert best_row([row for row in read_jsonl(watch.path) if row["step"]])["step"] == 30


def test_an_altered_snapshot_is_not_what_a_run_ends_with(watch, script):
    for step, broken, loss in ((10, 0, 0.6), (20, 0, 0.5), (30, 16, 0.1)):
        evaluate(watch, script, step, broken, loss)
    weights = watch.training / "snapshots" / "step-20" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    assert choose_ending(watch.training, best=True).step == 10
    shutil.rmtree(watch.training / "snapshots")
    assert choose_ending(watch.training, best=True).start


def test_the_ending_puts_back_the_very_weights(watch, script, model, model_folder, recipe):
    evaluate(watch, script, 10, 0, 0.5)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(watch, script, 20, 16, 0.1)
    load_ending(model, choose_ending(watch.training, best=True))
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    wider = peft_model(model_folder, recipe_from_dict({**recipe.to_dict(), "lora_r": 4}))
    with pytest.raises(TrainingError, match="not an adapter of this model"):
        load_ending(wider, choose_ending(watch.training, best=True))


def test_the_untouched_start_is_the_base(model, tokenizer):
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), model.disable_adapter():
        base = model(input_ids=ids).logits
    nudge(model, 0.5)
    assert not torch.equal(model(input_ids=ids).logits, base)
    load_ending(model, Ending(8, 8, None, True, "", ""))
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, base)


def test_without_a_look_the_run_ends_with_its_last_weights(tmp_path, model):
    ending = choose_ending(tmp_path, best=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_ending(model, ending)
    assert not ending.start and ending.alarm is None and all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_a_watch_of_no_prompts_keeps_snapshots_and_ends_by_loss(tmp_path, recipe, tokenizer, rows, model):
    watch = HealthWatch(tmp_path, recipe_from_dict({**recipe.to_dict(), "watch_prompts": 0}), tokenizer, rows, print)
    watch.begin(model, 0)
    for step, loss in ((10, 0.4), (20, 0.6)):
        assert watch.evaluated(model, step, {"eval_loss": loss}) is False
    assert [choose_ending(tmp_path, best).step for best in (True, False)] == [10, 20]


def test_the_watched_prompts_are_spread_and_few_ones_are_asked_again(tokenizer, recipe, rows):
    def asked(given, **changes):
        return [item.text for item, _ in watched_prompts(tokenizer, given, recipe_from_dict({**recipe.to_dict(), **changes}))]

    prompts = [row["prompt"] for row in rows]
    assert asked(rows, watch_prompts=5) == prompts[::4] and asked(rows + rows, watch_prompts=20) == prompts
    assert asked(rows[:3], watch_prompts=7) == [*prompts[:3], *prompts[:3], prompts[0]]
    assert asked(rows[:3], watch_prompts=7, temperature=0.0) == prompts[:3]
    assert asked([], watch_prompts=7) == []


def test_an_evaluation_after_the_training_is_not_judged_twice(watch, script):
    callback = health_watch(watch.training, watch.recipe, watch.tokenizer, [], print)
    callback.watch = watch
    evaluate(watch, script, 10, 16, 0.5)
    state, control = TrainerState(global_step=10, is_world_process_zero=True), TrainerControl()
    callback.on_evaluate(None, state, control, metrics={"eval_loss": 0.5}, model=watch.model)
    assert control.should_training_stop is False and len(read_jsonl(watch.path)) == 2


def test_the_divergence_is_zero_at_the_start_and_the_formula_afterwards(model, tokenizer, rows):
    """Against the definition, on whole logits; the model is left as it was."""
    pairs = encode_pairs(tokenizer, rows[:3], 256, 200).pairs
    model.train()
    assert mean_kl(model, pairs) == 0.0 and model.training
    nudge(model, 0.3)
    total, count = 0.0, 0
    for pair in pairs:
        kept = pair.chosen_ids[:32]
        ids = torch.tensor([pair.prompt_ids + kept])
        model.eval()
        with torch.no_grad():
            tuned = model(input_ids=ids).logits[0, len(pair.prompt_ids) - 1 : -1].log_softmax(-1)
            with model.disable_adapter():
                base = model(input_ids=ids).logits[0, len(pair.prompt_ids) - 1 : -1].log_softmax(-1)
        total += torch.nn.functional.kl_div(base, tuned, reduction="sum", log_target=True).item()
        count += len(kept)
    assert mean_kl(model, pairs) == pytest.approx(total / count, rel=1e-4) and total > 0


def test_real_answers_of_a_random_model_are_as_bad_as_its_bases_and_alarm_nobody(tmp_path, model, recipe, tokenizer, rows):
    """Nothing to compare with: a base that writes rubbish is said to do so, and the training is left in peace."""
    said = []
    watch = HealthWatch(tmp_path, recipe, tokenizer, rows, said.append)
    watch.begin(model, 0)
    assert len(said) == 1 and "base_broken" in said[0]
    nudge(model, 1e-3)
    assert watch.evaluated(model, 3, {"eval_loss": 0.6}) is False
    answers = json.loads(watch.path.read_text(encoding="utf-8").splitlines()[-1])["answers"]
    made = generate_texts(
        model,
        tokenizer,
        [item.prompt for item in watch.asked],
        seed=recipe.seed,
        temperature=recipe.temperature,
        top_p=recipe.top_p,
        max_new_tokens=watch.max_new_tokens,
    )
    assert [answer["text"] for answer in answers] == [answer.text for answer in made]
