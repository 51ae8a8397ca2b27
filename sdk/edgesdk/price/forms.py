"""Other forms of a layer, a row each: where one is worth pricing, what it runs as, and at which widths it still is any.

What makes one is named in its row, for it needs PyTorch. ``docs/architecture.md`` says what a new form needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeVar

from edgesdk.core.errors import UsageError
from edgesdk.core.graph import ACTIVATION, CONV, LINEAR, OTHER, TRANSPOSED, WEIGHTED, Layer
from edgesdk.core.plan import Form
from edgesdk.core.stored import STORED
from edgesdk.price.kinds import ACTIVATIONS
from edgesdk.price.operator import Operator

SHARES = (4, 2)  # a quarter and a half of full rank


@dataclass(frozen=True)
class FormKind:
    """A kind of form that a layer with weights can have: a chain of smaller layers in its place.

    ``candidates`` are those of a layer that are worth pricing, ``parts`` what an operator runs as in one, ``fits``
    whether it still is one at so many input and output channels. ``maker`` is ``(layer, form) -> nn.Sequential``, or
    ``None`` where it does not apply to that layer, as ``module:function`` where that needs an import. One that is
    ``usual`` is on every menu, others on that of who asks for them. ``library`` names the module of another package
    that its mathematics needs.
    """

    method: str
    candidates: Callable[[Layer], Iterable[Form]]
    parts: Callable[[Operator, Form], tuple[Operator, ...]]
    maker: str | Callable[[Any, Form], Any]
    fits: Callable[[Form, int, int], bool] = lambda form, reads, writes: True
    usual: bool = False
    library: str | None = None


KINDS: dict[str, FormKind] = {}
"""Every kind of form of a layer with weights, by its name; see :func:`register`."""


@dataclass(frozen=True)
class CheaperActivation:
    """What can stand in the place of an activation that is a layer of its own.

    ``runs_as`` is the activation as operators name it, ``None`` where nothing is left to run. ``call`` is the ATen
    operator and its arguments after the tensor.
    """

    method: str
    runs_as: str | None
    call: tuple[str, tuple[float, ...]] | None


CHEAPER: dict[str, CheaperActivation] = {}
"""Every cheaper activation, by its name; see :func:`register`."""

Row = TypeVar("Row", FormKind, CheaperActivation)


def register(row: Row) -> Row:
    """Make a form known under its name; ``row`` itself. Raises ``ValueError`` for a name that is taken."""
    if row.method in (*KINDS, *CHEAPER, *STORED):
        raise ValueError(f"there is a form {row.method} already")
    if isinstance(row, FormKind):
        KINDS[row.method] = row
    else:
        CHEAPER[row.method] = row
    return row


def check(candidates: Iterable[str]) -> None:
    """Raise ``UsageError`` where ``candidates`` names no form that can be asked for."""
    usual = sorted(KINDS, key=lambda name: not KINDS[name].usual)
    names = (*usual, *CHEAPER, *STORED)
    for name in candidates:
        if name not in names:
            raise UsageError(f"{name!r} is no form of a layer", f"choose {', '.join(names)}")


def forms(layer: Layer, candidates: Iterable[str] = ()) -> tuple[Form, ...]:
    """The forms of ``layer`` that are worth pricing: of the usual kinds, and of those that ``candidates`` names."""
    wanted = set(candidates)
    if layer.kind in (ACTIVATION, OTHER):
        return tuple(form for form in _of_an_activation(layer) if form.method in wanted)
    if layer.kind not in WEIGHTED:
        return ()
    kinds = (kind for kind in KINDS.values() if kind.usual or kind.method in wanted)
    return tuple(dict.fromkeys(form for kind in kinds for form in kind.candidates(layer)))


def fits(form: Form, reads: int, writes: int) -> bool:
    """Whether a form is still one at so many input and output channels."""
    return form.method not in KINDS or KINDS[form.method].fits(form, reads, writes)


def parts(whole: Operator, form: Form) -> tuple[Operator, ...]:
    """The operators that a form of the weighted operator ``whole`` runs as; a stored form runs as the layer does."""
    return (whole,) if form.stored else KINDS[form.method].parts(whole, form)


def _of_an_activation(layer: Layer) -> list[Form]:
    if len(layer.inputs) != 1:
        return []
    if layer.operator in ACTIVATIONS:
        return [Form(method) for method in CHEAPER]
    return [Form("identity")] if layer.kind == ACTIVATION else []


def _mixes(layer: Layer) -> bool:
    """Whether it is a convolution, of more than single places, that mixes all channels."""
    return layer.kind == CONV and layer.groups == 1 and set(layer.kernel) != {1}


def _is_image(layer: Layer) -> bool:
    """Whether it is such a convolution over two axes."""
    return _mixes(layer) and len(layer.kernel) == 2


def _eight(rank: int) -> int:
    """A rank in multiples of 8."""
    return max(8, rank // 8 * 8)


def _below(form: Form, reads: int, writes: int) -> bool:
    return form.sizes[0] < min(reads, writes)


def _pixel(whole: Operator) -> dict[str, tuple[int, ...]]:
    """The window of a convolution of single pixels."""
    count = len(whole.kernel)
    return dict(kernel=(1,) * count, stride=(1,) * count, padding=(0,) * count, dilation=(1,) * count)


def _along(whole: Operator, axis: int) -> dict[str, tuple[int, ...]]:
    """The window of a convolution along one axis alone."""
    window = dict(kernel=whole.kernel, stride=whole.stride, padding=whole.padding, dilation=whole.dilation)
    return {
        name: tuple(value if at == axis else int(name != "padding") for at, value in enumerate(values))
        for name, values in window.items()
    }


def _svd_candidates(layer: Layer) -> list[Form]:
    if layer.groups > 1 or layer.kind == CONV and set(layer.kernel) != {1}:
        return []
    n, c = layer.outputs, layer.inputs_each
    each = n * prod(layer.kernel)  # what a channel makes: a number, or a transposed one's window
    least = min(n, c)
    ranks = {rank for share in SHARES if (rank := _eight(least // share)) * (each + c) < each * c and rank < least}
    return [Form("svd", (rank,)) for rank in sorted(ranks)]


def _svd_parts(whole: Operator, form: Form) -> tuple[Operator, ...]:
    (rank,) = form.sizes
    first = replace(whole, activation=None, outputs=rank)
    if whole.kind == LINEAR:
        return first, replace(whole, inputs=rank, entry=False)
    if whole.kind == TRANSPOSED:
        return replace(first, kind=CONV, beyond=(), **_pixel(whole)), replace(whole, inputs=rank, entry=False)
    return first, replace(whole, inputs=rank, size=whole.after, entry=False, **_pixel(whole))


def _spatial_candidates(layer: Layer) -> list[Form]:
    return _ranked("spatial", layer) if _is_image(layer) else []


def _spatial_parts(whole: Operator, form: Form) -> tuple[Operator, ...]:
    (rank,) = form.sizes
    column = replace(whole, activation=None, outputs=rank, **_along(whole, 0))
    return column, replace(whole, inputs=rank, size=column.after, entry=False, **_along(whole, 1))


def _tucker_candidates(layer: Layer) -> list[Form]:
    if not _mixes(layer):
        return []
    n, c = layer.weight_shape[:2]
    ranks = [(_eight(c // share), _eight(n // share)) for share in SHARES]
    return [Form("tucker", (r_in, r_out)) for r_in, r_out in ranks if r_in < c and r_out < n]


def _tucker_parts(whole: Operator, form: Form) -> tuple[Operator, ...]:
    (rank_in, rank_out), plain = form.sizes, replace(whole, activation=None)
    return (
        replace(plain, outputs=rank_in, **_pixel(whole)),
        replace(plain, inputs=rank_in, outputs=rank_out, entry=False),
        replace(whole, inputs=rank_out, size=whole.after, entry=False, **_pixel(whole)),
    )


def _cp_candidates(layer: Layer) -> list[Form]:
    return _ranked("cp", layer) if _is_image(layer) and min(layer.kernel) > 1 else []


def _cp_parts(whole: Operator, form: Form) -> tuple[Operator, ...]:
    (rank,), plain = form.sizes, replace(whole, activation=None)
    within = dict(inputs=rank, outputs=rank, groups=rank, entry=False)
    column = replace(plain, **within, **_along(whole, 0))
    row = replace(plain, size=column.after, **within, **_along(whole, 1))
    last = replace(whole, inputs=rank, size=whole.after, entry=False, **_pixel(whole))
    return replace(plain, outputs=rank, **_pixel(whole)), column, row, last


def _ranked(method: str, layer: Layer) -> list[Form]:
    least = min(layer.weight_shape[:2])
    ranks = (_eight(least // share) for share in SHARES)
    return [Form(method, (rank,)) for rank in ranks if rank < least]


def _separable_candidates(layer: Layer) -> list[Form]:
    return [Form("separable")] if _mixes(layer) and layer.weight_shape[1] > 1 else []


def _separable_parts(whole: Operator, form: Form) -> tuple[Operator, ...]:
    depth = replace(whole, activation=None, outputs=whole.inputs, groups=whole.inputs)
    return depth, replace(whole, size=whole.after, entry=False, **_pixel(whole))


def _kernel_candidates(layer: Layer) -> list[Form]:
    """The smaller kernels, the largest first, down to one entry along the shortest axis.

    They are smaller by an even number of entries, so that what is left is the centre, and no smaller than the padding
    allows.
    """
    candidates: list[Form] = []
    if layer.kind == TRANSPOSED:
        return candidates
    for gone in range(2, max(layer.kernel, default=0), 2):
        sizes = tuple(max(k - gone, 2 - k % 2) for k in layer.kernel)
        removed = zip(layer.kernel, sizes, layer.padding, layer.dilation, strict=True)
        if all(d * (k - size) // 2 <= p for k, size, p, d in removed):
            candidates.append(Form("kernel", sizes))
    return candidates


def _kernel_parts(whole: Operator, form: Form) -> tuple[Operator, ...]:
    removed = zip(whole.kernel, form.sizes, whole.padding, whole.dilation, strict=True)
    return (replace(whole, kernel=form.sizes, padding=tuple(p - d * (k - size) // 2 for k, size, p, d in removed)),)


register(CheaperActivation("relu", "relu", ("relu.default", ())))
register(CheaperActivation("relu6", "relu6", ("hardtanh.default", (0.0, 6.0))))
register(CheaperActivation("identity", None, None))

_MAKERS = "edgesdk.compress.forms:"
register(FormKind("svd", _svd_candidates, _svd_parts, _MAKERS + "factorize_svd", _below, usual=True))
register(FormKind("spatial", _spatial_candidates, _spatial_parts, _MAKERS + "factorize_spatial", _below, usual=True))
register(
    FormKind(
        "tucker", _tucker_candidates, _tucker_parts, _MAKERS + "factorize_tucker", usual=True,
        fits=lambda form, reads, writes: form.sizes[0] < reads and form.sizes[1] < writes,
    )
)  # fmt: skip
register(FormKind("separable", _separable_candidates, _separable_parts, _MAKERS + "make_separable", usual=True))
register(FormKind("cp", _cp_candidates, _cp_parts, _MAKERS + "factorize_cp", _below, library="tensorly"))
register(FormKind("kernel", _kernel_candidates, _kernel_parts, _MAKERS + "make_smaller_kernel"))
