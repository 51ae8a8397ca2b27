"""A metric in one file: the accuracy of each class, averaged, so that rare ones count as much as others."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class BalancedAccuracy:
    name: str = "toy-balanced"
    title: str = "balanced accuracy"
    unit: str = "%"

    def __init__(self) -> None:
        self.right: dict[int, list[int]] = {}

    def update(self, outputs: Tensor, targets: Any) -> None:
        for answer, label in zip(outputs.argmax(1).tolist(), targets.tolist(), strict=True):
            self.right.setdefault(label, []).append(answer == label)

    def compute(self) -> float:
        return 100 * sum(sum(each) / len(each) for each in self.right.values()) / len(self.right)
