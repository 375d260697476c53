"""Is what was written what was trained? The same greedy texts and the same logits, or no export."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ExportError
from ..models.generation import generate_texts
from ..models.loading import LoadedModel
from ..models.templates import render_prompt

if TYPE_CHECKING:
    from torch import Tensor

# Merging only changes the order of float32 sums: differences of 1e-6 to 1e-3 were seen. What the adapter does is the yardstick:
# a merge that lost it is off by 100 % of it, even where four greedy texts happen to stay the same.
_ROUNDING = 2e-3
_SHARE_EXACT = 0.05
_SHARE_16_BIT = 0.25


@dataclass(frozen=True)
class Answers:
    """What the tuned model says to a few prompts.

    `logits`: one [T, V] a prompt, float32 on the CPU, over its own answer; `base_logits`: the same with the adapter off.
    `effect_max`, `effect_rms`: how far the adapter moved them.
    """

    prompts: list[Any]
    texts: list[str]
    sequences: list[tuple[list[int], int]]
    logits: list[Tensor]
    base_logits: list[Tensor]
    effect_max: float
    effect_rms: float
    max_new_tokens: int


@dataclass(frozen=True)
class Difference:
    """How far a model is from `Answers`: number of other texts, largest and root-mean-square logit difference."""

    changed_texts: int
    largest: float
    rms: float


@dataclass(frozen=True)
class FourBit:
    """The adapter on the unquantised base, next to the 4-bit model that it was trained on."""

    changed_texts: int
    """Greedy texts that differ, of as many as there are check prompts: the base itself is another after rounding to 4 bit."""
    effect_difference: float
    """What the adapter does to the logits, there and here: root-mean-square difference as a share of what it does there."""


def tuned_answers(loaded: LoadedModel, prompts: Sequence[Any], max_new_tokens: int) -> Answers:
    """The greedy answers of a `PeftModel` and their logits, and the distance to the same model with its adapter off."""
    texts = _texts(loaded, prompts, max_new_tokens)
    sequences = [_sequence(loaded.tokenizer, prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    logits = _logits(loaded.model, sequences)
    with loaded.model.disable_adapter():
        base_logits = _logits(loaded.model, sequences)
    largest, rms = _distance(logits, base_logits)
    return Answers(list(prompts), texts, sequences, logits, base_logits, largest, rms, max_new_tokens)


def check(loaded: LoadedModel, wanted: Answers, what: tuple[str, str]) -> Difference:
    """The (tiny) difference of a reloaded model to the tuned one.

    Raises ExportError, showing the prompt and both texts, when a text differs or the logits differ by more than rounding;
    `what`: the part that was reloaded, in Japanese and English.
    """
    texts = _texts(loaded, wanted.prompts, wanted.max_new_tokens)
    largest, rms = _distance(_logits(loaded.model, wanted.sequences), wanted.logits)
    pairs = list(zip(wanted.prompts, wanted.texts, texts, strict=True))
    for prompt, expected, got in pairs:
        if got != expected:
            raise _mismatch(what, f"「{prompt}」\n  {expected!r}\n  {got!r}")
    limit = max(_ROUNDING, _SHARE_EXACT * wanted.effect_max)
    if not largest <= limit:  # NaN must not pass
        prompt, text, _ = pairs[0]
        raise _mismatch(what, f"「{prompt}」\n  {text!r}\n  logits: {largest:.2g} > {limit:.2g}")
    return Difference(0, largest, rms)


def check_rounded(loaded: LoadedModel, wanted: Answers) -> Difference | None:
    """The difference of a model stored in 16 bit; None when rounding (or a wrong merge) took a quarter of the tuning or more."""
    texts = _texts(loaded, wanted.prompts, wanted.max_new_tokens)
    largest, rms = _distance(_logits(loaded.model, wanted.sequences), wanted.logits)
    changed = sum(got != expected for got, expected in zip(texts, wanted.texts, strict=True))
    return Difference(changed, largest, rms) if rms < _SHARE_16_BIT * wanted.effect_rms else None


def against_four_bit(loaded: LoadedModel, four_bit: Answers) -> FourBit:
    """How the unquantised `PeftModel` differs from the answers of the 4-bit one with the same adapter."""
    texts = _texts(loaded, four_bit.prompts, four_bit.max_new_tokens)
    moved = _logits(loaded.model, four_bit.sequences)
    with loaded.model.disable_adapter():
        effect = [tuned - base for tuned, base in zip(moved, _logits(loaded.model, four_bit.sequences), strict=True)]
    wanted = [tuned - base for tuned, base in zip(four_bit.logits, four_bit.base_logits, strict=True)]
    changed = sum(got != expected for got, expected in zip(texts, four_bit.texts, strict=True))
    return FourBit(changed, _distance(effect, wanted)[1] / max(four_bit.effect_rms, 1e-12))


def _mismatch(what: tuple[str, str], shown: str) -> ExportError:
    return ExportError(
        f"書き出した{what[0]}を読み直すと、学習したモデルと違う答えになりました。書き出しは取り消しました。\n"
        f"{shown}\n（上が学習したモデル、下が書き出したもの）→ もう一度実行し、同じなら merged=False で書き出してください。",
        f"The exported {what[1]}, loaded again, does not answer as the tuned model does; nothing was published.\n"
        f"{shown}\n(above: the tuned model; below: what was written) -> Try again; if it stays so, export with merged=False.",
    )


def _texts(loaded: LoadedModel, prompts: Sequence[Any], max_new_tokens: int) -> list[str]:
    answers = generate_texts(loaded.model, loaded.tokenizer, prompts, temperature=0, max_new_tokens=max_new_tokens)
    return [answer.text for answer in answers]


def _sequence(tokenizer: Any, prompt: Any, text: str) -> tuple[list[int], int]:
    """Ids of prompt and answer, and how many of them are the prompt's."""
    head = tokenizer(render_prompt(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    return head + tokenizer(text, add_special_tokens=False)["input_ids"], len(head)


def _logits(model: Any, sequences: Sequence[tuple[list[int], int]]) -> list[Tensor]:
    import torch

    with torch.no_grad():
        return [
            model(input_ids=torch.tensor([ids], device=model.device)).logits[0, start - 1 :].float().cpu()
            for ids, start in sequences
        ]


def _distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> tuple[float, float]:
    """Largest and root-mean-square difference; NaN and another vocabulary size count as infinitely far."""
    import torch

    if any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return math.inf, math.inf
    flat = torch.cat([(a - b).flatten() for a, b in zip(ours, theirs, strict=True)])
    if not flat.isfinite().all():
        return math.inf, math.inf
    return flat.abs().max().item(), flat.square().mean().sqrt().item()
