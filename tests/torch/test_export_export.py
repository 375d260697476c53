"""`export_run` and `load_export` on a tiny random model with a random adapter."""

import errno
import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from adslm_helpers import copies
from adslm_helpers.copies import differing_files
from adslm_helpers.errors import ExportError, RunError
from adslm_helpers.export import check as check_module
from adslm_helpers.export import contents, export
from adslm_helpers.export.export import export_run
from adslm_helpers.export.load import load_export
from adslm_helpers.models.generation import generate_texts
from adslm_helpers.models.tiny import build_model, build_tokenizer
from adslm_helpers.models.tuned import load_tuned
from adslm_helpers.recipe import load_recipe
from adslm_helpers.run import Run, read_json, sha256, write_json, write_jsonl

PROMPTS = ["商品：麦茶", "商品：座椅", "商品：日傘", "商品：茶碗蒸し", "商品：とても長い名前の旅行かばん"]
METRICS = {
    "heldout_loss": 0.5, "reward_accuracy": 0.9, "reward_accuracy_ci95": [0.8, 0.95], "win_rate": 0.7, "win_rate_ci95": [0.6, 0.8],
    "wins": 6, "ties": 2, "losses": 2, "n_prompts": 10, "n_texts": 10, "rubric_pass_base": 0.4, "rubric_pass_tuned": 0.7,
    "right_product_base": 1.0, "right_product_tuned": 1.0, "degenerate_base": 0.1, "degenerate_tuned": 0.0,
}  # fmt: skip


def make_run(folder: Path, scale: float = 1.0, dtype: str = "float32") -> Run:
    """A finished run: random base of two layers, LoRA with random weights, dataset, training and evaluation notes."""
    import torch
    from peft import LoraConfig, get_peft_model

    base = folder / "private" / "my-base"
    tokenizer = build_tokenizer(iter(PROMPTS * 20), 400)
    model = build_model(tokenizer, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    model.config.rope_parameters = {"rope_type": "default", "rope_theta": 54321.0}
    model.to(getattr(torch, dtype)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    run = Run("tuned", folder / "runs")
    recipe = load_recipe("smoke", models=[str(base)], fallback=False, device="cpu", max_new_tokens=8)
    with run.step("dataset"):
        write_jsonl(run.dataset / "eval.jsonl", [{"prompt": p, "chosen": "良い", "rejected": "悪い", "id": p} for p in PROMPTS])
        split = {"train": 30, "eval": 5, "eval_prompts": 5}
        source = str(folder / "private" / "ads.csv")
        write_json(run.dataset / "report.json", {"source": source, "rows_in": 40, "dropped": {"duplicate": 5}, "split": split})
    with run.step("training"):
        torch.manual_seed(1)
        config = LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM", init_lora_weights=False
        )
        tuned = get_peft_model(build_again(base), config)
        with torch.no_grad():
            for name, parameter in tuned.named_parameters():
                if "lora_" in name:
                    parameter.normal_(0, scale)
        tuned.save_pretrained(run.training / "adapter")
        config = json.loads((run.training / "adapter" / "adapter_config.json").read_text())
        write_json(
            run.training / "adapter" / "adapter_config.json", {**config, "base_model_name_or_path": "/srv/private/my-base"}
        )
        (run.training / "adapter" / "training_args.bin").write_bytes(b"pickle")
        write_json(run.training / "recipe.json", recipe.to_dict())
        write_json(run.training / "result.json", {"pairs": {"train": 29, "eval": 5}, "steps": 6, "seconds": 1.5})
        run.update(model={"name": str(base)})
    with run.step("evaluation"):
        write_json(run.evaluation / "metrics.json", METRICS)
        write_jsonl(run.evaluation / "comparisons.jsonl", [{"prompt": PROMPTS[0], "from": str(run.path)}])
        (run.evaluation / "report.html").write_text(f"<p>{run.path}/evaluation {base}</p>", encoding="utf-8")
    return run


def build_again(base: Path):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, torch_dtype=torch.float32)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors of 32 numbers: threads only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return make_run(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def exported(run) -> Path:
    return Path(export_run(run).path)


def answers(loaded) -> list[str]:
    return [g.text for g in generate_texts(loaded.model, loaded.tokenizer, PROMPTS, temperature=0, max_new_tokens=8)]


def test_the_folder_holds_the_promised_files_and_no_pickle(exported):
    found = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert found >= {
        "README.md", "manifest.json", "recipe.json", "metrics.json", "comparisons.jsonl", "report.html",
        "adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/tokenizer.json",
        "merged/model.safetensors", "merged/config.json", "merged/tokenizer.json", "merged/chat_template.jinja",
    }  # fmt: skip
    assert not [name for name in found if name.endswith((".bin", ".pt", ".pkl"))]


def test_the_manifest_lists_every_file_with_size_and_hash(exported):
    manifest = json.loads((exported / "manifest.json").read_text(encoding="utf-8"))
    listed = {entry["path"]: entry for entry in manifest["files"]}
    for path in exported.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            entry = listed.pop(path.relative_to(exported).as_posix())
            assert (entry["bytes"], entry["sha256"]) == (path.stat().st_size, sha256(path))
    assert not listed and manifest["versions"]["peft"]


def test_no_path_of_this_machine_leaves_it(exported, run):
    secrets = [str(run.path), str(run.path.parent), "private", str(Path.home()) + "/"]
    for path in exported.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            text = path.read_text(encoding="utf-8")
            assert not [secret for secret in secrets if secret in text], path
    assert json.loads((exported / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == "my-base"
    assert json.loads((exported / "recipe.json").read_text())["models"] == ["my-base"]


def test_the_merged_config_holds_rope_theta_at_top_level(exported):
    config = json.loads((exported / "merged/config.json").read_text())
    assert config["rope_theta"] == 54321.0


def test_adapter_merged_and_run_write_the_same_texts_and_the_base_does_not(exported, run, tmp_path):
    import torch

    tuned = load_tuned(run)
    wanted = answers(tuned)
    with tuned.model.disable_adapter():
        assert answers(tuned) != wanted  # else this test proves nothing
    assert answers(load_export(exported)) == wanted
    alone = tmp_path / "alone"
    result = export_run(run, alone, merged=False)
    assert not (alone / "merged").exists() and result.verified.merged_difference is None
    with pytest.raises(ExportError, match="base="):
        load_export(alone)
    base = run.manifest()["model"]["name"]
    again = load_export(alone, base=base)
    assert answers(again) == wanted and next(again.model.parameters()).dtype == torch.float32


def test_the_result_and_the_run_say_what_was_verified(run, tmp_path):
    result = export_run(run, tmp_path / "out")
    assert result.evaluated and result.verified.prompts == 4
    assert result.verified.merged_difference < 1e-3 < result.verified.adapter_effect
    notes = run.require("export")
    assert notes["path"] == str(tmp_path / "out") and notes["kind"] == "folder" and notes["files"] == result.files
    assert notes["verified"]["merged_dtype"] == "float32"
    assert any("verified" in line.lower() and "検証" in line for line in result.lines())


def test_an_existing_target_is_refused_before_any_work_and_left_alone(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "load_for_export", lambda *arguments: pytest.fail("a model was loaded"))
    target = tmp_path / "mine"
    target.mkdir()
    (target / "note.txt").write_text("keep")
    with pytest.raises(ExportError, match="mine"):
        export_run(run, target)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"] and (target / "note.txt").read_text() == "keep"


def test_what_killed_exports_left_is_removed_and_said_and_nothing_of_others(run, tmp_path):
    ours, inside, others = (
        tmp_path / ".tuned-20260101-000000.zip.partial",
        run.export / ".tuned-20260101-000000.partial",
        tmp_path / ".another-20260101-000000.partial",
    )
    for path in (ours, others):
        path.write_bytes(b"half")
    (inside / "adapter").mkdir(parents=True)
    result = export_run(run, tmp_path / "out", merged=False)
    assert not ours.exists() and not inside.exists() and others.exists()
    assert set(result.removed) == {str(ours), str(inside)} and str(ours) in " ".join(result.lines())


def corrupt(model):
    """A merge that loses half of one layer."""
    import torch

    merged = model.merge_and_unload()
    with torch.no_grad():
        merged.model.layers[0].self_attn.o_proj.weight.mul_(0.5)
    return merged


@pytest.mark.parametrize("wrong_merge", [corrupt, lambda model: model.unload()], ids=["corrupted", "adapter lost"])
def test_a_wrong_merge_is_not_published(run, tmp_path, monkeypatch, wrong_merge):
    monkeypatch.setattr(contents, "merge", wrong_merge)
    with pytest.raises(ExportError, match="商品"):
        export_run(run, tmp_path / "out")
    assert not list(tmp_path.iterdir()) and run.status("export") == "failed"


def test_a_tokenizer_that_lost_its_template_is_not_published(run, tmp_path, monkeypatch):
    write = contents._write_tokenizer

    def lose(tokenizer, folder):
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        write(tokenizer, folder)

    monkeypatch.setattr(contents, "_write_tokenizer", lose)
    with pytest.raises(ExportError, match="merged model"):  # the logits are right: only the texts tell
        export_run(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_lost_adapter_is_seen_even_where_it_changes_no_greedy_text(tmp_path, monkeypatch):
    run = make_run(tmp_path, scale=0.05)
    tuned = load_tuned(run)
    wanted = answers(tuned)
    with tuned.model.disable_adapter():
        assert answers(tuned) == wanted  # else the texts alone would tell
    monkeypatch.setattr(contents, "merge", lambda model: model.unload())
    with pytest.raises(ExportError, match="logits"):
        export_run(run, tmp_path / "out")


def test_a_16_bit_base_is_merged_in_16_bit_unless_rounding_would_swallow_the_tuning(tmp_path, monkeypatch):
    import torch
    from safetensors.torch import load_file

    run = make_run(tmp_path, dtype="bfloat16")
    coarse = export_run(run, tmp_path / "coarse")
    assert coarse.verified.merged_dtype == "bfloat16"
    assert {tensor.dtype for tensor in load_file(tmp_path / "coarse/merged/model.safetensors").values()} == {torch.bfloat16}
    monkeypatch.setattr(check_module, "_SHARE_16_BIT", 0.0)
    fine = export_run(run, tmp_path / "fine")
    assert fine.verified.merged_dtype == "float32"
    assert {tensor.dtype for tensor in load_file(tmp_path / "fine/merged/model.safetensors").values()} == {torch.float32}


def test_zip_members_are_relative_and_whole(run, tmp_path):
    result = export_run(run, tmp_path / "handover", kind="zip")
    assert result.path == str(tmp_path / "handover.zip")
    with zipfile.ZipFile(result.path) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "unpacked")
    assert len(names) == result.files and all(name.startswith("handover/") and ".." not in name for name in names)
    load_export(tmp_path / "unpacked" / "handover")
    assert not list(tmp_path.glob(".*")) and not list(run.export.glob(".*"))


def test_drive_takes_the_folder_under_adslm(run, tmp_path, monkeypatch):
    monkeypatch.setenv("ADSLM_DRIVE", str(tmp_path))
    result = export_run(run, kind="drive", merged=False)
    assert Path(result.path).parent == tmp_path / "adslm" and (Path(result.path) / "README.md").is_file()


def test_on_colab_drive_is_mounted_and_the_copy_holds_what_the_manifest_says(run, colab):
    before = set(run.export.glob("*"))
    result = export_run(run, kind="drive", merged=False)
    copy = colab.root / "my_drive" / "adslm" / Path(result.path).name
    assert Path(result.path).is_relative_to(colab.drive_folder) and copy.is_dir()
    assert not differing_files(copy, read_json(copy / "manifest.json")["files"])
    assert set(run.export.glob("*")) == before and not list(copy.parent.glob(".*"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOTCONN], ids=errno.errorcode.get)
def test_export_that_does_not_get_onto_the_drive_is_kept_and_named(run, tmp_path, monkeypatch, number):
    """Merging a large model takes minutes: a full Drive must not cost them."""
    monkeypatch.setenv("ADSLM_DRIVE", str(tmp_path))

    pour = copies._pour

    def fail(stream, target, beat):
        if target.is_relative_to(tmp_path):
            raise OSError(number, os.strerror(number), str(target))
        return pour(stream, target, beat)

    monkeypatch.setattr(copies, "_pour", fail)
    with pytest.raises(ExportError) as caught:
        export_run(run, "handover", kind="drive", merged=False)
    with pytest.raises(ExportError, match=rf"{run.export}/handover-\d{{6}}"):  # again: the first one is not overwritten
        export_run(run, "handover", kind="drive", merged=False)
    assert not list(tmp_path.glob("*handover*")) and run.status("export") == "failed"
    kept = run.export / "handover"
    assert all(str(kept) in text for text in (caught.value.ja, caught.value.en))
    load_export(kept, base=str(run.path.parents[1] / "private" / "my-base"))  # whole: checksums and all
    for folder in run.export.glob("handover*"):
        shutil.rmtree(folder)


def test_a_run_that_is_not_trained_is_refused(tmp_path):
    with pytest.raises(RunError, match="training"):
        export_run(Run("new", tmp_path))
    with pytest.raises(RunError, match="training"):
        load_tuned(Run("new", tmp_path))


def test_without_evaluation_the_card_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "status", lambda self, step: "stale" if step == "evaluation" else "done")
    result = export_run(run, tmp_path / "out", merged=False)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert not result.evaluated and "まだ評価していません" in card and not (tmp_path / "out" / "metrics.json").exists()
