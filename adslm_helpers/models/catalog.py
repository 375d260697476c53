"""What is known of a model before any weight is downloaded: its shape, exact parameter count, licence, template, LoRA targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..recipe import EMBEDDED

# The attention projections of each architecture, by config.model_type; in GPT-2 'c_proj' also names the second half of the MLP.
_LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
LORA_TARGETS = {
    "qwen2": _LLAMA_TARGETS,
    "qwen3": _LLAMA_TARGETS,
    "llama": _LLAMA_TARGETS,
    "mistral": _LLAMA_TARGETS,
    "gemma": _LLAMA_TARGETS,
    "gemma2": _LLAMA_TARGETS,
    "gpt_neox": ("query_key_value", "dense"),
    "gpt2": ("c_attn", "c_proj"),
}


@dataclass(frozen=True)
class ModelFacts:
    """Shape of a causal LM, as its config.json says: enough to count its weights and to plan the memory of a step."""

    architecture: str
    """config.model_type: 'qwen2', 'llama', 'gemma', 'gpt_neox', 'gpt2', ..."""
    hidden: int
    layers: int
    intermediate: int
    """Width of the MLP."""
    vocabulary: int
    heads: int
    kv_heads: int
    """Heads of keys and values; fewer than `heads` under grouped-query attention."""
    head_dim: int
    tied: bool = True
    """The output layer is the embedding itself, not a second matrix."""
    positions: int = 0
    """Learned position embeddings (GPT-2); 0: rotary."""
    bias: bool = False
    """Llama family: the attention projections have biases of their own (Qwen2's q, k and v always do)."""
    licence: str = "?"
    gated: bool = False
    """The hub hands it out only to accounts that accepted its licence (HF_TOKEN)."""
    chat_template: bool = True

    @property
    def parameters(self) -> int:
        """Exact number of weights."""
        output = 0 if self.tied else self.vocabulary * self.hidden
        rest = self.linear_weights + self.layers * self._vectors + self._last_norm + self.positions * self.hidden
        return self.vocabulary * self.hidden + output + rest

    @property
    def linear_weights(self) -> int:
        """Weights of the layers' matrices: what 4-bit loading quantises (never embeddings, output layer, norms, biases)."""
        return self.layers * sum(fan_in * fan_out for fan_in, fan_out in self.linears.values())

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of every matrix of one layer."""
        h, i = self.hidden, self.intermediate
        if self.architecture == "gpt2":
            return {"attn.c_attn": (h, 3 * h), "attn.c_proj": (h, h), "mlp.c_fc": (h, i), "mlp.c_proj": (i, h)}
        if self.architecture == "gpt_neox":
            return {"query_key_value": (h, 3 * h), "dense": (h, h), "dense_h_to_4h": (h, i), "dense_4h_to_h": (i, h)}
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = {"q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h)}
        return attention | {"gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h)}

    def lora_parameters(self, rank: int, targets: tuple[str, ...] = ("auto",)) -> int:
        """Weights of a LoRA adapter of this rank on `targets` ('auto': the architecture's own, also where none of them is here)."""
        chosen = set(lora_targets(self.architecture, targets))
        named = [shape for name, shape in self.linears.items() if name.rsplit(".", 1)[-1] in chosen]
        return self.layers * rank * sum(fan_in + fan_out for fan_in, fan_out in named)

    @property
    def _vectors(self) -> int:
        """Norms and biases of one layer."""
        h = self.hidden
        if self.architecture in ("gpt2", "gpt_neox"):  # two LayerNorms with biases, and a bias for each matrix
            return 4 * h + sum(fan_out for _, fan_out in self.linears.values())
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        norms = 4 * h if self.architecture == "gemma2" else 2 * h
        if self.architecture == "qwen3":
            norms += 2 * self.head_dim
        if self.architecture == "qwen2":
            return norms + q + 2 * kv
        return norms + (q + 2 * kv + h if self.bias else 0)

    @property
    def _last_norm(self) -> int:
        return 2 * self.hidden if self.architecture in ("gpt2", "gpt_neox") else self.hidden


def _qwen2(hidden: int, layers: int, intermediate: int, heads: int, kv_heads: int, licence: str) -> ModelFacts:
    return ModelFacts("qwen2", hidden, layers, intermediate, 151_936, heads, kv_heads, hidden // heads, licence=licence)


def _gpt2(hidden: int, layers: int, vocabulary: int) -> ModelFacts:
    heads = hidden // 64
    return ModelFacts(
        "gpt2", hidden, layers, 4 * hidden, vocabulary, heads, heads, 64, positions=1024, licence="MIT", chat_template=False
    )


# From the models' published config.json and model cards.
CATALOG = {
    EMBEDDED: ModelFacts("qwen2", 256, 4, 512, 2_048, 4, 2, 64, licence="Apache-2.0"),
    "SakanaAI/TinySwallow-1.5B-Instruct": _qwen2(1536, 28, 8960, 12, 2, "Apache-2.0 / Gemma terms"),
    "Qwen/Qwen2.5-1.5B-Instruct": _qwen2(1536, 28, 8960, 12, 2, "Apache-2.0"),
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen2(896, 24, 4864, 14, 2, "Apache-2.0"),
    "rinna/japanese-gpt-neox-3.6b-instruction-sft": ModelFacts(
        "gpt_neox", 2816, 36, 11264, 32_000, 22, 22, 128, tied=False, licence="MIT", chat_template=False),
    "rinna/japanese-gpt2-medium": _gpt2(1024, 24, 32_000),
    "microsoft/DialoGPT-small": _gpt2(768, 12, 50_257),
    "google/gemma-2b-it": ModelFacts("gemma", 2048, 18, 16384, 256_000, 8, 1, 256, licence="Gemma terms", gated=True),
    "tokyotech-llm/Llama-3-Swallow-8B-Instruct-v0.1": ModelFacts(
        "llama", 4096, 32, 14336, 128_256, 32, 8, 128, tied=False, licence="Llama 3"),
}  # fmt: skip


def lora_targets(architecture: str, asked: tuple[str, ...] = ("auto",)) -> tuple[str, ...]:
    """The modules that LoRA goes on: those asked for; 'auto' and another architecture's attention mean this one's attention.

    A preset that says q_proj, k_proj, v_proj, o_proj thus also trains the GPT-2 model further down its list.
    """
    own = LORA_TARGETS.get(architecture, _LLAMA_TARGETS)
    foreign = {name for targets in LORA_TARGETS.values() for name in targets} - set(own)
    return own if asked == ("auto",) or set(asked) <= foreign else asked


def facts_from_config(config: Any) -> ModelFacts:
    """The shape of a loaded, downloaded or parsed config (a `PretrainedConfig`, or config.json as attributes)."""
    hidden = _first(config, "hidden_size", "n_embd")
    heads = _first(config, "num_attention_heads", "n_head")
    architecture = config.model_type
    return ModelFacts(
        architecture=architecture,
        hidden=hidden,
        layers=_first(config, "num_hidden_layers", "n_layer"),
        intermediate=_first(config, "n_inner" if architecture == "gpt2" else "intermediate_size") or 4 * hidden,
        vocabulary=config.vocab_size,
        heads=heads,
        kv_heads=_first(config, "num_key_value_heads") or heads,
        head_dim=_first(config, "head_dim") or hidden // max(1, heads),
        tied=bool(getattr(config, "tie_word_embeddings", architecture in ("gpt2", "gemma", "gemma2"))),
        positions=_first(config, "n_positions", "max_position_embeddings") if architecture == "gpt2" else 0,
        bias=bool(getattr(config, "attention_bias", False)),
        chat_template=False,
    )


def _first(config: Any, *names: str) -> int:
    """The first of these numbers that the config has and that is not None, else 0."""
    return next((value for name in names if (value := getattr(config, name, None))), 0)


def is_causal(config: Any) -> bool:
    """Whether a config, loaded or parsed, is that of a model that continues a text: no encoder-decoder, no encoder, no vision model."""
    names = getattr(config, "architectures", None) or []
    causal = not names or any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)
    return causal and not getattr(config, "is_encoder_decoder", False)
