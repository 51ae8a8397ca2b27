"""Data that a bundle is verified with later are read as for the deployment: pixels prepared, targets by its metric."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgesdk
from edgesdk.workflows.bundle_data import load_for

PIXELS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "channel_order": "BGR"}


class Net(nn.Module):
    """Figures of an image (N, 3, 12, 12)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu().mean((2, 3)))


def classes() -> tuple[Any, dict[str, Any]]:
    x = (np.random.default_rng(0).random((160, 3, 12, 12)) ** 2 * 255).astype(np.uint8)
    pixels = torch.from_numpy(x).flip(1).float() / 255
    mean, std = (torch.tensor(PIXELS[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        answers = Net()((pixels - mean) / std)
    y = (answers - answers.mean(0)).argmax(1).numpy()
    return (x, y), {"preprocess": PIXELS, "force": True}


def figures() -> tuple[Any, dict[str, Any]]:
    x = torch.randn(128, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pairs = [(part, Net()(part)) for part in x.split(64)]
    return SimpleNamespace(train=None, calibration=pairs[:1], test=pairs[1:]), {"metric": "mse"}


@pytest.mark.parametrize("given", [classes, figures])
def test_a_bundle_is_verified_and_told_apart_with_the_data_of_its_deployment(given: Any, tmp_path: Path) -> None:
    """Pixels came as 0 to 1, whatever the deployment had made of them, and targets of a regression were refused."""
    data, more = given()
    size = edgesdk.Budget(size_bytes=1e6)
    made = edgesdk.deploy(
        Net(), data=data, target="pi4", budget=size, epochs=0, precision="int8", out=tmp_path / "b", **more
    )
    seen = edgesdk.verify(made.path, model=Net(), data=data).against_model
    own = edgesdk.verify(made.path, model=Net()).against_model
    assert seen is not None and own is not None and seen.samples > own.samples
    assert max(seen.errors.values()) <= 2 * seen.deployment_saw
    assert float(load_for(made, data).test[0][0].amin()) < -1  # as nothing but prepared pixels are
    with pytest.raises(edgesdk.EdgeSdkError):
        edgesdk.verify(made.path, model=nn.Sequential(Net(), nn.ReLU()), data=data)
