"""A network of a user's own for whole deployments: small, and with what the built-in example has."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SOURCE = """
import torch
from torch import nn

class Residual(nn.Module):  # a branch that may be left out, BatchNorm, channels that are cut together
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1))
        self.fc = nn.Linear(16, 4)
    def forward(self, x):
        x = self.stem(x)
        return self.fc(torch.relu(x + self.branch(x)).mean((2, 3)))
"""


def write_data(folder: Path) -> Path:
    """Images of noise, (96, 3, 16, 16), of four classes, too few to hold chance against a model."""
    x = np.random.default_rng(0).standard_normal((96, 3, 16, 16)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=np.arange(96) % 4)
    return folder / "data.npz"


def write_residual(folder: Path) -> tuple[str, ...]:
    """The network and data for it in ``folder``: what the command line is told of them."""
    (folder / "residual.py").write_text(SOURCE)
    return f"{folder / 'residual.py'}:Residual", "--data", str(write_data(folder))
