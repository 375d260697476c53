"""Folders that older libraries and other programs must be able to read."""

import json

import pytest

from adslm_helpers.data_files import data_path
from adslm_helpers.models.portable import fix_model_config, fix_tokenizer_config, fix_tokenizer_file


def fixed(tmp_path, fix, config):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    fix(path)
    return json.loads(path.read_text())


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


def test_the_dtype_is_written_under_the_name_that_transformers_4_reads(tmp_path):
    assert fixed(tmp_path, fix_model_config, {"dtype": "bfloat16"}) == {"dtype": "bfloat16", "torch_dtype": "bfloat16"}


def test_merges_are_written_in_the_form_that_every_version_of_tokenizers_reads(tmp_path):
    pairs = {"model": {"type": "BPE", "merges": [["a", "b"], ["ab", "c"]]}}
    assert fixed(tmp_path, fix_tokenizer_file, pairs)["model"]["merges"] == ["a b", "ab c"]


@pytest.mark.parametrize("model", [{"merges": [["a ", "b"]]}, {"merges": ["a b"]}, {"type": "Unigram", "vocab": []}])
def test_what_has_no_older_form_stays_as_it_is(tmp_path, model):
    assert fixed(tmp_path, fix_tokenizer_file, {"model": model}) == {"model": model}


def test_a_tokenizer_without_that_file_is_left_alone(tmp_path):
    fix_tokenizer_file(tmp_path / "tokenizer.json")
    assert list(tmp_path.iterdir()) == []


def test_the_embedded_model_ships_in_the_older_form():
    """TRL 0.7.11 lives with tokenizers 0.15 and transformers 4.38."""
    folder = data_path("tiny_ad_lm")
    assert all(
        isinstance(merge, str) for merge in json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    )
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and config["additional_special_tokens"] == ["<|im_start|>"]
