"""Whether an exported file is the network that it was made from."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from edgesdk.compress.network import Batch, Network, tensors
from edgesdk.compress.quantize import specification
from edgesdk.errors import FidelityError

SAMPLES = 128
FLOAT_TOLERANCE, INTEGER_TOLERANCE = 1e-3, 5e-2
INTEGER_KERNELS = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "QAttention", "DynamicQuantizeMatMul")


@dataclass(frozen=True)
class Parity:
    """Root-mean-square difference between the file's outputs and the simulation's, over their standard deviation.

    ``top1_differs`` is the share of samples on which the largest output is another one.
    """

    error: float
    tolerance: float
    samples: int
    top1_differs: float


def session(path: Path, threads: int = 1) -> Any:
    """An ONNX Runtime session on the CPU."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def runner(path: Path, structure: Any) -> Callable[[Batch], Any]:
    """A function from a batch to the outputs of the file at ``path``, run on one sample at a time."""
    found = session(path)
    names = [value.name for value in found.get_inputs()]

    def run(x: Batch) -> Any:
        columns = [t.numpy() for t in tensors(x)]
        rows = [
            found.run(None, {name: column[i : i + 1] for name, column in zip(names, columns, strict=True)})
            for i in range(len(columns[0]))
        ]
        return pytree.tree_unflatten(
            [torch.from_numpy(np.concatenate(parts)) for parts in zip(*rows, strict=True)], structure
        )

    return run


def parity(network: Network, path: Path, batches: Sequence[Batch]) -> Parity:
    """Compare the file at ``path`` with ``network``. Raises ``FidelityError`` beyond the tolerance.

    The tolerance is 1e-3 of the outputs' standard deviation for a float network and 5e-2 for an integer one, whose
    sums a runtime rounds in another order.
    """
    run = runner(path, network.structure)
    tolerance = INTEGER_TOLERANCE if specification(network) else FLOAT_TOLERANCE
    ours, theirs, count = [], [], 0
    with torch.no_grad():
        for x in batches:
            ours.append(network.flat(x))
            theirs.append(pytree.tree_leaves(run(x)))
            count += len(ours[-1][0])
            if count >= SAMPLES:
                break
    expected = [torch.cat(parts).double() for parts in zip(*ours, strict=True)]
    found = [torch.cat(parts).double() for parts in zip(*theirs, strict=True)]
    error = max(
        float((a - b).square().mean().sqrt() / a.std().clamp(min=1e-12)) for a, b in zip(expected, found, strict=True)
    )
    differs = float((expected[0].flatten(1).argmax(1) != found[0].flatten(1).argmax(1)).double().mean())
    if not error <= tolerance:
        raise FidelityError(
            f"the file's outputs differ from the simulation's by {error:.2g} of their spread, more than {tolerance:g}",
            "report this as a defect",
        )
    return Parity(error, tolerance, count, differs)


def fallbacks(kernels: Sequence[Mapping[str, Any]], layers: Sequence[str]) -> list[str]:
    """The weighted layers that should have run in an integer kernel, by the runtime's own profile, and did not."""
    integer = {
        re.sub(r"_token_\d+$", "", str(kernel["name"]))
        for kernel in kernels
        if str(kernel["operator"]).startswith(INTEGER_KERNELS)
    }
    return [layer for layer in layers if layer not in integer]
