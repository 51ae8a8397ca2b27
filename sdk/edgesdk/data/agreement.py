"""How far a network answers what the dense one does, in a unit that does not depend on what it answers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgesdk.data.task import CONSTANT, output_tensors


class Agreement:
    """In percent, how much of the variance of a reference's answers is explained, the mean over the outputs of floats:
    ``100 (1 - sum (o - r)^2 / sum (r - mean r)^2)``, the coefficient of determination."""

    __name__ = "variance explained"

    def __init__(self) -> None:
        self.sums: Tensor | None = None

    def update(self, outputs: Any, reference: Any) -> None:
        """See a batch: tensors of any shape, in any structure, and the reference's of the same."""
        pairs = zip(output_tensors(outputs), output_tensors(reference), strict=True)
        seen = torch.stack([_sums(o.double(), r.double()) for o, r in pairs if o.is_floating_point()])
        self.sums = seen if self.sums is None else self.sums + seen

    def compute(self) -> float:
        """The figure of all that was seen; of a reference that is always the same, against its square."""
        if self.sums is None:
            return float("nan")
        error, total, square, count = self.sums.T
        variance = square - total**2 / count
        unit = torch.where(variance > CONSTANT * square, variance, torch.where(square > 0, square, 1.0))
        return float(100 * (1 - error / unit).mean())


def _sums(outputs: Tensor, reference: Tensor) -> Tensor:
    """Of the squared error, the reference, its square, and how many figures there are."""
    count = torch.tensor(float(reference.numel()), dtype=torch.float64)
    return torch.stack([(outputs - reference).square().sum(), reference.sum(), reference.square().sum(), count])
