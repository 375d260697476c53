"""Why a training went wrong, from the rows of its log: one function a cause, each a `Finding` with its numbers, or None.

Here: numbers that are not finite. What finite curves tell is in `curves`; what healthy-looking ones hide is `training.drift`'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

Rows = Sequence[dict[str, Any]]

_JUDGED = ("loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected")
_SHOWN = ("loss", "eval_loss", "grad_norm", "learning_rate", "rewards/margins", "eval_rewards/margins", "rewards/accuracies")
_SATURATED = 0.01  # a loss that came from below this may well be rounded to 0.0: transformers 4 logs four digits
SPIKE, SPIKE_FLOOR = 10.0, 5.0  # times the median of the norms before, and at least so much: 1 is where gradients are clipped


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a training, or worth knowing."""

    kind: str
    """Stable, for programs: 'nan_forward', 'poisoned', ..., or the kind of an alarm."""
    step: int
    severity: str
    """'note', 'warning', or 'stop': what was trained after this step is worth nothing."""
    ja: str
    en: str
    do_ja: str = ""
    """What to change; '' where the sentence itself says it."""
    do_en: str = ""
    evidence: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What, why, the numbers, what to change; Japanese, then English."""
        mark = {"note": "・ note", "warning": "【注意】 warning", "stop": "【停止】 stop"}[self.severity]
        told = [f"{mark}: {self.kind} (step {self.step})", f"  {self.ja}", f"  {self.en}"]
        told += [f"  根拠 / evidence: {self.evidence[0]}"] if self.evidence else []
        told += [f"                   {text}" for text in self.evidence[1:]]
        return told + ([f"  → {self.do_ja}", f"  -> {self.do_en}"] if self.do_ja else [])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "evidence": list(self.evidence)}


def healthy_part(rows: Rows) -> list[dict[str, Any]]:
    """The rows before the first one from which nothing is finite any more: the only ones of which curves can be judged."""
    first = _first_bad(rows)
    return [*rows] if first is None or _comes_back(rows, first) else [*rows[:first]]


def broken_numbers(rows: Rows) -> Finding | None:
    """The first training row that is not finite, or whose loss of exactly 0.0 hides that, and what the rows around it say of the cause."""
    first = _first_bad(rows)
    if first is None:
        return None
    row, before = rows[first], [one for one in rows[:first] if "loss" in one]
    if not before and _loss_is_gone(row):
        return _nan_forward(row)
    if _comes_back(rows, first):
        return _passing(rows, first)
    return _poisoned(rows, first, before)


def nan_evaluation(rows: Rows) -> Finding | None:
    """Held-out numbers that are not finite while the training's own were."""
    limit = _first_bad(rows)
    limit = len(rows) if limit is None or _comes_back(rows, limit) else limit
    bad = [row for row in rows[:limit] if _bad_keys(row, "eval_")]
    if not bad:
        return None
    hidden = math.isfinite(bad[0].get("eval_loss", math.nan))
    evaluations = sum("eval_loss" in row for row in rows[:limit])
    also_ja = "eval_loss が有限に見えるのは、trainer が NaN を平均で置き換えたためです。" if hidden else ""
    also_en = " eval_loss only looks finite: the trainer replaced the NaN by the mean." if hidden else ""
    return Finding(
        "nan_evaluation", bad[0]["step"], "warning",
        f"学習の数値は有限なのに、評価用データの計算だけが有限ではありません（{evaluations} 回中 {len(bad)} 回）。{also_ja}重みは壊れていません。",
        f"Training is finite, the held-out pairs are not ({len(bad)} of {evaluations} evaluations).{also_en} The weights are not harmed.",
        "評価用データに空の応答や長すぎる対がないか確かめ、dtype を float32 に、評価バッチを 1 にしてください。Mac では torch 2.9 以上に。",
        "Look for an empty or very long held-out response; use float32, an evaluation batch of 1, and on a Mac torch 2.9 or newer.",
        tuple(numbers_of(row) for row in bad[:2]),
    )  # fmt: skip


def _nan_forward(row: dict) -> Finding:
    zero = row["loss"] == 0.0
    seen_ja = "ちょうど 0.0 です。これは学習できた印ではなく、NaN を " if zero else f"{row['loss']} です。"
    seen_ja += "trainer の logging_nan_inf_filter が 0 に置き換えた跡です。" if zero else ""
    seen_en = (
        "is exactly 0.0: not success, but a NaN that the trainer's logging_nan_inf_filter replaced."
        if zero
        else f"is {row['loss']}."
    )
    return Finding(
        "nan_forward", row["step"], "stop",
        f"最初に記録された損失が{seen_ja}最初の計算からすでに NaN で、原因は精度か計算カーネルです。学習率・beta・データではありません。出力は「!!!!!」か空になります。",
        f"The first logged loss {seen_en} The very first forward pass was NaN already: the precision or a kernel, never the learning rate, beta or the data. Such a model answers '!!!!!' or nothing.",
        "dtype を bfloat16 か float32 にしてください（Qwen2 系を float16 の重みで動かさない）。Mac では torch 2.9 以上、attn_implementation='eager'。adslm train は学習前の確認でこれを見つけます。",
        "Use bfloat16 or float32 (no float16 weights for the Qwen2 family); on a Mac torch 2.9 or newer, or attn_implementation='eager'. The pre-flight of adslm train catches this before the first step.",
        (numbers_of(row),),
    )  # fmt: skip


def _passing(rows: Rows, first: int) -> Finding:
    """Rows that are not finite, and finite ones after them: nothing was kept of those steps."""
    row, train = rows[first], [row for row in rows if "loss" in row or "grad_norm" in row]
    bad = [one for one in train if _is_bad(one) or one is row]
    late = [one for one in bad if one["step"] > max(20, train[-1]["step"] // 10)]
    overflow = all(math.isfinite(one.get("loss", 1.0)) for one in bad) and row.get("loss") != 0.0
    many = len(bad) > max(5, len(train) // 20)
    stood = [one["step"] for before, one in pairwise(train) if one in bad and _same_rate(before, one)]
    evidence = [numbers_of(row), f"{len(bad)} of {len(train)} logs, last at step {bad[-1]['step']}"]
    evidence += [f"learning_rate stood still at step {stood[0]}: the optimizer step was skipped"] if stood else []
    if overflow:
        harmless = not many and not late
        return Finding(
            "scaler_skipped", row["step"], "note" if harmless else "warning",
            f"{len(bad)} 回、勾配だけが有限ではなく、その後は元に戻りました。float16 の GradScaler がその回の更新を飛ばした跡です。"
            + ("始めの数回はふつうのことです。" if harmless else "何度も続くのは、値が float16 の範囲を越えているためです。"),
            f"In {len(bad)} logs only the gradient was not finite, and training went on: float16's GradScaler skipped those steps. "
            + ("A few at the start are normal." if harmless else "So many mean that values leave the range of float16."),
            "" if harmless else "bf16 が使えるなら bf16 に、なければ fp16 をやめて float32 にするか、learning_rate を半分にしてください。",
            "" if harmless else "Use bf16 where there is one, else float32 instead of fp16, or halve learning_rate.",
            tuple(evidence),
        )  # fmt: skip
    return Finding(
        "not_finite_for_a_while", row["step"], "warning",
        f"{len(bad)} 回、損失が有限ではなくなり、その後は元に戻りました。一部のデータだけで計算があふれています。",
        f"In {len(bad)} logs the loss was not finite, and finite again later: some batches overflow.",
        "dtype を float32 にするか、その回のデータ（空の応答、とても長い文）を確かめてください。",
        "Use float32, or look at those batches for empty or very long texts.",
        tuple(evidence),
    )  # fmt: skip


def _poisoned(rows: Rows, first: int, before: list[dict]) -> Finding:
    """Finite, then never again: a step that wrote NaN into the weights."""
    row, step = rows[first], rows[first]["step"]
    last = before[-1]["step"] if before else 0
    where = f"{last + 1}" if step == last + 1 else f"{last + 1}-{step}"
    # The gradient alone: this row's forward pass was still good, and its own step did the harm.
    gradient = _bad_keys(row) == ["grad_norm"] and not _hidden(row, before)
    norms = [one["grad_norm"] for one in before if "grad_norm" in one]
    rising = len(norms) >= 4 and max(norms[-3:]) > max(SPIKE_FLOOR, SPIKE * median(norms[:-3]))
    evidence = [numbers_of(one) for one in before[-1:]] + [numbers_of(row)]
    evidence += [numbers_of(one) for one in rows[first + 1 : first + 2]] if gradient else []
    hidden = next((one for one in rows[first:] if _hidden(one, before)), None)
    also_ja = "以後の loss 0.0 は NaN を隠した値です。" if hidden else ""
    also_en = " The losses of 0.0 from there on hide NaN." if hidden else ""
    if gradient:
        ja, en = (
            f"ステップ {where} の勾配が有限ではなく、それで更新された重みがすべて NaN になりました。",
            f"The gradient of step {where} was not finite, and its update turned the weights to NaN.",
        )
    elif not before:
        ja, en = (
            f"ステップ {where} の間に数値が有限ではなくなりました。",
            f"Somewhere in steps {where} the numbers stopped being finite.",
        )
    else:
        ja, en = (
            f"ステップ {last} までは正常で、ステップ {where} で数値が有限ではなくなりました。一つ前の更新で重みが壊れたか、計算があふれました。",
            f"All was finite up to step {last}; from step {where} on nothing is: the update before it broke the weights, or the forward pass overflowed.",
        )
    if rising:
        why_ja, why_en = (
            "直前に勾配が急に大きくなっており、学習率が高すぎます。",
            " The gradient had been growing: the learning rate is too high.",
        )
        do_ja, do_en = (
            "learning_rate を半分（まだ起きるなら 10 分の 1）にし、max_grad_norm を 1 以下にしてください。",
            "Halve learning_rate (a tenth if it comes back) and keep max_grad_norm at 1 or below.",
        )
    else:
        why_ja, why_en = (
            "直前の数値は落ち着いていたので、一度きりの桁あふれ（精度）が第一の疑いです。",
            " The numbers before were quiet: a single overflow (precision) is the first suspect.",
        )
        do_ja, do_en = (
            "dtype を bfloat16 か float32 にしてください。それでも起きるなら learning_rate を半分に。",
            "Use bfloat16 or float32; if it still happens, halve learning_rate.",
        )
    if last:
        do_ja += f"ステップ {last} 以前のチェックポイントは使えます。"
        do_en += f" Checkpoints up to step {last} are good."
    do_ja += "adslm train は更新の前に止まり、自分で続きから再開します。"
    do_en += " adslm train stops before such an update and goes on by itself."
    return Finding(
        "poisoned", step, "stop", ja + why_ja + also_ja, en + why_en + also_en, do_ja, do_en, (*evidence, rate_at(rows, step)),
    )  # fmt: skip


def _first_bad(rows: Rows) -> int | None:
    """The place of the first training row that is not finite, or hides that."""
    before: list[dict] = []
    for place, row in enumerate(rows):
        if "loss" not in row and "grad_norm" not in row:
            continue
        if _bad_keys(row) or _hidden(row, before):
            return place
        before.append(row)
    return None


def _is_bad(row: dict) -> bool:
    return bool(_bad_keys(row))


def _bad_keys(row: dict, prefix: str = "") -> list[str]:
    """The judged metrics of a row that are not finite."""
    return [prefix + key for key in _JUDGED if prefix + key in row and not math.isfinite(row[prefix + key])]


def _hidden(row: dict, before: list[dict]) -> bool:
    """Whether a loss of exactly 0.0 stands for NaN: not where the answers are already told apart so well that it rounds to 0."""
    if row.get("loss") != 0.0 or row.get("rewards/margins", 0.0) > 1:
        return False
    return _is_bad(row) or not before or before[-1].get("loss", 1.0) > _SATURATED


def _loss_is_gone(row: dict) -> bool:
    return row.get("loss") == 0.0 or not math.isfinite(row.get("loss", 0.0))


def _comes_back(rows: Rows, first: int) -> bool:
    """Whether a later training row is finite again."""
    return any("loss" in row and not _is_bad(row) and row["loss"] != 0.0 for row in rows[first + 1 :])


def _same_rate(before: dict, row: dict) -> bool:
    return before.get("learning_rate") is not None and before.get("learning_rate") == row.get("learning_rate")


def numbers_of(row: dict) -> str:
    shown = ", ".join(f"{key} {row[key]:.4g}" if row[key] else f"{key} 0.0" for key in _SHOWN if key in row)
    return f"step {row['step']}: {shown}"


def rate_at(rows: Rows, step: int) -> str:
    """The learning rate at a step, and the highest of the run."""
    rates = [(row["step"], row["learning_rate"]) for row in rows if "learning_rate" in row]
    if not rates:
        return "learning_rate: not logged"
    at = [rate for place, rate in rates if place <= step] or [rates[0][1]]
    return f"learning_rate {at[-1]:.3g} there, highest {max(rate for _, rate in rates):.3g}"
