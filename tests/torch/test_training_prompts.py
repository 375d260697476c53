"""Ids and masks: one EOS, prompts cut from the left, nothing scored twice or not at all."""

import pytest
import torch

from adslm_helpers.models.templates import render_prompt
from adslm_helpers.training.prompts import REASONS, collate, encode_pair, encode_pairs

ROW = {"prompt": "家計簿アプリの見出しを書いてください。", "chosen": "今すぐ始める", "rejected": "とても便利です"}


def test_exactly_one_eos_and_the_mask_selects_the_response(tokenizer):
    pair = encode_pair(tokenizer, ROW, 256, 200)
    batch = collate([pair], tokenizer.pad_token_id)
    for i, side in enumerate(("chosen", "rejected")):
        scored = batch["input_ids"][i][batch["completion_mask"][i] == 1]
        assert tokenizer.decode(scored) == ROW[side] + tokenizer.eos_token
        assert (scored == tokenizer.eos_token_id).sum() == 1


def test_collate_with_single_digit_ids_pads_right_and_masks_padding(tokenizer):
    from adslm_helpers.training.prompts import EncodedPair

    short = EncodedPair([5, 6], [7, 2], [8, 9, 2], "", "", "", 0)
    long = EncodedPair([5, 6, 5, 6], [7, 7, 7, 2], [8, 2], "", "", "", 0)
    batch = collate([short, long], 0)
    assert batch["input_ids"].tolist() == [
        [5, 6, 7, 2, 0, 0, 0, 0], [5, 6, 5, 6, 7, 7, 7, 2], [5, 6, 8, 9, 2, 0, 0, 0], [5, 6, 5, 6, 8, 2, 0, 0],
    ]  # fmt: skip
    assert batch["completion_mask"].sum(1).tolist() == [2, 4, 3, 2]
    assert torch.equal(batch["attention_mask"].sum(1), torch.tensor([4, 8, 5, 6]))


def test_long_prompts_lose_their_beginning_and_keep_template_and_response(tokenizer):
    row = {**ROW, "prompt": "むかしむかし、" * 60 + "最後の指示です。"}
    pair = encode_pair(tokenizer, row, 96, 64)
    assert len(pair.prompt_ids) <= 64 and pair.cut_tokens > 0
    assert pair.prompt_text.startswith("<|im_start|>user\n") and pair.prompt_text.endswith("<|im_start|>assistant\n")
    assert "最後の指示です。" in pair.prompt_text
    assert tokenizer.decode(pair.chosen_ids) == ROW["chosen"] + tokenizer.eos_token


def test_a_long_response_takes_room_from_the_prompt_not_from_itself(tokenizer):
    row = {**ROW, "chosen": "今すぐ始める。" * 8}
    needed = len(tokenizer(row["chosen"])["input_ids"]) + 1
    pair = encode_pair(tokenizer, row, needed + 20, needed + 19)
    assert len(pair.chosen_ids) == needed and len(pair.prompt_ids) <= 20


def test_every_row_is_accounted_for(tokenizer):
    rows = [ROW, {**ROW, "chosen": "長い" * 400}, {**ROW, "rejected": "終わり<|im_end|>もう一度"}]
    encoded = encode_pairs(tokenizer, rows, 96, 64)
    assert len(encoded.pairs) == 1 and encoded.dropped == {"response_too_long": 1, "special_tokens": 1}
    assert set(encoded.dropped) <= set(REASONS) and len(encoded.lines("train")) == 3


def test_chat_messages_and_a_string_prompt_read_the_same(tokenizer):
    messages = [{"role": "user", "content": ROW["prompt"]}]
    assert encode_pair(tokenizer, {**ROW, "prompt": messages}, 256, 200) == encode_pair(tokenizer, ROW, 256, 200)
    assert render_prompt(tokenizer, messages) == render_prompt(tokenizer, ROW["prompt"])


class SpaceFirst:
    """A SentencePiece tokenizer in small: every text starts with a space token, so a response alone is not what follows a prompt."""

    all_special_tokens, eos_token_id = ("</s>",), 2
    chat_template = "x"

    def __init__(self, merge=()):
        self.merge = merge

    def __call__(self, text, add_special_tokens=False):
        letters = ["▁", *text]
        for pair in self.merge:
            letters = "\0".join(letters).replace("\0".join(pair), pair).split("\0")
        return {"input_ids": [3 + sum(ord(letter) * 7**n for n, letter in enumerate(token)) for token in letters]}

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return "".join(message["content"] for message in messages) + ":"


def test_a_response_is_read_as_it_continues_the_prompt():
    """TRL 0.12 to 0.28 trained on a space before every text that no generated text has."""
    pair = encode_pair(SpaceFirst(), {"prompt": "p", "chosen": "ab", "rejected": "c"}, 64, 32)
    space = 3 + ord("▁")
    assert pair.prompt_ids[0] == space and space not in pair.chosen_ids + pair.rejected_ids
    assert len(pair.chosen_ids) == 3 and pair.chosen_ids[-1] == 2


def test_a_token_across_the_boundary_is_a_reason_to_drop_the_pair():
    """TRL 0.10 to 1.14 would have trained on the response without its first letter."""
    assert encode_pair(SpaceFirst(merge=(":a",)), {"prompt": "p", "chosen": "ab", "rejected": "c"}, 64, 32) == "boundary"


@pytest.mark.parametrize("text", ["", "　"])
def test_empty_prompts_do_not_loop_for_ever(tokenizer, text):
    assert encode_pair(tokenizer, {**ROW, "prompt": text, "chosen": "長" * 200}, 48, 20) == "response_too_long"
