"""Looks at the text while a model trains: at every evaluation a few held-out prompts are answered, judged, and the adapter is kept.

Reward accuracy and loss are as good in runs that ruin the text as in runs that better it (docs/results/health.md); only the text tells.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.generation import generate_texts
from ..recipe import DpoRecipe
from ..run import now, write_jsonl
from .divergence import mean_kl
from .drift import kl_alarm
from .history import Alarm, append_row, read_history, write_alarm
from .prompts import EncodedPair, encode_pair
from .ranks import any_rank
from .signs import Answers, Asked, Sign, find_signs, read_answers, standard_of
from .snapshots import HEALTH, drop_snapshots_after, evaluations, prune_snapshots, take_snapshot

if TYPE_CHECKING:
    from transformers import TrainerCallback

# A further alarm of the same kind is worth a line only when the damage grew by half.
_MUCH_WORSE = 1.5
_LEAST_TOKENS = 24
_KL_PAIRS = 16
_BATCH = 16


def health_watch(
    training: Path, recipe: DpoRecipe, tokenizer: Any, eval_rows: Sequence[dict], say: Callable[[str], None]
) -> TrainerCallback:
    """A callback that watches the text of one training: rows in health.jsonl, alarms, snapshots, and a stop where the text is ruined.

    `eval_rows`: the held-out pairs as the dataset step wrote them. `say`: gets each alarm as one bilingual line. The training itself is
    the same to the bit with and without it. What the watch cannot do (no memory, a full disk) is said and does not end the training.
    """
    from transformers import TrainerCallback

    watch = HealthWatch(training, recipe, tokenizer, eval_rows, say)

    class HealthCallback(TrainerCallback):
        """Hands the evaluations of the first process to the watch; a stop is for all processes."""

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                watch.begin(model, state.global_step)

        def on_evaluate(
            self, args: Any, state: Any, control: Any, metrics: dict | None = None, model: Any = None, **kwargs: Any
        ) -> None:
            stop = state.is_world_process_zero and watch.evaluated(model, state.global_step, metrics or {})
            if any_rank(stop):
                control.should_training_stop = True

    callback = HealthCallback()
    callback.watch = watch
    return callback


def watched_prompts(tokenizer: Any, rows: Sequence[dict], recipe: DpoRecipe) -> list[tuple[Asked, EncodedPair]]:
    """At most `recipe.watch_prompts` prompts at equal distances in file order, each with its first pair, those left out that were cut.

    Where there are fewer prompts than asked for and texts are sampled, they come again: another answer is another witness.
    """
    distinct: dict[str, tuple[Asked, EncodedPair]] = {}
    for row in rows:
        if str(row["prompt"]) not in distinct:
            pair = encode_pair(tokenizer, row, recipe.max_length, recipe.max_prompt_length)
            if isinstance(pair, EncodedPair) and not pair.cut_tokens:
                distinct[str(row["prompt"])] = (Asked(row["prompt"], row["chosen"]), pair)
    found, wanted = list(distinct.values()), recipe.watch_prompts
    if len(found) >= wanted:
        return [found[i * len(found) // wanted] for i in range(wanted)]
    return [found[i % len(found)] for i in range(wanted)] if recipe.temperature > 0 and found else found


class HealthWatch:
    """What `health_watch` does, without the trainer: `begin`, then `evaluated` after each evaluation."""

    def __init__(self, training: Path, recipe: DpoRecipe, tokenizer: Any, eval_rows: Sequence[dict], say: Callable[[str], None]):
        self.training, self.recipe, self.tokenizer, self.say = training, recipe, tokenizer, say
        watched = watched_prompts(tokenizer, eval_rows, recipe)
        self.asked = [asked for asked, _ in watched]
        self.pairs = list({asked.text: pair for asked, pair in watched}.values())[:_KL_PAIRS]
        longest = max((len(pair.chosen_ids) for pair in self.pairs), default=0)
        self.max_new_tokens = min(recipe.max_new_tokens, max(_LEAST_TOKENS, 2 * longest))
        self.standard = standard_of(eval_rows)
        if self.max_new_tokens < longest:  # even the chosen text would not end
            self.standard = replace(self.standard, taught=(*self.standard.taught, "unstopped"))
        self.base: Answers | None = None
        self.alarmed: dict[str, float] = {}
        self.failed: set[str] = set()

    @property
    def path(self) -> Path:
        return self.training / HEALTH

    def begin(self, model: Any, step: int) -> None:
        """Training starts at `step`: later rows and snapshots are dropped (they are done again); the base answers unless it has."""
        rows = read_history(self.path)
        known = next((row for row in rows if row["step"] == 0 and row["key"] == self._key(model)), None)
        kept = [row for row in rows if 0 < row["step"] <= step]
        drop_snapshots_after(self.training, step)
        self.base, self.alarmed = None, {}
        start = known or self._try("base", self._ask_base, model)
        write_jsonl(self.path, [*([start] if start else []), *kept])
        if start and start["answers"]:
            self.base = self._read(
                [answer["text"] for answer in start["answers"]], [answer["stopped"] for answer in start["answers"]]
            )
        for alarm in self._alarms_at_start(step) if known is None else []:
            self._raise(alarm)

    def evaluated(self, model: Any, step: int, metrics: dict[str, Any]) -> bool:
        """An evaluation is done: answers, judgement, alarms, snapshot, row. True when the training should stop."""
        rows = evaluations(self.training)
        if any(row["step"] == step for row in rows) or step == 0:
            return False
        started = time.monotonic()
        loss, kl = _finite(metrics.get("eval_loss")), self._try("kl", mean_kl, model, self.pairs) if self.asked else None
        finite = not (("eval_loss" in metrics and loss is None) or (kl is not None and not math.isfinite(kl)))
        # Drawing from probabilities that are not finite ends a CUDA process for good, so nothing is asked then.
        answers = self._try("answers", self._ask, model) if finite and self.asked and self.base else None
        signs = find_signs(self.asked, self.base, answers) if answers else []
        seen = answers is not None or not self.asked
        row = {
            "step": step, "time": now(), "eval_loss": loss, "kl": _finite(kl), "healthy": finite and not signs if seen or not finite else None,
            "reasons": [sign.kind for sign in signs] + ([] if finite else ["not_finite"]), "signs": [sign.to_dict() for sign in signs],
            "score": round(answers.score, 4) if answers else None, "scores": [item.score for item in answers.items] if answers else None,
            "counts": answers.counts() if answers else {}, "answers": [item.to_dict() for item in answers.items] if answers else [],
            "snapshot": self._try("snapshot", take_snapshot, model, self.training, step) if finite else None,
            "seconds": round(time.monotonic() - started, 2),
        }  # fmt: skip
        self._try("row", append_row, self.path, row)
        prune_snapshots(self.training)
        stop = _should_stop([*rows, row])
        broken = [] if finite else [_not_finite(step, loss, kl)]
        for alarm in [*broken, *_alarms(signs, step, stop, self.recipe), *kl_alarm(step, _finite(kl), self.recipe.beta)]:
            self._raise(alarm)
        return stop

    def _ask_base(self, model: Any) -> dict:
        started = time.monotonic()
        with model.disable_adapter():
            answers = self._ask(model) if self.asked else None
        return {
            "step": 0, "time": now(), "key": self._key(model), "prompts": [item.prompt for item in self.asked], "standard": asdict(self.standard),
            "max_new_tokens": self.max_new_tokens, "score": round(answers.score, 4) if answers else None,
            "counts": answers.counts() if answers else {}, "answers": [item.to_dict() for item in answers.items] if answers else [],
            "seconds": round(time.monotonic() - started, 2),
        }  # fmt: skip

    def _ask(self, model: Any) -> Answers:
        """The model's answers; a batch that does not fit into memory is halved."""
        size = _BATCH
        while True:
            try:
                made = generate_texts(
                    model, self.tokenizer, [item.prompt for item in self.asked], seed=self.recipe.seed, temperature=self.recipe.temperature,
                    top_p=self.recipe.top_p, max_new_tokens=self.max_new_tokens, batch_size=size,
                )  # fmt: skip
                return self._read([answer.text for answer in made], [answer.stopped for answer in made])
            except RuntimeError as error:
                if "out of memory" not in str(error).lower() or size == 1:
                    raise
                size //= 2

    def _read(self, texts: list[str], stopped: list[bool]) -> Answers:
        return read_answers(self.asked, texts, stopped, self.standard)

    def _key(self, model: Any) -> str:
        """What the base's answers depend on: another precision is another base."""
        parts = [
            [item.prompt for item in self.asked],
            self.max_new_tokens,
            self.recipe.seed,
            self.recipe.temperature,
            self.recipe.top_p,
        ]
        parts += [str(model.dtype), model.device.type]
        return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:16]

    def _alarms_at_start(self, step: int) -> list[Alarm]:
        """What the reader should know of the watch before it begins."""
        broken = sum(bool(item.broken) for item in self.base.items) if self.base else 0
        if self.base and 2 * broken > len(self.base.items):
            return [
                Alarm(
                    step, "base_broken", "warning",
                    f"学習前のモデルの文が {len(self.base.items)} 件中 {broken} 件壊れており、学習で悪くなったかどうかは分かりにくくなります。→ 別のモデルか、チャット形式を確かめてください。",
                    f"{broken} of {len(self.base.items)} answers of the base itself are broken, so the watch can hardly tell whether training harms it. -> Try another model, or check its chat format.",
                    {"broken": broken, "kinds": self.base.counts()},
                )
            ]  # fmt: skip
        return []

    def _raise(self, alarm: Alarm) -> None:
        """Writes and says an alarm; one of a kind that is known only when it stops the run or got much worse."""
        size = float(alarm.measured.get("count", alarm.measured["kl"] if alarm.kind == "kl" else 1))
        if alarm.severity != "stop" and size < _MUCH_WORSE * self.alarmed.get(alarm.kind, -math.inf):
            return
        self.alarmed[alarm.kind] = size
        self._try("alarm", write_alarm, self.training, alarm)
        self.say(alarm.line())

    def _try(self, part: str, function: Callable, *arguments: Any) -> Any:
        """What `function` gives, or None after saying once that this part of the watch failed: the watch must not end a training."""
        try:
            return function(*arguments)
        except Exception as error:  # a driver, a full disk, a model that cannot generate
            if part not in self.failed:
                self.failed.add(part)
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                self.say(
                    f"【注意】文の見張りの一部（{part}）ができません。学習は続きます（{reason}）。"
                    f" / The watch on the text cannot do its part '{part}'; training goes on ({reason})."
                )
            return None


def _should_stop(rows: list[dict]) -> bool:
    """Most answers are bad, or they were bad at the last evaluation too and did not get better, or three times in a row."""
    now, before = rows[-1], rows[-2] if len(rows) > 1 else None
    if any(sign["severe"] for sign in now["signs"]):
        return True
    if not now["signs"] or before is None or not before["signs"]:
        return False
    return _worst(now) >= _worst(before) or bool(len(rows) > 2 and rows[-3]["signs"])


def _worst(row: dict) -> int:
    return max(sign["count"] - sign["base_count"] for sign in row["signs"])


def _alarms(signs: list[Sign], step: int, stop: bool, recipe: DpoRecipe) -> list[Alarm]:
    """One alarm for all signs of an evaluation, in the words of the worst: a looping text has forgotten its brief too."""
    if not signs:
        return []
    worst = max(signs, key=lambda sign: (sign.severe, sign.count - sign.base_count))
    ja, en = worst.words
    if stop:
        then_ja, then_en = "ここで止め、健全だったところに戻ります", "The run stops here and goes back to where it was healthy"
    else:
        then_ja, then_en = "次の検証でも続けば止めます", "It stops if the next evaluation sees the same"
    if recipe.sft_weight < 1:
        do_ja, do_en = "sft_weight を 1 にし、learning_rate を半分にしてください", "Set sft_weight to 1 and halve learning_rate"
    else:
        do_ja, do_en = "learning_rate を半分にするか、エポックを減らしてください", "Halve learning_rate, or train fewer epochs"
    measured = {**worst.to_dict(), "also": [sign.kind for sign in signs if sign is not worst]}
    severity = "stop" if stop else "warning"
    return [Alarm(step, worst.kind, severity, f"{ja}。{then_ja}。→ {do_ja}。", f"{en}. {then_en}. -> {do_en}.", measured)]


def _not_finite(step: int, loss: float | None, kl: float | None) -> Alarm:
    """Said, not stopped for: what to do with such a run (another precision, a lower rate) is the business of the guard on numbers."""
    return Alarm(
        step, "not_finite", "warning",
        "検証の損失か確率が有限の数ではありません。この時点の重みは使いません。→ dtype を 'float32' にするか、learning_rate を半分にしてください。",
        "The held-out loss or the probabilities are not finite; the weights of this step are not used. -> Set dtype to 'float32', or halve learning_rate.",
        {"eval_loss": "finite" if loss is not None else "not finite", "kl": str(kl)},
    )  # fmt: skip


def _finite(value: Any) -> float | None:
    return round(float(value), 6) if value is not None and math.isfinite(float(value)) else None
