"""Figures of preference-guided DPO: table in, matplotlib Figure out, as in `plots`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from .figure_style import BLUE, GREY, LINE, PALETTE, VERMILLION, Interval, canvas, finished, grid, legend_below, style, whiskers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 12.0
"""Nats: what lies beyond is drawn at the edge, else one pair decides the scale of all."""
_NAME = {"width": 18, "max_lines": 3, "placeholder": "..."}


def instruction_gaps(gaps: Mapping[str, Sequence[float]], means: Mapping[str, tuple[float, Interval]]) -> Figure:
    """What each instruction changes: one dot a pair at mp - m0 (nats); under the dots their mean with its 95 % interval.

    `gaps`: instruction -> one value a pair. `means`: instruction -> (mean, [low, high]), as `mean_with_interval` gives them.
    """
    import numpy

    rng = numpy.random.default_rng(0)  # the same picture for the same table
    with style() as say:
        figure, (ax,) = canvas(9, 1.3 + 0.8 * max(1, len(gaps)))
        ax.axvline(0, color="black", linewidth=1.2)
        for place, ((name, values), color) in enumerate(zip(gaps.items(), cycle(PALETTE), strict=False)):
            heights = place + rng.uniform(-0.3, 0.1, len(values))
            ax.scatter(numpy.clip(values, -_MOST, _MOST), heights, s=12, color=color, alpha=0.35, linewidth=0)
            mean, interval = means[name]
            ax.errorbar(mean, place + 0.28, xerr=whiskers(mean, interval), fmt="D", markersize=5, color=color, capsize=4)
            at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
            ax.annotate(
                f"{mean:+.2f}\n[{interval[0]:+.2f}, {interval[1]:+.2f}]", (1, place), (5, 0), fontsize=8, color=LINE, **at
            )
        ax.set_yticks(range(len(gaps)), ["\n".join(textwrap.wrap(say.plain(name), **_NAME)) for name in gaps])
        ax.set_ylim(max(1, len(gaps)) - 0.5, -0.6)
        ax.set_xlabel(
            say(
                "差の変化 mp − m0（nats）、右は良い文のほうへ",
                "change of the margin mp - m0 (nats), right: for the chosen text",
                "\n",
            )
        )
        _note_beyond(ax, [value for values in gaps.values() for value in values], say)
        grid(ax, "x")
        return finished(figure)


def learned_against_taught(taught: Mapping[str, Sequence[float]], learned: Mapping[str, Sequence[float]]) -> Figure:
    """What a training made of the teacher's wish, one panel a training, one dot a held-out pair.

    `taught`: training -> mp - m0, what its teacher adds to the margin when it reads the instruction (of plain DPO: what it would add);
    `learned`: training -> m - m0, what the model added without reading it. Nats, both in the order of the pairs. Below the dashed line
    (m < mp) the aligned loss pulls; above it, it is 0.
    """
    import numpy

    reach = max([1.0, *(min(abs(value), _MOST) for values in taught.values() for value in values)])
    moved = [reach, -1.0, *(value for values in learned.values() for value in values)]
    with style() as say:
        figure, axes = canvas(max(5.0, 3.9 * len(learned)), 4.3, columns=max(1, len(learned)))
        for ax, (name, values) in zip(axes, learned.items(), strict=False):
            x, y = numpy.asarray(taught[name], float), numpy.asarray(values, float)
            ax.plot([-reach, reach], [-reach, reach], color=LINE, linestyle="--", linewidth=1.2, label="m = mp")
            ax.axhline(0, color=GREY, linewidth=1.0, label=say("学習前", "untrained"))
            below = y < x
            for side, color, words in (
                (below, VERMILLION, ("引かれる m < mp", "pulled, m < mp")),
                (~below, BLUE, ("引かれない", "not pulled")),
            ):
                ax.scatter(
                    numpy.clip(x[side], -_MOST, _MOST), y[side], s=14, alpha=0.55, linewidth=0, color=color, label=say(*words)
                )
            share = below.mean() if len(y) else 0.0
            ax.set_title(f"{say.plain(name)}\nm < mp: {share:.0%}", fontsize="medium")
            ax.set_xlabel("mp - m0 (nats)")
            ax.set_ylim(1.15 * min(moved), 1.08 * max(moved))
        axes[0].set_ylabel("m - m0 (nats)")
        legend_below(figure, axes, columns=None if len(axes) > 1 else 2)
        return finished(figure)


def _note_beyond(ax: Axes, values: Sequence[float], say: Any) -> None:
    beyond = sum(abs(value) > _MOST for value in values)
    if beyond:
        note = say(f"端の点は {_MOST:g} nats より外の {beyond} 対", f"{beyond} pairs beyond {_MOST:g} nats stand at the edge")
        ax.set_title(note, fontsize="small", color=LINE, loc="right")
