"""Texts from a model: left-padded batches, one seed a call, and whether each text ended by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..environment.device import MPS_BATCHES_SINCE
from .templates import render_prompt


@dataclass(frozen=True)
class Generated:
    """One answer: its text without special tokens, its length in tokens, and whether it stopped by itself."""

    text: str
    n_tokens: int
    stopped: bool


def generate_texts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str | list[dict]],
    *,
    seed: int = 42,
    temperature: float = 0.8,
    top_p: float = 0.95,
    max_new_tokens: int = 96,
    batch_size: int = 16,
    on_batch: Callable[[int], None] = lambda answered: None,
) -> list[Generated]:
    """One answer to each prompt, in order; the same arguments give the same texts on the same machine.

    `temperature` 0 decodes greedily. Repetition is not hidden (no n-gram blocking): a model that loops must be seen looping.
    `on_batch` is told how many answers each batch gave. The model's mode (train / eval), the tokenizer's padding side and the global random state are as before afterwards.
    """
    import torch

    rendered = [render_prompt(tokenizer, prompt) for prompt in prompts]
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {"do_sample": False}
    )
    was_training, side = model.training, tokenizer.padding_side
    answers: list[Generated] = []
    try:
        model.eval()
        tokenizer.padding_side = "left"
        with torch.random.fork_rng(devices=_cuda_devices(model)), torch.no_grad():
            torch.manual_seed(seed)
            batch_size = batch_size if left_padding_works(model) else 1
            for start in range(0, len(rendered), batch_size):
                batch = tokenizer(
                    rendered[start : start + batch_size], return_tensors="pt", padding=True, add_special_tokens=False
                )
                output = model.generate(
                    input_ids=batch["input_ids"].to(model.device),
                    attention_mask=batch["attention_mask"].to(model.device),
                    max_new_tokens=max_new_tokens,
                    pad_token_id=tokenizer.pad_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                    **sampling,
                )
                answers += [_read(tokenizer, ids) for ids in output[:, batch["input_ids"].shape[1] :].tolist()]
                on_batch(len(output))
    finally:
        model.train(was_training)
        tokenizer.padding_side = side
    return answers


def left_padding_works(model: Any) -> bool:
    """Whether prompts of different lengths may share a batch: not on an Apple GPU with an older torch."""
    import torch
    from packaging.version import Version

    return model.device.type != "mps" or Version(torch.__version__).release >= MPS_BATCHES_SINCE


def _read(tokenizer: Any, ids: list[int]) -> Generated:
    stopped = tokenizer.eos_token_id in ids
    kept = ids[: ids.index(tokenizer.eos_token_id)] if stopped else ids
    return Generated(tokenizer.decode(kept, skip_special_tokens=True).strip(), len(kept), stopped)


def _cuda_devices(model: Any) -> list[int]:
    device = model.device
    return [device.index or 0] if device.type == "cuda" else []
