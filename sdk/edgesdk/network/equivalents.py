"""Calls that ``torch.export`` cannot follow or no format has, as ones that compute the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from string import ascii_letters
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from edgesdk.core.errors import ModelError
from edgesdk.network.places import place_here

BY_PRODUCTS_IF_MANY = "use_mm_for_euclid_dist_if_necessary"  # PyTorch's default for distances
MANY = 25  # rows above which it takes products for these
_DATA: Any = vars(torch._C.TensorBase)["data"].__get__


class Equivalents(TorchFunctionMode):
    """Within it ``x.data`` is ``x.detach()``, the same memory, bags of one length are a table that is reduced, sums
    over indices and distances are products of matrices, what is repeated is expanded, recurrent cells are linear
    layers, blocks are laid side by side or added up, bounds below a number are counted, and a median is picked of what
    is sorted."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == _DATA:
            return args[0].detach()
        if func is F.embedding_bag:
            return embedding_bag(*args, **kwargs)
        if func in (torch.repeat_interleave, Tensor.repeat_interleave):
            return repeat_interleave(*args, **kwargs)
        if func is torch.cdist:
            return cdist(*args, **kwargs)
        if func is torch.einsum:
            return einsum(*args)
        if func in (torch.take_along_dim, Tensor.take_along_dim):
            return take_along_dim(*args, **kwargs)
        if func in (F.bilinear, torch.ops.aten.bilinear.default):
            return bilinear(*args, **kwargs)
        if func is F.fold:
            return fold(*args, **kwargs)
        if func is torch.bucketize:
            return bucketize(*args, **kwargs)
        if func is torch.searchsorted:
            return searchsorted(*args, **kwargs)
        if func in (torch.median, Tensor.median) and len(args) + len(kwargs) > 1:
            return median(*args, **kwargs)
        if func in CELLS:
            return CELLS[func](*args, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def free_lengths(model: nn.Module) -> Iterator[None]:
    """Within it ``len(x)`` of a tensor is ``x.shape[0]``, which may be free, in the code of ``model``'s own classes.

    Python's own makes a number of it. That one is left alone, as PyTorch knows it by what it is.
    """
    kinds = {kind for part in model.modules() for kind in type(part).__mro__}
    spaces = [getattr(value, "__globals__", {}) for kind in kinds for value in vars(kind).values()]
    own = [space for space in spaces if space.get("__name__", "torch").partition(".")[0] != "torch"]
    changed = list({id(space): space for space in own if "len" not in space}.values())
    for space in changed:
        space["len"] = _length
    try:
        yield
    finally:
        for space in changed:
            del space["len"]


def _length(value: Any, /) -> Any:
    sized = isinstance(value, Tensor) and type(value).__len__ is Tensor.__len__ and value.dim()
    return value.shape[0] if sized else len(value)


def einsum(equation: Any, *operands: Any) -> Tensor:
    """``torch.einsum`` of two tensors as a product of matrices between permutations, a linear layer where one of them
    is a parameter of which the result has no index that the other has, too; of several, two at a time; of one, sums
    over its axes. Anything else is left to PyTorch.

    TFLite has no such operator, and OpenVINO's takes many times as long.
    """
    given: Any = operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    terms = _read_terms(equation, given)
    if terms is None:
        return torch.einsum(equation, *operands)
    *inputs, out = terms
    if len(inputs) == 1:
        return _order(*_sum_alone(given[0], inputs[0], out), out)
    if len(inputs) > 2:
        first, second, *others = inputs
        kept = "".join(index for index in dict.fromkeys(first + second) if index in "".join([*others, out]))
        then = f"{','.join([kept, *others])}->{out}"
        return einsum(then, einsum(f"{first},{second}->{kept}", *given[:2]), *given[2:])
    (left, right), (a, b) = inputs, given
    if isinstance(a, nn.Parameter) and not isinstance(b, nn.Parameter):
        left, right, a, b = right, left, b, a
    a, left = _sum_alone(a, left, right + out)
    b, right = _sum_alone(b, right, left + out)
    batch = [i for i in out if i in left and i in right]
    summed = [i for i in left if i in right and i not in out]
    mine, other = [i for i in left if i not in right], [i for i in right if i not in left]
    sizes = dict(zip(left, a.shape, strict=True)) | dict(zip(right, b.shape, strict=True))
    if not summed:
        return _spread(a, left, out) * _spread(b, right, out)
    if not batch and isinstance(b, nn.Parameter):
        x = _join(_order(a, left, [*mine, *summed]), len(mine), len(summed))
        weight = _join(_join(_order(b, right, [*other, *summed]), len(other), len(summed)), 0, len(other))
        y = _part(F.linear(x, weight), len(mine), [sizes[i] for i in other])
        return _order(y, [*mine, *other], out)
    at = len(batch)
    x = _join(_join(_order(a, left, [*batch, *mine, *summed]), at + len(mine), len(summed)), at, len(mine))
    y = _join(_join(_order(b, right, [*batch, *summed, *other]), at + len(summed), len(other)), at, len(summed))
    z = _part(_part(torch.matmul(x, y), at + 1, [sizes[i] for i in other]), at, [sizes[i] for i in mine])
    return _order(z, [*batch, *mine, *other], out)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = BY_PRODUCTS_IF_MANY) -> Tensor:
    """``torch.cdist``, which no format has: as a product of matrices where PyTorch does so, of differences else."""
    many = compute_mode == BY_PRODUCTS_IF_MANY and any(not isinstance(n, int) or n > MANY for n in x2.shape[-2:-1])
    if p == 2 and (many or compute_mode == "use_mm_for_euclid_dist"):
        squares = x1.square().sum(-1, keepdim=True) + x2.square().sum(-1).unsqueeze(-2)
        return (squares - 2 * torch.matmul(x1, x2.mT)).clamp(min=0).sqrt()
    apart = (x1.unsqueeze(-2) - x2.unsqueeze(-3)).abs()
    if p == 0:
        return (apart != 0).to(x1.dtype).sum(-1)
    if p in (1, 2):
        return apart.sum(-1) if p == 1 else apart.square().sum(-1).sqrt()
    return apart.amax(-1) if p == float("inf") else apart.pow(p).sum(-1).pow(1 / p)


def repeat_interleave(input: Tensor, repeats: Any = None, dim: int | None = None, **kwargs: Any) -> Tensor:
    """``torch.repeat_interleave`` of as many of each, as an expanded view that is laid out."""
    if not isinstance(repeats, int) or dim is None or kwargs:
        return torch.repeat_interleave(input, repeats, dim, **kwargs)
    dim %= input.dim()
    sizes = [repeats if axis == dim + 1 else -1 for axis in range(input.dim() + 1)]
    return input.unsqueeze(dim + 1).expand(sizes).flatten(dim, dim + 1)


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """``torch.take_along_dim``, which asks how long axes are, as what it gathers."""
    if dim is None:
        return torch.gather(input.flatten(), 0, indices.flatten())
    dim %= input.dim()
    pairs = list(enumerate(zip(input.shape, indices.shape, strict=True)))
    sizes = [other if axis != dim and isinstance(own, int) and own == 1 else -1 for axis, (own, other) in pairs]
    others = [own if axis != dim and isinstance(other, int) and other == 1 else -1 for axis, (own, other) in pairs]
    return torch.gather(input.expand(sizes), dim, indices.expand(others))


def fold(
    input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """``F.fold`` of a batch: blocks that do not meet are laid side by side, those that do are added up, a place of
    the kernel at a time. ONNX has it as an operator that TFLite lacks."""
    size, kernel, far, border, step = map(_pair, (output_size, kernel_size, dilation, padding, stride))
    if input.dim() != 3:
        return F.fold(input, output_size, kernel_size, dilation, padding, stride)
    reach = [d * (k - 1) + 1 for d, k in zip(far, kernel, strict=True)]
    counts = [(n + 2 * p - r) // s + 1 for n, p, r, s in zip(size, border, reach, step, strict=True)]
    channels = input.shape[1] // (kernel[0] * kernel[1])
    x = input.reshape(-1, channels, *kernel, *counts)
    if kernel == step and far == (1, 1) and border == (0, 0):
        laid = x.permute(0, 1, 4, 2, 5, 3).reshape(-1, channels, *(c * k for c, k in zip(counts, kernel, strict=True)))
        rest = [n - side for n, side in zip(size, laid.shape[2:], strict=True)]
        return F.pad(laid, (0, rest[1], 0, rest[0])) if any(rest) else laid
    total = None
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            part = x[:, :, i, j]
            for axis, place in enumerate((i, j)):
                part = _placed(part, 2 + axis, place * far[axis] - border[axis], step[axis], size[axis])
            total = part if total is None else total + part
    return total  # type: ignore[return-value]


def _placed(x: Tensor, axis: int, first: int, step: int, length: int) -> Tensor:
    """What lies along ``axis`` of ``x``, from ``first`` on a ``step`` apart, of ``length``; zeros between, and nothing
    of what falls beside it."""
    after = [0, 0] * (x.dim() - 1 - axis)
    count = x.shape[axis]
    if step > 1:
        x = F.pad(x.unsqueeze(axis + 1), (*after, 0, step - 1)).flatten(axis, axis + 1)
        count = (count - 1) * step + 1
        x = x.narrow(axis, 0, count)
    begin, end = max(0, -first), min(count, length - first)
    x = x.narrow(axis, begin, end - begin)
    return F.pad(x, (*after, first + begin, length - first - end))


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value if len(value) > 1 else (value[0], value[0])
    return first, second


def bucketize(input: Any, boundaries: Tensor, **kwargs: Any) -> Tensor:
    """``torch.bucketize`` as :func:`searchsorted`."""
    return searchsorted(boundaries, input, **kwargs)


def searchsorted(
    sorted_sequence: Tensor, input: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """``torch.searchsorted``, which is a search in no format: how many bounds lie below."""
    if not isinstance(input, Tensor) or sorter is not None:
        given = {"out_int32": out_int32, "right": right, "side": side, "sorter": sorter}
        return torch.searchsorted(sorted_sequence, input, **given)
    bounds, each = sorted_sequence.unsqueeze(-2) if sorted_sequence.dim() > 1 else sorted_sequence, input.unsqueeze(-1)
    below = bounds <= each if right or side == "right" else bounds < each
    return below.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


def median(input: Tensor, dim: int, keepdim: bool = False) -> Any:
    """``torch.median`` along an axis, which ONNX lacks: the least of the upper half, which has the lower one of two in
    the middle."""
    count = input.shape[dim] // 2 + 1
    upper = torch.topk(input, count, dim)
    picked = (each.narrow(dim, count - 1, 1) for each in upper)
    return torch.return_types.median([each if keepdim else each.squeeze(dim) for each in picked])  # type: ignore[attr-defined]


def _read_terms(equation: Any, given: Any) -> list[str] | None:
    """The indices of the operands and of the result; ``None`` for what is no product of matrices."""
    if not isinstance(equation, str) or not all(isinstance(each, Tensor) for each in given):
        return None
    read, arrow, out = equation.replace(" ", "").partition("->")
    if not arrow:
        letters = read.replace(",", "").replace(".", "")
        out = "." * 3 * ("." in read) + "".join(sorted(i for i in {*letters} if letters.count(i) == 1))
    inputs = read.split(",")
    if len(inputs) != len(given):
        return None
    free = [letter for letter in ascii_letters if letter not in equation]
    more = [
        each.dim() - len(term.replace("...", "")) if "..." in term else 0
        for each, term in zip(given, inputs, strict=True)
    ]
    if min(more) < 0 or max(more) > len(free):
        return None
    beside = "".join(free[: max(more)])  # the last of which each has, as PyTorch broadcasts them
    terms = [term.replace("...", beside[len(beside) - count :]) for term, count in zip(inputs, more, strict=True)]
    out = out.replace("...", beside)
    if any(each.dim() != len(term) for each, term in zip(given, terms, strict=True)):
        return None
    sizes = [pair for each, term in zip(given, terms, strict=True) for pair in zip(term, each.shape, strict=True)]
    fixed = {(index, size) for index, size in sizes if isinstance(size, int)}
    repeated = any(len(set(term)) < len(term) for term in (*terms, out)) or not set(out) <= set("".join(terms))
    stretched = len({index for index, _ in fixed}) < len(fixed)  # a size of 1 that meets another
    return None if repeated or stretched else [*terms, out]


def _sum_alone(x: Tensor, term: str, elsewhere: str) -> tuple[Tensor, str]:
    """``x`` summed over what is nowhere else, and its indices then."""
    alone = [axis for axis, index in enumerate(term) if index not in elsewhere]
    return (x.sum(alone), "".join(i for i in term if i in elsewhere)) if alone else (x, term)


def _order(x: Tensor, term: Sequence[str], wanted: Sequence[str]) -> Tensor:
    places = [list(term).index(index) for index in wanted]
    return x if places == sorted(places) else x.permute(places)


def _spread(x: Tensor, term: str, out: str) -> Tensor:
    """``x`` with the axes of the result, of size 1 where it has none."""
    x = _order(x, term, [index for index in out if index in term])
    for axis, index in enumerate(out):
        x = x if index in term else x.unsqueeze(axis)
    return x


def _join(x: Tensor, first: int, count: int) -> Tensor:
    """``x`` with so many axes as one."""
    return x.flatten(first, first + count - 1) if count else x.unsqueeze(first)


def _part(x: Tensor, axis: int, sizes: Sequence[int]) -> Tensor:
    """What :func:`_join` made of axes of those ``sizes``, parted."""
    return x.unflatten(axis, sizes) if len(sizes) > 1 else x if sizes else x.squeeze(axis)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.bilinear`` as a linear layer of the first input, whose outputs the second one weighs."""
    made, read, other = weight.shape
    each = F.linear(input1, weight.transpose(1, 2).reshape(made * other, read)).unflatten(-1, (made, other))
    total = (each * input2.unsqueeze(-2)).sum(-1)
    return total if bias is None else total + bias


def gru_cell(input: Tensor, hx: Tensor, *weights: Any, **named: Any) -> Tensor:
    """``torch.gru_cell`` as its linear layers, and what is made of their gates."""
    read, kept = (part.chunk(3, -1) for part in _gates(input, hx, *weights, **named))
    reset, update = ((read[i] + kept[i]).sigmoid() for i in (0, 1))
    new = (read[2] + reset * kept[2]).tanh()
    return new + update * (hx - new)


def lstm_cell(input: Tensor, hx: Sequence[Tensor], *weights: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """``torch.lstm_cell`` likewise."""
    read, kept = _gates(input, hx[0], *weights, **named)
    enter, forget, cell, out = (read + kept).chunk(4, -1)
    state = forget.sigmoid() * hx[1] + enter.sigmoid() * cell.tanh()
    return out.sigmoid() * state.tanh(), state


def rnn_tanh_cell(*given: Any, **named: Any) -> Tensor:
    """``torch.rnn_tanh_cell`` likewise."""
    read, kept = _gates(*given, **named)
    return (read + kept).tanh()


def rnn_relu_cell(*given: Any, **named: Any) -> Tensor:
    """``torch.rnn_relu_cell`` likewise."""
    read, kept = _gates(*given, **named)
    return (read + kept).relu()


def _gates(
    input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What a cell's weights make of the step that it reads, and of the states that it kept."""
    return F.linear(input, w_ih, b_ih), F.linear(hx, w_hh, b_hh)


CELLS: dict[Any, Any] = {
    called: cell
    for cell in (gru_cell, lstm_cell, rnn_tanh_cell, rnn_relu_cell)
    for called in (getattr(torch, cell.__name__), getattr(torch.ops.aten, cell.__name__).default)
}
"""By the function that a module calls, and by the operator that a program holds."""


def embedding_bag(input: Tensor, weight: Tensor, offsets: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    """``F.embedding_bag``, whose own operator is a loop over bags in ONNX, one that is not sound."""
    names = ("max_norm", "norm_type", "scale_grad_by_freq", "mode", "sparse", "per_sample_weights")
    given = dict(zip((*names, "include_last_offset", "padding_idx"), args, strict=False)) | kwargs
    if input.dim() != 2 or offsets is not None:
        fact = f"embedding_bag takes bags one after the other, by offsets{place_here()}"
        remedy = "give it words of shape (samples, words) without offsets, short bags filled up with its padding_idx"
        raise ModelError(fact, remedy)
    mode, padding, scale = (given.get(name) for name in ("mode", "padding_idx", "per_sample_weights"))
    rows = F.embedding(input, weight)
    if (most := given.get("max_norm")) is not None:
        sizes = rows.norm(given.get("norm_type", 2.0), -1, keepdim=True)
        rows = rows * (most / (sizes + 1e-7)).clamp(max=1.0)
    if scale is not None:
        rows = rows * scale[..., None]
    if padding is None:
        return rows.amax(1) if mode == "max" else rows.sum(1) if mode == "sum" else rows.mean(1)
    held = (input != padding % len(weight))[..., None]
    if mode == "max":
        lowest = rows.amin(1, keepdim=True)  # below which no row is
        return torch.where(held, rows, lowest).amax(1) * held.any(1)
    total, count = torch.where(held, rows, 0.0).sum(1), held.sum(1)
    return total if mode == "sum" else total / count.clamp(min=1)
