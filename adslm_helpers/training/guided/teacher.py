"""The teacher of preference-guided DPO: who sees the instruction, and the pairs as it reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...recipe import DpoRecipe
from ..fast.trainer import Teacher
from ..prompts import EncodedPair, EncodedPairs, encode_with_messages
from .instruction import check_instruction, default_system_message, instruction_of, taught_pair

if TYPE_CHECKING:
    from torch import Tensor


def encode_guided(
    tokenizer: Any, rows: Sequence[dict], recipe: DpoRecipe, model: Any = None
) -> tuple[EncodedPairs, list[EncodedPair]]:
    """(plain, taught): every row that can be scored in both branches, without and with the instruction, in the same order and with the same
    answers; the others are counted in `plain.dropped`.

    Long prompts are cut as for plain DPO and alike in both; with the instruction a pair may be longer than max_length, by the instruction.
    `model`: whose positions every pair has to fit into, learned vectors included; None: nobody asks. Raises RecipeError for an instruction
    that cannot be placed, and what `read_prompt_embeddings` raises.
    """
    instruction = instruction_of(recipe)
    check_instruction(tokenizer, instruction)
    default_system = default_system_message(tokenizer) if recipe.preference_placement == "system" else ""
    prefix = None if model is None else prefix_of(recipe, model)
    room = positions_of(model) - (0 if prefix is None else len(prefix))
    pairs, taught, dropped, kept = [], [], Counter(), []
    for index, row in enumerate(rows):
        encoded = encode_with_messages(tokenizer, row, recipe.max_length, recipe.max_prompt_length)
        found = encoded if isinstance(encoded, str) else taught_pair(tokenizer, row, *encoded, recipe, default_system)
        if not isinstance(found, str) and len(found.prompt_ids) + max(len(found.chosen_ids), len(found.rejected_ids)) > room:
            found = "instruction_too_long"
        if isinstance(found, str):
            dropped[found] += 1
        else:
            pairs.append(encoded[0])
            taught.append(found)
            kept.append(index)
    assert len(rows) == len(pairs) + sum(dropped.values()) and len(pairs) == len(taught)
    return EncodedPairs(pairs, dropped, sum(pair.cut_tokens > 0 for pair in pairs), kept), taught


def make_teacher(recipe: DpoRecipe, model: Any, taught: Mapping[str, Sequence[EncodedPair]]) -> Teacher:
    """The teacher of the recipe, for the engine's `build_trainer`. `taught`: 'train' and 'eval' of `encode_guided`; `model`: the base."""
    return Teacher(dict(taught), prefix_of(recipe, model), live=recipe.teacher == "policy")


def prefix_of(recipe: DpoRecipe, model: Any) -> Tensor | None:
    """[virtual, H]: the learned vectors of embedding mode, on the model's device; None in text mode."""
    if not recipe.prompt_embeddings:
        return None
    from .embeddings import read_prompt_embeddings

    return read_prompt_embeddings(recipe.prompt_embeddings, model.get_input_embeddings().weight.shape[1]).to(model.device)


def positions_of(model: Any) -> float:
    """Tokens that the model can read; no limit where its config names none (ALiBi)."""
    config = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return found or float("inf")
