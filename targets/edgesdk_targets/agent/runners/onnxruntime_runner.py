"""Running models with ONNX Runtime on the CPU."""

from __future__ import annotations

import functools
import json
import os
import re
import tempfile
from statistics import median
from typing import Any, Callable

from edgesdk_targets.agent import clock, files, onnx_file
from edgesdk_targets.agent.protocol import AgentError
from edgesdk_targets.agent.runners import arrays, refused

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # must be there before the import

import onnxruntime

VERSION = onnxruntime.__version__
NAME = f"ONNX Runtime {VERSION}"
PROVIDERS = ["CPUExecutionProvider"]
# It would quantize a float layer between integer ones by itself, with one scale for all of its weights.
WITHOUT = ["WeightBiasQuantization"]
WRITTEN_BYTES = 128 << 20  # of a model that is written as it runs, at most: it is in memory a second time meanwhile
LOW, HIGH = 0.1, 0.9  # what eight of ten runs of a kernel lie between
INTEGERS = {"DynamicQuantizeMatMul": "int8", "DynamicQuantizeLSTM": "int8"}  # what makes integers of its operand
DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({name})": name for name in ("int8", "int16", "int32", "int64")},
    **{f"tensor({name})": name for name in ("uint8", "uint16", "uint32", "uint64")},
}
sample, read_inputs = arrays.sample, arrays.read_inputs


class Session:
    """A loaded model. Raises ``AgentError`` where ONNX Runtime refuses it."""

    precision = None

    def __init__(self, source: str | bytes, threads: int, profiled_in: str | None = None, optimized: str = "") -> None:
        files.check(source, "onnxruntime", files.ONNX)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        if profiled_in is not None:
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(profiled_in, "profile")
            options.optimized_model_filepath = optimized
        try:
            self.session = onnxruntime.InferenceSession(source, options, PROVIDERS, disabled_optimizers=WITHOUT)
        except Exception as error:
            raise refused(NAME, error) from None
        self.providers = self.session.get_providers()
        nodes = self.session.get_inputs()
        self.inputs = [arrays.describe(node.name, node.shape, DTYPES.get(node.type), node.type) for node in nodes]

    def bind(self, values: dict[str, Any] | None = None) -> Callable[[], None]:
        """A function that runs the model once, its inputs and outputs bound beforehand.

        Through an I/O binding a run costs about 2 us less than through ``run`` with a dictionary, of 5 us, and the
        outputs are allocated once. The first call is a run to find out whether the inputs are accepted.
        """
        bound = arrays.values_for(self.inputs, values)
        binding = self.session.io_binding()
        for name, array in bound.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        for output in self.session.get_outputs():
            binding.bind_output(output.name)
        run = functools.partial(self.session.run_with_iobinding, binding)
        vars(run)["arrays"] = bound  # the binding borrows their memory
        try:
            run()
        except Exception as error:
            raise refused(NAME, error) from None
        return run

    def run_once(self, values: dict[str, Any]) -> dict[str, Any]:
        """The outputs of one run with ``values``, by name."""
        names = [output.name for output in self.session.get_outputs()]
        try:
            return dict(zip(names, self.session.run(names, arrays.values_for(self.inputs, values))))
        except AgentError:
            raise
        except Exception as error:
            raise refused(NAME, error) from None


def load(source: str | bytes, threads: int) -> Session:
    """The model in the file or in the bytes ``source``, with ``threads`` threads within an operator."""
    return Session(source, threads)


def profile(
    path: str, values: dict[str, Any] | None, threads: int, take: Callable[[Callable[[], object]], None]
) -> list[dict[str, Any]]:
    """The kernels that ran, in their order, shares adding to 1.

    ``profiled_ms`` is the median of the runs that are taken, after the first, under a profiler, which slows them;
    ``low_ms`` and ``high_ms`` are the tenth and the ninetieth percentile. ``takes`` and ``makes`` are a kernel's
    tensors, by the file that ONNX Runtime writes of the model as it runs it; without them where it writes none.
    """
    with tempfile.TemporaryDirectory(prefix="edgesdk-") as folder:
        session, tensors = _profiled(path, threads, folder)
        take(session.bind(values))
        with open(session.session.end_profiling(), encoding="utf-8") as file:
            ran = shares(json.load(file))
    return [dict(kernel, **tensors.get(kernel["name"], {})) for kernel in ran]


def _profiled(path: str, threads: int, folder: str) -> tuple[Session, dict[str, dict[str, list[str]]]]:
    """A session under the profiler, and the tensors of each of its kernels, where ONNX Runtime writes what it runs."""
    optimized = os.path.join(folder, "optimized.onnx")
    if os.path.getsize(path) <= WRITTEN_BYTES:
        try:
            session = Session(path, threads, folder, optimized)
            with open(optimized, "rb") as file:
                tensors = onnx_file.list_tensors(file.read())
            os.remove(optimized)
            return session, tensors
        except (AgentError, OSError):  # no space, or more than such a file holds
            pass
    return Session(path, threads, folder), {}


def _precision(detail: dict[str, Any]) -> str | None:
    """The type of a kernel's first operand, which is that of its own numbers; of some, which make integers of it."""
    shapes = detail.get("input_type_shape") or [{}]
    return INTEGERS.get(detail["op_name"]) or next(iter(shapes[0]), None)


def shares(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kernels in an ONNX Runtime profile, each with its share of the time, every kernel's first run left out.

    A kernel's time is its median: one run that was interrupted would be all that is seen of a mean.
    """
    kernels: dict[Any, dict[str, Any]] = {}
    durations: dict[Any, list[float]] = {}
    ending = "_kernel_time"
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(ending):
            continue
        detail = event["args"]
        key = (event["name"], detail.get("node_index"))
        name = event["name"][: -len(ending)]
        kernels[key] = {
            "name": name,
            "operator": detail["op_name"],
            "provider": detail.get("provider", ""),
            "layers": [re.sub(r"_token_\d+$", "", name)],  # what ONNX Runtime appends where it fuses
            "precision": _precision(detail),
        }
        durations.setdefault(key, []).append(event["dur"])
    runs = {key: sorted(times[1:] or times) for key, times in durations.items()}  # in microseconds
    typical = {key: median(times) for key, times in runs.items()}
    whole = sum(typical.values())
    return [
        dict(
            kernels[key],
            share=typical[key] / whole if whole else None,
            profiled_ms=typical[key] / 1e3,
            low_ms=clock.quantile(runs[key], LOW) / 1e3,
            high_ms=clock.quantile(runs[key], HIGH) / 1e3,
        )
        for key in kernels
    ]
