"""Whether an ExecuTorch program has the integers and steps that were specified, read from what XNNPACK is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from edgesdk.compress.integers import TensorSpec
from edgesdk.core.errors import FidelityError
from edgesdk_targets.agent.xnnpack import WEIGHTS, read_graphs


def check(content: bytes, specs: Mapping[str, TensorSpec], widened: Collection[str] = ()) -> None:
    """Raise ``FidelityError`` unless the integers, scales and zero points of the program are those of ``specs``.

    Those that were ``widened`` need no place in it: they are real numbers there, of which others were computed.
    """
    grids, scales = set[tuple[float, int]](), set[tuple[float, ...]]()
    for graph in read_graphs(content):
        for value in graph.tensors:
            if value.kind == WEIGHTS:
                scales.add(value.scales)
            elif value.scales:
                grids.add((value.scales[0], value.zero))
    for name, spec in specs.items():
        if name in widened:
            continue
        wanted = tuple(float(scale) for scale in np.array(spec.scale, np.float32))
        if spec.axis is None:
            moved = 128 if spec.low >= 0 else 0
            found = (wanted[0], spec.zero_point[0] - moved) in grids
        else:
            found = spec.bits == 8 and any(held == wanted or set(held) == set(wanted) == {held[0]} for held in scales)
        if not found:
            raise FidelityError(f"{name} is not quantized in the file as specified", FidelityError.INSTEAD)
