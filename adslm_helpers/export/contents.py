"""The parts of an export: adapter, merged model, the records that say where they come from."""

from __future__ import annotations

import gc
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ExportError, ModelError
from ..models.loading import LoadedModel
from ..models.portable import fix_model_config, fix_tokenizer_config, fix_tokenizer_file
from ..models.tuned import ADAPTER_FILES, load_tuned
from ..recipe import DpoRecipe
from ..run import Run, write_json
from .public import fix_adapter_config, public_name

EVALUATION_FILES = ("metrics.json", "comparisons.jsonl", "report.html")


def load_for_export(run: Run, recipe: DpoRecipe) -> tuple[LoadedModel, DpoRecipe]:
    """The tuned model unquantised in float32, on the recipe's device or, where it is too small, on the CPU; and the recipe for that.

    A 4-bit base cannot be merged into: its layers would be quantised again.
    """
    recipe = replace(recipe, dtype="float32", load_in_4bit=False, per_device_train_batch_size=1, gradient_checkpointing=True)
    last = None
    for device in dict.fromkeys((recipe.device, "cpu")):
        attempt = replace(recipe, device=device)
        try:
            return load_tuned(run, attempt), attempt
        except ModelError as error:
            last = error
    raise ExportError(
        f"結合のために、ベースモデルを float32 で読み込めません。\n{last.ja}\n→ merged=False（アダプターだけ）にするか、メモリの多い環境で書き出してください。",
        f"The base model cannot be loaded in float32 for merging.\n{last.en}\n-> Set merged=False (adapter only), or use a machine with more memory.",
    ) from last


def published_dtype(loaded: LoadedModel) -> str:
    """The dtype in which the base was published: 'float32' where its config does not say."""
    from transformers import AutoConfig

    # The loaded model's own config says in which dtype it was loaded.
    config = AutoConfig.from_pretrained(loaded.model.config._name_or_path, local_files_only=True)
    dtype = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    name = str(dtype).removeprefix("torch.")
    return name if name in ("bfloat16", "float16") else "float32"


def write_adapter(run: Run, loaded: LoadedModel, folder: Path, base: str) -> None:
    """The PEFT adapter by its two files (a trainer leaves pickles beside them) and the tokenizer with its chat template."""
    folder.mkdir(parents=True)
    for name in ADAPTER_FILES:
        shutil.copyfile(run.training / "adapter" / name, folder / name)
    fix_adapter_config(folder / "adapter_config.json", base)
    _write_tokenizer(loaded.tokenizer, folder)


def write_merged(loaded: LoadedModel, folder: Path, dtype: str) -> None:
    """The adapter merged into its base, in float32, then stored in `dtype`. Takes `loaded` apart: release it afterwards."""
    import torch

    model = merge(loaded.model)
    for parameter in model.parameters():
        # Not model.to(dtype): that would round the rotary tables as well.
        parameter.data = parameter.data.to(getattr(torch, dtype))
    model.save_pretrained(folder, safe_serialization=True)
    fix_model_config(folder / "config.json")
    _write_tokenizer(loaded.tokenizer, folder)


def merge(model: Any) -> Any:
    """A `PeftModel` as a plain model with the adapter inside its weights."""
    return model.merge_and_unload()


def write_records(run: Run, folder: Path, recipe: DpoRecipe) -> bool:
    """recipe.json, and what the evaluation wrote; says whether the evaluation is done."""
    values = recipe.to_dict()
    write_json(folder / "recipe.json", {**values, "models": [public_name(name) for name in values["models"]]})
    if run.status("evaluation") != "done":
        return False
    for name in EVALUATION_FILES:
        if (run.evaluation / name).is_file():
            shutil.copyfile(run.evaluation / name, folder / name)
    if (run.evaluation / "figures").is_dir():
        shutil.copytree(run.evaluation / "figures", folder / "figures")
    return True


def release(loaded: LoadedModel) -> None:
    """Frees the model's memory before the next one is loaded."""
    import torch

    loaded.model = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _write_tokenizer(tokenizer: Any, folder: Path) -> None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # the padding of the last call would be saved, and with it the side
        backend.no_padding()
        backend.no_truncation()
    tokenizer.save_pretrained(folder)
    fix_tokenizer_config(folder / "tokenizer_config.json")
    fix_tokenizer_file(folder / "tokenizer.json")
