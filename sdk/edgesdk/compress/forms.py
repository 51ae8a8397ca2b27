"""Other forms of a layer: low rank, lighter convolutions, cheaper activations."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgesdk.core.errors import EdgeSdkError, UsageError
from edgesdk.core.plan import Form
from edgesdk.core.runtime import load_function
from edgesdk.network.modularize import aten
from edgesdk.price.forms import CHEAPER, KINDS, check
from edgesdk.techniques import lowrank
from edgesdk.techniques.layouts import TRANSPOSED
from edgesdk.techniques.libraries import library

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def ready(candidates: Iterable[str]) -> None:
    """Raise ``UsageError`` where ``candidates`` names no form that there is, or one whose library is missing."""
    candidates = tuple(candidates)
    check(candidates)
    for kind in (KINDS[name] for name in candidates if name in KINDS):
        try:
            if kind.library is not None:
                library(kind.library, kind.library)
        except EdgeSdkError as error:
            raise UsageError(f"{kind.method} cannot be a candidate: {error.fact}", error.remedy) from None


def activation_call(form: Form) -> tuple[Any, tuple[float, ...]] | None:
    """The ATen operator of a cheaper activation, and its arguments after the tensor; ``None`` for none at all."""
    call = CHEAPER[form.method].call
    return None if call is None else (attrgetter(call[0])(aten), call[1])


def activated(form: Form, x: Tensor) -> Tensor:
    """What an activation makes of ``x`` in its cheaper form."""
    call = activation_call(form)
    return x if call is None else call[0](x, *call[1])


def factorized(layer: nn.Module, form: Form) -> nn.Sequential:
    """``layer`` as a sequence of one to four smaller ones that is, as a whole, the form's best approximation of it.

    Raises ``UsageError`` for a method that does not apply to the layer, a rank above full, or a kernel that is not the
    centre of the layer's.
    """
    kind = KINDS.get(form.method)
    if kind is not None:
        maker = load_function(kind.maker) if isinstance(kind.maker, str) else kind.maker
        made = maker(layer, form)
        if made is not None:
            return made
    raise UsageError(f"{form.method} does not apply to {type(layer).__name__}", "choose another form for this layer")


def factorize_svd(layer: nn.Module, form: Form) -> nn.Sequential | None:
    """A linear layer, or a convolution of single pixels, as two of a lower rank (Denton et al. 2014); a transposed
    convolution as one of single pixels and one that reads what this makes."""
    (rank,) = form.sizes
    if isinstance(layer, nn.Linear):
        left, right = lowrank.truncated(layer.weight, rank)
        first = nn.Linear(layer.in_features, len(right), bias=False)
        last = nn.Linear(len(right), layer.out_features, bias=layer.bias is not None)
        return _filled([first, last], [right, left], layer.bias)
    if isinstance(layer, TRANSPOSED) and layer.groups == 1:
        return _narrowed(layer, rank)
    return _pointwise(layer, rank) if _mixes(layer) and set(layer.kernel_size) == {1} else None


def factorize_spatial(layer: nn.Module, form: Form) -> nn.Sequential | None:
    """A convolution as one along its columns and one along its rows (Jaderberg et al. 2014)."""
    return _spatial(layer, *form.sizes) if _is_image(layer) else None


def factorize_tucker(layer: nn.Module, form: Form) -> nn.Sequential | None:
    """A convolution between two of single pixels (Kim et al. 2016)."""
    return _tucker(layer, *form.sizes) if _mixes(layer) else None


def factorize_cp(layer: nn.Module, form: Form) -> nn.Sequential | None:
    """A convolution as four, of which the two in the middle have a kernel per channel (Lebedev et al. 2015)."""
    return _cp(layer, *form.sizes) if _is_image(layer) else None


def make_separable(layer: nn.Module, form: Form) -> nn.Sequential | None:
    """A convolution as a depthwise one and one of single pixels."""
    return _separable(layer) if _mixes(layer) else None


def make_smaller_kernel(layer: nn.Module, form: Form) -> nn.Sequential | None:
    """A convolution with the centre of its kernel alone."""
    return _smaller_kernel(layer, form.sizes) if isinstance(layer, CONVOLUTIONS) else None


def _mixes(layer: nn.Module) -> TypeGuard[nn.Conv1d | nn.Conv2d | nn.Conv3d]:
    """Whether it is a convolution that mixes all channels."""
    return isinstance(layer, CONVOLUTIONS) and layer.groups == 1


def _is_image(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a convolution over two axes that mixes all channels."""
    return isinstance(layer, nn.Conv2d) and layer.groups == 1


def _pointwise(layer: Any, rank: int) -> nn.Sequential:
    made, axes = type(layer), len(layer.kernel_size)
    left, right = (part.reshape(*part.shape, *[1] * axes) for part in lowrank.truncated(layer.weight.flatten(1), rank))
    first = made(layer.in_channels, rank, **_window(layer, *range(axes)), bias=False)
    last = made(rank, layer.out_channels, 1, bias=layer.bias is not None)
    return _filled([first, last], [right, left], layer.bias)


def _narrowed(layer: Any, rank: int) -> nn.Sequential:
    """What each channel makes of its window, as a sum of as many windows as the ``rank`` says."""
    left, right = lowrank.truncated(layer.weight.flatten(1), rank)
    axes = len(layer.kernel_size)
    first = CONVOLUTIONS[axes - 1](layer.in_channels, rank, 1, bias=False)
    last = type(layer)(
        rank, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.output_padding,
        bias=layer.bias is not None, dilation=layer.dilation,
    )  # fmt: skip
    weights = left.T.reshape(rank, -1, *[1] * axes), right.reshape(rank, *layer.weight.shape[1:])
    return _filled([first, last], weights, layer.bias)


def _spatial(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    first = nn.Conv2d(layer.in_channels, rank, **_window(layer, 0), bias=False)
    last = nn.Conv2d(rank, layer.out_channels, **_window(layer, 1), bias=layer.bias is not None)
    return _filled([first, last], lowrank.spatial(layer.weight, rank), layer.bias)


def _tucker(layer: Any, rank_in: int, rank_out: int) -> nn.Sequential:
    weights = lowrank.tucker(layer.weight, rank_in, rank_out)
    made, axes = type(layer), range(len(layer.kernel_size))
    first = made(layer.in_channels, rank_in, 1, bias=False)
    middle = made(rank_in, rank_out, **_window(layer, *axes), bias=False)
    last = made(rank_out, layer.out_channels, 1, bias=layer.bias is not None)
    return _filled([first, middle, last], weights, layer.bias)


def _cp(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    weights = lowrank.cp(layer.weight, rank)
    first = nn.Conv2d(layer.in_channels, rank, 1, bias=False)
    column = nn.Conv2d(rank, rank, **_window(layer, 0), groups=rank, bias=False)
    row = nn.Conv2d(rank, rank, **_window(layer, 1), groups=rank, bias=False)
    last = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    return _filled([first, column, row, last], weights, layer.bias)


def _separable(layer: Any) -> nn.Sequential:
    """A depthwise convolution and a pointwise one (Howard et al. 2017, section 3.1)."""
    made, axes = type(layer), range(len(layer.kernel_size))
    first = made(layer.in_channels, layer.in_channels, **_window(layer, *axes), groups=layer.in_channels, bias=False)
    last = made(layer.in_channels, layer.out_channels, 1, bias=layer.bias is not None)
    return _filled([first, last], lowrank.separable(layer.weight), layer.bias)


def _smaller_kernel(layer: Any, sizes: tuple[int, ...]) -> nn.Sequential:
    """The centre of the layer's kernel, and as much less padding, so that each output stays where it is."""
    if len(sizes) != len(layer.kernel_size) or any(
        not 1 <= size <= k or (k - size) % 2 for k, size in zip(layer.kernel_size, sizes, strict=True)
    ):
        fact = f"a kernel of {'x'.join(map(str, sizes))} is not the centre of {'x'.join(map(str, layer.kernel_size))}"
        raise UsageError(fact, "take an even number of entries off each axis")
    margins = [(k - size) // 2 for k, size in zip(layer.kernel_size, sizes, strict=True)]
    padding: Any = (0,) * len(sizes) if layer.padding == "valid" else layer.padding
    if padding != "same":
        padding = tuple(p - d * m for p, d, m in zip(padding, layer.dilation, margins, strict=True))
        if min(padding) < 0:
            fact = f"with a padding of {'x'.join(map(str, layer.padding))} a smaller kernel would make a larger output"
            raise UsageError(fact, "choose another form for this layer")
    small = type(layer)(
        layer.in_channels, layer.out_channels, sizes, layer.stride, padding, layer.dilation, layer.groups,
        layer.bias is not None,
    )  # fmt: skip
    centre = tuple(slice(m, m + size) for m, size in zip(margins, sizes, strict=True))
    return _filled([small], [layer.weight[(slice(None), slice(None), *centre)]], layer.bias)


def _window(layer: Any, *axes: int) -> dict[str, Any]:
    """The window of a convolution along these of its axes alone."""

    def along(values: Any, other: int) -> Any:
        if isinstance(values, str):  # padding that a convolution finds by itself
            return values
        return tuple(value if axis in axes else other for axis, value in enumerate(values))

    return dict(
        kernel_size=along(layer.kernel_size, 1), stride=along(layer.stride, 1), padding=along(layer.padding, 0),
        dilation=along(layer.dilation, 1),
    )  # fmt: skip


def _filled(layers: list[nn.Module], weights: Iterable[Tensor], bias: Tensor | None) -> nn.Sequential:
    with torch.no_grad():
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.copy_(weight)  # type: ignore[operator,union-attr]
        if bias is not None:
            layers[-1].bias.copy_(bias)  # type: ignore[operator,union-attr]
    return nn.Sequential(*layers)


@torch.no_grad()
def reconstructed(layer: nn.Module, form: Form) -> Tensor:
    """The weight, of the layer's own shape, that its form amounts to."""
    parts: list[Any] = list(factorized(layer, form))
    whole: Tensor = layer.weight  # type: ignore[assignment]
    if isinstance(layer, nn.Linear):
        return torch.linalg.multi_dot([part.weight for part in reversed(parts)])
    axes = whole.dim() - 2
    if isinstance(layer, TRANSPOSED):
        return torch.einsum("ri,ro->io", parts[0].weight.flatten(1), parts[1].weight.flatten(1)).reshape(whole.shape)
    if len(parts) == 1:
        answer = parts[0].weight
    else:  # to an impulse in each input channel, of one part after the other: (inputs, channels, *kernel)
        answer = torch.eye(parts[0].in_channels).reshape(*[parts[0].in_channels] * 2, *[1] * axes)
        for part in parts:
            spread = [k - 1 for k in part.kernel_size]
            flipped = part.weight.flip(list(range(2, 2 + axes)))
            answer = CONVOLVE[axes](answer, flipped, padding=spread, groups=part.groups)
        answer = answer.transpose(0, 1)
    margins = [(k - size) // 2 for k, size in zip(whole.shape[2:], answer.shape[2:], strict=True)]
    return F.pad(answer, [m for margin in reversed(margins) for m in (margin, margin)])
