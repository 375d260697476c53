"""A PEFT adapter out of a folder: looked at before it is put on its base, for its config can name code to import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import AdslmError, ModelError
from ..run import read_json

WEIGHTS = "adapter_model.safetensors"
_LARGEST = 1 << 20
# PEFT imports what these name, fetches it, or matches every name against it as a pattern.
_NAME_CODE = (
    "auto_mapping",
    "megatron_config",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "arrow_config",
    "rank_pattern",
    "alpha_pattern",
)


def with_adapter(model: Any, folder: Path) -> Any:
    """`model` with the LoRA adapter of `folder` on it, as a `PeftModel`; ModelError where it is none, does not fit or names code."""
    from peft import PeftModel

    return _read(folder, lambda: PeftModel.from_pretrained(model, str(folder), is_trainable=False))


def add_adapter(model: Any, folder: Path, name: str) -> None:
    """Puts the adapter of `folder` beside those that a PeftModel has, as `name`; which one is active stays as it was.

    ModelError as for `with_adapter`, and where the tensors are not those of this base: PEFT would leave what is missing at zero.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    _read(folder, lambda: model.load_adapter(str(folder), adapter_name=name, is_trainable=False, torch_device=str(model.device)))
    own = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    with safe_open(str(folder / WEIGHTS), framework="pt") as file:
        odd = sorted(set(file.keys()) ^ set(own))
    if odd:
        model.delete_adapter(name)
        ja = f"このベースモデルのアダプターではありません。合わないテンソル {len(odd)} 個: {odd[0]} ほか"
        raise _unusable(folder, ja, f"it is no adapter of this base; {len(odd)} tensors do not match: {odd[0]}, ...")
    model.eval()


def _read(folder: Path, load: Callable[[], Any]) -> Any:
    if why := _refused(folder):
        raise _unusable(folder, *why)
    try:
        return load()
    except Exception as error:  # a false header, other shapes, a config of another PEFT: the classes of many libraries
        if "OutOfMemory" in type(error).__name__:
            raise
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise _unusable(folder, f"{type(error).__name__}: {said}", f"{type(error).__name__}: {said}") from None


def _refused(folder: Path) -> tuple[str, str] | None:
    config, weights = folder / "adapter_config.json", folder / WEIGHTS
    if not weights.is_file():  # PEFT would take adapter_model.bin, which is a pickle
        return f"{weights.name} がありません", f"it has no {weights.name}"
    if not config.is_file() or config.stat().st_size > _LARGEST:
        return f"{config.name} がないか、大きすぎます", f"{config.name} is missing or too large"
    try:
        values = read_json(config)
    except AdslmError as error:
        return error.ja.partition("→")[0], error.en.partition("->")[0]
    if not isinstance(values, dict) or values.get("peft_type") != "LORA":
        return "LoRA のアダプターではありません", "it is no LoRA adapter"
    if named := [key for key in _NAME_CODE if values.get(key)]:
        shown = ", ".join(named)
        return f"プログラムを読み込む設定があります（{shown}）", f"its config names code to import ({shown})"
    targets = values.get("target_modules")
    if not (isinstance(targets, list) and targets and all(isinstance(name, str) for name in targets)):  # text would be a pattern
        return "target_modules が名前の並びではありません", "its target_modules is no list of names"
    return None


def _unusable(folder: Path, ja: str, en: str) -> ModelError:
    return ModelError(
        f"{folder} のアダプターを読めません（{ja}）。→ 学習か書き出しをやり直すか、元のフォルダーを写し直してください。",
        f"The adapter in {folder} cannot be used ({en}). -> Train or export again, or copy the folder again.",
    )
