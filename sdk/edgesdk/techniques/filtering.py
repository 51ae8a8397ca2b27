"""Low-pass filtering of kernels and weight matrices: only the coefficients of low frequencies are kept, and stored.

The transform goes over blocks, as in JPEG: a kernel is one block, a matrix many. That keeps the basis small, which a
file must hold to be decoded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgesdk.core.errors import UsageError
from edgesdk.techniques.libraries import library

BLOCK = 8
LARGEST_BLOCK = 16
DCT = "dct"
BASIS_BITS, COEFFICIENT_BITS = 20, 24


@dataclass(frozen=True)
class Filtered:
    """A weight of ``shape`` as ``coefficients @ basis``, block after block.

    ``coefficients`` is float32 (blocks, kept), ``basis`` float32 (kept, rows * columns of a ``block``). Blocks tile the
    planes (see :func:`planes`) row by row, and reach beyond them where a block does not divide a side.

    Coefficients are multiples of 2^-24 of the power of two above the largest, the basis of 2^-20, so that sums of at
    most 256 products are exact in double precision: whichever order a runtime adds in, the weight is the same bits.
    """

    coefficients: Tensor
    basis: Tensor
    shape: tuple[int, ...]
    block: tuple[int, int]

    @property
    def tiles(self) -> tuple[int, int, int]:
        """How many planes there are, and blocks down and across each."""
        count, rows, columns = planes(self.shape)
        return count, -(-rows // self.block[0]), -(-columns // self.block[1])

    def decoded(self) -> Tensor:
        """The float32 weight that this stands for."""
        values = (self.coefficients.double() @ self.basis.double()).float()
        count, down, across = self.tiles
        _, rows, columns = planes(self.shape)
        whole = values.reshape(count, down, across, *self.block).transpose(2, 3)
        whole = whole.reshape(count, down * self.block[0], across * self.block[1])
        return whole[:, :rows, :columns].reshape(self.shape)


def planes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """A weight's shape as (planes, rows, columns): kernels are planes; a matrix, 1x1 kernels too, is one.

    Raises ``UsageError`` for less than two or more than four axes.
    """
    if len(shape) > 4 or len(shape) < 2:
        raise UsageError(f"a weight of {len(shape)} axes is not filtered", "leave this layer as it is")
    kernel = shape[2:]
    if math.prod(kernel) == 1:
        return 1, shape[0], shape[1]
    rows, columns = kernel if len(kernel) == 2 else (1, *kernel)
    return shape[0] * shape[1], rows, columns


def low_pass(weight: Tensor, share: float, kind: str = DCT, block: int = BLOCK) -> Filtered:
    """``weight`` without its high frequencies: in each block the ``share`` of coefficients stays that is lowest in
    frequency, at least one.

    ``kind`` "dct" is the two-dimensional DCT-II, as Chen et al. 2016 ("Compressing Convolutional Neural Networks in the
    Frequency Domain", eq. 1 and 2) used it on kernels. Any other names an orthogonal wavelet of PyWavelets ("haar",
    "db2"), periodized in the block and taken through all levels (Mallat 1989).

    ``weight`` is (outputs, inputs) or (outputs, inputs, kernel...). Sides up to ``block`` are taken whole, longer ones
    in pieces, with edges repeated where a piece is not full. A wavelet's side is a power of two: a kernel of 3x3
    becomes a block of 4x4, and the share is one of 16. Where nothing is repeated, the squared error is that of the
    coefficients left out (Parseval).

    Raises ``UsageError`` for a ``share`` outside 0 to 1, a ``block`` outside 2 to 16 or, for a wavelet, no power of
    two, an unknown wavelet, a weight of less than two or more than four axes, and one that is not finite.
    """
    if not 0 < share <= 1:
        raise UsageError(f"a share of {share} of the coefficients is not above 0 and up to 1", "give such as 0.5")
    if not 2 <= block <= LARGEST_BLOCK:
        raise UsageError(f"a block of {block} is not between 2 and {LARGEST_BLOCK}", f"give {BLOCK}")
    if not weight.is_floating_point() or not bool(weight.isfinite().all()):
        raise UsageError("filtering needs a weight of finite floats", "check the model's weights")
    count, rows, columns = planes(tuple(weight.shape))
    sides = (_side(rows, kind, block), _side(columns, kind, block))
    flat = weight.detach().double().reshape(1, count, rows, columns)
    flat = F.pad(flat, (0, -columns % sides[1], 0, -rows % sides[0]), mode="replicate")
    tiled = flat.reshape(count, flat.shape[2] // sides[0], sides[0], flat.shape[3] // sides[1], sides[1])
    blocks = tiled.transpose(2, 3).reshape(-1, sides[0] * sides[1])
    basis = torch.from_numpy(np.kron(_basis(kind, sides[0]), _basis(kind, sides[1])))
    basis = basis[_lowest(sides, share)]
    return Filtered(_snapped(blocks @ basis.T, COEFFICIENT_BITS), _grid(basis, BASIS_BITS), tuple(weight.shape), sides)


def dct(weight: Tensor, percent: float) -> Filtered:
    """``weight`` with that ``percent`` of its lowest frequencies, by the discrete cosine transform."""
    return low_pass(weight, percent / 100, DCT)


def haar(weight: Tensor, percent: float) -> Filtered:
    """``weight`` with that ``percent`` of its lowest frequencies, by Haar wavelets."""
    return low_pass(weight, percent / 100, "haar")


def _side(length: int, kind: str, block: int) -> int:
    """The side of the blocks along an axis: the axis where that is short, up to the next power of two for wavelets."""
    return min(block, length if kind == DCT else 1 << (length - 1).bit_length())


def _basis(kind: str, size: int) -> np.ndarray:
    """An orthonormal basis of ``size`` entries in rows, from low to high frequencies."""
    if kind == DCT:
        fft = library("scipy.fft", "scipy")

        return np.asarray(fft.dct(np.eye(size), norm="ortho", axis=0))
    pywt = library("pywt", "pywavelets")

    if kind not in pywt.wavelist(kind="discrete") or not pywt.Wavelet(kind).orthogonal:
        raise UsageError(f"there is no orthogonal wavelet {kind!r}", f"choose {DCT}, haar, db2, sym4, ...")
    if size & (size - 1):
        raise UsageError(f"a wavelet needs a block that is a power of two, not {size}", "give 4, 8 or 16")
    rows = np.eye(size)
    for level in range(size.bit_length() - 1):  # the approximation stands first, and is split again
        length = size >> level
        parts = pywt.dwt(rows[:length], kind, mode="periodization", axis=0)
        rows[:length] = np.concatenate(parts)
    return rows


def _lowest(sides: tuple[int, int], share: float) -> Tensor:
    """The indices of the ``share`` of coefficients of a block that are lowest in frequency, rows and columns alike."""
    down, across = torch.meshgrid(*(torch.arange(n) / n for n in sides), indexing="ij")
    order = (down + across).flatten().argsort(stable=True)
    return order[: max(1, math.ceil(share * len(order) - 1e-9))].sort().values


def _snapped(values: Tensor, bits: int) -> Tensor:
    """``values`` as float32 multiples of 2^-bits of the power of two above the largest."""
    _, exponent = torch.frexp(values.abs().max())
    return _grid(values, bits - int(exponent))


def _grid(values: Tensor, exponent: int) -> Tensor:
    """``values`` rounded to multiples of 2^-exponent, as float32."""
    return ((values * 2.0**exponent).round() * 2.0**-exponent).float()
