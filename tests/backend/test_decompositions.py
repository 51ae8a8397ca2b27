"""A program that is traced once is the one that PyTorch's exporter makes of it by tracing it twice."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgesdk.export.decompositions import tracing_once


class Attention(nn.Module):
    """Tokens in three parts, each folded into heads and out again."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.whole(x).reshape(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).unflatten(2, (4, -1))


class Halves(nn.Module):
    """What PyTorch takes apart and nobody puts in other words."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return first.double().float() + second


class Turned(nn.Module):
    """A reshape of what does not lie in its order is a copy."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(x.shape[0], -1) * 2


class Last(nn.Module):
    """Outputs that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0][:, -1]


POOLED = nn.Sequential(nn.Conv2d(2, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
CASES = [
    (POOLED, (1, 2, 6, 6), 0), (Attention(), (1, 6, 8), 0), (Last(), (1, 5, 8), 0),
    (Halves(), (1, 4, 6), 1), (Turned(), (1, 4, 6), 1), (nn.AdaptiveAvgPool2d(3), (1, 2, 9, 9), 1),
    (nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()), (1, 2, 4, 4), 1),
]  # fmt: skip


def exported(module: nn.Module, x: Tensor) -> ModelProto:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module.eval(), (x,), dynamo=True, optimize=True, verbose=False)
    assert program is not None
    return program.model_proto


def spelled(model: ModelProto) -> list[Any]:
    """What ``model`` computes of what, whatever it calls that."""
    held = {t.name: (t.data_type, tuple(t.dims), numpy_helper.to_array(t).tobytes()) for t in model.graph.initializer}
    known: dict[str, int] = {"": -1}

    def place(name: str) -> Any:
        return held[name] if name in held else known.setdefault(name, len(known))

    return [
        (n.op_type, [place(i) for i in n.input], [place(o) for o in n.output], sorted(map(str, n.attribute)))
        for n in model.graph.node
    ]


@pytest.mark.parametrize(("module", "shape", "again"), CASES, ids=lambda value: type(value).__name__)
def test_the_file_is_the_same_and_a_second_trace_is_for_what_is_taken_apart(
    module: nn.Module, shape: tuple[int, ...], again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, seen, own = torch.randn(shape), list[ExportedProgram](), ExportedProgram.run_decompositions

    def run(program: ExportedProgram, *given: Any, **named: Any) -> ExportedProgram:
        seen.append(program)
        return own(program, *given, **named)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", run)
    twice = spelled(exported(module, x))
    assert len(seen) == 1 and twice
    with tracing_once():
        assert spelled(exported(module, x)) == twice
    assert len(seen) == 1 + again
    assert ExportedProgram.run_decompositions is run


def test_without_what_tells_what_stays_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch._export.utils._is_cia_op")
    own = ExportedProgram.run_decompositions
    with tracing_once():
        assert ExportedProgram.run_decompositions is own
