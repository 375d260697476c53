"""What a run survives: kills at any moment, every file operation of every copy made to fail, every way to run out of memory or of numbers.

.venv/bin/python scripts/chaos.py                                   # all three
.venv/bin/python scripts/chaos.py --only kills --kills 5 --seed 7   # the same five again (but for the scheduler's part in it)

Kills: SIGKILL in training and export, then the same command again, against an undisturbed run. Half of the kills come at a time drawn uniformly over the undisturbed run, the others at a drawn file operation or evaluation batch: in
place, or a few milliseconds later from outside, while bytes are being written. Importing torch and TRL takes 8 s, so this process only
imports (one thread, nothing computed) and each run is a fork of it; one run in a fresh interpreter shows that this changes nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adslm_helpers.environment.packages import hide_kernel_notice
from adslm_helpers.run import Run, read_json, read_jsonl

TOLERANCE = 1e-6
RECIPE = {
    "preset": "smoke", "fallback": False, "device": "cpu", "learning_rate": 2e-3, "max_steps": 8, "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1, "per_device_eval_batch_size": 2, "max_length": 256, "max_prompt_length": 200, "logging_steps": 1,
    "evals_per_run": 3, "save_steps": 2, "eval_prompts": 4, "samples_per_prompt": 1, "max_new_tokens": 12, "sft_weight": 1.0,
}  # fmt: skip
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
HEAVY = (
    "torch", "torch.utils.tensorboard", "transformers", "transformers.models.qwen2.modeling_qwen2", "trl.trainer.dpo_trainer", "peft",
    "datasets", "adslm_helpers.training.callbacks", "adslm_helpers.training.train", "adslm_helpers.export.export",
)  # fmt: skip
# What a file operation or a batch belongs to, by what is in its path; the first that fits.
AIMS = {
    "checkpoint": "/checkpoints/",
    "adapter": "/.adapter.partial",
    "export": "/export/",
    "evaluation": "evaluation:",
    "records": "",
}


PARTS = {
    "kills": "kills survived / 強制終了から回復",
    "files": "file-operation faults survived / ファイル操作の失敗から回復",
    "rungs": "rungs of recovery / 自動の復旧",
}


@dataclass(frozen=True)
class Aim:
    """Where to kill: after `seconds`, or at the `at`-th event of a `kind`, in place (`delay` None) or `delay` s later from outside."""

    seconds: float = 0.0
    kind: str = ""
    at: int = 0
    delay: float | None = None


@dataclass
class Stage:
    """The folder of all runs, and a few bytes that a child shares with us: the last thing that it was at."""

    folder: Path
    wall: float = 0.0
    """Seconds of an undisturbed run, as the machine is now."""
    seen: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, 512))

    def at(self) -> str:
        return self.seen[:].rstrip(b"\0").decode("utf-8", "replace")

    def note(self, text: str) -> None:
        self.seen[:] = text.encode()[:512].ljust(512, b"\0")


def kills(
    folder: Path, count: int, seed: int, say: Callable[[str], None], compare_fork: bool = True
) -> tuple[int, int, list[str]]:
    """(survived, total, lines): each kill on a run of its own, which must end as the undisturbed one does."""
    import_all()
    stage, draw, lines = Stage(folder), random.Random(seed), []
    must(stage, lambda: make_base(folder))
    base = Run("base", folder)
    undisturbed = base.fork("undisturbed")
    started = time.monotonic()
    must(stage, lambda: work(undisturbed, stage, counted=folder / "events.json"))
    stage.wall, events = time.monotonic() - started, read_json(folder / "events.json")
    tell(lines, say, f"undisturbed: {stage.wall:.1f} s; events: {events}")
    if compare_fork:
        fresh = base.fork("fresh")
        subprocess.run([sys.executable, __file__, "--one", str(folder), fresh.name], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        off = difference(fresh.training / "adapter", undisturbed.training / "adapter")
        tell(lines, say, f"a run in a fresh interpreter differs from a forked one by {off:.1e}")
        assert off == 0.0, "the fork changes the numbers: it proves nothing"
    survived = 0
    for number in range(1, count + 1):
        ok, line = one_kill(stage, base, undisturbed, draw, events, number)
        survived += ok
        tell(lines, say, f"{number:3}/{count} {'ok ' if ok else 'BAD'} {line}")
    return survived, count, lines


def one_kill(
    stage: Stage, base: Run, undisturbed: Run, draw: random.Random, events: dict[str, int], number: int
) -> tuple[bool, str]:
    """One run, killed once (every fourth: twice), then done again until it ends; whether it ended as the undisturbed one."""
    run, where = base.fork(f"kill-{number}"), []
    again, aimed, times = number % 2 == 0, bool(number % 2), 2 if number % 4 == 0 else 1
    for _ in range(20):
        aim, started = draw_aim(draw, stage.wall, events, aimed), time.monotonic()
        code = child(stage, lambda aim=aim: work(run, stage, aim, again=again), aim)
        if code == -signal.SIGKILL:
            where.append(stage.at())
        elif code:
            return False, f"ended by itself with {code}, see {stage.folder / 'child.log'}"
        if len(where) == times or (where and code == 0):
            break
        if code == 0:  # the machine is faster than it was, and no kill hit it: that is none survived, so start over
            stage.wall = time.monotonic() - started
            shutil.rmtree(run.path)
            base.fork(run.name)
    code = child(stage, lambda: work(run, stage, again=again))
    wrong = [f"the next attempt ended with {code}, see {stage.folder / 'child.log'}"] if code else unlike(run, undisturbed)
    if wrong or not where:
        return False, f"{' + '.join(where) or 'never hit'}: {'; '.join(wrong)}"
    off = difference(run.training / "adapter", undisturbed.training / "adapter")
    resumed = read_json(run.training / "result.json")["resumed_from"]
    return True, f"{' + '.join(where)} -> from step {resumed}, adapter differs by {off:.0e}, export equal"


def draw_aim(draw: random.Random, wall: float, events: dict[str, int], aimed: bool) -> Aim:
    """A moment of the run; aimed at one of the places where it hurts, or anywhere."""
    if not aimed:
        return Aim(seconds=draw.uniform(0.0, wall))
    kind = draw.choice(sorted(events))
    return Aim(kind=kind, at=draw.randint(1, events[kind]), delay=draw.choice([None, draw.uniform(0.0, 0.004)]))


def work(run: Run, stage: Stage, aim: Aim | None = None, again: bool = False, counted: Path | None = None) -> None:
    """In a child: what a user does - train, export - as if nothing had happened before. `again`: by `--resume` where it can."""
    from adslm_helpers.export.export import export_run
    from adslm_helpers.recipe import recipe_from_dict
    from adslm_helpers.training.resume import started_recipe
    from adslm_helpers.training.train import train

    watch = Watch(run, stage, aim)
    sys.addaudithook(watch.file_operation)
    if again and (run.training / "fingerprint.json").is_file():
        train(run, started_recipe(run), [watch.callback()], resume=True)
    else:
        train(run, recipe_from_dict({**RECIPE, "models": [str(run.path.parent / "model")]}), [watch.callback()])
    if not (run.export / "out").exists():
        stage.note("export")
        export_run(run, run.export / "out")
    watch.aim = Aim()
    if counted:
        counted.write_text(json.dumps(watch.counts), encoding="utf-8")


class Watch:
    """Counts what a child does, says where it is, and dies at the event that was drawn."""

    def __init__(self, run: Run, stage: Stage, aim: Aim | None):
        self.root, self.stage, self.aim, self.counts = str(run.path), stage, aim or Aim(), Counter()
        self.step, self.busy = 0, False

    def file_operation(self, event: str, arguments: tuple) -> None:
        """Python's audit hook: called before each of them."""
        if self.busy or event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree"):
            return
        writes = event != "open" or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        path = arguments[0]
        if writes and isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(self.root):
            self.busy = True
            self.happened(f"{event} {os.fsdecode(path).removeprefix(self.root)}")
            self.busy = False

    def happened(self, what: str) -> None:
        kind = next(kind for kind, part in AIMS.items() if part in what)
        self.counts[kind] += 1
        self.stage.note(f"step {self.step}, {what}")
        if (kind, self.counts[kind]) != (self.aim.kind, self.aim.at):
            return
        if self.aim.delay is None:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(AIMED[1], b"!")

    def callback(self) -> Any:
        from transformers import TrainerCallback

        watch = self

        class Where(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                watch.step = state.global_step + 1
                watch.stage.note(f"step {watch.step}")

            def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                watch.happened(f"evaluation: batch after step {state.global_step}")

        return Where()


AIMED: tuple[int, int] = (-1, -1)


def child(stage: Stage, task: Callable[[], Any], aim: Aim | None = None) -> int:
    """Runs the task in a fork of this process, killed as aimed; returns its exit code, -9 where it was killed."""
    global AIMED
    assert not (running := threads()), f"a thread does not live through a fork: {running}"
    stage.note("start")
    AIMED = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(AIMED[0])
        log = os.open(stage.folder / "child.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        code = 1
        try:
            task()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    os.close(AIMED[1])
    if aim and aim.kind:
        if os.read(AIMED[0], 1):  # nothing comes where it died in place, or ended without getting there
            time.sleep(aim.delay or 0.0)
            os.kill(pid, signal.SIGKILL)
    elif aim:
        time.sleep(aim.seconds)
        os.kill(pid, signal.SIGKILL)  # one that has ended is a zombie until we wait
    os.close(AIMED[0])
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def unlike(run: Run, undisturbed: Run) -> list[str]:
    """In which ways a run that was killed and done again differs from one that was not, or left something behind."""
    from adslm_helpers.copies import differing_files

    wrong = []
    if (off := difference(run.training / "adapter", undisturbed.training / "adapter")) > TOLERANCE:
        wrong.append(f"adapter differs by {off:.1e}")
    ours, theirs = (losses(one) for one in (run, undisturbed))
    if ours.keys() != theirs.keys() or any(abs(ours[key] - theirs[key]) > TOLERANCE for key in theirs):
        wrong.append("another history")
    # Killed between giving the export its name and noting that, the step stays unfinished; what is exported is looked at below.
    if left := {step: run.status(step) for step in ("dataset", "training") if run.status(step) != "done"}:
        wrong.append(f"not done: {left}")
    ours, theirs = (names(one.export / "out") for one in (run, undisturbed))
    if ours != theirs or differing_files(run.export / "out", read_json(run.export / "out" / "manifest.json")["files"]):
        wrong.append("another export")
    for part in ("adapter", "merged"):
        if (off := difference(run.export / "out" / part, undisturbed.export / "out" / part)) > TOLERANCE:
            wrong.append(f"exported {part} differs by {off:.1e}")
    left = [path for path in run.path.rglob(".*") if path.name != ".lock" and path.parent.name != ".lock"]
    if left := [*left, *run.path.rglob("altered-*")]:
        wrong.append(f"left behind: {', '.join(map(str, left))}")
    return wrong


def losses(run: Run) -> dict[tuple, float]:
    """Every number of the history that a resumed run must have too, by step and name; a step that is there twice shows as a third name."""
    found: dict[tuple, float] = {}
    for row in read_jsonl(run.training / "history.jsonl"):
        for name in ("loss", "eval_loss", "rewards/margins", "eval_rewards/margins"):
            if name in row:
                found[(row["step"], name + "!" * ((row["step"], name) in found))] = row[name]
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def difference(ours: Path, theirs: Path) -> float:
    """The largest difference between the weights of two folders; infinite where they are not of the same names and shapes."""
    import numpy
    from safetensors.numpy import load_file

    weights, theirs = (load_file(next(folder.glob("*.safetensors"))) for folder in (ours, theirs))
    if {name: array.shape for name, array in weights.items()} != {name: array.shape for name, array in theirs.items()}:
        return float("inf")
    return max(float(numpy.abs(weights[name] - theirs[name]).max()) for name in theirs)


def make_base(folder: Path) -> None:
    """In a child, for it computes: a small random model and a dataset."""
    from adslm_helpers.dataset.build import build_dataset
    from adslm_helpers.dataset.samples import sample_pairs
    from adslm_helpers.models.tiny import build_model, build_tokenizer
    from adslm_helpers.recipe import recipe_from_dict

    rows = sample_pairs(60, seed=5)
    tokenizer = build_tokenizer((row[key] for row in rows for key in ("prompt", "chosen", "rejected")), vocabulary=400)
    build_model(tokenizer, seed=1, **SMALL).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    build_dataset(Run("base", folder), "sample:50", recipe_from_dict({**RECIPE, "models": [str(folder / "model")]}))


def import_all() -> None:
    """Everything that a run imports, lazy modules included; nothing is computed, for that starts threads.

    A thread does not live through a fork, and what it held stays locked: libraries are told to start none, before they are imported.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", ADSLM_HEADLESS="1")
    hide_kernel_notice()
    for name in HEAVY:
        importlib.import_module(name)
    from peft import LoraConfig, get_peft_model  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401
    from trl import DPOConfig, DPOTrainer  # noqa: F401


def threads() -> list[str]:
    """The names of this process's other threads, where the system tells; Arrow's allocator has one that is made for forks."""
    tasks = list(Path("/proc/self/task").glob("*/comm"))
    return sorted(path.read_text(encoding="utf-8").strip() for path in tasks if path.parent.name != str(os.getpid()) and "jemalloc" not in path.read_text())  # fmt: skip


def must(stage: Stage, task: Callable[[], Any]) -> None:
    if child(stage, task):
        raise SystemExit((stage.folder / "child.log").read_text(encoding="utf-8", errors="replace"))


def tell(lines: list[str], say: Callable[[str], None], line: str) -> None:
    lines.append(line)
    say(line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--thin", action="store_true", help="each file operation fails in one way instead of all (8 minutes less)"
    )
    parser.add_argument("--no-fork-check", action="store_true", help="skip the run in a fresh interpreter (10 s)")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "RUN"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        folder = Path(arguments.one[0])
        import_all()
        work(Run(arguments.one[1], folder), Stage(folder))
        return 0
    say = lambda line: print(line, flush=True)  # noqa: E731
    good = True
    for part in PARTS if arguments.only is None else (arguments.only,):
        survived, total = run_part(part, arguments, say)
        say(f"{PARTS[part]}: {survived}/{total}")
        good &= survived == total > 0
    return 0 if good else 1


def run_part(part: str, arguments: argparse.Namespace, say: Callable[[str], None]) -> tuple[int, int]:
    """(survived, total). The kills come first: they fork this process, which must not have computed anything by then."""
    if part == "kills":
        with tempfile.TemporaryDirectory(prefix="adslm-chaos-") as folder:
            return kills(Path(folder), arguments.kills, arguments.seed, say, not arguments.no_fork_check)[:2]
    if part == "files":
        from scripts.file_faults import fast_folder, walk_all

        with fast_folder() as folder:
            survived, total, lines = walk_all(Path(folder), thin=arguments.thin)
        say("\n".join(lines[:-1]))
        return survived, total
    os.environ.update(HF_HUB_OFFLINE="1", ADSLM_HEADLESS="1")
    hide_kernel_notice()
    from scripts.recovery_faults import walk_rungs

    with tempfile.TemporaryDirectory(prefix="adslm-chaos-") as folder:
        make_base(Path(folder))
        return walk_rungs(Path(folder), say)


if __name__ == "__main__":
    sys.exit(main())
