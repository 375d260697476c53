"""Each choice of a plan with its reason in one sentence, Japanese and English."""

from __future__ import annotations

from dataclasses import dataclass

from ..environment.device import DevicePlan, mps_environment
from ..recipe import DpoRecipe


@dataclass(frozen=True)
class Choice:
    """One choice: what, which value, why."""

    name: str
    """Label, Japanese / English."""
    value: str
    ja: str
    en: str


def choices(asked: DpoRecipe, recipe: DpoRecipe, device: DevicePlan) -> tuple[Choice, ...]:
    """All choices for training by `recipe` on `device`, where `asked` is the recipe before it was made to fit."""
    told = [
        _device(asked, device),
        Choice("重みの精度 / weights", device.dtype, device.reason_ja, device.reason_en),
        _amp(device),
        _four_bit(asked, recipe),
        Choice(
            "アダプターの精度 / adapter",
            "float32",
            "小さな更新が半精度では丸められて消えるためです。",
            "In half precision small updates are rounded away.",
        ),
        _attention(device),
        _batch(asked, recipe),
        _checkpointing(asked, recipe),
        _eval_batch(asked, recipe),
    ]
    return tuple(told + _transfer(device))


def _device(asked: DpoRecipe, device: DevicePlan) -> Choice:
    memory = "" if device.memory_gb is None else f", {device.memory_gb:.1f} GiB"
    value = f"{device.device} ({device.name}{memory})"
    if asked.device != "auto":
        return Choice("装置 / device", value, "レシピの指定どおりです。", "As the recipe asks.")
    return Choice("装置 / device", value, "ここにある中でいちばん速い装置です。", "The fastest device that is here.")


def _amp(device: DevicePlan) -> Choice:
    if device.bf16:
        ja, en = "積だけを bfloat16 で計算し、桁あふれしません。", "Products are computed in bfloat16, which does not overflow."
        return Choice("混合精度 / AMP", "bf16", ja, en)
    if device.fp16:
        return Choice(
            "混合精度 / AMP",
            "fp16",
            "積だけを float16 で速く計算し、勾配はスケーラーが桁あふれから守ります。",
            "Products are computed fast in float16; a scaler keeps the gradients from under- and overflow.",
        )
    ja, en = "この装置では混合精度の利点がありません。", "Mixed precision gains nothing on this device."
    return Choice("混合精度 / AMP", "なし / none", ja, en)


def _four_bit(asked: DpoRecipe, recipe: DpoRecipe) -> Choice:
    name = "4-bit"
    if asked.load_in_4bit:
        ja, en = "レシピの指定どおり、重みのメモリを約 4 分の 1 にします。", "As the recipe asks: weights take about a quarter."
        return Choice(name, "NF4", ja, en)
    if recipe.load_in_4bit:
        ja, en = "16/32-bit の重みでは収まらないためです。", "With 16- or 32-bit weights it would not fit."
        return Choice(name, "NF4", ja, en)
    ja, en = "量子化しなくても収まり、そのほうが速く正確です。", "It fits without, which is faster and more exact."
    return Choice(name, "なし / no", ja, en)


def _attention(device: DevicePlan) -> Choice:
    if device.attention == "eager":
        return Choice(
            "注意機構 / attention",
            "eager",
            "MPS の sdpa は、パディングだけの行で NaN を返すことがあるためです。",
            "On MPS fused attention (sdpa) can return NaN for rows that are all padding.",
        )
    return Choice(
        "注意機構 / attention",
        device.attention,
        "この装置で正しく動き、注意の行列を保存しない分メモリも少なく済みます（モデルが対応していなければ eager）。",
        "It is correct on this device and never stores the attention matrix (eager where the model has no other).",
    )


def _batch(asked: DpoRecipe, recipe: DpoRecipe) -> Choice:
    batch, accumulation = recipe.per_device_train_batch_size, recipe.gradient_accumulation_steps
    value = f"{batch} x {accumulation} = {batch * accumulation}"
    if batch != asked.per_device_train_batch_size:
        return Choice(
            "バッチ x 累積 / batch x accumulation",
            value,
            f"一度に {asked.per_device_train_batch_size} 対ではメモリに収まらないため分けます。実効バッチは変わりません。",
            f"{asked.per_device_train_batch_size} pairs at once would not fit; the effective batch stays the same.",
        )
    return Choice("バッチ x 累積 / batch x accumulation", value, "レシピのままで収まります。", "It fits as the recipe has it.")


def _checkpointing(asked: DpoRecipe, recipe: DpoRecipe) -> Choice:
    name = "再計算 / checkpointing"
    if not recipe.gradient_checkpointing:
        ja, en = "すべて保存しても収まり、そのほうが速いためです。", "Everything can be kept, which is faster."
        return Choice(name, "なし / no", ja, en)
    if asked.gradient_checkpointing:
        ja, en = (
            "レシピの指定どおり、約 3 分の 1 遅くしてメモリを節約します。",
            "As the recipe asks: a third slower, much less memory.",
        )
        return Choice(name, "あり / yes", ja, en)
    ja, en = (
        "活性をすべて保存すると収まらないためです（約 3 分の 1 遅くなります）。",
        "Keeping all activations would not fit (a third slower).",
    )
    return Choice(name, "あり / yes", ja, en)


def _eval_batch(asked: DpoRecipe, recipe: DpoRecipe) -> Choice:
    value = str(recipe.per_device_eval_batch_size)
    if recipe.per_device_eval_batch_size != asked.per_device_eval_batch_size:
        ja, en = (
            "評価が学習よりメモリを使わないようにするためです。",
            "So that an evaluation needs no more memory than a training step.",
        )
    else:
        ja, en = (
            "この大きさなら、評価は学習の邪魔になるほどメモリを使いません。",
            "At this size an evaluation is no matter of memory.",
        )
    return Choice("評価バッチ / eval batch", value, ja, en)


def _transfer(device: DevicePlan) -> list[Choice]:
    if device.device == "cuda":
        ja, en = "固定メモリからの転送のほうが速いためです。", "Copies from page-locked memory are faster."
        return [Choice("データ転送 / loader", "pin_memory, workers 0", ja, en)]
    if device.device != "mps":
        return []
    settings = ", ".join(f"{name}={value or '未設定 / not set'}" for name, value in mps_environment().items())
    return [
        Choice(
            "環境変数 / environment",
            settings,
            "メモリが足りないとき、何時間もスワップせずに止まり、MPS にない演算は CPU で計算します。",
            "Too little memory ends in an error, not in hours of swapping; what MPS lacks is computed on the CPU.",
        ),
        Choice(
            "データ転送 / loader",
            "no pin_memory, workers 0",
            "CPU と GPU がメモリを共有するので、転送の工夫は要りません。",
            "CPU and GPU share memory: there is nothing to speed up.",
        ),
        Choice(
            "長さのそろえ / padding",
            f"x {device.pad_to_multiple_of}, empty cache / {device.empty_cache_steps} steps",
            "MPS は形ごとに領域を抱え込むため、形の種類を減らし、ときどき返します。",
            "MPS keeps buffers for every shape: fewer shapes, and they are handed back now and then.",
        ),
        Choice(
            "生成 / generation",
            f"{device.generation_batch} at once",
            "torch 2.9 より前の MPS は、左詰めパディングのバッチ生成を誤るためです。"
            if device.generation_batch == 1
            else "torch 2.9 以降の MPS は、左詰めパディングのバッチも正しく生成します。",
            "Before torch 2.9 left-padded batches go wrong on MPS."
            if device.generation_batch == 1
            else "From torch 2.9 on left-padded batches are right on MPS.",
        ),
    ]
