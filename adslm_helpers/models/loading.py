"""From a recipe to a loaded model: the fallback list, each skip with its reason, LoRA, the adapter of a run."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..environment.device import DevicePlan, choose_device
from ..environment.hub_token import has_hub_token, hf_token
from ..environment.machine import Probe, probe_machine
from ..environment.packages import hide_kernel_notice
from ..errors import ModelError
from ..foreign_text import harmless
from ..recipe import EMBEDDED, DpoRecipe
from ..run_names import is_folder, user_path
from .adapters import with_adapter
from .catalog import CATALOG, ModelFacts, facts_from_config, is_causal, lora_targets
from .generation import generate_texts
from .local import local_config, odd_values
from .memory import plan_memory
from .plan import does_not_fit, plan_model
from .skipped import Skipped, gated, no_model, too_long, wrong_architecture
from .templates import ensure_chat_template
from .tiny import embedded_model_path


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
            "skipped": [{"name": skip.name, "kind": skip.kind, "reason": skip.en} for skip in self.skipped],
            "notes": self.notes,
        }


def load_model(recipe: DpoRecipe, plan: DevicePlan | None = None, *, training: bool = True) -> LoadedModel:
    """The first model of `recipe.models` that can be used here, on its device, without an adapter.

    `plan`: the device of `plan_run`; without it each model is planned for by itself. `training` False: room for a step is not asked for.
    Raises ModelError, listing every reason, when none can; with `recipe.fallback` off, when the first cannot.
    """
    hide_kernel_notice()
    reachable = functools.cache(_hub_answers)  # asked once for the whole list, and only when a hub model is on it
    probe = functools.cache(probe_machine)
    skipped: list[Skipped] = []
    for name in recipe.models if recipe.fallback else recipe.models[:1]:
        device = plan or _device_for(name, recipe, probe())
        refused = _refused(name, CATALOG.get(name), recipe, device, training)
        loaded = refused or _try_load(name, recipe, device, reachable, training)
        if isinstance(loaded, Skipped):
            skipped.append(loaded)
            continue
        loaded.skipped = skipped
        return loaded
    raise no_model(skipped)


def load_named(name: str, recipe: DpoRecipe, adapter: Path | None = None) -> LoadedModel:
    """Exactly the model `name` (as a manifest recorded it), with the PEFT adapter of a folder on it when one is given."""
    from dataclasses import replace

    loaded = load_model(replace(recipe, models=(name,), fallback=False), training=False)
    if adapter is not None:
        loaded.model = with_adapter(loaded.model, adapter)
    loaded.model.eval()
    return loaded


def lora_config(recipe: DpoRecipe, model: Any) -> Any:
    """The `peft.LoraConfig` of the recipe; 'auto', or attention names of another architecture, mean the model's own."""
    from peft import LoraConfig

    targets = lora_targets(model.config.model_type, recipe.lora_target_modules)
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
        # GPT-2's Conv1D holds its weight the other way round (in 4-bit it is an ordinary linear layer); else peft warns at every layer.
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),
        task_type="CAUSAL_LM",
    )


def _device_for(name: str, recipe: DpoRecipe, probe: Probe) -> DevicePlan:
    """The device and precision that this model is planned for; where it does not fit at all, those that need least."""
    found = plan_model(name, recipe, probe)
    return choose_device(recipe, probe, float32_fits=False) if isinstance(found, Skipped) else found.device


def _refused(name: str, facts: ModelFacts | None, recipe: DpoRecipe, device: DevicePlan, training: bool) -> Skipped | None:
    """A Skipped for what is known before the model is asked for: it cannot fit, cannot read so much, or is gated and there is no token."""
    if facts is None:
        return None
    if facts.positions and (refused := too_long(name, facts.positions, recipe)):
        return refused
    if device.usable_gb is not None:
        memory = plan_memory(facts, recipe, device)
        need = memory.needed if training else memory.overhead + memory.weights
        if need > device.usable_gb:
            return does_not_fit(name, facts, recipe, device)
    if facts.gated and local_config(name) is None and not has_hub_token():
        return gated(name)
    return None


def _try_load(
    name: str, recipe: DpoRecipe, plan: DevicePlan, reachable: Callable[[], bool], training: bool = True
) -> LoadedModel | Skipped:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # of reading and writing weights, in red under every cell; downloads have their own bar
    where, only_local = _where(name, reachable)
    # Code of a model's own is never run; without the last entry transformers asks on the terminal whether to.
    access = {"local_files_only": only_local, "token": None if only_local else hf_token(), "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(where, **access)
        if odd := odd_values(vars(config)):
            raise ValueError(f"config.json: {', '.join(odd)}")
        if not is_causal(config):
            return wrong_architecture(name, config)
        if refused := _refused(name, facts_from_config(config), recipe, plan, training):
            return refused
        tokenizer = AutoTokenizer.from_pretrained(where, **access)
        model = AutoModelForCausalLM.from_pretrained(where, **access, **_load_options(recipe, plan))
    except Exception as error:  # of a broken folder: the classes of many libraries, tokenizers' bare Exception among them
        if "OutOfMemory" in type(error).__name__:  # no fault of the model's: whoever asked may make room
            raise
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
    if is_folder(name):
        return str(user_path(name)), True
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
    """Keyword arguments of `from_pretrained` for precision, attention and place."""
    import torch
    from transformers import PretrainedConfig

    name = "dtype" if hasattr(PretrainedConfig(), "dtype") else "torch_dtype"  # renamed in transformers 4.56
    # Only eager is asked for: the default is fused attention where the model has it, and an error where it has none.
    attention = {"attn_implementation": "eager"} if plan.attention == "eager" else {}
    if recipe.load_in_4bit:
        # Onto an Apple GPU only in the checkpoint's own dtype: read as another one straight onto it ends in a segmentation fault.
        return {name: "auto" if plan.device == "mps" else getattr(torch, plan.dtype), **attention, **_quantised(plan)}
    return {name: getattr(torch, plan.dtype), **attention}  # and no device_map, for the same reason


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
    # By its number: a bare "cuda" is the first GPU to some readers, whichever this process was given.
    place = torch.cuda.current_device() if plan.device == "cuda" and torch.cuda.is_available() else plan.device
    return {"quantization_config": quantisation, "device_map": {"": place}}


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
    text = harmless(" ".join(str(error).split()))[:160] or type(error).__name__
    if "Unrecognized configuration class" in text:
        ja, en = "文の続きを書くモデル（causal LM）ではありません", "not a model that continues a text (causal LM)"
        return Skipped(name, "wrong_architecture", f"{ja}（{text}）", f"{en}: {text}")
    if name == EMBEDDED or is_folder(name):
        ja, en = f"フォルダーのモデルを読めません（{text}）", f"the model in this folder cannot be read ({text})"
        return Skipped(name, "unreadable", ja, en)
    if "not a valid model identifier" in text:  # the hub also answers 401 to a name that it does not have
        return Skipped(
            name, "missing", f"ハブにこの名前のモデルはありません（{text}）", f"the hub has no model of this name ({text})"
        )
    if "gated" in text.lower() or "401" in text or "403" in text:
        return gated(name)
    if only_local:
        return Skipped(name, "offline", "ネットワークがなく、手元にもありません", "no network, and not in the local cache")
    if isinstance(error, OSError):
        return Skipped(name, "missing", f"見つからないか、取得できません（{text}）", f"not found or not downloadable ({text})")
    return Skipped(name, "unreadable", f"この環境では読めません（{text}）", f"cannot be loaded here ({text})")
