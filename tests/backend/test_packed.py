"""A file with packed weights is smaller, runs in the same kernels, and computes the same to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path

import models
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor

from edgesdk.compress.apply import compressed
from edgesdk.compress.quantize import integer
from edgesdk.compress.stored import packed_as, stored
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import FidelityError, ModelError, UsageError
from edgesdk.core.graph import WEIGHTED
from edgesdk.core.plan import FP32, Form, Option
from edgesdk.core.runtime import exportable
from edgesdk.core.stored import STORED
from edgesdk.devices.bench import Bench
from edgesdk.devices.local import LocalDevice
from edgesdk.export.formats import export
from edgesdk.export.onnx import converted
from edgesdk.export.packed import packed
from edgesdk.export.parity import parity
from edgesdk.network.network import Network
from edgesdk.price.account import Account
from edgesdk.price.files import weight_bytes
from edgesdk.price.planned import layer_parts
from edgesdk.price.stored import fits, stored_bytes
from edgesdk.price.stored import forms as list_forms
from edgesdk.techniques.codebooks import binary, e2m1, intervals, k_means, powers_of_two, ternary
from edgesdk.techniques.filtering import low_pass
from edgesdk.techniques.packing import Packed
from edgesdk.techniques.sparsity import largest, sparse


def without_small(weight: Tensor) -> Tensor:
    return weight.detach().masked_fill(~largest({"w": weight}, 0.8)["w"], 0)


FORMS: dict[str, Callable[[Tensor], Packed]] = {
    **{f"{count} intervals": partial(intervals, count=count) for count in (2, 6, 20, 45, 70)},  # 1, 3, 5, 6, 7 bits
    "k-means": partial(k_means, count=16),
    "powers of two": partial(powers_of_two, bits=3),
    "e2m1": e2m1,
    "e2m1 in tens": partial(e2m1, block=10),
    "ternary": ternary,
    "binary": binary,
    "sparse": lambda weight: sparse(without_small(weight)),
    "sparse with a codebook": lambda weight: sparse(without_small(weight), partial(intervals, count=4)),
    "dct": partial(low_pass, share=0.2),
    "wavelet": partial(low_pass, share=0.2, kind="haar"),
}
SHARE = {"45 intervals": 0.35, "70 intervals": 0.35, "sparse": 0.35, "dct": 0.35, "wavelet": 0.55}
"""The most bytes of the plain file's that each takes in the residual network; 0.25 for all others."""
NETWORKS = ("residual", "depthwise", "transformer", "recurrent")


@cache
def exported(name: str) -> tuple[Network, Tensor, ModelProto]:
    network, x = models.made(name, 8)
    network = integer(network, {})
    return network, x, converted(network, x)


@cache
def ready(name: str, form: str) -> tuple[Network, Tensor, ModelProto, Mapping[str, Packed]]:
    """A network whose weights were put into a form and decoded, inputs, its plain file and the packed weights."""
    network, x, exact = exported(name)
    network, weights, plain = network.copy(), {}, ModelProto()
    plain.CopyFrom(exact)
    for layer in network.graph.layers:
        path = network.sites[layer.name].module
        if layer.kind not in WEIGHTED or path is None:
            continue
        weight = models.weight_of(network, layer.name)
        if weight.numel() >= 100:
            stored = FORMS[form](weight)
            place(plain, weight.detach().numpy(), stored.decoded().numpy())
            with torch.no_grad():
                weight.copy_(stored.decoded())
            weights[f"{path}.weight"] = stored
    return network, x, plain, weights


def place(model: ModelProto, before: np.ndarray, after: np.ndarray) -> None:
    """Put ``after`` where the file has ``before``; the exporter transposes some."""
    for tensor in model.graph.initializer:
        for turn in (lambda v: v, lambda v: np.ascontiguousarray(v.T)):
            if np.array_equal(numpy_helper.to_array(tensor), turn(before)):
                tensor.CopyFrom(numpy_helper.from_array(turn(after), tensor.name))
                return
    raise AssertionError("the file does not hold the weight")


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with LocalDevice() as agent:
        yield Bench(agent)


def run(model: ModelProto, x: Tensor) -> list[bytes]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [np.asarray(v).tobytes() for i in range(4) for v in session.run(None, {name: x[i : i + 1].numpy()})]


def ran(bench: Bench, model: ModelProto, path: Path) -> list[tuple]:
    onnx.save(model, path)
    return sorted((kernel["operator"], kernel["name"], kernel["provider"]) for kernel in bench.kernels(Artifact(path)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_packed_weights_compute_the_same_to_the_bit(name: str, form: str) -> None:
    _, x, plain, weights = ready(name, form)
    small = packed(plain, weights)
    assert small.ByteSize() < plain.ByteSize()
    assert run(small, x) == run(plain, x)


@pytest.mark.parametrize("form", FORMS)
def test_files_are_as_small_as_the_form_promises(form: str) -> None:
    _, _, plain, weights = ready("residual", form)
    assert packed(plain, weights).ByteSize() <= SHARE.get(form, 0.25) * plain.ByteSize()


@pytest.mark.parametrize("form", ("k-means", "e2m1 in tens", "sparse with a codebook", "dct"))
@pytest.mark.parametrize("name", ("residual", "transformer"))
def test_decoding_is_over_when_the_model_runs(name: str, form: str, bench: Bench, tmp_path: Path) -> None:
    network, x, plain, weights = ready(name, form)
    small = packed(plain, weights)
    assert len(small.graph.node) > len(plain.graph.node) + len(weights)
    assert ran(bench, small, tmp_path / "small.onnx") == ran(bench, plain, tmp_path / "plain.onnx")
    assert parity(network, Artifact(tmp_path / "small.onnx"), [x]).error <= 1e-3


def test_a_weight_that_would_be_larger_packed_stays_plain() -> None:
    _, x, plain, _ = ready("residual", "k-means")
    tensor = next(t for t in plain.graph.initializer if t.name == "fc.weight")
    whole = low_pass(torch.from_numpy(numpy_helper.to_array(tensor).copy()), 1.0)
    model = ModelProto()
    model.CopyFrom(plain)
    next(t for t in model.graph.initializer if t.name == "fc.weight").CopyFrom(
        numpy_helper.from_array(whole.decoded().numpy(), "fc.weight")
    )
    assert packed(model, {"fc.weight": whole}) == model
    assert run(packed(model, {"fc.weight": whole}), x) == run(model, x)


def test_constants_that_layers_share_are_stored_once() -> None:
    _, _, plain, weights = ready("residual", "dct")
    small = packed(plain, weights)
    stored = [(t.data_type, tuple(t.dims), t.raw_data) for t in small.graph.initializer if t.name.startswith("packed")]
    assert len(set(stored)) == len(stored)


def test_values_that_are_not_those_of_the_packed_form_are_found() -> None:
    _, _, plain, weights = ready("residual", "k-means")
    model = ModelProto()
    model.CopyFrom(plain)
    tensor = next(t for t in model.graph.initializer if t.name == "fc.weight")
    values = numpy_helper.to_array(tensor).copy()
    values.view(np.uint32)[0, 0] ^= 1
    tensor.CopyFrom(numpy_helper.from_array(values, "fc.weight"))
    with pytest.raises(FidelityError, match=r"fc\.weight does not have the values"):
        packed(model, weights)


@pytest.mark.parametrize("runtime", [runtime for runtime in exportable() if runtime != "onnxruntime"])
def test_formats_that_hold_no_packed_weights_are_said_to(runtime: str) -> None:
    _, _, plain, weights = ready("residual", "k-means")
    with pytest.raises(ModelError, match=f"files for {runtime} hold no packed weights"):
        packed(plain, weights, runtime)


def test_names_and_opsets_that_do_not_fit_are_said_to() -> None:
    _, _, plain, weights = ready("residual", "k-means")
    with pytest.raises(UsageError, match=r"no float32 weight fc\.wieght"):
        packed(plain, {"fc.wieght": weights["stem.0.weight"]})
    old = helper.make_model(plain.graph, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(ModelError, match="opset 17"):
        packed(old, weights)
    half = ModelProto()
    half.CopyFrom(plain)
    next(t for t in half.graph.initializer if t.name == "stem.0.weight").data_type = TensorProto.FLOAT16
    with pytest.raises(UsageError, match=r"no float32 weight stem\.0\.weight"):
        packed(half, weights)


def test_a_plan_says_in_which_form_each_weight_is_stored(tmp_path: Path) -> None:
    methods = list(STORED)[::-1]  # the pickiest first
    for name in ("residual", "transformer"):
        network, x = models.made(name, 8)
        options = {}
        for layer in network.graph.layers:
            every = [form for form in list_forms(layer, methods, "onnxruntime") if layer.kind in WEIGHTED]
            if every:
                options[layer.name] = Option(FP32, 32, every[0])
                methods.remove(every[0].method)
        plan = models.plan(network, options=options)
        small, options = compressed(network, plan, x, models.scores(network))
        result = stored(small, options)
        assert len(result.stored) == sum(option.form is not None for option in options.values()) > 4
        for path, weight in result.stored.items():
            assert torch.equal(result.module.get_parameter(path), weight.decoded())
        file = tmp_path / f"{name}.onnx"
        export(result, x, file)
        assert file.stat().st_size < 0.6 * 4 * sum(part.numel() for part in result.module.parameters())
        assert parity(result, Artifact(file), [x]).error <= 1e-3
    assert not methods


@pytest.mark.parametrize("method", STORED)
def test_the_bytes_that_a_form_is_priced_at_are_those_of_the_file(method: str) -> None:
    _, _, exact = exported("residual")
    for name in ("inner.0.weight", "shortcut.weight"):
        tensor = next(t for t in exact.graph.initializer if t.name == name)
        weight = torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for sizes in STORED[method].strengths:
            form = Form(method, sizes)
            if fits(form, tuple(weight.shape)):
                plain, stored = ModelProto(), packed_as(weight, form)
                plain.CopyFrom(exact)
                place(plain, weight.numpy(), stored.decoded().numpy())
                bytes_ = packed(plain, {name: stored}).ByteSize() - plain.ByteSize() + 4 * weight.numel()
                assert abs(stored_bytes(form, tuple(weight.shape)) - bytes_) <= 40 + 0.02 * bytes_


def test_a_menu_counts_what_a_stored_form_takes() -> None:
    network, _ = models.made("residual", 2)
    layer = next(layer for layer in network.graph.layers if layer.weight_shape == (32, 32, 3, 3))
    form = Form("k-means", (16,))
    option = Option(FP32, 32, form)
    (full,) = layer_parts(layer, network.graph, option, None, None)
    assert weight_bytes(full, option) == stored_bytes(form, layer.weight_shape) + 4 * 32
    assert weight_bytes(full, option) < 0.2 * weight_bytes(full, Option())
    account = Account.of("onnxruntime")
    assert account.held((full,), option).resident > account.held((full,), Option()).resident
    assert layer.reads is not None
    (cut,) = layer_parts(layer, network.graph, option, 16, None)
    assert weight_bytes(cut, option) == stored_bytes(form, (32, 16, 3, 3)) + 4 * 32
    assert str(option) == "fp32, weights as k-means 16" and str(Option(form=Form("fp16"))) == "fp32, weights as fp16"


def test_forms_that_do_not_fit_are_said_to() -> None:
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UsageError, match="not stored as svd 4"):
        packed_as(weight, Form("svd", (4,)))
    with pytest.raises(UsageError, match="k-means has 1 sizes, not 0"):
        packed_as(weight, Form("k-means"))
    with pytest.raises(UsageError, match="larger than the weight"):
        packed_as(weight, Form("k-means", (25,)))
    with pytest.raises(UsageError, match="does not divide 6 input channels"):
        packed_as(weight, Form("n-of-m", (2, 4)))
    with pytest.raises(UsageError, match="beyond fp16"):
        packed_as(1e5 * weight, Form("fp16"))
    network, _ = models.made("residual", 2)
    pool = next(layer for layer in network.graph.layers if layer.kind not in WEIGHTED)
    with pytest.raises(UsageError, match="has no weight"):
        stored(network, {pool.name: Option(FP32, 32, Form("fp16"))})
    conv = network.graph.layers[0]
    with pytest.raises(UsageError, match="tflite files hold no weights as k-means; they hold fp16"):
        list_forms(conv, ["fp16", "k-means"], "litert")
    assert list_forms(pool, ["fp16"], "litert") == () and list_forms(conv, ["fp16", "svd"], "litert") == (Form("fp16"),)
