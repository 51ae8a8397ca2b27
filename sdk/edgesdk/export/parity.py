"""Whether an exported file is the network that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgesdk.artefact import Artefact, format_of, open_file
from edgesdk.compress.network import Batch, Network, Structure, tensors
from edgesdk.compress.quantize import specification
from edgesdk.errors import FidelityError

SAMPLES = 128
FLOAT_TOLERANCE, INTEGER_TOLERANCE = 1e-3, 5e-2
ROUGH = 1e-1  # with 4-bit weights in LiteRT, whose kernels for them round one in forty results up that others do not
INTEGER_KERNELS = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "QAttention", "DynamicQuantizeMatMul")

INTEGER_PRECISIONS = ("int8", "uint8", "int4", "i8", "u8", "i4")


@dataclass(frozen=True)
class Parity:
    """Root-mean-square difference between the file's outputs and the simulation's, over their standard deviation.

    ``top1_differs`` is the share of samples on which the largest output is another one.
    """

    error: float
    tolerance: float
    samples: int
    top1_differs: float


def runner(artefact: Artefact, structure: Structure) -> Callable[[Batch], Any]:
    """:func:`flat_runner` with the outputs in the ``structure`` in which the model returns them."""
    run = flat_runner(artefact)
    return lambda x: structure.of(run(x))


def flat_runner(artefact: Artefact) -> Callable[[Batch], list[Tensor]]:
    """A function from a batch to the outputs of the file, run on one sample at a time, by a runtime that is here."""
    found = open_file(artefact)

    def run(x: Batch) -> list[Tensor]:
        columns = [t.numpy() for t in tensors(x)]
        rows = [
            found.run({name: column[i : i + 1] for name, column in zip(found.inputs, columns, strict=True)})
            for i in range(len(columns[0]))
        ]
        return [torch.from_numpy(np.concatenate(parts)) for parts in zip(*rows, strict=True)]

    return run


def parity(network: Network, artefact: Artefact, batches: Sequence[Batch]) -> Parity:
    """Compare the file with ``network``. Raises ``FidelityError`` beyond the tolerance.

    The tolerance is 1e-3 of the outputs' standard deviation for a float network and 5e-2 for an integer one, whose
    sums a runtime rounds in another order; 1e-1 with 4-bit weights in LiteRT.
    """
    run = flat_runner(artefact)
    tolerance = _tolerance(network, artefact)
    ours, theirs, count = [], [], 0
    with torch.no_grad():
        for x in batches:
            ours.append(network.flat(x))
            theirs.append(run(x))
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


def _tolerance(network: Network, artefact: Artefact) -> float:
    bits = {spec.bits for spec in specification(network).values()}
    if 4 in bits and not format_of(artefact.runtime).unpacks:
        return ROUGH
    return INTEGER_TOLERANCE if bits else FLOAT_TOLERANCE


def fallbacks(kernels: Sequence[Mapping[str, Any]], layers: Sequence[str]) -> list[str]:
    """The weighted layers that should have run in an integer kernel, by what the runtime itself tells, and did not.

    OpenVINO and LiteRT tell a kernel's precision, ONNX Runtime names its integer kernels.
    """
    integer = {
        str(name).removesuffix(".unpack").removesuffix(".weight")
        for kernel in kernels
        if kernel["precision"] in INTEGER_PRECISIONS or str(kernel["operator"]).startswith(INTEGER_KERNELS)
        for name in kernel["layers"]
    }
    return [layer for layer in layers if layer not in integer]
