"""What a trainer before TRL 0.29 is made to do, on stand-ins for its two shapes (a tuple up to 0.11, a dict up to 0.28)."""

from types import SimpleNamespace

import pytest
import torch

from adslm_helpers.errors import TrainingError
from adslm_helpers.recipe import load_recipe
from adslm_helpers.training.maths import sequence_logps
from adslm_helpers.training.prompts import EncodedPair, pad_rows
from adslm_helpers.training.trl_old import check_forward, is_old, levelled
from adslm_helpers.training.trl_rows import id_rows, scored_rows

COLUMNS = ["prompt_input_ids", "chosen_input_ids", "chosen_labels", "rejected_labels"]
PAIRS = [EncodedPair([3, 4], [6, 2], [7, 2], "", "", "", 0), EncodedPair([3], [8, 9, 2], [9, 8, 2], "", "", "", 0)]


def old_collator(rows):
    """Right-padded tensors of every column."""
    return {
        name: torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row[name]) for row in rows], batch_first=True, padding_value=-100 if name.endswith("labels") else 0
        )
        for name in rows[0]
    }


class OldTrainer:
    """The parts of an old DPOTrainer that are touched; `lost` columns are cut off as TRL 0.12 does."""

    lost, shape, loss_type, padding_value = 0, dict, "sigmoid", 0

    def __init__(self):
        self.train_dataset = SimpleNamespace(column_names=COLUMNS)
        self.data_collator, self.args = old_collator, SimpleNamespace(device="cpu")

    def concatenated_forward(self, model, batch):
        rows = {name: value[:, : value.shape[1] - self.lost] for name, value in pad_rows(scored_rows(batch), 0).items()}
        logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
        logps = sequence_logps(logits, rows["input_ids"], rows["completion_mask"])
        if self.loss_type == "ipo":
            logps = logps / rows["completion_mask"].sum(-1)
        chosen, rejected = logps.chunk(2)
        if self.shape is tuple:
            return chosen, rejected, logits, logits
        return {"chosen_logps": chosen, "rejected_logps": rejected, "mean_chosen_logits": 0, "mean_rejected_logits": 0}

    def get_batch_loss_metrics(self, model, batch, train_eval="train"):
        self.concatenated_forward(model, batch)
        with torch.no_grad():  # the reference: its log-probabilities must not end up in the SFT term
            self.concatenated_forward(lambda **kwargs: SimpleNamespace(logits=torch.zeros(*kwargs["input_ids"].shape, 10)), batch)
        return torch.tensor(0.5), {"rewards/chosen": 0.0}


def model(input_ids, **options):
    """Random logits, the same for the same ids."""
    generator = torch.Generator().manual_seed(0)
    return SimpleNamespace(logits=torch.randn(10, 10, generator=generator)[input_ids])


def trainer(lost=0, shape=dict, loss_type="sigmoid", **overrides):
    kind = type("Old", (OldTrainer,), {"lost": lost, "shape": shape, "loss_type": loss_type})
    return levelled(kind, load_recipe("tiny", loss_type=loss_type, **overrides))()


def test_todays_trainer_is_not_taken_for_an_old_one():
    from trl import DPOTrainer

    assert not is_old(DPOTrainer) and is_old(OldTrainer)


@pytest.mark.parametrize("shape", [dict, tuple])
@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_the_sft_term_is_the_mean_over_all_chosen_tokens(shape, loss_type):
    """7 tokens in the batch, 5 of them scored; TRL 0.9 would multiply the 0.5 by the weight, TRL 0.12 would leave out token 0."""
    batch = old_collator(id_rows(COLUMNS, PAIRS))
    loss, metrics = trainer(shape=shape, loss_type=loss_type, sft_weight=0.3).get_batch_loss_metrics(model, batch)
    table = model(torch.arange(10)).logits.log_softmax(-1)
    steps = [(4, 6), (6, 2), (3, 8), (8, 9), (9, 2)]
    by_hand = -sum(table[before, after].item() for before, after in steps) / len(steps)
    assert loss.item() == pytest.approx(0.5 + 0.3 * by_hand, abs=1e-5) and metrics == {"rewards/chosen": 0.0}


def test_without_an_sft_weight_the_loss_is_trls_own():
    batch = old_collator(id_rows(COLUMNS, PAIRS))
    assert trainer(sft_weight=0.0).get_batch_loss_metrics(model, batch)[0].item() == 0.5


@pytest.mark.parametrize("shape", [dict, tuple])
def test_a_trainer_that_scores_every_token_is_left_alone(shape):
    checked = trainer(shape=shape)
    assert check_forward(checked) == [] and not checked.own_forward


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_where_the_last_token_is_lost_our_forward_takes_over(loss_type):
    """TRL 0.12 cut the EOS of the longest row of every padded batch: the model would unlearn to stop."""
    broken, sound = trainer(lost=1, loss_type=loss_type), trainer(loss_type=loss_type)
    (told,) = check_forward(broken)
    assert broken.own_forward and "last token" in told and " / " in told
    batch = old_collator(id_rows(COLUMNS, PAIRS))
    ours, theirs = broken.concatenated_forward(model, batch), sound.concatenated_forward(model, batch)
    assert all(torch.allclose(ours[name], theirs[name]) for name in ("chosen_logps", "rejected_logps"))


def test_a_defect_that_cannot_be_replaced_is_refused():
    with pytest.raises(TrainingError, match="does not score"):
        check_forward(trainer(lost=1, shape=tuple))
