"""The DeepSpeed file of a training: our own ('zero2'), or the user's."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from ...data_files import data_path
from ...errors import TrainingError
from ...foreign_text import brief
from ...json_files import file_content, json_value
from ...run_names import user_path

VARIABLE = "ADSLM_DEEPSPEED"
"""Where the trainer's settings find the file."""
OURS = {"zero2": "zero2.json"}
# The trainer fills in "auto"; a number would win over the recipe without a word, as it did in the guide's own launcher.
_BY_RECIPE = {
    ("train_batch_size",): "per_device_train_batch_size",
    ("train_micro_batch_size_per_gpu",): "per_device_train_batch_size",
    ("gradient_accumulation_steps",): "gradient_accumulation_steps",
    ("gradient_clipping",): "max_grad_norm",
    ("bf16", "enabled"): "dtype",
    ("fp16", "enabled"): "dtype",
    ("optimizer", "params", "lr"): "learning_rate",
    ("scheduler", "type"): "lr_scheduler_type",
}


def use_deepspeed(name: str) -> Path:
    """Has the trainings of this process run under DeepSpeed with the file `name`, as `deepspeed_file` finds it.

    Raises TrainingError where DeepSpeed is not installed or no launcher started this process, and as `deepspeed_file` does.
    """
    path = deepspeed_file(name)
    if importlib.util.find_spec("deepspeed") is None:
        raise TrainingError(
            "deepspeed がインストールされていません。→ pip install deepspeed を実行するか、--deepspeed を外してください。",
            "deepspeed is not installed. -> pip install deepspeed, or leave --deepspeed out.",
        )
    if "LOCAL_RANK" not in os.environ:
        raise TrainingError(
            "DeepSpeed はランチャーから起動します。→ adslm launch --gpus localhost:0,1 --with deepspeed -- train ...",
            "DeepSpeed wants to be started by a launcher. -> adslm launch --gpus localhost:0,1 --with deepspeed -- train ...",
        )
    os.environ[VARIABLE] = str(path)
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        _join_cpus()
    return path


def _join_cpus() -> None:
    """accelerate takes a process without a GPU for the only one, unless the trainer's `use_cpu` is set; with that, it leaves DeepSpeed out."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    def several(*_: Any, **__: Any) -> tuple[str, DistributedType]:
        return "gloo", DistributedType.MULTI_CPU

    PartialState._prepare_backend = several


def deepspeed_file(name: str) -> Path:
    """The path of the DeepSpeed file `name`: 'zero2' is the one that ships, anything else a file of the user's.

    Raises RunError for a file that is absent or no JSON, TrainingError where it fixes what the recipe decides.
    """
    path = data_path(OURS[name]) if name in OURS else user_path(name)
    settings = json_value(file_content(path), str(path), str(path), dict)
    for keys, field in _BY_RECIPE.items():
        value = settings
        for key in keys:
            value = value.get(key, "auto") if isinstance(value, dict) else "auto"
        if value != "auto":
            name = ".".join(keys)
            raise TrainingError(
                f'{path} の {name} = {brief(value)} はレシピの {field} より優先されてしまいます。→ "auto" にして、レシピに書いてください。',
                f'{name} = {brief(value)} in {path} would win over the recipe\'s {field}. -> Write "auto" there, and the value in the recipe.',
            )
    return path
