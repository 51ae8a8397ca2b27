"""Recreate the built-in example: ResNet-8 trained on Fashion-MNIST, and the samples that travel with it.

    apt-get install dataset-fashion-mnist
    python tools/make_example.py [--data /usr/share/datasets/fashion-mnist] [--epochs 40] [--out sdk/edgesdk/example]

Fashion-MNIST: Xiao, Rasul, Vollgraf 2017, MIT licence. Writes ``weights.safetensors`` and ``sample.npz`` and prints
the accuracy on the whole test set.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgesdk.example.resnet8 import resnet8
from training import Augmented, InOrder, accuracy, save, train

MEAN, STD = 0.2860, 0.3530  # of the training images, scaled to 0..1
TRAIN_PER_CLASS, TEST_PER_CLASS = 500, 200


def read_idx(path: Path) -> np.ndarray:
    """The array in one gzipped IDX file (http://yann.lecun.com/exdb/mnist)."""
    raw = gzip.decompress(path.read_bytes())
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def load(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")[:, None]
    return images, read_idx(folder / f"{part}-labels-idx1-ubyte.gz").astype(np.int64)


def normalised(images: np.ndarray) -> Tensor:
    return (torch.from_numpy(images.copy()).float() / 255 - MEAN) / STD


def stratified(y: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    rows = [generator.permutation(np.flatnonzero(y == label))[:per_class] for label in np.unique(y)]
    return np.sort(np.concatenate(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "sdk/edgesdk/example")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    (images, labels), (test_images, test_labels) = load(options.data, "train"), load(options.data, "t10k")
    model = resnet8()
    x, y = normalised(images), torch.from_numpy(labels)
    train(model, Augmented(x, y, 256, options.seed, padding=2, value=-MEAN / STD), options.epochs)
    reached = accuracy(model, InOrder(normalised(test_images), torch.from_numpy(test_labels), 1000))

    save(model, options.out / "weights.safetensors", reached)
    rows, test_rows = stratified(labels, TRAIN_PER_CLASS, 0), stratified(test_labels, TEST_PER_CLASS, 0)
    np.savez_compressed(
        options.out / "sample.npz",
        x=images[rows],
        y=labels[rows],
        x_test=test_images[test_rows],
        y_test=test_labels[test_rows],
        mean=np.array([MEAN], np.float32),
        std=np.array([STD], np.float32),
    )
    print(f"accuracy on the {len(test_labels)} test images: {reached:.4f}")
    for name in ("weights.safetensors", "sample.npz"):
        print(f"{name}: {(options.out / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
