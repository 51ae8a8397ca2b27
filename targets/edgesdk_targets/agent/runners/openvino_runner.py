"""Running models with OpenVINO on the CPU."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any, Callable

from edgesdk_targets.agent import files
from edgesdk_targets.agent.runners import arrays, refused

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it tells its makers in a forked process
openvino: Any = importlib.import_module("openvino")

VERSION = openvino.__version__.partition("-")[0]
NAME = f"OpenVINO {VERSION}"
CORE = openvino.Core()
# Left to itself it computes in bfloat16 where the processor has it, without a word.
SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
DTYPES = {
    **{"f16": "float16", "f32": "float32", "f64": "float64", "boolean": "bool"},
    **{f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}
DATA = ("Input", "Const", "Output")
sample, read_inputs = arrays.sample, arrays.read_inputs


class Session:
    """A compiled model. Raises ``AgentError`` where OpenVINO refuses it. Nothing is kept in a cache of models."""

    def __init__(self, source: str | bytes, threads: int, count: bool = False) -> None:
        files.check(source, "openvino", files.IR, files.ONNX)
        settings = dict(SETTINGS, INFERENCE_NUM_THREADS=threads, PERF_COUNT=count)
        try:
            self.compiled = CORE.compile_model(CORE.read_model(source), "CPU", settings)
            self.providers = list(self.compiled.get_property("EXECUTION_DEVICES"))
            self.precision = self.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        except Exception as error:
            raise refused(NAME, error) from None
        self.inputs = [_describe(port) for port in self.compiled.inputs]

    def bind(self, values: dict[str, Any] | None = None) -> Callable[[], object]:
        """A function that runs the model once in this thread, its inputs bound beforehand.

        ``InferRequest.infer`` makes objects of the results, 1 us more a run of 8 us than the call beneath it, which
        only looks at them; ``start_async`` and ``wait`` hand over to another thread and back, 80 us more. The first
        call is a run to find out whether the inputs are accepted.
        """
        bound = arrays.values_for(self.inputs, values)
        request = self.compiled.create_infer_request()
        run = functools.partial(super(openvino.InferRequest, request).infer, {}, True, True)
        vars(run)["arrays"] = bound  # the request borrows their memory
        vars(run)["request"] = request
        try:
            for index, array in enumerate(bound.values()):
                request.set_input_tensor(index, openvino.Tensor(array, shared_memory=True))
            run()
        except Exception as error:
            raise refused(NAME, error) from None
        return run

    def run_once(self, values: dict[str, Any]) -> dict[str, Any]:
        """The outputs of one run with ``values``, by name."""
        request = vars(self.bind(values))["request"]
        ports = enumerate(self.compiled.outputs)
        return {_output_name(port): request.get_output_tensor(index).data.copy() for index, port in ports}


def load(source: str | bytes, threads: int) -> Session:
    """The model in an IR or ONNX file or in the bytes of an ONNX file, with ``threads`` threads and one stream."""
    return Session(source, threads)


def profile(path: str, values: dict[str, Any] | None, threads: int, take: Any) -> list[dict[str, Any]]:
    """The kernels that ran, in their order, with their ``primitive`` too: the implementation that was chosen.

    OpenVINO tells the mean of all runs since a model was compiled, in whole microseconds, and no single ones. So each
    block of runs has a model compiled for it, and the second shortest of the blocks' means is a kernel's time: one run
    that was interrupted would be all that is seen of a mean. A kernel below a microsecond has 0.
    """
    blocks = [_Block(path, values, threads)]

    def anew() -> Callable[[], object]:
        blocks.append(_Block(path, values, threads))
        return blocks[-1]

    take(blocks[0], anew if take.seconds else None)
    times = [block.took() for block in blocks]
    return shares([(sorted(each)[min(1, len(each) - 1)], kernel) for each, kernel in zip(zip(*times), blocks[0].ran())])


class _Block:
    """Runs of a model that is compiled for them, and how long each of its kernels took in the mean of them."""

    def __init__(self, path: str, values: dict[str, Any] | None, threads: int) -> None:
        self.session = Session(path, threads, count=True)
        self.run, self.count = self.session.bind(values), 1
        self()
        self.before = self.count, self._means()  # the first runs of a model are longer

    def __call__(self) -> None:
        self.count += 1
        self.run()

    def _means(self) -> list[int]:
        return [time for time, _ in kernels(self.session.compiled.get_runtime_model())]

    def ran(self) -> list[dict[str, Any]]:
        """The kernels, in their order."""
        return [kernel for _, kernel in kernels(self.session.compiled.get_runtime_model())]

    def took(self) -> list[int]:
        """The means in us of the runs since it was made, by the kernels' order."""
        skipped, means = self.before
        runs = self.count - skipped
        every = zip(means, self._means())
        return [max(round((self.count * after - skipped * before) / runs), 0) for before, after in every]


def shares(times: list[tuple[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Kernels, each with its time in us, with their shares of the time of all."""
    whole = sum(time for time, _ in times)
    return [dict(kernel, share=time / whole if whole else None, profiled_ms=time / 1e3) for time, kernel in times]


def kernels(executed: Any) -> list[tuple[int, dict[str, Any]]]:
    """The kernels of an executed graph, in their order, each after its mean time in us.

    What has neither a kernel nor a time is data, or another view of it.
    """
    rows = []
    for node in executed.get_ops():
        facts = {name: value.astype(str) for name, value in node.get_rt_info().items()}
        time, primitive = facts["execTimeMcs"], facts["primitiveType"]
        if facts["layerType"] in DATA or (time == "not_executed" and primitive.startswith("unknown")):
            continue
        read = [port.get_source_output().get_node() for port in node.inputs()]
        constants = [source.get_friendly_name() for source in read if _fact(source, "layerType") == "Const"]
        kernel = {
            "name": node.get_friendly_name(),
            "operator": facts["layerType"],
            "provider": "CPU",
            "layers": [name for name in facts["originalLayersNames"].split(",") if name] + constants,
            "held": constants,
            "precision": facts["runtimePrecision"],
            "primitive": primitive,
        }
        rows.append((int(facts["execOrder"]), 0 if time == "not_executed" else int(time), kernel))
    rows.sort(key=lambda item: item[0])
    return [(time, kernel) for _, time, kernel in rows]


def _fact(node: Any, name: str) -> str:
    return node.get_rt_info()[name].astype(str)


def _output_name(port: Any) -> str:
    """The name that the file itself gives to the output; its tensor may have others."""
    own, names = port.get_node().get_friendly_name().partition("/sink_port_")[0], port.get_names()
    return own if own in names or not names else port.get_any_name()


def _describe(port: Any) -> dict[str, Any]:
    """The input under the name that the file gives it; a port may have others."""
    node, names = port.get_node().get_friendly_name(), port.get_names()
    name = node if node in names or not names else port.get_any_name()
    told, shape = port.get_element_type().get_type_name(), port.get_partial_shape()
    sizes = [size.get_length() if size.is_static else None for size in shape] if shape.rank.is_static else []
    return arrays.describe(name, sizes, DTYPES.get(told), told)
