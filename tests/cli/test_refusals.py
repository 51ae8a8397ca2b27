"""What is refused, and what is said of what is not: provoked by small models, word for word in golden/refusals.txt and
golden/remarks.txt."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import Ended, Run, still
from test_golden import agrees

from edgesdk.network.load import load_callable

MODELS = """
import torch
from torch import nn

class Sound(nn.Module):  # the class is the channel with the largest mean
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 16, 1), nn.Linear(16, 3)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[:3, :, 0, 0] = torch.eye(3)
            self.fc.weight.mul_(0.01)[:, :3] += torch.eye(3)
            self.fc.bias.zero_()
    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

class Dropping(Sound):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.1)

class Noisy(Sound):
    def forward(self, x):
        return super().forward(x + torch.rand_like(x))

class Counting(Sound):
    calls = 0
    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.calls

class Growing(Sound):
    calls = 0
    def forward(self, x):
        self.calls += 1
        return (super().forward(x),) * (1 + self.calls % 2)

class Alone(Sound):
    def forward(self, x):
        return (super().forward(x),) * (1 + (len(x) == 1))

class Centred(Sound):
    def forward(self, x):
        return super().forward(x - x.mean(0))

class Statistics(Sound):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)
    def forward(self, x):
        return super().forward(self.norm(x))

class Squeezing(Sound):
    def forward(self, x):
        return super().forward(x).squeeze()

class Tracing(Sound):  # does otherwise while it is traced
    def forward(self, x):
        return super().forward(x) * (2 if torch.compiler.is_exporting() else 3) + x.mean((2, 3))

class Two(Sound):
    def forward(self, x):
        y = super().forward(x)
        return {"logits": y, "again": y * 2}

class Column(Sound):  # (N, 1) beside targets of (N,)
    def forward(self, x):
        return super().forward(x)[:, :1]

class Chance(Sound):
    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.conv.weight.copy_(torch.randn(16, 3, 1, 1) * 0.02)
            self.fc.weight.copy_(torch.randn(3, 16))

class Constant(Sound):
    def forward(self, x):
        return super().forward(x * 0)

class NotANumber(Sound):
    def forward(self, x):
        return torch.log(super().forward(x) - 1e3)

class Infinite(Sound):
    def forward(self, x):
        return super().forward(x) / 0

class Sick(Sound):
    def __init__(self):
        super().__init__()
        self.fc.weight.data[0, 0] = float("nan")

class Wide(Sound):  # much in three layers, which integers store in less, and run no faster
    def __init__(self):
        super().__init__()
        self.wide = nn.Sequential(nn.Linear(3, 64), nn.Linear(64, 64), nn.Linear(64, 3))
        with torch.no_grad():
            for layer in self.wide:
                layer.weight.mul_(0.3)
    def forward(self, x):
        y = super().forward(x)
        return y + 0.01 * self.wide(y)

class Sorted(Sound):  # channels that no longer are where they were made
    def forward(self, x):
        y = super().forward(x)
        return y + 0.01 * torch.relu(self.conv(x)).sort(1).values.mean((2, 3))[:, :3]

class Beside(Sound):
    def forward(self, x):
        return {"map": torch.relu(self.conv(x)), "logits": super().forward(x), "size": 8, "none": None}

class Longer(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.more = nn.Conv2d(3, 16, 1), nn.Linear(16, 3), nn.Linear(3, 3)
    def forward(self, x):
        return self.more(self.fc(torch.relu(self.conv(x)).mean((2, 3))))
"""
RANDOM = ("Dropping", "Noisy", "Counting", "Growing", "Alone", "Centred", "Statistics", "Squeezing", "Tracing")
SENSELESS = ("Chance", "Constant", "NotANumber", "Infinite", "Sick")
REFUSED: dict[str, tuple[str, ...]] = {
    **{name: (name, "--output", "0") if name == "Growing" else (name,) for name in RANDOM},
    "none of several outputs is named": ("Two",),
    "an output that there is not": ("Two", "--output", "scores"),
    "one figure where there are classes": ("Column",),
    "targets that would be repeated": ("Column", "--data", "means.npz", "--metric", "mse"),
    "targets of one figure for several": ("Sound", "--data", "means.npz", "--metric", "mse"),
    "labels that the model does not have": ("Sound", "--data", "seven.npz"),
    "one label alone": ("Sound", "--data", "alike.npz"),
    "fewer labels than samples": ("Sound", "--data", "short.npz"),
    "NaN in the data": ("Sound", "--data", "nan.npz"),
    **{name: (name,) for name in SENSELESS},
    "below what is said of it": ("Sound", "--data", "muddled.npz", "--accuracy", "90"),
    "labels in another order": ("Sound", "--data", "renumbered.npz"),
    "pixels as they are": ("Sound", "--data", "pixels.npz"),
    "pixels of another range": ("Sound", "--data", "pixels.npz", "--input-range", "0,1"),
    "a key that preprocessing has not": ("Sound", "--data", "pixels.npz", "--preprocess", "keys.toml"),
    "a mean of two channels": ("Sound", "--data", "pixels.npz", "--preprocess", "two.toml"),
    "images of two sizes": ("Sound", "--data", "images", "--input-range", "0,255"),
    "weights that lack": ("Longer", "--weights", "net.pt"),
    "weights of another shape": ("Sound", "--weights", "shape.pt"),
    "weights that are none": ("Sound", "--weights", "none.pt"),
    "weights that are not there": ("Sound", "--weights", "gone.pt"),
    "size": ("Sound", "--size", "100B"),
    "latency": ("Sound", "--latency", "1us"),
    "peak memory": ("Sound", "--peak-memory", "1kB"),
}
SAID: dict[str, tuple[str, ...]] = {
    "weights that are left over": ("Sound", "--weights", "more.pt", "--size", "1MB"),
    "weights in a checkpoint": ("Sound", "--weights", "wrapped.pt", "--size", "1MB"),
    "channels that are left whole": ("Sorted", "--size", "1MB"),
    "the one of several outputs that fits": ("Beside", "--size", "1MB"),
    "a figure that nobody bounded": ("Wide", "--size", "18kB"),
    "a recovery that made things worse": ("Wide", "--size", "8.5kB", "--epochs", "3", "--recover", "hot.toml"),
    "a sample far beyond the others": ("Sound", "--data", "outlier.npz", "--size", "1MB"),
    "files that are no images": ("Sound", "--data", "folder", "--input-range", "0,255", "--size", "1MB"),
    "a budget that nobody gave": ("Sound",),
}


LEARNT = re.compile(r"scored \d+\.\d+")  # which another processor learns otherwise


@pytest.fixture
def here(edgesdk: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(MODELS)
    write_data()
    write_weights()
    return edgesdk


def write_data() -> None:
    """Samples whose class is the channel with the largest mean, in many ways that are wrong."""
    y = np.arange(160) % 3
    x = (np.random.default_rng(0).standard_normal((160, 3, 8, 8)) * 0.3 + 0.2).astype(np.float32)
    x[np.arange(160), y] += 1
    pixels = np.clip(x * 60 + 80, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    nan, outlier, muddled = x.copy(), x.copy(), y.copy()
    nan[5, 0, 0, 0] = np.nan
    outlier[20:24] *= 1e6
    muddled[::4] = (y[::4] + 1) % 3
    for name, given, labels in (
        ("data", x, y), ("means", x, x.mean((1, 2, 3))), ("alike", x, y * 0), ("seven", x, np.arange(160) % 7),
        ("short", x, y[:100]), ("nan", nan, y), ("outlier", outlier, y), ("muddled", x, muddled),
        ("renumbered", x, (y + 1) % 3), ("pixels", pixels, y),
    ):  # fmt: skip
        np.savez(f"{name}.npz", x=given, y=labels)
    Path("hot.toml").write_text("rate = 30.0\n")  # with which nothing is learnt
    Path("keys.toml").write_text("input_range = [0, 1]\nmeann = [0.5]\n")
    Path("two.toml").write_text("input_range = [0, 1]\nmean = [0.5, 0.5]\nstd = [0.5, 0.5]\n")
    for place in ("images", "folder"):
        for number, image in enumerate(pixels):
            path = Path(place, "abc"[y[number]], f"{number:03}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save("images/c/odd.png")
    Path("folder/a/notes.txt").write_text("no image")


def write_weights() -> None:
    """Those of the sound model, with a key more, of another shape, and none."""
    state = load_callable("nets.py:Sound", "MODEL")().state_dict()
    torch.save(state, "net.pt")
    torch.save({**state, "head.weight": torch.zeros(3), "head.bias": torch.zeros(3)}, "more.pt")
    torch.save({**state, "fc.weight": torch.zeros(4, 16)}, "shape.pt")
    torch.save({"epoch": 3}, "none.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, "wrapped.pt")


def asked(run: Run, command: str, model: str, *words: str) -> Ended:
    data = () if "--data" in words else ("--data", "data.npz")
    return run(command, f"nets.py:{model}", *data, *words, "--target", "pi5")


def test_each_refusal_says_why(here: Run) -> None:
    told = {}
    for name, (model, *words) in REFUSED.items():
        bound = () if {"--size", "--latency", "--peak-memory"} & set(words) else ("--size", "1MB")
        done = asked(here, "search", model, *words, *bound, "--out", "plan.json", "-q")
        assert not Path("plan.json").exists(), f"{name} is not refused"
        told[name] = done.refusal
    agrees("refusals.txt", "".join(f"{name}: {line}\n" for name, line in told.items()))


def test_a_cache_that_cannot_be_written_is_named(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").write_text("no folder")
    monkeypatch.setenv("EDGESDK_CACHE", "file/cache")
    done = asked(here, "search", "Sound", "--size", "1MB", "--out", "plan.json", "-q")
    agrees("cache.txt", f"{done.refusal}\n")


def test_what_was_left_out_or_left_as_it_is_is_said(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # so that no note is broken into lines
    told = ""
    for name, (model, *words) in SAID.items():
        untrained = () if "--epochs" in words else ("--epochs", "0")
        done = asked(here, "deploy", model, *words, *untrained, "--out", "bundle", "--force", "-v")
        assert done.code == 0, done.err
        verdict, *rest = done.out.splitlines()
        lines = [LEARNT.sub("scored #", still(line)) for line in (*done.err.splitlines(), *rest)]
        notes = dict.fromkeys(line for line in lines if line.startswith(("note: ", "channels of ")))
        told += "\n".join((f"{name}: {still(verdict)}", *(f"  {note}" for note in notes), ""))
    agrees("remarks.txt", told)
