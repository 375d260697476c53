"""The engine as a `transformers.Trainer`: its loop, its checkpoints, its schedule; the loss and the metrics are ours."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ...recipe import DpoRecipe
from .averages import Averages
from .objective import aligned_losses, pair_losses, sft_loss
from .scores import score

if TYPE_CHECKING:
    from torch import Tensor

GUIDE_TAGS = ("loss/", "loss_components/", "rewards_train/", "preference_metrics/")
"""How the metrics begin that guides to preference-guided DPO name as TensorBoard shows them: with no "train/" before them."""
# exp(mp - m) is for looking only, and one pair far out would hide all others.
_LARGEST_EXPONENT = 20.0


@functools.cache
def trainer_class() -> type:
    """`FastDPOTrainer`; a function, for transformers is imported when it is wanted."""
    from transformers import Trainer

    class FastDPOTrainer(Trainer):
        """One forward a batch of pairs (`items.Collator`); TRL's metric names in the logs, each pair counted once."""

        def __init__(self, recipe: DpoRecipe, head: Any = None, **options: Any):
            super().__init__(**options)
            self.recipe, self.head = recipe, head
            self.prefix: Tensor | None = None
            """[virtual, H]: the learned vectors of a teacher that is the policy itself."""
            self.averages = {"train": Averages(), "eval": Averages()}

        def answer_logps(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
            """(logps, mean_logits) of the policy, each [2B], as `scores.score` gives them."""
            return score(model, inputs, self.head)

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            import torch

            logps, mean_logits = self.answer_logps(model, inputs)
            lengths = inputs["lengths"]
            losses, chosen_rewards, rejected_rewards = pair_losses(logps, inputs["ref_logps"], lengths, self.recipe)
            losses = losses * inputs["weights"]
            own = slice(self._pairs_of_its_own(len(lengths)))
            loss = losses[own].mean()
            if self.recipe.sft_weight:
                chosen = torch.cat([side[own] for side in logps.chunk(2)])
                loss = loss + self.recipe.sft_weight * sft_loss(chosen, lengths[own]) * self._share_of_tokens(lengths)
            taught = self._teacher_logps(model, inputs)
            values = {}
            if taught is not None:
                aligned, gaps = aligned_losses(logps, taught, self.recipe.beta)
                loss = loss + self.recipe.alpha * aligned[own].mean()
                values = _of_the_teacher(losses, aligned, gaps)
            values |= {
                "rewards/chosen": chosen_rewards,
                "rewards/rejected": rejected_rewards,
                "rewards/accuracies": chosen_rewards > rejected_rewards,
                "rewards/margins": chosen_rewards - rejected_rewards,
            }
            sides = {"logps": logps.chunk(2), "logits": mean_logits.chunk(2)}
            for name, (chosen, rejected) in sides.items():
                values |= {f"{name}/chosen": chosen, f"{name}/rejected": rejected}
            self._note(values, {"logits/chosen": lengths[:, 0], "logits/rejected": lengths[:, 1]})
            return (loss, {}) if return_outputs else loss

        def _pairs_of_its_own(self, n: int) -> int:
            """How many pairs of this process's batch of `n` are no repetition: accelerate fills the last batches of an evaluation up."""
            state, process = self.accelerator.gradient_state, self.accelerator.process_index
            if self.model.training or self.accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
                return n
            return min(n, max(1, state.remainder - process * n))  # of a batch that is all repetition the loss is cut off later

        def _share_of_tokens(self, lengths: Tensor) -> Any:
            """What makes the mean of the processes' own SFT terms the mean over all their tokens; in an evaluation each batch stands alone."""
            if self.accelerator.num_processes == 1 or not self.model.training:
                return 1.0
            own = lengths[:, 0].sum().float()
            return own * self.accelerator.num_processes / self.accelerator.reduce(own.clone(), "sum")

        def _teacher_logps(self, model: Any, inputs: dict[str, Any]) -> Tensor | None:
            import torch

            if "taught" not in inputs:
                return inputs.get("teacher_logps")
            with torch.no_grad():
                return score(model, inputs["taught"], self.head, self.prefix)[0]

        def _note(self, values: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
            values = {name: value.detach().float() for name, value in values.items()}
            if self.model.training:
                self.averages["train"].add(values, weights)
            else:
                self.averages["eval"].add(values, weights, self.accelerator)

        def prediction_step(
            self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
        ) -> tuple[Tensor, None, None]:
            import torch

            inputs = self._prepare_inputs(inputs)
            with torch.no_grad(), self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs)
            return loss.detach(), None, None

        def evaluation_loop(self, *arguments: Any, **options: Any) -> Any:
            self.averages["eval"].take()  # of an evaluation that was broken off
            output = super().evaluation_loop(*arguments, **options)
            prefix = options.get("metric_key_prefix", "eval")
            output.metrics.update({f"{prefix}_{name}": value for name, value in self.averages["eval"].take().items()})
            return output

        def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
            if "loss" in logs:
                logs = {**logs, **self.averages["train"].take(self.accelerator)}
                if self.recipe.method == "preference_guided":
                    logs = {**logs, **_guide_names(logs)}
            super().log(logs, *arguments, **options)

    return FastDPOTrainer


def _of_the_teacher(losses: Tensor, aligned: Tensor, gaps: Tensor) -> dict[str, Tensor]:
    """What preference-guided DPO measures beside TRL's metrics, each [B]: both parts of the loss before alpha, and the gaps mp - m."""
    return {
        "loss_components/dpo_loss": losses,
        "loss_components/aligned_loss": aligned,
        "preference_metrics/pref_advantage_ratio": gaps.clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT).exp(),
        "preference_metrics/margin_gap": gaps,
    }


def _guide_names(logs: dict[str, Any]) -> dict[str, Any]:
    """The same numbers by the names that some guides to the method look for in TensorBoard."""
    names = {"loss": "loss/train", "rewards/accuracies": "rewards_train/accuracy"}
    return {theirs: logs[ours] for ours, theirs in names.items() if ours in logs}
