"""PyTorch's exporter takes the translations that it read before; this fails where it keeps them elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from edgesdk.export import translations
from edgesdk.export.translations import reading_once

RELU = torch.ops.aten.relu.default


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An exporter's own reading, which notes each time; nothing is known before."""
    seen: list[int] = []
    plain = vars(ONNXRegistry)["from_torchlib"]

    def read(opset_version: int = 18) -> ONNXRegistry:
        seen.append(opset_version)
        registry = ONNXRegistry()
        registry.functions = {RELU.name(): []}
        return registry

    monkeypatch.setattr(translations, "_known", {})
    monkeypatch.setattr(ONNXRegistry, "from_torchlib", staticmethod(read))
    assert vars(ONNXRegistry)["from_torchlib"] is not plain
    return seen


def test_they_are_read_once_for_each_opset_and_by_the_exporter_itself_afterwards(reads: list[int]) -> None:
    own = ONNXRegistry.from_torchlib
    for _ in range(2):
        with reading_once():
            for opset in (18, 21, 18):
                ONNXRegistry().from_torchlib(opset_version=opset)
            ONNXRegistry.from_torchlib()
    assert reads == [18, 21, 18]  # the last is what none was named for
    assert ONNXRegistry.from_torchlib is own
    with pytest.raises(ZeroDivisionError), reading_once():
        print(1 / 0)
    assert ONNXRegistry.from_torchlib is own


def test_what_one_file_adds_is_not_in_another(reads: list[int]) -> None:
    with reading_once():
        first, second = (ONNXRegistry.from_torchlib() for _ in range(2))
        first.register_op(RELU, lambda x: x)
        assert len(first.get_decomps(RELU)) == 1 and second.get_decomps(RELU) == []
        assert ONNXRegistry.from_torchlib().get_decomps(RELU) == []
    assert reads == [18]


def test_without_what_is_replaced_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ONNXRegistry, "from_torchlib")
    with reading_once():
        assert not hasattr(ONNXRegistry, "from_torchlib")


def test_a_model_is_exported_with_what_was_read_before() -> None:
    with reading_once():
        for part in (torch.nn.ReLU(), torch.nn.Linear(3, 3), torch.nn.ReLU()):
            program = torch.onnx.export(part.eval(), (torch.zeros(1, 3),), dynamo=True, verbose=False)
            assert program is not None
            (node,) = program.model_proto.graph.node
            assert node.op_type == {"ReLU": "Relu", "Linear": "Gemm"}[type(part).__name__]
