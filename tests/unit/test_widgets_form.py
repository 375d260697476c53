"""The run form: useful without a front end, safe with uploads, errors shown and escaped."""

import subprocess
import sys

import pytest

from adslm_helpers.errors import DataError, RecipeError, RunError
from adslm_helpers.widgets import form as forms
from adslm_helpers.widgets.form import run_form, save_upload, uploaded_files

LINE = b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n'


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("ADSLM_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def built(defaults=None, on_start=None):
    form = run_form(defaults or {}, on_start)
    form.build()
    return form


def test_values_are_the_defaults_without_a_front_end(capsys):
    given = {"preset": "smoke", "model": None, "data": "sample", "run": "mine"}
    form = run_form(given)
    assert form.values() == {"preset": "smoke", "model": "", "data": "sample", "run": "mine"}
    form._ipython_display_()
    said = capsys.readouterr().out
    assert "フォームを表示できません" in said and "run='mine'" in said


def test_no_widget_is_made_where_none_is_shown():
    form = run_form({})
    form._ipython_display_()
    assert form.box is None  # nbclient saves the state of every widget, and GitHub then shows no notebook


def test_making_and_asking_a_form_loads_nothing_heavy():
    code = (
        "import sys; from adslm_helpers.widgets.form import run_form; run_form({}).values();"
        "assert not {'torch', 'transformers', 'ipywidgets', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_ipywidgets_a_hint_in_both_languages(monkeypatch, capsys):
    monkeypatch.setattr(forms, "has_front_end", lambda: True)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    run_form({})._ipython_display_()
    said = capsys.readouterr().out
    assert "ipywidgets がない" in said and "Without ipywidgets" in said


def test_an_unknown_field_or_preset_is_named():
    with pytest.raises(RecipeError, match="modell"):
        run_form({"modell": "x"})
    with pytest.raises(RecipeError, match="tiny"):
        run_form({"preset": "tinny"})


def test_fields_change_the_values_and_the_preset_its_model():
    form = built()
    assert form.fields["model"].placeholder == "embedded-tiny"
    form.fields["preset"].value = "colab_t4"
    form.fields["run"].value = " spring "
    assert form.fields["model"].placeholder == "SakanaAI/TinySwallow-1.5B-Instruct"
    assert form.values() == {"preset": "colab_t4", "model": "", "data": "sample", "run": "spring"}


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("run", "../outside", "実行名"),
        ("data", "/nowhere/広告.csv", "がありません"),
        ("data", "", "空欄"),
        ("model", "two words", "two words"),
    ],
)
def test_problems_are_shown_in_both_languages_and_block_the_start(field, value, word):
    started = []
    form = built(on_start=started.append)
    form.fields[field].value = value
    assert word in form.message.value and "-&gt;" in form.message.value and "→" in form.message.value
    form.button.click()
    assert started == []


def test_what_the_user_typed_is_escaped():
    form = built()
    form.fields["data"].value = "<img src=x onerror=alert(1)>.csv"
    assert "<img" not in form.message.value and "&lt;img" in form.message.value


@pytest.mark.parametrize("data", ["sample", "sample:50", "hf:owner/name:train"])
@pytest.mark.parametrize("model", ["", "embedded-tiny", "Qwen/Qwen2.5-0.5B-Instruct, rinna/japanese-gpt2-medium"])
def test_start_hands_over_good_values(data, model):
    started = []
    form = built({"data": data, "model": model}, started.append)
    form.button.click()
    assert started == [form.values()] and started[0]["data"] == data and "in order" in form.message.value


def test_an_error_of_ours_at_the_start_is_shown_in_the_form():
    def refuse(values):
        raise DataError("だめです。→ <b>", "no. -> <b>")

    form = built(on_start=refuse)
    form.button.click()
    assert "だめです" in form.message.value and "<b>" not in form.message.value


def test_both_shapes_of_an_upload():
    seven = {"広告.jsonl": {"metadata": {"name": "広告.jsonl", "size": len(LINE)}, "content": LINE}}
    eight = ({"name": "広告.jsonl", "type": "", "size": len(LINE), "content": memoryview(LINE)},)
    assert uploaded_files(seven) == uploaded_files(eight) == [("広告.jsonl", LINE)]
    assert uploaded_files({}) == uploaded_files(()) == []


@pytest.mark.parametrize(
    "value", [{"ads.jsonl": {"metadata": {}, "content": LINE}}, ({"name": "ads.jsonl", "content": memoryview(LINE)},)]
)
def test_an_upload_becomes_the_data_of_the_run(value, runs):
    form = built({"run": "mine"})
    form._uploaded(value)
    path = runs / "mine" / "uploads" / "ads.jsonl"
    assert form.values()["data"] == str(path) and path.read_bytes() == LINE
    assert forms.problems(form.values()) == []


def test_the_real_upload_widget_reports_to_the_form(runs):
    import datetime

    form = built({"run": "mine"})
    if not isinstance(form.upload.value, tuple):
        pytest.skip("ipywidgets 7 sets the value from the browser only")
    stamp = datetime.datetime.now(datetime.timezone.utc)
    entry = {"name": "a.csv", "type": "text/csv", "size": len(LINE), "content": memoryview(LINE), "last_modified": stamp}
    form.upload.value = (entry,)
    assert form.values()["data"].endswith("a.csv")


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("../../etc/cron.jsonl", "cron.jsonl"),
        ("C:\\data\\広告 <1>.CSV", "広告__1_.CSV"),
        (".hidden.json", "hidden.json"),
        ("か\u3099.tsv", "が.tsv"),
        ("長" * 300 + ".jsonl", "長" * 60 + ".jsonl"),
    ],
)
def test_upload_names_stay_in_the_uploads_folder(name, saved, runs):
    assert save_upload("mine", name, LINE) == runs / "mine" / "uploads" / saved


def test_an_upload_overwrites_no_other_file():
    first = save_upload("mine", "a.csv", b"1")
    assert save_upload("mine", "a.csv", b"1") == first
    second = save_upload("mine", "a.csv", b"2")
    assert second.name == "a-2.csv" and (first.read_bytes(), second.read_bytes()) == (b"1", b"2")


@pytest.mark.parametrize(("run", "name", "content"), [("mine", "a.docx", b"1"), ("mine", "a.csv", b""), ("../x", "a.csv", b"1")])
def test_bad_uploads_are_refused_and_nothing_is_written(run, name, content, runs):
    with pytest.raises((DataError, RunError)):
        save_upload(run, name, content)
    assert not runs.exists()


def test_a_refused_upload_is_told_in_the_form():
    form = built()
    form._uploaded(({"name": "<x>.docx", "content": memoryview(b"1")},))
    assert "&lt;x&gt;.docx" in form.message.value and form.values()["data"] == "sample"


def test_a_full_disk_is_told_in_the_form(monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(forms, "write_bytes", full)
    form = built()
    form._uploaded({"a.csv": {"metadata": {}, "content": LINE}})
    assert "No space left" in form.message.value and form.values()["data"] == "sample"
