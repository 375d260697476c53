"""From a pair to the token ids and the mask that are scored: one template, one EOS, prompts cut from the left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..models.templates import as_messages, render_prompt

if TYPE_CHECKING:
    from torch import Tensor

REASONS = {
    "response_too_long": ("応答が max_length に収まりません", "the response does not fit into max_length"),
    "special_tokens": ("文中に特殊トークンの文字列があります", "the text holds the spelling of a special token"),
    "boundary": ("プロンプトと応答の境目がトークンの途中です", "a token straddles the end of the prompt"),
    "instruction_boundary": ("指示を入れると応答のトークンが変わります", "the instruction changes the tokens of a response"),
    "instruction_too_long": (
        "指示を入れると、モデルが読める長さを超えます",
        "with the instruction it is longer than the model can read",
    ),
}


@dataclass(frozen=True)
class EncodedPair:
    """One pair as ids: prompt (template included), and both responses, each ending in exactly one EOS."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    prompt_text: str
    chosen: str
    rejected: str
    cut_tokens: int
    """Prompt tokens that were cut from the left."""


@dataclass(frozen=True)
class EncodedPairs:
    """The usable pairs and the account of the others: rows in = len(pairs) + sum(dropped.values())."""

    pairs: list[EncodedPair]
    dropped: Counter
    shortened: int
    kept: Sequence[int] = ()
    """Of each pair, the index of the row that it was made from."""

    def lines(self, side: str) -> list[str]:
        """The account in words, Japanese and English; says nothing of what did not happen."""
        told = [f"{side}: {len(self.pairs)} 対を使います / pairs used: {len(self.pairs)}"]
        told += [
            f"  除外 / dropped {count}: {REASONS[reason][0]} / {REASONS[reason][1]}" for reason, count in self.dropped.items()
        ]
        if self.shortened:
            told.append(f"  プロンプトの先頭を切った対 / pairs with a prompt cut from the left: {self.shortened}")
        return told


def encode_pairs(tokenizer: Any, rows: Sequence[dict], max_length: int, max_prompt_length: int) -> EncodedPairs:
    """All rows that can be scored, as ids; the others counted by reason."""
    pairs, dropped, kept = [], Counter(), []
    for index, row in enumerate(rows):
        pair = encode_pair(tokenizer, row, max_length, max_prompt_length)
        if isinstance(pair, str):
            dropped[pair] += 1
        else:
            pairs.append(pair)
            kept.append(index)
    assert len(rows) == len(pairs) + sum(dropped.values())
    return EncodedPairs(pairs, dropped, sum(pair.cut_tokens > 0 for pair in pairs), kept)


def encode_pair(tokenizer: Any, row: dict, max_length: int, max_prompt_length: int) -> EncodedPair | str:
    """The pair as ids, or the name of the reason (a key of REASONS) why it cannot be used.

    The prompt is cut from the left, inside the user's words (the template stays whole), until it has at most
    `max_prompt_length` tokens and the longer response fits into `max_length`.
    """
    encoded = encode_with_messages(tokenizer, row, max_length, max_prompt_length)
    return encoded if isinstance(encoded, str) else encoded[0]


def encode_with_messages(
    tokenizer: Any, row: dict, max_length: int, max_prompt_length: int
) -> tuple[EncodedPair, list[dict]] | str:
    """As `encode_pair`, and the chat messages, cut, that the prompt was rendered from."""
    texts = [row["chosen"], row["rejected"], *(message["content"] for message in as_messages(row["prompt"]))]
    if any(special in text for special in tokenizer.all_special_tokens for text in texts):
        return "special_tokens"  # the tokenizer would read the letters as control tokens: a second EOS, or a second turn
    messages = as_messages(row["prompt"])
    whole = render_prompt(tokenizer, messages)
    prompt_ids = token_ids(tokenizer, whole)
    responses = response_ids(tokenizer, whole, prompt_ids, row)
    if None in responses:
        return "boundary"
    room = min(max_prompt_length, max_length - max(map(len, responses)))
    prompt_text, cut = whole, 0
    if len(prompt_ids) > room:
        messages, cut = _cut_prompt(tokenizer, messages, len(prompt_ids), room)
        if messages is None:
            return "response_too_long"
        prompt_text = render_prompt(tokenizer, messages)
        prompt_ids = token_ids(tokenizer, prompt_text)
        if response_ids(tokenizer, prompt_text, prompt_ids, row) != responses:
            return "boundary"
    return EncodedPair(prompt_ids, *responses, prompt_text, row["chosen"], row["rejected"], cut), messages


def collate(pairs: Sequence[EncodedPair], pad_token_id: int) -> dict[str, Tensor]:
    """Right-padded tensors, the chosen rows first, then the rejected: input_ids, attention_mask, completion_mask, each [2B, S]."""
    return pad_rows(score_rows(pairs), pad_token_id)


def score_rows(pairs: Sequence[EncodedPair]) -> list[tuple[list[int], list[int]]]:
    """(ids, mask) of every sequence, the chosen ones first; the mask is 1 on the response and its EOS."""
    return [
        (pair.prompt_ids + response, [0] * len(pair.prompt_ids) + [1] * len(response))
        for side in ("chosen_ids", "rejected_ids")
        for pair in pairs
        for response in [getattr(pair, side)]
    ]


def pad_rows(rows: Sequence[tuple[list[int], list[int]]], pad_token_id: int) -> dict[str, Tensor]:
    """Rows of (ids, mask) as right-padded tensors [len(rows), S]: input_ids, attention_mask, completion_mask."""
    import torch

    input_ids = torch.full((len(rows), max(len(ids) for ids, _ in rows)), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    completion_mask = torch.zeros_like(input_ids)
    for i, (ids, mask) in enumerate(rows):
        input_ids[i, : len(ids)] = torch.tensor(ids)
        attention_mask[i, : len(ids)] = 1
        completion_mask[i, : len(ids)] = torch.tensor(mask)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "completion_mask": completion_mask}


def _cut_prompt(tokenizer: Any, messages: Sequence[dict], full: int, room: int) -> tuple[list[dict] | None, int]:
    """The messages of a prompt of `full` tokens with at most `room`, and how many were cut; (None, 0) when the template alone is longer."""
    messages = list(messages)
    last = max(i for i, message in enumerate(messages) if message["role"] == "user")
    text, length = messages[last]["content"], full
    while length > room:
        if not text:
            return None, 0
        text = text[max(1, (length - room) * len(text) // max(length, 1)) :]
        messages[last] = {**messages[last], "content": text}
        length = len(token_ids(tokenizer, render_prompt(tokenizer, messages)))
    return messages, full - length


def response_ids(tokenizer: Any, prompt_text: str, prompt_ids: list[int], row: dict) -> list[list[int] | None]:
    """Chosen and rejected as they continue the prompt, each with one EOS; None for one where a token straddles the boundary.

    Read together with the prompt: alone, a SentencePiece tokenizer would put a space before them that no generated text has.
    """
    both = [token_ids(tokenizer, prompt_text + row[side]) for side in ("chosen", "rejected")]
    start = len(prompt_ids)
    return [[*ids[start:], tokenizer.eos_token_id] if ids[:start] == prompt_ids else None for ids in both]


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """`text` as ids, with no special token that does not stand in it."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]
