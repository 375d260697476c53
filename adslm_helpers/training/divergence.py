"""How far the tuned model's next-token choices are from its base's, on texts that neither was trained on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from .prompts import EncodedPair

# Of each chosen text so many tokens are looked at: with a vocabulary of 150,000 one token is 0.6 MB of float32, and three copies are held.
_TOKENS = 32
_KEEP = ("logits_to_keep", "num_logits_to_keep")


def mean_kl(model: Any, pairs: Sequence[EncodedPair]) -> float:
    """KL(tuned || base) of the next token in nats, the mean over the chosen tokens of `pairs`; see `kl_of_pairs`. 0 for no pairs."""
    sums = kl_of_pairs(model, pairs)
    return sum(total for total, _ in sums) / count if (count := sum(count for _, count in sums)) else 0.0


def kl_of_pairs(
    model: Any, pairs: Sequence[EncodedPair], on_pair: Callable[[int], None] = lambda done: None
) -> list[tuple[float, int]]:
    """(KL(tuned || base) in nats, summed over the tokens; number of tokens) of each pair's chosen text: exact, teacher-forced.

    `model`: a PeftModel; its base is itself with the adapter off. One pair at a time: memory for 32 rows of the vocabulary, three times.
    Not finite where the logits are not. The model's mode and the random state are as before.
    """
    import torch

    was_training = model.training
    sums = []
    try:
        model.eval()
        with torch.no_grad():
            for pair in pairs:
                tuned = _logps(model, pair)
                with model.disable_adapter():
                    base = _logps(model, pair)
                share = tuned.exp()
                # A token that the model rules out (-inf) adds nothing; a NaN stays one.
                sums.append(((share * (tuned - base)).masked_fill(share == 0, 0).sum().item(), len(tuned)))
                on_pair(1)
    finally:
        model.train(was_training)
    return sums


def _logps(model: Any, pair: EncodedPair) -> Any:
    """Log-probabilities [T, V] of all tokens at the positions that predict the first T <= 32 tokens of the chosen text."""
    import torch

    length = min(_TOKENS, len(pair.chosen_ids))
    ids = torch.tensor([(pair.prompt_ids + pair.chosen_ids)[: len(pair.prompt_ids) + length - 1]], device=model.device)
    accepted = inspect.signature(model.get_base_model().forward).parameters
    only_last = {name: length for name in _KEEP if name in accepted}
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **only_last).logits[0, -length:]
    return logits.float().log_softmax(-1)
