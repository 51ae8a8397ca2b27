"""Other forms of a layer: which are worth pricing, what they run as, and at which widths they still are any."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from edgesdk.core.errors import UsageError
from edgesdk.core.graph import ACTIVATION, CONV, LINEAR, OTHER, Layer
from edgesdk.core.plan import STORED, Form
from edgesdk.price.kinds import ACTIVATIONS

if TYPE_CHECKING:
    from edgesdk.price.operators import Operator

USUAL = ("svd", "spatial", "tucker", "separable")  # on every menu: each of these won somewhere
CHEAPER = ("relu", "relu6", "identity")  # of an activation that is a layer of its own
ASKED = ("cp", "kernel", *CHEAPER)  # on the menu of who asks for them
SHARES = (4, 2)  # a quarter and a half of full rank


def check(offer: Iterable[str]) -> None:
    """Raise ``UsageError`` where ``offer`` names no form that can be asked for."""
    known = (*USUAL, *ASKED, *STORED)
    for name in offer:
        if name not in known:
            raise UsageError(f"{name!r} is no form of a layer that can be offered", f"choose {', '.join(known)}")


def forms(layer: Layer, offer: Iterable[str] = ()) -> tuple[Form, ...]:
    """The forms of ``layer`` that are worth pricing: the usual ones, and what ``offer`` names of ``ASKED``.

    Ranks are a quarter and a half of full, in multiples of 8. Kernels are smaller by an even number of entries, so that
    what is left is the centre, and no smaller than the padding allows.
    """
    if layer.kind in (ACTIVATION, OTHER):
        found = _of_an_activation(layer)
    elif layer.kind == LINEAR:
        found = _of_a_matrix(layer)
    elif layer.kind == CONV:
        found = _of_a_convolution(layer)
    else:
        found = []
    wanted = {*USUAL, *offer}
    return tuple(form for form in dict.fromkeys(found) if form.method in wanted)


def _of_an_activation(layer: Layer) -> list[Form]:
    if len(layer.inputs) != 1:
        return []
    if layer.operator in ACTIVATIONS:
        return [Form(method) for method in CHEAPER]
    return [Form("identity")] if layer.kind == ACTIVATION else []


def _of_a_matrix(layer: Layer) -> list[Form]:
    n, c = layer.weight_shape[:2]
    ranks = {rank for share in SHARES if (rank := _eight(min(n, c) // share)) * (n + c) < n * c}
    return [Form("svd", (rank,)) for rank in sorted(ranks)]


def _of_a_convolution(layer: Layer) -> list[Form]:
    found = [Form("kernel", sizes) for sizes in _kernels(layer)]
    if layer.groups != 1:
        return found
    n, c = layer.weight_shape[:2]
    if set(layer.kernel) == {1}:
        return _of_a_matrix(layer) if len(layer.kernel) == 2 else []
    if c > 1:
        found.append(Form("separable"))
    if len(layer.kernel) != 2:
        return found
    for share in SHARES:
        r_in, r_out, rank = _eight(c // share), _eight(n // share), _eight(min(n, c) // share)
        if r_in < c and r_out < n:
            found.append(Form("tucker", (r_in, r_out)))
        if rank < min(n, c):
            found.append(Form("spatial", (rank,)))
        if rank < min(n, c) and min(layer.kernel) > 1:
            found.append(Form("cp", (rank,)))
    return found


def _kernels(layer: Layer) -> list[tuple[int, ...]]:
    """The smaller kernels, the largest first, down to one entry along the shortest axis."""
    found = []
    for gone in range(2, max(layer.kernel), 2):
        sizes = tuple(max(k - gone, 2 - k % 2) for k in layer.kernel)
        removed = zip(layer.kernel, sizes, layer.padding, layer.dilation, strict=True)
        if all(d * (k - size) // 2 <= p for k, size, p, d in removed):
            found.append(sizes)
    return found


def _eight(rank: int) -> int:
    return max(8, rank // 8 * 8)


def fits(form: Form, reads: int, writes: int) -> bool:
    """Whether a form is still one at so many input and output channels: a rank must be below them."""
    if form.method == "tucker":
        return form.sizes[0] < reads and form.sizes[1] < writes
    return form.method not in ("svd", "spatial", "cp") or form.sizes[0] < min(reads, writes)


def parts(whole: Operator, form: Form) -> tuple[Operator, ...]:
    """The operators that a form of the weighted operator ``whole`` runs as; a stored form runs as the layer does."""
    if form.stored:
        return (whole,)
    plain = replace(whole, activation=None)
    if whole.kind == LINEAR:
        (rank,) = form.sizes
        return replace(plain, outputs=rank), replace(whole, inputs=rank, entry=False)
    count = len(whole.kernel)
    one = dict(kernel=(1,) * count, stride=(1,) * count, padding=(0,) * count, dilation=(1,) * count)
    if form.method == "kernel":
        removed = zip(whole.kernel, form.sizes, whole.padding, whole.dilation, strict=True)
        return (replace(whole, kernel=form.sizes, padding=tuple(p - d * (k - size) // 2 for k, size, p, d in removed)),)
    if form.method == "svd":
        (rank,) = form.sizes
        return replace(plain, outputs=rank), replace(whole, inputs=rank, size=whole.after, entry=False, **one)
    if form.method == "separable":
        depth = replace(plain, outputs=whole.inputs, groups=whole.inputs)
        return depth, replace(whole, size=whole.after, entry=False, **one)
    if form.method == "spatial":
        (rank,) = form.sizes
        column = replace(plain, outputs=rank, **_along(whole, 0))
        return column, replace(whole, inputs=rank, size=column.after, entry=False, **_along(whole, 1))
    if form.method == "cp":
        (rank,) = form.sizes
        within = dict(inputs=rank, outputs=rank, groups=rank, entry=False)
        column = replace(plain, **within, **_along(whole, 0))
        row = replace(plain, size=column.after, **within, **_along(whole, 1))
        last = replace(whole, inputs=rank, size=whole.after, entry=False, **one)
        return replace(plain, outputs=rank, **one), column, row, last
    rank_in, rank_out = form.sizes
    return (
        replace(plain, outputs=rank_in, **one),
        replace(plain, inputs=rank_in, outputs=rank_out, entry=False),
        replace(whole, inputs=rank_out, size=whole.after, entry=False, **one),
    )


def _along(whole: Operator, axis: int) -> dict[str, tuple[int, ...]]:
    """The window of a convolution along one axis alone."""
    window = dict(kernel=whole.kernel, stride=whole.stride, padding=whole.padding, dilation=whole.dilation)
    return {
        name: tuple(value if at == axis else int(name != "padding") for at, value in enumerate(values))
        for name, values in window.items()
    }
