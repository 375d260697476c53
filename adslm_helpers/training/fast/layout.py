"""Where the tokens of a batch of pairs go: [prompt | chosen | rejected] in one row, several pairs in a row where they fit.

Tokens that both answers begin with belong to the shared part. The last token of an answer predicts nothing and is no input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...models.catalog import facts_from_config
from ..prompts import EncodedPair

if TYPE_CHECKING:
    from torch import Tensor

SHARED, CHOSEN, REJECTED = 0, 1, 2
_PARTS = 3


@dataclass
class _Laid:
    """One piece of a row: a whole pair, or one answer with its prompt."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    predictions: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)
    """(index of the token that predicts, predicted token, sequences of the batch that it counts for)."""


def lay_out(
    pairs: Sequence[EncodedPair], pad_token_id: int, *, shared: bool = True, virtual: int = 0, multiple: int = 1
) -> dict[str, Tensor]:
    """A batch for `scores.score`. `shared` False: the usual two rows a pair. `virtual`: places left free before every prompt for
    learned vectors. `multiple`: the width is one of this number.

    lengths [B, 2]: tokens of each answer, its EOS included. input_ids, position_ids [R, L]. blocks [R, L]: 0 on padding, else
    3 x number of the pair in its row + SHARED, CHOSEN or REJECTED (two rows: attention_mask [R, L] instead). places: the flat indices whose
    hidden states are read, each once. read_at, targets [N]: such an index for each predicted token, and that token. counted, sequence [M]: which of the N count for which of the
    2B sequences, the chosen ones first. virtual_at [B x virtual, twice as many in two rows]: flat indices of the free places, in order.
    """
    import torch

    if shared:
        pieces = [_shared(pair, index, len(pairs), pad_token_id, virtual) for index, pair in enumerate(pairs)]
        rows = pack([len(piece.ids) for piece in pieces])
    else:
        pieces = [
            _single(pair.prompt_ids, answer, sequence, pad_token_id, virtual)
            for sequence, (pair, answer) in enumerate(_sides(pairs))
        ]
        rows = [[index] for index in range(len(pieces))]
    widest = max(sum(len(pieces[index].ids) for index in row) for row in rows)
    width = -(-widest // multiple) * multiple
    input_ids = torch.full((len(rows), width), pad_token_id)
    position_ids, blocks = torch.zeros_like(input_ids), torch.zeros_like(input_ids)
    read_at, targets, counted, sequence, virtual_at = [], [], [], [], []
    for r, row in enumerate(rows):
        start = 0
        for number, index in enumerate(row, 1):
            piece = pieces[index]
            end = start + len(piece.ids)
            input_ids[r, start:end] = torch.tensor(piece.ids)
            position_ids[r, start:end] = torch.tensor(piece.positions)
            blocks[r, start:end] = torch.tensor(piece.parts) + _PARTS * number
            base = r * width + start
            for at, target, sequences in piece.predictions:
                counted += [len(targets)] * len(sequences)
                sequence += sequences
                read_at.append(base + at)
                targets.append(target)
            virtual_at += range(base, base + virtual)
            start = end
    lengths = torch.tensor([[len(pair.chosen_ids), len(pair.rejected_ids)] for pair in pairs])
    batch = {"lengths": lengths, "input_ids": input_ids, "position_ids": position_ids}
    batch |= {"blocks": blocks} if shared else {"attention_mask": (blocks > 0).long()}
    flat = {"places": sorted(set(read_at)), "read_at": read_at, "targets": targets, "counted": counted, "sequence": sequence}
    if virtual:
        flat["virtual_at"] = virtual_at
    return batch | {name: torch.tensor(values) for name, values in flat.items()}


def pack(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of pieces by row: none is longer than the longest piece (first fit, the longest first), so that padding shrinks and
    attention does not grow."""
    room, rows, widest = [], [], max(lengths)
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((r for r, left in enumerate(room) if left >= lengths[index]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(widest)
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows


def allowed(blocks: Tensor) -> Tensor:
    """Which position may look at which, [R, L, L]: earlier ones of the same pair that are shared or of the same answer; padding at itself."""
    import torch

    pair, part = blocks // _PARTS, blocks % _PARTS
    same = (pair[:, :, None] == pair[:, None, :]) & ((part[:, None, :] == SHARED) | (part[:, :, None] == part[:, None, :]))
    itself = torch.eye(blocks.shape[1], dtype=torch.bool, device=blocks.device)
    return (same & (pair > 0)[:, :, None]).tril() | itself


def cost(pairs: Sequence[EncodedPair], shared: bool, attention_share: float, virtual: int = 0) -> float:
    """Work of a batch in this layout, in tokens: positions computed, each with `attention_share` for every position of its row."""
    if shared:
        lengths = [len(pair.prompt_ids) + virtual + _tails(pair) for pair in pairs]
        rows, width = len(pack(lengths)), max(lengths)
    else:
        lengths = [len(pair.prompt_ids) + virtual + len(answer) - 1 for pair, answer in _sides(pairs)]
        rows, width = len(lengths), max(lengths)
    return rows * width * (1 + attention_share * width)


def attention_share(config: Any) -> float:
    """What one position more in a row costs every other position of it, in parts of the work of a position: for `cost`.

    `config`: of `head.text_config`. In a step attention multiplies 14 times a head dimension (two products forward, five backward), the frozen
    matrices 4 times a weight: a factor of 3.5. Measured with a hidden size of 512: 3.7 (answers of 128 tokens behind prompts of 16 take
    as long either way). Hence 4, so that a shared row is no slower than two.
    """
    facts = facts_from_config(config)
    return 4 * facts.heads * facts.head_dim * facts.layers / max(1, facts.linear_weights)


def _tails(pair: EncodedPair) -> int:
    """Positions of both answers, what they begin with alike counted once."""
    return len(pair.chosen_ids) + len(pair.rejected_ids) - 2 - _common(pair)


def _common(pair: EncodedPair) -> int:
    """Tokens that both answers begin with; each ends in an EOS of its own, so neither is wholly the other's beginning unless they are the same."""
    ends = min(len(pair.chosen_ids), len(pair.rejected_ids)) - 1
    return next((i for i in range(ends) if pair.chosen_ids[i] != pair.rejected_ids[i]), ends)


def _sides(pairs: Sequence[EncodedPair]) -> list[tuple[EncodedPair, list[int]]]:
    return [(pair, pair.chosen_ids) for pair in pairs] + [(pair, pair.rejected_ids) for pair in pairs]


def _shared(pair: EncodedPair, index: int, n_pairs: int, pad: int, virtual: int) -> _Laid:
    common = _common(pair)
    head = [pad] * virtual + pair.prompt_ids + pair.chosen_ids[:common]
    laid = _Laid(list(head), list(range(len(head))), [SHARED] * len(head))
    before = len(head) - common - 1  # the last token of the prompt
    both = (index, n_pairs + index)
    laid.predictions = [(before + i, pair.chosen_ids[i], both) for i in range(common)]
    for part, answer, sequence in ((CHOSEN, pair.chosen_ids, both[0]), (REJECTED, pair.rejected_ids, both[1])):
        tail, start = answer[common:], len(laid.ids)
        laid.ids += tail[:-1]
        laid.positions += range(len(head), len(head) + len(tail) - 1)
        laid.parts += [part] * (len(tail) - 1)
        laid.predictions += [(len(head) - 1 if i == 0 else start + i - 1, token, (sequence,)) for i, token in enumerate(tail)]
    return laid


def _single(prompt: list[int], answer: list[int], sequence: int, pad: int, virtual: int) -> _Laid:
    ids = [pad] * virtual + prompt + answer[:-1]
    before = virtual + len(prompt) - 1
    predictions = [(before + i, token, (sequence,)) for i, token in enumerate(answer)]
    return _Laid(ids, list(range(len(ids))), [SHARED] * len(ids), predictions)
