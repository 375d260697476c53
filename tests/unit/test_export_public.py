import json
from pathlib import Path

import pytest

from adslm_helpers.export.public import (
    clean_folder,
    clean_text,
    fix_adapter_config,
    private_paths,
    public_name,
)  # fmt: skip
from adslm_helpers.run import Run


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("embedded-tiny", "embedded-tiny"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("/home/taro/models/ours/", "ours"),
        ("C:\\Users\\taro\\ours", "ours"),
        ("~/models/ours", "ours"),
        ("./ours", "ours"),
    ],
)
def test_a_base_keeps_its_hub_name_and_loses_its_folder(name, public):
    assert public_name(name) == public


def test_a_relative_folder_with_a_hub_like_name_is_a_folder(tmp_path, monkeypatch):
    (tmp_path / "models" / "ours").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name("models/ours") == "ours"


def test_paths_go_in_every_spelling_the_longest_first():
    paths = [("/home/taro/runs/r1", "r1"), ("/home/taro", "~")]
    assert clean_text("at /home/taro/runs/r1/training and /home/taro/x", paths) == "at r1/training and ~/x"
    assert clean_text("/home/taroko /home/taro-2 x/home/taro", paths) == "/home/taroko /home/taro-2 x/home/taro"
    windows = [("C:\\Users\\太郎", "~")]
    escaped = json.dumps({"at": "C:\\Users\\太郎\\x"})
    assert json.loads(clean_text(escaped, windows)) == {"at": "~\\x"}
    assert clean_text("C:/Users/太郎/x", [("/srv/a&b", "b")]) == "C:/Users/太郎/x"
    assert clean_text("<p>/srv/a&amp;b/x</p>", [("/srv/a&b", "b")]) == "<p>b/x</p>"


def test_private_paths_hold_no_path_that_would_match_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    monkeypatch.chdir(tmp_path)
    paths = private_paths(Run("r1", tmp_path / "runs"), "org/hub-model", "org/hub-model")
    assert [name for _, name in paths] == ["r1", "runs", "."]


def test_a_vocabulary_is_left_alone(tmp_path):
    for name in ("tokenizer.json", "recipe.json"):
        (tmp_path / name).write_text('{"a": "/home/taro"}')
    clean_folder(tmp_path, [("/home/taro", "~")])
    assert (tmp_path / "tokenizer.json").read_text() == '{"a": "/home/taro"}'
    assert (tmp_path / "recipe.json").read_text() == '{"a": "~"}'


def test_adapter_config_names_the_public_base(tmp_path):
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"base_model_name_or_path": "/home/taro/tiny", "r": 4}))
    fix_adapter_config(path, "embedded-tiny")
    assert json.loads(path.read_text()) == {"base_model_name_or_path": "embedded-tiny", "r": 4}
