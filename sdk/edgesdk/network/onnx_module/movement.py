"""Translations of operators that move, pick and join what is there."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import numpy_helper

from edgesdk.network.onnx_module.resizing import resize
from edgesdk.network.onnx_module.translation import Call
from edgesdk.network.onnx_module.turns import rejoined, squeezed, turned

REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
WHOLE = 2**31  # ends of slices beyond it mean all there is


def samples_axis(call: Call, index: int = 0) -> int | None:
    """The axis of an input along which the samples of a batch lie."""
    at_one, at_two = call.shapes(index)
    return next((axis for axis, (a, b) in enumerate(zip(at_one, at_two, strict=True)) if a != b), None)


def is_number(size: Any, number: int) -> bool:
    """Whether a size is known, and this; one that grows with the batch is a call's."""
    return isinstance(size, int) and size == number


def reshape(call: Call) -> Any:
    """A Reshape; one to stated sizes takes as many samples as there are."""
    wanted = call.get("shape") if "shape" in call.attributes else call.sizes(1)
    at_one, at_two = call.shapes()
    if not call.get("allowzero", 0):
        own = samples_axis(call)
        wanted = [at_one[axis] if is_number(size, 0) and axis != own else size for axis, size in enumerate(wanted)]
    return rejoined(call, call.tensor().reshape(_with_samples(call, wanted, at_one, at_two)))


def _with_samples(call: Call, wanted: list[Any], at_one: tuple[int, ...], at_two: tuple[int, ...]) -> list[Any]:
    """``wanted`` with the size of the batch in the place of the size that was one sample's."""
    axis, batch = samples_axis(call), call.translation.batch
    stated = all(isinstance(size, int) for size in wanted)
    if axis is None:
        return wanted
    zero = next((i for i, size in enumerate(wanted) if is_number(size, 0)), None)
    if zero is not None:  # as long as the axis of the samples is
        return [call.tensor().size(axis) if i == zero else size for i, size in enumerate(wanted)]
    if not stated:
        return wanted
    rest = prod(size for size in wanted if size != -1)
    whole = [prod(at_one) // max(rest, 1) if size == -1 else size for size in wanted]
    place = _place(whole, prod(at_one[:axis]), at_one[axis])
    if place is None or wanted[place] == -1 or (call.translation.free and -1 in wanted and whole[place] != 1):
        return wanted  # as the file has it for any batch
    return [batch * size if i == place and size != 1 else batch if i == place else size for i, size in enumerate(whole)]


def _place(whole: list[int], before: int, samples: int) -> int | None:
    """Where the samples go of an axis that is ``samples`` long for one of them, behind ``before`` elements."""
    starts = [prod(whole[:i]) for i in range(len(whole))]
    ones = [i for i, start in enumerate(starts) if whole[i] == 1 and start in (before, before * samples)]
    if ones:
        return ones[0]
    places = [i for i, start in enumerate(starts) if start == before]
    place = next((i for i in places if whole[i] == samples), None)
    if place is None:
        place = next((i for i in places if whole[i] % samples == 0), None)
        if place and place == len(whole) - 1:  # a matrix of rows, more of which come with each sample
            place -= 1
    return place


def flatten(call: Call) -> Any:
    axis = call.get("axis", 1)
    axis = axis + call.rank() if axis < 0 else axis
    if axis == 1:
        return torch.flatten(call.tensor(), 1) if call.rank() > 1 else call.tensor().unsqueeze(1)
    if axis == 0:
        raise call.refusal("flattens all samples into one")
    return call.tensor().reshape(-1, prod(call.shape()[axis:]))


def squeeze(call: Call) -> Any:
    axes = call.setting("axes", 1)
    if axes is None:
        at_one, at_two = call.shapes()
        axes = [axis for axis, sizes in enumerate(zip(at_one, at_two, strict=True)) if sizes == (1, 1)]
    axes = sorted(axis % call.rank() for axis in ([axes] if isinstance(axes, int) else axes))
    if samples_axis(call) in axes:
        raise call.refusal("takes away the axis of the samples: it was made for a batch of one")
    return squeezed(call.tensor(), axes) if axes else call.tensor()


def unsqueeze(call: Call) -> Any:
    axes, x = call.setting("axes", 1), call.tensor()
    axes = [axes] if isinstance(axes, int) else list(axes)
    for axis in sorted(axis % (call.rank() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def transpose(call: Call) -> Any:
    return turned(call.tensor(), list(call.get("perm") or range(call.rank())[::-1]))


def concat(call: Call) -> Any:
    """A Concat; what was made for a batch of one is taken once for each sample."""
    axis = call.get("axis", 1) % call.rank()
    own = [samples_axis(call, index) for index in range(len(call))]
    samples = next((candidate for candidate in own if candidate is not None), axis)
    parts = []
    for index, part in enumerate(call.tensors()):
        if samples != axis and own[index] is None and call.shape(index)[samples] == 1:
            sizes: list[Any] = [-1] * call.rank(index)
            sizes[samples] = call.translation.batch
            part = part.expand(sizes)
        parts.append(part)
    return torch.cat(parts, axis)


def split(call: Call) -> Any:
    axis, count = call.get("axis", 0), len(call.node.output)
    sizes, length = call.setting("split", 1), call.shape()[axis]
    if sizes is None:
        each = -(-length // count)
        sizes = [min(each, length - each * i) for i in range(count)]
    pieces = torch.split(call.tensor(), list(sizes), axis)
    return call.named(pieces[place] for place in range(count))


def take(call: Call) -> Any:
    """A Slice, axis by axis; a negative step from the end turns an axis round."""
    x, shape = call.tensor(), call.shape()
    if "starts" in call.attributes:
        starts, ends = call.get("starts"), call.get("ends")
        axes, steps = call.get("axes") or list(range(len(starts))), [1] * len(starts)
    else:
        starts, ends = call.sizes(1), call.sizes(2)
        axes = call.sizes(3) if call.has(3) else list(range(len(starts)))
        steps = call.sizes(4) if call.has(4) else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not isinstance(start, int) or not isinstance(end, int) or axis % len(shape) == samples_axis(call):
            if (start, step) == (0, 1) and (not isinstance(end, int) or end >= shape[axis]):
                continue  # all samples
            raise call.refusal("takes some of the samples of a batch")
        places = range(shape[axis])[start : end if end > -WHOLE else None : step]
        if len(places) == shape[axis] and step == 1:
            continue
        if step > 0:
            stop = places[-1] + 1 if places else places.start
            x = x[(slice(None),) * (axis % len(shape)) + (slice(places.start, stop, step),)]
        else:
            x = x.index_select(axis, call.constant(torch.tensor(list(places))))
    return x


def pad(call: Call) -> Any:
    widths, mode = call.setting("pads", 1), call.get("mode", "constant")
    value = call.get("value", 0.0) if call.opset < 11 else call.scalar(2) if call.has(2) else 0.0
    axes = call.setting("axes", 3) or list(range(call.rank()))
    before, after = [0] * call.rank(), [0] * call.rank()
    for axis, less, more in zip(axes, widths[: len(axes)], widths[len(axes) :], strict=True):
        before[axis], after[axis] = less, more
    pairs = list(zip(before, after, strict=True))[::-1]
    while pairs and pairs[-1] == (0, 0):
        pairs.pop()
    if not pairs:
        return call.tensor()
    flat = [width for pair in pairs for width in pair]
    if mode == "constant":
        return F.pad(call.tensor(), flat, value=value)
    modes = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    return F.pad(call.tensor(), flat, mode=modes[mode])


def expand(call: Call) -> Any:
    """An Expand, which takes the longer of the two where the tensor or the sizes are 1."""
    wanted, own = call.sizes(1), call.shape()
    rank = max(len(wanted), len(own))
    wanted, own = [1] * (rank - len(wanted)) + wanted, (1,) * (rank - len(own)) + own
    sizes: list[Any] = []
    for axis, (size, length) in enumerate(zip(wanted, own, strict=True)):
        keeps = is_number(size, 1) or length != 1 or axis - rank + call.rank() == samples_axis(call)
        sizes.append(length if keeps and axis < rank - call.rank() else -1 if keeps else size)
    return call.tensor().expand(sizes)


def tile(call: Call) -> Any:
    return call.tensor().repeat(call.sizes(1))


def gather(call: Call) -> Any:
    """A Gather: an embedding, a single place, or places along an axis."""
    axis, places = call.get("axis", 0), call.array(1)
    table = call.array(0)
    if table is not None and places is None and axis == 0 and table.ndim == 2 and table.dtype == np.float32:
        return F.embedding(call.tensor(1), call.tensor())
    axis %= call.rank()
    if places is not None and call.array(0) is None:
        length = call.shape()[axis]
        if axis == samples_axis(call):
            raise call.refusal("picks among the samples of a batch")
        if places.ndim == 0:
            return call.tensor().select(axis, int(places) % length)
        picked = call.tensor().index_select(
            axis, call.constant(torch.from_numpy(places.reshape(-1).astype(np.int64) % length))
        )
        return picked if places.ndim == 1 else picked.unflatten(axis, places.shape)
    flat = call.tensor(1).reshape(-1)
    own, other = samples_axis(call), samples_axis(call, 1)
    if own is not None and other is not None:
        raise call.refusal("picks with the places of one sample in another")
    picked = call.tensor().index_select(axis, flat)
    if call.rank(1) == 1:
        return picked
    sizes = [call.tensor(1).size(i) if i == other else size for i, size in enumerate(call.shape(1))]
    return picked.unflatten(axis, sizes) if sizes else picked.squeeze(axis)


def gather_elements(call: Call) -> Any:
    return torch.gather(call.tensor(), call.get("axis", 0), _from_the_start(call, 1, call.get("axis", 0)))


def _from_the_start(call: Call, index: int, axis: int) -> Any:
    """Places along ``axis`` as PyTorch takes them: none counted from the end."""
    places, length = call.array(index), call.shape()[axis]
    if places is not None:
        return call.constant(torch.from_numpy(places.astype(np.int64) % length))
    found = call.tensor(index).to(torch.int64)
    return torch.where(found < 0, found + length, found)


def scatter_elements(call: Call) -> Any:
    axis, reduction = call.get("axis", 0), call.get("reduction", "none")
    x, places, values = call.tensor(), _from_the_start(call, 1, axis), call.tensor(2)
    if reduction == "none":
        return torch.scatter(x, axis, places, values)
    return torch.scatter_reduce(x, axis, places, values, REDUCTIONS[reduction])


def depth_to_space(call: Call) -> Any:
    block = call.get("blocksize")
    if call.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(call.tensor(), block)
    channels = call.shape()[1] // block**2
    x = call.tensor().unflatten(1, (block, block, channels)).permute(0, 3, 4, 1, 5, 2)
    return x.flatten(4, 5).flatten(2, 3)


def space_to_depth(call: Call) -> Any:
    """As PyTorch's, but that the places within a block come before the channels."""
    block, channels = call.get("blocksize"), call.shape()[1]
    x = F.pixel_unshuffle(call.tensor(), block)
    if call.get("mode", "DCR") == "CRD":
        return x
    return x.unflatten(1, (channels, block * block)).transpose(1, 2).flatten(1, 2)


def constant_of_shape(call: Call) -> Any:
    value = call.get("value")
    filled = numpy_helper.to_array(value).reshape(-1)[0] if value is not None else np.float32(0)
    dtype = torch.from_numpy(np.array(filled)).dtype
    return call.translation.made(torch.full, call.sizes(0), filled.item(), dtype=dtype)


def numbers(call: Call) -> Any:
    start, stop, step = (call.sizes(index)[0] for index in range(3))
    return call.translation.made(torch.arange, start, stop, step, dtype=torch.int64)


def one_hot(call: Call) -> Any:
    depth, values = call.scalar(1), call.array(2)
    if depth is None or values is None:
        raise call.refusal("has no constant depth and values")
    axis, places = call.get("axis", -1) % (call.rank() + 1), call.tensor()
    along = [-1 if i == axis else 1 for i in range(call.rank() + 1)]
    wanted = torch.where(places < 0, places + int(depth), places).unsqueeze(axis)
    hot = wanted == call.constant(torch.arange(int(depth)).reshape(along))
    low, high = values.tolist()
    return hot.to(torch.from_numpy(np.array(values)).dtype) * (high - low) + low


def triangle(call: Call) -> Any:
    k = call.scalar(1) or 0
    return torch.triu(call.tensor(), int(k)) if call.get("upper", 1) else torch.tril(call.tensor(), int(k))


def same(call: Call) -> Any:
    return call.tensor()


def dropout(call: Call) -> Any:
    """Nothing, when a model answers; the mask, of what it kept, is of all."""
    x = call.tensor()
    return call.named((x, torch.ones_like(x, dtype=torch.bool))) if any(call.node.output[1:]) else x


def grid_sample(call: Call) -> Any:
    modes = {"linear": "bilinear", "cubic": "bicubic"}
    mode, padding = call.get("mode", "linear"), call.get("padding_mode", "zeros")
    return F.grid_sample(
        call.tensor(), call.tensor(1), str(modes.get(mode, mode)), padding, bool(call.get("align_corners", 0))
    )


MOVEMENT: dict[str, Callable[[Call], Any]] = {
    "Reshape": reshape, "Flatten": flatten, "Squeeze": squeeze, "Unsqueeze": unsqueeze, "Transpose": transpose,
    "Concat": concat, "Split": split, "Slice": take, "Pad": pad, "Expand": expand, "Tile": tile, "Gather": gather,
    "GatherElements": gather_elements, "ScatterElements": scatter_elements, "Resize": resize, "Upsample": resize,
    "DepthToSpace": depth_to_space, "SpaceToDepth": space_to_depth, "ConstantOfShape": constant_of_shape,
    "Range": numbers, "OneHot": one_hot, "Trilu": triangle, "Identity": same, "Dropout": dropout,
    "Scatter": scatter_elements, "GridSample": grid_sample,
}  # fmt: skip
