"""Operators that PyTorch's exporter lacks, or leaves an argument out of, as others that it writes as they are."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import fx

aten: Any = torch.ops.aten
ALIKE = (aten.zeros_like.default, aten.ones_like.default, aten.full_like.default)  # of which only the size counts
FILLED = (aten.new_zeros.default, aten.new_ones.default, aten.new_full.default)
LINES = (aten.fft_fft.default, aten.fft_ifft.default, aten.fft_irfft.default)  # spectra along one axis, and several
PLANES = (
    aten.fft_fft2.default, aten.fft_ifft2.default, aten.fft_irfft2.default,
    aten.fft_fftn.default, aten.fft_ifftn.default, aten.fft_irfftn.default,
)  # fmt: skip
Make = Callable[..., fx.Node]  # adds a call of an operator with arguments to the graph


def spelled(graph: fx.Graph, node: fx.Node, args: tuple[Any, ...], origin: dict[str, Any]) -> fx.Node | None:
    """What computes the same as ``node``, whose arguments are ``args`` in ``graph``, and is written as it is; ``None``
    where the operator itself is. ``origin`` says where ``node`` comes from."""

    def make(target: Any, *given: Any) -> fx.Node:
        made = graph.create_node("call_function", target, given, {}, target.overloadpacket.__name__)
        made.meta = dict(origin)
        return made

    spell = SPELLED.get(node.target)
    return None if spell is None else spell(make, node, args)


def _average(make: Make, node: fx.Node, args: tuple[Any, ...]) -> fx.Node | None:
    """A mean over windows by a divisor of its own, which the exporter leaves out, as a mean times a number."""
    axes = 3 if node.target is aten.avg_pool3d.default else 2
    usual: tuple[Any, ...] = (None, None, (), 0, False, True, None)
    x, kernel, stride, padding, ceil, _, divisor = (*args, *usual[len(args) :])
    if divisor is None:
        return None
    kernel, padding = _each(kernel, axes), _each(padding, axes)
    stride = _each(stride, axes) if stride else kernel
    sizes = node.meta["val"].shape[-axes:]
    lengths = node.args[0].meta["val"].shape[-axes:]  # type: ignore[union-attr]
    border: list[int] = []  # with what the last windows reach beyond it, the last axis first
    for k, s, p, size, length in zip(kernel, stride, padding, sizes, lengths, strict=True):
        beyond = (size - 1) * s + k - (length + 2 * p) if ceil else 0
        border = [p, p + max(0, beyond), *border]
    if any(border):
        x = make(aten.constant_pad_nd.default, x, border, 0.0)
    pooled = make(aten.avg_pool3d.default if axes == 3 else aten.avg_pool2d.default, x, list(kernel), list(stride))
    return make(aten.mul.Tensor, pooled, prod(kernel) / divisor)


def _mean_of_scattered(make: Make, node: fx.Node, args: tuple[Any, ...]) -> fx.Node | None:
    """A mean of what is scattered to each place, which the exporter writes as if it were another reduction."""
    x, dim, index, source, reduce = args
    if reduce != "mean":
        return None
    zeros = make(aten.zeros_like.default, x)
    total = make(aten.scatter_add.default, zeros, dim, index, source)
    count = make(aten.scatter_add.default, zeros, dim, index, make(aten.ones_like.default, source))
    if node.kwargs.get("include_self", True):
        return make(aten.div.Tensor, make(aten.add.Tensor, x, total), make(aten.add.Tensor, count, 1))
    mean = make(aten.div.Tensor, total, make(aten.clamp.default, count, 1))
    return make(aten.where.self, make(aten.gt.Scalar, count, 0), mean, x)


def _leaky(make: Make, node: fx.Node, args: tuple[Any, ...]) -> fx.Node | None:
    """A slope that is drawn in training alone."""
    usual: tuple[Any, ...] = (None, 1 / 8, 1 / 3, False)
    x, lower, upper, training = (*args, *usual[len(args) :])[:4]
    return None if training else make(aten.leaky_relu.default, x, (lower + upper) / 2)


def _power(make: Make, node: fx.Node, args: tuple[Any, ...]) -> fx.Node:
    """A power in 64 bits, in those that all is computed in."""
    return make(getattr(aten.pow, node.target._overloadname), *args)  # type: ignore[union-attr]


def _products_so_far(make: Make, node: fx.Node, args: tuple[Any, ...]) -> fx.Node | None:
    """The product of all up to each place: each times what lies one before it, then two, then four."""
    x, axis = args[:2]
    shape = node.meta["val"].shape
    axis %= max(len(shape), 1)
    if not shape or not isinstance(shape[axis], int) or node.kwargs.get("dtype") is not None:
        return None
    before = 1
    while before < shape[axis]:
        border = [*[0, 0] * (len(shape) - 1 - axis), before, 0]
        earlier = make(aten.slice.Tensor, x, axis, 0, shape[axis] - before)
        x = make(aten.mul.Tensor, x, make(aten.constant_pad_nd.default, earlier, border, 1.0))
        before *= 2
    return x if before > 1 else make(aten.clone.default, x)


def _alike(make: Make, node: fx.Node, args: tuple[Any, ...]) -> fx.Node | None:
    """A value all over, of the size of something of which nothing else is asked: no file would hold what makes that."""
    source: Any = node.args[0]
    if source.op != "call_function" or not all(user.target in (*ALIKE, *FILLED) for user in source.users):
        return None
    given = next(n for n in args[0].graph.nodes if n.op == "placeholder")
    value = node.meta["val"]
    if node.target in FILLED:
        made = make(node.target, given, *args[1:])
        made.kwargs = {"dtype": value.dtype}
        return made
    samples = next(n for n in node.graph.nodes if n.name == given.name).meta["val"].shape[0]
    sizes = [
        size if isinstance(size, int) else make(aten.sym_size.int, given, 0) if str(size) == str(samples) else None
        for size in value.shape
    ]
    if None in sizes:
        return None
    filled = args[1] if node.target is aten.full_like.default else float(node.target is aten.ones_like.default)
    made = make(aten.new_full.default, given, sizes, filled)
    made.kwargs = {"dtype": value.dtype}
    return made


def _complex_pad(make: Make, node: fx.Node, args: tuple[Any, ...]) -> fx.Node | None:
    """A border of zeros around complex numbers, as one around what is real and what is imaginary."""
    usual: tuple[Any, ...] = (None, None, "constant", None)
    given = args if node.target is aten.pad.default else (*args[:2], "constant", *args[2:])
    x, border, mode, value = (*given, *usual[len(given) :])
    if not node.meta["val"].is_complex() or mode != "constant" or value:
        return None
    padded = make(aten.constant_pad_nd.default, make(aten.view_as_real.default, x), [0, 0, *border], 0.0)
    return make(aten.view_as_complex.default, padded)


def _longer(make: Make, node: fx.Node, args: tuple[Any, ...]) -> fx.Node | None:
    """A transform of complex numbers that is asked for more of them than there are: of these with zeros behind them."""
    source: Any = node.args[0]
    read = source.meta["val"]
    names = ("self", "n" if node.target in LINES else "s", "dim", "norm")
    given = dict(zip(names, args, strict=False)) | node.kwargs
    lengths, axes = (_each(given[name], 1) if given.get(name) is not None else None for name in names[1:3])
    if lengths is None or not read.is_complex():
        return None
    axes = axes or list(range(-len(lengths), 0))
    if not all(isinstance(each, int) for each in (*lengths, *(read.shape[axis] for axis in axes))):  # the batch's
        return None
    real = node.target in (aten.fft_irfft.default, aten.fft_irfft2.default, aten.fft_irfftn.default)
    border = [0] * (2 * read.dim())
    for place, (length, axis) in enumerate(zip(lengths, axes, strict=True)):
        wanted = length // 2 + 1 if real and place == len(axes) - 1 else length
        border[2 * (-1 - axis if axis < 0 else read.dim() - 1 - axis) + 1] = max(0, wanted - read.shape[axis])
    if not any(border):
        return None
    padded = make(aten.constant_pad_nd.default, make(aten.view_as_real.default, args[0]), [0, 0, *border], 0.0)
    whole = make(aten.view_as_complex.default, padded)
    return make(node.target, whole, given[names[1]], axes[0] if node.target in LINES else axes, given.get("norm"))


def _complex_linear(make: Make, node: fx.Node, args: tuple[Any, ...]) -> fx.Node | None:
    """A linear layer of complex numbers as a product."""
    x, weight, bias = (*args, None)[:3]
    if not node.meta["val"].is_complex():
        return None
    product = make(aten.matmul.default, x, make(aten.permute.default, weight, [1, 0]))
    return product if bias is None else make(aten.add.Tensor, product, bias)


def _each(value: Any, axes: int) -> list[int]:
    value = list(value) if isinstance(value, (list, tuple)) else [value]
    return value * axes if len(value) == 1 else value


SPELLED: dict[Any, Callable[[Make, fx.Node, tuple[Any, ...]], fx.Node | None]] = {
    **dict.fromkeys((*ALIKE, *FILLED), _alike),
    aten.avg_pool2d.default: _average, aten.avg_pool3d.default: _average, aten.rrelu.default: _leaky,
    aten.cumprod.default: _products_so_far,
    aten.pad.default: _complex_pad, aten.constant_pad_nd.default: _complex_pad, aten.linear.default: _complex_linear,
    **dict.fromkeys((*LINES, *PLANES), _longer),
    aten.scatter_reduce.two: _mean_of_scattered, aten.float_power.Tensor_Scalar: _power,
    aten.float_power.Tensor_Tensor: _power, aten.float_power.Scalar: _power,
}  # fmt: skip
