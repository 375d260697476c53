"""Means of what is measured pair by pair between two lines of the log, each pair counted once, over all processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class Averages:
    """Collects values batch by batch; `latest` holds the means of the last batch by name."""

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, values: dict[str, Tensor], weights: dict[str, Tensor], accelerator: Any = None) -> None:
        """One more batch: a value of each pair by name, each [B], and what it counts for within the batch where that is not 1 a pair.

        One transfer from the device for all of them. `accelerator`: the batch is the process's share of an evaluation, whose last batch
        may hold some pairs twice; accelerate knows which.
        """
        import torch

        with torch.no_grad():
            ones = torch.ones_like(next(iter(values.values())))
            counts = torch.stack([weights.get(name, ones).to(ones.dtype) for name in values], -1)
            both = torch.stack([torch.stack(list(values.values()), -1) * counts, counts], -1)  # [B, names, 2]
            if accelerator is not None and accelerator.num_processes > 1:
                both = accelerator.gather_for_metrics(both)
            totals = both.sum(0).tolist()
        self.latest = {name: total / count for name, (total, count) in zip(values, totals, strict=True)}
        for name, mean in self.latest.items():
            before = self._sums.get(name, (0.0, 0))
            self._sums[name] = (before[0] + mean * len(both), before[1] + len(both))

    def take(self, accelerator: Any = None) -> dict[str, float]:
        """The means since the last call, and begins anew. `accelerator`: every process collected its own share; all of them call."""
        import torch

        sums, self._sums = self._sums, {}
        if sums and accelerator is not None and accelerator.num_processes > 1:
            own = torch.tensor(list(sums.values()), device=accelerator.device)
            sums = dict(zip(sums, accelerator.reduce(own, "sum").tolist(), strict=True))
        return {name: total / count for name, (total, count) in sums.items()}
