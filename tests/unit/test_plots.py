"""Figures: readable with and without a Japanese font, correct numbers, no state left behind."""

import itertools
import subprocess
import sys
import warnings

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from adslm_helpers import figure_style, plots

TRAIN = [
    {"step": n, "loss": 0.7 - n / 400, "rewards/margins": n / 100, "rewards/accuracies": 0.5 + n / 400} for n in range(5, 105, 5)
]
HELD_OUT = [{"step": n, "eval_loss": 0.72 - n / 400, "eval_rewards/margins": n / 120} for n in (50, 100)]
RATES = {"right_product": 0.97, "call_to_action": 0.55, "own_check": None}
BETTER = {"right_product": 0.98, "call_to_action": 1.0, "own_check": 1.0}

LABELS = {"right_product": ("商品名が正しい", "right product"), "call_to_action": ("行動を促している", "call to action")}

FIGURES = {
    "curves": lambda: plots.training_curves(TRAIN + HELD_OUT),
    "train rows only": lambda: plots.training_curves(TRAIN),
    "one row": lambda: plots.training_curves(TRAIN[:1]),
    "no row": lambda: plots.training_curves([]),
    "lengths": lambda: plots.length_histogram({"prompt": [60, 61, 75], "chosen": [20, 24] * 80 + [900], "rejected": []}),
    "tokens": lambda: plots.length_histogram({"見出し": [3]}, unit="tokens"),
    "counts": lambda: plots.count_bars({"採用 / kept": 1200, "重複 / duplicate": 0}, ("行", "Rows")),
    "rubric": lambda: plots.rubric_bars(RATES, BETTER, {"call_to_action": (0.5, 0.6)}, {"call_to_action": [0.95, 1.0]}, LABELS),
    "win": lambda: plots.win_tie_loss({"win": 160, "tie": 120, "loss": 20}, 0.53, (0.48, 0.59)),
    "win, no comparison": lambda: plots.win_tie_loss({}),
    "margins": lambda: plots.margin_histogram([-0.4, 0.0, 0.3, 1.2, 2.0]),
    "no margins": lambda: plots.margin_histogram([]),
    "one margin": lambda: plots.margin_histogram([0.0]),
    "posteriors": lambda: plots.posterior_curves({"送料無料": (120, 10_000), "静かな夜に": (0, 50)}, (43.0, 1394.0)),
    "recipes": lambda: plots.recipe_comparison(
        [
            {"name": "良い / good", "reward_accuracy": 0.99, "reward_accuracy_ci95": [0.97, 1.0], "rubric_pass_tuned": 0.93},
            {"name": "悪い / bad", "reward_accuracy": 1.0, "rubric_pass": 0.4, "degenerate": 0.2},
        ]
    ),
}


@pytest.fixture(params=["Japanese font", "no Japanese font"])
def font(request, monkeypatch):
    if request.param.startswith("no"):
        monkeypatch.setattr(figure_style, "japanese_font", lambda: None)
    elif not plots.use_japanese_font():
        pytest.skip("no Japanese font is installed here")


def texts(figure):
    """What is drawn: matplotlib also keeps the labels of ticks beyond the limits."""
    beyond = set()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in axis.get_major_ticks():
            if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                beyond |= {tick.label1, tick.label2}
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in found if text not in beyond]


def words(figure):
    return " | ".join(text.get_text() for text in texts(figure))


def assert_every_word_can_be_read(figure):
    """No text is cut off, and none lies on another."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer).padded(-1)) for text in texts(figure)]
    for text, box in boxes:
        inside = box.x0 >= -2 and box.y0 >= -2 and box.x1 <= figure.bbox.width + 2 and box.y1 <= figure.bbox.height + 2
        assert inside, f"{text!r} is cut off"
    for (one, box), (other, other_box) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other_box), f"{one!r} lies on {other!r}"


@pytest.mark.parametrize("name", FIGURES)
def test_no_boxes_no_overlaps_nothing_cut_off(name, font):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # "Glyph ... missing from font(s)", a layout that collapsed
        figure = FIGURES[name]()
        assert plots.to_png(figure).startswith(b"\x89PNG")
    assert_every_word_can_be_read(figure)


def test_without_a_japanese_font_every_word_is_english(monkeypatch):
    monkeypatch.setattr(figure_style, "japanese_font", lambda: None)
    for name, make in FIGURES.items():
        shown = words(make()).replace("−", "-")  # matplotlib's minus sign, which DejaVu has
        assert shown.isascii(), f"{name}: {shown}"
    assert "kept" in words(FIGURES["counts"]()) and "???" in words(FIGURES["tokens"]())


def test_a_listed_font_whose_file_is_gone_is_not_used(monkeypatch):
    from matplotlib import font_manager

    gone = font_manager.FontEntry(fname="/gone/NotoSansCJK.ttc", name="Noto Sans CJK JP")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [gone])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    assert not plots.use_japanese_font()


def test_nothing_global_changes():
    before = dict(matplotlib.rcParams)
    FIGURES["curves"]()
    assert dict(matplotlib.rcParams) == before
    code = (
        "import sys; from adslm_helpers import plots; assert 'matplotlib' not in sys.modules;"
        "plots.training_curves([]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_figure_shows_itself_in_a_notebook_where_pyplot_was_never_imported():
    assert FIGURES["no row"]()._repr_png_().startswith(b"\x89PNG")


def test_curves_leave_out_what_is_no_number_and_let_a_resumed_run_win():
    rows = [{"step": 1, "loss": 0.69}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": None}, {"step": 4, "loss": 9.0}]
    figure = plots.training_curves([*rows, {"step": 4, "loss": 0.5}, {"train_runtime": 3.0}])
    curve = next(line for line in figure.axes[0].lines if line.get_label().endswith("train"))
    assert [list(axis) for axis in curve.get_data()] == [[1, 4], [0.69, 0.5]]
    assert "no records yet" in words(figure)  # margins and accuracies were never logged


def test_curves_name_their_reference_lines():
    shown = words(FIGURES["curves"]())
    assert "ln 2" in shown and "0.5" in shown and "chance" in shown
    levels = [line.get_ydata()[0] for ax in FIGURES["curves"]().axes for line in ax.lines if line.get_linestyle() == ":"]
    assert levels == pytest.approx([0.693147, 0.0, 0.5], abs=1e-6)


def test_one_outlier_does_not_squash_the_lengths():
    ax = FIGURES["lengths"]().axes[0]
    assert ax.get_xlim()[1] < 100 and "900" in ax.get_title(loc="right")
    counted = sum(round(height) for height in _step_heights(plots.length_histogram({"chosen": [20, 24] * 80 + [900]})))
    assert counted == 161  # the outlier is counted, in the last bar


def _step_heights(figure):
    points = figure.axes[0].patches[0].get_path().vertices
    return [y for (x0, y), (x1, y1) in itertools.pairwise(points) if y == y1 and x1 != x0]  # up and along, then back at y = 0


def test_rubric_whiskers_are_asymmetrical_and_an_interval_beside_its_rate_does_not_fail():
    assert figure_style.whiskers(0.5, (0.4, 0.8)) == [[pytest.approx(0.1)], [pytest.approx(0.3)]]
    assert figure_style.whiskers(0.5, (0.6, 0.8))[0] == [0.0]
    assert figure_style.whiskers(0.5, None) is None and figure_style.whiskers(0.5, (None, 0.6)) is None
    shown = words(plots.rubric_bars(RATES, BETTER, {"right_product": (0.98, 0.99)}, labels={"own_check": ("私の", "Mine")}))
    assert "55.0%" in shown and "Mine" in shown and "-" in shown.split(" | ")


def test_shares_of_wins_and_both_spellings_of_the_counts():
    for counts in ({"win": 6, "tie": 3, "loss": 1}, {"wins": 6, "ties": 3, "losses": 1}):
        bars = plots.win_tie_loss(counts).axes[0].patches
        assert [bar.get_width() for bar in bars] == pytest.approx([0.6, 0.3, 0.1])


def test_no_bar_of_the_margins_stands_on_both_sides_of_zero():
    margins = [-1.0, -0.01, 0.0, 0.013, 0.4, 2.9, float("nan"), None]
    figure = plots.margin_histogram(margins)
    bars = [bar for bar in figure.axes[0].patches if bar.get_height()]
    assert sum(bar.get_height() for bar in bars) == 6
    assert all(bar.get_x() >= -1e-9 or bar.get_x() + bar.get_width() <= 1e-9 for bar in bars)
    assert "50%" in words(figure)  # 3 of 6 above zero: a tie is not counted as preferring the chosen text


def test_dollar_signs_of_the_user_are_no_mathematics():
    plots.to_png(plots.count_bars({"$100 ^_ $": 1}))


def test_a_font_installed_since_matplotlib_looked_is_found_at_the_first_call(monkeypatch):
    """A collection adds several faces, and the one that is wanted need not be the last."""
    from matplotlib.font_manager import fontManager

    if not plots.use_japanese_font():
        pytest.skip("no Japanese font here")
    monkeypatch.setattr(fontManager, "ttflist", [entry for entry in fontManager.ttflist if "DejaVu" in entry.name])
    assert figure_style.japanese_font() is not None
