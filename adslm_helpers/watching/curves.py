"""What the finite part of the curves tells: a gradient that jumps, a loss that rises, rewards that both fall."""

from __future__ import annotations

import math
from statistics import median

from .causes import SPIKE, SPIKE_FLOOR, Finding, Rows, healthy_part, rate_at

_LOST_REWARD = -1.0  # at the usual beta of 0.1 the chosen text became e^10 times less likely


def gradient_spike(rows: Rows) -> Finding | None:
    """The highest gradient norm, where it stands far above those before it."""
    norms = [(row["step"], row["grad_norm"]) for row in rows if math.isfinite(row.get("grad_norm", math.nan))]
    best: tuple[float, int, float, float] | None = None
    for place in range(5, len(norms)):
        step, norm = norms[place]
        usual = median(value for _, value in norms[max(0, place - 50) : place])
        if norm > max(SPIKE_FLOOR, SPIKE * usual) and (best is None or norm > best[0]):
            best = norm, step, usual, norm / usual if usual else math.inf
    if best is None:
        return None
    norm, step, usual, times = best
    return Finding(
        "gradient_spike", step, "warning",
        f"ステップ {step} の勾配が、それまでのふつうの {times:.0f} 倍でした。学習率が高すぎるか、その回のデータがおかしいしるしです。",
        f"At step {step} the gradient was {times:.0f} times its usual size: the learning rate is too high, or that batch is odd.",
        "learning_rate を半分にし、max_grad_norm を 1 以下にしてください。それでも同じステップで起きるなら、その回の文を見てください。",
        "Halve learning_rate and keep max_grad_norm at 1 or below. If it comes back at the same step, look at the texts of that batch.",
        (f"grad_norm {norm:.3g} at step {step}, median before {usual:.3g}", rate_at(rows, step)),
    )  # fmt: skip


def diverged(rows: Rows) -> Finding | None:
    """A training loss that rose well above where it started: of the finite rows only, as means over windows."""
    losses = [(row["step"], row["loss"]) for row in healthy_part(rows) if math.isfinite(row.get("loss", math.nan))]
    width = max(3, len(losses) // 10)
    if len(losses) < 2 * width:
        return None
    start = sum(loss for _, loss in losses[:width]) / width
    if abs(losses[0][1] - math.log(2)) < 1e-3:  # plain DPO: the first loss is no draw, it is what every untrained model has
        start = losses[0][1]
    means = [(losses[n][0], sum(loss for _, loss in losses[n : n + width]) / width) for n in range(len(losses) - width + 1)]
    high = [one for one in means if one[1] > 1.3 * abs(start) + 0.1]
    if not high:
        return None
    step, worst, end = high[0][0], max(mean for _, mean in high), means[-1][1]
    stays = end > start + 0.5 * (worst - start)
    told = (
        ("そのまま戻りませんでした", "and stayed there")
        if stays
        else (f"最後は {end:.3g} に戻りました", f"and came back to {end:.3g}")
    )
    return Finding(
        "learning_rate_too_high", step, "stop" if stays else "warning",
        f"損失がステップ {step} から上がり始め、{start:.3g} だったものが {worst:.3g} まで上がって、{told[0]}。学習率が高すぎます。",
        f"From step {step} on the loss rose, from {start:.3g} up to {worst:.3g}, {told[1]}: the learning rate is too high.",
        "learning_rate を 3 分の 1 から 10 分の 1 にするか、warmup_ratio を 0.1 以上にして学習し直してください。",
        "Train again with a third to a tenth of learning_rate, or with a warmup_ratio of 0.1 or more.",
        (f"loss, means of {width} logs: {start:.3g} -> {worst:.3g} -> {end:.3g}", rate_at(rows, step)),
    )  # fmt: skip


def both_rewards_fall(rows: Rows) -> Finding | None:
    """Chosen and rejected rewards both well below 0 at the end. In rewards, for logs that tell neither beta nor the lengths."""
    train = [row for row in healthy_part(rows) if {"rewards/chosen", "rewards/rejected"} <= row.keys()]
    last = train[-max(3, len(train) // 4) :]
    if len(last) < 3:
        return None
    chosen, rejected = (sum(row[key] for row in last) / len(last) for key in ("rewards/chosen", "rewards/rejected"))
    if not rejected < chosen < _LOST_REWARD:
        return None
    step = next(row["step"] for row in train if row["rewards/chosen"] < _LOST_REWARD)
    return Finding(
        "both_fall", step, "note",
        f"良い文の報酬も {chosen:.2f} まで下がっています。差は開いても、良い文そのものが出にくくなり、確率はどちらでもない文へ移っています。",
        f"The reward of the chosen texts fell to {chosen:.2f} as well: the margin grows, while the good texts become less likely and probability goes to others.",
        "sft_weight を 1 に（TRL では loss_type に 'sft' を足す）するか、beta を上げるか、learning_rate を下げてください。",
        "Set sft_weight to 1 (in TRL add 'sft' to loss_type), raise beta, or lower learning_rate.",
        (f"last {len(last)} logs: rewards/chosen {chosen:.3g}, rewards/rejected {rejected:.3g}",),
    )  # fmt: skip
