"""A model as people have them, made into a file in every runtime, and judged by a loop that knows nothing of edgesdk.

Under a cut, which no module of the user's has, it is compared with that module as if the channels were not there
(``removed.py``).

A family of cases is a module ``cases_<kind>.py`` with a tuple ``CASES``; ``test_cases.py`` takes every family. The file
is run by its runtime alone, one sample at a time, and compared with what the user's own module answers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from removed import Gone, cut, without
from torch import Tensor, nn

from edgesdk.compress.quantize import calibrate, integer, specification
from edgesdk.core.artifact import format_of
from edgesdk.core.plan import INT8, Option
from edgesdk.export import onnx as onnx_file
from edgesdk.export.formats import grid_of, save
from edgesdk.network.network import Batch, Network, tensors
from edgesdk.network.trace import trace
from edgesdk.price.operators import precisions

CUT, CUT_INT8 = "cut", "cut int8"
RUNTIMES = ("onnxruntime", "openvino", "litert")
SAMPLES = 16  # that a file is judged on
CALIBRATION = 64
EXACT, ROUNDED = 1e-3, 0.15  # of the outputs' spread: float files, and integer ones of networks that learnt nothing


@dataclass(frozen=True)
class Case:
    """A model, samples for it, and what is made of it: ``plans`` of ``dense`` and ``int8``, in ``runtimes``. Each is
    made once more of half of the channels, where there are groups (``groups.json``).

    ``make`` is called with a fixed seed, ``inputs`` with a count of samples; the model's BatchNorms are settled on
    them. ``exact`` and ``rounded`` are how far a float and an integer file may be from the module, of the spread of its
    outputs.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], Batch]
    plans: tuple[str, ...] = ("dense", "int8")
    runtimes: tuple[str, ...] = RUNTIMES
    exact: float = EXACT
    rounded: float = ROUNDED

    def __str__(self) -> str:
        return self.name

    def made(self) -> tuple[nn.Module, Batch]:
        """The module in evaluation mode and its samples, the same each time."""
        torch.manual_seed(3)
        model, x = self.make(), self.inputs(CALIBRATION)
        if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules()):
            with torch.no_grad():
                for _ in range(8):
                    _called(model.train(), x)
        return model.eval(), x


def floats(*shape: int) -> Callable[[int], Tensor]:
    """Samples of noise of one shape."""
    return lambda count: torch.randn(count, *shape)


def ids(length: int, words: int) -> Callable[[int], Tensor]:
    """Samples of so many whole numbers below ``words``."""
    return lambda count: torch.randint(0, words, (count, length))


def _called(model: nn.Module, x: Batch) -> Any:
    """What a user calls."""
    if isinstance(x, Mapping):
        return model(**{name: value.clone() for name, value in x.items()})
    return model(*(value.clone() for value in tensors(x)))


def leaves(value: Any) -> Iterator[Tensor]:
    """The tensors in what a model returns, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from leaves(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from leaves(part)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name))


def expected(model: nn.Module, x: Batch) -> list[np.ndarray]:
    """What the user's own module answers to the first samples, one at a time."""
    columns = tensors(x)
    answers = []
    with torch.no_grad():
        for i in range(SAMPLES):
            row = [column[i : i + 1] for column in columns]
            feeds = dict(zip(x, row, strict=True)) if isinstance(x, Mapping) else tuple(row)
            answers.append([leaf.numpy() for leaf in leaves(_called(model, feeds))])
    return [np.concatenate(parts) for parts in zip(*answers, strict=True)]


def answered(
    path: Path, runtime: str, x: Batch, names: list[str], outputs: Sequence[str] = ("output",)
) -> list[np.ndarray]:
    """What the file answers to the same samples, run by its runtime and nothing else. ``names`` are its inputs."""
    run = {"onnxruntime": _onnxruntime, "openvino": _openvino, "litert": _litert}[runtime](path)
    columns = [column.numpy() for column in tensors(x)]
    rows = [run({n: c[i : i + 1] for n, c in zip(names, columns, strict=True)}) for i in range(SAMPLES)]
    assert all(set(row) == set(outputs) for row in rows), f"{sorted(rows[0])} where there should be {outputs}"
    return [np.concatenate([row[name] for row in rows]) for name in outputs]


def _onnxruntime(path: Path) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, map(np.asarray, session.run(None, feeds)), strict=True))


def _openvino(path: Path) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    import openvino

    model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = model(feeds)
        return {_output_name(port): outputs[port].copy() for port in model.outputs}

    return run


def _output_name(port: Any) -> str:
    own, names = port.get_node().get_friendly_name().partition("/sink_port_")[0], port.get_names()
    return own if own in names else port.get_any_name()


def _litert(path: Path) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path=str(path)).get_signature_runner()
    return lambda feeds: {name: value.copy() for name, value in run(**feeds).items()}


def distance(actual: np.ndarray, wanted: np.ndarray) -> float:
    """Root mean square of the difference over the spread of what is wanted; of integers, the share that differs."""
    assert actual.shape == wanted.shape
    if wanted.dtype.kind != "f":
        return float((actual != wanted).mean())
    actual, wanted = actual.astype(np.float64), wanted.astype(np.float64)
    return float(np.sqrt(((actual - wanted) ** 2).mean()) / max(wanted.std(), 1e-12))


@functools.cache
def traced_once(case: Case) -> Network:
    """The network that edgesdk sees in the case's module."""
    return trace(*case.made())


@functools.cache
def cut_once(case: Case) -> tuple[Network, Gone]:
    """The case's network with half of its channels, and which are gone."""
    return cut(traced_once(case), case.made()[1])


@functools.cache
def ready(case: Case, plan: str, runtime: str) -> tuple[Network, ModelProto]:
    """The case's network under a plan, and the ONNX model that every format is made of."""
    if "int8" not in plan or grid_of(runtime) is grid_of("onnxruntime"):
        runtime = "onnxruntime"
    return _ready(case, plan, runtime)


@functools.cache
def _ready(case: Case, plan: str, runtime: str) -> tuple[Network, ModelProto]:
    _, x = case.made()
    traced = cut_once(case)[0] if plan.startswith(CUT) else traced_once(case)
    network = integer(traced, options(traced, plan), grid_of(runtime))
    calibrate(network, [x])
    return network, onnx_file.converted(network, x)


def options(network: Network, plan: str) -> dict[str, Option]:
    """Each layer's option under a plan: as it is, or every layer integer that may be."""
    if "int8" not in plan:
        return {}
    return {layer.name: Option(INT8, 8) for layer in network.graph.layers if INT8 in precisions(layer)}


def judge(case: Case, plan: str, runtime: str, folder: Path) -> list[float]:
    """How far the file of a case is from the user's module, cut or not, by output; raises where that is too far."""
    network, converted = ready(case, plan, runtime)
    path = folder / f"model{format_of(runtime).suffix}"
    save(converted, specification(network), path, runtime)
    model, x = case.made()
    outputs = answered(path, runtime, x, network.input_names, network.structure.output_names)
    if plan.startswith(CUT):
        model = without(model, traced_once(case), cut_once(case)[1])
    wanted = expected(model, x)
    assert len(outputs) == len(wanted), f"{len(outputs)} outputs where the module has {len(wanted)}"
    errors = [distance(f, w) for f, w in zip(outputs, wanted, strict=True)]
    assert max(errors) <= (case.rounded if "int8" in plan else case.exact), f"{case} {plan} {runtime}: {errors}"
    return errors
