"""A form for preset, model, data and run name: another way to set the variables of a notebook's parameter cell.

    form = run_form({"preset": PRESET, "model": MODEL, "data": DATA, "run": RUN})
    form                     # in a front end the form; elsewhere one line with the values
    form.values()            # what stands in it

Only what ipywidgets 7 (Colab) and 8 share is used.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..dataset.formats import KINDS
from ..errors import AdslmError, DataError, RecipeError
from ..foreign_text import harmless
from ..recipe import EMBEDDED, load_recipe, preset_names
from ..run import Run, write_bytes
from ..run_names import is_folder
from .live import has_front_end

DEFAULTS = {"preset": "tiny", "model": "", "data": "sample", "run": "quickstart"}
LABELS = {
    "preset": "プリセット / preset",
    "model": "モデル（空欄: 下の既定）/ model (empty: as shown)",
    "data": "データ（sample かファイル名）/ data (sample or a path)",
    "run": "実行名 / run name",
}
_HUB_MODEL = re.compile(r"[0-9A-Za-z][\w.-]*(/[\w.-]+)?", re.ASCII)


def run_form(defaults: dict[str, str | None], on_start: Callable[[dict[str, str]], Any] | None = None) -> RunForm:
    """A form with `defaults` (preset, model, data, run) in it; its button calls `on_start(values)` once they are in order.

    Harmless without a front end or without ipywidgets: `values()` then gives the defaults. Raises RecipeError for an unknown
    field or preset among the defaults.
    """
    for key in defaults:
        if key not in DEFAULTS:
            names = ", ".join(DEFAULTS)
            raise RecipeError(
                f"フォームに {key!r} という欄はありません。→ 使える欄: {names}",
                f"The form has no field {key!r}. -> Its fields: {names}",
            )
    values = {key: str(defaults.get(key) or default).strip() for key, default in DEFAULTS.items()}
    load_recipe(values["preset"])
    return RunForm(values, on_start)


def problems(values: dict[str, str]) -> list[AdslmError]:
    """What would keep a run with these values from starting, as far as it can be seen without loading anything."""
    checks = (lambda: load_recipe(values["preset"]), lambda: _check_model(values["model"]))
    checks += (lambda: _check_data(values["data"]), lambda: Run(values["run"]))
    found = []
    for check in checks:
        try:
            check()
        except AdslmError as error:
            found.append(error)
    return found


def uploaded_files(value: Any) -> list[tuple[str, bytes]]:
    """Names and contents of a FileUpload's `value`: a dict by name in ipywidgets 7, a tuple of dicts in 8."""
    if isinstance(value, dict):
        return [(name, bytes(entry["content"])) for name, entry in value.items()]
    return [(entry["name"], bytes(entry["content"])) for entry in value]


def save_upload(run_name: str, name: str, content: bytes) -> Path:
    """The path of an uploaded file in the run's `uploads/`; another file of that name is kept and the new one numbered.

    Raises DataError for an empty file or one of no known kind, RunError for a bad run name.
    """
    safe = _safe_name(name)
    if safe.suffix.lower() not in KINDS:
        kinds = " ".join(KINDS)
        raise DataError(
            f"{name!r} は使えない形式です。→ {kinds} のどれかをアップロードしてください。",
            f"{name!r} is of no kind that can be used. -> Upload one of {kinds}.",
        )
    if not content:
        raise DataError(
            f"{name!r} は空のファイルです。→ 中身を確かめて、もう一度アップロードしてください。",
            f"{name!r} is an empty file. -> Check it and upload it again.",
        )
    folder = Run(run_name).path / "uploads"
    path, number = folder / safe, 2
    stem, suffixes = safe.name.split(".", 1)[0], "".join(safe.suffixes)  # pairs.csv.gz is read by what stands before .gz
    while path.exists() and path.read_bytes() != content:
        path, number = folder / f"{stem}-{number}{suffixes}", number + 1
    return path if path.exists() else write_bytes(path, content)


class RunForm:
    """The form that `run_form` made; as the last line of a cell it shows itself."""

    def __init__(self, values: dict[str, str], on_start: Callable[[dict[str, str]], Any] | None = None):
        self._values, self.on_start = values, on_start
        self.fields: dict[str, Any] = {}
        self.box: Any = None

    def values(self) -> dict[str, str]:
        """What stands in the form: preset, model ('' for the preset's own), data, run."""
        return dict(self._values)

    def build(self) -> Any:
        """The form's box of widgets, made at the first call: one made unseen would still be saved with the notebook."""
        if self.box is None:
            import ipywidgets

            self._build(ipywidgets)
        return self.box

    def _ipython_display_(self) -> None:
        if not has_front_end():
            listing = ", ".join(f"{key}={value!r}" for key, value in self._values.items())
            print("ここではフォームを表示できません。次の値を使います。/ No form can be shown here; these values are used:")
            print(harmless(listing))
            return
        try:
            box = self.build()
        except ImportError:
            print("ipywidgets がないため、フォームは表示できません。→ 上のセルの変数を直接書き換えてください。")
            print("Without ipywidgets there is no form. -> Edit the variables of the cell above instead.")
            return
        from IPython.display import display

        display(box)

    def _build(self, widgets: Any) -> None:
        wide, style = widgets.Layout(width="98%"), {"description_width": "initial"}
        preset = widgets.Dropdown(options=preset_names(), value=self._values["preset"], layout=wide)
        texts = {
            key: widgets.Text(value=self._values[key], continuous_update=False, layout=wide) for key in ("model", "data", "run")
        }
        self.fields = {"preset": preset, **texts}
        self.upload = widgets.FileUpload(accept=",".join(KINDS), multiple=False, layout=widgets.Layout(width="18em"))
        self.upload.description = "アップロード / upload"
        label = "開始 / Start" if self.on_start else "確認 / Check"
        self.button = widgets.Button(description=label, button_style="primary", style=style)
        self.message, self.output = widgets.HTML(), widgets.Output()
        rows = [part for key, field in self.fields.items() for part in (widgets.Label(value=LABELS[key]), field)]
        rows.insert(rows.index(texts["data"]) + 1, self.upload)
        self.box = widgets.VBox([*rows, self.button, self.message, self.output])
        for key, field in self.fields.items():
            field.observe(lambda change, key=key: self._changed(key, change["new"]), names="value")
        self.upload.observe(lambda change: self._uploaded(change["new"]), names="value")
        self.button.on_click(lambda _: self._start())
        self._name_default_model()

    def _changed(self, key: str, value: str) -> None:
        self._values[key] = value.strip()
        if key == "preset":
            self._name_default_model()
        self._show(problems(self._values))

    def _name_default_model(self) -> None:
        self.fields["model"].placeholder = load_recipe(self._values["preset"]).models[0]

    def _uploaded(self, value: Any) -> None:
        for name, content in uploaded_files(value)[-1:]:
            try:
                self.fields["data"].value = str(save_upload(self._values["run"], name, content))
            except AdslmError as error:
                self._show([error])
            except OSError as error:  # disk full, folder not writable: the browser would show nothing at all
                reason = f"{type(error).__name__}: {error}"
                ja, en = f"{name!r} を保存できません（{reason}）。", f"{name!r} could not be saved ({reason})."
                self._show([DataError(f"{ja}→ 空き容量を確かめてください。", f"{en} -> Check the disk space.")])

    def _start(self) -> None:
        found = problems(self._values)
        self._show(found, done="設定に問題はありません。/ The settings are in order.")
        if found or self.on_start is None:
            return
        with self.output:  # what on_start prints or raises appears under the form, not in the server's log
            try:
                self.on_start(self.values())
            except AdslmError as error:
                self._show([error])

    def _show(self, found: list[AdslmError], done: str = "") -> None:
        lines = [html.escape(line) for error in found for line in str(error).split("\n")]
        color = "#B00020" if found else "#006B3C"
        self.message.value = f'<div style="color:{color}">{"<br>".join(lines or [html.escape(done)])}</div>'


def _check_model(model: str) -> None:
    for name in filter(None, (part.strip() for part in model.split(","))):
        if name != EMBEDDED and not _HUB_MODEL.fullmatch(name) and not is_folder(name):
            raise RecipeError(
                f"モデル {name!r} は Hugging Face の名前でもフォルダーでもありません。"
                "→ 例: Qwen/Qwen2.5-0.5B-Instruct（空欄: プリセットの既定）",
                f"Model {name!r} is neither a Hugging Face name nor a folder. -> For example Qwen/Qwen2.5-0.5B-Instruct; "
                "empty: the preset's own.",
            )


def _check_data(data: str) -> None:
    if data.startswith("hf:") or re.fullmatch(r"sample(:[1-9][0-9]*)?", data):  # a form asks no network
        return
    if not data:
        raise DataError(
            "データが空欄です。→ sample か、ファイルのパスを入れてください。",
            "The data field is empty. -> Enter sample or the path of a file.",
        )
    from ..dataset.formats import read_rows

    read_rows(data)  # looks for the file and its kind; the rows themselves are read when asked for


def _safe_name(name: str) -> Path:
    """A file name without folders, control characters or what some system forbids; at most 60 characters and the suffix."""
    base = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]  # macOS browsers send decomposed kana
    path = Path(re.sub(r"[^\w.-]", "_", base).lstrip("._-") or "upload")
    return Path(path.stem[:60] + path.suffix)
