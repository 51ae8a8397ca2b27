"""Train networks of the benchmarks on CIFAR-10.

    python tools/train_zoo.py OUT [--models resnet20 resnet14 resnet8 vit] [--data PACKAGE] [--epochs 12]

Writes ``OUT/<model>.safetensors`` and prints the accuracy on the test set; the ResNets unless others are named.
CIFAR-10 is fetched where ``--data`` and ``$EDGESDK_CIFAR`` do not name it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn

import zoo
from cifar import Cifar
from training import Augmented, accuracy, fit, save, train

MODELS = {
    "resnet20": zoo.resnet20, "resnet14": zoo.resnet14, "resnet8": zoo.resnet8, "vit": zoo.vit_small,
    "mobilenet": zoo.mobilenet_v2_small,
}  # fmt: skip
TRANSFORMERS = ("vit",)
RATE, DECAY = 2e-3, 0.05  # of AdamW: SGD does not train attention in a few epochs


def train_transformer(model: nn.Module, batches: Augmented, epochs: int) -> None:
    """Train from scratch: AdamW (Loshchilov and Hutter 2019) under a one-cycle schedule."""
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    steps = epochs * len(batches)
    fit(model, batches, epochs, optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[m for m in MODELS if m not in TRANSFORMERS])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.models:
        torch.manual_seed(options.seed)
        data, model, start = Cifar(options.data, seed=options.seed), MODELS[name](), time.monotonic()
        (train_transformer if name in TRANSFORMERS else train)(model, data.train, options.epochs)
        reached, seconds = accuracy(model, data.test), time.monotonic() - start
        save(model, options.out / f"{name}.safetensors", reached)
        print(f"{name}: test accuracy {reached:.4f} after {options.epochs} epochs, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
