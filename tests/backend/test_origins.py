"""What a format lacks is named by the operator of forward() and its line, and the names stay out of the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from edgesdk.core.errors import ModelError
from edgesdk.export.formats import export
from edgesdk.export.onnx import converted
from edgesdk.network.fuse import flat
from edgesdk.network.network import Network

X = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
LINE = r"\(test_origins.py, line \d+\)"


@torch.library.custom_op("edgesdk_test::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


@twice.register_fake
def shape_of_twice(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def bags(x: Tensor) -> Tensor:
    """Words one bag after the other by an operator that PyTorch's exporter writes as a loop that is not sound."""
    words, starts = x.flatten().abs().long() % 6, torch.arange(0, x.numel(), 6)
    return x + torch.embedding_bag(torch.eye(6), words, starts)[0]


class Calling(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Linear(6, 6), function, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def read(function: Callable[[Tensor], Tensor]) -> Network:
    return flat(Calling(function).eval(), X)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: x.mode(1, keepdim=True).values * x, f"ONNX has no mode {LINE}: compute it in forward"),
        (lambda x: torch.erfinv(x.tanh()), f"ONNX has no erfinv {LINE}"),  # which PyTorch takes apart first
        (lambda x: torch.cummax(x, 1).values * x, f"ONNX has no cummax {LINE}"),
        (lambda x: x @ torch.linalg.inv(torch.eye(6) + x[:, None] * x[..., None])[0], f"ONNX has no linalg_inv {LINE}"),
        (twice, "ONNX has no twice"),
        (bags, f"embedding_bag {LINE} cannot be written as ONNX: .*: compute it in forward"),
    ],
    ids=["mode", "of another name", "of two outputs", "algebra", "an own operator", "unsound"],
)
def test_what_onnx_lacks_is_named_by_its_line(function: Callable[[Tensor], Tensor], says: str) -> None:
    with pytest.raises(ModelError, match=says) as raised:
        converted(read(function), X)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: torch.asinh(x), f"TFLite has no Asinh for asinh {LINE}"),
        (lambda x: x.sort(1).values, f"TFLite cannot run TopK for sort {LINE}: it wants the smallest"),
        (lambda x: x * (x[x > 0.1].sum() > 0), f"TFLite has no NonZero for index {LINE}"),
    ],
    ids=["a function", "an order", "a selection"],
)
def test_what_tflite_lacks_is_named_by_its_line(
    function: Callable[[Tensor], Tensor], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=says):
        export(read(function), X, tmp_path / "model.tflite", "litert")


@pytest.mark.parametrize("how", [{}, {"bidirectional": True, "num_layers": 2}, {"bias": False}], ids=str)
def test_states_that_are_projected_are_refused_where_their_layer_is_named(how: dict[str, Any]) -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.known, self.plain = (
                nn.LSTM(6, 8, proj_size=6, batch_first=True, **how),
                nn.LSTM(6, 8, batch_first=True),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.known(x[:, None])[0] + self.plain(x[:, None])[0].sum()

    with pytest.raises(ModelError, match=r"ONNX has no lstm in known .* projected \(proj_size\)"):
        converted(flat(Projected().eval(), X), X)


def test_no_file_holds_the_names(tmp_path: Path) -> None:
    network = read(torch.tanh)
    assert any(
        "test_origins.py" in node.doc_string or "first" in node.doc_string for node in converted(network, X).graph.node
    )
    export(network, X, tmp_path / "model.onnx")
    assert not any(node.doc_string for node in onnx.load(tmp_path / "model.onnx").graph.node)
    for runtime in ("tensorrt", "openvino", "litert"):
        path = tmp_path / {"tensorrt": "tensorrt.onnx", "openvino": "model.xml", "litert": "model.tflite"}[runtime]
        export(network, X, path, runtime)
        assert b"test_origins" not in path.read_bytes()
