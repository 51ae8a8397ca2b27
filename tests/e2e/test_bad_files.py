"""Files of models that nothing can be made of: one line with the cause, for every command that reads them."""

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
from given import edgesdk, refused
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

WEIGHT = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with data, and with a file of weights outside of it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    np.savez("data.npz", x=np.random.default_rng(0).standard_normal((96, 4)).astype(np.float32), y=np.arange(96) % 3)
    (tmp_path / "outside.bin").write_bytes(WEIGHT.tobytes())
    return folder


def product() -> ModelProto:
    """A linear layer."""
    ends = [helper.make_tensor_value_info(*value) for value in (("x", 1, ["n", 4]), ("y", 1, ["n", 3]))]
    node = helper.make_node("MatMul", ["x", "fc.weight"], ["y"], "fc")
    graph = helper.make_graph([node], "net", ends[:1], ends[1:], [numpy_helper.from_array(WEIGHT, "fc.weight")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def beside(location: str, **where: int) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **where}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)

    return change


def then(*nodes: Any, output: str = "z", first: bool = False, **weights: Any) -> Callable[[ModelProto], None]:
    """More nodes, and weights."""

    def change(model: ModelProto) -> None:
        graph, own = model.graph, list(model.graph.node)
        del graph.node[:]
        graph.node.extend([*nodes, *own] if first else [*own, *nodes])
        graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in weights.items())
        graph.output[0].name = output

    return change


def dims(*sizes: int) -> Callable[[ModelProto], None]:
    return lambda model: model.graph.initializer[0].dims.__setitem__(slice(None), sizes)


def operator(name: str, domain: str) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        model.graph.node[0].op_type, model.graph.node[0].domain = name, domain
        model.opset_import.append(helper.make_opsetid(domain, 1))

    return change


def short(model: ModelProto) -> None:
    Path("short.bin").write_bytes(b"\0" * 8)
    beside("short.bin")(model)


BRANCH = helper.make_graph(
    [helper.make_node("Relu", ["x"], ["r"])], "b", [], [helper.make_empty_tensor_value_info("r")]
)
node = helper.make_node
CIRCLE = (node("Add", ["y", "b"], ["a"]), node("Relu", ["a"], ["b"]))
IF = node("If", ["c"], ["z"], "which", then_branch=BRANCH, else_branch=BRANCH)
ONNX: dict[str, tuple[Callable[[ModelProto], Any], str]] = {
    "missing": (beside("nothere.bin"), "in a file that cannot be read"),
    "outside": (beside("../outside.bin"), "points outside the directory"),
    "absolute": (beside("/etc/hostname"), "it is an absolute path"),
    "before": (beside("../outside.bin", offset=-4), "cannot be read"),
    "short": (short, "keeps beside it is damaged: fc.weight is of shape 4 x 3, which takes 48 bytes, and has 8"),
    "domain": (operator("Special", "com.acme"), "the node fc"),
    "unknown": (operator("NoSuchOp", ""), "the node fc"),
    "huge": (dims(4, 2**40), "net.onnx is damaged: fc.weight is of shape 4 x 1099511627776"),
    "negative": (dims(-4, -3), "net.onnx is damaged: fc.weight is of shape -4 x -3"),
    "few bytes": (lambda m: setattr(m.graph.initializer[0], "raw_data", b"\0" * 7), "takes 48 bytes, and has 7"),
    "circle": (then(*CIRCLE, output="b"), "nothing in it makes b before it is read"),
    "order": (then(node("Relu", ["y"], ["z"]), first=True), "nothing in it makes y before it is read"),
    "no output": (then(output="nothing"), "nothing in it makes nothing"),
    "two of a name": (then(node("Relu", ["x"], ["y"]), output="y"), "net.onnx is damaged: y is made twice"),
    "a weight's name": (then(node("Relu", ["x"], ["fc.weight"]), output="y"), "damaged: fc.weight is made twice"),
    "two inputs": (lambda m: m.graph.input.append(m.graph.input[0]), "net.onnx is damaged: x is made twice"),
    "opset": (lambda m: setattr(m.opset_import[0], "version", 999), "is of opset 999, and onnx"),
    "format": (lambda m: setattr(m, "ir_version", 999), "is of IR version 999, and onnx"),
    "text": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING), "is no tensor of numbers"
    ),
}  # fmt: skip
"""What is changed of a linear layer, and what both estimate and search say of it."""
LEARNT: dict[str, tuple[Callable[[ModelProto], Any], str]] = {
    "control flow": (then(IF, c=True), "net.onnx holds control flow (If which)"),
    "pad": (then(node("Pad", ["y", "p"], ["z"]), p=[0, 2**35, 0, 0]), "(Pad, ai.onnx opset 17) makes 1 x 34359738371"),
    "shape": (dims(3, 4), "the node fc of net.onnx (MatMul"),
}
"""What can be priced, or says more when a module is made of it."""


def saved(change: Callable[[ModelProto], Any]) -> None:
    model = product()
    change(model)
    Path("net.onnx").write_bytes(model.SerializeToString())


def fails(*command: str, code: int = 3) -> str:
    before = sorted(Path().iterdir())
    line = refused(edgesdk(*command), code)
    assert sorted(Path().iterdir()) == before
    return line


SEARCH = ("--data", "data.npz", "--target", "pi4", "--size", "1kB")


@pytest.mark.parametrize("kind", ONNX)
def test_a_file_that_is_none_says_why(kind: str, here: Path) -> None:
    change, says = ONNX[kind]
    saved(change)
    assert says in fails("estimate", "net.onnx", "--target", "pi4")
    assert says in fails("search", "net.onnx", *SEARCH)


@pytest.mark.parametrize("kind", LEARNT)
def test_a_file_that_cannot_learn_says_why(kind: str, here: Path) -> None:
    change, says = LEARNT[kind]
    saved(change)
    assert says in fails("search", "net.onnx", *SEARCH)


def test_a_file_that_is_cut_or_another_thing_is_none(here: Path) -> None:
    whole = product().SerializeToString()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    for content in (whole[: len(whole) // 2], whole[:-3], b"", b"<!DOCTYPE html>", pointer):
        Path("net.onnx").write_bytes(content)
        assert "is not an ONNX file, or is cut short" in fails("estimate", "net.onnx", "--target", "pi4")
    assert "is not an ONNX file, or is cut short" in fails("benchmark", "net.onnx")  # not: use a newer runtime
    saved(beside("../outside.bin"))
    assert "points outside the directory" in fails("benchmark", "net.onnx")


def test_an_output_that_is_named_twice_is_one(here: Path) -> None:
    model = product()
    model.graph.output.append(model.graph.output[0])
    onnx.save(model, "net.onnx")
    assert edgesdk("search", "net.onnx", *SEARCH, "--precision", "fp32", "--force", "-q").returncode == 0


def changed(name: str, edit: Callable[[str, bytes], bytes | None]) -> None:
    with zipfile.ZipFile("sound.pt2") as source, zipfile.ZipFile(name, "w") as target:
        for entry in source.namelist():
            if (content := edit(entry, source.read(entry))) is not None:
                target.writestr(entry, content)


def of_tomorrow(entry: str, content: bytes) -> bytes:
    if not entry.endswith("models/model.json"):
        return content
    program = json.loads(content)
    program["schema_version"]["major"] += 5
    return json.dumps({**program, "torch_version": "99.0"}).encode()


def test_programs_that_cannot_be_read_say_why(here: Path) -> None:
    net = nn.Linear(4, 3)
    torch.export.save(torch.export.export(net, (torch.zeros(1, 4),)), "sound.pt2")
    changed("newer.pt2", of_tomorrow)
    changed("operator.pt2", lambda _, content: content.replace(b"aten.linear.default", b"aten.tomorrow.default"))
    changed("empty.pt2", lambda name, content: None if name.endswith("model.json") else content)
    Path("cut.pt2").write_bytes(Path("sound.pt2").read_bytes()[:-200])
    torch.save(net.state_dict(), "state.pt2")
    torch.save(net, "module.pt2")
    for name, says in {
        "newer": "Serialized schema version", "operator": "aten.tomorrow", "empty": "no exported program",
        "cut": "no exported program, or is cut short", "state": "torch.save", "module": "torch.save",
    }.items():  # fmt: skip
        said = fails("estimate", f"{name}.pt2", "--target", "pi4")
        assert says in said and "Traceback" not in said
    assert "and was saved by PyTorch 99.0: save it with" in fails("search", "newer.pt2", *SEARCH)
