"""Further adapters to hold against the same base: checkpoints of this run, other runs, exports, folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..models.adapters import WEIGHTS, add_adapter
from ..models.tuned import base_name
from ..run import Run
from ..watching.looks import finite
from ..watching.targets import find_target
from ..watching.weights import read_weights, weight_files

OWN = "default"
"""PEFT's name for the run's own adapter."""


@dataclass(frozen=True)
class Candidate:
    """An adapter of the run's base: as it was named, where it is, and what PEFT calls it."""

    name: str
    folder: Path
    adapter: str


def find_candidates(run: Run, others: Sequence[str]) -> list[Candidate]:
    """The adapters that `others` name: a checkpoint of this run ('checkpoint-50'), another run, an export or a folder.

    RunError where nothing has this name, ModelError for a whole model, an adapter of another base, pickles and weights that are not
    finite; nothing large is loaded.
    """
    base = base_name(run)
    return [_candidate(run, str(name), f"other_{number}", base) for number, name in enumerate(others, 1)]


def load_candidates(model: Any, candidates: Sequence[Candidate]) -> None:
    """Puts all of them beside the run's own adapter, which stays the active one; raises ModelError before any text is made."""
    for candidate in candidates:
        add_adapter(model, candidate.folder, candidate.adapter)
    model.set_adapter(OWN)


def _candidate(run: Run, name: str, adapter: str, base: str) -> Candidate:
    beside = [run.training / "checkpoints" / name, run.path.parent / name]
    # A name with a separator in it is a path from here, never one from the run.
    near = next((path for path in beside if Path(name).name == name and path.is_dir()), None)
    target = find_target(near or name)
    if target.base is None:
        raise ModelError(
            f"{target.folder} はモデル全体で、アダプターではありません。→ {base} に載せるアダプターかチェックポイントを指定してください。",
            f"{target.folder} is a whole model, no adapter. -> Give an adapter or a checkpoint of {base}.",
        )
    if not _same(target.base, base):
        raise ModelError(
            f"{target.folder} は {target.base} のアダプターで、この実行のベース {base} のものではありません。"
            "→ 同じベースのアダプターを指定するか、その実行を別に評価してください。",
            f"{target.folder} is an adapter of {target.base}, not of this run's base {base}. "
            "-> Give adapters of one base, or evaluate that run by itself.",
        )
    look = finite(read_weights(weight_files(target.folder, Path(WEIGHTS).stem)))
    if not look.ok:
        raise ModelError(
            f"{target.folder}: {look.ja}。→ 別のチェックポイントを指定してください。",
            f"{target.folder}: {look.en}. -> Give another checkpoint.",
        )
    return Candidate(name, target.folder, adapter)


def _same(one: str, other: str) -> bool:
    """Whether two names are those of one base: the same hub id, or the same folder."""
    if one == other:
        return True
    folders = [Path(name).expanduser() for name in (one, other)]
    return all(folder.is_dir() for folder in folders) and folders[0].resolve() == folders[1].resolve()
