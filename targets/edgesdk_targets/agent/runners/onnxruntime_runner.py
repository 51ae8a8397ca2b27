"""Running models with ONNX Runtime on the CPU."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from typing import Any, Callable

from edgesdk_targets.agent.protocol import MISSING, RUNTIME, USAGE, AgentError

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # must be there before the import

import numpy
import onnxruntime

VERSION = onnxruntime.__version__
PROVIDERS = ["CPUExecutionProvider"]
SEED = 0
ALIGNMENT = 64
DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({name})": name for name in ("int8", "int16", "int32", "int64")},
    **{f"tensor({name})": name for name in ("uint8", "uint16", "uint32", "uint64")},
}


class Session:
    """A loaded model. Raises ``AgentError`` where ONNX Runtime refuses it."""

    def __init__(self, source: str | bytes, threads: int, profile_prefix: str | None = None) -> None:
        if isinstance(source, str) and not os.path.isfile(source):
            raise AgentError(MISSING, f"{source} is not on this device", "send the file first")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        try:
            self.session = onnxruntime.InferenceSession(source, options, providers=PROVIDERS)
        except Exception as error:
            raise _refused(error) from None
        self.providers = self.session.get_providers()
        self.inputs = [_describe(node) for node in self.session.get_inputs()]

    def bind(self, values: dict[str, Any] | None = None) -> Callable[[], None]:
        """A function that runs the model once, its inputs and outputs bound beforehand.

        Through an I/O binding a run costs about 2 us less than through ``run`` with a dictionary, of 5 us, and the
        outputs are allocated once. The first call is a run to find out whether the inputs are accepted.
        """
        arrays = sample(self.inputs) if values is None else _check(values, self.inputs)
        binding = self.session.io_binding()
        for name, array in arrays.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        for output in self.session.get_outputs():
            binding.bind_output(output.name)
        run = functools.partial(self.session.run_with_iobinding, binding)
        vars(run)["arrays"] = arrays  # the binding borrows their memory
        try:
            run()
        except Exception as error:
            raise _refused(error) from None
        return run


def load(source: str | bytes, threads: int) -> Session:
    """The model in the file or in the bytes ``source``, with ``threads`` threads within an operator."""
    return Session(source, threads)


def read_inputs(path: str) -> dict[str, Any]:
    """The arrays of an ``.npz`` file, by input name."""
    try:
        with numpy.load(path, allow_pickle=False) as archive:
            return {name: _aligned(archive[name]) for name in archive.files}
    except FileNotFoundError:
        raise AgentError(MISSING, f"{path} is not on this device", "send the file first") from None
    except (ValueError, OSError) as error:
        raise AgentError(USAGE, f"{path} is no .npz file ({error})", "write it with numpy.savez") from None


def sample(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """Values for ``inputs``: normally distributed floats from a fixed seed, zeros of any other type."""
    generator = numpy.random.default_rng(SEED)
    values = {}
    for item in inputs:
        array = values[item["name"]] = _empty(item["shape"], item["dtype"])
        if item["dtype"] in ("float32", "float64"):
            generator.standard_normal(out=array, dtype=item["dtype"])
        else:
            array[...] = generator.standard_normal(item["shape"]) if item["dtype"] == "float16" else 0
    return values


def profile(path: str, values: dict[str, Any] | None, threads: int, runs: int) -> list[dict[str, Any]]:
    """The kernels that ran, in their order: ``[{"name", "operator", "provider", "share"}]``, shares adding to 1.

    Profiling slows the runs, so only shares are told, averaged over ``runs`` runs after the first.
    """
    with tempfile.TemporaryDirectory(prefix="edgesdk-") as folder:
        session = Session(path, threads, os.path.join(folder, "profile"))
        run = session.bind(values)
        for _ in range(runs):
            run()
        with open(session.session.end_profiling(), encoding="utf-8") as file:
            return shares(json.load(file))


def shares(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kernels in an ONNX Runtime profile, each with its share of the time, every kernel's first run left out."""
    kernels: dict[Any, dict[str, Any]] = {}
    durations: dict[Any, list[float]] = {}
    ending = "_kernel_time"
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(ending):
            continue
        detail = event["args"]
        key = (event["name"], detail.get("node_index"))
        name = event["name"][: -len(ending)]
        kernels[key] = {"name": name, "operator": detail["op_name"], "provider": detail.get("provider", "")}
        durations.setdefault(key, []).append(event["dur"])
    totals = {key: float(sum(times[1:])) for key, times in durations.items()}
    whole = sum(totals.values())
    return [dict(kernels[key], share=totals[key] / whole if whole else None) for key in kernels]


def _describe(node: Any) -> dict[str, Any]:
    if node.type not in DTYPES:
        fact = f"the input {node.name} is a {node.type}"
        raise AgentError(USAGE, fact, "export the model with tensors of numbers as inputs")
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in node.shape]
    return {"name": node.name, "shape": shape, "dtype": DTYPES[node.type]}


def _empty(shape: Any, dtype: Any) -> Any:
    # Memory that begins where the runtime's own would. NumPy's begins at any multiple of 16, and some kernels take
    # 10 % longer with that, which a tiny model would show in one process and not in the next.
    size = int(numpy.prod(shape, dtype=numpy.int64)) * numpy.dtype(dtype).itemsize
    memory = numpy.empty(size + ALIGNMENT, numpy.uint8)
    offset = -memory.ctypes.data % ALIGNMENT
    return memory[offset : offset + size].view(dtype).reshape(shape)


def _aligned(array: Any) -> Any:
    copy = _empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def _check(values: dict[str, Any], inputs: list[dict[str, Any]]) -> dict[str, Any]:
    names = [item["name"] for item in inputs]
    if missing := [name for name in names if name not in values]:
        fact = f"the inputs lack {', '.join(missing)}"
        raise AgentError(USAGE, fact, f"give an array for each of {', '.join(names)}")
    for item in inputs:
        dtype = str(values[item["name"]].dtype)
        if dtype != item["dtype"]:
            fact = f"the input {item['name']} is {dtype}, the model takes {item['dtype']}"
            raise AgentError(USAGE, fact, "save it with that dtype")
    return {name: numpy.asarray(values[name], order="C") for name in names}


def _refused(error: Exception) -> AgentError:
    fact = f"ONNX Runtime {VERSION} refuses the model ({str(error)[:1000]})"
    return AgentError(RUNTIME, fact, "export for this version of the runtime, or use a newer one")
