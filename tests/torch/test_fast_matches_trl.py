"""The same recipe by both engines: the same losses and metrics, step by step, for every loss."""

from dataclasses import replace

import pytest
import torch

from adslm_helpers.dataset.samples import sample_pairs
from adslm_helpers.models.loading import load_model
from adslm_helpers.training import trl_api
from adslm_helpers.training.fast import trainer as fast
from adslm_helpers.training.prompts import encode_pairs

LOSSES = [
    {"loss_type": "sigmoid"},
    {"loss_type": "sigmoid", "beta": 0.5},
    {"loss_type": "hinge"},
    {"loss_type": "ipo"},
    {"loss_type": "robust", "label_smoothing": 0.2},
]
METRICS = [f"{kind}/{side}" for kind in ("rewards", "logps", "logits") for side in ("chosen", "rejected")]


@pytest.fixture
def trainers(recipe, tmp_path):
    """`trainers(loss_type="ipo")`: TRL's trainer and ours, and the pairs of both."""

    def build(**overrides):
        chosen, built = replace(recipe, lora_dropout=0.0, save_steps=1000, evals_per_run=1, **overrides), []
        for name, module in (("trl", trl_api), ("fast", fast)):
            loaded = load_model(chosen)
            pairs = encode_pairs(loaded.tokenizer, sample_pairs(48, seed=3), 256, 200).pairs
            sides = pairs[:40], pairs[40:]
            built.append(module.build_trainer(chosen, loaded.plan, loaded.model, loaded.tokenizer, *sides, tmp_path / name)[0])
        return *built, sides

    return build


def push(model):
    """Away from the start, where every margin is 0."""
    torch.manual_seed(7)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.train()


def test_fifty_steps(trainers):
    """Accumulated over two batches, with the SFT term; three epochs and a short last batch in each."""
    *both, _sides = trainers(
        max_steps=50, gradient_accumulation_steps=2, sft_weight=1.0, per_device_train_batch_size=3, learning_rate=2e-3, beta=0.5
    )
    for trainer in both:
        trainer.train()
    theirs, ours = ([row for row in trainer.state.log_history if "loss" in row] for trainer in both)
    assert len(ours) == 50 and theirs[-1]["rewards/margins"] > 0.05, "a training that does nothing proves nothing"
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], abs=1e-4)
    assert [row["grad_norm"] for row in ours] == pytest.approx([row["grad_norm"] for row in theirs], rel=1e-3)
    theirs, ours = ({name: p for name, p in trainer.model.named_parameters() if p.requires_grad} for trainer in both)
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=1e-4, rtol=0)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: "-".join(map(str, loss.values())))
def test_one_batch_of_every_loss(loss, trainers):
    *both, _sides = trainers(sft_weight=0.5, **loss)
    found = []
    for trainer in both:
        push(trainer.model)
        batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[i] for i in range(5)]))
        value = trainer.compute_loss(trainer.model, batch)
        value.backward()
        gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
        trainer.log({"loss": value.item()})
        found.append((value.item(), gradients, {name: trainer.state.log_history[-1][name] for name in METRICS}))
    (theirs, their_gradients, their_metrics), (ours, our_gradients, our_metrics) = found
    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in their_gradients.items():
        assert (our_gradients[name] - gradient).abs().max() <= 1e-4 * max(1e-3, gradient.abs().max()), name
    assert our_metrics == pytest.approx(their_metrics, rel=1e-4, abs=1e-5)
    assert abs(our_metrics["rewards/chosen"]) > 1e-2


def test_a_pair_of_weight_two_counts_as_often_as_the_pair_twice(trainers):
    """Weights are divided by their mean: 2 and 1 on two pairs are TRL's loss on three."""
    theirs, ours, _ = trainers(sft_weight=0.0)
    rows = {theirs: [theirs.train_dataset[i] for i in (0, 0, 1)]}
    rows[ours] = [replace(ours.train_dataset[i], weight=weight) for i, weight in ((0, 4 / 3), (1, 2 / 3))]
    losses = []
    for trainer, chosen in rows.items():
        push(trainer.model)
        losses.append(trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(chosen))).item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    rows[ours] = [replace(item, weight=1.0) for item in rows[ours]]
    plain = ours.compute_loss(ours.model, ours._prepare_inputs(ours.data_collator(rows[ours]))).item()
    assert abs(plain - losses[0]) > 1e-3, "pairs of the same loss would prove nothing"
