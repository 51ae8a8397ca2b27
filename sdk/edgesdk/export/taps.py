"""A copy of a file that gives what lies inside, too: some of its tensors as further outputs.

What has outputs cannot be fused away, so a runtime may compile such a copy otherwise than the file itself: compare the
ends of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import UsageError
from edgesdk.core.runtime import format_of


@dataclass(frozen=True)
class Tap:
    """A tensor inside a file. Of integers ``scale`` and ``zero`` say what they stand for."""

    name: str
    scale: float | None = None
    zero: int = 0

    def value(self, array: NDArray[Any]) -> NDArray[Any]:
        """What ``array``, as the runtime gives it, stands for."""
        if self.scale is None:
            return array
        return ((array.astype(np.float32) - self.zero) * np.float32(self.scale)).astype(np.float32)


@dataclass(frozen=True)
class Tapped:
    """The copy of a file, what that calls its ``ends``, and what it has inside at ``taps``: outputs in that order."""

    artifact: Artifact
    ends: tuple[str, ...]
    taps: tuple[Tap, ...]


Ends = tuple[tuple[str, ...], tuple[Tap, ...]]  # of a copy that was written


def tap(artifact: Artifact, names: Collection[str], folder: Path) -> Tapped:
    """A copy in ``folder`` of the file that gives those tensors among ``names`` that it has, too.

    Raises ``UsageError`` for a format of which no copy can be made.
    """
    format_name = format_of(artifact.runtime).name
    if format_name not in TAPPED:
        raise UsageError(
            f"what lies inside {format_name} files cannot be seen", f"choose a bundle of {' or '.join(TAPPED)}"
        )
    path = folder / f"tapped{artifact.path.suffix}"
    return Tapped(replace(artifact, path=path), *TAPPED[format_name](artifact.path, set(names), path))


def _tap_onnx(path: Path, names: set[str], out: Path) -> Ends:
    import onnx

    model = onnx.load(str(path))  # pyright: ignore[reportUnknownMemberType]
    ends = tuple(value.name for value in model.graph.output)
    inside = [name for node in model.graph.node for name in node.output if name in names and name not in ends]
    for name in inside:
        value = model.graph.output.add()
        value.name = name
    out.write_bytes(model.SerializeToString())
    return ends, tuple(map(Tap, inside))


def _tap_openvino(path: Path, names: set[str], out: Path) -> Ends:
    from edgesdk.export.openvino import import_openvino

    openvino = import_openvino()
    model = openvino.Core().read_model(str(path))
    ends = tuple(value.get_any_name() for value in model.outputs)
    taken = {name for value in model.outputs for name in value.get_names()}
    inside: list[str] = []
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Constant", "Parameter", "Result"):
            continue
        for value in node.outputs():
            fitting = sorted((value.get_names() & names) - taken)
            if fitting:
                model.add_outputs([fitting[0]])
                inside.append(fitting[0])
    openvino.save_model(model, str(out), compress_to_fp16=False)
    return ends, tuple(map(Tap, inside))


def _tap_tflite(path: Path, names: set[str], out: Path) -> Ends:
    import flatbuffers

    from edgesdk.export.tflite.writer import schema

    kinds = schema()
    model = kinds.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    made = {int(index) for operator in graph.operators for index in operator.outputs}
    called = [tensor.name.decode() if isinstance(tensor.name, bytes) else str(tensor.name) for tensor in graph.tensors]
    places = [i for i in sorted(made - {int(index) for index in graph.outputs}) if called[i] in names]
    ends, taps = tuple(called[int(index)] for index in graph.outputs), list[Tap]()
    for place in places:
        tensor = graph.tensors[place]
        whole = tensor.type == kinds.TensorType.INT8
        taps.append(_integers(called[place], tensor.quantization) if whole else Tap(called[place]))
    graph.outputs = np.array([*graph.outputs, *places], np.int32)
    model.signatureDefs = None  # it names the ends alone, and a runtime wants all outputs in it
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    out.write_bytes(bytes(builder.Output()))
    return ends, tuple(taps)


def _integers(name: str, grid: Any) -> Tap:
    """The tap of a tensor of integers; its values stand for themselves where no ``grid`` says otherwise."""
    return Tap(name) if grid is None or grid.scale is None else Tap(name, float(grid.scale[0]), int(grid.zeroPoint[0]))


TAPPED: dict[str, Callable[[Path, set[str], Path], Ends]] = {
    "onnx": _tap_onnx, "openvino": _tap_openvino, "tflite": _tap_tflite,
}  # fmt: skip
