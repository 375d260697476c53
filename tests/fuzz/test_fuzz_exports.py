"""Exported folders, damaged: loaded only when every file is as it was exported, else words; nothing unpickled, nothing written."""

import json
import os
import shutil

import pytest
from hypothesis import strategies as st

from adslm_helpers.copies import differing_files
from adslm_helpers.errors import AdslmError
from adslm_helpers.export import load
from adslm_helpers.export.card import CardFacts, model_card
from adslm_helpers.export.load import load_export
from adslm_helpers.export.publish import list_files
from adslm_helpers.recipe import load_recipe

from .cases import PICKLE, TEXTS, VALUES, checked_words, damage, damaged, everything, fuzzed, place

FILES = {
    "adapter/adapter_config.json": b'{"peft_type": "LORA"}', "adapter/adapter_model.safetensors": b"\x08\0\0\0\0\0\0\0{}      ",
    "merged/config.json": b'{"model_type": "qwen2"}', "merged/model.safetensors": b"\x08\0\0\0\0\0\0\0{}      ",
    "merged/tokenizer.json": b"{}", "README.md": b"# card",
}  # fmt: skip


class Loaded:
    """Stands for a loaded model."""

    name = "x"

    def __init__(self):
        self.notes = []


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    monkeypatch.setattr(load, "load_named", lambda *arguments, **options: Loaded())


def write_export(folder, **changes):
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    manifest = {
        "name": "x",
        "base_model": "org/base",
        "base_model_is_local": False,
        "merged": True,
        "files": list_files(folder),
        **changes,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def try_load(folder):
    """Whether the folder is taken; it stays as it is, and a refusal has words."""
    before = everything(folder.parent)
    try:
        load_export(folder)
    except AdslmError as error:
        checked_words(error)
        return False
    finally:
        assert everything(folder.parent) == before
    return True


NAMES = st.sampled_from([*FILES, "manifest.json"])
EDIT = st.one_of(
    st.tuples(st.just("damage"), NAMES, st.integers(0, 1 << 20), st.sampled_from(("flip", "cut", "truncate", "insert"))),
    st.tuples(st.just("swap"), NAMES, NAMES),
    st.tuples(st.just("remove"), NAMES),
    st.tuples(st.just("folder"), NAMES),
    st.tuples(st.just("link"), NAMES, st.sampled_from(("itself", "/etc/hostname", "nowhere"))),
    st.tuples(st.just("pipe"), NAMES),
    st.tuples(st.just("add"), st.sampled_from(("merged/x.bin", "adapter/x.PT", "x.pkl", "merged/x.py", "merged/m2.safetensors", "adapter/x.json",
                                               "notes.txt", "merged/.DS_Store"))),
)  # fmt: skip


def apply(folder, kind, name, *rest):
    path = folder / name
    if not os.path.lexists(path) and kind != "add":
        return
    if kind == "damage":
        if path.is_file():
            path.write_bytes(damage(path.read_bytes(), [(rest[1], rest[0], 3, b"x")]))
    elif kind == "swap":
        other = folder / rest[0]
        if path.is_file() and other.is_file():
            mine, theirs = path.read_bytes(), other.read_bytes()
            path.write_bytes(theirs)
            other.write_bytes(mine)
    elif kind == "add":
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_bytes(PICKLE)
    else:
        path.unlink() if not path.is_dir() or path.is_symlink() else shutil.rmtree(path)
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to(name.rpartition("/")[2] if rest[0] == "itself" else rest[0])
        elif kind == "pipe":
            os.mkfifo(path)


@fuzzed(220, edits=st.lists(EDIT, max_size=4), merged=st.booleans())
def test_an_export_is_taken_only_as_it_was_written(edits, merged):
    with place() as folder:
        export = folder / "export"
        write_export(export, merged=merged)
        files = list_files(export)
        for edit in edits:
            apply(export, *edit)
        if try_load(export):
            assert differing_files(export, files) == []
            pickles = [name for name in everything(export) if name.lower().endswith((".bin", ".pt", ".pkl", ".py"))]
            assert pickles == [] and not (export / "merged" / "m2.safetensors").exists()
        elif not edits:
            raise AssertionError("an untouched export was refused")


ENTRY = {"path": "merged/config.json", "bytes": 23, "sha256": "0" * 64}
PATHS = st.one_of(
    TEXTS,
    st.sampled_from(("../x", "/etc/hostname", "C:\\x", "..\\x", "merged//x", "merged/../../x", "", ".", "\\\\host\\x", "a\0b")),
)


@fuzzed(140, changes=st.dictionaries(st.sampled_from(("files", "merged", "base_model", "name", "base_model_is_local", "format")), VALUES, max_size=3),
        entries=st.lists(st.builds(lambda path, change: {**ENTRY, "path": path, **change}, PATHS, st.dictionaries(
            st.sampled_from(("path", "bytes", "sha256")), VALUES, max_size=2)), max_size=2))  # fmt: skip
def test_a_manifest_of_any_values(changes, entries):
    with place() as folder:
        export = folder / "export"
        write_export(export)
        manifest = json.loads((export / "manifest.json").read_text())
        manifest |= changes
        if isinstance(manifest["files"], list):
            manifest["files"] += entries
        try:
            (export / "manifest.json").write_bytes(json.dumps(manifest).encode())
        except ValueError:
            return
        taken = try_load(export)
        assert not (taken and entries and isinstance(changes.get("files", []), list))


@fuzzed(100, content=damaged(b'{"name": "x", "base_model": "org/base", "merged": false, "files": []}', PICKLE))
def test_a_damaged_manifest(content):
    with place() as folder:
        export = folder / "export"
        write_export(export)
        (export / "manifest.json").write_bytes(content)
        assert not try_load(export)


@fuzzed(100, name=TEXTS, base=TEXTS, source=TEXTS, dropped=st.dictionaries(TEXTS, st.integers(0, 9), max_size=2))
def test_a_card_of_any_text_is_one_document_without_markup_of_others(name, base, source, dropped):
    recipe = load_recipe("smoke")
    card = model_card(CardFacts(name, base, recipe, {"source": source, "dropped": dropped}, {}, None, "float32"))
    plain = model_card(CardFacts("n", "b", recipe, {"source": "s", "dropped": {}}, {}, None, "float32"))
    card.encode("utf-8")
    for mark in ("\n", "\n#", "\n|", "```", "\n---", "<"):
        assert card.count(mark) <= plain.count(mark) + 2 * (mark == "\n"), mark  # a local base has two lines of its own
    assert not any(mark in card for mark in ("\x1b", "\u202e", "\0"))
