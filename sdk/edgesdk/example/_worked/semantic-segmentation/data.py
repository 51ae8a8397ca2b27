"""Made scenes: disks, squares and crosses of any colour, one above the other, on a ground with a texture."""

import numpy as np
import torch
from torch.utils.data import TensorDataset

SIDE = 48


def scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image, float32 of shape (3, 48, 48), and the class of each pixel, int64 of shape (48, 48)."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    waves = np.sin(rows * rng.uniform(0.05, 0.6) + columns * rng.uniform(0.05, 0.6) + rng.uniform(0, 6))
    image = rng.uniform(-0.6, 0.6, (3, 1, 1)) + 0.3 * rng.uniform(-1, 1, (3, 1, 1)) * waves
    classes = np.zeros((SIDE, SIDE), np.int64)
    for _ in range(rng.integers(2, 6)):
        kind, radius = rng.integers(1, 4), rng.uniform(5, 11)
        down, right = np.abs(rows - rng.uniform(4, SIDE - 4)), np.abs(columns - rng.uniform(4, SIDE - 4))
        inside = (
            down**2 + right**2 < radius**2,
            np.maximum(down, right) < 0.85 * radius,
            (np.minimum(down, right) < 0.3 * radius) & (np.maximum(down, right) < radius),
        )[kind - 1]
        image = np.where(inside, rng.uniform(-1, 1, (3, 1, 1)), image)
        classes[inside] = kind
    return (image + rng.normal(0, 0.15, image.shape)).astype(np.float32), classes


def scenes(count: int, seed: int) -> TensorDataset:
    """``count`` of them."""
    rng = np.random.default_rng(seed)
    x, y = zip(*(scene(rng) for _ in range(count)), strict=True)
    return TensorDataset(torch.from_numpy(np.stack(x)), torch.from_numpy(np.stack(y)))


def samples() -> tuple[TensorDataset, TensorDataset]:
    """What trains, and what judges."""
    return scenes(600, 0), scenes(200, 1)
