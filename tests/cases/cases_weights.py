"""Weights that are parameters of the user's own module, however they are multiplied with, and what lies beside them."""

from __future__ import annotations

import torch
from cases_harness import Case, floats
from torch import Tensor, nn
from torch.nn import functional as F


def matrix(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)


class Spelled(nn.Module):
    """Linear layers as F.linear, matmul, mm and addmm, with and without a bias, two of them called weight and bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias, self.w = matrix(48, 24), nn.Parameter(torch.randn(48)), matrix(48, 40)
        self.turned, self.row = matrix(32, 40), nn.Parameter(torch.randn(40))
        self.listed = nn.ParameterList([matrix(32, 32), matrix(32, 32)])
        self.named = nn.ParameterDict({"in": matrix(32, 16), "b": nn.Parameter(torch.randn(16))})

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight, self.bias).relu()
        x = (self.row + x @ self.w).relu()
        x = torch.matmul(x, self.turned.t()).relu()
        for weight in self.listed:
            x = x + torch.mm(x, weight).tanh()
        return torch.addmm(self.named["b"], x, self.named["in"])


class Left(nn.Module):
    """Products from the left, of channels before places: with a bias as a column and without, of parts of one
    parameter, and one of a fixed matrix."""

    fixed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.w, self.column, self.stacked = matrix(32, 24), nn.Parameter(torch.randn(32, 1)), matrix(2, 32, 32)
        self.register_buffer("fixed", torch.randn(32, 32) / 32**0.5)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = (self.w @ x + self.column).relu()
        for weight in self.stacked:
            x = x + torch.matmul(weight, x).tanh()
        return self.head((torch.matmul(self.fixed, x).relu() + x).mean(2))


class Parts(nn.Module):
    """Layers that share one parameter, each a part of it: rows of one, halves of the next, and one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.gate, self.rows = matrix(3 * 24, 24), matrix(24, 64), nn.Parameter(torch.randn(64))
        self.stacked, self.head = matrix(3, 32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (F.linear(x, self.qkv[24 * i : 24 * (i + 1)]) for i in range(3))
        x = x + F.scaled_dot_product_attention(q, k, v)
        (a, b), (c, d) = self.gate.chunk(2, 1), self.rows.split(32)
        x = (x @ a + c) * torch.sigmoid(x @ b + d)
        for weight in self.stacked:
            x = (x @ weight).relu()
        return self.head(x.mean(1))


class Asked(nn.Module):
    """An attention whose queries are not what its keys are made of, as in a decoder: its weights are parts of one."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.attention = matrix(1, 5, 24), nn.MultiheadAttention(24, 4, batch_first=True)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        asked = self.asked.expand(x.shape[0], -1, -1) + x[:, :5]
        return self.head(self.attention(asked, x, x, need_weights=False)[0].mean(1))


class Scaled(nn.Linear):
    """A layer of one's own that holds more than its weights, and uses that first."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.scale, self.inner = nn.Parameter(torch.rand(inputs) + 0.5), nn.Linear(inputs, inputs)
        self.register_buffer("mean", torch.randn(inputs))

    def forward(self, input: Tensor) -> Tensor:
        x = torch.sub(input, self.mean) * self.scale  # pyright: ignore[reportArgumentType]
        return F.linear(x + self.inner(x).relu(), self.weight, self.bias)


class Adapted(nn.Module):
    """A low-rank adapter beside the weights of a layer, in the layer's own place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Scaled(24, 48), Scaled(48, 32)
        self.down, self.up, self.head = matrix(8, 32), matrix(32, 8), nn.Linear(32, 4)
        self.bias = nn.Parameter(torch.randn(32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.head(x + F.linear(F.linear(x, self.down), self.up) + self.bias)


class Kernels(nn.Module):
    """Convolutions and norms by parameters of the module's own, and one kernel for two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.ParameterDict({"a": matrix(16, 3, 3, 3), "b": matrix(16, 1, 3, 3), "c": matrix(16, 24, 2, 2)})
        self.gain, self.offset, self.table = nn.Parameter(torch.rand(16) + 0.5), matrix(16), matrix(24, 24)
        self.register_buffer("middle", torch.randn(16))
        self.register_buffer("spread", torch.rand(16) + 0.5)
        self.head = matrix(4, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.k["a"], padding="same")
        x = F.batch_norm(x, self.middle, self.spread, self.gain, self.offset).relu()  # pyright: ignore[reportArgumentType]
        x = F.conv2d(x, self.k["b"], padding=1, groups=16).relu()
        y = F.conv_transpose2d(x, self.k["c"], stride=2).mean((2, 3))
        return F.linear((y @ self.table + 1).tanh() @ self.table, self.head)


class Vectors(nn.Module):
    """Products with a vector of the module's own: steps are weighed by one that their features are multiplied with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.asked, self.kept = nn.Linear(24, 32), matrix(32), nn.Parameter(torch.rand(7))
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.seen(x).tanh()
        shares = torch.softmax(x @ self.asked, 1)
        return self.head((shares.unsqueeze(-1) * x).sum(1) + torch.matmul(self.kept, x))


class Greatest(nn.Module):
    """Attention to places by the greatest and the mean of all channels (Woo et al. 2018, CBAM)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(2, 1, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        seen = torch.cat([x.max(1, keepdim=True)[0], x.mean(1, keepdim=True)], 1)
        return self.head((x * self.second(seen).sigmoid()).mean((2, 3)))


class Prototypes(nn.Module):
    """Distances to points that were learnt: few, and as many as PyTorch takes products for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.few, self.many = nn.Linear(24, 16), matrix(6, 16), matrix(30, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.seen(x)
        return torch.cat([torch.cdist(x, self.few, p=1), -torch.cdist(x, self.many), torch.cdist(x, self.few)], 1)


CASES = (
    Case("weights: spelled", Spelled, floats(24)),
    Case("weights: left", Left, floats(24, 12)),
    Case("weights: parts", Parts, floats(7, 24)),
    Case("weights: asked", Asked, floats(7, 24)),
    Case("weights: adapted", Adapted, floats(24)),
    Case("weights: kernels", Kernels, floats(3, 10, 10)),
    Case("weights: prototypes", Prototypes, floats(24)),
    Case("weights: vectors", Vectors, floats(7, 24)),
    Case("weights: greatest", Greatest, floats(3, 10, 10)),
)
