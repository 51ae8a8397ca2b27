"""A network of a user's own to whom every bit counts: untrained, and judged by how often it decides as before."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SOURCE = """
import torch
from torch import nn

class Chain(nn.Sequential):  # no branch to leave out, no norm, and most of its weights in the head
    def __init__(self):
        torch.manual_seed(0)
        body = nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()
        super().__init__(*body, nn.Flatten(), nn.Linear(512, 10))
"""
DENSE_BYTES = 42_000  # of its ONNX file, about


def write_chain(folder: Path, samples: int = 200) -> tuple[str, ...]:
    """The network and images of noise without labels in ``folder``: what the command line is told of them."""
    (folder / "chain.py").write_text(SOURCE)
    x = np.random.default_rng(0).standard_normal((samples, 3, 16, 16)).astype(np.float32)
    np.savez(folder / "chain.npz", x=x)
    return f"{folder / 'chain.py'}:Chain", "--data", str(folder / "chain.npz")
