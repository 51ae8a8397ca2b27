"""Running models with ncnn on the CPU, in float32 or on the integers of the file."""

from __future__ import annotations

import functools
import importlib
import os
import tempfile
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import numpy

from edgesdk_targets.agent import files
from edgesdk_targets.agent.protocol import RUNTIME, USAGE, AgentError
from edgesdk_targets.agent.runners import arrays, refused

ncnn: Any = importlib.import_module("ncnn")  # a name of its own package hides what it exports from type checkers
VERSION = ncnn.__version__
NAME = f"ncnn {VERSION}"
# Left to itself it computes in half precision where the processor has it. Older versions have fewer of these.
OFF = ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage", "vulkan_compute")
SIZES = ("2", "11", "1", "0")  # the parameters of an input that say its dimensions, outermost first
INTEGER = "8"  # the parameter of a layer that computes in integers
WEIGHTED = ("Convolution", "ConvolutionDepthWise", "InnerProduct")
DATA = ("Input", "MemoryData", "Split", "Noop")
sample, read_inputs = arrays.sample, arrays.read_inputs


class Session:
    """A loaded model. Raises ``AgentError`` where ncnn refuses it."""

    precision = "f32"

    def __init__(self, source: str | bytes, threads: int) -> None:
        files.check(source, "ncnn", files.NCNN)
        self.providers = ["CPU"]
        with _unpacked(source) as path:
            self.net = ncnn.Net()
            self.net.opt.num_threads = threads
            for option in OFF:
                if hasattr(self.net.opt, "use_" + option):
                    setattr(self.net.opt, "use_" + option, False)
            with _heard() as said:
                failed = self.net.load_param(path) or self.net.load_model(os.path.splitext(path)[0] + ".bin")
                if failed:
                    raise refused(NAME, ValueError(said() or f"it returns {failed}"))
            self.inputs = [_describe(layer) for layer in layers(path) if layer["operator"] == "Input"]
        names = [item["name"] for item in self.inputs]
        self.outputs = [name for name in self.net.output_names() if name not in names]

    def bind(self, values: dict[str, Any] | None = None) -> Callable[[], object]:
        """A function that runs the model once, its inputs copied beforehand.

        The first call is a run to find out whether the inputs are accepted. A blob has no dimension of samples, and its
        images begin at multiples of 16 bytes, which is why they are copied.
        """
        bound = arrays.values_for(self.inputs, values)
        for item in self.inputs:
            if list(bound[item["name"]].shape) != item["shape"]:
                fact = f"the input {item['name']} has shape {list(bound[item['name']].shape)}"
                raise AgentError(RUNTIME, fact, f"the model takes {item['shape']}")
        mats = [(name, ncnn.Mat(array[0]).clone()) for name, array in bound.items()]
        run = functools.partial(self._run, mats)
        run()
        return run

    def _run(self, mats: list[tuple[str, Any]]) -> list[Any]:
        with self.net.create_extractor() as extractor:
            for name, mat in mats:
                extractor.input(name, mat)
            made = [extractor.extract(name) for name in self.outputs]
        failed = [code for code, _ in made if code]
        if failed:
            raise AgentError(RUNTIME, f"{NAME} ends a run with {failed[0]}", "export for this version of the runtime")
        return [mat for _, mat in made]

    def run_once(self, values: dict[str, Any]) -> dict[str, Any]:
        """The outputs of one run with ``values``, by name."""
        made = self.bind(values)()
        return {name: numpy.array(mat)[None] for name, mat in zip(self.outputs, made)}  # type: ignore[call-overload]


def load(source: str | bytes, threads: int) -> Session:
    """The model in a ``.param`` file with a ``.bin`` beside it, or in one file or bytes: text, a zero byte, numbers."""
    return Session(source, threads)


def profile(path: str, values: dict[str, Any] | None, threads: int, take: object) -> list[dict[str, Any]]:
    """The layers in the order of the file; ncnn's wheel tells no times."""
    load(path, threads).bind(values)
    return [
        {
            "name": layer["name"],
            "operator": layer["operator"],
            "provider": "CPU",
            "share": None,
            "profiled_ms": None,
            "layers": [layer["name"], *layer["outputs"]],
            "precision": _precision(layer),
        }
        for layer in layers(path)
        if layer["operator"] not in DATA
    ]


def layers(path: str) -> list[dict[str, Any]]:
    """The layers of a ``.param`` file: ``operator``, ``name``, ``outputs`` and ``parameters``, all as they are told."""
    with open(path, encoding="utf-8") as file:
        rows = [line.split() for line in file.read().splitlines()[2:]]
    found = []
    for row in rows:
        if len(row) < 4:
            continue
        ends = 4 + int(row[2]) + int(row[3])
        parameters = {key: value for key, _, value in (part.partition("=") for part in row[ends:])}
        outputs = row[4 + int(row[2]) : ends]
        found.append({"operator": row[0], "name": row[1], "outputs": outputs, "parameters": parameters})
    return found


def _precision(layer: dict[str, Any]) -> str | None:
    if layer["operator"] not in WEIGHTED:
        return None
    return "int8" if layer["parameters"].get(INTEGER, "0") != "0" else "f32"


def _describe(layer: dict[str, Any]) -> dict[str, Any]:
    name = layer["outputs"][0]
    shape = [int(layer["parameters"][key]) for key in SIZES if key in layer["parameters"]]
    if not shape:
        fact = f"the file does not say the shape of its input {name}"
        raise AgentError(USAGE, fact, "write it behind that Input: 0=WIDTH 1=HEIGHT 2=CHANNELS")
    return arrays.describe(name, [1, *shape], "float32", "float32")


@contextmanager
def _unpacked(source: str | bytes) -> Iterator[str]:
    """The path of the text, with the numbers beside it."""
    if isinstance(source, str):
        with open(source, "rb") as whole:
            content = whole.read()
        if b"\0" not in content:
            yield source
            return
        source = content
    text, _, numbers = source.partition(b"\0")
    with tempfile.TemporaryDirectory(prefix="edgesdk-") as folder:
        path = os.path.join(folder, "model.param")
        for name, part in ((path, text), (os.path.join(folder, "model.bin"), numbers)):
            with open(name, "wb") as file:
                file.write(part)
        yield path


@contextmanager
def _heard() -> Iterator[Callable[[], str]]:
    """What ncnn says on stderr, which is all that it tells of what is wrong, as a function for afterwards."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: _said(file)
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _said(file: Any) -> str:
    file.seek(0)
    return "; ".join(file.read(2000).decode("utf-8", "replace").split("\n")[:2]).strip("; ")
