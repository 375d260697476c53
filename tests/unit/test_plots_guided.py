"""Figures of preference-guided DPO: the same rules as for all figures, and the numbers that the lesson reads off them."""

import warnings

import pytest
from test_plots import assert_every_word_can_be_read, font, texts, words  # noqa: F401

from adslm_helpers import figure_style, plots_guided

LONG = "Write honestly and without exaggeration, name the product, and end with what the reader should do next, please."
GAPS = {"誇張せず、正直に書いてください。": [0.4, -0.2, 20.0], LONG: [-30.0, 0.1, 0.0]}
MEANS = {name: (0.13, [-0.03, 0.3]) for name in GAPS}
TAUGHT = {"普通の DPO / plain": [1.0, -1.0, 0.5, 40.0], "指示つき / guided": [1.0, -1.0, 0.5, 40.0]}
LEARNED = {"普通の DPO / plain": [0.5, 2.0, 3.0, 4.0], "指示つき / guided": [2.0, 2.5, 3.0, 5.0]}

FIGURES = {
    "gaps": lambda: plots_guided.instruction_gaps(GAPS, MEANS),
    "no gap": lambda: plots_guided.instruction_gaps({}, {}),
    "learned": lambda: plots_guided.learned_against_taught(TAUGHT, LEARNED),
    "three trainings": lambda: plots_guided.learned_against_taught(
        {**TAUGHT, "埋め込み / embeddings": [2.0]}, {**LEARNED, "埋め込み / embeddings": [1.0]}
    ),
    "nothing learned": lambda: plots_guided.learned_against_taught({}, {}),
    "no pairs": lambda: plots_guided.learned_against_taught({"x": []}, {"x": []}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_boxes_no_overlaps_nothing_cut_off(name, font):  # noqa: F811
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = FIGURES[name]()
    assert_every_word_can_be_read(figure)


def test_without_a_japanese_font_every_word_is_english(monkeypatch):
    monkeypatch.setattr(figure_style, "japanese_font", lambda: None)
    for name, make in FIGURES.items():
        shown = words(make()).replace("−", "-")  # matplotlib's minus sign, which DejaVu has
        assert shown.isascii(), f"{name}: {shown}"


def test_one_pair_far_out_does_not_decide_the_scale_and_is_counted():
    (ax,) = FIGURES["gaps"]().axes
    assert max(map(abs, ax.get_xlim())) < 20 and "2 pairs beyond" in ax.get_title(loc="right")
    assert "+0.13\n[-0.03, +0.30]" in words(FIGURES["gaps"]())


def test_a_pair_is_pulled_where_the_model_is_behind_its_teacher():
    plain, guided = (ax.get_title() for ax in FIGURES["learned"]().axes)
    assert plain.endswith("m < mp: 50%") and guided.endswith("m < mp: 25%")  # 0.5 < 1 and 4 < 40; 5 < 40, drawn at the edge
