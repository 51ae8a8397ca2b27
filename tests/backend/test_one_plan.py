"""A network is one network, whichever way it comes in: as a module, an ONNX file of either exporter, or a program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_zoo as zoo
import pytest
import torch
import torch.nn.functional as F
from slow import core
from torch import Tensor, nn

import edgesdk
from edgesdk.network.load import load_model
from edgesdk.network.onnx_module.read import read
from edgesdk.network.trace import trace


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.wide, self.fc = nn.Conv2d(16, 32, 1), nn.Linear(32, 4)
        self.before, self.after = nn.BatchNorm2d(16), nn.BatchNorm2d(32)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.before(self.deep(F.relu(self.stem(x)))))
        return self.fc(F.hardswish(self.after(self.wide(x))).mean((2, 3)))


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(8, 16, 5, 2, 2), nn.BatchNorm1d(16)
        self.second, self.fc = nn.Conv1d(16, 24, 3, 1, 1), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.max_pool1d(F.relu(self.second(F.relu(self.norm(self.first(x))))), 2).mean(2))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.up, self.joined = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 8, 3, 1, 1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        near = F.relu(self.down(x))
        far = F.relu(self.up(F.relu(self.deep(near))))
        return self.head(F.relu(self.joined(torch.cat([near, far], 1)))).mean((2, 3))


class Heard(nn.Module):
    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM], both: bool = False, last: bool = False) -> None:
        super().__init__()
        self.recurrent, self.last = kind(8, 16, batch_first=True, bidirectional=both), last
        self.fc = nn.Linear(16 * (1 + both), 4)

    def forward(self, x: Tensor) -> Tensor:
        sequence, state = self.recurrent(x)
        if not self.last:
            return self.fc(sequence[:, -1])
        return self.fc((state[0] if isinstance(state, tuple) else state)[-1])


SKIPPED = "passes its input on: its branch is left out"
IMAGE, SOUND = (torch.randn(2, 3, 16, 16),), (torch.randn(2, 12, 8),)
FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "residual": zoo.MODULES["residual"], "depthwise": (Depthwise, IMAGE), "vit": zoo.MODULES["transformer"],
    "text": zoo.MODULES["encoded"], "gru": (lambda: Heard(nn.GRU), SOUND), "lstm": (lambda: Heard(nn.LSTM), SOUND),
    "both-gru": (lambda: Heard(nn.GRU, both=True), SOUND), "last-lstm": (lambda: Heard(nn.LSTM, last=True), SOUND),
    "keyword": (Keyword, (torch.randn(2, 8, 20),)), "unet": (UNet, IMAGE),
}  # fmt: skip


def ways(family: str, folder: Path) -> dict[str, nn.Module | str]:
    """The family's network by each way in."""
    make, example = FAMILIES[family]
    torch.manual_seed(0)
    own = make().eval()
    free = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(own, example, dynamic_shapes=free), folder / "net.pt2")
    zoo.MODULES[f"one-plan-{family}"] = make, example
    exporters = {"new": (True, 18), "old": (False, 17)}
    files = {name: str(zoo.exported(f"one-plan-{family}", folder, *how)) for name, how in exporters.items()}
    return {"module": own, "program": str(folder / "net.pt2"), **files}


@pytest.mark.parametrize("family", ["gru", "lstm", "both-gru", "last-lstm", "text", "vit"])
def test_detours_of_an_exporter_are_left_out(family: str, tmp_path: Path) -> None:
    """A recurrent layer's turns, parts of an attention that is one operator, picks that are cut out and squeezed."""
    make, example = FAMILIES[family]
    torch.manual_seed(0)
    zoo.MODULES[f"one-plan-{family}"] = make, example
    module = read(zoo.exported(f"one-plan-{family}", tmp_path, False, 17))
    with torch.no_grad():
        torch.testing.assert_close(module(*example), make_again(make)(*example), rtol=1e-4, atol=1e-5)
    called = [str(getattr(node.target, "__name__", node.target)) for node in module.graph.nodes]
    if family == "text":
        assert "scaled_dot_product_attention" in called and "matmul" not in called
    elif family == "vit":
        assert called.count("select") == 4 and "squeeze" not in called and "split" not in called
    else:
        assert not {"permute", "squeeze", "unflatten", "expand", "full", "transpose"} & set(called)


def make_again(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


@pytest.mark.parametrize("family", core(FAMILIES, lambda family: False))
def test_every_way_in_is_the_same_network(family: str, tmp_path: Path) -> None:
    """What computes costs the same, and what can be cut is the same: choices are made of these alone."""
    x = FAMILIES[family][1][0]
    graphs = {
        name: trace(way if isinstance(way, nn.Module) else load_model(way), x).graph
        for name, way in ways(family, tmp_path).items()
    }
    told = {}
    for name, graph in graphs.items():
        costly = [(layer.kind, layer.macs, layer.shape, layer.activation) for layer in graph.layers if layer.macs]
        told[name] = len(graph.layers), costly, [(group.size, group.step, group.fixed) for group in graph.groups]
    own = told.pop("module")
    for name, found in told.items():
        assert found[1:] == own[1:], name
        assert abs(found[0] - own[0]) <= 3, name  # of moves alone: three picks are an unbinding and three picks


@pytest.mark.parametrize(("family", "ratio"), core((("residual", 0.8), ("gru", 1.0)), lambda *_: False))
def test_every_way_in_gets_the_same_plan(
    family: str, ratio: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESDK_MODE", "brief")
    every, draw = ways(family, tmp_path), torch.Generator().manual_seed(3)
    example, own = FAMILIES[family][1][0], every["module"]
    assert isinstance(own, nn.Module)
    shape = (128, *example.shape[1:])
    words = not example.is_floating_point()
    x = torch.randint(0, 20, shape, generator=draw) if words else torch.randn(shape, generator=draw)
    with torch.no_grad():
        answers = own(x)
    labels = (answers - answers.mean(0)).argmax(1)
    budget = edgesdk.Budget(latency_ratio=ratio)
    plans = {
        name: edgesdk.search(way, "pi4", (x.numpy(), labels.numpy()), budget, force=True) for name, way in every.items()
    }
    told = {  # names apart, and in what precision nothing is added
        name: [
            (None if layer.reason == SKIPPED else plan.options.get(layer.name), plan.kept.get(layer.name))
            for layer in plan.layers
        ]
        for name, plan in plans.items()
    }
    first = plans["module"].predicted.latency_ms
    for name, plan in plans.items():
        assert told[name] == told["module"], name
        assert plan.predicted.latency_ms == pytest.approx(first, rel=1e-3), name
