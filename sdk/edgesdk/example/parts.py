"""Small networks by which ``edgesdk calibrate`` knows a machine: some are fitted, others only judge the fit.

``FITTED`` are made of what no probe can time alone: attention, norms, functions, recurrent layers, copies. ``JUDGES``
are whole networks of the kinds that people put onto small devices; none of their figures is fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgesdk.example.resnet8 import ResNet8


@dataclass(frozen=True)
class Part:
    """A network and the shape of its input without the batch; ``make`` gives it with random weights."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


class Attention(nn.Module):
    """Multi-head self-attention over tokens of shape (N, tokens, dim) (Vaswani et al. 2017, section 3.2.2)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv: nn.Linear = nn.Linear(dim, 3 * dim)
        self.projection: nn.Linear = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.projection(mixed.transpose(1, 2).reshape(n, tokens, -1))


class Encoder(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim: int, heads: int, widening: int) -> None:
        super().__init__()
        self.norm1: nn.LayerNorm = nn.LayerNorm(dim)
        self.norm2: nn.LayerNorm = nn.LayerNorm(dim)
        self.attention: Attention = Attention(dim, heads)
        self.mlp: nn.Sequential = nn.Sequential(
            nn.Linear(dim, widening * dim), nn.GELU(), nn.Linear(widening * dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Recurrent(nn.Module):
    """A recurrent layer over signals of shape (N, steps, inputs), its last state read by a linear layer."""

    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM], inputs: int, hidden: int) -> None:
        super().__init__()
        self.layer: nn.GRU | nn.LSTM = kind(inputs, hidden, batch_first=True)
        self.fc: nn.Linear = nn.Linear(hidden, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer(x)[0][:, -1])


class Gated(nn.Module):
    """Convolutions whose functions runtimes do not fuse, and their outputs side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first: nn.Conv2d = nn.Conv2d(3, channels, 3, 1, 1)
        self.left: nn.Conv2d = nn.Conv2d(channels, channels, 1)
        self.right: nn.Conv2d = nn.Conv2d(channels, channels, 1)
        self.last: nn.Conv2d = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.first(x))
        x = torch.cat([torch.tanh(self.left(x)), torch.sigmoid(self.right(x))], 1)
        return self.last(x).mean((2, 3))


class Separable(nn.Module):
    """Depthwise and pointwise convolutions in turns (Howard et al. 2017)."""

    def __init__(self, channels: int, blocks: int, inputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(inputs, channels, 3, 2, 1), nn.ReLU()]
        for index in range(blocks):
            wider = channels * (2 if index % 2 else 1)
            layers += [nn.Conv2d(channels, channels, 3, 1 + index % 2, 1, groups=channels), nn.ReLU()]
            layers += [nn.Conv2d(channels, wider, 1), nn.ReLU()]
            channels = wider
        self.features: nn.Sequential = nn.Sequential(*layers)
        self.fc: nn.Linear = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(nn.functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class Tokens(nn.Module):
    """Patches of an image through transformer blocks; the tokens are averaged (Dosovitskiy et al. 2021)."""

    def __init__(self, dim: int, heads: int, blocks: int, patch: int) -> None:
        super().__init__()
        self.patches: nn.Conv2d = nn.Conv2d(3, dim, patch, patch)
        self.blocks: nn.Sequential = nn.Sequential(*(Encoder(dim, heads, 2) for _ in range(blocks)))
        self.norm: nn.LayerNorm = nn.LayerNorm(dim)
        self.fc: nn.Linear = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.blocks(self.patches(x).flatten(2).transpose(1, 2))).mean(1))


class Signal(nn.Module):
    """1-D convolutions, then an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.first: nn.Conv1d = nn.Conv1d(6, 32, 5, 2, 2)
        self.second: nn.Conv1d = nn.Conv1d(32, 48, 3, 2, 1)
        self.tail: Recurrent = Recurrent(nn.LSTM, 48, 48)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(torch.relu(self.second(torch.relu(self.first(x)))).transpose(1, 2))


def _norms(dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, dim), *(nn.LayerNorm(dim) for _ in range(6)), nn.Linear(dim, 8))


def _functions(dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, dim), *(nn.GELU() for _ in range(6)), nn.Linear(dim, 8))


def _attention(dim: int, heads: int) -> nn.Module:
    return nn.Sequential(*(Attention(dim, heads) for _ in range(2)))


FITTED = (
    Part("encoder 48", lambda: Encoder(48, 3, 4), (36, 48)),
    Part("gru 32", lambda: Recurrent(nn.GRU, 32, 32), (24, 32)),
    Part("separable", lambda: Separable(16, 2, 3), (3, 32, 32)),
    Part("gated 16", lambda: Gated(16), (3, 24, 24)),
    Part("encoder 96", lambda: Encoder(96, 3, 4), (49, 96)),
    Part("encoder 128", lambda: Encoder(128, 4, 2), (100, 128)),
    Part("attention 32", lambda: _attention(32, 2), (64, 32)),
    Part("attention 80", lambda: _attention(80, 5), (40, 80)),
    Part("norms 64", lambda: _norms(64), (48, 64)),
    Part("norms 192", lambda: _norms(192), (96, 192)),
    Part("functions 64", lambda: _functions(64), (48, 64)),
    Part("functions 192", lambda: _functions(192), (96, 192)),
    Part("gru 48", lambda: Recurrent(nn.GRU, 48, 48), (64, 48)),
    Part("gru 96", lambda: Recurrent(nn.GRU, 64, 96), (40, 64)),
    Part("gru 128", lambda: Recurrent(nn.GRU, 96, 128), (16, 96)),
    Part("lstm 64", lambda: Recurrent(nn.LSTM, 32, 64), (48, 32)),
    Part("gated 48", lambda: Gated(48), (3, 16, 16)),
)

JUDGES = (
    Part("residual", lambda: ResNet8(3), (3, 32, 32)),
    Part("depthwise", lambda: Separable(24, 5, 1), (1, 48, 48)),
    Part("attention", lambda: Tokens(80, 4, 2, 5), (3, 40, 40)),
    Part("recurrent", Signal, (6, 96)),
)
