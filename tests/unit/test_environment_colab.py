"""Colab's services with a made-up google.colab: what is refused gets a next step, and the token stays secret."""

import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from adslm_helpers.environment import colab
from adslm_helpers.environment.colab import drive_folder, hf_token, in_notebook, on_colab, upload_files
from adslm_helpers.errors import SetupError

TOKEN = "hf_abcDEF0123456789"


class ColabError(Exception):
    pass


class NotebookAccessError(Exception):  # as in Colab: not a ColabError
    pass


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """No Colab, no token, no Drive, and an empty working directory."""
    for name in ("COLAB_RELEASE_TAG", "ADSLM_DRIVE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    monkeypatch.setattr(colab, "_MOUNT_POINT", tmp_path / "content" / "drive")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def google(monkeypatch):
    """A Colab kernel: `google.drive.mount = ...` decides what its services do."""
    modules = {name: ModuleType(f"google.colab.{name}") for name in ("drive", "files", "userdata", "errors")}
    modules["errors"].Error = ColabError
    modules["userdata"].NotebookAccessError = NotebookAccessError
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20260815")
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"google.colab.{name}", module)
    monkeypatch.setattr(colab, "in_notebook", lambda: True)
    return SimpleNamespace(**modules)


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


def test_mounted_drive_is_used_without_asking_again(google):
    google.drive.mount = raising(AssertionError("asked for authorisation although Drive is mounted"))
    (colab._MOUNT_POINT / "MyDrive").mkdir(parents=True)
    assert drive_folder() == colab._MOUNT_POINT / "MyDrive"


def test_drive_is_mounted_when_it_is_not(google):
    google.drive.mount = lambda point: (Path(point) / "MyDrive").mkdir(parents=True)
    assert drive_folder().is_dir()


@pytest.mark.parametrize(
    "error",
    [
        ColabError("credential propagation was unsuccessful"),
        ValueError("Mountpoint must not already contain files"),
        NotImplementedError("no drive here"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_refused_drive_gets_a_next_step(google, error):
    google.drive.mount = raising(error)
    with pytest.raises(SetupError) as caught:
        drive_folder()
    assert str(error) in caught.value.en and "->" in caught.value.en and "→" in caught.value.ja


def test_mount_that_mounts_nothing_is_not_believed(google):
    google.drive.mount = lambda point: None
    with pytest.raises(SetupError, match="did not appear"):
        drive_folder()


def test_drive_without_mounting_or_away_from_colab(google, monkeypatch):
    google.drive.mount = raising(AssertionError("mounted although asked not to"))
    with pytest.raises(SetupError, match="not mounted"):
        drive_folder(mount=False)
    monkeypatch.delenv("COLAB_RELEASE_TAG")
    with pytest.raises(SetupError, match="ADSLM_DRIVE"):
        drive_folder()


def test_own_drive_folder_wins_and_must_exist(google, monkeypatch, tmp_path):
    google.drive.mount = raising(AssertionError("mounted although a folder is given"))
    monkeypatch.setenv("ADSLM_DRIVE", str(tmp_path))
    assert drive_folder() == tmp_path
    monkeypatch.setenv("ADSLM_DRIVE", str(tmp_path / "typo"))
    with pytest.raises(SetupError, match="typo"):
        drive_folder()


def test_upload_overwrites_nothing_and_stays_in_its_folder(google, tmp_path):
    target = tmp_path / "data"
    target.mkdir()
    (target / "pairs.csv").write_bytes(b"old")
    google.files.upload = lambda: {"pairs.csv": b"new", "../../evil.csv": b"x", "a:b?.csv": b"y", "..": b"z", "広告.csv": b"j"}
    paths = upload_files(target)
    assert [path.name for path in paths] == ["pairs-2.csv", "evil.csv", "a_b_.csv", "upload", "広告.csv"]
    assert all(path.parent == target for path in paths)
    assert (target / "pairs.csv").read_bytes() == b"old" and paths[0].read_bytes() == b"new"


def test_two_uploads_that_clean_to_one_name_are_both_kept(google, tmp_path):
    google.files.upload = lambda: {"a?.csv": b"1", "a*.csv": b"2"}
    assert [path.read_bytes() for path in upload_files(tmp_path / "new")] == [b"1", b"2"]


def test_decomposed_file_names_of_macos_browsers_are_composed(google, tmp_path):
    google.files.upload = lambda: {"テ\u3099ータ.csv": b"1"}
    assert upload_files(tmp_path)[0].name == "データ.csv"


def test_copy_that_colab_leaves_beside_the_notebook_is_removed(google, tmp_path):
    Path("mine.csv").write_bytes(b"customer")  # was there before: not ours to remove, whatever it holds

    def upload():
        Path("pairs.csv").write_bytes(b"customer")
        Path("unrelated.log").write_bytes(b"log")
        return {"pairs.csv": b"customer"}

    google.files.upload = upload
    upload_files(tmp_path / "data")
    assert sorted(path.name for path in Path().iterdir()) == ["mine.csv", "unrelated.log"]


def test_upload_into_the_working_directory_survives_the_cleaning(google):
    google.files.upload = lambda: {"pairs.csv": b"1"}
    assert upload_files(Path())[0].read_bytes() == b"1"


def test_upload_away_from_colab_says_where_to_put_the_file(tmp_path):
    with pytest.raises(SetupError, match="DATA"):
        upload_files(tmp_path)


def test_upload_cancelled_or_failed(google, tmp_path):
    google.files.upload = dict
    assert upload_files(tmp_path) == []
    google.files.upload = raising(ColabError("tab closed"))
    with pytest.raises(SetupError, match="tab closed"):
        upload_files(tmp_path)


def test_token_of_the_environment_comes_first(google, monkeypatch):
    google.userdata.get = lambda name: "hf_other"
    assert hf_token() == "hf_other"
    monkeypatch.setenv("HF_TOKEN", f" {TOKEN}\n")  # pasted with its line end, it would break every request
    assert hf_token() == TOKEN


def test_no_token_is_none(monkeypatch):
    assert hf_token() is None
    monkeypatch.setenv("HF_TOKEN", "  ")
    assert hf_token() is None


@pytest.mark.parametrize("kind", [ColabError, NotebookAccessError, TimeoutError])
def test_refused_secret_is_none_with_a_note_that_holds_no_secret(google, caplog, capsys, kind):
    google.userdata.get = raising(kind(f"payload {TOKEN}"))
    with caplog.at_level(logging.DEBUG):
        assert hf_token() is None
    assert kind.__name__ in caplog.text and "→" in caplog.text
    assert TOKEN not in caplog.text + "".join(capsys.readouterr())
    assert all(record.exc_info is None for record in caplog.records)  # a traceback would carry the text


def test_a_subprocess_on_colab_does_not_ask_the_browser(google, monkeypatch):
    google.userdata.get = raising(AttributeError("'NoneType' object has no attribute 'kernel'"))
    monkeypatch.setattr(colab, "in_notebook", lambda: False)
    assert hf_token() is None
