"""How far a file's outputs are from what is expected of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Parity:
    """Root-mean-square difference between a file's outputs and what is expected, over their standard deviation.

    ``error`` is the largest of ``by_output``, which has it of each output, in order. ``top1_differs`` is the share of
    samples on which the largest output is another one.
    """

    error: float
    tolerance: float
    samples: int
    top1_differs: float
    by_output: tuple[float, ...] = ()
