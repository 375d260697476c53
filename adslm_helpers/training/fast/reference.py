"""Log-probabilities of a model that does not change while it is tuned: computed once, in large batches, and kept on disk."""

from __future__ import annotations

import hashlib
import json
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...run import remove_temporary, write_bytes
from ..prompts import EncodedPair
from .scores import score

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "reference"
"""Beside the training folder, which a new recipe sets aside: what is kept here serves the next one too."""
# A training step holds activations of every layer (with checkpointing: the input of each, and one layer whole), a forward without
# gradient those of one layer. So many times the tokens of a step need less memory than the step.
_TIMES_A_STEP, _TIMES_A_STEP_CHECKPOINTED = 4, 2
_SILENT, _BETWEEN = 2.0, 60.0  # seconds
_SAMPLED = 64
_HEADER = 1 << 16
_WHAT = "summed log-probabilities (chosen, rejected), nats, adapter off"


class _NotUsable(Exception):
    """Why a kept file is not used: Japanese and English."""


def kept_logps(
    trainer: Any,
    pairs: Sequence[EncodedPair],
    folder: Path,
    limit: float,
    prefix: Tensor | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[list[tuple[float, float]], list[str]]:
    """`reference_logps`, from `folder` where they were computed before, and what there is to say of it, in words.

    The file's name says model, weights, precision, tokens and learned vectors; two pairs are computed again, and if they differ by more than
    `limit` nats, or the file is broken, all are. Every process calls it; the first one writes.
    """
    key = reference_key(trainer, pairs, prefix)
    path, told = folder / f"{key}.safetensors", []
    try:
        found = _checked(trainer, pairs, path, key, limit, prefix)
    except _NotUsable as reason:
        ja, en = reason.args
        told.append(
            f"{path}（参照の対数確率の控え）は使わず、計算し直しました: {ja}"
            f" / {path} (kept reference log-probabilities) was not used; they were computed anew: {en}"
        )
        found = None
    if found is None:
        found = reference_logps(trainer, pairs, prefix, say)
        told += _write(trainer, path, key, found)
    return found, told


def reference_logps(
    trainer: Any, pairs: Sequence[EncodedPair], prefix: Tensor | None = None, say: Callable[[str], None] | None = None
) -> list[tuple[float, float]]:
    """(chosen, rejected) of the model with its adapter off for every pair, nats, in large batches of similar length.

    Several processes share the batches; each gets all numbers. `say` hears of it when it takes long.
    """
    import torch

    model, accelerator, virtual = trainer.model, trainer.accelerator, 0 if prefix is None else len(prefix)
    found = torch.zeros(len(pairs), 2)
    batches = _batches(pairs, _room(trainer, pairs), virtual)[accelerator.process_index :: accelerator.num_processes]
    progress = _progress(sum(map(len, batches)), say if accelerator.is_main_process else None)
    model.eval()
    with torch.no_grad(), model.disable_adapter():
        for chosen in batches:
            batch = trainer._prepare_inputs(trainer.data_collator.laid_out([pairs[i] for i in chosen], virtual))
            with trainer.compute_loss_context_manager():
                found[chosen] = score(model, batch, trainer.head, prefix)[0].view(2, -1).T.cpu()
            progress(len(chosen))
    if accelerator.num_processes > 1:
        found = accelerator.reduce(found.to(accelerator.device), "sum")
    return [tuple(row) for row in found.tolist()]


def reference_key(trainer: Any, pairs: Sequence[EncodedPair], prefix: Tensor | None = None) -> str:
    """A hash of all that the numbers depend on. Of every weight 64 elements are read, evenly spaced: whatever tuned the model moved some.

    A model's name or folder is none of it: it may move, and another model may take its place.
    """
    model, args = trainer.model, trainer.args
    config = {
        name: value for name, value in model.config.to_dict().items() if name not in ("_name_or_path", "transformers_version")
    }
    amp = "bf16" if args.bf16 else "fp16" if args.fp16 else ""
    facts = {"config": config, "dtype": str(model.dtype), "amp": amp, "device": args.device.type, "adapter": "off"}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
            digest.update(_sample(parameter))
    for pair in pairs:
        ids = (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)
        digest.update(array("q", [*map(len, ids), *(token for part in ids for token in part)]).tobytes())
    if prefix is not None:
        digest.update(f"{tuple(prefix.shape)}".encode() + prefix.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def _sample(parameter: Any) -> bytes:
    import torch

    flat = parameter.detach().reshape(-1)
    at = torch.linspace(0, max(0, len(flat) - 1), min(_SAMPLED, len(flat)), dtype=torch.float64).long()
    return flat[at.to(flat.device)].float().cpu().numpy().tobytes()


def _room(trainer: Any, pairs: Sequence[EncodedPair]) -> int:
    """Tokens of one batch, those of the longest pair times a number of pairs."""
    times = _TIMES_A_STEP_CHECKPOINTED if trainer.args.gradient_checkpointing else _TIMES_A_STEP
    return times * trainer.args.per_device_train_batch_size * max(map(_length, pairs))


def _batches(pairs: Sequence[EncodedPair], room: int, virtual: int = 0) -> list[list[int]]:
    """Indices of pairs of similar length, the longest first, so that too little memory shows at once; at least one a batch."""
    batches: list[list[int]] = []
    widest = 0
    for i in sorted(range(len(pairs)), key=lambda i: -_length(pairs[i])):
        if not batches or (len(batches[-1]) + 1) * widest > room:
            batches.append([])
            widest = _length(pairs[i]) + virtual
        batches[-1].append(i)
    return batches


def _length(pair: EncodedPair) -> int:
    return len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids)


def _progress(total: int, say: Callable[[str], None] | None) -> Callable[[int], None]:
    """Says how far it is after two seconds, then once a minute."""
    started = time.monotonic()
    done, next_word = 0, started + _SILENT

    def progress(more: int) -> None:
        nonlocal done, next_word
        done += more
        now = time.monotonic()
        if say is None or now < next_word or done == total:
            return
        next_word = now + _BETWEEN
        left = (now - started) / done * (total - done)
        say(
            f"参照モデルの対数確率を計算しています: {done}/{total} 対、残り約 {left:.0f} 秒"
            f" / reference log-probabilities: {done} of {total} pairs, about {left:.0f} s to go"
        )

    return progress


def _checked(
    trainer: Any, pairs: Sequence[EncodedPair], path: Path, key: str, limit: float, prefix: Tensor | None
) -> list[tuple[float, float]] | None:
    """What is kept, None where nothing is; raises _NotUsable for a file that is not what it should be in any of the processes."""
    present = path.exists()
    found, reason = None, None
    if present:
        try:
            found = _read(path, key, len(pairs))
        except _NotUsable as error:
            reason = error
    if not _everywhere(trainer, found is not None):
        if reason:
            raise reason
        return None
    lengths = [_length(pair) for pair in pairs]
    two = sorted({lengths.index(min(lengths)), lengths.index(max(lengths))})
    again = reference_logps(trainer, [pairs[i] for i in two], prefix)
    off = [abs(a - b) for i, row in zip(two, again, strict=True) for a, b in zip(found[i], row, strict=True)]
    allowed = [limit + 1e-6 * abs(a) for i in two for a in found[i]]
    if not all(a <= b for a, b in zip(off, allowed, strict=True)):  # NaN is no match
        raise _NotUsable(
            f"2 対を計算し直すと {max(off):.2g} nat 違います", f"two pairs computed again differ by {max(off):.2g} nats"
        )
    return found


def _read(path: Path, key: str, n: int) -> list[tuple[float, float]]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        if path.stat().st_size > 8 * n + _HEADER:
            raise ValueError
        logps = load(path.read_bytes()).get(key)  # no memory map: the file may be replaced under it
    except (OSError, SafetensorError, ValueError, KeyError):
        raise _NotUsable("ファイルが壊れています", "the file is broken") from None
    if logps is None or logps.shape != (n, 2) or logps.dtype != torch.float32 or not bool(logps.isfinite().all()):
        raise _NotUsable("この学習のものではありません", "it is not of this training")
    return [tuple(row) for row in logps.tolist()]


def _write(trainer: Any, path: Path, key: str, found: list[tuple[float, float]]) -> list[str]:
    """Keeps the numbers under their key, if they are numbers; what went wrong, in words. A training does not need the file."""
    import torch
    from safetensors.torch import save

    logps = torch.tensor(found, dtype=torch.float32)
    if not trainer.accelerator.is_main_process or not bool(logps.isfinite().all()):
        return []
    try:
        remove_temporary(path.parent)
        write_bytes(path, save({key: logps}, {"what": _WHAT}))
    except OSError as error:
        return [
            f"{path} に参照の対数確率を残せませんでした（{error.strerror}）。次回は計算し直します。"
            f" / The reference log-probabilities could not be kept in {path} ({error.strerror}): the next run computes them again."
        ]
    return []


def _everywhere(trainer: Any, here: bool) -> bool:
    """Whether it is so in every process: they take the same road."""
    import torch

    accelerator = trainer.accelerator
    if accelerator.num_processes == 1:
        return here
    return accelerator.reduce(torch.tensor(float(here), device=accelerator.device), "sum").item() == accelerator.num_processes
