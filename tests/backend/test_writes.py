"""Chains of writes to parts of a tensor are the module's values, and a graph without joins of parts of joins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from edgesdk.core.artifact import Artifact
from edgesdk.core.runtime import format_of
from edgesdk.export.formats import save
from edgesdk.export.onnx import converted
from edgesdk.export.parity import runner
from edgesdk.network.modularize import aten
from edgesdk.network.network import Network
from edgesdk.network.trace import trace

JOINS = aten.cat.default, aten.index_select.default
READS = aten.slice.Tensor, aten.select.int


class Chain(nn.Module):
    """A linear layer, and ``count`` rows of what it makes written to, by ``write``."""

    def __init__(self, width: int, count: int, write: Callable[[Tensor, int], None]) -> None:
        super().__init__()
        self.fc, self.count, self.write = nn.Linear(width, width), count, write

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        for i in range(1, self.count):
            self.write(x, i)
        return x


def add_before(x: Tensor, i: int) -> None:
    x[:, i] = x[:, i] + x[:, i - 1]


def add_from_behind(x: Tensor, i: int) -> None:
    x[:, -i - 1] = 0.5 * x[:, -i - 1] + x[:, -i]


def shift_rows(x: Tensor, i: int) -> None:
    x[:, i : i + 2] = 0.5 * x[:, i : i + 2] + x[:, i - 1 : i + 1][:, : x[:, i : i + 2].shape[1]]


def write_every_other(x: Tensor, i: int) -> None:
    x[:, i::2] = x[:, i::2] * 0.5 + x[:, i - 1 : i]


def write_in_place(x: Tensor, i: int) -> None:
    row = x[:, i]
    row.add_(x[:, i - 1])
    row[:, 0] = 0


def average_all_before(x: Tensor, i: int) -> None:
    x[:, i] = x[:, :i].mean(1)


def write_figures(x: Tensor, i: int) -> None:
    x[:, i, i - 1] = x[:, i, i - 1] + x[:, i - 1, 0]


def write_two_axes(x: Tensor, i: int) -> None:
    x[:, i] = (x[:, i] + x[:, i - 1]) / 2
    x[:, :, i] = (x[:, :, i] - x[:, :, i - 1]) / 2


FACES: dict[str, tuple[Callable[[Tensor, int], None], Callable[[int], tuple[int, ...]]]] = {
    "rows": (add_before, lambda count: (count,)),
    "from behind": (add_from_behind, lambda count: (count, 3)),
    "several rows": (shift_rows, lambda count: (count, 3)),
    "every other": (write_every_other, lambda count: (count,)),
    "in place": (write_in_place, lambda count: (count, 3)),
    "all before": (average_all_before, lambda count: (count, 3)),
    "figures": (write_figures, lambda count: (count, count)),
    "two axes": (write_two_axes, lambda count: (count, count)),
}


def traced(face: str, count: int) -> tuple[nn.Module, Network, Tensor]:
    write, shape = FACES[face]
    torch.manual_seed(0)
    model, x = Chain(shape(count)[-1], count, write).eval(), torch.randn(3, *shape(count))
    return model, trace(model, x), x


def reads_a_join(node: fx.Node) -> bool:
    return node.target in READS and node.all_input_nodes[0].target in JOINS


@pytest.mark.parametrize("face", FACES)
def test_a_chain_of_writes_is_joined_once_and_holds_on_every_runtime(face: str, tmp_path: Path) -> None:
    model, network, x = traced(face, 5)
    with torch.no_grad():
        wanted = model(x.clone())
        assert torch.equal(network.flat(x)[0], wanted)
    if face != "two axes":  # where the other axis is read, what was joined along the first must be there
        assert not any(map(reads_a_join, network.module.graph.nodes))
    file = converted(network, x)
    for runtime in ("onnxruntime", "openvino", "litert"):
        path = tmp_path / f"model{format_of(runtime).suffix}"
        save(file, {}, path, runtime)
        answered = runner(Artifact(path, runtime=runtime), network.structure)(x)
        torch.testing.assert_close(answered, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("face", "each"), [("rows", 3), ("two axes", 16)])
def test_a_chain_grows_by_the_same_for_each_write(face: str, each: int) -> None:
    short, middle, long = (len(traced(face, count)[1].module.graph.nodes) for count in (3, 5, 7))
    assert long - middle == middle - short == 2 * each
