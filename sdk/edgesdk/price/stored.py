"""The forms that weights are stored in: which are candidates for a layer, and the bytes that they take."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, prod

from edgesdk.core.errors import UsageError
from edgesdk.core.graph import WEIGHTED, Layer
from edgesdk.core.plan import STORED, Form
from edgesdk.core.runtime import format_of

STRENGTHS: dict[str, tuple[tuple[int, ...], ...]] = {
    "fp16": ((),),
    "bf16": ((),),
    "k-means": ((16,),),
    "intervals": ((16,),),
    "powers-of-two": ((4,),),
    "e2m1": ((32,),),
    "ternary": ((),),
    "binary": ((),),
    "sparse": ((50,), (75,)),
    "n-of-m": ((2, 4),),
    "dct": ((50,),),
    "haar": ((25,),),
}
"""The sizes at which a method is a candidate."""
FLOAT_BYTES = 4
RESIDENT = {"fp16": 1.5, "bf16": 1.5, "k-means": 1.8, "intervals": 1.8, "powers-of-two": 1.8, "ternary": 1.8}
RESIDENT |= {"e2m1": 4.0, "binary": 4.5, "sparse": 8.0, "n-of-m": 8.0, "dct": 8.0, "haar": 8.0}
"""What stays in memory once ONNX Runtime has decoded a matrix of 16 MB, in sizes of the plain weight: what it computes
on the way is not given back."""
BLOCK = 8  # of techniques.filtering
E2M1_VALUES = 16
FEW_SCALES = 8  # how many powers of two the scales of e2m1 blocks usually are
NODE, TENSOR, PLAIN = 30, 44, 36  # bytes of an operator and of constants in an ONNX file, about, without what they hold


def forms(layer: Layer, methods: Iterable[str], runtime: str) -> tuple[Form, ...]:
    """Of the stored forms that ``methods`` name, those that make the weight of ``layer`` smaller for ``runtime``.

    Raises ``UsageError`` for a method that its files cannot hold at all.
    """
    wanted = [method for method in methods if method in STORED]
    holds = format_of(runtime).stores
    if lacking := [method for method in wanted if method not in holds]:
        able = f"; they hold {', '.join(holds)}" if holds else ""
        raise UsageError(f"{format_of(runtime).name} files hold no weights as {lacking[0]}{able}", "leave it out")
    if layer.kind not in WEIGHTED or not layer.weight_shape:
        return ()
    shape = layer.weight_shape
    every = (Form(method, sizes) for method in wanted for sizes in STRENGTHS[method])
    return tuple(form for form in every if fits(form, shape))


def fits(form: Form, shape: tuple[int, ...]) -> bool:
    """Whether a weight of ``shape`` can be stored in ``form``, and is smaller so."""
    count = prod(shape)
    values = {"powers-of-two": lambda bits: 2**bits - 1, "k-means": int, "intervals": int}
    if form.method in values and values[form.method](*form.sizes) > count:
        return False
    if form.method == "n-of-m" and (len(shape) < 2 or shape[1] % form.sizes[1]):
        return False
    if form.method in ("dct", "haar") and not 2 <= len(shape) <= 4:
        return False
    return stored_bytes(form, shape) < count * FLOAT_BYTES


def stored_bytes(form: Form, shape: tuple[int, ...]) -> float:
    """Bytes that a weight of ``shape`` takes in an ONNX file, with the operators that decode it.

    What depends on the values is taken at its most: a codebook may turn out smaller. Constants that layers share are
    counted with each.
    """
    count = prod(shape)
    if form.method in ("fp16", "bf16"):
        return 2 * count + _around(1, 1)
    if form.method in ("sparse", "n-of-m"):
        stay = 1 - form.sizes[0] / 100 if form.method == "sparse" else form.sizes[0] / form.sizes[1]
        return ceil(count / 8) + FLOAT_BYTES * (round(count * stay) + 1) + _around(8, 7)
    if form.method in ("dct", "haar"):
        return _filtered(form, shape)
    if form.method == "e2m1":
        runs = ceil(count / form.sizes[0])
        scales = min(runs + FLOAT_BYTES * min(FEW_SCALES, runs), FLOAT_BYTES * runs)
        return _coded(runs * form.sizes[0], E2M1_VALUES) + scales + 4 * NODE + 3 * TENSOR
    if form.method == "binary":
        return _coded(count, 2) + FLOAT_BYTES * shape[0] + 2 * (NODE + TENSOR)
    if form.method == "powers-of-two":
        return _coded(count, 2 ** form.sizes[0] - 1)
    return _coded(count, 3 if form.method == "ternary" else form.sizes[0])


def resident_bytes(form: Form, shape: tuple[int, ...]) -> float:
    """Bytes that a weight of ``shape`` takes in memory once it is loaded."""
    return RESIDENT[form.method] * prod(shape) * FLOAT_BYTES


def _around(nodes: int, tensors: int) -> int:
    """Bytes of that many operators and constants, without what these hold, less those of a plain constant."""
    return nodes * NODE + tensors * TENSOR - PLAIN


def _coded(count: int, values: int) -> float:
    """Codes, whose bits lie apart in parts of 8, 4, 2 and 1, and the table that they look into."""
    widths = [width for width in (8, 4, 2, 1) if max(1, (values - 1).bit_length()) & width]
    codes = sum(ceil(count * width / 8) for width in widths)
    apart = sum(width < 8 for width in widths)
    more = len(widths) - 1
    return codes + FLOAT_BYTES * values + _around(2 + 3 * apart + 2 * more, 3 + 2 * apart + more)


def _filtered(form: Form, shape: tuple[int, ...]) -> float:
    """The coefficients that stay of each block, and the basis."""
    kernel = shape[2:]
    planes, rows, columns = (
        (1, shape[0], shape[1])
        if prod(kernel) == 1
        else (shape[0] * shape[1], *(kernel if len(kernel) == 2 else (1, *kernel)))
    )
    sides = [min(BLOCK, n if form.method == "dct" else 1 << (n - 1).bit_length()) for n in (rows, columns)]
    blocks = planes * ceil(rows / sides[0]) * ceil(columns / sides[1])
    kept = max(1, ceil(form.sizes[0] * prod(sides) / 100 - 1e-9))
    return FLOAT_BYTES * kept * (blocks + prod(sides)) + _around(7, 6)
