"""Forms of layers: what the search reckons with, what PyTorch computes and what the files hold are the same."""

from __future__ import annotations

import copy
import functools
import sys
from math import prod
from pathlib import Path

import models
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgesdk.compress.apply import compressed
from edgesdk.compress.forms import activated, factorized, ready, reconstructed
from edgesdk.compress.quantize import calibrate, integer, specification
from edgesdk.compress.refit import refit_weights
from edgesdk.core.artifact import Artifact
from edgesdk.core.budget import Budget
from edgesdk.core.errors import UsageError
from edgesdk.core.graph import ACTIVATION, OTHER
from edgesdk.core.plan import FP32, INT8, Form, Option
from edgesdk.core.runtime import format_of
from edgesdk.export.formats import probe_file, save
from edgesdk.export.onnx import converted
from edgesdk.export.parity import parity
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk.price.account import Account
from edgesdk.price.files import weight_bytes
from edgesdk.price.forms import CHEAPER, KINDS, fits, forms
from edgesdk.price.kinds import ACTIVATIONS, kind_of
from edgesdk.price.menu import drop_slower, full_width, options
from edgesdk.price.operator import Operator
from edgesdk.price.operators import operators
from edgesdk.price.planned import layer_parts
from edgesdk.price.table import Price, Table

USUAL = {name for name, kind in KINDS.items() if kind.usual}
RUNTIMES = ("onnxruntime", "openvino", "litert")


class Layers(nn.Module):
    """Convolutions of several shapes, each behind another activation; images (N, 3, 12, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 5, 2, 2)
        self.full = nn.Sequential(nn.Conv2d(16, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24))
        self.wide = nn.Conv2d(24, 24, (3, 5), 1, (1, 2), dilation=1)
        self.depth = nn.Conv2d(24, 24, 3, 1, 1, groups=24)
        self.point = nn.Conv2d(24, 32, 1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        f = nn.functional
        x = f.hardswish(self.stem(x))
        x = torch.relu(self.full(x))
        x = f.silu(self.wide(x))
        x = f.gelu(x + f.hardsigmoid(self.depth(x)))
        return self.fc(f.elu(self.point(x)).mean((2, 3)))


@functools.cache
def made() -> tuple[Network, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(64, 3, 12, 12)
    model = Layers()
    with torch.no_grad():
        model.train()(x)  # settles BatchNorm's statistics
    return trace(model.eval(), x), x


def small(options: dict[str, Option]) -> tuple[Network, dict[str, Option]]:
    network, x = made()
    return compressed(network, models.plan(network, options=options), x, models.scores(network))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


CONVOLUTIONS: list[nn.Module] = [
    nn.Conv2d(12, 16, 3, 1, 1),
    nn.Conv2d(12, 16, (3, 5), (2, 1), (1, 2), bias=False),
    nn.Conv2d(12, 16, 5, 1, 4, dilation=2),
    nn.Conv2d(12, 16, 5, padding="same"),
    nn.Conv2d(12, 12, 5, 2, 2, groups=12),
    nn.Conv1d(12, 16, 5, 2, 2),
    nn.Conv1d(12, 64, 1),
    nn.Conv2d(12, 64, 1),
    nn.Linear(12, 64),
]


@functools.cache
def applying(layer: nn.Module) -> list[Form]:
    """The candidates for a layer like this, alone."""
    x = torch.randn(2, 12, *[9] * (layer.weight.dim() - 2))  # type: ignore[union-attr,operator]
    network = trace(nn.Sequential(layer), x)
    return list(forms(network.graph.layers[0], (*KINDS, *CHEAPER)))


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
def test_a_form_answers_as_the_weight_that_it_amounts_to(layer: nn.Module) -> None:
    x = torch.randn(2, 12, *[9] * (layer.weight.dim() - 2))  # type: ignore[union-attr,operator]
    makers = applying(layer)
    assert makers
    for form in makers:
        whole = copy.deepcopy(layer)
        whole.weight.data = reconstructed(layer, form)
        with torch.no_grad():
            close(factorized(layer, form)(x), whole(x))
            assert not torch.allclose(whole(x), layer(x), rtol=1e-2)


def test_the_candidates_for_a_layer_are_what_it_can_be() -> None:
    full, *_, depthwise, line, steps, pointwise, linear = ({form.method for form in applying(c)} for c in CONVOLUTIONS)
    assert full == {"tucker", "spatial", "cp", "separable", "kernel"}
    assert (depthwise, line) == ({"kernel"}, {"kernel", "separable", "tucker"})
    assert steps == pointwise == linear == {"svd"}
    assert [form.sizes for form in applying(CONVOLUTIONS[3]) if form.method == "kernel"] == [(3, 3), (1, 1)]
    assert not [form for form in applying(nn.Conv2d(12, 16, 5)) if form.method == "kernel"]  # it would see more places
    assert {form.method for form in forms(made()[0].graph.by_name["full.0"])} <= USUAL


def test_at_its_own_size_a_kernel_is_the_layer_and_cp_comes_near() -> None:
    layer = nn.Conv2d(6, 8, 3, 1, 1)
    x = torch.randn(2, 6, 7, 7)
    with torch.no_grad():
        close(factorized(layer, Form("kernel", (3, 3)))(x), layer(x))
        errors = [float((factorized(layer, Form("cp", (rank,)))(x) - layer(x)).norm()) for rank in (2, 12, 54)]
    assert errors == sorted(errors, reverse=True) and errors[2] < 0.2 * errors[0]


@pytest.mark.parametrize("name", ["stem", "full.0", "wide", "depth", "point"])
def test_operators_and_bytes_are_those_of_the_modules(name: str) -> None:
    network, _ = made()
    layer = network.graph.by_name[name]
    module = network.submodule(name)
    values = torch.randn(1, *layer.input_shape)
    candidates = forms(layer, (*KINDS, *CHEAPER))
    assert candidates
    for form in candidates:
        parts = list(factorized(module, form))
        run = operators(layer, network.graph, Option(form=form), None, None)
        shapes = [(op.outputs, op.inputs // op.groups, *op.kernel) for op in run]
        assert shapes == [tuple(part.weight.shape) for part in parts]  # type: ignore[union-attr,operator]
        between, value = [], values
        for op, part in zip(run, parts, strict=True):
            assert op.size == tuple(value.shape[2:])
            value = part(value)
            between.append(value.numel())
        assert tuple(value.shape[1:]) == layer.shape
        weights = sum(prod(part.weight.shape) for part in parts)  # type: ignore[union-attr,operator]
        rows = sum(part.weight.shape[0] for part in parts)  # type: ignore[union-attr,operator]
        made_of = layer_parts(layer, network.graph, Option(form=form), None, None)
        assert sum(weight_bytes(part, Option()) for part in made_of) == 4 * (weights + rows)
        assert sum(weight_bytes(part, Option(INT8, 8)) for part in made_of) == weights
        held = Account.of("openvino").held(made_of, Option())
        assert (held.output, held.scratch) == (4 * prod(layer.shape), 4 * max(between[:-1], default=0))


def test_ranks_must_stay_below_the_channels_and_other_forms_fit_any() -> None:
    assert fits(Form("cp", (8,)), 12, 9) and not fits(Form("cp", (8,)), 12, 8)
    assert all(fits(form, 1, 1) for form in (Form("separable"), Form("kernel", (3, 3)), Form("relu")))


FORMED = {
    "convolutions": {
        "stem": Form("separable"), "full.0": Form("cp", (8,)), "wide": Form("kernel", (1, 3)),
        "depth": Form("kernel", (1, 1)), "point": Form("svd", (8,)),
    },
    "activations": {
        "hardswish": Form("relu"), "silu": Form("relu6"), "gelu": Form("relu"), "hardsigmoid": Form("identity"),
        "elu": Form("relu6"),
    },
}  # fmt: skip


@functools.cache
def applied(layers: str, precision: str) -> tuple[Network, onnx.ModelProto]:
    network, x = made()
    chosen = {name: Option(precision, 8 if precision == INT8 else 32, form) for name, form in FORMED[layers].items()}
    if precision == INT8:
        chosen = {**models.assigned(network, "int8"), **chosen}
    result = integer(*small(chosen))
    calibrate(result, [x])
    return result, converted(result, x)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("precision", [FP32, INT8])
@pytest.mark.parametrize("layers", FORMED)
def test_every_format_computes_what_the_forms_do(layers: str, precision: str, runtime: str, tmp_path: Path) -> None:
    network, x = made()
    converted, file = applied(layers, precision)
    path = tmp_path / f"model{format_of(runtime).suffix}"
    save(file, specification(converted), path, runtime)
    told = parity(converted, Artifact(path, converted.graph, runtime=runtime), [x])
    assert told.error <= told.tolerance
    with torch.no_grad():
        assert float((converted(x) - network(x)).norm()) > 1e-2 * float(network(x).norm())
    written = {node.op_type for node in file.graph.node}
    costly = {"HardSwish", "Sigmoid", "Gelu", "HardSigmoid", "Elu"}
    assert written & (costly | {"Clip"}) == ({"Clip"} if layers == "activations" else costly)


def test_a_relu_in_the_place_of_an_activation_is_one_with_the_layer_before_it() -> None:
    network, x = made()
    converted, assigned = small({name: Option(INT8, 8, Form("relu")) for name in ("hardswish", "silu", "gelu")})
    graph = converted.graph
    assert graph.by_name["stem"].activation == graph.by_name["wide"].activation == "relu"
    assert graph.by_name["add"].activation == "relu" and "gelu" not in graph.by_name
    layer = network.graph.by_name["hardswish"]
    assert operators(layer, network.graph, Option(form=Form("relu")), None, None) == ()
    assert set(assigned) == set(graph.by_name)
    expected = copy.deepcopy(network.module)
    for node in expected.graph.nodes:
        if node.name in ("hardswish", "silu", "gelu"):
            node.target = torch.ops.aten.relu.default
            node.kwargs = {}
    expected.recompile()
    with torch.no_grad():
        close(converted(x), expected(x)[0])


def test_a_removed_activation_leaves_its_input() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x) * 2 + nn.functional.silu(x)

    x = torch.randn(4, 3, 5, 5)
    network = trace(Two(), x)
    chosen = {"relu": Option(form=Form("identity")), "silu": Option(form=Form("identity"))}
    assert [o.form for o in options(network.graph.by_name["relu"], candidates=CHEAPER) if o.form] == [
        Form("identity")
    ] * 2
    converted, _ = compressed(network, models.plan(network, options=chosen), x, {})
    close(converted(x), 3 * x)
    assert not {layer.kind for layer in converted.graph.layers} & {ACTIVATION}
    for form in (Form("relu"), Form("relu6"), Form("identity")):
        alone, _ = compressed(network, models.plan(network, options={"silu": Option(form=form)}), x, {})
        close(alone(x), torch.relu(x) * 2 + activated(form, x))


def test_forms_are_on_the_menu_of_who_asks_for_them() -> None:
    network, _ = made()
    full, silu = network.graph.by_name["full.0"], network.graph.by_name["silu"]
    assert silu.kind == OTHER and options(silu) == (Option(),)
    assert {option.form.method for option in options(full) if option.form} <= USUAL
    asked = options(full, (8, 4), ("cp",))
    assert {o.form.method for o in asked if o.form} == {*(o.form.method for o in options(full) if o.form), "cp"}
    assert {(o.precision, o.weight_bits) for o in asked if o.form and o.form.method == "cp"} == {
        (FP32, 32), (INT8, 8), (INT8, 4),
    }  # fmt: skip
    assert options(silu, (8, 4), ("relu",)) == (
        Option(), Option(form=Form("relu")), Option(INT8, 8, Form("relu")),
    )  # fmt: skip


def test_a_cheaper_activation_stays_on_the_menu_where_the_other_takes_longer(tmp_path: Path) -> None:
    network, _ = made()
    graph = network.graph
    space = {layer.name: options(layer, candidates=("relu",)) for layer in graph.layers}
    table = Table.open(tmp_path, {"device": "by hand"}, 4)
    every = full_width(graph, space)
    times = {op.key: Price(1.0) for op in table.missing(every)}
    silu = next(op for op in every if op.activation == "silu")
    assert silu.probed
    table.add({**times, silu.key: Price(3.0)})
    kept, rejected = drop_slower(graph, space, table, Budget(latency_ms=1.0))
    assert Option(form=Form("relu")) in kept["silu"] and Option(form=Form("relu")) not in kept["hardswish"]
    assert any(item.layer == "hardswish" and item.choice == "fp32, relu" for item in rejected)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_costlier_activation_has_a_probe(runtime: str) -> None:
    for name in sorted(ACTIVATIONS):
        for size in ((6, 5), (7,)):
            op = Operator(kind_of(name), FP32, 8, 8, size, activation=name)
            assert op.probed
            content = probe_file(op, runtime)
            if runtime == "onnxruntime":
                outputs = onnxruntime.InferenceSession(content).run(None, {"x": np.ones((1, 1, *size), np.float32)})
                assert all(np.isfinite(y).all() for y in outputs)


def test_the_last_part_is_fitted_to_what_the_layer_answers() -> None:
    network, x = made()
    converted, _ = small({name: Option(form=form) for name, form in FORMED["convolutions"].items()})
    fitted, fits = refit_weights(converted, network, {}, [x[:48]])
    assert {fit.layer.rpartition(".")[0] for fit in fits} >= set(FORMED["convolutions"])
    with torch.no_grad():
        before, after = (float((changed(x[48:]) - network(x[48:])).norm()) for changed in (converted, fitted))
    assert after < before


@pytest.mark.parametrize(
    ("layer", "form", "told"),
    [
        (nn.Conv2d(8, 8, 3, 1, 1), Form("kernel", (2, 2)), "a kernel of 2x2 is not the centre of 3x3"),
        (nn.Conv2d(8, 8, 3, 1, 1), Form("kernel", (5, 5)), "a kernel of 5x5 is not the centre of 3x3"),
        (nn.Conv2d(8, 8, 3, 1, 1), Form("kernel", (1,)), "a kernel of 1 is not the centre of 3x3"),
        (nn.Conv2d(8, 8, 3), Form("kernel", (1, 1)), "with a padding of 0x0 a smaller kernel"),
        (nn.Conv2d(8, 8, 3, groups=8), Form("separable"), "separable does not apply to Conv2d"),
        (nn.Linear(8, 8), Form("cp", (2,)), "cp does not apply to Linear"),
        (nn.Conv2d(8, 8, 3), Form("cp", (73,)), "rank 73 is not between 1 and 72"),
        (nn.Conv2d(8, 8, 3), Form("spatial", (25,)), "rank 25 is not between 1 and 24"),
    ],
)
def test_what_a_layer_cannot_be_is_refused(layer: nn.Module, form: Form, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        factorized(layer, form)


def test_a_candidate_is_checked_before_anything_long_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    ready(("cp", "separable", "k-means"))
    with pytest.raises(UsageError, match="'winograd' is no form of a layer"):
        ready(("cp", "winograd"))
    monkeypatch.setitem(sys.modules, "tensorly", None)  # as where it is not installed
    ready(("separable",))
    with pytest.raises(UsageError, match="cp cannot be a candidate: tensorly is not installed"):
        ready(("cp",))


class Lines(nn.Module):
    """Convolutions along one axis; sequences (N, 12, 20)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.point = nn.Conv1d(12, 24, 5, 2, 2), nn.Conv1d(24, 32, 3, 1, 1), nn.Conv1d(32, 32, 1)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.point(torch.relu(self.wide(torch.relu(self.stem(x)))))).mean(2))


@pytest.mark.parametrize("precision", [FP32, INT8])
def test_a_line_has_the_low_ranks_of_an_image_in_every_format(precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 12, 20)
    network = trace(Lines().eval(), x)
    formed = {"stem": Form("separable"), "wide": Form("tucker", (8, 16)), "point": Form("svd", (8,))}
    assert all(form in forms(network.graph.by_name[name]) for name, form in formed.items())
    chosen = {name: Option(precision, 8 if precision == INT8 else 32, form) for name, form in formed.items()}
    if precision == INT8:
        chosen = {**models.assigned(network, "int8"), **chosen}
    result = integer(*compressed(network, models.plan(network, options=chosen), x, models.scores(network)))
    calibrate(result, [x])
    file = converted(result, x)
    for runtime in (*RUNTIMES, "ncnn") if precision == FP32 else RUNTIMES:  # ncnn's integers are on a grid of their own
        path = tmp_path / f"{runtime}{format_of(runtime).suffix}"
        save(file, specification(result), path, runtime)
        told = parity(result, Artifact(path, result.graph, runtime=runtime), [x])
        assert told.error <= told.tolerance, runtime
