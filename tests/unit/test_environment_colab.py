"""Colab's file dialogs with the stand-in of tests/fake_colab: nothing is overwritten, nothing is left lying about."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from adslm_helpers.environment.colab import download_file, in_notebook, on_colab, upload_files
from adslm_helpers.errors import SetupError


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """No Colab unless a test asks for it, and an empty working directory."""
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def choose(colab):
    """What the user picks in the dialog: file name -> content."""
    (colab.root / "uploads").mkdir()

    def choose(**files):
        for name, content in files.items():
            (colab.root / "uploads" / name.replace("__", ".")).write_bytes(content)

    return choose


def raising(error):
    def service(*_args, **_keywords):
        raise error

    return service


def test_colab_is_known_by_variable_then_by_loaded_module(monkeypatch):
    assert not on_colab()
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")  # all that a subprocess has
    assert on_colab()
    monkeypatch.delenv("COLAB_RELEASE_TAG")
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    assert on_colab()


def test_ipython_in_a_terminal_is_no_notebook(monkeypatch):
    shell = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert not in_notebook()
    shell.kernel = object()
    assert in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not in_notebook()


def test_upload_overwrites_nothing(colab, choose, tmp_path):
    target = tmp_path / "data"
    target.mkdir()
    (target / "pairs.csv").write_bytes(b"old")
    choose(pairs__csv=b"new", 広告__csv=b"j")
    paths = upload_files(target)
    assert [path.name for path in paths] == ["pairs-2.csv", "広告.csv"]
    assert (target / "pairs.csv").read_bytes() == b"old" and paths[0].read_bytes() == b"new"


def test_upload_stays_in_its_folder_whatever_the_browser_calls_the_file(colab, tmp_path, monkeypatch):
    names = {"../../evil.csv": b"x", "a:b?.csv": b"y", "..": b"z"}
    monkeypatch.setattr(colab.files, "upload", lambda: names)
    paths = upload_files(tmp_path / "data")
    assert [path.name for path in paths] == ["evil.csv", "a_b_.csv", "upload"]
    assert all(path.parent == tmp_path / "data" for path in paths)


def test_two_uploads_that_clean_to_one_name_are_both_kept(colab, tmp_path, monkeypatch):
    monkeypatch.setattr(colab.files, "upload", lambda: {"a?.csv": b"1", "a*.csv": b"2"})
    assert [path.read_bytes() for path in upload_files(tmp_path / "new")] == [b"1", b"2"]


def test_decomposed_file_names_of_macos_browsers_are_composed(colab, tmp_path, monkeypatch):
    monkeypatch.setattr(colab.files, "upload", lambda: {"テ\u3099ータ.csv": b"1"})
    assert upload_files(tmp_path)[0].name == "データ.csv"


def test_copy_that_colab_leaves_beside_the_notebook_is_removed(colab, choose, tmp_path, monkeypatch):
    Path("mine.csv").write_bytes(b"customer")  # was there before: not ours to remove, whatever it holds
    choose(pairs__csv=b"customer", mine__csv=b"customer")
    upload = colab.files.upload

    def upload_while_something_else_writes():
        Path("unrelated.log").write_bytes(b"log")
        return upload()

    monkeypatch.setattr(colab.files, "upload", upload_while_something_else_writes)
    assert len(upload_files(tmp_path / "data")) == 2
    assert sorted(path.name for path in Path().iterdir()) == ["mine.csv", "unrelated.log"]


def test_upload_into_the_working_directory_survives_the_cleaning(colab, choose):
    choose(pairs__csv=b"1")
    assert upload_files(Path())[0].read_bytes() == b"1"


def test_upload_away_from_colab_says_where_to_put_the_file(tmp_path):
    with pytest.raises(SetupError, match="DATA"):
        upload_files(tmp_path)


def test_upload_cancelled_or_failed(colab, choose, tmp_path, monkeypatch):
    assert upload_files(tmp_path) == []
    monkeypatch.setattr(colab.files, "upload", raising(colab.errors.Error("tab\nclosed")))
    with pytest.raises(SetupError, match="Error: tab closed"):
        upload_files(tmp_path)


def test_download_hands_the_file_to_the_browser_or_says_where_it_lies(colab, tmp_path, monkeypatch):
    path = tmp_path / "export.zip"
    path.write_bytes(b"zip")
    download_file(path)
    assert (colab.root / "downloads" / "export.zip").read_bytes() == b"zip"
    with pytest.raises(SetupError, match=r"gone\.zip.*FileNotFoundError"):
        download_file(tmp_path / "gone.zip")
    monkeypatch.delenv("COLAB_RELEASE_TAG")
    monkeypatch.delitem(sys.modules, "google.colab")
    with pytest.raises(SetupError, match=r"lies at .*export\.zip"):
        download_file(path)
