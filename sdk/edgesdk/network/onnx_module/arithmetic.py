"""Translations of arithmetic, activations, comparisons and reductions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from math import isclose
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import helper

from edgesdk.network.onnx_module import spellings
from edgesdk.network.onnx_module.translation import Call

Translate = Callable[[Call], Any]
SELU = (1.67326319217681884765625, 1.05070102214813232421875)  # ONNX's alpha and gamma
TINY = 1e-30  # a norm of nought divides nought, which is nought


def plain(function: Callable[..., Any]) -> Translate:
    """An operator that is a function of PyTorch's of one tensor."""
    return lambda call: function(call.tensor())


def operands(call: Call) -> list[Any]:
    """The inputs; a single number as such where it makes no axis and no other type."""
    rank = max((call.rank(i) for i in range(len(call)) if call.array(i) is None), default=0)
    values = []
    for index in range(len(call)):
        array, number = call.array(index), call.scalar(index)
        as_number = array is not None and number is not None and array.ndim <= rank and len(call) == 2
        values.append(number if as_number and array.dtype == np.float32 else call.tensor(index))  # type: ignore[union-attr]
    return values


def binary(function: Callable[..., Any]) -> Translate:
    def translate(call: Call) -> Any:
        left, right = operands(call)
        return function(left, right)

    return translate


def compared(function: Callable[..., Any]) -> Translate:
    """A comparison, whose first operand is a tensor in any case."""
    return lambda call: function(call.tensor(), operands(call)[1])


def divide(call: Call) -> Any:
    left, right = operands(call)
    if (recognized := spellings.normalized(call)) is not None:
        return recognized
    whole = not _is_float(call)
    return torch.div(left, right, rounding_mode="trunc") if whole else left / right


def add(call: Call) -> Any:
    if (recognized := spellings.biased(call)) is not None:
        return recognized
    left, right = operands(call)
    return left + right


def multiply(call: Call) -> Any:
    if (recognized := spellings.product(call)) is not None:
        return recognized
    left, right = operands(call)
    return left * right


def _is_float(call: Call) -> bool:
    index = next(i for i in range(len(call)) if call.has(i))
    value = call.array(index)
    if value is not None:
        return value.dtype.kind == "f"
    node = call.maker(index)
    return node is None or call.translation.shapes[node][0].is_floating_point()


def power(call: Call) -> Any:
    left, right = operands(call)
    if not isinstance(right, float):
        return torch.pow(left, right)
    return torch.sqrt(left) if right == 0.5 else torch.pow(left, int(right) if right == 2 else right)


def modulo(call: Call) -> Any:
    left, right = call.tensors()
    return torch.fmod(left, right) if call.get("fmod", 0) else torch.remainder(left, right)


def variadic(function: Callable[..., Any]) -> Translate:
    return lambda call: reduce(function, operands(call) if len(call) == 2 else call.tensors())


def largest(call: Call) -> Any:
    return _extreme(call, torch.maximum, "min")


def smallest(call: Call) -> Any:
    return _extreme(call, torch.minimum, "max")


def _extreme(call: Call, function: Callable[..., Any], bound: str) -> Any:
    values = operands(call)
    numbers = [value for value in values if isinstance(value, float)]
    if len(values) == 2 and len(numbers) == 1:
        tensor = next(value for value in values if not isinstance(value, float))
        return torch.relu(tensor) if (bound, numbers[0]) == ("min", 0.0) else tensor.clamp(**{bound: numbers[0]})
    return reduce(function, values if not numbers else call.tensors())


def clip(call: Call) -> Any:
    bounds: list[Any] = []
    for index, name in ((1, "min"), (2, "max")):
        value = call.get(name) if name in call.attributes else call.scalar(index)
        bounds.append(call.tensor(index) if value is None and call.has(index) else value)
    low, high = (b if not isinstance(b, float) or abs(b) < np.finfo(np.float32).max else None for b in bounds)
    if (low, high) == (None, None):
        return call.tensor()
    if isinstance(low, (int, float)) and (low, high) == (0, None):
        return torch.relu(call.tensor())
    if isinstance(low, (int, float)) and isinstance(high, (int, float)) and low <= high and _is_float(call):
        return F.relu6(call.tensor()) if (low, high) == (0, 6) else F.hardtanh(call.tensor(), low, high)
    return torch.clamp(call.tensor(), low, high)


def softmax(function: Callable[..., Any]) -> Translate:
    def translate(call: Call) -> Any:
        x, rank = call.tensor(), call.rank()
        axis = call.get("axis", -1 if call.opset >= 13 else 1) % max(rank, 1)
        if call.opset >= 13 or axis == rank - 1:
            return function(x, axis)
        return function(x.flatten(axis), axis).unflatten(axis, call.shape()[axis:])  # before, all axes from that on

    return translate


def reduction(function: Callable[..., Any]) -> Translate:
    def translate(call: Call) -> Any:
        axes = call.setting("axes", 1)
        if not axes and call.get("noop_with_empty_axes", 0):
            return call.tensor()
        axes = [axis % call.rank() for axis in ([axes] if isinstance(axes, int) else axes or range(call.rank()))]
        if not axes:
            return call.tensor()
        return function(call.tensor(), axes, bool(call.get("keepdims", 1)))

    return translate


def _product(x: Any, axes: list[int], keep: bool) -> Any:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def extreme_place(function: Callable[..., Any]) -> Translate:
    def translate(call: Call) -> Any:
        axis, keep = call.get("axis", 0), bool(call.get("keepdims", 1))
        if not call.get("select_last_index", 0):
            return function(call.tensor(), axis, keep)
        return call.shape()[axis] - 1 - function(call.tensor().flip(axis), axis, keep)

    return translate


def top_k(call: Call) -> Any:
    count = call.get("k") if "k" in call.attributes else call.scalar(1)
    if count is None:
        raise call.refusal("picks as many as the model computes")
    values, places = torch.topk(
        call.tensor(), int(count), call.get("axis", -1), bool(call.get("largest", 1)), bool(call.get("sorted", 1))
    )
    return call.named((values, places))


def cumulative(call: Call) -> Any:
    if (given := call.scalar(1)) is None:
        raise call.refusal("sums along an axis that the model computes")
    axis, back = int(given), call.get("reverse", 0)
    x = call.tensor().flip(axis) if back else call.tensor()
    made = torch.cumsum(x, axis)
    made = made - x if call.get("exclusive", 0) else made
    return made.flip(axis) if back else made


def cast(call: Call) -> Any:
    return call.tensor().to(dtype_of(call, call.get("to")))


def dtype_of(call: Call, kind: int) -> torch.dtype:
    try:
        return torch.from_numpy(np.zeros(0, helper.tensor_dtype_to_np_dtype(kind))).dtype
    except (TypeError, KeyError):
        raise call.refusal("makes numbers of a type that PyTorch lacks") from None


def gelu(call: Call) -> Any:
    return F.gelu(call.tensor(), approximate=call.get("approximate", "none"))


def hard_sigmoid(call: Call) -> Any:
    alpha, beta = call.get("alpha", 0.2), call.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(call.tensor())
    return torch.clamp(call.tensor() * alpha + beta, 0.0, 1.0)


def selu(call: Call) -> Any:
    alpha, gamma = call.get("alpha", SELU[0]), call.get("gamma", SELU[1])
    usual = all(isclose(given, own, rel_tol=1e-5) for given, own in zip((alpha, gamma), SELU, strict=True))
    return F.selu(call.tensor()) if usual else F.elu(call.tensor(), alpha) * gamma


def infinite(call: Call) -> Any:
    """Whether a number is infinite, of the signs that are asked for."""
    signs = [sign for sign, name in ((1, "detect_positive"), (-1, "detect_negative")) if call.get(name, 1)]
    found = torch.isinf(call.tensor())
    return found if len(signs) == 2 else found & (call.tensor() * sum(signs) > 0)


def shrink(call: Call) -> Any:
    x, bound, bias = call.tensor(), call.get("lambd", 0.5), call.get("bias", 0.0)
    return torch.where(x < -bound, x + bias, torch.where(x > bound, x - bias, torch.zeros_like(x)))


def hardmax(call: Call) -> Any:
    """One where the first largest is, zero elsewhere."""
    axis, length = call.get("axis", -1 if call.opset >= 13 else 1) % call.rank(), call.shape()
    if call.opset < 13 and axis != call.rank() - 1:
        raise call.refusal("picks the largest along several axes at once")
    place = torch.argmax(call.tensor(), axis, True)
    along = [-1 if i == axis else 1 for i in range(call.rank())]
    return (place == call.constant(torch.arange(length[axis]).reshape(along))).to(call.dtype())


def prelu(call: Call) -> Any:
    slope, x = call.array(1), call.tensor()
    if slope is not None and slope.size == max(slope.shape, default=1):
        one_for_all = slope.size == 1
        per_channel = call.rank() > 1 and slope.ndim == call.rank() - 1 and slope.shape[0] == call.shape()[1]
        if one_for_all or per_channel:
            return F.prelu(x, call.tensor(1).reshape(-1))
    return torch.where(x < 0, x * call.tensor(1), x)


def where(call: Call) -> Any:
    return torch.where(call.tensor(), call.tensor(1), call.tensor(2))


ARITHMETIC: dict[str, Translate] = {
    "Add": add, "Sub": binary(operator.sub), "Mul": multiply, "Div": divide, "Pow": power, "Mod": modulo,
    "Sum": variadic(operator.add), "Max": largest, "Min": smallest,
    "Mean": lambda call: reduce(operator.add, call.tensors()) / len(call),
    "Equal": compared(torch.eq), "Greater": compared(torch.gt), "GreaterOrEqual": compared(torch.ge),
    "Less": compared(torch.lt),
    "LessOrEqual": compared(torch.le), "And": compared(torch.logical_and), "Or": compared(torch.logical_or),
    "Xor": compared(torch.logical_xor), "Not": plain(torch.logical_not), "Where": where, "Cast": cast,
    "CastLike": lambda call: call.tensor().type_as(call.tensor(1)),
    "Relu": plain(F.relu), "Sigmoid": plain(torch.sigmoid), "Tanh": plain(torch.tanh), "Exp": plain(torch.exp),
    "Log": plain(torch.log), "Sqrt": plain(torch.sqrt), "Abs": plain(torch.abs), "Neg": plain(torch.neg),
    "Floor": plain(torch.floor), "Ceil": plain(torch.ceil), "Round": plain(torch.round), "Sign": plain(torch.sign),
    "Reciprocal": plain(torch.reciprocal), "Erf": plain(torch.erf), "Sin": plain(torch.sin), "Cos": plain(torch.cos),
    "Tan": plain(torch.tan), "Asin": plain(torch.asin), "Acos": plain(torch.acos), "Atan": plain(torch.atan),
    "Sinh": plain(torch.sinh), "Cosh": plain(torch.cosh), "Asinh": plain(torch.asinh), "Acosh": plain(torch.acosh),
    "Atanh": plain(torch.atanh), "IsNaN": plain(torch.isnan), "IsInf": infinite,
    "Softplus": plain(F.softplus), "Softsign": plain(F.softsign), "Mish": plain(F.mish),
    "HardSwish": plain(F.hardswish),
    "Swish": lambda call: F.silu(call.tensor()) if call.get("alpha", 1.0) == 1 else (
        call.tensor() * torch.sigmoid(call.tensor() * call.get("alpha"))),
    "Gelu": gelu, "HardSigmoid": hard_sigmoid, "PRelu": prelu, "Clip": clip,
    "LeakyRelu": lambda call: F.leaky_relu(call.tensor(), call.get("alpha", 0.01)),
    "Elu": lambda call: F.elu(call.tensor(), call.get("alpha", 1.0)),
    "Celu": lambda call: F.celu(call.tensor(), call.get("alpha", 1.0)),
    "Selu": selu, "Shrink": shrink, "Hardmax": hardmax,
    "ThresholdedRelu": lambda call: F.threshold(call.tensor(), call.get("alpha", 1.0), 0.0),
    "Softmax": softmax(F.softmax), "LogSoftmax": softmax(F.log_softmax),
    "ReduceMean": reduction(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceSum": reduction(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceMax": reduction(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMin": reduction(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceProd": reduction(_product),
    "ReduceL1": reduction(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": reduction(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceSumSquare": reduction(lambda x, axes, keep: (x * x).sum(axes, keep)),
    "ReduceLogSumExp": reduction(lambda x, axes, keep: torch.logsumexp(x, axes, keep)),
    "ReduceLogSum": reduction(lambda x, axes, keep: torch.log(x.sum(axes, keep))),
    "LpNormalization": lambda call: F.normalize(call.tensor(), call.get("p", 2), call.get("axis", -1), TINY),
    "ArgMax": extreme_place(torch.argmax), "ArgMin": extreme_place(torch.argmin), "TopK": top_k, "CumSum": cumulative,
    "Einsum": lambda call: torch.einsum(call.get("equation"), *call.tensors()),
}  # fmt: skip
