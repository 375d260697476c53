"""The blind A/B form for the team: a brief, two texts, one click or key each; saved at once, taken up where the rater stopped.

    rate(run, rater="tanaka")      # in a front end the form; elsewhere how to do the same with a CSV sheet

Only what ipywidgets 7 (Colab) and 8 share is used. Which text is whose is not in the form: see evaluation/blind_items.py.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from typing import Any

from ..errors import AdslmError
from ..evaluation.blind_items import Item, checked_rater, rating_items
from ..evaluation.next_round import write_next_round
from ..evaluation.rating_result import rating_summary
from ..evaluation.ratings import choices_of, save_rating
from ..foreign_text import harmless
from ..run import Run
from .live import has_front_end

LABELS = {
    "a": "A のほうが良い / A",
    "tie": "引き分け / tie",
    "b": "B のほうが良い / B",
    "skip": "スキップ / skip",
    "back": "もどる / back",
    "stop": "ここで終える / stop here",
}
KEYS = {"a": "a", "あ": "a", "1": "a", "b": "b", "3": "b", "t": "tie", "2": "tie", "s": "skip", "z": "back"}
"""What is typed into the key field; あ is what a Japanese input method makes of A."""
KEY_HINT = (
    "上の欄にカーソルを置くと、キーで選べます: A・B・T（引き分け）・S（スキップ）・Z（もどる）",
    "With the cursor in the field on top, keys choose: A, B, T (tie), S (skip), Z (back).",
)
MAKE_PAIRS = "次の学習用の対にする / make the next round's pairs"
_RED = "#D32F2F"  # can be read on white and on the dark theme


def rate(run: Run, rater: str = "team", n: int = 50, seed: int = 0) -> RatingForm:
    """A form in which `rater` compares up to `n` pairs of texts blindly; shows itself as the last line of a cell.

    Harmless without a front end. Raises RunError unless the evaluation is done, or for a name that no file can have.
    """
    return RatingForm(run, rater, n, seed)


class RatingForm:
    """What `rate` made. `choose` and `back` are the buttons' and keys'; the votes are in the run folder, not in here."""

    def __init__(self, run: Run, rater: str = "team", n: int = 50, seed: int = 0):
        self.run, self.rater = run, checked_rater(rater)
        asked = rating_items(run, n, seed, self.rater)
        self.items, self.left_out = asked.items, asked.left_out
        known = choices_of(run, self.rater)
        self.choices = {item.item_id: known[item.item_id] for item in self.items if item.item_id in known}
        self.at, self.stopped = self._next_open(0), False
        self.box: Any = None

    @property
    def item(self) -> Item | None:
        """What is on the screen; None when all is rated or the rater has stopped."""
        return self.items[self.at] if self.at < len(self.items) and not self.stopped else None

    def choose(self, choice: str) -> None:
        """Saves a choice ('a', 'b', 'tie', 'skip') for the item on the screen, then shows the next one; stays there when it cannot be saved."""
        if self.item is None:
            return
        try:
            save_rating(self.run, self.item.item_id, choice, self.rater)
        except AdslmError as error:
            self._show(error)
            return
        self.choices[self.item.item_id] = choice
        self.at = self._next_open(self.at + 1)
        self._show()

    def back(self) -> None:
        """Shows the item before again; its choice counts until another one replaces it."""
        self.at = self.at if self.stopped else max(0, self.at - 1)
        self.stopped = False
        self._show()

    def stop(self) -> None:
        """Shows the result so far; the rest can be rated another time."""
        self.stopped = True
        self._show()

    def lines(self) -> list[str]:
        """How to rate without a front end."""
        run, rater = self.run.name, self.rater
        if not self.items:
            return _nothing(self.left_out)
        return [
            f"{run}: {rater} の評価 {len(self.choices)} / {len(self.items)} 件。ここでは画面を出せないので、CSV で評価します。",
            f"{run}: {rater} has rated {len(self.choices)} of {len(self.items)}. No form can be shown here; a CSV sheet does the same:",
            f"  adslm rate --run {run} --rater {rater} --csv {rater}.csv      書き出す / write it",
            f"  adslm rate --run {run} --rater {rater} --import {rater}.csv   記入したら読み込む / read it when filled in",
            f"  adslm rate --run {run} --pairs NEXT                           次の学習用の対にする / pairs for the next round",
        ]

    def build(self) -> Any:
        """The form's box of widgets, made at the first call: one made unseen would still be saved with the notebook."""
        if self.box is None:
            import ipywidgets

            self._build(ipywidgets)
            self._show()
        return self.box

    def _ipython_display_(self) -> None:
        box = None
        if has_front_end():
            try:
                box = self.build()
            except ImportError:
                print("ipywidgets がありません。/ ipywidgets is missing.")
        if box is None:
            print(harmless("\n".join(self.lines())))
            return
        from IPython.display import display

        display(box)

    def _next_open(self, start: int) -> int:
        """The first item from `start` on without a choice; then the first of all; then the end."""
        order = [*range(start, len(self.items)), *range(min(start, len(self.items)))]
        return next((i for i in order if self.items[i].item_id not in self.choices), len(self.items))

    def _build(self, widgets: Any) -> None:
        wide, half = widgets.Layout(width="98%"), widgets.Layout(flex="1 1 18em", min_width="16em", margin="0 8px 8px 0")
        self.bar = widgets.IntProgress(
            min=0, max=max(1, len(self.items)), layout=widgets.Layout(flex="1 1 6em", max_width="16em")
        )
        self.count, self.brief, self.message = widgets.HTML(), widgets.HTML(layout=wide), widgets.HTML(layout=wide)
        self.texts = {side: widgets.HTML(layout=half) for side in ("a", "b")}
        self.buttons = {
            name: widgets.Button(description=label, layout=widgets.Layout(width="auto")) for name, label in LABELS.items()
        }
        for name, button in self.buttons.items():
            button.on_click(lambda _, name=name: self._clicked(name))
        self.key = widgets.Text(placeholder="A · T · B · S · Z", layout=widgets.Layout(width="9em"))
        self.key.observe(lambda change: self._typed(change["new"]), names="value")
        hint = widgets.HTML(value=_lines(KEY_HINT), layout=wide)
        row = widgets.Layout(flex_flow="row wrap", align_items="center", width="98%")
        self.rating = widgets.VBox(
            [
                self.brief,
                widgets.HBox([*self.texts.values()], layout=widgets.Layout(flex_flow="row wrap", width="98%")),
                widgets.HBox([*self.buttons.values()], layout=row),
                hint,
            ]
        )
        self.finished = self._build_end(widgets)
        # The field stands on top: a browser scrolls to what has the focus, and the texts are to stay in view.
        top = widgets.HBox([self.bar, self.count, self.key], layout=row)
        self.box = widgets.VBox([top, self.message, self.rating, self.finished])

    def _build_end(self, widgets: Any) -> Any:
        wide, auto = widgets.Layout(width="98%"), widgets.Layout(width="auto")
        self.result, self.made = widgets.HTML(layout=wide), widgets.HTML(layout=wide)
        self.name = widgets.Text(value=f"{self.run.name[:62]}-2", layout=widgets.Layout(width="16em"))
        self.previous = widgets.Checkbox(value=True, indent=False, layout=auto)
        self.previous.description = "今回の学習用の対も入れる / with the pairs of this run"
        self.pairs = widgets.Button(description=MAKE_PAIRS, button_style="primary", layout=auto)
        self.again = widgets.Button(description=LABELS["back"], layout=auto)
        self.pairs.on_click(lambda _: self._make_pairs())
        self.again.on_click(lambda _: self.back())
        row = widgets.Layout(flex_flow="row wrap", align_items="center", width="98%")
        label = widgets.Label(value="次の実行名 / next run")
        options = widgets.HBox([label, self.name, self.previous], layout=row)
        return widgets.VBox([self.result, options, widgets.HBox([self.pairs, self.again], layout=row), self.made])

    def _clicked(self, name: str) -> None:
        """Back into the key field where ipywidgets can (8): on a button a letter is a command of JupyterLab (A adds a cell)."""
        self._press(name)
        if self.item and hasattr(self.key, "focus"):
            self.key.focus()

    def _press(self, name: str) -> None:
        if name in ("back", "stop"):
            (self.back if name == "back" else self.stop)()
        else:
            self.choose(name)

    def _typed(self, text: str) -> None:
        """The last letter counts, and the field is emptied: letters typed before that reached the browser stand before it."""
        if not text:
            return
        self.key.value = ""
        letter = unicodedata.normalize("NFKC", text)[-1].lower()
        if letter in KEYS:
            self._press(KEYS[letter])

    def _make_pairs(self) -> None:
        try:
            said = write_next_round(self.run, self.name.value.strip(), self.previous.value).lines()
            self.made.value = _lines(said)
        except AdslmError as error:
            self.made.value = _lines(str(error).split("\n"), _RED)

    def _show(self, error: AdslmError | None = None) -> None:
        if self.box is None:
            return
        item, done = self.item, len(self.choices)
        self.bar.value = done
        self.count.value = f"&nbsp;{done} / {len(self.items)}"
        self.rating.layout.display = self.key.layout.display = None if item else "none"
        self.finished.layout.display = "none" if item else None
        self.message.value = _lines(str(error).split("\n"), _RED) if error else ""
        self.made.value = ""
        if item is None:
            self._show_result()
            return
        self.brief.value = _framed("依頼 / brief", item.prompt, quiet=True)
        for side, text in (("a", item.a), ("b", item.b)):
            self.texts[side].value = _framed(side.upper(), text or "（空 / empty）")
        chosen = self.choices.get(item.item_id)
        for name, button in self.buttons.items():
            button.button_style = "info" if name == chosen else ""
        self.buttons["back"].disabled = self.at == 0

    def _show_result(self) -> None:
        """Only when this rater is through: a running score would tell which side is winning."""
        try:
            said = rating_summary(self.run).lines() if self.items else _nothing(self.left_out)
        except AdslmError as error:
            said = str(error).split("\n")
        self.result.value = _lines(said)


def _lines(lines: Sequence[str], color: str = "inherit") -> str:
    shown = "<br>".join(html.escape(harmless(line)) for line in lines)
    return f'<div style="color:{color}; line-height:1.6; overflow-wrap:anywhere">{shown}</div>'


def _framed(title: str, text: str, quiet: bool = False) -> str:
    frame = "opacity:.85" if quiet else "border:1px solid #8888; border-radius:4px; font-size:1.15em; min-height:5em"
    style = f"white-space:pre-wrap; overflow-wrap:anywhere; line-height:1.6; padding:6px 10px; {frame}"
    return f"<b>{html.escape(title)}</b><div style='{style}'>{html.escape(harmless(text))}</div>"


def _nothing(left_out: dict[str, int]) -> list[str]:
    n = left_out.get("identical", 0)
    return [
        f"評価するものがありません（学習前と後が同じ文: {n} 件）。",
        f"There is nothing to rate: in {n} comparisons both texts are the same.",
    ]
