"""Stops a training at the first number that is not finite, before any weight is harmed: the batch is kept, the cause is named."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..environment.device import DevicePlan
from ..errors import TrainingError
from ..run import write_json
from .diagnosis import Diagnosis, diagnose
from .history import Alarm
from .prompts import EncodedPair, score_rows
from .ranks import this_rank
from .trl_rows import scored_rows

FOLDER = "not_finite"
# Under float16 AMP the loss is scaled up, and the first steps overflow until the scale has come down: it halves with each.
_SKIPS_IN_A_ROW = 12
_PHASES = {"training": ("学習", "training"), "evaluation": ("評価", "evaluation")}


class NotFiniteError(TrainingError):
    """A loss, reward, gradient or logit is not finite; no weight was touched. Holds what recovery needs to know."""

    def __init__(self, step: int, phase: str, what: dict[str, str], diagnosis: Diagnosis, saved: Path):
        names = ", ".join(f"{name} = {value}" for name, value in list(what.items())[:2]) + (" ..." if len(what) > 2 else "")
        super().__init__(
            f"ステップ {step} の{_PHASES[phase][0]}で数が有限ではなくなりました（{names}）。原因: {diagnosis.ja}。"
            f"重みはまだ壊れていません。そのバッチは {saved} にあります。→ {_cure(diagnosis)[0]}",
            f"At step {step}, in {_PHASES[phase][1]}, a number is not finite ({names}). Cause: {diagnosis.en}. "
            f"No weight is harmed yet. The batch is in {saved}. -> {_cure(diagnosis)[1]}",
        )
        self.step, self.phase, self.what, self.diagnosis, self.saved = step, phase, what, diagnosis, saved

    def alarm(self) -> Alarm:
        """The stop as a line of the alarms file."""
        measured = {"phase": self.phase, **self.what, "cause": self.diagnosis.cause, "batch": self.saved.name}
        return Alarm(self.step, "not_finite", "stop", self.ja, self.en, measured)


def _cure(diagnosis: Diagnosis) -> tuple[str, str]:
    if diagnosis.cause == "data":
        return (
            "そのファイルの対をデータから除くか、別のモデルにしてください。",
            "Take the pairs named in that file out of the data, or choose another model.",
        )
    if diagnosis.cause == "precision":
        return "dtype を 'float32' にしてください。", "Set dtype to 'float32'."
    return "learning_rate を半分にしてください。", "Halve learning_rate."


class NumberGuard:
    """Watches one trainer: every loss and metric of training and evaluation as it is computed, and the gradients of each step.

    Non-finite logits at a scored token make the loss non-finite, so they need no look of their own.
    """

    def __init__(
        self, trainer: Any, plan: DevicePlan, sides: dict[str, Sequence[EncodedPair]], training: Path, pad_token_id: int
    ):
        self.trainer, self.plan, self.training, self.pad_token_id = trainer, plan, training, pad_token_id
        self.known = {
            _key(*score_rows([pair])): (f"{side} {row}", pair)
            for side, pairs in sides.items()
            for row, pair in enumerate(pairs, 1)
        }
        self.batches: list[dict] = []
        self.phase = "training"
        self.skipped = 0
        self.original = trainer.compute_loss
        predict = trainer.prediction_step

        @functools.wraps(self.original)
        def compute_loss(model: Any, inputs: dict, *arguments: Any, **options: Any) -> Any:
            outcome = self.original(model, inputs, *arguments, **options)
            self.look(inputs, outcome[0] if isinstance(outcome, tuple) else outcome)
            return outcome

        @functools.wraps(predict)
        def prediction_step(model: Any, inputs: dict, *arguments: Any, **options: Any) -> Any:
            self.phase, self.batches = "evaluation", []
            outcome = predict(model, inputs, *arguments, **options)
            self.look(inputs, outcome[0])
            return outcome

        trainer.compute_loss, trainer.prediction_step = compute_loss, prediction_step

    def begin_step(self) -> None:
        """A new optimizer step: the batches of the last one are let go."""
        self.phase, self.batches = "training", []

    def look(self, inputs: dict, loss: Any) -> None:
        """Raises NotFiniteError when a loss, or a metric that was just noted, is not finite."""
        self.batches = [*self.batches, inputs] if self.phase == "training" else [inputs]
        what = {} if loss is None else {"loss": float(loss.detach().float().mean())}
        what |= _latest_metrics(self.trainer, "train" if self.phase == "training" else "eval")
        # The mean of all logits may be -inf by a model's own design, where it closes parts of its vocabulary.
        wrong = {name: value for name, value in what.items() if math.isnan(value) or (math.isinf(value) and "logits" not in name)}
        if wrong:
            self.stop(wrong)

    def look_at_gradients(self, model: Any) -> None:
        """Raises NotFiniteError before a step that would spoil every weight: one NaN is enough for that."""
        import torch

        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).item() if gradients else 0.0
        if math.isfinite(norm):
            self.skipped = 0
        elif _scaler_skips(self.trainer) and self.skipped < _SKIPS_IN_A_ROW:
            self.skipped += 1  # the scaler leaves this step out by itself and comes down
        else:
            self.stop({"grad_norm": norm})

    def stop(self, what: dict[str, float]) -> None:
        """Drops the gradients, finds the cause, keeps the batch, raises."""
        model = self.trainer.model
        _drop_gradients(model)
        pairs = [self._pair(*key) for inputs in self.batches for key in _keys(inputs)]
        diagnosis = diagnose(model, self.plan, [pair for _, pair in pairs], self.pad_token_id, self._finite_again)
        _drop_gradients(model)
        step = self.trainer.state.global_step + (self.phase == "training")
        told = {name: str(value) for name, value in what.items()}
        saved = self.training / FOLDER / f"step-{step:06d}-{self.phase}.json"
        rows = [_row(place, pair, i in diagnosis.broken_pairs) for i, (place, pair) in enumerate(pairs)]
        facts = {"cause": diagnosis.cause, "ja": diagnosis.ja, "en": diagnosis.en}
        largest = diagnosis.largest_weight if math.isfinite(diagnosis.largest_weight) else None
        write_json(saved, {"step": step, "phase": self.phase, "what": told, **facts, "largest_weight": largest, "pairs": rows})
        raise NotFiniteError(step, self.phase, told, diagnosis, saved)

    def _finite_again(self) -> bool:
        """The batches once more, with gradients where it was a training step; not where other processes would have to take part."""
        import torch

        if this_rank().count > 1:
            return False

        model = self.trainer.model
        with torch.enable_grad() if self.phase == "training" else torch.no_grad():
            for inputs in self.batches:
                inputs = self.trainer._prepare_inputs(inputs)
                with self.trainer.compute_loss_context_manager():
                    loss = self.original(model, inputs)
                if not math.isfinite(float(loss.detach().float().mean())):
                    return False
                if self.phase == "training":
                    loss.mean().backward()
        return all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)

    def _pair(self, chosen: tuple, rejected: tuple) -> tuple[str | None, EncodedPair]:
        """The pair of two sequences and its place ("train 12"); one without texts where it is not known."""
        if (chosen, rejected) in self.known:
            return self.known[chosen, rejected]
        (ids, mask), (other, other_mask) = chosen, rejected
        start, other_start = len(mask) - sum(mask), len(other_mask) - sum(other_mask)
        return None, EncodedPair(list(ids[:start]), list(ids[start:]), list(other[other_start:]), "", "", "", 0)


def _latest_metrics(trainer: Any, mode: str) -> dict[str, float]:
    """What was noted last of rewards, log-probabilities, logits and parts of the loss; TRL's store has had two names."""
    if averages := getattr(trainer, "averages", None):  # our own trainer
        return averages[mode].latest
    store = getattr(trainer, "_metrics", None) or getattr(trainer, "_stored_metrics", None) or {}
    values = {name: seen[-1] for name, seen in (store.get(mode) or {}).items() if isinstance(seen, list) and seen}
    return {name: float(value) for name, value in values.items() if name.startswith(("rewards/", "logps/", "logits/"))}


def _scaler_skips(trainer: Any) -> bool:
    scaler = getattr(trainer.accelerator, "scaler", None)
    return scaler is not None and scaler.is_enabled()


def _drop_gradients(model: Any) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def _key(chosen: tuple, rejected: tuple) -> tuple:
    """Two sequences of (ids, mask) as a key of a dict."""
    return tuple((tuple(ids), tuple(mask)) for ids, mask in (chosen, rejected))


def _keys(inputs: dict) -> list[tuple]:
    """The pairs of a batch as keys; none where its layout is not known."""
    rows = scored_rows(inputs) or []
    half = len(rows) // 2
    return [_key(chosen, rejected) for chosen, rejected in zip(rows[:half], rows[half:], strict=True)]


def _row(place: str | None, pair: EncodedPair, broken: bool) -> dict:
    return {
        "pair": place,
        "finite_by_itself": not broken,
        "prompt": pair.prompt_text,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "prompt_ids": pair.prompt_ids,
        "chosen_ids": pair.chosen_ids,
        "rejected_ids": pair.rejected_ids,
    }
