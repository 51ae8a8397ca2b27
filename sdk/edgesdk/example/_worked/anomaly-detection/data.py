"""Made machines: a shaft's harmonics that rise and fall with its load, in noise; some have a bearing that rings."""

import numpy as np
import torch
from net import BANDS, STEPS
from torch.utils.data import TensorDataset


def machine(broken: bool, rng: np.random.Generator) -> np.ndarray:
    """Logarithms of the power of a machine's sound: float32 of shape (5, 64), steps of time by bands."""
    bands, load = np.arange(BANDS), rng.uniform(0.5, 1) + 0.1 * np.sin(np.arange(STEPS) + rng.uniform(0, 6))
    turns = rng.uniform(4, 7)
    power = np.zeros((STEPS, BANDS))
    for harmonic in range(1, 8):
        place = turns * harmonic * (0.9 + 0.1 * load)
        power += load[:, None] ** harmonic * np.exp(-((bands - place[:, None]) ** 2) / 2)
    if broken:
        ringing = rng.uniform(20, 60) + rng.uniform(-1, 1, (STEPS, 1))
        power += rng.uniform(0.05, 0.5) * np.exp(-((bands - ringing) ** 2) / 8) * rng.uniform(0, 1, (STEPS, 1))
    return np.log(power + 0.05 * rng.gamma(20, 1 / 20, power.shape)).astype(np.float32)


def machines(count: int, broken: float, seed: int) -> TensorDataset:
    """x of shape (N, 320); targets of shape (N, 321): x, which is to be repeated, and 1 where the machine is broken."""
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < broken
    x = np.stack([machine(label, rng).reshape(-1) for label in labels])
    targets = np.concatenate([x, labels[:, None]], 1, dtype=np.float32)
    return TensorDataset(torch.from_numpy(x), torch.from_numpy(targets))


def samples() -> tuple[TensorDataset, TensorDataset]:
    """What trains, all of it sound; and what judges, half of it broken."""
    return machines(4000, 0, 0), machines(800, 0.5, 1)
