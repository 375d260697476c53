"""The rating form: every click is on disk, nobody sees whose text is whose, and what goes wrong is said in the form."""

import re
import sys

import pytest

from adslm_helpers.errors import RunError
from adslm_helpers.evaluation import ratings
from adslm_helpers.evaluation.blind_items import rating_items
from adslm_helpers.evaluation.ratings import choices_of
from adslm_helpers.run import Run, read_jsonl, write_jsonl
from adslm_helpers.widgets import rating as forms
from adslm_helpers.widgets.rating import rate

EVIL = "<img src=x onerror=alert(1)>\x1b[2J\u202e"


def rated_run(n=4, **changes):
    run = Run("spring")
    rows = [{"prompt": f"商品：靴{i}", "base": f"{i}番の靴です", "tuned": f"靴{i}、ご注文はこちら", **changes} for i in range(n)]
    with run.step("dataset"):
        for side in ("train", "eval"):
            write_jsonl(run.dataset / f"{side}.jsonl", [{"prompt": f"商品：傘{side}", "chosen": "良い傘", "rejected": "傘"}])
    with run.step("evaluation"):
        write_jsonl(run.evaluation / "comparisons.jsonl", rows)
    return run


def built(run=None, **options):
    form = rate(run or rated_run(), "ai", **options)
    form.build()
    return form


def shown(form):
    """All that the browser is sent: the state of every widget of the form."""
    boxes, states = [form.box], []
    while boxes:
        box = boxes.pop()
        states.append(box.get_state())
        boxes += getattr(box, "children", ())
    return str(states)


def saved(form):
    return [choices_of(form.run, "ai").get(item.item_id) for item in form.items]


def test_a_click_is_saved_at_once_and_shows_the_next_texts():
    form = built()
    first = form.item
    assert first.a in form.texts["a"].value and first.b in form.texts["b"].value and first.prompt in form.brief.value
    form.buttons["b"].click()
    assert saved(form) == ["b", None, None, None] and form.item == form.items[1] and form.bar.value == 1
    assert form.item.a in form.texts["a"].value and "1 / 4" in form.count.value


def test_each_button_saves_its_own_choice():
    form = built()
    for name in ("a", "tie", "b", "skip"):
        form.buttons[name].click()
    assert saved(form) == ["a", "tie", "b", "skip"] and form.item is None


@pytest.mark.parametrize(
    ("typed", "choice"),
    [("a", "a"), ("Ｂ", "b"), ("あ", "a"), ("t", "tie"), ("2", "tie"), ("s", "skip"), ("ab", "b"), ("x", None), ("?", None)],
)
def test_a_letter_in_the_field_is_a_choice_and_the_field_is_emptied(typed, choice):
    form = built()
    form.key.value = typed
    assert saved(form)[0] == choice and form.key.value == ""


def test_the_same_letter_twice_is_two_choices():
    form = built()
    form.key.value = "a"
    form.key.value = "a"
    assert saved(form) == ["a", "a", None, None]


def test_back_shows_the_item_before_with_its_choice_and_another_one_replaces_it():
    form = built()
    form.buttons["a"].click()
    form.key.value = "z"
    assert form.item == form.items[0] and form.buttons["a"].button_style == "info" and saved(form)[0] == "a"
    form.buttons["tie"].click()
    assert saved(form) == ["tie", None, None, None] and form.item == form.items[1]
    assert form.buttons["tie"].button_style == ""


def test_a_rater_goes_on_where_they_stopped_and_another_starts_anew():
    run = rated_run()
    form = built(run)
    form.buttons["a"].click()
    form.buttons["skip"].click()
    again = rate(run, "Ai")
    assert again.item == again.items[2] and rate(run, "ken").at == 0


def test_the_browser_is_told_neither_whose_text_is_whose_nor_the_score_before_the_end():
    form = built()
    form.buttons["a"].click()
    assert not re.search("tuned|base|勝|seed", shown(form))
    for _ in range(3):
        form.buttons["a"].click()
    assert "学習後の勝ち・引分・負け" in form.result.value


def test_stopping_early_shows_the_result_and_back_goes_on():
    form = built()
    form.buttons["a"].click()
    form.buttons["stop"].click()
    assert form.item is None and "まだ何も言えません" in form.result.value and form.rating.layout.display == "none"
    form.again.click()
    assert form.item == form.items[1] and form.rating.layout.display is None and form.finished.layout.display == "none"


def test_texts_are_shown_and_not_run():
    form = built(rated_run(1, prompt=EVIL, tuned=EVIL))
    state = shown(form)
    assert "<img" not in state and "&lt;img" in state and "\x1b" not in state and "\u202e" not in state


def test_what_cannot_be_saved_is_said_and_the_item_stays(monkeypatch):
    def full(path, rows):
        raise OSError(28, "No space left on device")

    form = built()
    with monkeypatch.context() as patched:
        patched.setattr(ratings, "write_jsonl", full)
        form.buttons["a"].click()
    assert "No space left" in form.message.value and form.item == form.items[0] and form.bar.value == 0
    form.buttons["a"].click()
    assert saved(form)[0] == "a" and form.message.value == ""


def test_a_new_evaluation_under_an_open_form_is_said():
    form = built()
    rated_run(tuned="別の文")
    form.buttons["a"].click()
    assert "present comparisons" in form.message.value and choices_of(form.run, "ai") == {}


def test_the_button_writes_the_pairs_and_names_the_command():
    form = built()
    for _ in form.items:
        form.buttons["a"].click()
    form.pairs.click()
    path = form.run.evaluation / "next_round" / "spring-2.jsonl"
    assert len(read_jsonl(path)) == 5 and f"adslm dataset {path} --run spring-2" in form.made.value
    form.name.value, form.previous.value = "spring", False
    form.pairs.click()
    assert "own name" in form.made.value


def test_nothing_to_rate_is_said():
    """After a training that changed nothing (the smoke preset) every pair of texts is the same."""
    form = built(rated_run(tuned="同じ", base="同じ"))
    assert "4 comparisons" in form.lines()[1]
    assert form.item is None and "4 comparisons" in form.result.value
    form.buttons["a"].click()
    assert not (form.run.evaluation / "ratings").exists()


def test_without_a_front_end_the_sheet_is_explained_and_no_widget_made(capsys):
    form = rate(rated_run(), "ai")
    form._ipython_display_()
    said = capsys.readouterr().out
    assert "adslm rate --run spring --rater ai --csv ai.csv" in said and "--import" in said and form.box is None


def test_without_ipywidgets_the_sheet_is_explained(monkeypatch, capsys):
    monkeypatch.setattr(forms, "has_front_end", lambda: True)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    rate(rated_run(), "ai")._ipython_display_()
    said = capsys.readouterr().out
    assert "ipywidgets がありません" in said and "--csv ai.csv" in said


def test_a_run_without_an_evaluation_is_refused():
    with pytest.raises(RunError, match="evaluation"):
        rate(Run("nothing"))


def test_the_form_shows_what_rating_items_gives():
    run = rated_run(9)
    assert rate(run, "ai", n=3, seed=5).items == rating_items(run, 3, 5, "ai").items
