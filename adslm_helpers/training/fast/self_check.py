"""Which layout and which head give a model's own numbers: looked at on real pairs, before a training relies on it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...errors import TrainingError
from ...foreign_text import harmless
from ..maths import sequence_logps
from ..prompts import EncodedPair, collate
from ..remedies import out_of_memory
from .head import TiledHead, text_config, tiled_head
from .layout import lay_out
from .scores import score

if TYPE_CHECKING:
    from torch import Tensor

# Nats for every 16 tokens of an answer, as in the pre-flight: sums differ by their order, a mask that is not honoured by nats a token.
_FLOAT32_LIMIT = 1e-3
_LIMIT_16_BIT = 2.0
_TOKENS = 16
# So much of a pair is scored by the logits of the whole forward, which a large vocabulary makes large.
_PROMPT = 8
# By what names configs tell how far back a layer looks.
_WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")
_LOCAL_LAYERS = ("sliding", "chunked", "local")


@dataclass(frozen=True)
class Forward:
    """How the pairs of a training go through its model."""

    shared: bool
    """Both answers in one row behind one prompt; False: a row each."""
    head: TiledHead | None
    """For `scores.score`; None: the model's own way from hidden states to logits."""
    told: list[str] = field(default_factory=list)
    """What had to be done the slower way and why, Japanese and English."""


def choose_forward(
    model: Any,
    pairs: Sequence[EncodedPair],
    pad_token_id: int,
    compute_context: Callable[[], Any] = contextlib.nullcontext,
) -> Forward:
    """The fastest layout and head whose log-probabilities are those of the usual forward, on the first, the longest and the shortest pairs.

    `pairs`: all that will be trained on or evaluated. `compute_context`: makes what the trainer computes in (its autocast). The model's
    mode is as before afterwards. Raises TrainingError where even the slow way does not give the model's own numbers.
    """
    import torch

    told: list[str] = []
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), compute_context():
            head = _choose_head(model, _excerpt(pairs[0]), pad_token_id, told)
            shared = _choose_layout(model, pairs, pad_token_id, head, told)
    finally:
        model.train(was_training)
    return Forward(shared, head, told)


def _choose_head(model: Any, pair: EncodedPair, pad: int, told: list[str]) -> TiledHead | None:
    batch = {name: values.to(model.device) for name, values in collate([pair], pad).items()}
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    wanted = sequence_logps(output.logits, batch["input_ids"], batch["completion_mask"])

    def problem(head: TiledHead | None) -> str:
        return _problem(lambda: _score(model, [pair], pad, False, head), wanted, [pair], _limit(model))

    head = tiled_head(model)
    if head is not None and (reason := problem(head)):
        told.append(
            f"{_name(model)} の出力層は分割計算と合わないため（{reason}）、モデル自身の計算を使います"
            f" / the head of {_name(model)} by tiles is not its own ({reason}): the model's own way is taken"
        )
        head = None
    if head is None and (reason := problem(None)):
        raise TrainingError(
            f'{_name(model)} の対数確率を、モデル自身の値と同じに計算できません（{reason}）。→ engine="trl" を指定してください。',
            f'The log-probabilities of {_name(model)} do not come out as its own ({reason}). -> Set engine="trl".',
        )
    return head


def _choose_layout(model: Any, pairs: Sequence[EncodedPair], pad: int, head: TiledHead | None, told: list[str]) -> bool:
    by_length = sorted(pairs, key=_length)
    longest, window = _length(by_length[-1]), _window(text_config(model))
    if window is not None and longest > window:
        told.append(
            f"{_name(model)} は {window} トークン前までしか見ない層を持ち、最長の対は {longest} トークンです。応答ごとに1行で計算します"
            f" / {_name(model)} has layers that look back {window} tokens, and the longest pair has {longest}: each answer gets a row of its own"
        )
        return False
    # The second batch is as wide as any will be, and has two pairs in one row.
    for batch in (list(pairs[:2]), [by_length[-1], *by_length[:2]]):
        wanted = _score(model, batch, pad, False, head)
        if reason := _problem(lambda batch=batch: _score(model, batch, pad, True, head), wanted, batch, _limit(model)):
            told.append(
                f"{_name(model)} は、1行に並べた2つの応答を分けて読めません（{reason}）。応答ごとに1行で計算します"
                f" / {_name(model)} does not keep two answers in one row apart ({reason}): each answer gets a row of its own"
            )
            return False
    return True


def _score(model: Any, pairs: Sequence[EncodedPair], pad: int, shared: bool, head: TiledHead | None) -> Tensor:
    batch = lay_out(pairs, pad, shared=shared)
    return score(model, {name: values.to(model.device) for name, values in batch.items()}, head)[0]


def _problem(compute: Callable[[], Tensor], wanted: Tensor, pairs: Sequence[EncodedPair], limit: float) -> str:
    """Why what `compute` gives is not `wanted`, in a few words; empty where it is, or where there is no number to compare with."""
    import torch

    try:
        got = compute()
    except Exception as error:  # a model that refuses the mask or the positions, each with words of its own
        if out_of_memory(error):
            raise
        return harmless(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}")
    tokens = torch.tensor([len(getattr(pair, side)) for side in ("chosen_ids", "rejected_ids") for pair in pairs])
    limits = limit * (tokens / _TOKENS).clamp(min=1)
    off = (got - wanted).abs().cpu().nan_to_num(math.inf)[wanted.isfinite().cpu()]
    wrong = off > limits[wanted.isfinite().cpu()]
    return f"{off[wrong].max():.2g} nats" if wrong.any() else ""


def _limit(model: Any) -> float:
    """By what a product comes out as: 16-bit weights and autocast both lose most digits."""
    import torch

    one = torch.ones(1, 1, dtype=model.dtype, device=model.device)
    return _FLOAT32_LIMIT if (one @ one).dtype == torch.float32 else _LIMIT_16_BIT


def _excerpt(pair: EncodedPair) -> EncodedPair:
    """The end of the prompt and the beginnings of the responses."""
    return replace(
        pair,
        prompt_ids=pair.prompt_ids[-_PROMPT:],
        chosen_ids=pair.chosen_ids[:_TOKENS],
        rejected_ids=pair.rejected_ids[:_TOKENS],
    )


def _length(pair: EncodedPair) -> int:
    return len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))


def _window(config: Any) -> int | None:
    """How far back the shortest-sighted layer looks, in tokens; None: all the way.

    Asked of the config, not measured: a mask of our own takes the place of the window's, and hides it from short pairs.
    """
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    if getattr(config, "use_sliding_window", True) is False:
        return None
    if kinds and not any(word in str(kind) for kind in kinds for word in _LOCAL_LAYERS):
        return None
    sizes = [getattr(config, name, None) for name in _WINDOWS]
    return min((size for size in sizes if isinstance(size, int) and size > 0), default=None)


def _name(model: Any) -> str:
    return harmless(str(model.config.model_type))
