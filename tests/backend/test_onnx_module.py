"""An ONNX file of any producer becomes a module that computes what ONNX Runtime does, trains, and keeps its names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_zoo as zoo
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgesdk.core.errors import DataError, ModelError, UsageError
from edgesdk.network.load import load_model
from edgesdk.network.network import answer
from edgesdk.network.onnx_graph import read as read_graph
from edgesdk.network.onnx_module.read import read
from edgesdk.network.reference import Reference, check
from edgesdk.network.trace import trace
from edgesdk.workflows.inputs import read_inputs

EXPORTED = (
    ("residual", True, 18, True), ("residual", False, 17, False), ("residual", True, 22, False),
    ("transformer", False, 9, True), ("transformer", True, 18, True), ("shuffled", False, 13, True),
    ("gru", True, 18, True), ("lstm", False, 13, True), ("two", False, 9, True),
    ("encoded", True, 18, True), ("encoded", True, 18, False),
)  # fmt: skip
"""Of each: the network, PyTorch's new exporter or its old one, the opset, and whether the batch is free."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, Path]:
    """What was exported here, by its name, each made when it is first asked for."""

    class Made(dict[str, Path]):
        def __missing__(self, key: str) -> Path:
            name, exporter, opset, batch = key.split()
            made = zoo.exported(name, folder, exporter == "new", int(opset), batch == "free")
            self[key] = made
            return made

    return Made()


def test_what_cannot_be_computed_is_said_by_the_error_alone(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = zoo.Written(17, x=["n", 6])
    made.n("MatMul", ["x", made.w("w", 5, 4)], "y")
    path = made.save(folder / "narrow.onnx", "y")
    with pytest.raises(ModelError, match=r"narrow.onnx \(MatMul, .* cannot be translated"):
        read(path)
    assert capfd.readouterr().err == ""


def key(name: str, dynamo: bool, opset: int, free: bool) -> str:
    return f"{name} {'new' if dynamo else 'old'} {opset} {'free' if free else 'one'}"


def holds(path: Path, x: tuple[Tensor, ...]) -> nn.Module:
    """The module of a file, once it was held to ONNX Runtime on several samples, and every weight has a gradient."""
    module = read(path)
    reference = Reference(module)
    assert reference.file is not None  # ONNX Runtime, not the module itself
    output, wanted = answer(module, x), reference(x)
    pairs = [(output[n], wanted[n]) for n in wanted] if isinstance(wanted, dict) else [(output, wanted)]
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape and len(ours) == len(x[0])
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    learning = read(path).train()
    answers = learning(*x)
    values = list(answers.values()) if isinstance(answers, dict) else [answers]
    torch.stack([(v**2).sum() for v in values if v.is_floating_point()]).sum().backward()
    assert [name for name, weight in learning.named_parameters() if weight.grad is None] == []
    return module


@pytest.mark.parametrize("case", EXPORTED, ids=lambda case: key(*case))
def test_what_pytorch_exports_comes_back(case: tuple[str, bool, int, bool], files: dict[str, Path]) -> None:
    x = zoo.MODULES[case[0]][1]
    module = holds(files[key(*case)], x)
    torch.manual_seed(0)
    own = zoo.MODULES[case[0]][0]().eval()
    shared = {"fc.weight", "conv.weight", "head.weight", "mask.weight"} & dict(own.named_parameters()).keys()
    assert shared <= dict(module.named_parameters()).keys()  # weights keep their names


@pytest.mark.parametrize("name", zoo.WRITTEN)
def test_what_others_write_comes_in(name: str, folder: Path) -> None:
    make, x = zoo.WRITTEN[name]
    holds(make(folder / f"{name}.onnx"), x)


def test_a_transformer_from_a_file_has_the_layers_of_its_module(files: dict[str, Path]) -> None:
    make, x = zoo.MODULES["transformer"]
    torch.manual_seed(0)
    own = trace(make().eval(), x[0]).graph
    traced = trace(read(files["transformer old 9 free"]), x[0]).graph
    kinds = [
        [layer.operator for layer in graph.layers if layer.macs or "norm" in layer.operator] for graph in (own, traced)
    ]
    assert kinds[0] == kinds[1]
    assert "gelu" in {layer.operator for layer in traced.layers}
    widths = [[(group.size, group.step, group.fixed is None) for group in graph.groups] for graph in (own, traced)]
    assert widths[0] == widths[1]


def test_one_network_by_three_ways_is_one_network(files: dict[str, Path], folder: Path) -> None:
    make, x = zoo.MODULES["residual"]
    torch.manual_seed(0)
    own = make().eval()
    free = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(own, x, dynamic_shapes=free), folder / "free.pt2")
    torch.export.save(torch.export.export(own, (x[0][:1],)), folder / "one.pt2")
    paths = (folder / "free.pt2", folder / "one.pt2", files["residual new 18 free"])
    expected = trace(own, x[0])
    for path in paths:
        network = trace(load_model(str(path)), x[0])
        torch.testing.assert_close(network(x[0]), expected(x[0]), rtol=1e-4, atol=1e-5)
        told = [[replace(layer, parameters=0) for layer in n.graph.layers] for n in (network, expected)]
        assert told[0] == told[1]  # of parameters a file has fewer: the exporter puts norms into convolutions
        assert network.graph.groups == expected.graph.groups and network.graph.branches == expected.graph.branches


def test_the_first_node_that_differs_is_named(folder: Path) -> None:
    path = zoo.tf2onnx(folder / "changed.onnx")
    module, x = read(path), zoo.WRITTEN["tf2onnx"][1][0]
    network = trace(module, x)
    model = onnx.load(str(path))  # another file in its place: the module is not what that computes
    weight = next(t for t in model.graph.initializer if t.name == "model/dw:0")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 2, weight.name))
    onnx.save(model, str(folder / "other.onnx"))
    (folder / "other.onnx").replace(path)
    with pytest.raises(ModelError, match=r"changed.onnx does not compute .* from the node model/dw \(Conv\) on"):
        check(network, Reference(module), x)


def test_what_learnt_is_its_own_reference(files: dict[str, Path]) -> None:
    module = read(files["residual new 18 free"])
    with torch.no_grad():
        module.get_parameter("fc.weight").mul_(2)
    reference = Reference(module)
    assert reference.file is None
    trace(module, zoo.IMAGE[0], reference)


# Refused in words


def refused(folder: Path, graph: zoo.Written, *outputs: str, match: str, shapes=None, kind=ModelError) -> None:
    path = graph.save(folder / "refused.onnx", *outputs)
    with pytest.raises(kind, match=match) as raised:
        read(path, shapes)
    assert raised.value.remedy


def test_operators_without_a_translation_are_named(folder: Path) -> None:
    g = zoo.Written(16, x=[-1, 4])
    g.n("Relu", ["x"], "r")
    g.n("NonZero", ["r"], "places", "find_them")
    refused(
        folder, g, "places", match=r"node find_them of refused.onnx \(NonZero, ai.onnx opset 16\) has no translation"
    )
    g = zoo.Written(16, x=[-1, 4])
    g.nodes.append(helper.make_node("Special", ["x"], ["y"], "mine", domain="com.acme"))
    refused(folder, g, "y", match=r"mine of .* \(Special, com.acme")


def test_files_that_store_few_bits_are_floats(folder: Path) -> None:
    g = zoo.Written(13, x=[-1, 4])
    g.c("stored", np.arange(-6, 6).reshape(4, 3), np.int8)
    weight = g.n("DequantizeLinear", ["stored", g.c("scale", 0.1, np.float32), g.c("zero", 0, np.int8)], "weight")
    holds(g.save(folder / "few.onnx", g.n("MatMul", ["x", weight], "y")), (torch.randn(3, 4),))


def test_files_that_cannot_be_read_are_refused(folder: Path) -> None:
    g = zoo.Written(17, x=[-1, 300])
    path = g.save(folder / "large.onnx", g.n("MatMul", ["x", g.w("w", 300, 40)], "y"))
    model = onnx.load(str(path))
    onnx.save(model, str(folder / "beside.onnx"), save_as_external_data=True, location="w.bin", size_threshold=100)
    holds(folder / "beside.onnx", (torch.randn(2, 300),))
    (folder / "w.bin").unlink()
    with pytest.raises(ModelError, match="keeps weights in a file that cannot be read"):
        read(folder / "beside.onnx")
    g = zoo.Written(17, x=(TensorProto.FLOAT16, [-1, 4]))
    refused(folder, g, g.n("Relu", ["x"], "y"), match="float16")
    g = zoo.Written(8, x=[-1, 4])
    refused(folder, g, g.n("Relu", ["x"], "y"), match="opset 8")
    then = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["z"])], "t", [], [helper.make_empty_tensor_value_info("z")]
    )
    g = zoo.Written(17, x=[-1, 4])
    g.n("If", [g.c("yes", True, bool)], "y", then_branch=then, else_branch=then)
    refused(folder, g, "y", match="control flow")
    with pytest.raises(ModelError, match="not an ONNX file"):
        (folder / "no.onnx").write_bytes(b"none")
        load_model(str(folder / "no.onnx"))
    with pytest.raises(ModelError, match=r"no.pt2 is no exported program"):
        (folder / "no.pt2").write_bytes(b"none")
        load_model(str(folder / "no.pt2"))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_weights_that_are_stored_in_other_floats_than_they_compute_in_are_widened(folder: Path, dtype: Any) -> None:
    g = zoo.Written(17, x=[-1, 4])
    g.c("unread", np.ones(3), dtype)
    wide = g.n("Cast", [g.c("stored", np.linspace(-1, 1, 12).reshape(4, 3), dtype)], "wide", to=TensorProto.FLOAT)
    path = g.save(folder / "wide.onnx", g.n("MatMul", ["x", wide], "y"))
    holds(path, (torch.randn(3, 4),))
    assert all(p.dtype == torch.float32 for p in read(path).parameters())
    g.n("Add", [g.n("Cast", ["y"], "narrow", to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype))), "unread"], "z")
    refused(folder, g, "z", match=r"computes in .* \(unread\)")


@pytest.mark.parametrize(
    "names",
    [("x", "r", "x_"), ("x_", "x", "x__"), ("a/b", "a_b", "a.b"), ("x", "x.y", "x_.y"), ("relu", "x", "mul")],
)
def test_names_that_become_one_in_python_are_told_apart(folder: Path, names: tuple[str, str, str]) -> None:
    g = zoo.Written(17, x=[-1, 3, 8, 8])
    a = g.n("Conv", ["x", g.w("v", 4, 3, 3, 3)], "a", names[0])
    r = g.n("Sigmoid", [a], "r", names[1])
    path = g.save(folder / "names.onnx", g.n("Conv", [r, g.w("w", 4, 4, 3, 3)], "y", names[2]))
    holds(path, (torch.randn(3, 3, 8, 8),))
    traced = trace(read(path), torch.randn(3, 3, 8, 8)).graph
    assert len({*(layer.name for layer in traced.layers), "x"}) == 4


def test_inputs_may_be_called_as_the_file_does_and_be_outputs(folder: Path) -> None:
    g = zoo.Written(17, **{"Größe/x__0": ["n", "width"]})
    path = g.save(folder / "called.onnx", g.n("MatMul", ["Größe/x:0", g.w("w", 4, 5)], "y"))
    for name in ("Größe/x:0", "Größe_x_0"):
        arrays: dict[str, Any] = {name: np.ones((40, 4), np.float32), "y": np.arange(40) % 5}
        np.savez(folder / "called.npz", **arrays)
        inputs = read_inputs(str(path), str(folder / "called.npz"), None, "top-1", 0)
        assert answer(inputs.model, inputs.data.example).shape[1:] == (5,)
        assert trace(inputs.model, inputs.data.example).input_names == ["Größe/x:0"]
    model = onnx.load(path)
    model.graph.output.append(model.graph.input[0])
    onnx.save(model, path)
    assert read_graph(path, (4,))[0].inputs[0].shape == (4,)


@pytest.mark.parametrize("names", [("Image", "Mask"), ("b", "a"), ("1", "in:0")])
def test_inputs_keep_their_names_in_whatever_order_data_has_them(folder: Path, names: tuple[str, str]) -> None:
    g = zoo.Written(17, **{name.replace(":", "__"): [-1, 4] for name in names})
    path = g.save(folder / "order.onnx", g.n("Sub", [g.n("MatMul", [names[0], g.w("w", 4, 4)], "m"), names[1]], "y"))
    module, values = read(path), torch.randn(2, 3, 4)
    own = [str(node.target) for node in module.graph.nodes if node.op == "placeholder"]
    expected = module(*values)
    for order in (1, -1):
        traced = trace(module, dict(list(zip(own, values, strict=True))[::order]))
        assert traced.input_names == list(names)[::order]
        assert torch.allclose(traced.flat(tuple(values)[::order])[0], expected, atol=1e-5)


def made_of(*nodes: Any, **parts: Any) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph(list(nodes), "graph", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("own", 1)], **parts)


def test_what_is_unusual_in_a_sound_file_is_not_called_damage(folder: Path) -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    weights = [numpy_helper.from_array(np.full((4, 4), value, np.float32), "w") for value in (1, 2)]
    held = numpy_helper.from_array(np.ones(2, np.float32), "w"), numpy_helper.from_array(np.array([0, 5]))
    alike, unlike, sparse, text = (made_of(product) for _ in range(4))
    alike.graph.initializer.extend(weights[:1] * 2)
    unlike.graph.initializer.extend(weights)
    sparse.graph.sparse_initializer.append(helper.make_sparse_tensor(*held, [4, 4]))
    text.graph.initializer.append(weights[0])
    text.graph.node.append(helper.make_node("Constant", [], ["told"], value_strings=["cat"]))
    text.graph.output.append(helper.make_tensor_value_info("told", TensorProto.STRING, [1]))
    opset = [helper.make_opsetid("", 13)]
    inner = helper.make_function("own", "Act", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opset)
    function = made_of(helper.make_node("Act", ["x"], ["y"], domain="own"), functions=[inner])
    onnx.save(alike, path := folder / "unusual.onnx")
    assert torch.equal(read(path)(torch.ones(2, 4)), torch.full((2, 4), 4.0))
    for model, says in (
        (unlike, "w is made twice"), (sparse, "keeps w as sparse tensors"), (text, "the output told of .* is text"),
        (function, "the functions Act of .* are of another opset than the file"),
    ):  # fmt: skip
        onnx.save(model, path)
        with pytest.raises(ModelError, match=says):
            read(path)


def test_free_axes_are_as_long_as_the_data_or_the_shape_says(folder: Path) -> None:
    g = zoo.Written(17, x=["n", 3, "h", "w"])
    x = g.n("Conv", ["x", g.w("c.weight", 4, 3, 3, 3)], "c")
    path = g.save(folder / "free.onnx", g.n("Flatten", [g.n("GlobalAveragePool", [x], "p")], "y"))
    for shapes in ((3, 8, 8), {"x": (3, 8, 8)}, {"x": (1, 3, 8, 8)}):
        assert answer(read(path, shapes), torch.randn(2, 3, 8, 8)).shape == (2, 4)
    with pytest.raises(UsageError, match="axis 2 of input x is free"):
        read(path)
    rng = np.random.default_rng(0)
    given = read_inputs(
        str(path), (rng.standard_normal((40, 3, 9, 9), np.float32), rng.integers(0, 4, 40)), None, "top-1", 0
    )
    assert given.trained and not given.notes
    with pytest.raises(DataError, match=r"does not fit .*x takes \(3, h, w\) without the batch, not \(2, 9, 9\)"):
        read_inputs(
            str(path), (rng.standard_normal((40, 2, 9, 9), np.float32), rng.integers(0, 4, 40)), None, "top-1", 0
        )
    with pytest.raises(UsageError, match="--shape says 3x8x8"):
        data = (rng.standard_normal((40, 3, 9, 9), np.float32), rng.integers(0, 4, 40))
        read_inputs(str(path), data, None, "top-1", 0, shapes=(3, 8, 8))
