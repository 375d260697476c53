"""Figures of preference-guided DPO: table in, matplotlib Figure out, as in `plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from .figure_style import BLUE, GREY, LINE, PALETTE, VERMILLION, Interval, canvas, finished, grid, legend_below, style, whiskers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 12.0
"""Nats: what lies beyond is drawn at the edge, else one pair decides the scale of all."""


def instruction_gaps(gaps: Mapping[str, Sequence[float]], means: Mapping[str, tuple[float, Interval]]) -> Figure:
    """What each instruction changes: one dot a pair at mp - m0 (nats), below the name the mean with its 95 % interval.

    `gaps`: instruction -> one value a pair. `means`: instruction -> (mean, [low, high]), as `mean_with_interval` gives them.
    """
    import numpy

    rng = numpy.random.default_rng(0)  # the same picture for the same table
    beyond = sum(abs(value) > _MOST for values in gaps.values() for value in values)
    with style() as say:
        figure, (ax,) = canvas(9, 1.3 + 0.75 * max(1, len(gaps)))
        ax.axvline(0, color="black", linewidth=1.2)
        for place, ((name, values), color) in enumerate(zip(gaps.items(), cycle(PALETTE), strict=False)):
            at = place + rng.uniform(-0.28, 0.12, len(values))
            ax.scatter(numpy.clip(values, -_MOST, _MOST), at, s=12, color=color, alpha=0.35, linewidth=0)
            mean, interval = means[name]
            ax.errorbar(mean, place + 0.3, xerr=whiskers(mean, interval), fmt="D", markersize=5, color=color, capsize=4)
            ax.annotate(f"{mean:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]", (1.0, place), (4, 0), fontsize=8,
                        xycoords=("axes fraction", "data"), textcoords="offset points", va="center", color=LINE)  # fmt: skip
        ax.set_yticks(range(len(gaps)), [say.plain(name) for name in gaps])
        ax.set_ylim(max(1, len(gaps)) - 0.4, -0.6)
        ax.set_xlabel(
            say(
                "差の変化 mp − m0（nats）: 右は「良い文」寄り",
                "change of the margin mp - m0 (nats): right is towards chosen",
                "\n",
            )
        )
        if beyond:
            ax.set_title(say(f"端の点は ±{_MOST:g} の外（{beyond} 対）", f"dots at the edge lie beyond ±{_MOST:g} ({beyond} pairs)"),
                         fontsize="small", color=LINE, loc="right")  # fmt: skip
        grid(ax, "x")
        return finished(figure)


def learned_against_taught(taught: Sequence[float], learned: Mapping[str, Sequence[float]]) -> Figure:
    """What a training made of the teacher's wish, one panel a training, one dot a held-out pair.

    `taught`: mp - m0, what the teacher adds to the margin when it sees the instruction; `learned`: training -> m - m0, what the model added
    without seeing it; all in nats, in the same order. Below the diagonal (m < mp) the aligned loss pulls; above it, it is 0.
    """
    import numpy

    x = numpy.clip(numpy.asarray(taught, float), -_MOST, _MOST)
    reach = max([1.0, *numpy.abs(x)])
    top = max([reach, *(abs(value) for values in learned.values() for value in values)])
    with style() as say:
        figure, axes = canvas(4.3 * max(1, len(learned)), 4.2, columns=max(1, len(learned)))
        for ax, (name, values) in zip(axes, learned.items(), strict=False):
            y = numpy.asarray(values, float)
            below = y < numpy.asarray(taught, float)
            ax.plot([-reach, reach], [-reach, reach], color=LINE, linestyle="--", linewidth=1.2, label="m = mp")
            ax.axhline(0, color=GREY, linewidth=1.0, label=say("学習前", "untrained"))
            for side, color, words in (
                (below, VERMILLION, ("m < mp: 引かれる", "m < mp: pulled")),
                (~below, BLUE, ("m ≥ mp: 損失 0", "m ≥ mp: loss 0")),
            ):
                ax.scatter(x[side], y[side], s=14, alpha=0.55, linewidth=0, color=color, label=say(*words))
            share = below.mean() if len(y) else 0.0
            ax.set_title(f"{say.plain(name)}\nm < mp: {share:.0%}", fontsize="medium")
            ax.set_xlabel("mp − m0 (nats)")
            ax.set_ylim(-1.05 * top, 1.05 * top)
        axes[0].set_ylabel("m − m0 (nats)")
        legend_below(figure, axes)
        return finished(figure)
