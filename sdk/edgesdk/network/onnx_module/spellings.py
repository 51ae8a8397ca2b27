"""Operators that exporters write in parts, put together again: biases, LayerNorm, GELU, SiLU and Hardswish."""

from __future__ import annotations

import operator
from math import isclose, sqrt
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from edgesdk.network.onnx_module.translation import Call
from edgesdk.techniques.layouts import TRANSPOSED

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
NEAR = 1e-3  # of the constants that exporters write in few digits


def biased(call: Call) -> Any:
    """An addition of a weight to a layer or norm that has none of its kind yet: that layer with it as its bias."""
    for index in (0, 1):
        bias, node = call.array(1 - index), call.maker(index)
        if bias is None or node is None or not call.alone(index) or len(node.users):
            continue
        module: Any = call.module_of(node)
        width, after = _takes(module)
        calls = [other for other in call.translation.graph.nodes if (other.op, other.target) == (node.op, node.target)]
        if width is None or getattr(module, "bias", None) is not None or len(calls) > 1:
            continue
        own = [1] * (call.rank(index) - after - 1) + [width] + [1] * after
        if [1] * (len(own) - bias.ndim) + list(bias.shape) != own:
            continue
        module.bias = nn.Parameter(torch.from_numpy(np.array(bias).reshape(-1)))
        call.by_itself(node)
        return call.translation.proxy(node)
    return None


def _takes(module: nn.Module | None) -> tuple[int | None, int]:
    """How long the bias of ``module`` is, and how many axes lie behind that of it."""
    if isinstance(module, nn.Linear):
        return module.out_features, 0
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return module.normalized_shape[0], 0
    if isinstance(module, CONVOLUTIONS):
        return module.out_channels, len(module.kernel_size)
    return None, 0


def normalized(call: Call) -> Any:
    """``(x - mean) / sqrt(mean((x - mean)^2) + eps)`` over the last axis as a layer norm without weights."""
    top: Any = call.maker(0)
    root: Any = call.maker(1)
    if not _is(top, operator.sub) or not _is(root, torch.sqrt, "sqrt"):
        return None
    x, mean = top.args[0], top.args[1]
    summed = root.args[0]
    if not _is(mean, "mean") or mean.args[0] is not x or not _is(summed, operator.add):
        return None
    variance, epsilon = summed.args
    rank = len(call.translation.shapes[x][0].shape)
    over = [rank - 1]
    if not isinstance(epsilon, float) or not _is(variance, "mean") or list(variance.args[1]) != over:
        return None
    square = variance.args[0]
    twice = _is(square, operator.mul) and square.args[0] is square.args[1]
    squared: Any = square.args[0] if twice or _is(square, torch.pow) and square.args[1] == 2 else None
    if list(mean.args[1]) != over or not mean.args[2] or not _is(squared, operator.sub) or squared.args != top.args:
        return None
    width = call.translation.shapes[x][0].shape[-1]
    return F.layer_norm(call.translation.proxy(x), (width,), None, None, epsilon)


def attended(call: Call) -> Any:
    """``softmax((q s) (k s)^T + mask) v``, as exporters write PyTorch's own attention, as that; else ``None``."""
    top: Any = call.maker(0)
    if not _is(top, F.softmax, torch.softmax) or call.maker(1) is None:
        return None
    scores, mask = top.args[0], None
    if _is(scores, operator.add):
        scores, mask = scores.args
    if not _is(scores, torch.matmul):
        return None
    (q, by_q), (turned, by_k) = map(_times, scores.args)
    k = _untransposed(call, turned)
    if k is None or by_q is None or by_k is None or not isclose(by_q, by_k, rel_tol=NEAR):
        return None
    query, key, value = (call.translation.proxy(node) for node in (q, k, call.maker(1)))
    usual = isclose(by_q * by_k, call.translation.shapes_of(q)[0][-1] ** -0.5, rel_tol=NEAR)
    masked = None if mask is None else call.translation.proxy(mask)
    return F.scaled_dot_product_attention(query, key, value, masked, scale=None if usual else by_q * by_k)


def _times(node: Any) -> tuple[Any, float | None]:
    """What a product with a number is of, and the number."""
    number = next((a for a in node.args if isinstance(a, float)), None) if _is(node, operator.mul) else None
    return (node, None) if number is None else (next(a for a in node.args if isinstance(a, fx.Node)), number)


def _untransposed(call: Call, node: Any) -> Any:
    """What ``node`` is with its last two axes turned: by a single turn, or by one of rows of matrices."""
    if _is(node, "permute"):
        source, order = node.args
        rank = len(order)
        return source if list(order) == [*range(rank - 2), rank - 1, rank - 2] else None
    inner: Any = node.args[0] if _is(node, "reshape") else None
    if not _is(inner, "permute") or list(inner.args[1]) != [0, 2, 1] or not _is(inner.args[0], "reshape"):
        return None
    source = inner.args[0].args[0]
    before, between, after = (call.translation.shapes_of(n)[0] for n in (source, inner.args[0], node))
    kept = between[1:] == before[-2:] and after == (*before[:-2], before[-1], before[-2])
    return source if kept else None


def product(call: Call) -> Any:
    """A product that is a GELU, a SiLU or a Hardswish, or a layer norm with its weight; ``None`` for another."""
    scaled = _scaled(call)
    if scaled is not None:
        return scaled
    number = next((float(n) for i in (0, 1) if (n := call.scalar(i)) is not None and not isinstance(n, bool)), 1.0)
    nodes: list[Any] = [
        node for index in (0, 1) if call.array(index) is None and (node := call.maker(index)) is not None
    ]
    factors: list[Any] = []
    for node in nodes:
        while _is(node, operator.mul, operator.truediv) and any(isinstance(a, float) for a in node.args):
            part = next(a for a in node.args if isinstance(a, float))
            if node.target is operator.truediv and not isinstance(node.args[1], float):
                return None
            number *= part if node.target is operator.mul else 1 / part
            node = next(a for a in node.args if isinstance(a, fx.Node))
        factors += list(node.args) if len(nodes) == 1 and _is(node, operator.mul) else [node]
    if len(factors) != 2 or not all(isinstance(factor, fx.Node) for factor in factors):
        return None
    pairs: list[tuple[Any, Any]] = [(factors[0], factors[1]), (factors[1], factors[0])]
    for x, gate in pairs:
        # a factor of a half may lie on x
        inner, number_x = x, number
        if _is(x, operator.mul) and any(isinstance(a, float) for a in x.args):
            inner = next(a for a in x.args if isinstance(a, fx.Node))
            number_x = number * next(a for a in x.args if isinstance(a, float))
        if _is_gelu_gate(gate, inner) and isclose(number_x, 0.5, rel_tol=NEAR):
            return F.gelu(call.translation.proxy(inner))
        if _is(gate, torch.sigmoid) and gate.args[0] is x and number == 1:
            return F.silu(call.translation.proxy(x))
        if _is(gate, F.hardsigmoid) and gate.args[0] is x and number == 1:
            return F.hardswish(call.translation.proxy(x))
        if _is(gate, F.relu6) and _is(gate.args[0], operator.add) and isclose(number, 1 / 6, rel_tol=NEAR):
            if set(gate.args[0].args) == {x, 3.0}:
                return F.hardswish(call.translation.proxy(x))
    return None


def _is_gelu_gate(node: Any, x: Any) -> bool:
    """Whether ``node`` is ``1 + erf(x / sqrt 2)``."""
    if not _is(node, operator.add) or 1.0 not in node.args:
        return False
    erf: Any = next((a for a in node.args if isinstance(a, fx.Node)), None)
    if not _is(erf, torch.erf):
        return False
    inner = erf.args[0]
    if not _is(inner, operator.truediv, operator.mul) or inner.args[0] is not x and inner.args[1] is not x:
        return False
    factor = next((a for a in inner.args if isinstance(a, float)), 0.0)
    return isclose(factor, sqrt(2) if inner.target is operator.truediv else 1 / sqrt(2), rel_tol=NEAR)


def _scaled(call: Call) -> Any:
    """A layer norm without weights times a weight, as one with it."""
    for index in (0, 1):
        weight, node = call.array(1 - index), call.maker(index)
        if weight is None or not _is(node, F.layer_norm) or not call.alone(index) or node.kwargs["weight"] is not None:
            continue
        (x, shape), epsilon = node.args, node.kwargs["eps"]
        if weight.shape[-1:] == tuple(shape) and weight.size == shape[0]:
            built = nn.LayerNorm(shape, epsilon, bias=False)
            with torch.no_grad():
                built.weight.copy_(torch.from_numpy(np.array(weight).reshape(-1)))
            name = call.node.input[1 - index]
            return call.module(built, ("LayerNorm", name, call.node.output[0]), call.translation.proxy(x), weight=name)
    return None


def _is(node: Any, *targets: Any) -> bool:
    return isinstance(node, fx.Node) and node.target in targets
