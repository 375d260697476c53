"""What `load_export` refuses before it loads anything."""

import json

import pytest

from adslm_helpers.errors import ExportError
from adslm_helpers.export import load
from adslm_helpers.export.load import load_export
from adslm_helpers.export.publish import list_files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An export by its files; a load that gets that far fails the test."""

    def reached(*arguments, **options):
        raise AssertionError("loaded")

    monkeypatch.setattr(load, "load_named", reached)
    for name in ("merged/model.safetensors", "merged/config.json", "adapter/adapter_model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"weights of " + name.encode())
    write_manifest(tmp_path)
    return tmp_path


def write_manifest(folder, **changes):
    values = {"name": "x", "base_model": "org/base", "base_model_is_local": False, "merged": True, "files": list_files(folder)}
    (folder / "manifest.json").write_text(json.dumps({**values, **changes}))


def test_an_untouched_folder_is_loaded(folder):
    with pytest.raises(AssertionError, match="loaded"):
        load_export(folder)


def test_a_changed_byte_of_the_same_length_is_seen(folder):
    path = folder / "merged" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ExportError, match=r"merged/model\.safetensors"):
        load_export(folder)


def test_a_missing_file_is_seen(folder):
    (folder / "merged" / "config.json").unlink()
    with pytest.raises(ExportError, match=r"merged/config\.json"):
        load_export(folder)


def test_weights_that_the_manifest_does_not_list_are_refused(folder):
    (folder / "merged" / "model-00002.safetensors").write_bytes(b"other")
    with pytest.raises(ExportError, match=r"model-00002"):
        load_export(folder)


def test_a_manifest_that_lists_nothing_does_not_pass(folder):
    write_manifest(folder, files=[], merged=False)
    with pytest.raises(ExportError, match="adapter_model"):
        load_export(folder)


@pytest.mark.parametrize("name", ["merged/pytorch_model.bin", "adapter/adapter_model.PT", "x.pkl"])
def test_pickles_are_refused_even_when_the_manifest_lists_them(folder, name):
    (folder / name).write_bytes(b"pickle")
    write_manifest(folder)
    with pytest.raises(ExportError, match=name.replace(".", r"\.")):
        load_export(folder)


def test_a_zip_and_a_stranger_are_told_apart(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(ExportError, match=r"(?s)zip を展開.*unpacks"):
        load_export(tmp_path / "a.zip")
    with pytest.raises(ExportError, match=r"manifest\.json"):
        load_export(tmp_path)
    (tmp_path / "manifest.json").write_text('{"name": "a run"}')
    with pytest.raises(ExportError, match="not the manifest of an adslm export"):
        load_export(tmp_path)
