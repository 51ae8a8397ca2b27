"""No code in a file of a model is executed: neither as it is read, nor by the module that it becomes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgesdk.core.errors import ModelError
from edgesdk.network.load import load_weighted

X = torch.arange(54.0).reshape(6, 9) / 54


class Sizes(nn.Module):
    """Arithmetic on the batch, in every way that a program may have it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[0]
        pairs = torch.softmax(self.fc(x.reshape(count // 2, 18)[:, 9:]), -1)
        return torch.cat([pairs, pairs]) * (count**2 / (1 + count)) + torch.einsum("bi,bi->b", x, x)[:, None]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    batch = 2 * torch.export.Dim("half", min=1)
    torch.export.save(torch.export.export(Sizes().eval(), (X,), dynamic_shapes=({0: batch},)), path)
    return path


def leave_mark(mark: Path) -> str:
    """Python that makes the folder ``mark``, without a dot or a quote that ends a text in double ones."""
    path = str(mark).replace(".", "\\x2e")
    return f"exec('__import__(\\'os\\')\\x2emkdir(\\'{path}\\')')"


def graph_of(document: Any) -> Any:
    return document["graph_module"]["graph"]


def set_size(text: str) -> Callable[[Any], None]:
    return lambda document: graph_of(document)["tensor_values"]["x"]["sizes"][0]["as_expr"].update(expr_str=text)


def call(target: str, text: str) -> Callable[[Any], None]:
    """The last node becomes a call of ``target`` with a text."""

    def change(document: Any) -> None:
        node = graph_of(document)["nodes"][-1]
        given = {"name": "self", "arg": {"as_string": text}, "kind": 1}
        node["target"], node["inputs"] = target, [given]

    return change


CODE: dict[str, Callable[[Path], Callable[[Any], None]]] = {
    "a size": lambda mark: set_size(f"{leave_mark(mark)} or Symbol('s6', positive=True, integer=True)"),
    "a size, by a class": lambda mark: set_size(f"Symbol(str({leave_mark(mark)}))"),
    "a size, by an attribute": lambda mark: set_size("Symbol('s6').__class__"),
    "a size in a text": lambda mark: set_size(f'S("{leave_mark(mark)}")'),
    "a size that is huge": lambda mark: set_size("Pow(Integer(9), Pow(Integer(9), Integer(99)))"),
    "a huge size by name": lambda mark: set_size("Pow(b=Integer(9), e=Integer(999999999))"),
    "a size that is moved": lambda mark: set_size("1 << 99999999999"),
    "a size that is moved by a class": lambda mark: set_size("LShift(Integer(1), Integer(99999999999))"),
    "a class that takes long": lambda mark: set_size("FallingFactorial(Integer(999999999), Integer(99999999))"),
    "a size of sizes": lambda mark: set_size("9 ** 9 ** 9 ** 9"),
    "a module of Python's": lambda mark: call("torch.hub.os.mkdir", str(mark)),
    "a file": lambda mark: call("torch.ops.aten.from_file.default", str(mark)),
    "a file, by any overload": lambda mark: call("torch.ops.aten.from_file", str(mark)),
    "a library": lambda mark: call("torch.ops.load_library", str(mark)),
    "a method of an operator": lambda mark: call("torch.ops.aten.relu.__class__", "x"),
    "what calls what it is given": lambda mark: call("_operator.methodcaller", "mkdir"),
}  # fmt: skip


def edited(program: Path, path: Path, change: Callable[[Any], None]) -> Path:
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("models/model.json"):
                document = json.loads(content)
                change(document)
                content = json.dumps(document).encode()
            new.writestr(entry.filename, content)
    return path


@pytest.mark.parametrize("code", CODE)
def test_an_exported_program_that_holds_code_is_refused(program: Path, code: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = edited(program, tmp_path / "model.pt2", CODE[code](mark))
    with pytest.raises(ModelError, match="would be executed as code, the "):
        load_weighted(str(path))
    assert not mark.exists()


def test_an_exported_program_that_computes_with_its_sizes_is_read(program: Path, tmp_path: Path) -> None:
    path = edited(program, tmp_path / "model.pt2", lambda document: None)
    wanted = torch.export.load(program).module()(X)
    assert torch.equal(load_weighted(str(path))[0](X), wanted)


NAMES = {
    "of a node": lambda code: ("MatMul", f'a") or {code} or getattr(self, "a', "weight"),
    "of a weight": lambda code: ("Add", "add", f'a") or {code} or getattr(self, "a'),
    "of lines": lambda code: ("Add", "add", f'a")\n    {code}\n    ("'),
    "of lines, and a module": lambda code: ("MatMul", f'a")\n{code}\n("', "fc.weight"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_an_onnx_file_is_no_code(name: str, tmp_path: Path) -> None:
    """PyTorch writes it into the code of forward as it is."""
    mark = tmp_path / "mark"
    operator, node, weight = NAMES[name](leave_mark(mark))
    value = np.ones((9, 4) if operator == "MatMul" else 9, np.float32)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 9])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    held = [numpy_helper.from_array(value, weight), numpy_helper.from_array(np.ones(9, np.float32), "a")]
    nodes = [helper.make_node("Add", ["x", "a"], ["b"], "a"), helper.make_node(operator, ["b", weight], ["y"], node)]
    graph = helper.make_graph(nodes, "graph", [x], [y], held)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    module = load_weighted(str(path))[0]
    wanted = (X + 1) @ torch.ones(9, 4) if operator == "MatMul" else X + 1 + 1
    torch.testing.assert_close(module(X), wanted)  # processors sum in different orders
    assert not mark.exists()
