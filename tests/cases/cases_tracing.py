"""What tracing must not lose: writes through views, parametrized weights, sub-graphs, strides, outputs of all kinds."""

from __future__ import annotations

from cases_harness import Case, floats
from torch import Tensor, nn


class Plain(nn.Module):
    """What nothing is wrong with: the harness's own case."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 24, 3, 2)
        self.f = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.b(self.n(self.a(x)).relu()).relu().mean((2, 3)))


CASES = (Case("plain", Plain, floats(3, 12, 12)),)
