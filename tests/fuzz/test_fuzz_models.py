"""Damaged files of models that are to become modules: each becomes one, or is refused in one line."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutations import damaged, examples, read_or_refused, written
from onnx import helper
from onnx_damage import network, quantized, rewired
from torch import nn

from edgesdk.core.errors import EdgeSdkError
from edgesdk.network.load import load_weighted
from edgesdk.network.onnx_graph import read

ONNX = {"float": network, "quantized": quantized}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@functools.cache
def program() -> bytes:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    x, file = torch.zeros(2, 3, 6, 6), io.BytesIO()
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)), file)
    return file.getvalue()


def load(path: Path) -> nn.Module:
    return load_weighted(str(path), shapes=(3, 6, 6))[0]


@pytest.mark.parametrize("name", ONNX)
def test_what_is_damaged_is_whole_before(folder: Path, name: str) -> None:
    assert load(written(folder / "model.onnx", ONNX[name]().SerializeToString()))(torch.zeros(2, 3, 6, 6)).shape == (
        2,
        3,
    )
    assert load(written(folder / "model.pt2", program()))(torch.zeros(2, 3, 6, 6)).shape == (2, 3)


@pytest.mark.parametrize("name", ONNX)
@examples(60)
@given(data=st.data())
def test_an_onnx_file_becomes_a_module_or_is_refused(folder: Path, name: str, data: st.DataObject) -> None:
    model = ONNX[name]()
    content = data.draw(st.one_of(rewired(model), damaged(model.SerializeToString())))
    path = written(folder / "model.onnx", content)
    module = read_or_refused(lambda: load(path), EdgeSdkError)
    assert module is None or isinstance(module, nn.Module)


@pytest.mark.parametrize("name", [b"pads", b"weight", b"conv", b"Conv", b"batch", b"relu", b"integers", b"within"])
def test_a_name_that_is_no_text_is_refused(folder: Path, name: bytes) -> None:
    """In some versions protobuf gives bytes for it, which nothing that comes after is ready for."""
    model = network()
    part = helper.make_graph([helper.make_node("Relu", ["y"], ["within"])], "part", [], [])
    model.graph.node.append(helper.make_node("If", ["shape"], ["z"], "which", then_branch=part, else_branch=part))
    content = model.SerializeToString()
    path = written(folder / "model.onnx", content.replace(name, b"\x80" + name[1:]))
    for make in (load, lambda path: read(path, (3, 6, 6))):
        with pytest.raises(EdgeSdkError, match=r"model\.onnx is (damaged: it holds a text|not an ONNX file)"):
            make(path)


@examples(40)
@given(data=st.data())
def test_an_exported_program_becomes_a_module_or_is_refused(folder: Path, data: st.DataObject) -> None:
    path = written(folder / "model.pt2", data.draw(damaged(program())))
    module = read_or_refused(lambda: load(path), EdgeSdkError)
    assert module is None or isinstance(module, nn.Module)
