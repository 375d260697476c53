"""One forward pass over a laid-out batch: the summed log-probability of every answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .head import OwnHead, TiledHead, with_hidden
from .last_layer import only_where_read
from .layout import allowed

if TYPE_CHECKING:
    from torch import Tensor


def score(
    model: Any, batch: dict[str, Tensor], head: TiledHead | None = None, prefix: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(logps, mean_logits), each [2B] in float32, the chosen answers first: nats summed over the answer's tokens, EOS included; and the
    mean logit over vocabulary and answer, without gradient.

    `batch`: of `layout.lay_out`, on the model's device. `head`: of `head.tiled_head`; None: the model's own way to its logits, at answer
    positions. `prefix`: [virtual, H], the vectors that stand before every prompt (as the input embeddings give them).
    """
    import torch

    bare = getattr(model, "module", model)
    with only_where_read(bare, batch["places"]):
        scorer, hidden = _forward(model, bare, _inputs(bare, batch, prefix), head)
    token_logps, mean_logits = scorer.token_logps(hidden.flatten(0, -2)[batch["read_at"]], batch["targets"])
    lengths = batch["lengths"].T.reshape(-1)
    logps, means = (
        torch.zeros(len(lengths), device=values.device).index_add(0, batch["sequence"], values[batch["counted"]])
        for values in (token_logps, mean_logits)
    )
    return logps, means / lengths


def _forward(model: Any, bare: Any, inputs: dict[str, Tensor], head: TiledHead | None) -> tuple[TiledHead | OwnHead, Tensor]:
    """What turns hidden states into log-probabilities, and the last hidden states [R, L, H]; the model itself makes no logits."""
    seen: list[Tensor] = []
    scorer = head or OwnHead(bare)

    def before_the_head(layer: Any, arguments: tuple) -> tuple:
        seen.append(arguments[0])
        return (arguments[0][:, :0],)

    def after_the_body(body: Any, arguments: tuple, output: Any) -> Any:
        scorer.output = output
        seen.append(output[0])
        return with_hidden(output, output[0][:, :0])

    if head is None:
        handle = scorer.body.register_forward_hook(after_the_body)
    else:
        handle = bare.get_output_embeddings().register_forward_pre_hook(before_the_head)
    try:
        model(**inputs, use_cache=False)
    finally:
        handle.remove()
    return scorer, seen[0]


def _inputs(model: Any, batch: dict[str, Tensor], prefix: Tensor | None) -> dict[str, Tensor]:
    if "blocks" in batch:
        inputs = {"attention_mask": _additive(allowed(batch["blocks"]), model.dtype), "position_ids": batch["position_ids"]}
    else:  # padding on the right: every model counts these positions itself, and some take no position_ids
        inputs = {"attention_mask": batch["attention_mask"]}
    if prefix is None:
        return {"input_ids": batch["input_ids"], **inputs}
    embeds = model.get_input_embeddings()(batch["input_ids"])
    places = batch["virtual_at"]
    vectors = prefix.to(embeds.dtype).repeat(len(places) // len(prefix), 1)
    return {"inputs_embeds": embeds.flatten(0, 1).index_copy(0, places, vectors).view_as(embeds), **inputs}


def _additive(may: Tensor, dtype: Any) -> Tensor:
    """0 where a position may look, the lowest number elsewhere, [R, 1, L, L]: what every attention of transformers adds to its products."""
    import torch

    return torch.zeros(may.shape, dtype=dtype, device=may.device).masked_fill_(~may, torch.finfo(dtype).min)[:, None]
