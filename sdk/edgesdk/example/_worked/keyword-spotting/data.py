"""Made sounds: a word is three syllables, each of two tones that glide; speakers differ in pitch, pace and noise."""

from itertools import pairwise

import numpy as np
import torch
from net import WORDS
from torch.utils.data import TensorDataset

RATE, LENGTH = 8000, 8000  # samples a second, and of a word
WINDOW, HOP, BANDS = 320, 160, 20
SYLLABLES = np.random.default_rng(7).uniform(250, 2200, (WORDS, 3, 2, 2))  # word, syllable, tone: from and to, in Hz


def say(word: int, rng: np.random.Generator) -> np.ndarray:
    """A second of ``word`` by somebody: float32 of shape (8000,)."""
    pitch, pace = rng.uniform(0.85, 1.18), rng.uniform(0.7, 1.1)
    each = int(LENGTH * pace / 3.4)
    time = np.linspace(0, 1, each)
    parts = []
    for tones in SYLLABLES[word] * pitch:
        glide = tones[:, :1] + (tones[:, 1:] - tones[:, :1]) * time
        wave = np.sin(2 * np.pi * np.cumsum(glide, 1) / RATE + rng.uniform(0, 6, (2, 1))).sum(0)
        parts.append(wave * np.sin(np.pi * time) * rng.uniform(0.4, 1))
    spoken = np.concatenate(parts)
    sound = rng.normal(0, rng.uniform(0.2, 1.0), LENGTH)
    start = rng.integers(0, LENGTH - len(spoken))
    sound[start : start + len(spoken)] += spoken
    return sound.astype(np.float32)


def spectrum(sound: np.ndarray) -> np.ndarray:
    """Logarithms of the power in 20 bands, each an eighth wider than the last: float32 of shape (1, 49, 20)."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW))) ** 2
    edges = np.unique(np.geomspace(4, power.shape[1], BANDS + 1).astype(int))
    edges = np.concatenate([np.arange(edges[0] - (BANDS + 1 - len(edges)), edges[0]), edges])
    bands = np.stack([power[:, low:high].mean(1) for low, high in pairwise(edges)], 1)
    return (np.log(bands + 1e-3) / 4 - 0.5).astype(np.float32)[None]


def words(count: int, seed: int) -> TensorDataset:
    """``count`` spectra and the number of the word in each."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, WORDS, count)
    x = np.stack([spectrum(say(word, rng)) for word in y])
    return TensorDataset(torch.from_numpy(x), torch.from_numpy(y))


def samples() -> tuple[TensorDataset, TensorDataset]:
    """What trains, and what judges."""
    return words(2000, 0), words(600, 1)
