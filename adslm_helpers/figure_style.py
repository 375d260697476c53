"""What all figures share: fonts, bilingual words, look, percent bars with whiskers. `plots` draws with it."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Interval = Sequence[float]

# Okabe & Ito (2008): told apart with any kind of colour blindness; grey stands for "before".
BLUE, VERMILLION, GREEN, ORANGE, SKY, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#8C8C8C"
LINE, PALE = "#444444", "#D0D0D0"
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PINK, SKY)

_FONTS = (
    "Noto Sans CJK JP", "Noto Sans JP", "Source Han Sans JP", "IPAexGothic", "IPAGothic", "TakaoGothic", "TakaoPGothic",
    "VL Gothic", "Hiragino Sans", "Hiragino Kaku Gothic ProN", "Hiragino Kaku Gothic Pro", "Hiragino Maru Gothic Pro",
    "Yu Gothic", "Meiryo", "BIZ UDGothic", "MS Gothic", "MS PGothic", "Noto Serif CJK JP", "IPAexMincho",
)  # fmt: skip
_FONT_FILES = ("notosanscjk", "notosansjp", "ipaexg", "ipag", "takao", "vl-gothic")


class Words:
    """The labels of one figure: Japanese and English, or English alone where no font has the glyphs."""

    def __init__(self, japanese: bool):
        self.japanese = japanese

    def __call__(self, ja: str, en: str, between: str = " / ") -> str:
        return f"{ja}{between}{en}" if self.japanese else en

    def plain(self, text: str) -> str:
        """The user's own words as the font can show them: without one the English side, '?' for what would be a box."""
        if not self.japanese and not text.isascii():
            text = "".join(char if ord(char) < 0x2000 else "?" for char in text.rsplit(" / ", 1)[-1])
        return text.replace("$", r"\$")  # matplotlib reads $...$ as mathematics


def use_japanese_font() -> bool:
    """Whether figures get Japanese labels here: True where an installed font has the glyphs."""
    return japanese_font() is not None


def japanese_font() -> str | None:
    """The family name of an installed Japanese font. Fonts installed since matplotlib wrote its font cache are found too."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    if font := _known_font():
        return font
    for file in sorted(set(findSystemFonts()) - {entry.fname for entry in fontManager.ttflist}):
        if Path(file).name.lower().startswith(_FONT_FILES):
            fontManager.addfont(
                file
            )  # of a collection all faces, in newer versions; every weight, or all text is as bold as the first
    return _known_font()


def _known_font() -> str | None:
    from matplotlib.font_manager import fontManager

    files = {entry.name: entry.fname for entry in fontManager.ttflist}
    return next((name for name in _FONTS if name in files and Path(files[name]).exists()), None)


def to_png(figure: Figure, dpi: int = 100) -> bytes:
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


@contextmanager
def style() -> Iterator[Words]:
    """Our look for what is created inside; the user's rcParams are as before afterwards."""
    import matplotlib

    font = japanese_font()
    look = {
        "font.family": [*([font] if font else []), "DejaVu Sans"], "font.size": 10, "axes.titlesize": 11, "axes.grid": True,
        "grid.color": "#E6E6E6", "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    with matplotlib.rc_context(look):
        yield Words(font is not None)


def canvas(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def finished(figure: Figure) -> Figure:
    """Tick labels take their font when first drawn, so that must happen inside `style`."""
    figure.draw_without_rendering()
    # IPython knows how to show a Figure only once pyplot or %matplotlib inline has run; this shows it in any case.
    figure._repr_png_ = functools.partial(to_png, figure)
    return figure


def reference_line(ax: Axes, level: float, note: str) -> None:
    """A dotted reference line, named at its right end outside the axes, where no curve can run through the name."""
    ax.axhline(level, color=LINE, linestyle=":", linewidth=1.4)
    options = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
    ax.annotate(note, (1, level), (4, 0), fontsize=8, color=LINE, annotation_clip=False, **options)


def rate_bars(
    ax: Axes, rows: Iterable[tuple[float, float | None, Interval | None]], *, height: float = 0.36, **look: Any
) -> None:
    """Horizontal bars of (place, share, interval), the percentage written beyond bar and whisker; '-' where there is none."""
    label = look.pop("label")
    for place, rate, interval in rows:
        ax.barh(place, rate or 0.0, height=height, label=label, **look)
        label = "_repeated"  # matplotlib leaves labels with a leading underscore out of the legend
        if rate is None:
            ax.annotate("-", (0, place), (4, 0), textcoords="offset points", va="center", color=LINE)
            continue
        whisker = whiskers(rate, interval)
        if whisker:
            ax.errorbar(rate, place, xerr=whisker, fmt="none", ecolor="black", capsize=3, linewidth=1.4)
        end = rate + (whisker[1][0] if whisker else 0.0)
        ax.annotate(f"{rate:.1%}", (end, place), (5, 0), textcoords="offset points", va="center", fontsize=9)


def whiskers(rate: float, interval: Interval | None) -> list[list[float]] | None:
    """Distances to both ends as matplotlib wants them; it refuses negative ones, which a bootstrap of few texts can give."""
    if interval is None or None in (low_high := [number(end) for end in interval]):
        return None
    return [[max(0.0, rate - low_high[0])], [max(0.0, low_high[1] - rate)]]


def percent_axis(ax: Axes, top: float = 1.12) -> None:
    ax.set_xlim(0, top)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    if not ax.yaxis_inverted():
        ax.invert_yaxis()
    grid(ax, "x")


def grid(ax: Axes, axis: str) -> None:
    ax.grid(False)
    ax.grid(True, axis=axis)


def legend_below(figure: Figure, axes: Sequence[Axes], columns: int | None = None) -> None:
    """One legend for all axes, under them: it covers no data."""
    entries = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if entries:
        options = {"loc": "outside lower center", "ncols": columns or min(4, len(entries)), "frameon": False}
        figure.legend(list(entries.values()), list(entries), **options)


def number(value: Any) -> float | None:
    """A finite number, or None for what is none."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    return float(value) if math.isfinite(float(value)) else None
