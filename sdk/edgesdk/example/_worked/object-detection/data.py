"""Scenes that are composed of real handwritten digits and of garments, on grounds with other things in the way."""

from pathlib import Path

import numpy as np
import torch
from net import SIDE
from torch.utils.data import TensorDataset

MOST = 24  # objects in a scene
SMALLEST, LARGEST = 24, 64  # pixels
COVERED = 0.15  # how much of the smaller of two objects the other may cover


def resized(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """``image``, (H, W), as (rows, columns), linear in between."""
    x = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
    return torch.nn.functional.interpolate(x, (rows, columns), mode="bilinear", align_corners=False)[0, 0].numpy()


def ground(rng: np.random.Generator, pictures: np.ndarray) -> np.ndarray:
    """Float32 of shape (320, 320): clouds, bars, and pieces of objects."""
    image = rng.uniform(0.1, 0.3) + np.zeros((SIDE, SIDE), np.float32)
    for grid in rng.integers(3, 40, 2):
        image += rng.uniform(0.02, 0.12) * resized(rng.uniform(-1, 1, (grid, grid)), SIDE, SIDE)
    for _ in range(rng.integers(0, 5)):
        top, left = rng.integers(0, SIDE - 20, 2)
        rows, columns = np.exp(rng.uniform(np.log(3), np.log(90), 2)).astype(int)
        image[top : top + rows, left : left + columns] += rng.uniform(-0.2, 0.4)
    for _ in range(rng.integers(0, 5)):
        picture, (top, left) = pictures[rng.integers(len(pictures))], rng.integers(4, 16, 2)
        piece = resized(picture[top : top + 8, left : left + 8] / 255, *rng.integers(12, 48, 2))
        top, left = rng.integers(0, SIDE - 48, 2)
        image[top : top + piece.shape[0], left : left + piece.shape[1]] += rng.uniform(0.3, 0.8) * piece
    return image


def scene(rng: np.random.Generator, pictures: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image, float32 of shape (1, 320, 320), 0 to 1, and its objects, float32 of shape (24, 5): class, left, top,
    right and bottom in pixels; rows of class -1 are none."""
    image, objects = ground(rng, pictures), np.full((MOST, 5), -1, np.float32)
    wanted = rng.integers(10, MOST + 1)
    for placed in range(wanted):
        which = rng.integers(len(pictures))
        size = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))
        stretch = rng.uniform(0.85, 1.18)
        picture = resized(pictures[which] / 255, round(size * stretch), round(size / stretch))
        rows, columns = (np.flatnonzero((picture > 0.2).any(axis)) for axis in (1, 0))
        picture = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        (height, width), taken = picture.shape, objects[:placed]
        for _ in range(12):
            top, left = rng.integers(0, SIDE - height + 1), rng.integers(0, SIDE - width + 1)
            across = np.minimum(taken[:, 3], left + width) - np.maximum(taken[:, 1], left)
            down = np.minimum(taken[:, 4], top + height) - np.maximum(taken[:, 2], top)
            areas = (taken[:, 3] - taken[:, 1]) * (taken[:, 4] - taken[:, 2])
            if (across.clip(0) * down.clip(0) <= COVERED * np.minimum(areas, height * width)).all():
                break
        else:
            break
        opaque, patch = np.minimum(4 * picture, 1), image[top : top + height, left : left + width]
        patch[:] = (1 - opaque) * patch + opaque * (0.15 + rng.uniform(0.5, 0.85) * picture)
        objects[placed] = classes[which], left, top, left + width, top + height
    image += 0.03 * rng.standard_normal(image.shape, np.float32)
    return image.clip(0, 1)[None], objects


def scenes(count: int, seed: int, pictures: np.ndarray, classes: np.ndarray) -> TensorDataset:
    """``count`` of them."""
    rng = np.random.default_rng(seed)
    x, y = zip(*(scene(rng, pictures, classes) for _ in range(count)), strict=True)
    return TensorDataset(torch.from_numpy(np.stack(x)), torch.from_numpy(np.stack(y)))


def kept(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 28, 28) and their classes (N,), uint8, that are to "train" or to "test"."""
    with np.load(Path(__file__).parent / "pictures.npz") as arrays:
        return arrays[f"{part}_pictures"], arrays[f"{part}_classes"]


def samples() -> tuple[TensorDataset, TensorDataset]:
    """What trains, and what judges: of pictures that are in no scene that trains."""
    return scenes(384, 0, *kept("train")), scenes(192, 1, *kept("test"))
