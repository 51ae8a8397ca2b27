"""The networks of NAS-Bench-201 (Dong and Yang 2020), by the six digits that name a cell."""

from __future__ import annotations

from torch import Tensor, nn

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""From which node to which node of a cell each of the six digits leads."""


def relu_conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(outputs))


def edge(digit: str, channels: int) -> nn.Module:
    """What the edge does: 1 skip, 2 conv 1x1, 3 conv 3x3, 4 average pool 3x3."""
    if digit == "1":
        return nn.Identity()
    if digit == "4":
        return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return relu_conv_bn(channels, channels, {"2": 1, "3": 3}[digit])


class Zero(nn.Module):
    """The search space's own way to leave an edge out: it is multiplied by zero, and added."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul(0.0)


class Cell(nn.Module):
    """Four nodes, each the sum of the edges that reach it.

    An edge of digit 0 is absent, and so is a node without edges; or it is a ``Zero``, as the benchmark's authors
    have it, if ``zeros``.
    """

    def __init__(self, ops: str, channels: int, zeros: bool) -> None:
        super().__init__()
        self.reached = {0}
        self.edges = nn.ModuleDict()
        for (source, target), digit in zip(EDGES, ops, strict=True):
            if (zeros or digit != "0") and source in self.reached:
                self.reached.add(target)
                self.edges[f"{source}{target}"] = edge(digit, channels) if digit != "0" else Zero()
        if 3 not in self.reached:
            raise ValueError(f"cell {ops} does not lead to its output")

    def forward(self, x: Tensor) -> Tensor:
        nodes = {0: x}
        for name, operation in self.edges.items():
            source, target = int(name[0]), int(name[1])
            value = operation(nodes[source])
            nodes[target] = nodes[target] + value if target in nodes else value
        return nodes[3]


class Reduction(nn.Module):
    """The residual block between stages: half the size, twice the channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(relu_conv_bn(inputs, outputs, 3, 2), relu_conv_bn(outputs, outputs, 3))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.layers(x)


class NasBench201(nn.Module):
    """Takes images (N, channels, H, W), H and W multiples of 4, and returns logits (N, classes)."""

    def __init__(self, ops: str, classes: int, channels: int, stem_stride: int, zeros: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, stem_stride, 1, bias=False), nn.BatchNorm2d(16))
        layers: list[nn.Module] = []
        for width in (16, 32, 64):
            if width > 16:
                layers.append(Reduction(width // 2, width))
            layers += [Cell(ops, width, zeros) for _ in range(5)]
        self.stages = nn.Sequential(*layers)
        self.last = nn.Sequential(nn.BatchNorm2d(64), nn.ReLU())
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.stages(self.stem(x)))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def network(ops: str, classes: int = 100, channels: int = 3, stem_stride: int = 1, zeros: bool = False) -> nn.Module:
    """The network of the cell ``ops``, such as ``"421211"``, in eval mode. Raises ``ValueError`` for a dead cell."""
    return NasBench201(ops, classes, channels, stem_stride, zeros).eval()


INPUTS = {"cifar100": (3, 32, 32), "ninapro": (1, 52, 16)}
"""The input shapes that were measured, without the batch."""
