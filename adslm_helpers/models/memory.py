"""Memory of one DPO + LoRA step, from the model's shape alone, before anything is downloaded."""

from __future__ import annotations

from dataclasses import dataclass

from ..recipe import DpoRecipe
from .catalog import ModelFacts

GIB = 1024**3
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class MemoryPlan:
    """Parts of the peak in GiB."""

    weights: float
    lora: float
    activations: float
    head: float

    @property
    def total(self) -> float:
        return self.weights + self.lora + self.activations + self.head


def plan_memory(facts: ModelFacts, recipe: DpoRecipe, dtype: str) -> MemoryPlan:
    """Estimate for a training step: weights, adapter with its Adam moments, activations kept for the backward pass, logits.

    The reference costs nothing (same weights, adapter off). Both sides of every pair run at once, hence the factor 2.
    """
    width = _BYTES[dtype]
    tokens = 2 * recipe.per_device_train_batch_size * recipe.max_length
    embeddings = facts.vocabulary * facts.hidden
    if recipe.load_in_4bit:  # embeddings stay unquantised
        weights = (facts.parameters - embeddings) * 0.516 + embeddings * width
    else:
        weights = facts.parameters * width
    lora_weights = facts.layers * 4 * 2 * facts.hidden * recipe.lora_r  # four square projections, A and B
    per_token = (6 * facts.hidden + 4 * facts.intermediate) * width
    kept = facts.layers * tokens * (facts.hidden * width if recipe.gradient_checkpointing else per_token)
    # TRL scores tokens in tiles of 4096 x 32768 and keeps about eight float32 copies of a tile.
    head = 8 * min(tokens, 4096) * min(facts.vocabulary, 32768) * 4
    transient = max(head, 1.5 * tokens * per_token)
    return MemoryPlan(weights / GIB, 16 * lora_weights / GIB, kept / GIB, transient / GIB)
