"""Resize and Upsample: PyTorch's interpolation where that weighs the same samples, else a product along each axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from edgesdk.network.onnx_module.translation import Call

INTERPOLATED = {"linear": {3: "linear", 4: "bilinear", 5: "trilinear"}, "cubic": {4: "bicubic"}}
ROUNDED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "floor": np.floor, "ceil": np.ceil, "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """One axis that is resized: how long it is and becomes, and by which factor places are counted."""

    length: int
    size: int
    scale: float

    def points(self, where: str) -> np.ndarray:
        """The place in the old axis of each sample of the new one."""
        at, length, size, scale = np.arange(self.size, dtype=np.float64), self.length, self.size, self.scale
        half = (at + 0.5) / scale - 0.5
        return {
            "asymmetric": at / scale, "half_pixel": half,
            "align_corners": at * (length - 1) / (size - 1) if size > 1 else at * 0,
            "half_pixel_symmetric": length / 2 * (1 - size / (scale * length)) + half,
            "pytorch_half_pixel": half if size > 1 else at * 0, "tf_half_pixel_for_nn": (at + 0.5) / scale,
        }[where]  # fmt: skip


def resize(call: Call) -> Any:
    old = call.node.op_type == "Upsample" or call.opset < 11
    axes = _axes(call, old)
    where = "asymmetric" if old else call.get("coordinate_transformation_mode", "half_pixel")
    if where == "tf_crop_and_resize":
        raise call.refusal("crops what it resizes")
    if all(axis.size == axis.length and axis.scale == 1 for axis in axes):
        return call.tensor()
    if call.get("mode", "nearest") == "nearest":
        return _nearest(call, axes, where, "floor" if old else call.get("nearest_mode", "round_prefer_floor"))
    return _weighed(call, axes, where)


def _axes(call: Call, old: bool) -> list[Axis]:
    """What becomes of each axis behind the channels."""
    rank, own = call.rank(), call.shape()
    scales, sizes = _scales(call, old), None
    if scales is None and not old and call.has(3):
        sizes = call.sizes(3)
    if scales is None and sizes is None:
        raise call.refusal("takes its scales from what the model computes")
    given = dict(enumerate(scales or sizes or []))
    if (axes := call.get("axes")) is not None:
        given = {axis % rank: given[place] for place, axis in enumerate(axes)}
    kept = {axis: 1.0 if scales else own[axis] for axis in range(2)}
    if rank not in (3, 4, 5) or given.get(1, kept[1]) != kept[1] or scales and given.get(0, 1.0) != 1:
        raise call.refusal("resizes along the samples or the channels")
    factors = {
        axis: given.get(axis, 1.0) if scales else given.get(axis, own[axis]) / own[axis] for axis in range(2, rank)
    }
    policy = call.get("keep_aspect_ratio_policy", "stretch")
    if scales or policy == "stretch":
        lengths = {
            axis: floor(own[axis] * factors[axis]) if scales else int(given.get(axis, own[axis])) for axis in factors
        }
    else:
        factor = (min if policy == "not_larger" else max)(f for axis, f in factors.items() if axis in given)
        factors = {axis: factor if axis in given else 1.0 for axis in factors}
        lengths = {axis: floor(own[axis] * f + 0.5) for axis, f in factors.items()}
    return [Axis(own[axis], lengths[axis], factors[axis]) for axis in factors]


def _scales(call: Call, old: bool) -> list[float] | None:
    if "scales" in call.attributes:
        return list(call.get("scales"))
    value = call.array(1 if old else 2)
    return value.tolist() if value is not None and value.size else None


def _nearest(call: Call, axes: list[Axis], where: str, rounding: str) -> Any:
    """The nearest sample of each place: interpolation where that picks the same ones, else an index for each axis."""
    points = [ROUNDED[rounding](axis.points(where)).clip(0, axis.length - 1) for axis in axes]
    wanted = [torch.from_numpy(at.astype(np.int64)) for at in points]
    sizes = [axis.size for axis in axes]
    for mode in ("nearest", "nearest-exact"):
        lines = [torch.arange(axis.length, dtype=torch.float32).reshape(1, 1, -1) for axis in axes]
        indices = [
            F.interpolate(line, size, mode=mode).reshape(-1).long() for line, size in zip(lines, sizes, strict=True)
        ]
        if all(torch.equal(a, b) for a, b in zip(indices, wanted, strict=True)):
            return F.interpolate(call.tensor(), sizes, mode=mode)
    x = call.tensor()
    for axis, places in enumerate(wanted, 2):
        x = x.index_select(axis, call.constant(places))
    return x


def _weighed(call: Call, axes: list[Axis], where: str) -> Any:
    """A linear or cubic interpolation, which is a product along each axis."""
    mode = call.get("mode")
    wanted = [torch.from_numpy(_weights(call, axis, where)) for axis in axes]
    name = INTERPOLATED.get(mode, {}).get(call.rank())
    for how in _ways(call, axes) if name else ():
        if all(
            _is_alike(mode, axis, weights, place, how)
            for place, (axis, weights) in enumerate(zip(axes, wanted, strict=True))
        ):
            return F.interpolate(call.tensor(), mode=str(name), **how)
    x, last = call.tensor(), call.rank() - 1
    for place, (axis, weights) in enumerate(zip(axes, wanted, strict=True), 2):
        if axis.size == axis.length and torch.equal(weights, torch.eye(axis.length)):
            continue
        product = torch.matmul(x.transpose(place, last) if place != last else x, call.constant(weights.T.contiguous()))
        x = product.transpose(place, last) if place != last else product
    return x


def _ways(call: Call, axes: list[Axis]) -> Iterator[dict[str, Any]]:
    """How PyTorch may be asked for the sizes of ``axes``."""
    smooth: dict[str, Any] = {"antialias": True} if call.get("antialias", 0) and call.rank() == 4 else {}
    sizes = [axis.size for axis in axes]
    yield {"size": sizes, "align_corners": False, **smooth}
    yield {"size": sizes, "align_corners": True, **smooth}
    if all(floor(axis.length * axis.scale) == axis.size for axis in axes):
        yield {"scale_factor": [axis.scale for axis in axes], "align_corners": False, **smooth}


def _is_alike(mode: str, axis: Axis, weights: torch.Tensor, place: int, how: dict[str, Any]) -> bool:
    """Whether PyTorch, asked in that way, weighs the samples of the axis at ``place`` by ``weights``."""
    asked: dict[str, Any] = {name: [value[place]] if isinstance(value, list) else value for name, value in how.items()}
    lines = torch.eye(axis.length)[:, None]
    if mode == "cubic" or "antialias" in how:
        lines = lines[:, :, None]
        asked = {name: [1, *value] if isinstance(value, list) else value for name, value in asked.items()}
        made = F.interpolate(lines, mode="bicubic" if mode == "cubic" else "bilinear", **asked)
    else:
        made = F.interpolate(lines, mode="linear", **asked)
    made = made.reshape(axis.length, -1).T
    return made.shape == weights.shape and torch.allclose(made, weights, atol=1e-5)


def _weights(call: Call, axis: Axis, where: str) -> np.ndarray:
    """How much of each old sample is in each new one."""
    cubic, coefficient = call.get("mode") == "cubic", call.get("cubic_coeff_a", -0.75)
    narrow = min(axis.scale, 1.0) if call.get("antialias", 0) else 1.0
    reach = (2 if cubic else 1) / narrow
    weights = np.zeros((axis.size, axis.length))
    for row, point in enumerate(axis.points(where)):
        near = np.arange(ceil(point - reach), floor(point + reach) + 1)
        far = np.abs(near - point) * narrow
        own = _cubic(far, coefficient) if cubic else np.maximum(0, 1 - far)
        if call.get("exclude_outside", 0):
            own = np.where((near >= 0) & (near < axis.length), own, 0)
        np.add.at(weights[row], near.clip(0, axis.length - 1), own / own.sum())
    return weights.astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel of the coefficient ``a``."""
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0))
