"""The numbers that the integers of a quantized file stand for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """The numbers that a tensor's integers stand for: ``scale * (integer - zero)``, along ``axis`` where several."""

    scale: np.ndarray
    zero: np.ndarray
    axis: int = 0

    def real(self, integers: np.ndarray) -> np.ndarray:
        """What ``integers`` stand for."""
        scale, zero = (self._along(part, integers.ndim) for part in (self.scale, self.zero))
        return ((integers.astype(np.float64) - zero) * scale).astype(np.float32)

    def _along(self, part: np.ndarray, rank: int) -> np.ndarray:
        if part.size == 1:
            return part.reshape(()).astype(np.float64)
        if part.ndim > 1:
            return part.astype(np.float64)
        shape = [1] * rank
        shape[self.axis % rank] = part.size
        return part.astype(np.float64).reshape(shape)

    @property
    def ends(self) -> tuple[float, float] | None:
        """The least and the largest number on it; ``None`` where that differs by channel."""
        if self.scale.size != 1 or self.zero.size != 1 or self.zero.dtype.kind not in "iu":
            return None
        bounds, scale, zero = np.iinfo(self.zero.dtype), float(self.scale.reshape(())), int(self.zero.reshape(()))
        return (int(bounds.min) - zero) * scale, (int(bounds.max) - zero) * scale


UNIT = Grid(np.ones((), np.float32), np.zeros((), np.uint8))  # of integers that are the numbers themselves
