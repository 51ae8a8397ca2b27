"""Stored forms of a layer's weight: which are candidates, and the bytes that they take."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from edgesdk.core.errors import UsageError
from edgesdk.core.graph import WEIGHTED, Layer
from edgesdk.core.plan import Form
from edgesdk.core.runtime import format_of
from edgesdk.core.stored import FLOAT_BYTES, STORED


def forms(layer: Layer, methods: Iterable[str], runtime: str) -> tuple[Form, ...]:
    """Of the stored forms that ``methods`` name, those that make the weight of ``layer`` smaller for ``runtime``.

    Raises ``UsageError`` for a method that its files cannot hold at all.
    """
    wanted = [method for method in methods if method in STORED]
    holds = format_of(runtime).holds
    if lacking := [method for method in wanted if method not in holds]:
        able = f"; they hold {', '.join(holds)}" if holds else ""
        raise UsageError(f"{format_of(runtime).name} files hold no weights as {lacking[0]}{able}", "leave it out")
    if layer.kind not in WEIGHTED or not layer.weight_shape:
        return ()
    shape = layer.weight_shape
    every = (Form(method, sizes) for method in wanted for sizes in STORED[method].strengths)
    return tuple(form for form in every if fits(form, shape))


def fits(form: Form, shape: tuple[int, ...]) -> bool:
    """Whether a weight of ``shape`` can be stored in ``form``, and is smaller so."""
    return STORED[form.method].fits(form.sizes, shape) and stored_bytes(form, shape) < prod(shape) * FLOAT_BYTES


def stored_bytes(form: Form, shape: tuple[int, ...]) -> float:
    """Bytes that a weight of ``shape`` takes in an ONNX file, with the operators that decode it.

    What depends on the values is taken at its most: a codebook may turn out smaller. Constants that layers share are
    counted with each.
    """
    return STORED[form.method].file_bytes(form.sizes, shape)


def resident_bytes(form: Form, shape: tuple[int, ...]) -> float:
    """Bytes that a weight of ``shape`` takes in memory once it is loaded."""
    return STORED[form.method].resident * prod(shape) * FLOAT_BYTES
