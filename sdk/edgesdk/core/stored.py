"""The forms that a float layer's weight can be stored in, while it computes as it would without: a row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

Sizes = tuple[int, ...]
FLOAT_BYTES = 4
BLOCK = 8  # of techniques.filtering
E2M1_VALUES = 16
FEW_SCALES = 8  # how many powers of two the scales of e2m1 blocks usually are
NODE, TENSOR, PLAIN = 30, 44, 36  # bytes of an operator and of constants in an ONNX file, about, without what they hold


@dataclass(frozen=True)
class StoredForm:
    """A form of stored weights: when it is worth pricing, what it takes, and what packs a weight so.

    ``strengths`` are the sizes at which it is a candidate. ``file_bytes`` is what a weight takes in an ONNX file by its
    sizes and shape, with the operators that decode it; what depends on the values is taken at its most. ``resident`` is
    what stays in memory once ONNX Runtime has decoded a matrix of 16 MB, in sizes of the plain weight: what it computes
    on the way is not given back. ``packer`` is ``(weight, *sizes) -> Packed``, or the name of it as
    ``module:function``. ``fits`` says which weights can be stored so at all.
    """

    method: str
    strengths: tuple[Sizes, ...]
    file_bytes: Callable[[Sizes, Sizes], float]
    resident: float
    packer: str | Callable[..., Any]
    fits: Callable[[Sizes, Sizes], bool] = lambda sizes, shape: True

    @property
    def size_count(self) -> int:
        """How many sizes it has."""
        return len(self.strengths[0])


STORED: dict[str, StoredForm] = {}
"""Every form that weights are stored in, by its name; see :func:`register`."""


def register(row: StoredForm) -> StoredForm:
    """Make a form known under its name; ``row`` itself. Raises ``ValueError`` for a name that is taken."""
    if STORED.setdefault(row.method, row) is not row:
        raise ValueError(f"there is a form {row.method} already")
    return row


def coded_bytes(count: int, values: int) -> float:
    """Codes, whose bits lie apart in parts of 8, 4, 2 and 1, and the table that they look into."""
    widths = [width for width in (8, 4, 2, 1) if max(1, (values - 1).bit_length()) & width]
    codes = sum(ceil(count * width / 8) for width in widths)
    apart = sum(width < 8 for width in widths)
    more = len(widths) - 1
    return codes + FLOAT_BYTES * values + _around(2 + 3 * apart + 2 * more, 3 + 2 * apart + more)


def _around(nodes: int, tensors: int) -> int:
    """Bytes of that many operators and constants, without what these hold, less those of a plain constant."""
    return nodes * NODE + tensors * TENSOR - PLAIN


def _half_bytes(sizes: Sizes, shape: Sizes) -> float:
    return 2 * prod(shape) + _around(1, 1)


def _sparse_bytes(shape: Sizes, stay: float) -> float:
    """A bit per weight, and those that are not zero."""
    count = prod(shape)
    return ceil(count / 8) + FLOAT_BYTES * (round(count * stay) + 1) + _around(8, 7)


def _e2m1_bytes(sizes: Sizes, shape: Sizes) -> float:
    runs = ceil(prod(shape) / sizes[0])
    scales = min(runs + FLOAT_BYTES * min(FEW_SCALES, runs), FLOAT_BYTES * runs)
    return coded_bytes(runs * sizes[0], E2M1_VALUES) + scales + 4 * NODE + 3 * TENSOR


def _binary_bytes(sizes: Sizes, shape: Sizes) -> float:
    return coded_bytes(prod(shape), 2) + FLOAT_BYTES * shape[0] + 2 * (NODE + TENSOR)


def _filtered_bytes(sizes: Sizes, shape: Sizes, padded: Callable[[int], int]) -> float:
    """The coefficients that stay of each block, and the basis."""
    kernel = shape[2:]
    planes, rows, columns = (
        (1, shape[0], shape[1])
        if prod(kernel) == 1
        else (shape[0] * shape[1], *(kernel if len(kernel) == 2 else (1, *kernel)))
    )
    sides = [min(BLOCK, padded(n)) for n in (rows, columns)]
    blocks = planes * ceil(rows / sides[0]) * ceil(columns / sides[1])
    kept = max(1, ceil(sizes[0] * prod(sides) / 100 - 1e-9))
    return FLOAT_BYTES * kept * (blocks + prod(sides)) + _around(7, 6)


def _is_layered(sizes: Sizes, shape: Sizes) -> bool:
    """Whether a weight is a matrix, or one of a convolution along one or two axes."""
    return 2 <= len(shape) <= 4


_PACKERS = "edgesdk.techniques."
for _row in (
    StoredForm("fp16", ((),), _half_bytes, 1.5, _PACKERS + "packing:fp16"),
    StoredForm("bf16", ((),), _half_bytes, 1.5, _PACKERS + "packing:bf16"),
    *(
        StoredForm(
            method, ((16,),), lambda sizes, shape: coded_bytes(prod(shape), sizes[0]), 1.8, _PACKERS + packer,
            lambda sizes, shape: sizes[0] <= prod(shape),
        )
        for method, packer in (("k-means", "codebooks:k_means"), ("intervals", "codebooks:intervals"))
    ),
    StoredForm(
        "powers-of-two", ((4,),), lambda sizes, shape: coded_bytes(prod(shape), 2 ** sizes[0] - 1), 1.8,
        _PACKERS + "codebooks:powers_of_two", lambda sizes, shape: 2 ** sizes[0] - 1 <= prod(shape),
    ),
    StoredForm("e2m1", ((32,),), _e2m1_bytes, 4.0, _PACKERS + "codebooks:e2m1"),
    StoredForm(
        "ternary", ((),), lambda sizes, shape: coded_bytes(prod(shape), 3), 1.8, _PACKERS + "codebooks:ternary"
    ),
    StoredForm("binary", ((),), _binary_bytes, 4.5, _PACKERS + "codebooks:binary"),
    StoredForm(
        "sparse", ((50,), (75,)), lambda sizes, shape: _sparse_bytes(shape, 1 - sizes[0] / 100), 8.0,
        _PACKERS + "sparsity:sparse_percent",
    ),
    StoredForm(
        "n-of-m", ((2, 4),), lambda sizes, shape: _sparse_bytes(shape, sizes[0] / sizes[1]), 8.0,
        _PACKERS + "sparsity:sparse_n_of_m", lambda sizes, shape: len(shape) >= 2 and shape[1] % sizes[1] == 0,
    ),
    StoredForm(
        "dct", ((50,),), lambda sizes, shape: _filtered_bytes(sizes, shape, lambda n: n), 8.0,
        _PACKERS + "filtering:dct", _is_layered,
    ),
    StoredForm(
        "haar", ((25,),), lambda sizes, shape: _filtered_bytes(sizes, shape, lambda n: 1 << (n - 1).bit_length()), 8.0,
        _PACKERS + "filtering:haar", _is_layered,
    ),
):  # fmt: skip
    register(_row)
