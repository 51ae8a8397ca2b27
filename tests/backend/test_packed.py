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

from edgesdk.artefact import FORMAT_OF, Artefact
from edgesdk.compress.network import Network
from edgesdk.compress.quantize import integer
from edgesdk.errors import FidelityError, ModelError, UsageError
from edgesdk.export.onnx import converted
from edgesdk.export.packed import Packed, packed
from edgesdk.export.parity import parity
from edgesdk.graph import WEIGHTED
from edgesdk.remote.bench import Bench
from edgesdk.remote.local import LocalDevice
from edgesdk.techniques.codebooks import binary, e2m1, intervals, k_means, powers_of_two, ternary
from edgesdk.techniques.filtering import low_pass
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
        if layer.kind in WEIGHTED and path is not None and network.submodule(layer.name).weight.numel() >= 100:
            weight = network.submodule(layer.name).weight
            found = FORMS[form](weight)
            place(plain, weight.detach().numpy(), found.decoded().numpy())
            with torch.no_grad():
                weight.copy_(found.decoded())
            weights[f"{path}.weight"] = found
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
    return sorted((kernel["operator"], kernel["name"], kernel["provider"]) for kernel in bench.kernels(Artefact(path)))


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
    assert parity(network, Artefact(tmp_path / "small.onnx"), [x]).error <= 1e-3


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


@pytest.mark.parametrize("runtime", [runtime for runtime in FORMAT_OF if runtime != "onnxruntime"])
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
