"""A checkpoint tried out: what is broken is found before a model is built from it, and nothing that can run code is opened."""

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from adslm_helpers.errors import AdslmError, ModelError, RunError
from adslm_helpers.models.loading import lora_config
from adslm_helpers.models.tiny import build_model
from adslm_helpers.recipe import recipe_from_dict
from adslm_helpers.run import sha256, write_json
from adslm_helpers.watching import check_checkpoint as module
from adslm_helpers.watching.check_checkpoint import check_checkpoint

from .conftest import SMALL


@pytest.fixture
def adapter(model_folder, tokenizer, tmp_path):
    """A LoRA adapter that was trained a little, in a folder as a trainer leaves it."""
    from peft import get_peft_model

    model = build_model(tokenizer, seed=1, **SMALL)
    model.config._name_or_path = str(model_folder)
    tuned = get_peft_model(model, lora_config(recipe_from_dict({"lora_r": 4}), model))
    torch.manual_seed(0)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    folder = tmp_path / "checkpoint-6"
    tuned.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    write_json(folder / "adapter_config.json", {**config, "base_model_name_or_path": str(model_folder)})
    log = [{"step": 6, "loss": 0.6}, {"step": 6, "eval_loss": 0.65}]
    write_json(folder / "trainer_state.json", {"global_step": 6, "max_steps": 12, "log_history": log})
    (folder / "optimizer.pt").write_bytes(b"never opened")
    return folder


def change(folder, function):
    path = folder / "adapter_model.safetensors"
    save_file({name: function(name, tensor.clone()) for name, tensor in load_file(path).items()}, path)


def looks(check):
    return {look.name: look.ok for look in check.looks}


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a model was built")

    monkeypatch.setattr(module, "load_named", refuse)


def test_a_sound_adapter_answers_and_its_base_beside_it(adapter):
    said = []
    check = check_checkpoint(adapter, ["電動自転車の広告文を書いてください。"] * 2, say=said.append)
    assert looks(check) | {"texts": True} == dict.fromkeys(("finite", "adapter_effect", "shapes", "logits", "texts"), True)
    assert len(check.answers) == 2 and all(answer["base"] is not None for answer in check.answers)
    assert "GiB" in said[0] and "step 6/12, loss 0.6, eval_loss 0.65" in "\n".join(check.lines())
    json.dumps(check.to_dict(), allow_nan=False)


def test_the_same_check_twice_says_the_same(adapter):
    first, second = (check_checkpoint(adapter, n=1) for _ in range(2))
    assert first.answers == second.answers and first.answers[0]["prompt"]


def test_degenerate_answers_are_flagged(adapter, monkeypatch):
    from adslm_helpers.models.generation import Generated

    monkeypatch.setattr(
        module,
        "generate_texts",
        lambda model, tokenizer, prompts, **options: [Generated("時間話せる" * 9, 45, False)] * len(prompts),
    )
    check = check_checkpoint(adapter, ["依頼その一です。", "依頼その二です。"])
    assert {"repetition", "unstopped", "identical"} <= set(check.answers[0]["faults"]) and not check.ok
    assert looks(check)["texts"] is False and "2 of 2 are broken" in "\n".join(check.lines())


def test_a_text_that_is_only_long_is_broken_by_the_recipe_of_its_run_alone(run, adapter, model_folder, monkeypatch):
    from adslm_helpers.models.generation import Generated

    texts = iter(f"電動自転車で通勤を軽やかに。試乗のご予約は{number}日まで受け付けています。" for number in range(100))
    asked = []
    monkeypatch.setattr(
        module,
        "generate_texts",
        lambda model, tokenizer, prompts, **options: (
            asked.append(options["max_new_tokens"]) or [Generated(next(texts), 9, False) for _ in prompts]
        ),
    )
    assert looks(check_checkpoint(adapter, n=2))["texts"] and asked[-1] == 96
    run.update(model={"name": str(model_folder)})
    shutil.copytree(adapter, run.training / "adapter")
    write_json(run.training / "recipe.json", {"max_new_tokens": 12})
    assert not looks(check_checkpoint("t", n=2))["texts"] and asked[-1] == 12


def test_an_adapter_that_changes_nothing_is_said(adapter):
    """LoRA's B starts at zero; it stays there when nothing was trained."""
    change(adapter, lambda name, tensor: tensor * ("lora_B" not in name))
    check = check_checkpoint(adapter, n=1)
    assert looks(check)["adapter_effect"] is False and looks(check)["same_as_base"] is False and not check.ok


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_named_before_anything_is_loaded(adapter, nothing_is_loaded, value):
    def poison(name, tensor):
        if "layers.1" in name and "q_proj.lora_A" in name:
            tensor[0, -1] = value
        return tensor

    change(adapter, poison)
    check = check_checkpoint(adapter)
    assert looks(check)["finite"] is False and "layers.1" in "\n".join(check.lines()) and check.answers == []


def test_finite_weights_whose_logits_are_not_are_found_and_asked_for_no_text(adapter):
    change(adapter, lambda name, tensor: tensor * 1e25)
    check = check_checkpoint(adapter, n=2)
    assert looks(check)["finite"] and looks(check)["logits"] is False and check.answers == []


def test_an_adapter_of_another_base_is_refused_by_its_shapes(adapter, nothing_is_loaded):
    check = check_checkpoint(adapter, base="embedded-tiny")
    assert looks(check)["shapes"] is False and "base" in "\n".join(check.lines())


def header(length, text=b""):
    return struct.pack("<Q", length) + text


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x00" * 7, header(2**63 - 1), header(2, b"{}x"), header(10**6, b"{}"), b"PK\x03\x04 a zip", b"\x80\x04 a pickle",
        header(72, b'{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,999999999999]}}     '),
        header(72, b'{"a":{"dtype":"F32","shape":[9,9],"data_offsets":[0,16]}}               ') + b"\x00" * 16,
    ],
)  # fmt: skip
def test_a_file_that_is_no_safetensors_is_a_message(adapter, nothing_is_loaded, content):
    (adapter / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read as safetensors") as told:
        check = check_checkpoint(adapter)
        raise AssertionError(check.lines())
    assert str(adapter / "adapter_model.safetensors") in told.value.ja


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_a_message(adapter, share):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ModelError, match="cut off"):
        check_checkpoint(adapter)


def test_a_pickle_is_never_opened(adapter, tmp_path, nothing_is_loaded):
    """Not in the place of the weights, not named by hand; beside safetensors it is left alone."""

    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("run-by-pickle").touch, ())

    (adapter / "adapter_model.safetensors").unlink()
    torch.save(Evil(), adapter / "adapter_model.bin")
    for place in (adapter, adapter / "adapter_model.bin"):
        with pytest.raises(ModelError, match="pickle"):
            check_checkpoint(place)
    assert not (tmp_path / "run-by-pickle").exists()


def test_every_kind_of_tensor_is_looked_at_piece_by_piece(tmp_path, monkeypatch):
    from adslm_helpers.watching import weights

    monkeypatch.setattr(weights, "_AT_ONCE", 8)
    late = torch.zeros(10, 4)
    late[9, 3] = float("nan")
    small = torch.ones(3, dtype=torch.float8_e4m3fn)
    tensors = {
        "late": late,
        "scalar": torch.tensor(2.0),
        "none": torch.zeros(0, 4),
        "zero": torch.zeros(9, 2, dtype=torch.int8),
        "float8": small,
    }
    save_file(tensors, tmp_path / "model.safetensors")
    found = weights.read_weights([tmp_path / "model.safetensors"])
    assert found.not_finite == ("late",) and set(found.zero) == {"none", "zero"} and found.numbers == 40 + 1 + 18 + 3


def test_what_does_not_fit_into_memory_is_refused_with_both_numbers(adapter, nothing_is_loaded):
    with pytest.raises(ModelError, match=r"needs 0\.\d GiB, 0\.1 GiB are free"):
        check_checkpoint(adapter, limit_gib=0.1)


def test_half_the_bytes_are_taken_where_float32_does_not_fit(monkeypatch, model_folder):
    from adslm_helpers.models.catalog import CATALOG

    monkeypatch.setattr(module, "_facts", lambda target: CATALOG["Qwen/Qwen2.5-1.5B-Instruct"])
    target = module.Target(model_folder, None, None)
    wide, narrow = module._fits(target, [], 100.0), module._fits(target, [], 5.0)
    assert (wide[1], narrow[1]) == ("float32", "bfloat16") and 6.3 < wide[0] < 7.5 and 3.4 < narrow[0] < 4.5


def test_a_whole_model_and_an_export_folder_are_tried_too(adapter, model_folder, tmp_path):
    whole = check_checkpoint(model_folder, n=1)
    assert whole.base is None and looks(whole)["logits"] and whole.answers[0]["base"] is None
    shutil.copytree(adapter, tmp_path / "export" / "adapter")
    write_json(
        tmp_path / "export" / "manifest.json", {"base_model": str(model_folder), "files": [], "merged": False, "name": "x"}
    )
    assert looks(check_checkpoint(tmp_path / "export", n=1))["shapes"]


def test_a_run_is_tried_on_its_own_held_out_briefs(run, adapter, model_folder):
    run.update(model={"name": str(model_folder)})
    shutil.copytree(adapter, run.training / "checkpoints" / "checkpoint-6")
    held_out = {json.loads(line)["prompt"] for line in (run.dataset / "eval.jsonl").read_text().splitlines()}
    for place in ("t", run.training / "checkpoints" / "checkpoint-6"):
        check = check_checkpoint(place, n=3)
        assert len(check.answers) == 3 and {answer["prompt"] for answer in check.answers} <= held_out


def test_a_sealed_checkpoint_is_compared_with_its_seal(adapter, nothing_is_loaded):
    path = adapter / "adapter_model.safetensors"
    write_json(adapter / "seal.json", {"files": [{"path": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}]})
    change(adapter, lambda name, tensor: tensor + 1)
    check = check_checkpoint(adapter)
    assert looks(check)["seal"] is False and check.answers == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"peft_type": "IA3"}', b'{"peft_type": ["LORA"]}', b"\xff"])
def test_a_broken_config_is_a_message(adapter, content):
    (adapter / "adapter_config.json").write_bytes(content)
    with pytest.raises(AdslmError, match="->"):
        check_checkpoint(adapter)


def test_a_base_that_is_not_here_and_a_place_without_weights_are_messages(adapter, tmp_path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    write_json(adapter / "adapter_config.json", {**config, "base_model_name_or_path": "/home/somebody/model"})
    with pytest.raises(ModelError, match="--base"):
        check_checkpoint(adapter)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="neither a checkpoint nor a model"):
        check_checkpoint(tmp_path / "empty")
    with pytest.raises(RunError, match="There is no run"):
        check_checkpoint("spring")
