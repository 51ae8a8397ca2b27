"""Whether an exported file is the network that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgesdk.compress.quantize import specification
from edgesdk.core.artifact import Artifact, open_file, refusal
from edgesdk.core.errors import FidelityError
from edgesdk.core.parity import Parity
from edgesdk.core.runtime import find_runtime, format_of
from edgesdk.network.network import Batch, Network, Structure, figures, tensors
from edgesdk.network.reference import NUDGE, STEADIER, Reference, amplification, spread

SAMPLES = 128
FLOAT_TOLERANCE, INTEGER_TOLERANCE = 1e-3, 5e-2
INTEGER_NUDGE = 1e-4  # of an input's spread: about a hundredth of a step of int8
ROUGH = 1e-1  # with 4-bit weights in LiteRT, whose kernels for them round one in forty results up that others do not
INTEGER_PRECISIONS = ("int8", "uint8", "int4", "i8", "u8", "i4")


def runner(artifact: Artifact, structure: Structure) -> Callable[[Batch], Any]:
    """:func:`flat_runner` with the outputs in the ``structure`` in which the model returns them."""
    run = flat_runner(artifact)
    return lambda x: structure.of(run(x))


def flat_runner(artifact: Artifact) -> Callable[[Batch], list[Tensor]]:
    """A function from a batch to the outputs of the file, run on one sample at a time, by a runtime that is here.

    Both raise ``DeviceError`` where that refuses the file.
    """
    session = open_file(artifact)

    def run(x: Batch) -> list[Tensor]:
        columns = [t.numpy() for t in tensors(x)]
        each = [[column[i : i + 1] for column in columns] for i in range(len(columns[0]))]
        try:
            rows = [session.run(dict(zip(session.inputs, row, strict=True))) for row in each]
        except Exception as error:  # runtimes' own exceptions share no base
            raise refusal(artifact, error) from None
        return [torch.from_numpy(np.concatenate(parts)) for parts in zip(*rows, strict=True)]

    return run


def parity(network: Network, artifact: Artifact, batches: Sequence[Batch]) -> Parity:
    """Compare the file with ``network``. Raises ``FidelityError`` beyond the tolerance.

    The tolerance is 1e-3 of the outputs' standard deviation for a float network and 5e-2 for an integer one, whose
    sums a runtime rounds in another order; 1e-1 with 4-bit weights in LiteRT.
    """
    result = compared(network.flat, artifact, batches, _tolerance(network, artifact))
    if not result.error <= result.tolerance:
        fact = f"the file's outputs differ from the simulation's by {_off(result)}"
        nudge = INTEGER_NUDGE if result.tolerance > FLOAT_TOLERANCE else NUDGE
        if amplifies := amplification(network.flat, batches[0], nudge, result.tolerance):
            raise FidelityError(f"{fact}: {amplifies}", FidelityError.FLOAT, **_figures(result))
        raise FidelityError(fact, FidelityError.INSTEAD, **_figures(result))
    return result


def faithful(reference: Reference, network: Network, artifact: Artifact, batches: Sequence[Batch]) -> Parity:
    """Compare the dense file with the user's own module. Raises ``FidelityError`` beyond the tolerance."""
    result = compared(
        reference.flat, artifact, batches, ROUGH if network.module.meta.get("halves") else FLOAT_TOLERANCE
    )
    if not result.error <= result.tolerance:
        fact = f"what {artifact.runtime} computes of the dense model differs from the model itself by {_off(result)}"
        if amplifies := amplification(reference.flat, batches[0], NUDGE, result.tolerance):
            raise FidelityError(f"{fact}: {amplifies}", STEADIER, **_figures(result))
        raise FidelityError(fact, "choose another --runtime", **_figures(result))
    return result


def _off(result: Parity) -> str:
    return f"{result.error:.2g} of their spread, more than {result.tolerance:g}"


def _figures(result: Parity) -> dict[str, float]:
    return {"error": result.error, "tolerance": result.tolerance}


def compared(
    expected: Callable[[Batch], list[Tensor]], artifact: Artifact, batches: Iterable[Batch], tolerance: float
) -> Parity:
    """How far the file is from what is ``expected``, on the first samples of ``batches``."""
    pairs = _answers(expected, artifact, batches, SAMPLES)
    wanted, outputs = (figures(pairs[0][side]).double() for side in (0, 1))
    differs = float((wanted.argmax(1) != outputs.argmax(1)).double().mean())
    each = tuple(map(distance, pairs))
    return Parity(max(each), tolerance, len(wanted), differs, each)


def compared_by_output(
    expected: Callable[[Batch], list[Tensor]], artifact: Artifact, batches: Iterable[Batch]
) -> list[float]:
    """How far each output of the file is from what is ``expected``, on all of ``batches``."""
    return list(map(distance, _answers(expected, artifact, batches, None)))


def _answers(
    expected: Callable[[Batch], list[Tensor]], artifact: Artifact, batches: Iterable[Batch], most: int | None
) -> list[tuple[Tensor, Tensor]]:
    """Of each output what is expected, and what the file answers; about so many samples at ``most``."""
    run = flat_runner(artifact)
    ours, theirs, count = [], [], 0
    with torch.no_grad():
        for x in batches:
            ours.append(expected(x))
            theirs.append(run(x))
            count += len(ours[-1][0])
            if most is not None and count >= most:
                break
    sides = ([torch.cat(parts) for parts in zip(*side, strict=True)] for side in (ours, theirs))
    return list(zip(*sides, strict=True))


def distance(pair: tuple[Tensor, Tensor]) -> float:
    """The root mean square of the difference over the spread of what is wanted; of whole numbers, how many differ."""
    wanted, outputs = pair
    if not wanted.is_floating_point():
        return float((wanted != outputs).double().mean())
    return float((wanted.double() - outputs.double()).square().mean().sqrt()) / spread(wanted.double())


def _tolerance(network: Network, artifact: Artifact) -> float:
    bits = {spec.bits for spec in specification(network).values()}
    if 4 in bits and not format_of(artifact.runtime).unpacks:
        return ROUGH
    return INTEGER_TOLERANCE if bits else FLOAT_TOLERANCE


def fallbacks(kernels: Sequence[Mapping[str, Any]], layers: Sequence[str], runtime: str = "onnxruntime") -> list[str]:
    """The weighted layers that should have run in an integer kernel, by what the runtime itself tells, and did not.

    ``runtime`` is the one of the file; what runs that here tells a kernel's precision, or names its integer kernels.
    """
    named = find_runtime(find_runtime(runtime).here).integer_kernels
    integer = {
        str(name).removesuffix(".unpack").removesuffix(".weight")
        for kernel in kernels
        if kernel["precision"] in INTEGER_PRECISIONS or str(kernel["operator"]).startswith(named)
        for name in kernel["layers"]
    }
    return [layer for layer in layers if layer not in integer]
