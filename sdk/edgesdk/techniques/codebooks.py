"""Codebooks: every weight is one of a few values, stored as a code of few bits and a table.

A float weight goes in, a :class:`Coded` comes out, which decodes to the same bits wherever that is done: decoding is a
look-up and, where there are scales, one multiplication.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgesdk.core.errors import UsageError
from edgesdk.techniques.libraries import library

LARGEST = 256  # values in a codebook: a code is a byte at most
SPREAD = 3.0  # deviations from the mean that the intervals cover
BITS_OF_POWERS = (2, 6)  # 31 exponents are more than weights need, and all are normal numbers
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # OCP MX specification 1.0, table 5: a code is its bits, the sign first
E2M1_EXPONENT = 2  # of the largest power of two in it
MX_BLOCK = 32
SMALLEST_EXPONENT = -126  # of normal numbers: runtimes may flush smaller ones to zero
TERNARY_THRESHOLD = 0.7


@dataclass(frozen=True)
class Coded:
    """A weight as ``table[codes]``, times a scale per run of ``block`` weights where there are ``scales``.

    ``codes`` is uint8 in the weight's shape, ``table`` float32 (K,). Runs go through the weight in row-major order; the
    last may be shorter. ``scales`` is float32 (runs,).
    """

    codes: Tensor
    table: Tensor
    scales: Tensor | None = None
    block: int = 0

    @property
    def bits(self) -> int:
        """Bits per code."""
        return max(1, (len(self.table) - 1).bit_length())

    def decoded(self) -> Tensor:
        """The float32 weight that this stands for."""
        values = self.table[self.codes.flatten().long()]
        if self.scales is not None:
            values = values * self.scales.repeat_interleave(self.block)[: len(values)]
        return values.reshape(self.codes.shape)


def nearest(weight: Tensor, table: Tensor) -> Coded:
    """``weight`` with each entry as the nearest of ``table``, float (K,) and rising; the lower one of two as near.

    Raises ``UsageError`` for more than 256 values, or more than the weight has entries.
    """
    _check(weight, len(table))
    values = table.double()
    codes = torch.bucketize(weight.detach().double(), (values[1:] + values[:-1]) / 2)
    return Coded(codes.to(torch.uint8), table.float())


def intervals(weight: Tensor, count: int, spread: float = SPREAD) -> Coded:
    """At most ``count`` values: the means of the weights in equal intervals from mean - spread * deviation to the same
    above it, the outer ones open; an interval without weights has no value.

    Raises ``UsageError`` for a ``count`` outside 1 to 256 or above the entries, and a ``spread`` that is not positive.
    """
    _check(weight, count)
    if not 0 < spread < math.inf:
        raise UsageError(f"a spread of {spread} deviations is not positive", f"give one near {SPREAD:g}")
    flat = weight.detach().flatten().double()
    half = spread * float(flat.std(correction=0))
    edges = torch.linspace(-half, half, count + 1, dtype=torch.float64)[1:-1] + flat.mean()
    members = torch.bucketize(flat, edges)
    size = torch.bincount(members, minlength=count)
    means = torch.zeros(count, dtype=torch.float64).index_add_(0, members, flat) / size.clamp(min=1)
    place = (size > 0).cumsum(0) - 1  # of each interval's value in the table
    return Coded(place[members].to(torch.uint8).reshape(weight.shape), means[size > 0].float())


def k_means(weight: Tensor, count: int) -> Coded:
    """At most ``count`` shared values with the least squared error that Lloyd's algorithm finds (Han et al. 2016, "Deep
    Compression", eq. 2), begun from centroids that are linear in the range, as the paper found best (section 3.1).

    A weight of no more distinct entries keeps them all. Raises ``UsageError`` for a ``count`` outside 1 to 256 or above
    the entries.
    """
    _check(weight, count)
    flat = weight.detach().flatten().double()
    distinct = flat.unique()
    if len(distinct) <= count:
        return nearest(weight, distinct)
    clusters, exceptions = (library(f"sklearn.{name}", "scikit-learn") for name in ("cluster", "exceptions"))
    first = torch.linspace(float(flat.min()), float(flat.max()), count, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)  # fewer clusters than asked for are fine
        fitted = clusters.KMeans(count, init=first[:, None].numpy(), n_init="auto").fit(flat[:, None].numpy())
    centres = torch.from_numpy(fitted.cluster_centers_[:, 0]).float().unique()  # rising
    return nearest(weight, centres)


def powers_of_two(weight: Tensor, bits: int) -> Coded:
    """Zero and plus or minus 2^e for the 2^(bits-1) - 1 exponents up to n1 = floor(log2(4 max|W| / 3)), the largest of
    Zhou et al. 2017 ("Incremental Network Quantization", eq. 2); each weight the nearest of them (eq. 4 there).

    Raises ``UsageError`` for ``bits`` outside 2 to 6, or more values than entries.
    """
    if not BITS_OF_POWERS[0] <= bits <= BITS_OF_POWERS[1]:
        raise UsageError(f"powers of two in {bits} bits are not kept", "give {} to {} bits".format(*BITS_OF_POWERS))
    count = 2 ** (bits - 1) - 1
    _check(weight, 2 * count + 1)
    largest = float(weight.detach().abs().max())
    top = math.floor(math.log2(4 * largest / 3)) if largest else 0
    top = max(top, SMALLEST_EXPONENT + count - 1)
    powers = torch.tensor([2.0**e for e in range(top + 1 - count, top + 1)])
    table = torch.cat([-powers.flip(0), torch.zeros(1), powers])
    return nearest(weight, table)


def e2m1(weight: Tensor, block: int = MX_BLOCK) -> Coded:
    """4-bit floats, E2M1, with a power of two as the scale of each ``block`` weights: MXFP4 of the OCP Microscaling
    specification 1.0, section 6.3: scale = 2^(floor(log2 max|V|) - 2), V / scale rounded half to even and saturated.

    A code is the number's bits. Raises ``UsageError`` for a ``block`` below 1.
    """
    if block < 1:
        raise UsageError(f"a block of {block} weights is empty", f"give {MX_BLOCK}, as the standard has it")
    _check(weight)
    flat = weight.detach().flatten().float()
    runs = torch.nn.functional.pad(flat, (0, -len(flat) % block)).reshape(-1, block)
    _, exponent = torch.frexp(runs.abs().amax(1))  # max = fraction * 2^exponent, 0.5 <= fraction < 1
    exponent = torch.where(runs.abs().amax(1) > 0, exponent - 1 - E2M1_EXPONENT, 0).clamp(min=SMALLEST_EXPONENT)
    scales = torch.from_numpy(np.ldexp(np.float32(1), exponent.numpy()))  # exact, unlike a power of floats
    magnitudes = torch.tensor(E2M1)
    each = (runs / scales[:, None]).flatten()[: len(flat)]
    above, below = (torch.bucketize(each.abs(), (magnitudes[1:] + magnitudes[:-1]) / 2, right=r) for r in (True, False))
    codes = torch.where(above % 2 == 0, above, below)  # they differ half-way, where the even code is the even mantissa
    codes = codes + 8 * torch.signbit(each)
    table = torch.cat([magnitudes, -magnitudes])
    return Coded(codes.to(torch.uint8).reshape(weight.shape), table, scales, block)


def ternary(weight: Tensor) -> Coded:
    """-a, 0 or a, with a the mean of the magnitudes above 0.7 mean|W| (Li et al. 2016, "Ternary Weight Networks",
    eq. 5 and 6): the scale that is best for that threshold. Raises ``UsageError`` for a weight that is empty or not
    finite."""
    _check(weight)
    size = weight.detach().double().abs()
    chosen = size > TERNARY_THRESHOLD * size.mean()
    scale = (size[chosen].mean() if chosen.any() else size.new_zeros(())).float()
    codes = 1 + torch.where(chosen, weight.detach().sign(), 0)
    return Coded(codes.to(torch.uint8), torch.stack([-scale, torch.zeros(()), scale]))


def binary(weight: Tensor) -> Coded:
    """The signs, times the mean magnitude of each output channel (Rastegari et al. 2016, "XNOR-Net", eq. 6): the least
    squared error that signs and a scale can have. Zero counts as positive. Raises ``UsageError`` for a weight that is
    empty or not finite."""
    _check(weight)
    rows = weight.detach().flatten(1) if weight.dim() > 1 else weight.detach()[None]
    scales = rows.double().abs().mean(1).float()
    codes = (weight.detach() >= 0).to(torch.uint8)
    return Coded(codes, torch.tensor([-1.0, 1.0]), scales, rows.shape[1])


def _check(weight: Tensor, count: int | None = None) -> None:
    if not weight.numel() or not weight.is_floating_point() or not bool(weight.isfinite().all()):
        raise UsageError("a codebook needs a weight of finite floats", "check the model's weights")
    if count is None:
        return
    if not 1 <= count <= LARGEST:
        raise UsageError(f"a codebook of {count} values is not between 1 and {LARGEST}", "give a number between them")
    if count > weight.numel():
        raise UsageError(
            f"a codebook of {count} values is larger than the weight, which has {weight.numel()} entries",
            "give a smaller one, or leave this weight as it is",
        )
