"""The command line in this process, in a folder of its own with loud models and sound data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import running
from running import Run

MODELS = '''
import os

import torch
from torch import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        print("a word from the model")
        os.write(1, b"a word below Python\\n")
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


class Deep(nn.Sequential):
    def __init__(self):
        convolutions = [(nn.Conv2d(3 if not i else 8, 8, 3, 1, 1), nn.ReLU()) for i in range(4)]
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        super().__init__(*(layer for pair in convolutions for layer in pair), *head)


def broken(outputs, targets):
    """A metric that does not know what it is given."""
    return outputs["logits"].mean()
'''


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and data in it, shared by all that only read there."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "models.py").write_text(MODELS)
    x = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=np.arange(64) % 4)
    return folder


@pytest.fixture(scope="session")
def deployed(given: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A bundle, at a profile's prices, so that nothing is timed; and what its making printed with --json."""
    out = tmp_path_factory.mktemp("deployed") / "bundle"
    data = ("--data", given / "data.npz", "--target", "pi5", "--epochs", "1", "--max-drop", "100")
    done = running.edgesdk("deploy", f"{given / 'models.py'}:Small", *data, "--out", out, "--json")
    assert done.document["path"] == str(out)
    return out, done.out


@pytest.fixture
def edgesdk(given: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in that folder."""
    monkeypatch.chdir(given)
    return running.edgesdk
