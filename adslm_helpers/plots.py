"""Table in, matplotlib Figure out: nothing is saved, no pyplot state or rcParams are left behind.

Labels are Japanese and English where a Japanese font is installed, English elsewhere, so that no figure shows boxes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any

from .figure_style import (
    BLUE,
    GREY,
    LINE,
    PALE,
    PALETTE,
    VERMILLION,
    Interval,
    canvas,
    finished,
    grid,
    legend_below,
    number,
    percent_axis,
    rate_bars,
    reference_line,
    style,
    to_png,
    use_japanese_font,
    whiskers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "count_bars", "length_histogram", "margin_histogram", "posterior_curves", "recipe_comparison", "rubric_bars", "to_png",
    "training_curves", "use_japanese_font", "win_tie_loss",
]  # fmt: skip


def training_curves(history: list[dict]) -> Figure:
    """Loss, reward margin and reward accuracy against the step, held-out points beside the training line.

    `history`: rows with "step" and TRL's metric names, held-out ones with "eval_" before them. Missing metrics, None and NaN
    are left out; of rows with the same step (a resumed run) the last counts. The ln 2 line is the untrained DPO loss; a recipe
    with an SFT term logs the sum of both terms, which starts above it.
    """
    panels = (
        (
            "loss",
            ("損失", "Loss"),
            math.log(2),
            ("ln 2: DPO\nだけの学習前\nDPO alone,\nuntrained", "ln 2: DPO alone,\nuntrained"),
        ),
        ("rewards/margins", ("報酬の差", "Reward margin"), 0.0, ("0\n差なし\nno margin", "0\nno margin")),
        ("rewards/accuracies", ("報酬の正解率", "Reward accuracy"), 0.5, ("0.5\n偶然\nchance", "0.5\nchance")),
    )
    with style() as say:
        figure, axes = canvas(11, 3.4, columns=3)
        for ax, (key, title, level, note) in zip(axes, panels, strict=True):
            ax.set_title(say(*title))
            ax.set_xlabel(say("ステップ", "step"))
            reference_line(ax, level, note[0] if say.japanese else note[1])
            found = _curve(ax, history, key, color=BLUE, marker="." if len(history) > 1 else "o", label=say("学習", "train"))
            found += _curve(
                ax, history, f"eval_{key}", color=VERMILLION, marker="s", label=say("評価", "held-out"), linestyle="--"
            )
            _steps(ax, found, say("まだ記録がありません", "no records yet", "\n"))
        axes[2].set_ylim(-0.05, 1.05)
        legend_below(figure, axes)
        return finished(figure)


def length_histogram(lengths: dict[str, list[int]], unit: str = "chars") -> Figure:
    """How long the texts of each series are, with the median in the legend; the longest 1 % share the last bin.

    `lengths`: name of the series ("prompt", "chosen", "rejected", ...) -> one length per text. `unit`: "chars" or "tokens".
    """
    names = {"prompt": "指示", "chosen": "良い文", "rejected": "悪い文", "base": "学習前", "tuned": "学習後"}
    units = {"chars": ("文字数", "characters"), "tokens": ("トークン数", "tokens")}
    series = {name: sorted(filter(None.__ne__, map(number, values))) for name, values in lengths.items()}
    longest = max((values[-1] for values in series.values() if values), default=0.0)
    top = max((values[int(0.99 * (len(values) - 1))] for values in series.values() if values), default=0.0)
    with style() as say:
        figure, (ax,) = canvas(8, 3.6)
        width = max(1, math.ceil((top + 1) / 40))
        edges = [-0.5 + width * n for n in range(math.ceil((top + 1) / width) + 1)]
        for (name, values), color in zip(series.items(), cycle(PALETTE), strict=False):
            label = say.plain(say(names[name], name) if name in names else name)
            median = f"{values[(len(values) - 1) // 2]:g}" if values else "-"
            clipped = [min(value, edges[-1] - 0.5) for value in values]
            options = {"histtype": "stepfilled", "edgecolor": color, "facecolor": color + "30", "linewidth": 1.6}
            ax.hist(clipped, bins=edges, label=f"{label}  (n={len(values):,}, {say('中央値', 'median')} {median})", **options)
        ax.set_xlabel(say(*units.get(unit, (unit, unit))))
        ax.set_ylabel(say("件数", "texts"))
        if longest > edges[-1]:
            note = say(f"右端に最長 {longest:g} までを含む", f"last bar holds all up to {longest:g}")
            ax.set_title(note, fontsize="small", color=LINE, loc="right")
        legend_below(figure, [ax], columns=1)
        return finished(figure)


def count_bars(counts: dict[str, int], title: tuple[str, str] = ("件数", "Counts")) -> Figure:
    """One bar per count with its number: rows kept and dropped by reason, pairs and prompts of each split, duplicates."""
    with style() as say:
        figure, (ax,) = canvas(8, 1.2 + 0.36 * max(1, len(counts)))
        bars = ax.barh(range(len(counts)), list(counts.values()), color=BLUE, height=0.66)
        ax.bar_label(bars, labels=[f"{count:,}" for count in counts.values()], padding=3)
        ax.set_yticks(range(len(counts)), [say.plain(name) for name in counts])
        ax.set_xlim(0, max([1, *counts.values()]) * 1.12)
        ax.invert_yaxis()
        ax.set_title(say(*title), loc="left")
        grid(ax, "x")
        return finished(figure)


def rubric_bars(
    base: Mapping[str, float | None],
    tuned: Mapping[str, float | None],
    base_ci95: Mapping[str, Interval] | None = None,
    tuned_ci95: Mapping[str, Interval] | None = None,
    labels: Mapping[str, tuple[str, str]] | None = None,
) -> Figure:
    """Pass rate of each rubric check before and after tuning, with 95 % whiskers where intervals are given.

    Rates and interval ends are shares in 0-1; None: the check applied to no text. `labels`: check -> (Japanese,
    English), such as `text.rubric.CHECKS`; other checks are shown under their own name.
    """
    checks, labels = list(dict.fromkeys([*base, *tuned])), labels or {}
    with style() as say:
        names = [say(*labels[check], "\n") if check in labels else say.plain(check.replace("_", " ")) for check in checks]
        figure, (ax,) = canvas(8, 1.5 + 0.62 * max(1, len(checks)))
        sides = ((base, base_ci95, -0.19, GREY, ("学習前", "before")), (tuned, tuned_ci95, 0.19, BLUE, ("学習後", "after")))
        for rates, intervals, shift, color, words in sides:
            rows = [(n + shift, number(rates.get(check)), (intervals or {}).get(check)) for n, check in enumerate(checks)]
            rate_bars(ax, rows, color=color, label=say(*words))
        ax.set_yticks(range(len(checks)), names)
        ax.set_xlabel(say("合格した文の割合", "share of texts that pass"))
        percent_axis(ax)
        legend_below(figure, [ax])
        return finished(figure)


def win_tie_loss(counts: Mapping[str, int], win_rate: float | None = None, win_rate_ci95: Interval | None = None) -> Figure:
    """One stacked bar of wins, ties and losses of the tuned model, and under it the win rate with its interval where given.

    `counts`: "win"/"wins", "tie"/"ties", "loss"/"losses" -> number of comparisons. The win rate is drawn as given (0-1).
    """
    kinds = (("win", "wins", "学習後の勝ち", BLUE), ("tie", "ties", "引き分け", PALE), ("loss", "losses", "負け", VERMILLION))
    numbers = [counts.get(one, counts.get(many, 0)) for one, many, _, _ in kinds]
    total, left = sum(numbers), 0.0
    with style() as say:
        figure, (ax,) = canvas(8, 1.9 if win_rate is None else 2.5)
        for (one, _, ja, color), count in zip(kinds, numbers, strict=True):
            share = count / total if total else 0.0
            ax.barh(0, share, left=left, color=color, height=0.6, label=f"{say(ja, one)}: {count:,}")
            if share >= 0.06:  # narrower pieces have no room for their number; the legend has it
                ink = "black" if color == PALE else "white"
                ax.text(left + share / 2, 0, f"{share:.0%}", ha="center", va="center", color=ink)
            left += share
        rows = [say("比較", "texts", "\n")]
        if win_rate is not None:
            whisker = whiskers(win_rate, win_rate_ci95)
            ax.errorbar(win_rate, 1, xerr=whisker, fmt="o", color=LINE, capsize=4)
            ax.annotate(f"{win_rate:.0%}", (win_rate, 1), (0, 6), textcoords="offset points", ha="center")
            ax.axvline(0.5, color=LINE, linestyle=":", linewidth=1.2, zorder=0)
            rows.append(
                say("勝率（95%区間）" if whisker else "勝率", "win rate (95 % interval)" if whisker else "win rate", "\n")
            )
        ax.set_yticks(range(len(rows)), rows)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        percent_axis(ax, top=1.0)
        legend_below(figure, [ax])
        return finished(figure)


def margin_histogram(margins: list[float]) -> Figure:
    """Reward margins of the held-out pairs, those on the right side of 0 apart from those on the wrong side; the mean marked."""
    values = [value for value in map(number, margins) if value is not None]
    with style() as say:
        figure, (ax,) = canvas(8, 3.6)
        if values:
            width = (max(values) - min(values)) / 30 or 0.1
            low, high = math.floor(min(values) / width), math.floor(max(values) / width) + 1
            edges = [width * n for n in range(low, high + 1)]  # 0 is an edge: no bar stands on both sides
            right = sum(value > 0 for value in values) / len(values)
            for name, color, side in (
                (f"{say('良い文を好む', 'prefers chosen')}: {right:.0%}", BLUE, [v for v in values if v > 0]),
                (f"{say('好まない・同点', 'does not, or tie')}: {1 - right:.0%}", VERMILLION, [v for v in values if v <= 0]),
            ):
                ax.hist(side, bins=edges, color=color, label=name, edgecolor="white", linewidth=0.5)
            mean = sum(values) / len(values)
            ax.axvline(mean, color=LINE, linestyle="--", linewidth=1.4, label=f"{say('平均', 'mean')}: {mean:+.2f}")
        ax.axvline(0, color="black", linewidth=1.4, label=f"0: {say('差なし', 'no margin')}")
        ax.set_xlabel(say("報酬の差（良い文 − 悪い文）", "reward margin (chosen - rejected)"))
        ax.set_ylabel(say("評価用の対", "held-out pairs"))
        legend_below(figure, [ax], columns=2)
        return finished(figure)


def posterior_curves(arms: Mapping[str, tuple[int, int]], prior: tuple[float, float] = (1.0, 1.0)) -> Figure:
    """What a log lets one believe of each text's click-through rate: Beta(alpha + clicks, beta + impressions - clicks).

    `arms`: label -> (clicks, impressions); `prior`: (alpha, beta). Where two curves overlap much, the log does not tell the texts apart.
    """
    import numpy

    shapes = {name: (prior[0] + clicks, prior[1] + shown - clicks) for name, (clicks, shown) in arms.items()}
    centres = {name: (a / (a + b), math.sqrt(a * b / (a + b) ** 2 / (a + b + 1))) for name, (a, b) in shapes.items()}
    low = max(1e-9, min(mean - 4 * wide for mean, wide in centres.values()))
    high = min(1 - 1e-9, max(mean + 4.5 * wide for mean, wide in centres.values()))
    rates = numpy.linspace(low, high, 600)
    with style() as say:
        figure, (ax,) = canvas(8, 3.4)
        for (name, (a, b)), color in zip(shapes.items(), cycle(PALETTE), strict=False):
            density = (a - 1) * numpy.log(rates) + (b - 1) * numpy.log1p(-rates)
            density = numpy.exp(density - density.max())
            density /= density.sum() * (rates[1] - rates[0])
            clicks, shown = arms[name]
            ax.plot(100 * rates, density, color=color, label=f"{say.plain(name)}  {clicks:,} / {shown:,}")
            ax.fill_between(100 * rates, density, color=color, alpha=0.15)
        ax.set_xlabel(say("クリック率 (%)", "click-through rate (%)"))
        ax.set_yticks([])
        ax.set_ylim(bottom=0)
        legend_below(figure, [ax])
        return finished(figure)


def recipe_comparison(rows: list[dict]) -> Figure:
    """Bars that set recipes side by side: reward accuracy, rubric pass rate, right product, share of degenerate texts.

    A row has "name" and shares in 0-1 under "reward_accuracy", "rubric_pass", "right_product" and "degenerate" (also with
    "_tuned", as in metrics.json), and may have an interval under each key with "_ci95".
    """
    metrics = {
        "reward_accuracy": ("報酬の正解率", "reward accuracy"),
        "rubric_pass": ("評価基準を満たす", "rubric passed"),
        "right_product": ("商品名が正しい", "right product"),
        "degenerate": ("壊れた文（低いほど良い）", "degenerate (lower is better)"),
    }
    step = 0.8 / max(1, len(rows))
    with style() as say:
        figure, (ax,) = canvas(8, 1.4 + 4 * max(0.5, 0.3 * len(rows)))
        for place, (row, color) in enumerate(zip(rows, cycle(PALETTE), strict=False)):
            bars = []
            for n, metric in enumerate(metrics):
                key = metric if metric in row else f"{metric}_tuned"
                bars.append((n - 0.4 + step * (place + 0.5), number(row.get(key)), row.get(f"{key}_ci95")))
            rate_bars(ax, bars, color=color, label=say.plain(str(row.get("name", place + 1))), height=step * 0.92)
        ax.set_yticks(range(len(metrics)), [say(*words, "\n") for words in metrics.values()])
        percent_axis(ax)
        legend_below(figure, [ax], columns=2)
        return finished(figure)


def _curve(ax: Axes, history: list[dict], key: str, **look: Any) -> list[float]:
    points = {number(row.get("step", n + 1)): number(row.get(key)) for n, row in enumerate(history) if key in row}
    points = dict(sorted((step, value) for step, value in points.items() if step is not None and value is not None))
    if points:
        ax.plot(list(points), list(points.values()), markersize=4.5, linewidth=1.6, **look)
    return list(points)


def _steps(ax: Axes, steps: list[float], empty: str) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if not steps:
        ax.set_xticks([])
        ax.text(0.5, 0.25, empty, transform=ax.transAxes, ha="center", va="center", color=LINE)
    elif len(set(steps)) == 1:
        ax.set_xlim(steps[0] - 1, steps[0] + 1)
