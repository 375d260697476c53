"""From a pair to the token ids and the mask that are scored: one template, one EOS, prompts cut from the left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import TrainingError
from ..models.templates import as_messages, render_prompt

if TYPE_CHECKING:
    from torch import Tensor

REASONS = {
    "response_too_long": ("応答が max_length に収まりません", "the response does not fit into max_length"),
    "special_tokens": ("文中に特殊トークンの文字列があります", "the text holds the spelling of a special token"),
    "boundary": ("プロンプトと応答の境目がトークンの途中です", "a token straddles the end of the prompt"),
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
    pairs, dropped = [], Counter()
    for row in rows:
        pair = encode_pair(tokenizer, row, max_length, max_prompt_length)
        if isinstance(pair, str):
            dropped[pair] += 1
        else:
            pairs.append(pair)
    assert len(rows) == len(pairs) + sum(dropped.values())
    return EncodedPairs(pairs, dropped, sum(pair.cut_tokens > 0 for pair in pairs))


def encode_pair(tokenizer: Any, row: dict, max_length: int, max_prompt_length: int) -> EncodedPair | str:
    """The pair as ids, or the name of the reason (a key of REASONS) why it cannot be used.

    The prompt is cut from the left, inside the user's words (the template stays whole), until it has at most
    `max_prompt_length` tokens and the longer response fits into `max_length`.
    """
    texts = [row["chosen"], row["rejected"], *(message["content"] for message in as_messages(row["prompt"]))]
    if any(special in text for special in tokenizer.all_special_tokens for text in texts):
        return "special_tokens"  # the tokenizer would read the letters as control tokens: a second EOS, or a second turn
    responses = [[*_ids(tokenizer, row[side]), tokenizer.eos_token_id] for side in ("chosen", "rejected")]
    room = min(max_prompt_length, max_length - max(map(len, responses)))
    prompt_text, cut = _fit_prompt(tokenizer, row["prompt"], room)
    if prompt_text is None:
        return "response_too_long"
    prompt_ids = _ids(tokenizer, prompt_text)
    for side, ids in zip(("chosen", "rejected"), responses, strict=True):
        if _ids(tokenizer, prompt_text + row[side]) != prompt_ids + ids[:-1]:
            return "boundary"
    return EncodedPair(prompt_ids, *responses, prompt_text, row["chosen"], row["rejected"], cut)


def collate(pairs: Sequence[EncodedPair], pad_token_id: int) -> dict[str, Tensor]:
    """Right-padded tensors, the chosen rows first, then the rejected: input_ids, attention_mask, completion_mask, each [2B, S]."""
    import torch

    rows = [(pair.prompt_ids, ids) for side in ("chosen_ids", "rejected_ids") for pair in pairs for ids in [getattr(pair, side)]]
    longest = max(len(prompt) + len(response) for prompt, response in rows)
    input_ids = torch.full((len(rows), longest), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    completion_mask = torch.zeros_like(input_ids)
    for i, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        input_ids[i, :end] = torch.tensor(prompt + response)
        attention_mask[i, :end] = 1
        completion_mask[i, len(prompt) : end] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask, "completion_mask": completion_mask}


def to_trl_rows(tokenizer: Any, pairs: Sequence[EncodedPair]) -> list[dict[str, str]]:
    """Rows for `trl.DPOTrainer`: rendered prompt and plain responses; TRL adds the one EOS and tokenises to the same ids.

    Raises TrainingError when TRL's way of tokenising (with the tokenizer's own special tokens) would give other prompt ids.
    """
    rows = []
    for pair in pairs:
        prompt = pair.prompt_text
        bos = tokenizer.bos_token
        if bos and prompt.startswith(bos) and tokenizer(prompt)["input_ids"] != pair.prompt_ids:
            prompt = prompt[len(bos) :]  # the tokenizer adds its BOS by itself
        rows.append({"prompt": prompt, "chosen": pair.chosen, "rejected": pair.rejected})
    if rows and tokenizer(rows[0]["prompt"])["input_ids"] != pairs[0].prompt_ids:
        raise TrainingError(
            "このトークナイザーは学習時と生成時で別のトークン列になります。→ 別のモデルを選んでください。",
            "This tokenizer gives other ids in training than in generation. -> Choose another model.",
        )
    return rows


def _fit_prompt(tokenizer: Any, prompt: str | list[dict], room: int) -> tuple[str | None, int]:
    """The rendered prompt with at most `room` tokens and the number of tokens cut; (None, 0) when the template alone is longer."""
    messages = as_messages(prompt)
    full = len(_ids(tokenizer, render_prompt(tokenizer, messages)))
    last = max(i for i, message in enumerate(messages) if message["role"] == "user")
    text, length = messages[last]["content"], full
    while length > room:
        if not text:
            return None, 0
        text = text[max(1, (length - room) * len(text) // max(length, 1)) :]
        messages[last] = {**messages[last], "content": text}
        length = len(_ids(tokenizer, render_prompt(tokenizer, messages)))
    return render_prompt(tokenizer, messages), full - length


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
