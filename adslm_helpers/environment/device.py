"""Which device, and which numbers to compute with: a decision from the recipe and the machine, with its reason."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass

from ..errors import RecipeError, SetupError
from ..recipe import DpoRecipe, load_recipe, preset_names
from .machine import GIB, Probe, load_psutil, probe_machine
from .reasons import REASONS

# Machines report a little less than their label: a "16 GB" T4 has 14.6-14.7 GiB, an "8 GB" container 7.8.
_TOLERANCE = 0.95
# Of a Mac's shared memory Metal hands out about two thirds: 5.3 GB of 8, 10.7 GB of 16.
_MPS_SHARE = 2 / 3
# Left to what the allocator wastes on a GPU, and to the system on a CPU (an eighth of a small machine).
_CUDA_RESERVE, _CPU_RESERVE = 0.5, 1.5
_WATERMARKS = {"PYTORCH_MPS_HIGH_WATERMARK_RATIO": "1.0", "PYTORCH_MPS_LOW_WATERMARK_RATIO": "0.9"}
MPS_ENVIRONMENT = {"PYTORCH_ENABLE_MPS_FALLBACK": "1", **_WATERMARKS}
"""What torch reads when it is imported on an Apple chip; `configure_mps_environment` sets it before that."""
MPS_BATCHES_SINCE = (2, 9)
"""torch from which left-padded batches are right on MPS (pytorch #156707: NaN before)."""

_GPU_HINT = (
    "。Colab ではメニュー「ランタイム」>「ランタイムのタイプを変更」で GPU を選べます。",
    ". On Colab, menu Runtime > Change runtime type offers GPUs.",
)


@dataclass(frozen=True)
class DevicePlan:
    """Where and how to compute; make one with `choose_device`."""

    device: str
    """'cuda', 'mps' or 'cpu'."""
    dtype: str
    """Dtype of the base weights ('float32', 'bfloat16', 'float16'), or of what 4-bit loading leaves unquantised. LoRA weights are
    float32 on every device."""
    bf16: bool
    """The trainer's flag. Always hand over both flags: with neither, TRL takes bf16=True on every device."""
    fp16: bool
    """The trainer's flag."""
    reason_ja: str
    reason_en: str
    memory_gb: float | None
    """GiB that the device can address."""
    name: str
    """Name of the GPU or the processor."""
    usable_gb: float | None = None
    """GiB of it that a training may take; see `usable_memory`."""
    attention: str = "sdpa"
    """'eager' on MPS: fused attention gives NaN there for rows that are all padding. Else transformers' own choice."""
    pad_to_multiple_of: int | None = None
    """Batches are padded to a multiple of this: the MPS allocator keeps a set of buffers for every shape that it meets."""
    empty_cache_steps: int | None = None
    """Steps after which cached memory is handed back (the trainer's `torch_empty_cache_steps`)."""
    generation_batch: int = 16
    """Prompts answered at once; 1 where left-padded batches cannot be trusted (MPS before torch 2.9)."""

    @property
    def pin_memory(self) -> bool:
        """Page-locked batches speed up the copy to a CUDA GPU; MPS has no such copy and warns."""
        return self.device == "cuda"

    @property
    def num_workers(self) -> int:
        """0: batches of a few hundred tokens are quicker made here than handed over by another process."""
        return 0

    @property
    def compute_dtype(self) -> str:
        """Dtype of the products: under AMP its own, else that of the weights; what 4-bit layers compute in."""
        return "bfloat16" if self.bf16 else "float16" if self.fp16 else self.dtype


def choose_device(recipe: DpoRecipe, probe: Probe | None = None, float32_fits: bool | None = None) -> DevicePlan:
    """The device and precision for `recipe` on the machine `probe` (this one by default), with the reason.

    `float32_fits`: whether the model fits in float32, which decides on a Mac; `models.plan` knows. Without it the preset's own
    `needs_memory_gb` does. Raises SetupError when the recipe asks for a device that is not there, RecipeError for a dtype that
    cannot work on it.
    """
    probe = probe or probe_machine()
    device = _device(recipe, probe)
    if recipe.dtype == "auto":
        dtype, amp, why = _auto(device, recipe, probe, float32_fits)
        ja, en = REASONS[why]
    else:
        dtype, amp, ja, en = _as_asked(device, recipe.dtype, probe)
    return DevicePlan(
        device=device,
        dtype=dtype,
        bf16=amp == "bf16",
        fp16=amp == "fp16",
        reason_ja=ja,
        reason_en=en,
        memory_gb=probe.memory_of(device),
        name=probe.name if device == probe.kind else "CPU",
        usable_gb=usable_memory(device, probe),
        **(_mps_settings(probe) if device == "mps" else {}),
    )


def usable_memory(device: str, probe: Probe) -> float | None:
    """GiB of the device's memory that a training may take: not all is handed out, and the system needs its share."""
    memory = probe.memory_of(device)
    if memory is None:
        return None
    if device == "mps":
        return memory * _MPS_SHARE
    if device == "cuda":
        return memory - _CUDA_RESERVE
    # Each of a launcher's processes holds the model for itself.
    return (memory - min(_CPU_RESERVE, memory / 8)) / max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


def check_preset_fits(recipe: DpoRecipe, probe: Probe) -> None:
    """Raises RecipeError, naming the presets that fit, when the recipe's preset is not meant for this machine."""
    lack = _lack(recipe, probe)
    if lack is None:
        return
    names = ", ".join(fitting_presets(probe)) or "-"
    here = probe.describe(None if recipe.device == "auto" else recipe.device)
    raise RecipeError(
        f"プリセット {recipe.preset!r} は{lack[0]}を必要としますが、このマシンは {here} です。"
        f"→ ここで動くプリセット（大きい順）: {names}{_GPU_HINT[0] if 'cuda' in recipe.needs_device else ''}",
        f"Preset {recipe.preset!r} needs {lack[1]}, and this machine has {here}. "
        f"-> Presets that fit here, largest first: {names}{_GPU_HINT[1] if 'cuda' in recipe.needs_device else ''}",
    )


def fitting_presets(probe: Probe) -> list[str]:
    """Names of the presets that fit this machine, the most demanding first; without 'smoke', which only serves tests."""
    recipes = [load_recipe(name) for name in preset_names() if name != "smoke"]
    fitting = [recipe for recipe in recipes if _lack(recipe, probe) is None]
    return [recipe.preset for recipe in sorted(fitting, key=lambda recipe: -recipe.needs_memory_gb)]


def memory_in_use() -> dict[str, float]:
    """GiB in use now: 'process' (resident), 'cuda' and 'cuda_peak' (first GPU), 'mps'; only what can be asked here.

    Never imports torch. MPS has no peak counter: sample this while training.
    """
    used: dict[str, float] = {}
    psutil = load_psutil()
    if psutil:
        used["process"] = psutil.Process().memory_info().rss / GIB
    torch = sys.modules.get("torch")
    if torch is None:
        return used
    if torch.cuda.is_initialized():  # asking an untouched GPU would create a context of some 100 MB on it
        used["cuda"] = torch.cuda.memory_allocated() / GIB
        used["cuda_peak"] = torch.cuda.max_memory_allocated() / GIB
    if torch.backends.mps.is_available():
        used["mps"] = torch.mps.current_allocated_memory() / GIB
    return used


def configure_mps_environment() -> dict[str, str]:
    """Sets what torch reads once, when it is imported on an Apple chip, and returns the settings it set.

    PyTorch's own limit (1.7 x the working set) lets a Mac swap for hours; 1.0 ends in a clean out-of-memory error.
    Does nothing elsewhere or once torch is imported. The user's own values win; one watermark of theirs keeps both of ours
    out, since torch refuses to start with a low watermark above the high one.
    """
    if sys.platform != "darwin" or platform.machine() != "arm64" or "torch" in sys.modules:
        return {}
    left_out = set(_WATERMARKS) if any(name in os.environ for name in _WATERMARKS) else set()
    settings = {name: value for name, value in MPS_ENVIRONMENT.items() if name not in os.environ and name not in left_out}
    os.environ.update(settings)
    return settings


def mps_environment() -> dict[str, str]:
    """The settings of `configure_mps_environment` as they are on this Mac ('' where not set); elsewhere as they would be set on one."""
    return {name: os.environ.get(name, "") for name in MPS_ENVIRONMENT} if sys.platform == "darwin" else dict(MPS_ENVIRONMENT)


def _lack(recipe: DpoRecipe, probe: Probe) -> tuple[str, str] | None:
    """What the recipe's preset needs and this machine does not have, in Japanese and English; None when it fits."""
    device = probe.kind if recipe.device == "auto" else recipe.device
    if device not in probe.devices or device not in recipe.needs_device:
        wanted = [device] if device in recipe.needs_device else list(recipe.needs_device)
        return f"装置 {' / '.join(wanted)} ", f"device {' / '.join(wanted)}"
    memory = probe.memory_of(device)
    if memory is not None and memory < recipe.needs_memory_gb * _TOLERANCE:
        amount = f"{recipe.needs_memory_gb:g} GB"
        return (
            (f"GPU メモリ {amount} ", f"{amount} of GPU memory")
            if device == "cuda"
            else (f"メモリ {amount} ", f"{amount} of memory")
        )
    return None


def _device(recipe: DpoRecipe, probe: Probe) -> str:
    if recipe.device == "auto":
        return probe.kind
    if recipe.device in probe.devices:
        return recipe.device
    there = ", ".join(probe.describe(device) for device in probe.devices)
    build = f"torch {probe.torch}" if probe.torch else "torch"
    hint_ja, hint_en = _GPU_HINT if recipe.device == "cuda" else ("", "")
    raise SetupError(
        f"レシピは device = {recipe.device!r} ですが、{build} から見えるのは {there} です。"
        f"→ device を 'auto' にしてください{hint_ja}",
        f"The recipe asks for device = {recipe.device!r}, and {build} sees {there}. -> Set device to 'auto'{hint_en}",
    )


def _mps_settings(probe: Probe) -> dict:
    return {
        "attention": "eager",
        "pad_to_multiple_of": 64,
        "empty_cache_steps": 10,
        "generation_batch": 16 if _torch_version(probe) >= MPS_BATCHES_SINCE else 1,
    }


def _auto(device: str, recipe: DpoRecipe, probe: Probe, float32_fits: bool | None) -> tuple[str, str | None, str]:
    """(dtype of the weights, AMP mode or None, key of the reason) for dtype = 'auto'."""
    if device == "cuda":
        return _auto_cuda(probe.compute_capability or (0, 0))
    if device == "mps":
        return _auto_mps(recipe, probe, float32_fits)
    return "float32", None, "cpu"


def _auto_cuda(compute: tuple[int, int]) -> tuple[str, str | None, str]:
    # Not torch.cuda.is_bf16_supported(): it says True on a T4, where bfloat16 is emulated and slow.
    if compute >= (8, 0):
        return "bfloat16", "bf16", "cuda_bf16"
    if compute >= (7, 0):
        # Float32 weights keep the residual stream in float32; in float16 the Qwen2 family overflows: NaN, "loss 0.0", "!!!!".
        return "float32", "fp16", "cuda_fp16"
    return "float32", None, "cuda_fp32"


def _auto_mps(recipe: DpoRecipe, probe: Probe, float32_fits: bool | None) -> tuple[str, str | None, str]:
    # Never float16, and no AMP: bfloat16 saves memory there (M1 and M2 emulate it), float32 adapters keep the precision.
    can_bf16 = _mps_has_bfloat16(probe)
    if recipe.load_in_4bit and can_bf16:
        return "bfloat16", None, "mps_4bit"
    if float32_fits is None:
        float32_fits = probe.memory_gb is None or recipe.needs_memory_gb * _TOLERANCE <= probe.memory_gb
    if recipe.load_in_4bit or float32_fits:
        return "float32", None, "mps_fp32"
    return ("bfloat16", None, "mps_bf16") if can_bf16 else ("float32", None, "mps_tight")


def _mps_has_bfloat16(probe: Probe) -> bool:
    return _torch_version(probe) >= (2, 6) and (probe.macos or (0,)) >= (14,)


def _torch_version(probe: Probe) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", probe.torch)[:2])


def _as_asked(device: str, dtype: str, probe: Probe) -> tuple[str, str | None, str, str]:
    """The recipe's own dtype, or RecipeError where it cannot work."""
    _refuse_impossible(device, dtype, probe)
    amp = {"float16": "fp16", "bfloat16": "bf16"}.get(dtype) if device == "cuda" else None
    ja, en = f"レシピの dtype = {dtype!r} に従います。", f"As the recipe asks: dtype = {dtype!r}."
    if amp == "fp16":
        ja += "注意: Qwen2 系の重みは float16 で桁あふれ（NaN）することがあります。"
        en += " Beware: float16 weights of the Qwen2 family can overflow to NaN."
    if amp == "bf16" and (probe.compute_capability or (0, 0)) < (8, 0):
        ja += "注意: この GPU の bfloat16 はエミュレーションで、遅くなります。"
        en += " Beware: this GPU only emulates bfloat16, which is slow."
    return dtype, amp, ja, en


def _refuse_impossible(device: str, dtype: str, probe: Probe) -> None:
    if dtype == "float16" and device != "cuda":
        raise RecipeError(
            f"dtype = 'float16' は {device} では使えません。Qwen2 系などの重みが桁あふれし、損失が NaN になります。"
            "→ dtype を 'auto' にしてください。",
            f"dtype = 'float16' cannot be used on {device}: weights of the Qwen2 family and others overflow "
            "and the loss is NaN. -> Set dtype to 'auto'.",
        )
    if dtype == "bfloat16" and device == "mps" and not _mps_has_bfloat16(probe):
        macos = ".".join(map(str, probe.macos or ())) or "?"
        raise RecipeError(
            f"mps の dtype = 'bfloat16' には macOS 14 と torch 2.6 以上が必要です（ここは macOS {macos}、torch {probe.torch}）。"
            "→ 更新するか、dtype を 'auto' にしてください。",
            f"dtype = 'bfloat16' on mps needs macOS 14 and torch 2.6 (here: macOS {macos}, torch {probe.torch}). "
            "-> Update, or set dtype to 'auto'.",
        )
