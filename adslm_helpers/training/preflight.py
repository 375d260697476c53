"""The look before a training: one real batch through the trainer's own model, and the first precision that passes every check."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..environment.device import DevicePlan, choose_device
from ..environment.machine import probe_machine
from ..errors import ModelError, RecipeError, TrainingError
from ..models.loading import LoadedModel, load_model
from ..recipe import DpoRecipe
from ..run import Run, read_json
from .checks import Check, run_checks
from .prompts import EncodedPair
from .ranks import any_rank
from .remedies import out_of_memory

# Tokens are the same in every precision: loading the model again would only cost time.
_OF_ANY_PRECISION = ("one_eos",)


@dataclass(frozen=True)
class Rejected:
    """A precision that was not used, and the checks (or the lack of memory) that ruled it out."""

    dtype: str
    ja: str
    en: str


@dataclass(frozen=True)
class PreflightReport:
    """The checks of the precision that was chosen, and why the ones before it were not."""

    dtype: str
    checks: tuple[Check, ...]
    rejected: tuple[Rejected, ...]
    seconds: float
    """Of looking, without the loading of models."""

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    def lines(self) -> list[str]:
        """The checks in a few bilingual lines; a rejected precision is said first and loudly."""
        told = [
            f"【注意】{one.dtype} は使わず、{self.dtype} で学習します。{one.ja} / NOTE: {one.dtype} was rejected: {one.en}"
            for one in self.rejected
        ]
        passed = sum(check.ok for check in self.checks)
        told.append(
            f"学習前の確認 / pre-flight ({self.dtype}): {passed}/{len(self.checks)} OK、{self.seconds:.1f} 秒 / {self.seconds:.1f} s"
        )
        return told + [check.line() for check in self.checks]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"ok": self.ok, **asdict(self)}

    def summary(self) -> dict[str, Any]:
        """For the manifest: precision, seconds, names of the checks, rejected precisions with the reason."""
        rejected = [{"dtype": one.dtype, "reason": one.en} for one in self.rejected]
        return {
            "dtype": self.dtype,
            "seconds": self.seconds,
            "checks": [check.name for check in self.checks],
            "rejected": rejected,
        }


def read_preflight(run: Run) -> PreflightReport:
    """The report of the run's last training; raises RunError where there is none."""
    values = read_json(run.training / "preflight.json")
    checks, rejected = (tuple(kind(**one) for one in values[key]) for key, kind in (("checks", Check), ("rejected", Rejected)))
    return PreflightReport(values["dtype"], checks, rejected, values["seconds"])


def describe_precision(plan: DevicePlan) -> str:
    """'float32', 'bfloat16', 'float32 + float16 AMP', ...: dtype of the weights and, where another one computes, its AMP mode."""
    amp = "bfloat16" if plan.bf16 else "float16" if plan.fp16 else None
    return f"{plan.dtype} + {amp} AMP" if amp else plan.dtype


def precisions(recipe: DpoRecipe, plan: DevicePlan) -> list[DevicePlan]:
    """The plan, and what is tried when it fails: float32 all through; on an Apple GPU that has it, bfloat16 where float32 was first.

    On CUDA that is bfloat16 AMP -> float32, on T4 and V100 float16 AMP -> float32.
    """
    ja, en = "はじめの精度が学習前の確認に通らなかったためです。", "The first choice did not pass the pre-flight."
    plain = replace(plan, dtype="float32", bf16=False, fp16=False, reason_ja=ja, reason_en=en)
    if describe_precision(plan) != "float32":
        return [plan, plain]
    if plan.device != "mps":
        return [plan]
    try:
        choose_device(replace(recipe, device="mps", dtype="bfloat16"), probe_machine())
    except RecipeError:  # macOS or torch is too old for bfloat16 there
        return [plan]
    return [plan, replace(plain, dtype="bfloat16")]


def checked_trainer(
    recipe: DpoRecipe, loaded: LoadedModel, build: Callable[[LoadedModel], Any], pairs: Sequence[EncodedPair]
) -> tuple[Any, LoadedModel, PreflightReport]:
    """A trainer that passed the pre-flight, its model, and the report; a precision that fails is replaced by the next.

    `build` makes the trainer of a loaded model for `pairs`. The state of the random numbers, the weights and the model's mode are afterwards what
    `build` left. Raises TrainingError with the table of all failed checks when no precision passes.
    """
    seconds, rejected = 0.0, []
    for plan in precisions(recipe, loaded.plan):
        if plan is not loaded.plan:
            try:
                loaded = _load_again(recipe, loaded, plan)
            except ModelError as error:
                rejected.append(Rejected(describe_precision(plan), error.ja, error.en))
                continue
        trainer, checks, took = _looked_at(build, loaded, plan, pairs)
        seconds += took
        failed = [check for check in checks if not check.ok]
        if any_rank(bool(failed)) and not failed:  # all processes train in one precision
            failed = [
                Check(
                    "other_process", False, 1.0, 0.0, "別のプロセスの確認が通りませんでした", "the look of another process failed"
                )
            ]
        if not failed:
            report = PreflightReport(describe_precision(plan), tuple(checks), tuple(rejected), round(seconds, 2))
            loaded.notes += [line for line in report.lines()[: len(rejected)]]
            return trainer, loaded, report
        rejected.append(_rejected(plan, failed))
        if any(check.name in _OF_ANY_PRECISION for check in failed):
            break
        del trainer
    raise _nothing_left(rejected)


def _looked_at(
    build: Callable[[LoadedModel], Any], loaded: LoadedModel, plan: DevicePlan, pairs: Sequence[EncodedPair]
) -> tuple[Any, list[Check], float]:
    """The trainer, its checks and their seconds; where torch gives up (no kernel for this dtype), one check that failed and says so."""
    trainer, started = None, time.monotonic()
    try:
        trainer = build(loaded)  # the engine already computes here
        started = time.monotonic()
        checks = run_checks(trainer, loaded.tokenizer, plan, pairs)
    except RuntimeError as error:
        if out_of_memory(error):
            raise  # another precision is no cure that the user asked for; a smaller batch is
        text = " ".join(str(error).split())[:160]
        checks = [Check("runs", False, 1.0, 0.0, f"計算が途中で止まりました（{text}）", f"the computation stopped: {text}")]
    return trainer, checks, time.monotonic() - started


def _load_again(recipe: DpoRecipe, loaded: LoadedModel, plan: DevicePlan) -> LoadedModel:
    """The same model in another precision; the first one is let go before, for both may not fit."""
    loaded.model = None
    gc.collect()
    again = load_model(replace(recipe, models=(loaded.name,), fallback=False), plan)
    again.skipped = loaded.skipped
    return again


def _rejected(plan: DevicePlan, failed: list[Check]) -> Rejected:
    ja = "、".join(f"{check.name}: {check.ja}（{check.number()}、上限 {check.limit:g}）" for check in failed)
    en = "; ".join(f"{check.name}: {check.en} ({check.number()}, limit {check.limit:g})" for check in failed)
    return Rejected(describe_precision(plan), ja, en)


def _nothing_left(rejected: list[Rejected]) -> TrainingError:
    ja = "\n".join(f"  - {one.dtype}: {one.ja}" for one in rejected)
    en = "\n".join(f"  - {one.dtype}: {one.en}" for one in rejected)
    return TrainingError(
        f"学習前の確認に通る精度がありません。学習は始めていません。\n{ja}\n"
        "→ 別のモデルにするか、device を 'cpu' にしてください。one_eos のときはデータと TRL の版を確かめてください（ノートブック 00）。",
        f"No precision passes the pre-flight; training was not started.\n{en}\n"
        "-> Choose another model, or set device to 'cpu'. For one_eos look at the data and at TRL's version (notebook 00).",
    )
