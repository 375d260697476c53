"""What the pre-flight asks of a trainer: numbers, tokens and dtypes on one real batch, each with its limit."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..environment.device import DevicePlan
from ..models.generation import left_padding_works
from .float32_on_cpu import float32_on_cpu
from .maths import dpo_loss
from .prompts import EncodedPair, collate
from .trl_rows import scored_rows

if TYPE_CHECKING:
    from torch import Tensor

# Nats. Float32 sums differ by their order: 1e-6 to 1e-4 were seen. In 16 bit the sum over a response is off by 0.01 to 0.6, one token
# by 0.002 to 0.03; a kernel that computes something else is off by nats a token.
_FLOAT32_LIMIT = 1e-3
_SUM_LIMIT_16_BIT = 2.0
_TOKEN_LIMIT_16_BIT = 1.0
_LN2_LIMIT = 1e-3
_PAIRS = 32
# Of each response so many tokens are scored, and so many are answered: with a vocabulary of 150,000 the logits of a whole batch
# would need more memory than the training itself, which scores in tiles.
_SCORED = 16
_PROMPT = 48
_ANSWER = 8
_LIKELIEST = 8


@dataclass(frozen=True)
class Check:
    """One question and its answer. `measured` None: not a finite number, or (with `ok`) not asked on this device."""

    name: str
    ok: bool
    measured: float | None
    limit: float
    ja: str
    en: str

    def number(self) -> str:
        """What was measured, for reading."""
        return f"{self.measured:.2g}" if self.measured is not None else "-" if self.ok else "NaN / inf"

    def line(self) -> str:
        """One bilingual line."""
        return f"  {'OK' if self.ok else 'NG'} {self.name}: {self.number()} (<= {self.limit:g})  {self.ja} / {self.en}"


def sum_limit(plan: DevicePlan) -> float:
    """Nats by which two ways to the same log-probability of a response may differ."""
    return _FLOAT32_LIMIT if plan.compute_dtype == "float32" else _SUM_LIMIT_16_BIT


def run_checks(trainer: Any, tokenizer: Any, plan: DevicePlan, pairs: Sequence[EncodedPair]) -> list[Check]:
    """Every check of a trainer whose adapter is fresh; weights, gradients, mode and random state are as before afterwards.

    `pairs`: what the trainer was given; they are read back from its own batches where TRL's layout is known.

    Three forwards and a backward of the training's own batch, one answer to a prompt in a padded and an unpadded batch, and, unless
    the model already computes float32 on the CPU, one pair there, a layer at a time.
    """
    import torch

    model = trainer.model
    pairs = trainer_pairs(trainer, pairs[:_PAIRS])
    batch = collate(pairs[: trainer.args.per_device_train_batch_size], tokenizer.pad_token_id)
    devices = [model.device.index or 0] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _left_as_it_was(model, trainer.args.gradient_checkpointing):
        return [
            _one_eos(pairs, tokenizer.eos_token_id),
            _adapter_dtype(model, plan),
            _finite_no_grad(model, batch, plan),
            *_training_step(model, batch, plan),
            _same_as_cpu(model, collate([_excerpt(pairs[0])], tokenizer.pad_token_id), plan),
            _left_padding(model, pairs[0].prompt_ids, tokenizer, plan),
        ]


def trainer_pairs(trainer: Any, pairs: Sequence[EncodedPair]) -> list[EncodedPair]:
    """The first pairs as the trainer's own collator hands them to the model; `pairs` as they are in a layout that is not known."""
    batches = [scored_rows(trainer.data_collator([trainer.train_dataset[i]])) for i in range(len(pairs))]
    return [pair if rows is None else _read_back(pair, rows) for pair, rows in zip(pairs, batches, strict=True)]


def _read_back(pair: EncodedPair, rows: list[tuple[list[int], list[int]]]) -> EncodedPair:
    (prompt, chosen), (_, rejected) = (
        [[token for token, scored in zip(ids, mask, strict=True) if scored == side] for side in (0, 1)] for ids, mask in rows
    )
    return replace(pair, prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected)


def _excerpt(pair: EncodedPair) -> EncodedPair:
    """The end of the prompt and the beginnings of the responses: 128 tokens at most, for a large model is slow on a CPU."""
    return replace(
        pair,
        prompt_ids=pair.prompt_ids[-_PROMPT:],
        chosen_ids=pair.chosen_ids[:_SCORED],
        rejected_ids=pair.rejected_ids[:_SCORED],
    )


def _one_eos(pairs: Sequence[EncodedPair], eos: int) -> Check:
    responses = [ids for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids)]
    wrong = sum(ids.count(eos) != 1 or ids[-1] != eos for ids in responses)
    return _count(
        "one_eos", wrong, "終わりの印（EOS）がちょうど1つでない応答の数", "responses that do not end in exactly one EOS"
    )


def _adapter_dtype(model: Any, plan: DevicePlan) -> Check:
    import torch

    wrong = sum(p.dtype != torch.float32 for p in model.parameters() if p.requires_grad)
    if plan.fp16:
        why_ja, why_en = "fp16 AMP の GradScaler が止まります", "the GradScaler of fp16 AMP stops at them"
    else:
        why_ja, why_en = "小さい学習率では動きません", "at small learning rates they stand still"
    return _count(
        "adapter_dtype",
        wrong,
        f"float32 でないアダプターの数（{why_ja}）",
        f"adapter tensors that are not float32 ({why_en})",
    )


def _finite_no_grad(model: Any, batch: dict[str, Tensor], plan: DevicePlan) -> Check:
    import torch

    model.eval()
    with torch.no_grad(), autocast(model, plan):
        broken = scored_forward(model, batch)[1]
    return _count(
        "finite_no_grad", broken, "勾配なしで、有限でない数の個数", "numbers that are not finite, forward without gradients"
    )


def _training_step(model: Any, batch: dict[str, Tensor], plan: DevicePlan) -> list[Check]:
    """finite_with_grad and ln_2: the reference forward, the policy forward and its backward, in train mode as the trainer does."""
    import torch

    model.train()
    with autocast(model, plan):
        with torch.no_grad(), model.disable_adapter():
            reference = scored_forward(model, batch)[0].chunk(2)
        logps, broken = scored_forward(model, batch)
        loss = dpo_loss(*logps.chunk(2), *reference, beta=0.1)[0].mean()
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    broken += sum(int((~gradient.isfinite()).sum()) for gradient in gradients)
    model.zero_grad(set_to_none=True)
    off = abs(loss.item() - math.log(2))
    return [
        _count("finite_with_grad", broken, "勾配ありで、有限でない数の個数", "numbers that are not finite, with gradients"),
        _measure(
            "ln_2",
            off if gradients else math.inf,
            _LN2_LIMIT,
            "学習前の損失と ln 2 の差",
            "distance of the untrained loss from ln 2",
        ),
    ]


def _same_as_cpu(model: Any, batch: dict[str, Tensor], plan: DevicePlan) -> Check:
    import torch

    limit = sum_limit(plan)
    if plan.device == "cpu" and plan.compute_dtype == "float32":
        ja, en = "CPU の float32 そのものなので比べません", "this is float32 on the CPU: nothing to compare"
        return Check("same_as_cpu", True, None, limit, ja, en)
    model.eval()
    with torch.no_grad():
        with autocast(model, plan):
            here = scored_forward(model, batch)[0].cpu()
        with float32_on_cpu(model):
            there = scored_forward(model, batch, device="cpu")[0]
    ja, en = "CPU の float32 との対数確率の差（nats、最大）", "largest log-probability difference to float32 on the CPU, in nats"
    return _measure("same_as_cpu", (here - there).abs().max().item(), limit, ja, en)


def _left_padding(model: Any, prompt_ids: list[int], tokenizer: Any, plan: DevicePlan) -> Check:
    """A short prompt beside a longer one, padded on the left, against the same prompt alone.

    Measured: the log-probabilities of the likeliest tokens, step by step for as long as both say the same.
    """
    import torch

    limit = _FLOAT32_LIMIT if plan.compute_dtype == "float32" else _TOKEN_LIMIT_16_BIT
    if not left_padding_works(model):
        ja, en = "この torch の MPS では1行ずつ生成します", "with this torch, prompts are answered one by one on MPS"
        return Check("left_padding", True, None, limit, ja, en)
    longer = prompt_ids[-_PROMPT:]
    short = longer[len(longer) // 2 :]
    padding = [tokenizer.pad_token_id] * (len(longer) - len(short))
    padded = torch.tensor([longer, padding + short], device=model.device)
    mask = torch.ones_like(padded)
    mask[1, : len(padding)] = 0
    model.eval()
    with torch.no_grad(), autocast(model, plan):
        together, there = _greedy(model, padded, mask, tokenizer)
        alone, here = _greedy(model, padded[1:, len(padding) :], mask[1:, len(padding) :], tokenizer)
    off = [0.0 if bool(step.amax(-1).isfinite().all()) else math.inf for step in (*there, *here)]  # NaN is answered by token 0
    for ours, theirs, beside, by_itself in zip(there, here, together[1], alone[0], strict=False):
        likeliest = theirs[0].topk(min(_LIKELIEST, theirs.shape[-1])).indices
        off.append((ours[1].log_softmax(-1) - theirs[0].log_softmax(-1))[likeliest].abs().max().item())
        if beside != by_itself:
            break
    ja, en = "左詰めの2行での生成と1行での生成の違い（nats）", "a left-padded batch of two against one row alone, in nats"
    return _measure("left_padding", max(off), limit, ja, en)


def _greedy(model: Any, input_ids: Tensor, attention_mask: Tensor, tokenizer: Any) -> tuple[list[list[int]], list[Tensor]]:
    """The new tokens of every row, and what each step chose by, [B, V] in float32."""
    output = model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        max_new_tokens=_ANSWER,
        do_sample=False,
        repetition_penalty=1.0,  # a model's own would count the padding as said
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        output_scores=True,
        return_dict_in_generate=True,
    )
    return output.sequences[:, input_ids.shape[1] :].tolist(), [step.float() for step in output.scores]


def scored_forward(model: Any, batch: dict[str, Tensor], device: Any = None) -> tuple[Tensor, int]:
    """Summed log-probabilities of the first tokens of every response, [2B], and how many numbers at real tokens are not finite.

    The logits of all other tokens are never built: the hidden states are cut down on their way into the head.
    """
    import torch

    input_ids, attention_mask, scored = (
        batch[key].to(device or model.device) for key in ("input_ids", "attention_mask", "completion_mask")
    )
    wanted = scored[:, 1:] * (scored[:, 1:].cumsum(-1) <= _SCORED)
    rows, positions = wanted.nonzero(as_tuple=True)
    broken = 0

    def cut(head: Any, inputs: tuple) -> tuple:
        nonlocal broken
        hidden = inputs[0]
        broken += int((~hidden.detach()[attention_mask == 1].isfinite()).sum())
        return (hidden[rows, positions][None],)

    handle = model.get_output_embeddings().register_forward_pre_hook(cut)
    try:
        logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits[0].float()
    finally:
        handle.remove()
    broken += int((~logits.detach().isfinite()).sum())
    logps = logits.log_softmax(-1).gather(-1, input_ids[rows, positions + 1, None]).squeeze(-1)
    return torch.zeros(len(input_ids), device=logps.device).index_add(0, rows, logps), broken


def autocast(model: Any, plan: DevicePlan) -> Any:
    """What the trainer computes in: its AMP mode, or nothing."""
    import torch

    if not (plan.bf16 or plan.fp16):
        return contextlib.nullcontext()
    return torch.autocast(model.device.type, getattr(torch, plan.compute_dtype))


@contextlib.contextmanager
def _left_as_it_was(model: Any, checkpointing: bool) -> Iterator[None]:
    """Activation checkpointing as in the training meanwhile, else the look would need more memory than what it looks at."""
    was_training, was_checkpointing = model.training, model.is_gradient_checkpointing
    if checkpointing and not was_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)
        if checkpointing and not was_checkpointing:
            model.gradient_checkpointing_disable()


def _count(name: str, wrong: int, ja: str, en: str) -> Check:
    return Check(name, wrong == 0, float(wrong), 0.0, ja, en)


def _measure(name: str, value: float, limit: float, ja: str, en: str) -> Check:
    finite = math.isfinite(value)
    return Check(name, finite and value <= limit, value if finite else None, limit, ja, en)
