"""A front whose points are built, for tests of how they learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from residual import write_residual

from edgesdk.bundle.bundle import Bundle
from edgesdk.network.load import load_model
from edgesdk.workflows.front import Front
from edgesdk.workflows.sweep import pick_points, sweep

EPOCHS = 6.0


class Drawn:
    """A front of two targets at a profile's prices, and how points of it are built."""

    def __init__(self, folder: Path) -> None:
        self.model = write_residual(folder)[0]
        x = np.random.default_rng(0).standard_normal((480, 3, 16, 16)).astype(np.float32)
        made, self.weights = load_model(self.model).eval(), folder / "weights.pt"
        torch.save(made.state_dict(), self.weights)
        with torch.no_grad():
            self.data = x, made(torch.tensor(x)).argmax(1).numpy()
        targets = ("pi4", "pi5")
        self.front = sweep(self.model, targets, self.data, runtime="onnxruntime", points=3, weights=self.weights)
        self.numbers = sorted(pick_points(self.front, 2))

    def build(self, out: Path, *numbers: int, **more: Any) -> Front:
        more = {"epochs": EPOCHS, "pictures": False, "weights": self.weights, **more}
        return self.front.build(numbers or self.numbers, self.model, self.data, out, **more)

    def list_results(self, front: Front) -> list[Any]:
        """What must be the same however points were built: figures, and files but for when and how long."""
        made = [built for number in self.numbers if (built := front.point(number).built) is not None]
        assert len(made) == len(self.numbers) > 2 and not front.refused
        bundles = [Bundle.open(built.bundle) for built in made]
        files = ("model.onnx", "report.json", "sample.npz")
        digests = [[bundle.manifest["files"][name]["sha256"] for name in files] for bundle in bundles]
        return [(built.plan, built.score, built.cost, own) for built, own in zip(made, digests, strict=True)]
