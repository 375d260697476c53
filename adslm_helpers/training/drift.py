"""What the curves of a run say before its texts do: each sign in one sentence with what to change, from the rows of any DPO log.

Rows are dicts by TRL's names, as in history.jsonl or trainer_state.json: `loss`, `grad_norm`, `learning_rate`, `rewards/chosen`, ...,
those of the held-out pairs with `eval_` before them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..recipe import DpoRecipe
from .history import HISTORY, Alarm, read_history, write_alarm
from .prompts import EncodedPair

if TYPE_CHECKING:
    from transformers import TrainerCallback

# Nats a token of the chosen text, against the base. Measured on the embedded model, held-out pairs: healthy runs end within 0.05 of it,
# ruined ones fall by 0.9-1.2. On 200 tokens a reward of -2 at beta 0.1, large for a 7 B model, is a fall of 0.1.
FALL_PER_TOKEN = 0.5
BOTH_FALL_PER_TOKEN = 0.1
# sigmoid(-5) = 0.007: such a pair has no gradient left.
SATURATED_MARGIN = 5.0
_SURE = 0.99
# A margin of 0.005 lowers the loss from ln 2 by 0.0025: no curve shows it.
_STILL = 0.005
_WINDOW = 5
# Held-out losses of one run wander by some per cent; 5 % above the best, twice, is a rise.
_RISE, _LEAST_RISE = 0.05, 0.02
# KL in nats a token on held-out chosen texts. Measured: healthy runs 0.08-0.42, ruined ones 2.9 and more (docs/results/health.md).
KL_LIMIT = 1.0


class Drift:
    """Reads a run's rows one by one; `see` gives the alarms that a row raises, each kind once, or again at twice the size."""

    def __init__(self, beta: float | None = None, tokens: float | None = None):
        """`beta` of the run and the mean number of tokens in a chosen text; None: not known, and what needs them is not asked."""
        self.per_nat = 1 / (beta * tokens) if beta and tokens else None
        self.train: list[dict] = []
        self.held_out: list[dict] = []
        self.raised: dict[str, float] = {}

    def see(self, row: dict) -> list[Alarm]:
        """The alarms of one more row; a row without losses or rewards raises none."""
        row = {key: number for key, value in row.items() if (number := _number(value)) is not None}
        if "eval_loss" in row or "eval_rewards/margins" in row:
            self.held_out.append({key.removeprefix("eval_"): value for key, value in row.items()})
            found = [self._falls(self.held_out[-1:]), self._rises(), self._shortcut(self.held_out[-1:], least=1)]
        elif "loss" in row:
            self.train.append(row)
            recent = self.train[-_WINDOW:]
            full = len(recent) == _WINDOW
            found = [
                self._zero(), self._frozen(recent), self._slow(recent) if full else None, self._falls(recent) if full else None,
                self._saturated(recent) if full else None, self._shortcut(self.train[1:], least=_WINDOW),
            ]  # fmt: skip
        else:
            return []
        return [alarm for alarm in found if alarm is not None and self._is_new(alarm)]

    def _is_new(self, alarm: Alarm) -> bool:
        size = float(alarm.measured.get("size", 1.0))
        if size < 2 * self.raised.get(alarm.kind, -math.inf):
            return False
        self.raised[alarm.kind] = size
        return True

    def _zero(self) -> Alarm | None:
        first = self.train[0]
        if len(self.train) > 1 or first["loss"] != 0.0:
            return None
        return Alarm(
            int(first.get("step", 0)), "zero_loss", "warning",
            "最初の損失がちょうど 0.0 です。最初の計算がすでに NaN で、記録の設定がそれを隠しています（原因は精度か計算の部品で、学習率やデータではありません）。→ dtype を 'float32' にしてください。",
            "The first loss is exactly 0.0: the first forward was NaN already and a log filter hid it (precision or a kernel, never the learning rate or the data). -> Set dtype to 'float32'.",
            {"loss": 0.0},
        )  # fmt: skip

    def _frozen(self, recent: list[dict]) -> Alarm | None:
        moving = [row for row in recent if row.get("learning_rate", 1.0) > 0 and "rewards/chosen" in row][-_WINDOW:]
        still = [row for row in moving if row["rewards/chosen"] == 0 and row.get("rewards/rejected", 0) == 0]
        no_gradient = [row for row in still if row.get("grad_norm") == 0]
        step = int(recent[-1].get("step", 0))
        if len(no_gradient) >= 2:
            return Alarm(
                step, "frozen", "warning",
                "勾配が 0 で、重みがまったく動いていません。アダプターに学習の信号が届いていません。→ lora_target_modules と gradient_checkpointing を見直してください。",
                "The gradients are 0 and no weight moves: nothing reaches the adapter. -> Check lora_target_modules and gradient_checkpointing.",
                {"grad_norm": 0.0},
            )  # fmt: skip
        # The first row is logged before any weight could move.
        if len(still) == _WINDOW == len(moving) and self.train[0] not in still:
            return Alarm(
                step, "frozen", "warning",
                "勾配はあるのに報酬がちょうど 0 のままで、重みが動いていません。16 ビットのアダプターでは小さな変化が丸めで消えます。→ アダプターを float32 にするか、learning_rate を上げてください。",
                "There are gradients, but the rewards stay exactly 0: no weight moves. In a 16-bit adapter small steps are rounded away. -> Train the adapter in float32, or raise learning_rate.",
                {"grad_norm": recent[-1].get("grad_norm")},
            )  # fmt: skip
        return None

    def _slow(self, recent: list[dict]) -> Alarm | None:
        margins = [abs(row["rewards/margins"]) for row in recent if "rewards/margins" in row]
        rates = [row["learning_rate"] for row in self.train if "learning_rate" in row]
        past_peak = bool(rates) and rates[-1] < max(rates)
        if len(margins) < _WINDOW or "frozen" in self.raised or not past_peak or not 0 < max(margins) < _STILL:
            return None
        return Alarm(
            int(recent[-1].get("step", 0)), "slow", "warning",
            f"学習率の山を過ぎても差（margin）が {max(margins):.4f} しかなく、損失は ln 2 のままです。重みは動いていますが小さすぎます。→ learning_rate を 5〜10 倍にしてください。",
            f"Past the peak of the learning rate the margin is only {max(margins):.4f} and the loss still ln 2: weights move, but too little. -> Raise learning_rate 5 to 10 times.",
            {"margin": max(margins), "learning_rate": max(rates)},
        )  # fmt: skip

    def _falls(self, rows: list[dict]) -> Alarm | None:
        chosen, rejected = _mean(rows, "rewards/chosen"), _mean(rows, "rewards/rejected")
        if self.per_nat is None or chosen is None:
            return None
        fall, step = -chosen * self.per_nat, int(rows[-1].get("step", 0))
        if fall >= FALL_PER_TOKEN:
            return Alarm(
                step, "chosen_falls", "warning",
                f"選ばれた文の対数確率が 1 トークンあたり {fall:.2f} nat 下がりました。良い文まで書けなくなりつつあります。→ sft_weight を 1 にするか、learning_rate を下げるか、beta を上げてください。",
                f"The chosen texts lost {fall:.2f} nats a token: the model is forgetting the good texts as well. -> Set sft_weight to 1, lower learning_rate, or raise beta.",
                {"nats_per_token": -fall, "size": fall},
            )  # fmt: skip
        if fall >= BOTH_FALL_PER_TOKEN and rejected is not None and rejected < chosen:
            return Alarm(
                step, "both_fall", "note",
                f"選ばれた文も退けられた文も、学習前より出にくくなっています（選ばれた文は 1 トークンあたり {fall:.2f} nat）。差が開いても、確率はどちらでもない文へ移っています。→ sft_weight を上げると選ばれた文を保てます。",
                f"Chosen and rejected texts both became less likely than before the training (chosen: {fall:.2f} nats a token): the margin grows while probability goes to other texts. -> A higher sft_weight holds the chosen ones.",
                {"nats_per_token": -fall, "size": fall},
            )  # fmt: skip
        return None

    def _saturated(self, recent: list[dict]) -> Alarm | None:
        margin, accuracy = _mean(recent, "rewards/margins"), _mean(recent, "rewards/accuracies")
        if margin is None or accuracy is None or margin < SATURATED_MARGIN or accuracy < _SURE:
            return None
        return Alarm(
            int(recent[-1].get("step", 0)), "saturated", "note",
            f"学習用の対はもうすべて見分けています（正解率 {accuracy:.2f}、差 {margin:.1f}）。これ以上は文を変えるだけです。→ num_train_epochs か learning_rate を下げるか、beta を上げてください。",
            f"The training pairs are all told apart already (accuracy {accuracy:.2f}, margin {margin:.1f}): going on only moves the text. -> Fewer epochs, a lower learning_rate, or a higher beta.",
            {"margin": margin, "accuracy": accuracy, "size": margin},
        )  # fmt: skip

    def _shortcut(self, rows: list[dict], least: int) -> Alarm | None:
        accuracies = [row["rewards/accuracies"] for row in rows if "rewards/accuracies" in row]
        early = rows[-1].get("epoch", math.inf) <= (0.5 if least == 1 else 0.3) if rows else False
        if len(accuracies) < least or not early or (least == 1 and len(self.held_out) > 1) or min(accuracies) < _SURE:
            return None
        return Alarm(
            int(rows[-1].get("step", 0)), "shortcut", "note",
            "学習の初めから正解率が 1.0 です。長さや記号など、読まなくても分かる違いを覚えている恐れがあります。→ ノートブック 01 の「見かけの違い」の表を見てください。",
            "The accuracy is 1.0 almost from the start: the model may learn a difference that needs no reading, such as length or a mark. -> See the table of surface rules in notebook 01.",
            {"accuracy": min(accuracies)},
        )  # fmt: skip

    def _rises(self) -> Alarm | None:
        losses = [(row["loss"], row.get("step", 0)) for row in self.held_out if "loss" in row]
        if len(losses) < 3:
            return None
        best, at = min(losses)
        limit = best + max(_LEAST_RISE, _RISE * best)
        since = [row["loss"] for row in self.train if row.get("step", 0) > at]
        until = [row["loss"] for row in self.train if row.get("step", 0) <= at][-len(since) :]
        if min(losses[-1][0], losses[-2][0]) <= limit or not since or not until or _average(since) >= _average(until):
            return None
        return Alarm(
            int(losses[-1][1]), "overfitting", "warning",
            f"検証損失はステップ {int(at)} の {best:.3f} から {losses[-1][0]:.3f} に上がり、学習の損失は下がり続けています（覚え込み）。→ エポックを減らすか、load_best_model_at_end を true にしてください。",
            f"The held-out loss rose from {best:.3f} (step {int(at)}) to {losses[-1][0]:.3f} while the training loss falls: it learns by heart. -> Train fewer epochs, or set load_best_model_at_end.",
            {"best": best, "best_step": int(at), "eval_loss": losses[-1][0], "size": losses[-1][0] - best},
        )  # fmt: skip


def find_drift(rows: Iterable[dict], beta: float | None = None, tokens: float | None = None) -> list[Alarm]:
    """All alarms of a run's rows, in their order. `beta`, `tokens` (mean of a chosen text): as `Drift` takes them."""
    drift = Drift(beta, tokens)
    return [alarm for row in rows for alarm in drift.see(row)]


def kl_alarm(step: int, kl: float | None, beta: float) -> list[Alarm]:
    """The alarm of one KL(tuned || base) in nats a token, [] below the limit; `beta` is named in what to change."""
    if kl is None or kl < KL_LIMIT:
        return []
    return [
        Alarm(
            step, "kl", "warning",
            f"学習前のモデルから 1 トークンあたり {kl:.2f} nat（KL）離れました（目安は {KL_LIMIT:g} 未満）。言葉づかい全体が変わっている恐れがあります。→ beta（今 {beta:g}）を上げるか、learning_rate を下げてください。",
            f"The model is {kl:.2f} nats a token (KL) from its base, {KL_LIMIT:g} is the limit: its whole way of writing may have changed. -> Raise beta ({beta:g} now) or lower learning_rate.",
            {"kl": kl},
        )
    ]  # fmt: skip


def drift_watch(training: Path, recipe: DpoRecipe, pairs: Sequence[EncodedPair], say: Callable[[str], None]) -> TrainerCallback:
    """A callback that reads every log as it comes and writes and says what `Drift` sees. `pairs`: those trained on."""
    from transformers import TrainerCallback

    tokens = sum(len(pair.chosen_ids) for pair in pairs) / len(pairs) if pairs else None

    class DriftCallback(TrainerCallback):
        """A resumed run reads the rows up to its checkpoint first, and says nothing twice."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.drift = Drift(recipe.beta, tokens)
            for row in read_history(training / HISTORY) if state.global_step else []:
                if row.get("step", 0) <= state.global_step:
                    self.drift.see(row)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
            if not state.is_world_process_zero or not hasattr(self, "drift"):
                return
            for alarm in self.drift.see({**(logs or {}), "step": state.global_step}):
                write_alarm(training, alarm)
                say(alarm.line())

    return DriftCallback()


def _number(value: Any) -> float | None:
    """The value as a finite number (transformers 5 logs some as text), else None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _mean(rows: list[dict], key: str) -> float | None:
    values = [row[key] for row in rows if key in row]
    return _average(values) if values else None


def _average(values: list[float]) -> float:
    return sum(values) / len(values)
