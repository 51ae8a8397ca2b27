"""Every command takes a model in every way that there is: code, ONNX, an exported program, timm, transformers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from given import edgesdk, refused
from slow import core

from edgesdk.network.hub import alone, import_library
from edgesdk.network.load import load_model

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.deep, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(8, 4)
    def forward(self, image):
        return self.fc(torch.relu(self.deep(torch.relu(self.conv(image)))).mean((2, 3)))

def make():
    torch.manual_seed(1)
    return Net()
"""
TEXT = """
import torch

class Texts:
    def __init__(self):
        ids = torch.randint(0, 40, (96, 16), generator=torch.Generator().manual_seed(0))
        mask, y = torch.ones_like(ids), torch.arange(96) % 4
        batches = zip(ids.split(16), mask.split(16), y.split(16))
        parts = [({"input_ids": a, "attention_mask": b}, c) for a, b, c in batches]
        self.train, self.calibration, self.test = parts[:3], parts[3:4], parts[4:]
"""
IMAGES = ("images.npz", ("--shape", "3x32x32"))
TEXTS = ("text.py:Texts", ("--shape", "input_ids=16:int64", "--shape", "attention_mask=16:int64"))
WAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "net.py:make": IMAGES, "own.net:make": IMAGES, "old.onnx": IMAGES, "beside.onnx": IMAGES, "net.pt2": IMAGES,
    "timm:test_resnet?num_classes=4": IMAGES, "vit": IMAGES, "resnet": IMAGES, "bert": TEXTS,
}  # fmt: skip
"""Of each way its data, and the shapes that it needs where there are none."""
REFUSED = {("ensemble", "bert"): "the model takes more than one input"}
COMMANDS = (
    "estimate", "search", "sweep", "deploy", "export", "sparsify", "transfer", "ensemble", "stages", "benchmark", "init"
)  # fmt: skip
QUICK = {  # a command for a way each, beside those of other tests; and what takes no time
    ("deploy", "beside.onnx"), ("sweep", "old.onnx"), ("benchmark", "vit"), ("ensemble", "resnet"),
    ("transfer", "bert"), ("sparsify", "timm:test_resnet?num_classes=4"),
    *itertools.product(("estimate", "init"), WAYS),
}  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in every way, and samples."""
    folder = tmp_path_factory.mktemp("ways")
    (folder / "own").mkdir()
    for path in (folder / "net.py", folder / "own/net.py"):
        path.write_text(NET)
    (folder / "text.py").write_text(TEXT)
    x = torch.randn(96, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    np.savez(folder / "images.npz", x=x.numpy(), y=np.arange(96) % 4)
    model = load_model(f"{folder / 'net.py'}:make")
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits:0"]}
    free, axes = ({0: torch.export.Dim.DYNAMIC},), {"image": {0: "n", 2: "h", 3: "w"}}
    torch.onnx.export(model, (x[:2],), str(folder / "old.onnx"), dynamo=False, dynamic_axes=axes, **names)
    torch.onnx.export(model, (x[:2],), str(folder / "beside.onnx"), external_data=True, dynamic_shapes=free, **names)
    torch.export.save(torch.export.export(model, (x[:2],), dynamic_shapes=free), folder / "net.pt2")
    sizes: dict[str, Any] = dict(num_hidden_layers=1, num_attention_heads=2, hidden_size=16, intermediate_size=16)
    with alone():
        of: Any = import_library("transformers")
        vit = of.ViTForImageClassification(of.ViTConfig(**sizes, image_size=32, patch_size=16, num_labels=4))
        vit.save_pretrained(folder / "vit")
        bert = of.BertForSequenceClassification(of.BertConfig(**sizes, vocab_size=40, num_labels=4))
        bert.save_pretrained(folder / "bert")
        widths: dict[str, Any] = dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        of.ResNetForImageClassification(of.ResNetConfig(**widths, num_labels=4)).save_pretrained(folder / "resnet")
    return folder


def commands(command: str, way: str) -> list[tuple[str, ...]]:
    """``command`` on the model that ``way`` names, after those whose results it reads."""
    data, shape = WAYS[way]
    given, planned = ("--data", data), ("--target", "pi4", "--latency", "0.8x", "-q", "--force")
    if command == "estimate":
        untyped = tuple(part.partition(":")[0] for part in shape)
        return [("estimate", way, "--target", "pi4", *(untyped if way.endswith(".onnx") else shape))]
    if command == "benchmark":
        return [("benchmark", way, *shape, "--mode", "brief", "-q")]
    if command == "init":
        return [("init", way, *given, "--target", "pi4", "--latency", "0.8x", "--force")]
    if command == "sweep":
        return [("sweep", way, *given, "--target", "pi4", "--runtime", "onnxruntime", "--points", "2", "-q", "--force")]
    if command == "stages":
        return [("stages", way, *given, "-q", "--force")]
    search = ("search", way, *given, *planned)
    if command == "search":
        return [search]
    if command == "export":
        return [search, ("export", "plan.json", way, *given, "--format", "onnx", "-q")]
    if command == "deploy":
        return [("deploy", way, *given, *planned, "--epochs", "0", "--out", "bundle")]
    own = {"sparsify": ("--on", "channels"), "transfer": ("--classes", "4"), "ensemble": ()}[command]
    return [("prepare", command, way, *given, *own, "--epochs", "0.1", "--out", "prepared", "-q", "--force")]


@pytest.mark.parametrize(("command", "way"), core(itertools.product(COMMANDS, WAYS), lambda *case: case in QUICK))
def test_every_command_takes_every_way(
    command: str, way: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in here.iterdir():
        (tmp_path / part.name).symlink_to(part)
    for part in ("beside.onnx", *(file.name for file in here.glob("*.data"))):  # ONNX takes no links as weights
        (tmp_path / part).unlink()
        (tmp_path / part).write_bytes((here / part).read_bytes())
    monkeypatch.chdir(tmp_path)
    for words in commands(command, way):
        done = edgesdk(*words)
        if (command, way) in REFUSED:
            assert REFUSED[command, way] in refused(done, 2)
        else:
            assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
