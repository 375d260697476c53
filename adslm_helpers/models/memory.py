"""Memory of one DPO + LoRA step, from the model's shape alone, before anything is downloaded.

Each term counts tensors that the code of torch, peft and trl keeps alive at the peak; docs/results/memory.md holds the measurements.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ..environment.device import DevicePlan
from ..environment.machine import GIB
from ..recipe import DpoRecipe
from .catalog import ModelFacts

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# NF4: half a byte, one byte of scale for 64 weights, and a float32 for 256 of these scales (double quantisation).
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
# CPU: Python, torch, transformers, trl, peft and datasets once loaded (measured: 0.51 to 0.55 after a first training, 0.03 more in a
# notebook). GPUs (assumed): the context of CUDA; Metal's heaps, whose buffers are rounded up and kept by shape.
OVERHEAD_GB = {"cpu": 0.6, "mps": 0.5, "cuda": 0.6}
_MARGIN = 1.06
SMALL_TILES = (512, 4096)
_TRL_TILES = (4096, 32768)
# Engine fast: numbers of one tile of logits by device, and the least width of one (as in training/fast/head.py).
_FAST_TILE = {"cpu": 1 << 21, "cuda": 1 << 26, "mps": 1 << 24}
_FAST_LEAST = 512
# Positions whose whole logits its self-check compares, of both answers of one pair (training/fast/self_check.py).
_CHECKED = 2 * 64


@dataclass(frozen=True)
class Head:
    """How hidden states become log-probabilities."""

    kind: str
    """Of the installed TRL - 'full': whole logits; 'torch': tiles folded in torch; 'triton': tiles folded by a GPU kernel. 'fast': our
    own engine, at answer positions only."""
    copies: float
    """Live copies of the logits of a batch, or of one tile, at the peak of a training step."""
    eval_copies: float
    """The same of an evaluation."""
    rows: int = 0
    """Further rows of logits: of the chunks of 128 tokens, three copies each, in which TRL measures the entropy."""
    tile: tuple[int, int] = _TRL_TILES
    """(tokens, vocabulary) of one tile."""


@dataclass(frozen=True)
class MemoryPlan:
    """Parts of the peak in GiB."""

    overhead: float
    """Of the process on a CPU, of context or heaps on a GPU."""
    weights: float
    lora: float
    """Adapter weights and their gradients, float32."""
    optimizer: float
    """Adam's two moments, float32."""
    activations: float
    """Kept from the forward pass for the backward pass."""
    work: float
    """What one layer needs on top while it is computed."""
    logits: float
    """What the output layer and the loss need on top."""
    reference: float
    """0: the same weights with the adapter off."""
    evaluation: float
    """What an evaluation batch needs on top of weights, adapter and optimizer."""

    @property
    def fixed(self) -> float:
        """What is there the whole time."""
        return self.overhead + self.weights + self.lora + self.optimizer + self.reference

    @property
    def total(self) -> float:
        """The peak: a training step or an evaluation, whichever is larger."""
        return self.fixed + max(self.activations + max(self.work, self.logits), self.evaluation)

    @property
    def needed(self) -> float:
        """The total and a margin: what a device must have for it. Measured peaks were within 6 % of the plan."""
        return self.total * _MARGIN

    def to_dict(self) -> dict[str, float]:
        """Every part and the total, GiB."""
        return {name: round(value, 3) for name, value in {**dataclasses.asdict(self), "total": self.total}.items()}


@dataclass(frozen=True)
class _Batch:
    """What of a batch of pairs goes through the model."""

    pairs: int
    row: int
    """Positions of one row."""
    rows: int
    scored: int
    """Positions whose hidden state predicts a token of an answer."""

    @property
    def tokens(self) -> int:
        return self.rows * self.row


def plan_memory(facts: ModelFacts, recipe: DpoRecipe, plan: DevicePlan, head: Head | None = None, prompt: int = 0) -> MemoryPlan:
    """The peak of training `facts` by `recipe` on the device and in the precision of `plan`.

    `head`: how tokens are scored, by default as the recipe's engine does on this device. Sequences of `max_length` are assumed: shorter
    ones need less. Both sides of every pair run at once, hence 2 x batch x length tokens; engine fast computes the `prompt` tokens of
    a pair once, where they are known (0: the safe side).
    """
    head = head or head_of(recipe.engine, plan.device)
    width = BYTES[plan.dtype]
    batch = _batch(recipe.per_device_train_batch_size, recipe.max_length, prompt, head)
    tokens = batch.tokens
    layer = tokens * (_saved_per_token(facts, width) + _attention_matrix(facts, batch, plan, width))
    checkpoint = tokens * facts.hidden * width
    backward = tokens * (3 * facts.intermediate * width + 3 * facts.hidden * 4)  # norms and LoRA compute in float32 in any case
    work = backward + (layer if recipe.gradient_checkpointing else 0)
    if recipe.load_in_4bit:  # the widest matrix, unpacked for the moment of its product
        work += max(a * b for a, b in facts.linears.values()) * BYTES[plan.compute_dtype]
    adapter = facts.lora_parameters(recipe.lora_r, recipe.lora_target_modules)
    return MemoryPlan(
        overhead=OVERHEAD_GB[plan.device],
        weights=weight_bytes(facts, recipe.load_in_4bit, width) / GIB,
        lora=8 * adapter / GIB,
        optimizer=8 * adapter / GIB,
        activations=(facts.layers * (checkpoint if recipe.gradient_checkpointing else layer) + _mask(batch, head, width)) / GIB,
        work=work / GIB,
        logits=_head_bytes(facts, head, batch, width) / GIB,
        reference=0.0,
        evaluation=_evaluation_bytes(facts, recipe, head, prompt, width) / GIB,
    )


def _batch(pairs: int, length: int, prompt: int, head: Head) -> _Batch:
    """TRL: two rows a pair. Engine fast: one row of the prompt and both answers, of which the last tokens are no input."""
    if head.kind != "fast":
        return _Batch(pairs, length, 2 * pairs, 2 * pairs * length)
    answer = length - prompt
    return _Batch(pairs, prompt + 2 * (answer - 1), pairs, 2 * pairs * answer)


def _mask(batch: _Batch, head: Head, width: int) -> float:
    """Bytes of the mask that keeps the answers of a pair apart: one for all layers, in the dtype of the products."""
    return batch.rows * batch.row**2 * width if head.kind == "fast" else 0.0


def reference_times(checkpointing: bool) -> int:
    """How many times the tokens of a training step a batch of the reference pass may have, so that it needs less memory than the step."""
    return 2 if checkpointing else 4


def weight_bytes(facts: ModelFacts, in_4bit: bool, width: int) -> float:
    """Bytes of the base weights; in 4-bit the embeddings, the output layer, norms and biases keep their `width`."""
    quantised = facts.linear_weights if in_4bit else 0
    return quantised * _NF4 + (facts.parameters - quantised) * width


def head_of(engine: str, device: str) -> Head:
    """How the engine of a recipe scores tokens on this device."""
    return head_of_fast(device) if engine == "fast" else head_of_trl(device)


def head_of_fast(device: str) -> Head:
    """Tiles of our own engine: the tile itself, which becomes its own exponentials."""
    return Head("fast", 1, 1, tile=(_FAST_TILE[device] // _FAST_LEAST, _FAST_LEAST))


def head_of_trl(device: str) -> Head:
    """The way of the installed TRL, read from its files (nothing is imported); today's where no TRL is installed."""
    folder = _trl_folder()
    if folder and not (folder / "kernels" / "chunked_logprob.py").is_file():
        return _whole_logits(folder / "trainer" / "dpo_trainer.py")
    if device == "cuda":
        return Head("triton", 2, 1)  # a tile of the forward pass and one of the backward pass, in the dtype of the products
    # Backward: eight float32 tiles (the tile, scaled, over temperature, log p, p, gradient, one-hot, product) and a boolean one.
    # Forward, as in an evaluation: the tile, scaled, exponentials, their product with the logits, and a boolean one.
    return Head("torch", 8.25, 4.25, tile=SMALL_TILES)


def _trl_folder() -> Path | None:
    found = importlib.util.find_spec("trl")
    return Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None


def _whole_logits(trainer: Path) -> Head:
    """What a TRL that makes the whole logits keeps of them, by the words of its trainer; every number is measured."""
    text = trainer.read_text(encoding="utf-8") if trainer.is_file() else ""
    if "shift_logits = outputs.logits[..., :-1, :].contiguous()" in text:
        # 0.29 to 1.5: both models' logits, the shifted copies of both, and the chosen half once more for its mean.
        return Head("full", 4.5, 4.5)
    if "entropy_from_logits" in text:
        # Up to 1.15: both models' logits, and a flat copy for the entropy.
        return Head("full", 3, 3, rows=3 * 128)
    if "selective_log_softmax" in text:
        # Up to 0.28: the logits, their gradient row by row, and the stack of these rows; forward: one, and half of it for its mean.
        return Head("full", 3, 1.5)
    if "policy_chosen_logits" in text:
        # Up to 0.11: of both models the logits, of the policy the log-softmax (and that of the chosen half for the SFT term, since 0.9),
        # of the reference the log-softmax and, since the logits are a slice, a copy for it.
        return Head("full", 5.5 if "nll_loss" in text else 5, 4)
    # 0.12 to 0.14: the log-softmax of the policy, and the reference's logits and log-softmax.
    return Head("full", 3, 2)


def _saved_per_token(facts: ModelFacts, width: int) -> float:
    """Bytes that one layer keeps for one token, base weights frozen and LoRA on the attention projections.

    A frozen matrix keeps no input; LoRA keeps it. In half precision norms and LoRA keep float32 copies of their inputs.
    """
    h, i = facts.hidden, facts.intermediate
    if facts.architecture == "gpt2":  # its GELU is written out and keeps four tensors; LoRA on mlp.c_proj keeps its input
        return (8 * h + 5 * i) * width
    if facts.architecture == "gpt_neox":
        return (8 * h + i) * width
    q = facts.heads * facts.head_dim
    norms = 2 * h * 4
    lora_inputs = (3 * h + q) * 4 if width < 4 else h * 4
    # Queries and the output of attention; keys and values, repeated to all heads wherever a batch has padding.
    return norms + lora_inputs + (2 * q + 2 * q + 3 * i) * width


def _attention_matrix(facts: ModelFacts, batch: _Batch, plan: DevicePlan, width: int) -> float:
    """Bytes for one token of one layer that eager attention keeps: its row of the softmax in every head."""
    return facts.heads * batch.row * width if plan.attention == "eager" else 0


def _head_bytes(facts: ModelFacts, head: Head, batch: _Batch, width: int) -> float:
    states = batch.tokens * facts.hidden * 4  # the last hidden states, or their gradient
    scored = batch.scored * facts.hidden * 4
    if head.kind == "fast":
        # Forward: hidden states and head's rows of the targets, the mean row so far, and a tile's share of it. Backward: their
        # difference, its gradient, and the gradient of all states.
        return states + max(4 * scored + _logit_bytes(facts, head, head.copies, batch.scored, width), 2 * scored + states)
    return 2 * states + _logit_bytes(facts, head, head.copies, batch.tokens, width)


def _logit_bytes(facts: ModelFacts, head: Head, copies: float, tokens: int, width: int) -> float:
    if head.kind == "full":
        return (copies * tokens + head.rows) * facts.vocabulary * 4
    if head.kind == "triton":  # its buffer has the width of a tile whatever the vocabulary is
        return copies * min(tokens, head.tile[0]) * head.tile[1] * width
    if head.kind == "fast":  # as many numbers for few tokens as for many; in half precision its product comes first
        columns = min(facts.vocabulary, max(head.tile[1], head.tile[0] * head.tile[1] // max(1, tokens)))
        return copies * tokens * columns * (4 + (width if width < 4 else 0))
    return copies * min(tokens, head.tile[0]) * min(facts.vocabulary, head.tile[1]) * 4


def _evaluation_bytes(facts: ModelFacts, recipe: DpoRecipe, head: Head, prompt: int, width: int) -> float:
    """No backward pass, nothing kept: one layer's forward, or the head's.

    Engine fast also has its reference pass, in larger batches, and before it a check against whole logits: these, a copy without their
    last place, and its log-softmax, in float32.
    """
    pairs = recipe.per_device_eval_batch_size
    if head.kind == "fast":
        pairs = max(pairs, reference_times(recipe.gradient_checkpointing) * recipe.per_device_train_batch_size)
    batch = _batch(pairs, recipe.max_length, prompt, head)
    forward = batch.tokens * (3 * facts.intermediate + 3 * facts.hidden) * width
    states = batch.tokens * facts.hidden * 4
    if head.kind == "fast":
        states += 3 * batch.scored * facts.hidden * 4
    logits = _logit_bytes(facts, head, head.eval_copies, batch.scored, width)
    check = _CHECKED * facts.vocabulary * (width + 8) if head.kind == "fast" else 0
    return max(check, _mask(batch, head, width) + max(forward, states + logits))
