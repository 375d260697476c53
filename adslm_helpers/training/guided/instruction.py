"""The prompt that the teacher reads: the same brief with the instruction in it, the answers token for token the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...errors import ModelError, RecipeError
from ...foreign_text import brief
from ...models.templates import render_prompt
from ...recipe import DpoRecipe
from ..prompts import EncodedPair, response_ids, token_ids

SEPARATOR = "\n"
"""Between the instruction and the words that it is added to."""


def instruction_of(recipe: DpoRecipe) -> str:
    """The instruction of text mode; '' where there is none, or learned vectors stand in its place."""
    text = recipe.preference_text
    return text if text.strip() and not recipe.prompt_embeddings else ""


def with_instruction(messages: Sequence[dict], instruction: str, placement: str, default_system: str = "") -> list[dict]:
    """Chat messages with the instruction: after the user's words in their last turn ('user_end'), or before those of the system message
    ('system': the prompt's own, else `default_system`, which a template puts there only where a prompt has none)."""
    messages = list(messages)
    if placement == "system":
        own = messages[0]["role"] == "system"
        said = messages[0]["content"] if own else default_system
        return [{"role": "system", "content": _joined(instruction, said)}, *messages[own:]]
    last = max(i for i, message in enumerate(messages) if message["role"] == "user")
    messages[last] = {**messages[last], "content": _joined(messages[last]["content"], instruction)}
    return messages


def taught_pair(
    tokenizer: Any, row: dict, plain: EncodedPair, messages: Sequence[dict], recipe: DpoRecipe, default_system: str = ""
) -> EncodedPair | str:
    """`plain` as the teacher reads it in text mode, or the reason (a key of `prompts.REASONS`) why its answers would not be the same tokens.

    `messages`: those that the plain prompt was rendered from, cut as it was; the instruction itself is never cut, so that this prompt is
    longer. 'prefix' puts the bare tokens of the instruction before the whole prompt, BOS and template included. Raises RecipeError where the
    chat template leaves the instruction out or refuses it.
    """
    instruction = instruction_of(recipe)
    if not instruction:
        return plain
    if recipe.preference_placement == "prefix":
        ids = token_ids(tokenizer, instruction) + plain.prompt_ids
        return replace(plain, prompt_ids=ids, prompt_text=instruction + plain.prompt_text)
    text = _rendered(tokenizer, with_instruction(messages, instruction, recipe.preference_placement, default_system), recipe)
    prompt_ids = token_ids(tokenizer, text)
    if response_ids(tokenizer, text, prompt_ids, row) != [plain.chosen_ids, plain.rejected_ids]:
        return "instruction_boundary"
    return replace(plain, prompt_ids=prompt_ids, prompt_text=text)


def default_system_message(tokenizer: Any) -> str:
    """What the chat template says as the system where a prompt has no system message (Qwen2.5 does); '' where it says nothing."""
    user, mark = {"role": "user", "content": "x"}, "adslm"
    try:
        given = render_prompt(tokenizer, [{"role": "system", "content": mark}, user])
    except ModelError:
        return ""
    before, _, after = given.partition(mark)
    alone = render_prompt(tokenizer, [user])
    found = alone.removeprefix(before).removesuffix(after)
    return found if before + found + after == alone else ""


def check_instruction(tokenizer: Any, instruction: str) -> None:
    """Raises RecipeError where the instruction spells a special token, which would end the turn or the text."""
    for special in tokenizer.all_special_tokens:
        if special in instruction:
            raise RecipeError(
                f"preference_text に特殊トークン {brief(special)} の文字列があります。→ その部分を除いてください。",
                f"preference_text holds the spelling of the special token {brief(special)}. -> Take it out.",
            )


def _rendered(tokenizer: Any, messages: list[dict], recipe: DpoRecipe) -> str:
    """The prompt with the instruction; raises RecipeError where it is not in it."""
    placement, instruction = recipe.preference_placement, instruction_of(recipe)
    try:
        text = render_prompt(tokenizer, messages)
    except ModelError as error:
        if placement != "system":
            raise
        raise RecipeError(
            "このモデルのチャットテンプレートは system の発言を受け付けません。→ preference_placement を 'user_end' にしてください。",
            "This model's chat template takes no system message. -> Set preference_placement to 'user_end'.",
        ) from error
    if instruction.strip() not in text:  # some templates leave a system message out without a word
        raise RecipeError(
            f"チャットテンプレートを通すと、指示 {brief(instruction)} が消えます（preference_placement = {placement!r}）。"
            "→ preference_placement を 'user_end' か 'prefix' にしてください。",
            f"The chat template leaves the instruction {brief(instruction)} out (preference_placement = {placement!r}). "
            "-> Set preference_placement to 'user_end' or 'prefix'.",
        )
    return text


def _joined(first: str, second: str) -> str:
    return SEPARATOR.join(text for text in (first, second) if text)
