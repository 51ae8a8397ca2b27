"""Running TFLite files. Two packages have the same interpreter, an older one and its successor."""

from __future__ import annotations

from typing import Any, Callable, Sequence

import numpy

from edgesdk_targets.agent import files
from edgesdk_targets.agent.protocol import RUNTIME, AgentError
from edgesdk_targets.agent.runners import arrays, refused

FLOATS, INTEGERS = ("float16", "float32", "float64"), ("int8", "int16", "int32", "int64")
DTYPES = (*FLOATS, *INTEGERS, *(f"u{name}" for name in INTEGERS), "bool")
WEIGHTED = ("CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
DELEGATE = "DELEGATE"


class Session:
    """A loaded model in the ``interpreter`` of a package. Raises ``AgentError`` where that refuses it.

    ``runtime`` is the package's name among the runners, ``version`` what it is.
    """

    precision = None

    def __init__(self, interpreter: Any, runtime: str, version: str, source: str | bytes, threads: int) -> None:
        files.check(source, runtime, files.TFLITE)
        self.name = f"{runtime} {version}"
        if files.kind(source) is None:
            raise AgentError(RUNTIME, f"{self.name} refuses the model (it is no TFLite file)", "send a whole file")
        model = {"model_path": source} if isinstance(source, str) else {"model_content": source}
        try:
            self.interpreter = interpreter.Interpreter(num_threads=threads, **model)
            self.interpreter.allocate_tensors()
        except Exception as error:
            raise refused(self.name, error) from None
        self.names = signature_names(self.interpreter)
        self.inputs = [_describe(detail, self.names) for detail in self.interpreter.get_input_details()]

    @property
    def providers(self) -> list[str]:
        """XNNPACK where it took any operator, and the built-in kernels where it left any."""
        operators = self.interpreter._get_ops_details()
        taken, left = delegated(operators), [item for item in operators if item["op_name"] != DELEGATE]
        return ["XNNPACK"] * bool(taken) + ["builtin"] * (len(taken) < len(left))

    def bind(self, values: dict[str, Any] | None = None) -> Callable[[], None]:
        """A function that runs the model once, its inputs copied into the interpreter beforehand.

        The first call is a run to find out whether the inputs are accepted. The interpreter has one set of inputs, so
        that the latest call counts; they may be of any size along the file's dynamic dimensions.
        """
        bound = arrays.values_for(self.inputs, values)
        details = self.interpreter.get_input_details()
        try:
            for detail, array in zip(details, bound.values()):
                if tuple(detail["shape"]) != array.shape:
                    self.interpreter.resize_tensor_input(detail["index"], array.shape, strict=True)
            self.interpreter.allocate_tensors()
            for detail, array in zip(details, bound.values()):
                self.interpreter.set_tensor(detail["index"], array)
            self.interpreter.invoke()
        except Exception as error:
            raise refused(self.name, error) from None
        return self.interpreter.invoke

    def run_once(self, values: dict[str, Any]) -> dict[str, Any]:
        """The outputs of one run with ``values``, by name."""
        self.bind(values)
        details = self.interpreter.get_output_details()
        return {_name(detail, self.names): self.interpreter.get_tensor(detail["index"]) for detail in details}


def profile(
    load: Callable[[str, int], Session], path: str, values: dict[str, Any] | None, threads: int, take: object
) -> list[dict[str, Any]]:
    """The operators in the order of the file, and which of them XNNPACK took; the interpreter tells no times."""
    session = load(path, threads)
    session.bind(values)
    return kernels(session.interpreter)


def kernels(interpreter: Any) -> list[dict[str, Any]]:
    """The operators of the file as kernels.

    ``layers`` are the tensors that one makes and the constants that it reads; ``precision`` is the type of its
    weights, or of its first operand where it has none.
    """
    operators = interpreter._get_ops_details()
    tensors = {int(tensor["index"]): tensor for tensor in interpreter.get_tensor_details()}
    taken = delegated(operators)
    plain = [item for item in operators if item["op_name"] != DELEGATE]
    variable = {int(index) for item in plain for index in item["outputs"]}
    variable |= {int(detail["index"]) for detail in interpreter.get_input_details()}
    executed = []
    for item in plain:
        inputs = [int(index) for index in item["inputs"] if int(index) in tensors]
        names = [tensors[int(index)]["name"] for index in item["outputs"] if int(index) in tensors]
        constants = [tensors[index]["name"] for index in inputs if index not in variable]
        told = inputs[1:2] if item["op_name"] in WEIGHTED else inputs[:1]
        executed.append(
            {
                "name": ", ".join(names),
                "operator": item["op_name"],
                "provider": "XNNPACK" if item["index"] in taken else "builtin",
                "share": None,
                "profiled_ms": None,
                "layers": names + constants,
                "held": constants,
                "precision": numpy.dtype(tensors[told[0]]["dtype"]).name if told else None,
            }
        )
    return executed


def delegated(operators: Sequence[dict[str, Any]]) -> set[int]:
    """The indices of the operators that delegates run in their place."""
    return {index for part in parts(operators) for index in part}


def parts(operators: Sequence[dict[str, Any]]) -> list[list[int]]:
    """The indices of the operators that each delegate runs in their place, one after the other.

    The list keeps what a delegate replaced and has the delegate behind it; what lies on the way from a delegate's
    inputs to its outputs is what it runs.
    """
    makers = {int(index): item for item in operators if item["op_name"] != DELEGATE for index in item["outputs"]}
    found = []
    for delegate in operators:
        if delegate["op_name"] != DELEGATE:
            continue
        indices: set[int] = set()
        seen = {int(index) for index in delegate["inputs"]}
        waiting = [int(index) for index in delegate["outputs"]]
        while waiting:
            index = waiting.pop()
            if index in seen or index not in makers:
                continue
            seen.add(index)
            indices.add(makers[index]["index"])
            waiting += [int(index) for index in makers[index]["inputs"]]
        found.append(sorted(indices))
    return found


def signature_names(interpreter: Any) -> dict[int, str]:
    """By tensor index, the names that the file's signature gives to inputs and outputs; none without a signature.

    A file may have signatures of other subgraphs; the one that counts has the inputs that the interpreter sets.
    """
    inputs = {int(detail["index"]) for detail in interpreter.get_input_details()}
    outputs = {int(detail["index"]) for detail in interpreter.get_output_details()}
    for signature in interpreter._get_full_signature_list().values():
        if set(signature["inputs"].values()) == inputs and set(signature["outputs"].values()) == outputs:
            return {index: name for side in ("inputs", "outputs") for name, index in signature[side].items()}
    return {}


def _describe(detail: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    dtype = numpy.dtype(detail["dtype"]).name
    shape = [int(size) for size in detail["shape_signature"]] or [int(size) for size in detail["shape"]]
    return arrays.describe(_name(detail, names), shape, dtype if dtype in DTYPES else None, dtype)


def _name(detail: dict[str, Any], names: dict[int, str]) -> str:
    return names.get(int(detail["index"])) or detail["name"]
