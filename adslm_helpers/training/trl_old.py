"""What TRL up to 0.28 does in another way than today's, levelled out in a subclass of its trainer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..errors import TrainingError
from ..recipe import DpoRecipe
from .maths import sequence_logps
from .prompts import EncodedPair, pad_rows
from .trl_rows import IGNORED, id_rows, scored_rows

if TYPE_CHECKING:
    from torch import Tensor

_MADE_UP_VOCABULARY = 10


def is_old(trainer_class: type) -> bool:
    """Whether the loss is made of methods that a subclass can change; from 0.29 on such overrides are never called."""
    return hasattr(trainer_class, "get_batch_loss_metrics")


def levelled(trainer_class: type, recipe: DpoRecipe) -> type:
    """The old trainer with the SFT term of today's: `sft_weight` x the mean negative log-probability of a chosen token.

    TRL's own term (rpo_alpha) is absent before 0.9, multiplies the other loss in 0.9, and leaves out token 0 ('!' in Qwen2 and GPT-2) later.
    """

    class LevelledDPOTrainer(trainer_class):
        own_forward = False
        _policy_logps = None

        def concatenated_forward(self, model: Any, batch: dict[str, Any], *args: Any, **options: Any) -> Any:
            output = (
                _forward(self, model, batch) if self.own_forward else super().concatenated_forward(model, batch, *args, **options)
            )
            if self._policy_logps is None:  # the policy's forward comes first, the reference's second
                self._policy_logps = _logps(output)[0]
            return output

        def get_batch_loss_metrics(self, model: Any, batch: dict[str, Any], *args: Any, **options: Any) -> Any:
            self._policy_logps = None
            loss, metrics = super().get_batch_loss_metrics(model, batch, *args, **options)
            if not recipe.sft_weight:
                return loss, metrics
            lengths = _chosen_lengths(batch).to(self._policy_logps.device)
            sums = self._policy_logps * lengths if recipe.loss_type == "ipo" else self._policy_logps  # for IPO they are means
            return loss - recipe.sft_weight * sums.sum() / lengths.sum(), metrics

    return LevelledDPOTrainer


def check_forward(trainer: Any) -> list[str]:
    """Has the trainer score two made-up pairs by a model whose answers are known; where a token is missing, our forward takes over.

    TRL 0.12 cuts the last column of every padded batch, and with it an EOS. Returns what was changed, in words; raises TrainingError
    where it cannot be changed.
    """
    import torch

    theirs = trainer.concatenated_forward(_KnownModel(), _made_up_batch(trainer))
    ours = _forward(trainer, _KnownModel(), _made_up_batch(trainer))
    if torch.allclose(torch.cat(_logps(theirs)), torch.cat(_logps(ours)), atol=1e-3):
        return []
    if not isinstance(theirs, dict):
        raise TrainingError(
            "この TRL は応答のトークンを正しく採点しません。→ ノートブック 00 の修復で、試験済みの TRL を入れてください。",
            "This TRL does not score the tokens of a response as it should. -> Install a tested TRL by the repair in notebook 00.",
        )
    trainer.own_forward = True
    return [
        "この TRL は応答の最後のトークンを落とすため、その計算はこちらで行います"
        " / this TRL loses the last token of a response, so that the forward pass is ours"
    ]


class _KnownModel:
    """Logits that depend on the token alone, so that every missing or additional token shows in the sums."""

    config = SimpleNamespace(is_encoder_decoder=False)

    def __call__(self, input_ids: Any, *args: Any, **options: Any) -> Any:
        import torch

        logits = torch.arange(_MADE_UP_VOCABULARY, dtype=torch.float32, device=input_ids.device) / 3
        return SimpleNamespace(logits=logits.repeat(*input_ids.shape, 1), aux_loss=None)


def _made_up_batch(trainer: Any) -> dict[str, Any]:
    """Two pairs of which neither fills the width of the batch: the case that goes wrong."""
    pairs = [EncodedPair([3, 4, 5], [6, 2], [7, 2], "", "", "", 0), EncodedPair([3], [8, 9, 2], [9, 8, 2], "", "", "", 0)]
    batch = trainer.data_collator(id_rows(trainer.train_dataset.column_names, pairs))
    return {name: value.to(trainer.args.device) if hasattr(value, "to") else value for name, value in batch.items()}


def _forward(trainer: Any, model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """What TRL 0.12 to 0.28 return from `concatenated_forward`, by our own layout and maths."""
    rows = pad_rows(scored_rows(batch), trainer.padding_value)
    ids, attention, mask = (rows[name].to(trainer.args.device) for name in ("input_ids", "attention_mask", "completion_mask"))
    logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits
    logps = sequence_logps(logits, ids, mask)
    if trainer.loss_type == "ipo":
        logps = logps / mask.sum(-1)
    chosen, rejected = (side[kept.bool()].mean() for side, kept in zip(logits.chunk(2), mask.chunk(2), strict=True))
    names = ("chosen_logps", "rejected_logps")
    return {**dict(zip(names, logps.chunk(2), strict=True)), "mean_chosen_logits": chosen, "mean_rejected_logits": rejected}


def _logps(output: Any) -> tuple[Tensor, Tensor]:
    """(chosen_logps, rejected_logps), each [B], of a forward pass; TRL up to 0.11 gives them as the head of a tuple."""
    return (output["chosen_logps"], output["rejected_logps"]) if isinstance(output, dict) else output[:2]


def _chosen_lengths(batch: dict[str, Any]) -> Tensor:
    """Number of scored tokens of each chosen response, [B]."""
    if "chosen_labels" in batch:
        return (batch["chosen_labels"] != IGNORED).sum(-1)
    return batch["chosen_attention_mask"].sum(-1)
