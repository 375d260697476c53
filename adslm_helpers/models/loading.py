"""From a recipe to a loaded model: the fallback list, each skip with its reason, LoRA, the adapter of a run."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..environment.device import DevicePlan, choose_device
from ..environment.hub_token import hf_token
from ..environment.packages import hide_kernel_notice
from ..errors import ModelError
from ..recipe import EMBEDDED, DpoRecipe
from .catalog import CATALOG, ModelFacts, facts_from_config
from .generation import generate_texts
from .memory import plan_memory
from .templates import ensure_chat_template
from .tiny import embedded_model_path

LORA_TARGETS = {
    "gpt2": ("c_attn", "c_proj"),
    "gpt_neox": ("query_key_value", "dense"),
}
_DEFAULT_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Skipped:
    """A model of the list that was not used, and why."""

    name: str
    ja: str
    en: str


@dataclass
class LoadedModel:
    """A model ready for training or answering, with the story of how it was chosen."""

    model: Any
    tokenizer: Any
    name: str
    plan: DevicePlan
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def generate_response(self, prompt: str | list[dict], **options: Any) -> str:
        """One answer to `prompt`; `options` as for `generate_texts` (seed, temperature, top_p, max_new_tokens)."""
        return generate_texts(self.model, self.tokenizer, [prompt], **options)[0].text

    def lines(self) -> list[str]:
        """What was chosen and what was skipped, Japanese and English; a fallback is said first and loudly."""
        told = []
        if self.skipped:
            told.append(f"【注意】最初のモデルは使えず、{self.name} に切り替えました。/ FALLBACK: using {self.name} instead.")
            told += [f"  - {skip.name}: {skip.ja} / {skip.en}" for skip in self.skipped]
        else:
            told.append(f"モデル / model: {self.name}")
        if self.name == EMBEDDED:
            told.append(
                "これは教材用の小さなモデルです。実際の広告には使えません。/ This is a teaching model, not one to advertise with."
            )
        return told + self.notes

    def record(self) -> dict:
        """For the manifest."""
        return {
            "name": self.name,
            "device": self.plan.device,
            "dtype": self.plan.dtype,
            "skipped": [{"name": skip.name, "reason": skip.en} for skip in self.skipped],
            "notes": self.notes,
        }


def load_model(recipe: DpoRecipe, plan: DevicePlan | None = None) -> LoadedModel:
    """The first model of `recipe.models` that can be used here, on its device, without an adapter.

    Raises ModelError, listing every reason, when none can; with `recipe.fallback` off, when the first cannot.
    """
    hide_kernel_notice()
    plan = plan or choose_device(recipe)
    reachable = functools.cache(_hub_answers)  # asked once for the whole list, and only when a hub model is on it
    skipped: list[Skipped] = []
    for name in recipe.models if recipe.fallback else recipe.models[:1]:
        loaded = _too_large(name, CATALOG.get(name), recipe, plan) or _try_load(name, recipe, plan, reachable)
        if isinstance(loaded, Skipped):
            skipped.append(loaded)
            continue
        loaded.skipped = skipped
        return loaded
    ja = "\n".join(f"  - {skip.name}: {skip.ja}" for skip in skipped)
    en = "\n".join(f"  - {skip.name}: {skip.en}" for skip in skipped)
    raise ModelError(
        f"使えるモデルがありません。\n{ja}\n→ models に '{EMBEDDED}' を加えると、ネットワークなしで試せます。",
        f"No model of the list can be used here.\n{en}\n-> Add '{EMBEDDED}' to `models` to try the road without a network.",
    )


def load_named(name: str, recipe: DpoRecipe, adapter: Path | None = None) -> LoadedModel:
    """Exactly the model `name` (as a manifest recorded it), with the PEFT adapter of a folder on it when one is given."""
    from dataclasses import replace

    loaded = load_model(replace(recipe, models=(name,), fallback=False))
    if adapter is not None:
        from peft import PeftModel

        loaded.model = PeftModel.from_pretrained(loaded.model, str(adapter), is_trainable=False)
    loaded.model.eval()
    return loaded


def lora_config(recipe: DpoRecipe, model: Any) -> Any:
    """The `peft.LoraConfig` of the recipe; 'auto' targets are the attention projections of the model's architecture."""
    from peft import LoraConfig

    targets = recipe.lora_target_modules
    if targets == ("auto",):
        targets = LORA_TARGETS.get(model.config.model_type, _DEFAULT_TARGETS)
    present = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    if not present & set(targets):
        raise ModelError(
            f"LoRA の対象 {', '.join(targets)} がこのモデル（{model.config.model_type}）にありません。"
            "→ lora_target_modules をこのモデルの層の名前にしてください。",
            f"This model ({model.config.model_type}) has no modules named {', '.join(targets)}. -> Set lora_target_modules.",
        )
    return LoraConfig(
        r=recipe.lora_r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=[name for name in targets if name in present],
        task_type="CAUSAL_LM",
    )


def _too_large(name: str, facts: ModelFacts | None, recipe: DpoRecipe, plan: DevicePlan) -> Skipped | None:
    """A Skipped when a model of this shape cannot fit in the device's memory; None when it can, or nothing is known."""
    if facts is None or plan.memory_gb is None:
        return None
    need = plan_memory(facts, recipe, plan.dtype).total
    if need <= plan.memory_gb:
        return None
    return Skipped(
        name,
        f"約 {need:.1f} GB 必要ですが、使えるのは {plan.memory_gb:.1f} GB です",
        f"needs about {need:.1f} GB, {plan.memory_gb:.1f} GB is there",
    )


def _too_long(name: str, config: Any, recipe: DpoRecipe) -> Skipped | None:
    """A Skipped when the recipe's texts have more tokens than the model has learned positions for (GPT-2's family, not rotary ones)."""
    positions = getattr(config, "n_positions", None)
    asked = max(recipe.max_length, recipe.max_prompt_length + recipe.max_new_tokens)
    if positions is None or asked <= positions:
        return None
    return Skipped(
        name,
        f"このモデルが読めるのは {positions} トークンまでですが、レシピは {asked} です（max_length か max_new_tokens を小さく）",
        f"reads {positions} tokens at most, the recipe asks for {asked} (lower max_length or max_new_tokens)",
    )


def _try_load(name: str, recipe: DpoRecipe, plan: DevicePlan, reachable: Callable[[], bool]) -> LoadedModel | Skipped:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # of reading and writing weights, in red under every cell; downloads have their own bar
    where, only_local = _where(name, reachable)
    access = {"local_files_only": only_local, "token": None if only_local else hf_token()}
    try:
        config = AutoConfig.from_pretrained(where, **access)
        if too_large := _too_large(name, facts_from_config(config), recipe, plan):
            return too_large
        if too_long := _too_long(name, config, recipe):
            return too_long
        tokenizer = AutoTokenizer.from_pretrained(where, **access)
        model = AutoModelForCausalLM.from_pretrained(where, **access, **_load_options(recipe, plan))
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        return _why_not(name, error, only_local)
    model = _keep_layout(model) if recipe.load_in_4bit else model.to(plan.device)
    if plan.compute_dtype != "float32" and not (plan.bf16 or plan.fp16):
        _float32_logits(model)
    notes = [note] if (note := ensure_chat_template(tokenizer, name)) else []
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        notes.append(f"{name} has no pad token; its EOS pads (the response mask keeps the real EOS scored)")
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = True
    return LoadedModel(model, tokenizer, name, plan, notes=notes)


def _where(name: str, reachable: Callable[[], bool]) -> tuple[str, bool]:
    """What to hand to from_pretrained, and whether only local files may be used."""
    if name == EMBEDDED:
        return str(embedded_model_path()), True
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser()), True
    return name, os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0") or not reachable()


def _hub_answers() -> bool:
    """Whether the model hub's host can be reached, asked with a short limit; hub clients retry for minutes."""
    import socket
    from urllib.parse import urlsplit

    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=3).close()
        return True
    except OSError:
        # A proxy may reach what we cannot: then let the hub client try.
        return any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy"))


def _load_options(recipe: DpoRecipe, plan: DevicePlan) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` for precision and place."""
    import torch
    from transformers import PretrainedConfig

    name = "dtype" if hasattr(PretrainedConfig(), "dtype") else "torch_dtype"  # renamed in transformers 4.56
    if recipe.load_in_4bit:
        # Onto an Apple GPU only in the checkpoint's own dtype: read as another one straight onto it ends in a segmentation fault.
        return {name: "auto" if plan.device == "mps" else getattr(torch, plan.dtype), **_quantised(plan)}
    return {name: getattr(torch, plan.dtype)}  # and no device_map, for the same reason


def _quantised(plan: DevicePlan) -> dict[str, Any]:
    """NF4 with double quantisation; embeddings, norms and head stay as they are."""
    import torch
    from transformers import BitsAndBytesConfig

    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, plan.compute_dtype),
    )
    return {"quantization_config": quantisation, "device_map": {"": plan.device}}


def _float32_logits(model: Any) -> None:
    """Makes the head hand over float32, as AMP does: TRL 0.14 to 1.9 sums log-probabilities in the dtype of the logits.

    In bfloat16 a response's -300 nats are known to the nearest 2: the loss then stands at 0.6914 and nothing is learned from it.
    """
    model.get_output_embeddings().register_forward_hook(lambda head, inputs, logits: logits.float())


def _keep_layout(model: Any) -> Any:
    """Keeps bitsandbytes from repacking 4-bit weights at the first evaluation on a CPU with AVX512-BF16.

    The packed layout is for inference only: it is not turned back when training goes on, has no gradient (a layer with a bias raises
    RuntimeError, one without loses it), and rounds the scales to bfloat16, so that a model answers otherwise after an evaluation.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _why_not(name: str, error: Exception, only_local: bool) -> Skipped:
    """The reason of a failed load in words. The error's own text is kept short: hub errors quote whole pages."""
    text = " ".join(str(error).split())[:160]
    if name == EMBEDDED or Path(name).expanduser().is_dir():
        return Skipped(name, f"フォルダーのモデルを読めません（{text}）", f"the model in this folder cannot be read ({text})")
    if "gated" in text.lower() or "401" in text or "403" in text:
        return Skipped(name, "利用許諾が必要です（HF_TOKEN を設定）", "gated: accept its licence on the hub and set HF_TOKEN")
    if only_local:
        return Skipped(name, "ネットワークがなく、手元にもありません", "no network, and not in the local cache")
    if isinstance(error, OSError):
        return Skipped(name, f"見つからないか、取得できません（{text}）", f"not found or not downloadable ({text})")
    return Skipped(name, f"この環境では読めません（{text}）", f"cannot be loaded here ({text})")
