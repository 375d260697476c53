"""What is known of the models of the fallback lists before anything is downloaded: shapes, licence, template."""

from __future__ import annotations

from dataclasses import dataclass

from ..recipe import EMBEDDED


@dataclass(frozen=True)
class ModelFacts:
    """Shape of a causal LM: enough for the memory plan. `layers` of width `hidden` and MLP width `intermediate`."""

    parameters: int
    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    licence: str = "?"
    gated: bool = False
    chat_template: bool = True


# Read from the models' published config.json and model cards.
CATALOG = {
    EMBEDDED: ModelFacts(2_887_936, 256, 4, 512, 2_048, "Apache-2.0"),
    "SakanaAI/TinySwallow-1.5B-Instruct": ModelFacts(1_543_714_304, 1536, 28, 8960, 151_936, "Apache-2.0 / Gemma terms"),
    "Qwen/Qwen2.5-1.5B-Instruct": ModelFacts(1_543_714_304, 1536, 28, 8960, 151_936, "Apache-2.0"),
    "Qwen/Qwen2.5-0.5B-Instruct": ModelFacts(494_032_768, 896, 24, 4864, 151_936, "Apache-2.0"),
    "rinna/japanese-gpt-neox-3.6b-instruction-sft": ModelFacts(3_607_202_816, 2816, 36, 11264, 32_000, "MIT", False, False),
    "rinna/japanese-gpt2-medium": ModelFacts(336_128_000, 1024, 24, 4096, 32_000, "MIT", False, False),
    "microsoft/DialoGPT-small": ModelFacts(124_439_808, 768, 12, 3072, 50_257, "MIT", False, False),
    "google/gemma-2b-it": ModelFacts(2_506_172_416, 2048, 18, 16384, 256_000, "Gemma terms", True),
}  # fmt: skip


def facts_from_config(config) -> ModelFacts:
    """The shape of a loaded or downloaded `PretrainedConfig`; parameters are counted by formula (error below 5 %)."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    intermediate = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden
    tied = 1 if getattr(config, "tie_word_embeddings", True) else 2
    heads = getattr(config, "num_attention_heads", 1)
    key_value = hidden * getattr(config, "num_key_value_heads", heads) // heads
    gated_mlp = 2 if config.model_type in ("gpt2", "gpt_neox") else 3
    per_layer = 2 * hidden * hidden + 2 * hidden * key_value + gated_mlp * hidden * intermediate
    return ModelFacts(config.vocab_size * hidden * tied + layers * per_layer, hidden, layers, intermediate, config.vocab_size)
