"""Model and adapter folders, damaged: loaded, or an error with words; no pickle is run, no library's own error gets through."""

import json
import shutil
import struct

import pytest
from hypothesis import strategies as st

from adslm_helpers.errors import AdslmError, ModelError
from adslm_helpers.models.loading import load_named
from adslm_helpers.models.tiny import build_model, build_tokenizer
from adslm_helpers.recipe import load_recipe

from .cases import PICKLE, VALUES, checked_words, damage, everything, fuzzed, place

# Of torch about a pickle, of PEFT about names it does not know.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

EDIT = st.tuples(
    st.sampled_from(("flip", "cut", "insert", "truncate", "overwrite")), st.integers(0, 1 << 16), st.integers(0, 60),
    st.sampled_from((b"\0", b"}", b"[" * 2000, b"\xff", b"null", b"9" * 4301, PICKLE)),
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A random model of a few thousand weights, and an adapter for it."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.set_num_threads(1)
    base, adapter = (tmp_path_factory.mktemp("fuzz") / name for name in ("base", "adapter"))
    tokenizer = build_tokenizer(iter(["商品：靴の見出し"] * 20), 300)
    model = build_model(
        tokenizer, seed=1, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1
    )
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(adapter)
    return base, adapter


def check(base, adapter=None):
    before = everything(base.parent)
    recipe = load_recipe("smoke", max_length=16, max_prompt_length=8, max_new_tokens=1, device="cpu")
    try:
        loaded = load_named(str(base), recipe, adapter=adapter)
        assert loaded.model is not None
    except AdslmError as error:
        checked_words(error)
        loaded = None
    assert everything(base.parent) == before
    return loaded


FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
)


@fuzzed(90, name=st.sampled_from(FILES), edits=st.lists(EDIT, min_size=1, max_size=2))
def test_a_damaged_model(folders, name, edits):
    with place() as folder:
        base = folder / "base"
        shutil.copytree(folders[0], base)
        if (base / name).is_file():
            (base / name).write_bytes(damage((base / name).read_bytes(), edits))
        check(base)


KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size", "model_type", "architectures",
        "intermediate_size", "auto_map", "torch_dtype", "dtype", "rope_parameters", "rms_norm_eps", "quantization_config", "tie_word_embeddings",
        "max_position_embeddings", "head_dim", "layer_types", "eos_token_id", "hidden_act", "use_sliding_window")  # fmt: skip
ODD = st.one_of(
    VALUES, st.sampled_from((0, -1, 2**40, "8", "../x.py", "qwen2", "bert", "os.system", {"AutoConfig": "evil.Evil"}, 1.5))
)


@fuzzed(90, changes=st.dictionaries(st.sampled_from(KEYS), ODD, min_size=1, max_size=2))
def test_a_config_of_any_values(folders, changes):
    with place() as folder:
        base = folder / "base"
        shutil.copytree(folders[0], base)
        (base / "evil.py").write_text("open('ran', 'w')\nclass Evil: pass\n")
        config = json.loads((base / "config.json").read_text()) | changes
        try:
            (base / "config.json").write_bytes(json.dumps(config).encode())
        except ValueError:
            return
        check(base)


def header(values, length=None):
    text = json.dumps(values).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + b"\0" * 64


FALSE_HEADERS = [
    header({}, 2**63), header({}, 10**9), header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 10**12]}}),
    header({"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 16]}}), header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}),
    header({name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in "ab"}), header([]), header({"__metadata__": {"format": "pickle"}}),
    b"", b"\0" * 7, PICKLE,
]  # fmt: skip


@pytest.mark.parametrize("content", FALSE_HEADERS, ids=range(len(FALSE_HEADERS)))
def test_safetensors_with_a_false_header(folders, tmp_path, content):
    for part in ("base", "adapter"):
        with place() as folder:
            for name, source in zip(("base", "adapter"), folders, strict=True):
                shutil.copytree(source, folder / name)
            weights = "model.safetensors" if part == "base" else "adapter_model.safetensors"
            (folder / part / weights).write_bytes(content)
            assert check(folder / "base", folder / "adapter") is None


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "adapter_model.bin"])
def test_a_pickle_in_place_of_weights_is_not_run(folders, name):
    with place() as folder:
        for part, source in zip(("base", "adapter"), folders, strict=True):
            shutil.copytree(source, folder / part)
        where = folder / ("adapter" if name.startswith("adapter") else "base")
        for weights in where.glob("*.safetensors"):
            weights.unlink()
        (where / name).write_bytes(PICKLE)
        assert check(folder / "base", folder / "adapter") is None


@fuzzed(60, name=st.sampled_from(("adapter_config.json", "adapter_model.safetensors")), edits=st.lists(EDIT, max_size=2),
        changes=st.dictionaries(st.sampled_from(("r", "target_modules", "peft_type", "task_type", "auto_mapping", "megatron_config", "megatron_core",
                                                 "lora_alpha", "layers_to_transform", "modules_to_save", "rank_pattern", "x", "init_lora_weights",
                                                 "runtime_config", "trainable_token_indices", "layer_replication")), ODD, max_size=2))  # fmt: skip
def test_a_damaged_adapter(folders, name, edits, changes):
    with place() as folder:
        for part, source in zip(("base", "adapter"), folders, strict=True):
            shutil.copytree(source, folder / part)
        path = folder / "adapter" / "adapter_config.json"
        try:
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        except ValueError:
            return
        path = path.with_name(name)
        path.write_bytes(damage(path.read_bytes(), edits))
        check(folder / "base", folder / "adapter")


def test_an_untouched_pair_is_loaded(folders):
    with place() as folder:
        for part, source in zip(("base", "adapter"), folders, strict=True):
            shutil.copytree(source, folder / part)
        assert check(folder / "base", folder / "adapter") is not None
        with pytest.raises(ModelError):
            load_named(str(folder / "adapter" / "nothing"), load_recipe("smoke", device="cpu"))
