"""`train`: one recipe on one run's dataset, resumed where it stopped, with everything it did written into the run folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..dataset.build import load_split
from ..environment.device import check_preset_fits
from ..environment.machine import probe_machine
from ..errors import RunError
from ..models.plan import RunPlan, plan_run
from ..recipe import DpoRecipe
from ..run import Run, read_json, write_json
from ..run_lock import run_lock
from .attempts import train_until_done
from .checkpoints import clear_up, save_adapter
from .few_steps import few_steps
from .interrupt import told_how_to_go_on
from .joining import joined
from .label_noise import with_label_noise
from .mirror import mirror_callback, mirroring
from .ranks import Ranks, batch_lines, first_decides, launcher_lines, refuse_device, refuse_elsewhere_than_first
from .recoveries import read_recoveries
from .restore import restore_run
from .resume import bring_back, note_start, refuse_another, same_training, set_aside, training_fingerprint
from .settings import total_steps
from .storage import storage_told

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a training left behind. `final` holds the held-out metrics of what it ends with, by TRL's names."""

    run: str
    model: str
    adapter: str
    steps: int
    seconds: float
    resumed_from: int
    final: dict[str, float]
    pairs: dict[str, int]
    dropped: dict[str, dict[str, int]]
    fingerprint: str
    choice: list[str] = field(default_factory=list)
    """How the model was chosen, in words; a fallback is said first."""
    done_by_us: list[str] = field(default_factory=list)
    """What the installed TRL lacks and was done another way, in words."""
    kept: list[str] = field(default_factory=list)
    """What was found of earlier attempts and what became of it, in words."""
    preflight: dict[str, Any] = field(default_factory=dict)
    """The precision that was trained in, and why the ones before it were rejected."""
    recoveries: list[dict[str, Any]] = field(default_factory=list)
    """How often the training went on by itself after something went wrong, and how: rows of recoveries.jsonl."""
    ending: int = 0
    """The step whose adapter the run ends with; 0: the untouched start, for no later one was healthy (or nobody looked at the texts)."""
    ending_words: str = ""
    reused: bool = False
    processes: int = 1
    """How many processes computed it; each took its share of the batch."""

    def lines(self) -> list[str]:
        """The result in a few bilingual lines."""
        told = [*self.choice, *self.kept, f"ステップ / steps: {self.steps}   秒 / seconds: {self.seconds:.0f}"]
        if self.reused:
            told.append(
                "同じレシピ・同じデータの学習が済んでいるので、その結果を使います。/ Already trained with this recipe and data: reused."
            )
        if self.resumed_from:
            told.append(f"ステップ {self.resumed_from} から再開しました。/ Resumed from step {self.resumed_from}.")
        told += [f"自動の復旧 / recovered at step {row['step']}: {row['ja']} / {row['en']}" for row in self.recoveries]
        told += [self.ending_words] * bool(self.ending_words and self.ending != self.steps)
        names = {"eval_loss": "検証損失 / eval loss", "eval_rewards/accuracies": "報酬の正解率 / reward accuracy"}
        told += [f"{label}: {self.final[key]:.3f}" for key, label in names.items() if key in self.final]
        return [*told, *self.done_by_us, f"アダプター / adapter: {self.adapter}"]


def train(
    run: Run,
    recipe: DpoRecipe,
    callbacks: Sequence[Any] = (),
    *,
    fresh: bool = False,
    resume: bool = False,
    say: Callable[[str], None] | None = None,
) -> RunResult:
    """Trains the run's adapter and returns the result; the same recipe on the same data is not trained twice.

    The recipe is trained as `plan_run` makes it fit (same effective batch). An interrupted or killed training with the same recipe and
    data goes on from its last valid checkpoint; any other earlier training of the run is kept beside it under training-1, training-2,
    ..., and an unfinished one is taken up again when its recipe is asked for again. After a number that is not finite, or out of memory, it goes on by itself (`attempts`). Where there is a mirror (ADSLM_MIRROR, a
    mounted Drive on Colab) a run that is further on there is brought back first, and this one is copied there meanwhile.
    Started by torchrun once for each of several processes (`ranks`), the first process decides, writes and speaks; the arguments of the
    others are of no account. `fresh`: train again all the same. `resume`: refuse to start anything but what is there. `callbacks`: `transformers.TrainerCallback`s;
    one with an `on_notice` hears the guards. `say`: told about the mirror; else the log is.
    Raises RunError (no dataset, another process at work), RecipeError (preset does not fit the machine), ModelError, TrainingError (also
    when the disk is full), Interrupted.
    """
    with (
        joined(run.training) as ranks,
        run_lock(run.path) if ranks.first else nullcontext(),
        storage_told(run.training, clear=ranks.first),
        told_how_to_go_on(run.training),
    ):
        if not fresh and ranks.first:
            restore_run(run, say=say)
        with mirroring(run, say=say) as mirror:
            return _locked(run, recipe, [*callbacks, mirror_callback(mirror)], fresh, resume, ranks)


@dataclass(frozen=True)
class _Start:
    """What the first process decided before anything is loaded, for all of them."""

    told: DpoRecipe
    plan: RunPlan
    fingerprint: str
    words: list[str]
    spread: list[str]
    """What several processes do with the batch."""
    kept: list[str]
    resumable: bool
    done: RunResult | None = None


def _locked(run: Run, recipe: DpoRecipe, callbacks: Sequence[Any], fresh: bool, resume: bool, ranks: Ranks) -> RunResult:
    start = first_decides(lambda: _decided(run, recipe, fresh, resume, ranks))
    if start.done:
        return start.done
    if not ranks.first:
        refuse_elsewhere_than_first(run)
        return _train(run, start, callbacks, ranks)
    for line in [*start.kept, *start.spread]:
        _log.warning(line)
    with run.step("training", fingerprint=start.fingerprint) as notes, storage_told(run.training):
        note_start(run, recipe, start.fingerprint)
        write_json(run.training / "recipe.json", start.plan.recipe.to_dict())
        run.update(recipe=recipe.to_dict(), plan=start.plan.to_dict())
        result = _train(run, start, callbacks, ranks)
        changed = [f"変更 / changed: {name} {asked} -> {planned}" for name, (asked, planned) in start.plan.changes.items()]
        result = replace(result, choice=[*result.choice, *changed, *start.words, *start.spread], kept=start.kept)
        notes["model"] = result.model
        write_json(run.training / "result.json", asdict(result))
        notes |= {"final": result.final, "preflight": result.preflight}
    return result


def _decided(run: Run, recipe: DpoRecipe, fresh: bool, resume: bool, ranks: Ranks) -> _Start:
    """What to train and from where; nothing of the run was changed when it raises."""
    run.require("dataset")
    probe = probe_machine()
    check_preset_fits(recipe, probe)
    fingerprint = refuse_another(run, recipe) if resume else training_fingerprint(run, recipe)
    told, words = with_label_noise(recipe, load_split(run, "train") if recipe.use_p_win else [])
    plan = plan_run(told, probe)
    refuse_device(plan.device.device, ranks)
    spread = [*launcher_lines(), *batch_lines(plan.recipe, ranks.count), *few_steps(plan.recipe, len(load_split(run, "train")))]
    kept = bring_back(run, fingerprint) if not fresh else []
    if not fresh and (done := _finished(run, fingerprint)):
        return _Start(told, plan, fingerprint, words, spread, kept, True, replace(done, kept=kept))
    resumable = not fresh and same_training(run, fingerprint)
    kept += clear_up(run.training) if resumable else set_aside(run.training)
    return _Start(told, plan, fingerprint, words, spread, kept, resumable)


def _train(run: Run, start: _Start, callbacks: Sequence[Any], ranks: Ranks) -> RunResult:
    outcome = train_until_done(run, start.told, start.plan.recipe, callbacks, start.resumable)
    trainer, loaded = outcome.trainer, outcome.loaded
    save_adapter(trainer, loaded.tokenizer, run.training / "adapter")
    return RunResult(
        run=run.name,
        model=loaded.name,
        adapter=str(run.training / "adapter"),
        steps=trainer.state.global_step,
        seconds=round(outcome.seconds, 2),
        resumed_from=outcome.resumed_from,
        final=outcome.final,
        pairs={side: len(encoded.pairs) for side, encoded in outcome.sides.items()},
        dropped={side: dict(encoded.dropped) for side, encoded in outcome.sides.items()},
        fingerprint=start.fingerprint,
        choice=loaded.lines(),
        done_by_us=outcome.done_by_us,
        preflight=outcome.report.summary(),
        recoveries=read_recoveries(run),
        ending=outcome.ending.step,
        ending_words=outcome.ending.line(),
        processes=ranks.count,
    )


def expected_steps(run: Run, recipe: DpoRecipe) -> int:
    """Optimizer steps that `train` will take, for a progress bar (pairs dropped for length are not known yet)."""
    return total_steps(recipe, len(load_split(run, "train")))


def _finished(run: Run, fingerprint: str) -> RunResult | None:
    """The result of a finished training with this fingerprint, else None."""
    if not same_training(run, fingerprint) or not (run.training / "result.json").is_file():
        return None
    try:
        result = RunResult(**{**read_json(run.training / "result.json"), "reused": True})
    except (TypeError, RunError) as error:  # somebody changed it: the last checkpoint gives it again
        _log.warning("%s: %s", run.training / "result.json", error)
        return None
    entry = run.manifest()["steps"].get("training", {})
    if (entry.get("status"), entry.get("fingerprint")) == ("done", fingerprint):
        return result  # nothing changed: what came after it is not stale
    # The step may be marked stale because the dataset was built again; the fingerprint says that it came out the same.
    with run.step("training", fingerprint=fingerprint) as notes:
        notes |= {"model": result.model, "final": result.final, "reused": True}
    return result
