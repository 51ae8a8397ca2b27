"""What the maintainers' scripts share to train image classifiers: augmented batches, the training loop, accuracy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgesdk.example.data import augmented

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class Augmented:
    """Batches of ``x`` and ``y``, shuffled and augmented anew each time; a last short one is left out."""

    def __init__(self, x: Tensor, y: Tensor, batch: int, seed: int, padding: int = 4, value: float = 0.0) -> None:
        self.x, self.y, self.batch, self.padding, self.value = x, y, batch, padding, value
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.x) // self.batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(self.x), generator=self.generator)[: len(self) * self.batch].split(self.batch):
            yield augmented(self.x[rows], self.generator, self.padding, self.value), self.y[rows]


class InOrder:
    """Batches of ``x`` and ``y`` as they are, the last one perhaps shorter."""

    def __init__(self, x: Tensor, y: Tensor, batch: int) -> None:
        self.x, self.y, self.batch = x, y, batch

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.x.split(self.batch), self.y.split(self.batch), strict=True)


def smoothed(logits: Tensor, images: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy with the labels smoothed by 0.05 (Szegedy et al. 2016, section 7); the images are not used."""
    return nn.functional.cross_entropy(logits, y, label_smoothing=0.05)


def sgd(model: nn.Module, rate: float) -> torch.optim.SGD:
    """SGD with Nesterov momentum 0.9 and weight decay 5e-4."""
    return torch.optim.SGD(model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=5e-4)


def fit(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    epochs: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    loss: Loss = smoothed,
) -> None:
    """Train ``model`` in bf16 autocast, one step of ``schedule`` per batch; the loss of each epoch goes to stderr."""
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for epoch in range(epochs):
        total, steps = 0.0, 0
        for images, y in batches:
            images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images)
            value = loss(logits.float(), images, y)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            total, steps = total + value.item(), steps + 1
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}", file=sys.stderr, flush=True)


def train(model: nn.Module, batches: Augmented, epochs: int, rate: float = 0.2) -> None:
    """Train from scratch: SGD under a one-cycle schedule that peaks at ``rate`` (Smith and Topin 2019)."""
    optimizer, steps = sgd(model, rate), epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    fit(model, batches, epochs, optimizer, schedule)


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The share of ``batches`` that ``model`` classifies right, 0 to 1."""
    model.eval()
    return float(torch.cat([model(x).argmax(1).eq(y) for x, y in batches]).float().mean())


def save(model: nn.Module, path: Path, test_accuracy: float) -> None:
    """Write the weights as safetensors, with ``test_accuracy`` in the metadata."""
    state = {name: value.contiguous() for name, value in model.state_dict().items() if "num_batches" not in name}
    save_file(state, path, metadata={"test_accuracy": f"{test_accuracy:.4f}"})
