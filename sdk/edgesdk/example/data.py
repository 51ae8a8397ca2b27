"""The built-in example's data and model: a sample of Fashion-MNIST, and ResNet-8 with its weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib.resources import as_file, files

import torch
from torch import Tensor, nn

from edgesdk.data.batches import Augmented
from edgesdk.data.data import Data, load_data
from edgesdk.example.resnet8 import resnet8
from edgesdk.network.load import load_model

PADDING = 2  # pixels that a training image is moved by at most
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
"""As the data set's authors call them."""


def example_data(seed: int = 0) -> Data:
    """5,000 training and 2,000 test images of Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, MIT licence), normalised.

    x is float32 of shape (N, 1, 28, 28), y the class, 0 to 9. Training images are mirrored and moved anew each time.
    """
    with as_file(files("edgesdk.example") / "sample.npz") as path:
        data = load_data(str(path), seed=seed)
    assert data.train is not None and data.normalization is not None
    black = -data.normalization["mean"][0] / data.normalization["std"][0]
    train = MovedImages(data.train, seed, PADDING, black)
    summary = data.description.partition(": ")[2]
    return replace(data, train=train, classes=CLASSES, description=f"the built-in sample of Fashion-MNIST: {summary}")


def example_model() -> nn.Module:
    """ResNet-8 trained on the whole of Fashion-MNIST's training images, in evaluation mode."""
    with as_file(files("edgesdk.example") / "weights.safetensors") as path:
        return load_model(resnet8(), path)


def augmented(x: Tensor, generator: torch.Generator, padding: int = 4, value: float = 0.0) -> Tensor:
    """Each image of ``x``, (N, C, H, W), mirrored with probability 1/2 and moved by up to ``padding`` pixels.

    What comes in at the border is ``value`` (He et al. 2016, section 4.2: four pixels of zeros).
    """
    n, _, h, w = x.shape
    flip = torch.rand(n, generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    padded = nn.functional.pad(x, (padding,) * 4, value=value)
    rows = torch.randint(0, 2 * padding + 1, (n, 1), generator=generator) + torch.arange(h)
    columns = torch.randint(0, 2 * padding + 1, (n, 1), generator=generator) + torch.arange(w)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class MovedImages(Augmented):
    """``batches`` of images that are mirrored and moved anew each time, as :func:`augmented` does it."""

    def __init__(self, batches: Iterable[tuple[Tensor, Tensor]], seed: int, padding: int, value: float) -> None:
        super().__init__(batches, seed)
        self.padding: int = padding
        self.value: float = value

    def change(self, x: Tensor) -> Tensor:
        return augmented(x, self.generator, self.padding, self.value)
