"""Who is blamed: each message names the cause, word for word in golden/blame.txt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from running import Run
from test_golden import agrees

MODELS = """
import torch
from torch import nn

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.fc = nn.Linear(8, 4)
    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

class FixedBatch(Base):  # forward() fixes the batch, in its way
    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)).reshape(1, 8))

class FixedSixteen(Base):  # the number that it was trained with
    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)).view(16, 8))

class LastChannels(Base):
    def forward(self, x):
        return super().forward(x.permute(0, 3, 1, 2))

class OneAtATime(Base):
    def forward(self, x):
        assert x.shape[0] == 1, "one image at a time"
        return super().forward(x)

class Squeezed(Base):
    def forward(self, x):
        return super().forward(x[0].reshape(1, 3, 8, 8) + x.reshape(3, 8, 8)[None])

class Remembering(Base):  # keeps a state from call to call
    def __init__(self):
        super().__init__()
        self.register_buffer("state", torch.zeros(1, 4))
    def forward(self, x):
        self.state = self.state * 0.5 + super().forward(x)
        return self.state

class TwoInputs(Base):
    def forward(self, x, other):
        return super().forward(x) + other

class Misspelt(Base):
    def forward(self, x):
        return self.fcc(x)

class Unwell(Base):
    def forward(self, x):
        raise ValueError("I do not feel well")

class Gpu(Base):
    def forward(self, x):
        return super().forward(x.cuda())

class Half(Base):
    def __init__(self):
        super().__init__()
        self.half()

class Mixed(Base):  # one layer alone
    def __init__(self):
        super().__init__()
        self.fc.half()

class Gray(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
    def forward(self, x):
        return self.conv(x).mean((2, 3))

class Large(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 28 * 28, 4)
    def forward(self, x):
        return self.fc(x.flatten(1))

class Args(Base):
    def __init__(self, width):
        super().__init__()

def script(): return torch.jit.script(Base())
def quantized():
    return torch.ao.quantization.quantize_dynamic(Base(), {nn.Linear})
def meta():
    with torch.device("meta"):
        return Base()
def missing_file():
    raise FileNotFoundError(2, "No such file or directory", "weights/best.pt")
def compiled(): return torch.compile(Base())
def parallel(): return nn.DataParallel(Base())
"""
FACES = (
    "FixedBatch", "FixedSixteen", "OneAtATime", "Squeezed", "Remembering", "TwoInputs", "Misspelt", "Unwell", "Gpu",
    "Half", "Mixed", "Gray", "Large", "Args", "script", "quantized", "meta", "missing_file",
)  # fmt: skip


@pytest.fixture
def here(edgesdk: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(MODELS)
    x = np.random.default_rng(0).standard_normal((96, 3, 8, 8)).astype(np.float32)
    np.savez("data.npz", x=x, y=np.arange(96) % 4)
    np.savez("last.npz", x=x.transpose(0, 2, 3, 1), y=np.arange(96) % 4)
    pixels = np.random.default_rng(1).integers(0, 256, (96, 8, 8, 3), np.uint8)
    np.savez("pixels.npz", x=pixels, y=np.arange(96) % 4)
    return edgesdk


def searched(run: Run, model: str, data: str = "data.npz") -> str:
    done = run("search", model, "--data", data, "--target", "pi5", "--size", "1MB", "--out", "plan.json", "-q")
    assert done.code in (3, 4), done.err
    assert not Path("plan.json").exists()
    return done.refusal


def estimated(run: Run, model: str, shape: str) -> str:
    done = run("estimate", model, "--shape", shape, "--target", "pi5", "-q")
    return done.refusal


def test_each_names_the_cause(here: Run) -> None:
    told = {name: searched(here, f"nets.py:{name}") for name in FACES}
    told["channels last"] = searched(here, "nets.py:Base", "last.npz")
    told["model of channels last"] = searched(here, "nets.py:LastChannels", "pixels.npz")
    for name in ("net.onnx", "net.pt", "net.safetensors", "net.tflite", "net.py"):
        told[name] = searched(here, name)
    for name, shape in (("Half", "3x8x8"), ("Mixed", "3x8x8"), ("Half", "3x8x8:float16")):
        told[f"{name} {shape}"] = estimated(here, f"nets.py:{name}", shape)
    said = "".join(f"{name}: {line}\n" for name, line in told.items())
    agrees("blame.txt", said)
    blames_data = {name for name, line in told.items() if line.startswith("4 ")}
    apart = {"TwoInputs", "Gray", "Large", "channels last", "model of channels last"}
    assert blames_data == apart  # where model and data do not belong together
    assert "maintainer" not in said and "defect" not in said


@pytest.mark.parametrize("name", ["compiled", "parallel"])
def test_what_is_put_around_a_module_comes_off(given: Path, name: str, tmp_path: Path) -> None:
    from edgesdk.network.load import load_model

    (tmp_path / "nets.py").write_text(MODELS)
    model = load_model(f"{tmp_path / 'nets.py'}:{name}")
    assert type(model).__name__ == "Base" and "conv.weight" in model.state_dict()
