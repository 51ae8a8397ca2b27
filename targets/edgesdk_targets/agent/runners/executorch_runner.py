"""Running ExecuTorch programs on the CPU, in float32 or on the integers of the file: XNNPACK's kernels and its own.

The wheel's runtime takes PyTorch's tensors, so that it needs PyTorch, too. It is imported without what else the wheel
has, which takes seconds.
"""

from __future__ import annotations

import importlib
import json
import weakref
from importlib import metadata
from typing import Any, Callable

from edgesdk_targets.agent import files, xnnpack
from edgesdk_targets.agent.protocol import RUNTIME, AgentError
from edgesdk_targets.agent.runners import arrays, refused
from edgesdk_targets.agent.runners.hushed import hushed

torch: Any = importlib.import_module("torch")  # before its library, which is linked with PyTorch's
library: Any = importlib.import_module("executorch.extension.pybindings._C")
VERSION = metadata.version("executorch")
NAME = f"executorch {VERSION}"
TOLD = "edgesdk"  # the method of a program that says what its inputs, outputs and layers are called
DTYPES = {
    0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64", 11: "bool",
}  # fmt: skip
PRECISIONS = {xnnpack.FLOAT: "f32", xnnpack.WEIGHTS: "int8", xnnpack.INT8: "int8"}
sample, read_inputs = arrays.sample, arrays.read_inputs


class Pool:
    """The threads of the process, which all programs share: as many as the one that wants most of those loaded.

    A program holds on to the pool that it was loaded with, so that it must be loaded anew where there is another.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.sessions: weakref.WeakSet[Session] = weakref.WeakSet()

    def join(self, session: Session) -> None:
        self.sessions.add(session)
        wanted = max(each.threads for each in self.sessions)
        with hushed():  # the first to ask makes it, which says what it found
            if wanted != library._threadpool_get_thread_count():
                library._unsafe_reset_threadpool(wanted)
                self.generation += 1


POOL = Pool()


class Session:
    """A loaded program's method ``forward``. Raises ``AgentError`` where ExecuTorch refuses it."""

    precision = "f32"

    def __init__(self, source: str | bytes, threads: int) -> None:
        self.source, self.threads, self.generation = source, threads, -1
        files.check(source, "executorch", files.EXECUTORCH)
        if files.kind(source) is None:  # its own check of a file ends the process
            raise AgentError(RUNTIME, f"{NAME} refuses the model (it is no program)", "send a whole file")
        self.providers = ["CPU"]
        POOL.join(self)
        told = self._load()
        meta = self.method.method_meta()
        names = told.get("inputs") or [f"input_{i}" for i in range(meta.num_inputs())]
        self.inputs = [_describe(name, meta.input_tensor_meta(i)) for i, name in enumerate(names)]
        self.outputs = told.get("outputs") or [f"output_{i}" for i in range(meta.num_outputs())]

    def _load(self) -> dict[str, Any]:
        """Load the program with the threads that there are now; what it tells of itself."""
        self.generation = POOL.generation
        with hushed():
            try:
                load = library._load_program if isinstance(self.source, str) else library._load_program_from_buffer
                self.program = load(self.source)
                self.method = self.program.load_method("forward")
                return _told(self.program)
            except Exception as error:
                raise refused(NAME, error) from None

    def bind(self, values: dict[str, Any] | None = None) -> Callable[[], object]:
        """A function that runs the program once, its inputs made tensors beforehand.

        The first call is a run to find out whether the inputs are accepted.
        """
        bound = arrays.values_for(self.inputs, values)
        for item in self.inputs:
            if list(bound[item["name"]].shape) != item["shape"]:
                fact = f"the input {item['name']} has shape {list(bound[item['name']].shape)}"
                raise AgentError(RUNTIME, fact, f"the model takes {item['shape']}")
        given = tuple(torch.from_numpy(array if array.flags.writeable else array.copy()) for array in bound.values())

        def run() -> list[Any]:
            if self.generation != POOL.generation:
                self._load()
            return self.method(given)

        try:
            run()
        except Exception as error:
            raise refused(NAME, error) from None
        return run

    def run_once(self, values: dict[str, Any]) -> dict[str, Any]:
        """The outputs of one run with ``values``, by name."""
        made = self.bind(values)()
        return {name: tensor.numpy().copy() for name, tensor in zip(self.outputs, made)}  # type: ignore[call-overload]


def load(source: str | bytes, threads: int) -> Session:
    """The program in a ``.pte`` file or its bytes. Threads are of the whole process: see :class:`Pool`."""
    return Session(source, threads)


def profile(path: str, values: dict[str, Any] | None, threads: int, take: object) -> list[dict[str, Any]]:
    """The operators of the parts that XNNPACK computes, as it is given them; the wheel tells no times."""
    session = load(path, threads)
    session.bind(values)
    layers = _told(session.program).get("layers", {})
    with open(path, "rb") as file:
        graphs = xnnpack.read_graphs(file.read())
    return [
        {
            "name": f"{node.operator} {node.handle}",
            "operator": node.operator,
            "provider": "XNNPACK",
            "share": None,
            "profiled_ms": None,
            "layers": [layers[str(node.handle)]] if str(node.handle) in layers else [],
            "precision": None if node.weights is None else PRECISIONS.get(node.weights),
        }
        for graph in graphs
        for node in graph.nodes
    ]


def _told(program: Any) -> dict[str, Any]:
    """What edgesdk wrote into a program of its own; nothing of others."""
    methods = [program.get_method_name(i) for i in range(program.num_methods())]
    return json.loads(program.load_method(TOLD)(())[0]) if TOLD in methods else {}


def _describe(name: str, tensor: Any) -> dict[str, Any]:
    kind = tensor.dtype()
    return arrays.describe(name, tensor.sizes(), DTYPES.get(int(kind)), f"tensor of type {kind}")
