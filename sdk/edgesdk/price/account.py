"""Bytes of a network in one runtime, from its graph: of the file, and of memory at the peak. The one account of both.

The search prices a choice in columns that add up; an account looks at a whole network, which no sum can do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgesdk.core.graph import Graph, Layer
from edgesdk.core.plan import Option
from edgesdk.core.runtime import ONNX, FileBytes, find_runtime
from edgesdk.price import files, memory
from edgesdk.price.physics import BYTES


@dataclass(frozen=True)
class Held:
    """What a layer takes of memory: all the time, its output while that lives, and scratch while it runs.

    ``kernels`` names what the runtime loads once, however many layers run it.
    """

    resident: float
    output: float
    scratch: float = 0.0
    kernels: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Account:
    """The account of ``runtime``, whose files are as ``file`` says, and which takes memory as ``constants`` say."""

    runtime: str
    file: FileBytes = ONNX.takes
    constants: memory.Memory = memory.NEWEST

    @classmethod
    def of(cls, runtime: str, version: str | None = None) -> Account:
        """The account of that version; of the newest that was looked into where it is none."""
        return cls(runtime, (find_runtime(runtime).format or ONNX).takes, memory.constants_of(version))

    def calibrated(self, seen: Sequence[tuple[Graph, Mapping[str, Option], float]]) -> Account:
        """This account with what names and nodes take in files that were written: networks, and bytes of their files.

        The first is in fp32.
        """
        file = self.file
        for graph, options, size in seen:
            file = files.calibrated(file, graph, options, size)
        return replace(self, file=file)

    def size_bytes(self, graph: Graph, options: Mapping[str, Option]) -> float:
        """Bytes of the file. A layer that ``options`` lacks is in FP32."""
        return files.file_bytes(self.file, graph, options)

    def peak_bytes(self, graph: Graph, options: Mapping[str, Option]) -> float:
        """Bytes that a process grows by at most while it loads and runs the network."""
        if self.traced:
            return memory.peak_bytes(graph, options, self.constants)
        return plain_bytes(graph, options)[0]

    @property
    def traced(self) -> bool:
        """Whether it follows what the runtime does, step by step; else weights and live outputs stand for that."""
        return find_runtime(self.runtime).traced

    def fixed(self, graph: Graph) -> tuple[float, float, Mapping[str, float]]:
        """What a process takes whatever is chosen, what it had to spare, and the bytes of each kernel."""
        return memory.fixed(graph, self.constants) if self.traced else (0.0, 0.0, {})

    def layer_bytes(self, parts: Sequence[Layer], option: Option) -> float:
        """What a layer, as those ``parts``, adds to the file."""
        return sum(files.layer_bytes(self.file, part, option) for part in parts)

    @property
    def fixed_bytes(self) -> float:
        """What each file has beside its layers."""
        return self.file.fixed

    @property
    def quantize_bytes(self) -> float:
        """What quantizing a tensor adds to the file."""
        return self.file.quantized

    def held(self, parts: Sequence[Layer], option: Option) -> Held:
        """What a layer, as those ``parts``, takes of memory."""
        if self.traced:
            return Held(*memory.held(parts, option, self.constants))
        between = max((_output(part, option) for part in parts[:-1]), default=0.0)
        resident = sum(files.weight_bytes(part, option) for part in parts)
        return Held(resident, _output(parts[-1], option), between)


def _output(layer: Layer, option: Option) -> float:
    return layer.elements * BYTES[option.precision]


def plain_bytes(graph: Graph, options: Mapping[str, Option]) -> tuple[float, float]:
    """Peak memory and size in a runtime whose memory was not looked into: weights, and the most that lives at once."""
    each = {layer.name: options.get(layer.name, Option()) for layer in graph.layers}
    weights = sum(layer.parameters * each[layer.name].weight_bits / 8 for layer in graph.layers)
    output = {layer.name: _output(layer, each[layer.name]) for layer in graph.layers}
    return weights + max((sum(output[name] for name in live) for live in graph.live.values()), default=0.0), weights
