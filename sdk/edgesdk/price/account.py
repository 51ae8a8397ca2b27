"""Bytes of a network in one runtime, from its graph: of the file, and of memory at the peak. The one account of both.

The search prices a choice in columns that add up; an account looks at a whole network, which no sum can do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgesdk.core.file_bytes import FileBytes
from edgesdk.core.graph import Graph, Layer
from edgesdk.core.plan import Option
from edgesdk.core.runtime import ONNX, find_runtime, load_function
from edgesdk.price import files
from edgesdk.price.memory.held import Fixed, Held, MemoryAccount, chain, live_bytes


@dataclass(frozen=True)
class LiveBytes:
    """The memory of a runtime that was not looked into: weights, and the most that lives at once."""

    def peak_bytes(self, graph: Graph, options: Mapping[str, Option]) -> float:
        return plain_bytes(graph, options)[0]

    def fixed(self, graph: Graph) -> Fixed:
        return Fixed(0.0, 0.0, {})

    def held(self, parts: Sequence[Layer], option: Option) -> Held:
        return Held(sum(files.weight_bytes(part, option) for part in parts), *chain(parts, option))


@dataclass(frozen=True)
class Account:
    """The account of ``runtime``, whose files are as ``file`` says, and which takes memory as ``memory`` says.

    It is ``traced`` where that follows what the runtime does; else weights and live outputs stand for it.
    """

    runtime: str
    file: FileBytes = ONNX.takes
    memory: MemoryAccount = LiveBytes()

    @classmethod
    def of(cls, runtime: str, version: str | None = None) -> Account:
        """The account of that version; of the newest that was looked into where it is none."""
        row = find_runtime(runtime)
        memory = LiveBytes() if row.memory is None else load_function(row.memory)(version)
        return cls(runtime, (row.format or ONNX).takes, memory)

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
        return self.memory.peak_bytes(graph, options)

    @property
    def traced(self) -> bool:
        return not isinstance(self.memory, LiveBytes)

    def fixed(self, graph: Graph) -> Fixed:
        """What a process takes whatever is chosen, what it had to spare, and the bytes of each kernel."""
        return self.memory.fixed(graph)

    def layer_bytes(self, parts: Sequence[Layer], option: Option, again: bool = False) -> float:
        """What a layer, as those ``parts``, adds to the file, where it runs ``again`` without its weights."""
        return sum(files.layer_bytes(self.file, part, option, again) for part in parts)

    @property
    def fixed_bytes(self) -> float:
        """What each file has beside its layers."""
        return self.file.fixed

    @property
    def quantize_bytes(self) -> float:
        """What quantizing a tensor adds to the file."""
        return self.file.entered * self.file.integer_scale

    def held(self, parts: Sequence[Layer], option: Option) -> Held:
        """What a layer, as those ``parts``, takes of memory."""
        return self.memory.held(parts, option)


def plain_bytes(graph: Graph, options: Mapping[str, Option]) -> tuple[float, float]:
    """Peak memory and size in a runtime whose memory was not looked into: weights, and the most that lives at once."""
    layers = [layer for layer in graph.layers if layer.name not in graph.repeats]
    weights = sum(layer.parameters * options.get(layer.name, Option()).weight_bits / 8 for layer in layers)
    return weights + live_bytes(graph, options), weights
