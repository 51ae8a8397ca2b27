"""What a runtime ran for each layer of a file, by its own profiler."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = re.compile(r"^(node_|/)")  # of names that an exporter makes of a layer's
NCHWC = "_nchwc"  # ends what ONNX Runtime calls a kernel in its blocked layout, by the tensor that it makes
INNER = re.compile(r"[^A-Za-z0-9]")  # what comes between the name of a layer and that of a part of it


@dataclass(frozen=True)
class Kernel:
    """A kernel that ran: ``operator`` as the runtime calls it, for the ``layers`` of the plan that are fused in it.

    ``share`` is that of all kernels' time in one run, ``profiled_ms`` its own, under the profiler, which slows runs;
    each is ``None`` where the runtime tells no times. ``layers`` is empty for what is of no layer, as a change of
    layout is; for a file without a plan it has the names that the runtime tells.
    """

    name: str
    operator: str
    provider: str
    precision: str | None
    layers: tuple[str, ...]
    share: float | None
    profiled_ms: float | None


def read_kernels(told: Sequence[Mapping[str, Any]], layers: Sequence[str] | None, path: Path) -> tuple[Kernel, ...]:
    """The kernels that an agent ``told`` of the file at ``path``, with the names of a plan's ``layers``, or without a
    plan as they are."""
    fused = _fused_names(path) if path.suffix == ".onnx" else {}
    kernels: list[Kernel] = []
    for kernel in told:
        names = [part for name in kernel["layers"] for part in fused.get(name, (name,))]
        kernels.append(
            Kernel(
                name=str(kernel["name"]),
                operator=str(kernel["operator"]),
                provider=str(kernel["provider"]),
                precision=kernel["precision"],
                layers=tuple(names) if layers is None else name_layers(names, layers),
                share=kernel["share"],
                profiled_ms=kernel.get("profiled_ms"),
            )
        )
    return tuple(kernels)


def _fused_names(path: Path) -> dict[str, tuple[str, ...]]:
    """What ONNX Runtime may call a kernel in its blocked layout, and the nodes of the file that are fused in it.

    It is called by the tensor that it makes: the nodes are those that this comes from, one after the other, up to a
    convolution.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)  # pyright: ignore[reportUnknownMemberType]
    nodes = model.graph.node
    makers = {name: node for node in nodes for name in node.output}
    fused: dict[str, tuple[str, ...]] = {}
    for tensor in makers:
        chain, name = list[str](), tensor
        while (node := makers.get(name)) is not None:
            chain.append(node.name)
            if node.op_type == "Conv":
                fused[tensor + NCHWC] = tuple(reversed(chain))
                break
            name = node.input[0] if node.input else ""
    return fused


def name_layers(names: Sequence[str], layers: Sequence[str]) -> tuple[str, ...]:
    """The ``layers`` that ``names`` of a file belong to: ``fc.weight`` and ``node_fc`` to ``fc``, the longest first."""
    named = {layer for name in names if (layer := _find_layer(name, layers)) is not None}
    return tuple(layer for layer in layers if layer in named)


def _find_layer(name: str, layers: Sequence[str]) -> str | None:
    for plain in (name, PREFIX.sub("", name)):
        fitting = [
            each for each in layers if plain == each or plain.startswith(each) and INNER.match(plain[len(each) :])
        ]
        if fitting:
            return max(fitting, key=len)
    return None
