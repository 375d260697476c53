"""One forward pass over a laid-out batch: the summed log-probability of every answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .head import TiledHead
from .layout import allowed

if TYPE_CHECKING:
    from torch import Tensor


def score(
    model: Any, batch: dict[str, Tensor], head: TiledHead | None = None, prefix: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(logps, mean_logits), each [2B] in float32, the chosen answers first: nats summed over the answer's tokens, EOS included; and the
    mean logit over vocabulary and answer, without gradient.

    `batch`: of `layout.lay_out`, on the model's device. `head`: of `head.tiled_head`; None: the model's own, with whole logits at answer
    positions. `prefix`: [virtual, H], the vectors that stand before every prompt (as the input embeddings give them).
    """
    import torch

    bare = getattr(model, "module", model)
    seen: list[Tensor] = []

    def cut(layer: Any, inputs: tuple) -> tuple:
        hidden = inputs[0].flatten(0, -2)[batch["read_at"]]
        seen.append(hidden)
        return (hidden[None] if head is None else inputs[0][:, :0],)

    handle = bare.get_output_embeddings().register_forward_pre_hook(cut)
    try:
        output = model(**_inputs(bare, batch, prefix), position_ids=batch["position_ids"], use_cache=False)
    finally:
        handle.remove()
    hidden, targets = seen[0], batch["targets"]
    if head is None:
        logits = output.logits[0].float()
        token_logps = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
        mean_logits = logits.detach().mean(-1)
    else:
        token_logps = head.token_logps(hidden, targets)
        with torch.no_grad():
            mean_logits = head.mean_logits(hidden)
    lengths = batch["lengths"].T.reshape(-1)
    logps, means = (
        torch.zeros(len(lengths), device=values.device).index_add(0, batch["sequence"], values[batch["counted"]])
        for values in (token_logps, mean_logits)
    )
    return logps, means / lengths


def _inputs(model: Any, batch: dict[str, Tensor], prefix: Tensor | None) -> dict[str, Tensor]:
    mask = batch["attention_mask"] if "blocks" not in batch else _additive(allowed(batch["blocks"]), model.dtype)
    if prefix is None:
        return {"input_ids": batch["input_ids"], "attention_mask": mask}
    embeds = model.get_input_embeddings()(batch["input_ids"])
    places = batch["virtual_at"]
    vectors = prefix.to(embeds.dtype).repeat(len(places) // len(prefix), 1)
    return {"inputs_embeds": embeds.flatten(0, 1).index_copy(0, places, vectors).view_as(embeds), "attention_mask": mask}


def _additive(may: Tensor, dtype: Any) -> Tensor:
    """0 where a position may look, the lowest number elsewhere, [R, 1, L, L]: what every attention of transformers adds to its products."""
    import torch

    return torch.zeros(may.shape, dtype=dtype, device=may.device).masked_fill_(~may, torch.finfo(dtype).min)[:, None]
