"""The fallback list: what is skipped, why, and what is loaded."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from adslm_helpers.environment.described import described_machine
from adslm_helpers.environment.device import choose_device
from adslm_helpers.environment.machine import Probe
from adslm_helpers.errors import ModelError
from adslm_helpers.models import loading
from adslm_helpers.models.catalog import CATALOG
from adslm_helpers.models.loading import load_model, lora_config
from adslm_helpers.models.tiny import build_model, build_tokenizer
from adslm_helpers.recipe import EMBEDDED, load_recipe

from .conftest import SMALL


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(loading, "_hub_answers", lambda: False)


def test_offline_the_road_ends_at_the_embedded_model_and_says_so(offline):
    loaded = load_model(load_recipe("tiny", model="Qwen/Qwen2.5-0.5B-Instruct"))
    assert loaded.name == EMBEDDED
    assert [(skip.name, "no network" in skip.en) for skip in loaded.skipped] == [("Qwen/Qwen2.5-0.5B-Instruct", True)]
    told = "\n".join(loaded.lines())
    assert told.startswith("【注意】") and "FALLBACK" in told and "teaching model" in told
    recorded = loaded.record()["skipped"][0]
    assert recorded["kind"] == "offline" and recorded["reason"]


def test_the_hub_is_asked_once_for_a_whole_list(monkeypatch):
    """Each attempt may cost seconds on a machine whose network swallows packets."""
    asked = []
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(loading, "_hub_answers", lambda: bool(asked.append(1)))
    loaded = load_model(load_recipe("tiny", models="org/one,org/two,org/three,embedded-tiny"))
    assert loaded.name == EMBEDDED and len(loaded.skipped) == 3 and len(asked) == 1


def test_without_fallback_the_first_reason_is_final(offline):
    with pytest.raises(ModelError, match="no network"):
        load_model(load_recipe("tiny", model="Qwen/Qwen2.5-0.5B-Instruct", fallback=False))


def test_what_does_not_fit_is_skipped_before_any_download(monkeypatch, model_folder):
    """gemma-2b in 16 bit on an 8 GB Mac: known from the catalogue, so the loader must not even be asked."""
    recipe = load_recipe("apple_m2_8gb", models=["google/gemma-2b-it", str(model_folder)], dtype="bfloat16")
    plan = choose_device(recipe, described_machine("apple-m2-8gb"))
    monkeypatch.setattr(loading, "_try_load", lambda name, *_: loading.LoadedModel(None, None, name, plan))
    loaded = load_model(recipe, plan)
    assert loaded.name == str(model_folder) and "it needs about" in loaded.skipped[0].en
    assert loaded.record()["skipped"][0]["kind"] == "does_not_fit"
    # To answer only, no room for a step is asked for: 5.2 of 5.3 GB.
    monkeypatch.setattr(loading, "has_hub_token", lambda: True)
    assert load_model(recipe, plan, training=False).name == "google/gemma-2b-it"


def test_a_model_of_unknown_size_that_only_fits_with_a_smaller_batch_says_so(model_folder):
    """Planned without its config, found too large with it: the reason must not claim that no batch fits."""
    recipe = load_recipe("tiny", model=str(model_folder), per_device_train_batch_size=1024, max_length=1024)
    plan = replace(choose_device(recipe, Probe("cpu", "x")), usable_gb=1.5)
    with pytest.raises(ModelError) as caught:
        load_model(recipe, plan)
    assert "at this batch" in caught.value.en and "per_device_train_batch_size=1" in caught.value.ja
    assert "Add 'embedded-tiny'" not in caught.value.en  # it is on the list already


def test_without_a_plan_each_model_gets_the_precision_it_needs(monkeypatch, model_folder):
    """On an 8 GB Mac a small model computes in float32, one of 1.5 billion weights in bfloat16."""
    monkeypatch.setattr(loading, "probe_machine", lambda: described_machine("apple-m2-8gb"))
    monkeypatch.setattr(loading, "_try_load", lambda name, recipe, plan, *_: loading.LoadedModel(None, None, name, plan))
    recipe = load_recipe("apple_m2_8gb", fallback=False)
    assert load_model(recipe).plan.dtype == "float32"
    assert load_model(replace(recipe, models=("Qwen/Qwen2.5-1.5B-Instruct",))).plan.dtype == "bfloat16"


def test_attention_is_the_plans(model_folder):
    """Fused attention gives NaN on MPS for rows that are all padding; elsewhere the model's own default stays."""
    recipe = load_recipe("tiny", models=str(model_folder), fallback=False)
    for attention, loaded in (("eager", "eager"), ("sdpa", "sdpa")):
        plan = replace(choose_device(recipe, Probe("cpu", "x")), attention=attention)
        assert load_model(recipe, plan).model.config._attn_implementation == loaded


def test_a_folder_that_is_no_model_is_a_reason_not_a_traceback(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    loaded = load_model(load_recipe("tiny", model=str(tmp_path)))
    assert loaded.name == EMBEDDED and "cannot be read" in loaded.skipped[0].en
    assert loaded.record()["skipped"][0]["kind"] == "unreadable"


def test_an_encoder_decoder_is_refused_by_its_config_before_its_weights_are_read(tmp_path):
    from transformers import T5Config

    T5Config(vocab_size=50, d_model=8, num_layers=1, num_heads=1, architectures=["T5ForConditionalGeneration"]).save_pretrained(
        tmp_path
    )
    loaded = load_model(load_recipe("tiny", model=str(tmp_path)))
    assert loaded.name == EMBEDDED and loaded.skipped[0].kind == "wrong_architecture"


def test_gated_models_say_how_to_get_in_before_the_network_is_asked(monkeypatch):
    monkeypatch.setattr(loading, "has_hub_token", lambda: False)
    monkeypatch.setattr(loading, "local_config", lambda name: None)
    monkeypatch.setattr(loading, "_hub_answers", lambda: pytest.fail("the network was asked"))
    loaded = load_model(load_recipe("tiny", model="google/gemma-2b-it"), choose_device(load_recipe("tiny"), Probe("cpu", "x")))
    assert loaded.name == EMBEDDED
    recorded = loaded.record()["skipped"]
    assert [(skip["name"], skip["kind"]) for skip in recorded] == [("google/gemma-2b-it", "gated")]
    assert "HF_TOKEN" in recorded[0]["reason"] and "HF_TOKEN" in "".join(loaded.lines())


@pytest.mark.parametrize(
    ("error", "only_local", "kind"),
    [
        (OSError("You are trying to access a gated repo."), False, "gated"),
        (OSError("403 Client Error: Forbidden"), False, "gated"),
        # The hub answers 401 to a name that it does not have: that is no matter of a licence.
        (OSError("org/typo is not a local folder and is not a valid model identifier. 401 Client Error"), False, "missing"),
        (OSError("Connection reset by peer"), False, "missing"),
        (OSError("Cannot find the requested files in the local cache"), True, "offline"),
        (ValueError("Unrecognized configuration class T5Config for AutoModelForCausalLM"), False, "wrong_architecture"),
        (ImportError("No package metadata was found for bitsandbytes"), False, "unreadable"),
    ],
)
def test_each_failure_has_its_kind(error, only_local, kind):
    skipped = loading._why_not("org/name", error, only_local)
    assert skipped.kind == kind and skipped.ja and skipped.en


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("gpt2", {"c_attn", "c_proj"}),
        ("gpt_neox", {"query_key_value", "dense"}),
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj"}),
    ],
)
def test_lora_finds_the_attention_of_each_architecture(kind, targets):
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32, "intermediate_size": 32}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape))
    config = lora_config(load_recipe("tiny"), model)
    assert set(config.target_modules) == targets and config.fan_in_fan_out == (kind == "gpt2")


def test_unknown_lora_targets_name_the_architecture(tokenizer):
    with pytest.raises(ModelError, match="qwen2"):
        lora_config(load_recipe("tiny", lora_target_modules="nothing_proj"), build_model(tokenizer, **SMALL))


def test_the_embedded_model_is_what_the_catalogue_and_its_card_say():
    folder = loading.embedded_model_path()
    weights = load_file(folder / "model.safetensors")
    counted = sum(weight.numel() for weight in weights.values())
    facts = json.loads((folder / "training_facts.json").read_text(encoding="utf-8"))
    assert counted == CATALOG[EMBEDDED].parameters == facts["training"]["parameters"]
    assert 2_000_000 <= counted <= 6_000_000 and (folder / "model.safetensors").stat().st_size <= 12_000_000
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{counted:,} parameters" in card and "教材" in card and str(facts["training"]["loss"]) in card


def test_embedded_tokenizer_round_trips_any_text():
    tokenizer = load_model(load_recipe("tiny")).tokenizer
    for text in ("家計簿アプリ！", "ﾊﾝｶｸ 123 ABC", "絵文字🏃‍♀️と𠮷野家", "改行\nとタブ\t"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_build_tokenizer_keeps_scripts_apart():
    """A product must be the same tokens whatever particle follows, or the model cannot carry it over from the brief."""
    tokenizer = build_tokenizer(iter(["加湿器なら今すぐ", "加湿器の詳細", "加湿器を選ぶ"] * 50), vocabulary=400)
    alone = tokenizer("加湿器")["input_ids"]
    assert tokenizer("加湿器なら")["input_ids"][: len(alone)] == alone


@pytest.mark.parametrize(("dtype", "weights"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_logits_are_float32_whatever_the_weights_are(model_folder, dtype, weights):
    """TRL 0.14 to 1.9 sums log-probabilities in the dtype of the logits: in bfloat16 the DPO loss stood at 0.6914."""
    loaded = load_model(load_recipe("smoke", models=[str(model_folder)], dtype=dtype, device="cpu", fallback=False))
    assert loaded.model.lm_head.weight.dtype == weights
    with torch.no_grad():
        assert loaded.model(torch.tensor([[5, 6, 7]])).logits.dtype == torch.float32
