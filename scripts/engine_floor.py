"""The floor of a DPO + LoRA step: the floating-point operations that the mathematics needs, over the rate at which this machine multiplies
matrices of these shapes.

Counted are matrix products only, two operations for a multiplication and an addition; norms, activations, softmax and rotations are not.
Needed is less than any engine computes: nothing of a padded position; of the last layer, at positions that predict no token, keys and
values alone; no gradient of frozen weights, and none of the embeddings; the reference's forward once, whatever the number of epochs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

Lengths = tuple[int, int, int]
"""Tokens of a pair's prompt, chosen and rejected answer, each answer with its EOS."""


def step_operations(facts: Any, pairs: Sequence[Lengths], rank: int) -> Counter[str]:
    """Operations of one training step on `pairs` by kind of product: forward, and backward to LoRA (rank `rank` on the attention's matrices)."""
    total: Counter[str] = Counter()
    for pair in pairs:
        forward, lora = _forward(facts, pair), _lora(facts, pair, rank)
        for name, operations in forward.items():
            # A frozen matrix has one product in the backward pass; the two of attention have two each.
            total[name] += operations * (3 if name == "attention" else 2)
        for name in ("q_proj", "k_proj", "v_proj"):  # nothing below the first layer wants a gradient
            total[name] -= 2 * _positions(pair) * _size(facts, name)
        total["lora"] += lora
    return total


def reference_operations(facts: Any, pairs: Sequence[Lengths]) -> Counter[str]:
    """Operations of the reference's log-probabilities of `pairs`: forward only."""
    return sum((_forward(facts, pair) for pair in pairs), Counter())


def floor_seconds(operations: Counter[str], rates: dict[str, float]) -> float:
    """The time of these operations at `rates`, operations a second by kind of product."""
    return sum(count / rates[name] for name, count in operations.items())


def measured_rates(facts: Any, pairs: Sequence[Lengths], rank: int, device: str, dtype: Any) -> dict[str, float]:
    """Operations a second of every kind of product in the sizes that a batch of `pairs` has: the best of several."""
    import torch

    tokens, scored = sum(map(_positions, pairs)), sum(map(_scored, pairs))
    columns = min(facts.vocabulary, max(512, 2**21 // scored))
    row = max(map(_positions, pairs))

    def product(m: int, k: int, n: int, batch: int = 0) -> float:
        lead = (batch,) if batch else ()
        left, right = (torch.randn(*lead, *shape, device=device, dtype=dtype) for shape in ((m, k), (k, n)))
        return 2 * max(1, batch) * m * k * n / _best(lambda: left @ right, device)

    found = {name: product(tokens, *shape) for name, shape in facts.linears.items()}
    heads = len(pairs) * facts.heads
    return found | {
        "attention": product(row, facts.head_dim, row, heads),
        "head": product(scored, facts.hidden, columns),
        "lora": product(tokens, facts.hidden, rank),
    }


def _best(run: Callable[[], Any], device: str, seconds: float = 0.15) -> float:
    """Seconds of the quickest run; on a CPU of the process's own time, which other processes do not count into."""
    import torch

    wait, clock = (torch.cuda.synchronize, time.perf_counter) if device == "cuda" else (lambda: None, time.process_time)
    run()
    best, began = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - began < seconds:
        wait()
        started = clock()
        run()
        wait()
        best = min(best, clock() - started)
    return best


def _positions(pair: Lengths) -> int:
    """Positions that any exact forward computes: the prompt once, and of each answer all but its last token."""
    return sum(pair) - 2


def _scored(pair: Lengths) -> int:
    """Positions that predict a token of an answer; the end of the prompt predicts both first ones."""
    return pair[1] + pair[2] - 1


def _size(facts: Any, name: str) -> int:
    fan_in, fan_out = facts.linears[name]
    return fan_in * fan_out


def _at(pair: Lengths, layers: int, name: str) -> int:
    """Positions times layers of one matrix: in the last layer only what is read, and keys and values for it."""
    last = _positions(pair) if name in ("k_proj", "v_proj") else _scored(pair)
    return (layers - 1) * _positions(pair) + last


def _forward(facts: Any, pair: Lengths) -> Counter[str]:
    prompt, *answers = pair
    looks = prompt * (prompt + 1) // 2
    last = prompt
    for answer in answers:
        own = (answer - 1) * prompt + (answer - 1) * answer // 2
        looks, last = looks + own, last + own
    return Counter(
        {name: 2 * _at(pair, facts.layers, name) * _size(facts, name) for name in facts.linears}
        | {
            "attention": 4 * facts.heads * facts.head_dim * ((facts.layers - 1) * looks + last),
            "head": 2 * _scored(pair) * facts.vocabulary * facts.hidden,
        }
    )


def _lora(facts: Any, pair: Lengths, rank: int) -> int:
    """Two products forward and four backward, of which the first layer's q, k and v need no gradient of their inputs."""
    total = 0
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        fan_in, fan_out = facts.linears[name]
        total += 6 * _at(pair, facts.layers, name) * rank * (fan_in + fan_out)
        if name != "o_proj":
            total -= 2 * _positions(pair) * rank * fan_in
    return total
