"""Makes tests/data/broken_runs/: trainings of a small random model that really went wrong, and the logs that they left.

    python tests/data/make_broken_runs.py            # some minutes on one core; writes a few KB a run

Most are plain TRL, as somebody without this project would run it: the filter that hides a NaN loss is on. `killed`, `stopped` and
`recovered` are runs of our own. `llama-factory` is the log of `plain-trl`, its metrics renamed to what LLaMA-Factory writes: that tool is not installed here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
TARGET = Path(__file__).parent / "broken_runs"
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
STEPS = 12


def small_model():
    """(model, tokenizer): random weights, four hundred tokens."""
    from adslm_helpers.dataset.samples import sample_pairs
    from adslm_helpers.models.tiny import build_model, build_tokenizer

    rows = sample_pairs(60, seed=5)
    tokenizer = build_tokenizer((row[key] for row in rows for key in ("prompt", "chosen", "rejected")), vocabulary=400)
    return build_model(tokenizer, seed=1, **SMALL), tokenizer


def teaching_model():
    """(model, tokenizer): the embedded one, which learns something in some steps."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from adslm_helpers.models.tiny import embedded_model_path

    folder = str(embedded_model_path())
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def train_with_trl(folder: Path, model, tokenizer, callbacks=(), n_pairs=40, **settings):
    """One plain DPO training by TRL in `folder`, its log saved as trainer_state.json as `Trainer.save_state` writes it."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    from adslm_helpers.dataset.samples import sample_pairs

    pairs = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in sample_pairs(n_pairs, seed=3)]
    values = {
        "max_steps": STEPS, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "logging_steps": 1,
        "eval_strategy": "steps", "eval_steps": 4, "save_strategy": "no", "learning_rate": 1e-3, "report_to": [], "use_cpu": True,
        "bf16": False, "fp16": False, "gradient_checkpointing": False, "disable_tqdm": True, "max_length": 256, "seed": 1,
    }  # fmt: skip
    trainer = DPOTrainer(
        model,
        args=DPOConfig(output_dir=str(folder), **{**values, **settings}),
        train_dataset=Dataset.from_list(pairs[:-8]),
        eval_dataset=Dataset.from_list(pairs[-8:]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"),
        callbacks=list(callbacks),
    )
    trainer.train()
    trainer.save_state()
    return trainer


def keep(folder: Path, name: str, *files: str) -> None:
    """Copies the logs alone: no weights, no pickles."""
    target = TARGET / name
    shutil.rmtree(target, ignore_errors=True)
    for file in files or ("trainer_state.json",):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / file, target / file)


def nan_forward(folder: Path) -> None:
    """float16 weights whose MLP overflows, as those of a model trained in bfloat16 do: infinity, then NaN, behind the filter."""
    import torch

    model, tokenizer = small_model()
    for layer in model.model.layers:
        layer.mlp.up_proj.weight.data *= 3e4
        layer.mlp.gate_proj.weight.data *= 1e2
    train_with_trl(folder, model.to(torch.float16), tokenizer)
    keep(folder, "nan-forward")


def nan_gradient(folder: Path) -> None:
    """One NaN in one element of one gradient, once, at step 5: that step still logs its loss, every later one 0.0."""
    import torch
    from transformers import TrainerCallback

    class Poison(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            one = (torch.tensor(0), torch.tensor(0))
            weight = next(w for w in model.parameters() if w.requires_grad)
            weight.register_hook(lambda g: g.index_put(one, torch.tensor(torch.nan)) if state.global_step == 4 else g)

    train_with_trl(folder, *small_model(), [Poison()])
    keep(folder, "nan-gradient")


def frozen(folder: Path) -> None:
    """No gradient reaches the adapter: everything stays at ln 2."""
    from transformers import TrainerCallback

    class NoGradient(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.register_hook(lambda gradient: gradient * 0)

    train_with_trl(folder, *small_model(), [NoGradient()])
    keep(folder, "frozen")


def lr_too_big(folder: Path) -> None:
    """A learning rate a thousand times too high, watched by TensorBoard: only its event files are kept."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    class Scalars(TensorBoardCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            """Without the arguments and the config, which would name this machine's paths."""

    writer = SummaryWriter(log_dir=str(folder / "events"), filename_suffix=".fixture")
    train_with_trl(
        folder,
        *teaching_model(),
        [Scalars(tb_writer=writer)],
        n_pairs=136,
        max_steps=30,
        learning_rate=5e-2,
        max_grad_norm=1e9,
        eval_steps=10,
    )
    shutil.rmtree(TARGET / "lr-too-big", ignore_errors=True)
    (TARGET / "lr-too-big").mkdir(parents=True)
    (found,) = (folder / "events").glob("events.out.tfevents.*")
    shutil.copyfile(found, TARGET / "lr-too-big" / "events.out.tfevents.1700000000.trainer.1.0")


def plain_trl(folder: Path) -> None:
    """Nothing wrong; the state stands in the checkpoints alone, as it does while TRL trains. And the same as LLaMA-Factory logs it."""
    settings = {
        "n_pairs": 136,
        "max_steps": 32,
        "eval_steps": 8,
        "save_strategy": "steps",
        "save_steps": 16,
        "learning_rate": 2e-3,
    }
    sft = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]}
    trainer = train_with_trl(folder, *teaching_model(), logging_steps=2, **settings, **sft)
    keep(folder, "plain-trl", "checkpoint-16/trainer_state.json", "checkpoint-32/trainer_state.json")
    rows = []
    for row in trainer.state.log_history:
        if "loss" not in row and "eval_loss" not in row:
            continue
        names = {
            "loss": "loss",
            "eval_loss": "eval_loss",
            "learning_rate": "lr",
            "rewards/accuracies": "accuracy",
            "epoch": "epoch",
        }
        kept = {new: row[old] for old, new in names.items() if old in row}
        done = {"current_steps": row["step"], "total_steps": 32, "percentage": round(100 * row["step"] / 32, 2)}
        rows.append({**done, **kept, "elapsed_time": f"0:00:{row['step']:02d}", "remaining_time": f"0:00:{32 - row['step']:02d}"})
    (TARGET / "llama-factory").mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (TARGET / "llama-factory" / "trainer_log.jsonl").write_text(lines, encoding="utf-8")


def our_run(folder: Path, name: str, callback, **overrides):
    """A run of this project on the small model, ended by `callback`."""
    from adslm_helpers.dataset.samples import sample_pairs
    from adslm_helpers.recipe import recipe_from_dict
    from adslm_helpers.run import Run, write_jsonl
    from adslm_helpers.training.train import train

    model, tokenizer = small_model()
    model.save_pretrained(folder / "small-model")
    tokenizer.save_pretrained(folder / "small-model")
    values = {
        "preset": "smoke", "models": [str(folder / "small-model")], "fallback": False, "device": "cpu", "learning_rate": 2e-3,
        "max_steps": STEPS, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "per_device_eval_batch_size": 8,
        "max_length": 256, "max_prompt_length": 200, "logging_steps": 1, "evals_per_run": 3, "save_steps": 3, "sft_weight": 1.0,
        "watch_prompts": 0, **{"recoveries": 0, **overrides},
    }  # fmt: skip
    run = Run(name, folder)
    rows = sample_pairs(40, seed=3)
    with run.step("dataset") as notes:
        write_jsonl(run.dataset / "train.jsonl", rows[:32])
        write_jsonl(run.dataset / "eval.jsonl", rows[32:])
        notes |= {"train": 32, "eval": 8}
    train(run, recipe_from_dict(values), [callback])


def keep_ours(folder: Path, name: str) -> None:
    """The small files of a run of ours, without this machine's paths and without weights."""
    shutil.rmtree(TARGET / name, ignore_errors=True)
    kept = ("manifest.json", "training/history.jsonl", "training/alarms.jsonl", "training/recipe.json", "training/progress.json",
            "training/recoveries.jsonl", "training/health.jsonl", "training/result.json", ".lock/1")  # fmt: skip
    checkpoints = [
        str(path.relative_to(folder / name)) for path in (folder / name).glob("training/checkpoints/*/trainer_state.json")
    ]
    for file in (*kept, *checkpoints):
        if (folder / name / file).is_file():
            text = (folder / name / file).read_text(encoding="utf-8").replace(str(folder), "/home/team")
            (TARGET / name / file).parent.mkdir(parents=True, exist_ok=True)
            (TARGET / name / file).write_text(text, encoding="utf-8")


def killed(folder: Path) -> None:
    """SIGKILL at step 8 of 12, as when a runtime is taken away; the lock of a process that is gone stays behind."""
    from transformers import TrainerCallback

    class Kill(TrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            if state.global_step == 8:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        our_run(folder, "killed", Kill())
        os._exit(0)
    os.waitpid(child, 0)
    lock = {"pid": 2**31 - 2, "host": "", "birth": "", "since": "2026-11-25T18:00:00+00:00"}  # of no machine: dead on every one
    (folder / "killed" / ".lock").mkdir(exist_ok=True)
    (folder / "killed" / ".lock" / "1").write_text(json.dumps(lock), encoding="utf-8")
    keep_ours(folder, "killed")


def stopped(folder: Path) -> None:
    """Our own guard: a gradient with a NaN at step 5 stops the run before any weight is harmed."""
    import torch
    from transformers import TrainerCallback

    from adslm_helpers.errors import AdslmError

    class Poison(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            weight = next(w for w in model.parameters() if w.requires_grad)
            weight.register_hook(lambda gradient: gradient * torch.nan if state.global_step == 4 else gradient)

    try:
        our_run(folder, "stopped", Poison())
    except AdslmError as error:
        print(error)
    keep_ours(folder, "stopped")


def recovered(folder: Path) -> None:
    """The same gradient, once, in a run that may go on by itself, and does."""
    import torch
    from transformers import TrainerCallback

    class PoisonOnce(TrainerCallback):
        done = False

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            def spoil(gradient):
                if state.global_step != 4 or self.done:
                    return gradient
                self.done = True
                return gradient * torch.nan

            next(w for w in model.parameters() if w.requires_grad).register_hook(spoil)

    our_run(folder, "recovered", PoisonOnce(), recoveries=3)
    keep_ours(folder, "recovered")


def main() -> None:
    made = (
        killed,
        nan_forward,
        nan_gradient,
        frozen,
        lr_too_big,
        plain_trl,
        stopped,
        recovered,
    )  # killed forks: before torch has threads
    for make in [one for one in made if one.__name__ in sys.argv[1:] or len(sys.argv) == 1]:
        with tempfile.TemporaryDirectory() as folder:
            print(make.__name__, flush=True)
            make(Path(folder))


if __name__ == "__main__":
    main()
