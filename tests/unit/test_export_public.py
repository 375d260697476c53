import json
from pathlib import Path

import pytest

from adslm_helpers.export.public import (
    clean_folder,
    clean_text,
    fix_adapter_config,
    fix_model_config,
    fix_tokenizer_config,
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


def fixed(tmp_path, fix, config, *arguments):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    fix(path, *arguments)
    return json.loads(path.read_text())


def test_adapter_config_names_the_public_base(tmp_path):
    config = fixed(tmp_path, fix_adapter_config, {"base_model_name_or_path": "/home/taro/tiny", "r": 4}, "embedded-tiny")
    assert config == {"base_model_name_or_path": "embedded-tiny", "r": 4}


def test_tokenizer_config_can_be_read_by_transformers_4(tmp_path):
    config = fixed(
        tmp_path,
        fix_tokenizer_config,
        {"tokenizer_class": "TokenizersBackend", "is_local": True, "local_files_only": True, "extra_special_tokens": ["<|a|>"]},
    )
    assert config == {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<|a|>"]}


@pytest.mark.parametrize(
    ("config", "added"),
    [
        ({"model_type": "qwen2", "rope_parameters": {"rope_theta": 1e6}}, {"rope_theta": 1e6}),
        ({"model_type": "qwen2", "rope_theta": 5.0, "rope_parameters": {"rope_theta": 1e6}}, {}),  # transformers 4 wrote it
        ({"model_type": "gpt2", "n_positions": 512}, {"n_ctx": 512}),
        (
            {"model_type": "gpt_neox", "rope_parameters": {"rope_theta": 2e4, "partial_rotary_factor": 1.0}},
            {"rope_theta": 2e4, "rotary_emb_base": 2e4, "rotary_pct": 1.0},
        ),
        ({"model_type": "bloom"}, {}),
    ],
)
def test_model_config_gets_the_keys_that_others_read(tmp_path, config, added):
    assert fixed(tmp_path, fix_model_config, config) == {**config, **added}
