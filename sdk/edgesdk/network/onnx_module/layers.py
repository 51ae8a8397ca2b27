"""Translations of operators with weights, of norms and of pooling."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgesdk.network.onnx_module.spellings import attended
from edgesdk.network.onnx_module.translation import Call
from edgesdk.network.onnx_module.turns import turned
from edgesdk.techniques.layouts import TRANSPOSED

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
MAX_POOLS, AVERAGE_POOLS = (F.max_pool1d, F.max_pool2d, F.max_pool3d), (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def put(module: nn.Module, **values: Any) -> nn.Module:
    """``module`` with ``values``, arrays, in its tensors of these names."""
    with torch.no_grad():
        for name, value in values.items():
            if value is not None:
                getattr(module, name).copy_(torch.from_numpy(np.array(value)))
    return module


def name_of(call: Call, index: int) -> str:
    """The file's name of an input; "" where it is left out."""
    return call.node.input[index] if call.has(index) else ""


def window(call: Call, size: tuple[int, ...]) -> tuple[list[int], list[int], list[int], list[int]]:
    """The strides, dilations and borders (before and after each axis) of a window of ``size``."""
    strides = list(call.get("strides") or [1] * len(size))
    dilations = list(call.get("dilations") or [1] * len(size))
    automatic = call.get("auto_pad", "NOTSET")
    if automatic not in ("SAME_UPPER", "SAME_LOWER"):
        borders = list(call.get("pads") or [0] * 2 * len(size)) if automatic != "VALID" else [0] * 2 * len(size)
        return strides, dilations, borders[: len(size)], borders[len(size) :]
    before, after = [], []
    for length, kernel, stride, dilation in zip(call.shape()[2:], size, strides, dilations, strict=True):
        total = max(0, (-(-length // stride) - 1) * stride + dilation * (kernel - 1) + 1 - length)
        less, more = total // 2, total - total // 2
        before.append(less if automatic == "SAME_UPPER" else more)
        after.append(more if automatic == "SAME_UPPER" else less)
    return strides, dilations, before, after


def padded(x: Any, before: list[int], after: list[int], value: float = 0.0) -> Any:
    """``x`` with borders, in the order in which PyTorch takes them: the last axis first."""
    pairs = list(zip(before, after, strict=True))[::-1]
    return F.pad(x, [width for pair in pairs for width in pair], value=value)


def conv(call: Call) -> Any:
    weight, bias, x = call.array(1), call.array(2), call.tensor()
    axes = call.rank() - 2
    shape = call.shape(1)
    strides, dilations, before, after = window(call, shape[2:])
    groups = call.get("group", 1)
    if before != after:
        x, before = padded(x, before, after), [0] * axes
    if weight is None or call.has(2) and bias is None:
        run: Callable[..., Any] = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
        given = call.tensor(2) if call.has(2) else None
        return run(x, call.tensor(1), given, strides, before, dilations, groups)
    kind: Any = CONVOLUTIONS[axes - 1]
    built = kind(
        shape[1] * groups, shape[0], tuple(shape[2:]), tuple(strides), tuple(before), tuple(dilations), groups,
        bias is not None,
    )  # fmt: skip
    key = ("Conv", name_of(call, 1), name_of(call, 2), tuple(strides), tuple(before), tuple(dilations), groups)
    return call.module(put(built, weight=weight, bias=bias), key, x, weight=name_of(call, 1))


def conv_transpose(call: Call) -> Any:
    shape, axes, groups = call.shape(1), call.rank() - 2, call.get("group", 1)
    strides, dilations, before, after = window(call, shape[2:])
    extra = list(call.get("output_padding") or [0] * axes)
    wanted, automatic = call.get("output_shape"), call.get("auto_pad", "NOTSET")
    lengths = [
        (length - 1) * stride + dilation * (kernel - 1) + 1 + more
        for length, stride, dilation, kernel, more in zip(
            call.shape()[2:], strides, dilations, shape[2:], extra, strict=True
        )
    ]
    if wanted is None and automatic.startswith("SAME"):
        wanted = [length * stride for length, stride in zip(call.shape()[2:], strides, strict=True)]
    if wanted is not None:
        total = [length - want for length, want in zip(lengths, wanted[-axes:], strict=True)]
        extra = [size + max(0, -cut) for size, cut in zip(extra, total, strict=True)]
        less = [max(0, cut) // 2 for cut in total]
        more = [max(0, cut) - half for cut, half in zip(total, less, strict=True)]
        before, after = (less, more) if automatic == "SAME_UPPER" else (more, less)
    even = before == after and min(before) >= 0
    within = before if even else [0] * axes
    weight, bias, x = call.array(1), call.array(2), call.tensor()
    if weight is None or call.has(2) and bias is None:
        run: Callable[..., Any] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
        given = call.tensor(2) if call.has(2) else None
        whole = run(x, call.tensor(1), given, strides, within, extra, groups, dilations)
    else:
        sizes = (tuple(shape[2:]), *map(tuple, (strides, within, extra)))
        kind: Any = TRANSPOSED[axes - 1]
        built = kind(
            shape[0], shape[1] * groups, *sizes, groups, bias is not None, tuple(dilations)
        )  # fmt: skip
        key = ("ConvTranspose", name_of(call, 1), name_of(call, 2), *sizes, groups, tuple(dilations))
        whole = call.module(put(built, weight=weight, bias=bias), key, x, weight=name_of(call, 1))
    return whole if even else padded(whole, [-cut for cut in before], [-cut for cut in after])


def _linear(call: Call, weight: np.ndarray, bias: np.ndarray | None, key: tuple[Any, ...]) -> Any:
    """A linear layer of a ``weight`` of (outputs, inputs)."""
    built = put(nn.Linear(weight.shape[1], weight.shape[0], bias is not None), weight=weight, bias=bias)
    return call.module(built, key, call.tensor(), weight=name_of(call, 1))


def gemm(call: Call) -> Any:
    """``alpha A B + beta C``, as a linear layer where B and C are weights."""
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    turned, b, c = call.get("transB", 0), call.array(1), call.array(2)
    plain = b is not None and b.dtype == np.float32 and not call.get("transA", 0) and (c is not None or not call.has(2))
    if (
        b is not None
        and plain
        and (c is None or c.size in (1, b.shape[0 if turned else 1]) and c.size == max(c.shape, default=1))
    ):
        weight = alpha * (b if turned else b.T)
        bias = None if c is None else np.broadcast_to(beta * c.reshape(-1), weight.shape[:1])
        return _linear(call, weight, bias, ("Gemm", name_of(call, 1), name_of(call, 2), turned, alpha, beta))
    x, y = call.tensor(), call.tensor(1)
    made = torch.matmul(x.t() if call.get("transA", 0) else x, y.t() if turned else y)
    made = made if alpha == 1 else made * alpha
    if not call.has(2):
        return made
    return made + (call.tensor(2) if beta == 1 else call.tensor(2) * beta)


def matmul(call: Call) -> Any:
    """A product, as a linear layer where the second is a weight."""
    weight = call.array(1)
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32 or call.rank() < 2:
        if (whole := attended(call)) is not None:
            return whole
        return torch.matmul(call.tensor(), call.tensor(1))
    return _linear(call, weight.T, None, ("MatMul", name_of(call, 1)))


def batch_norm(call: Call) -> Any:
    values = {
        name: call.array(place) for place, name in enumerate(("weight", "bias", "running_mean", "running_var"), 1)
    }
    if call.get("training_mode", 0):
        raise call.refusal("normalizes by the samples of its batch, as in training")
    if any(value is None for value in values.values()):
        raise call.refusal("takes its statistics from what the model computes")
    built = NORMS[call.rank()](call.shape()[1], call.get("epsilon", 1e-5))
    return call.module(
        put(built, **values), ("BatchNorm", *call.node.input[1:], call.get("epsilon")), call.tensor(),
        weight=name_of(call, 1),
    )  # fmt: skip


def layer_norm(call: Call) -> Any:
    axis = call.get("axis", -1) % call.rank()
    shape, epsilon = call.shape()[axis:], call.get("epsilon", 1e-5)
    weight, bias = call.array(1), call.array(2)
    if any(call.node.output[1:]):
        return _with_statistics(call, list(range(axis, call.rank())), epsilon)
    if weight is None or weight.shape != shape or call.has(2) and (bias is None or bias.shape != shape):
        made = F.layer_norm(call.tensor(), shape, None, None, epsilon) * call.tensor(1)
        return made + call.tensor(2) if call.has(2) else made
    built = put(nn.LayerNorm(list(shape), epsilon, bias=bias is not None), weight=weight, bias=bias)
    return call.module(
        built, ("LayerNorm", *call.node.input[1:], epsilon, shape), call.tensor(), weight=name_of(call, 1)
    )


def _with_statistics(call: Call, axes: list[int], epsilon: float) -> Any:
    """What a layer norm makes, with the mean and the inverse of the deviation that it returns beside it."""
    x = call.tensor()
    mean = x.mean(axes, True)
    inverse = torch.rsqrt(((x - mean) ** 2).mean(axes, True) + epsilon)
    made = (x - mean) * inverse * call.tensor(1)
    made = made + call.tensor(2) if call.has(2) else made
    return call.named([made, mean, inverse])


def mean_variance_norm(call: Call) -> Any:
    axes = list(call.get("axes", (0, 2, 3)))
    if 0 in axes:
        raise call.refusal("normalizes over the samples of its batch")
    x = call.tensor()
    off = x - x.mean(axes, True)
    return off / (torch.sqrt((off * off).mean(axes, True)) + 1e-9)


def instance_norm(call: Call) -> Any:
    return F.instance_norm(
        call.tensor(), None, None, call.tensor(1), call.tensor(2), True, 0.0, call.get("epsilon", 1e-5)
    )


def group_norm(call: Call) -> Any:
    groups, epsilon = call.get("num_groups"), call.get("epsilon", 1e-5)
    if call.opset >= 21:
        return F.group_norm(call.tensor(), groups, call.tensor(1), call.tensor(2), epsilon)
    each = call.shape()[1] // groups  # a scale for each group, not for each channel
    scale, bias = (call.tensor(place).repeat_interleave(each) for place in (1, 2))
    return F.group_norm(call.tensor(), groups, scale, bias, epsilon)


def rms_norm(call: Call) -> Any:
    axis = call.get("axis", -1) % call.rank()
    return F.rms_norm(call.tensor(), call.shape()[axis:], None, call.get("epsilon", 1e-5)) * call.tensor(1)


def local_response_norm(call: Call) -> Any:
    size = call.get("size")
    return F.local_response_norm(
        call.tensor(), size, call.get("alpha", 1e-4), call.get("beta", 0.75), call.get("bias", 1.0)
    )


def pool(call: Call) -> Any:
    """MaxPool and AveragePool. PyTorch's borders are even; for one more at the end it cuts windows short."""
    size = tuple(call.get("kernel_shape"))
    strides, dilations, before, after = window(call, size)
    ceil, x, axes = bool(call.get("ceil_mode", 0)), call.tensor(), len(size)
    largest, counted = call.node.op_type == "MaxPool", bool(call.get("count_include_pad", 0))
    run: Callable[..., Any] = (MAX_POOLS if largest else AVERAGE_POOLS)[axes - 1]
    if largest and len([name for name in call.node.output if name]) > 1:
        raise call.refusal("returns the places of what it picks")
    if not largest and any(step != 1 for step in dilations):
        raise call.refusal("averages with a dilation")
    if before != after or any(2 * border > kernel for border, kernel in zip(before, size, strict=True)):
        short = (
            before != after and not counted and not ceil and _cut_short(call, size, strides, dilations, before, after)
        )
        if short:
            ceil = True
        else:
            x, before = padded(x, before, after, float("-inf") if largest else 0.0), [0] * axes
            if not largest and not counted:
                inside = padded(torch.ones(1, 1, *call.shape()[2:]), *window(call, size)[2:])
                share = run(inside, size, strides, 0, ceil)  # of each window, that lies within
                return run(x, size, strides, 0, ceil) * call.constant(1 / share)
    return run(x, size, strides, before, dilations, ceil) if largest else run(x, size, strides, before, ceil, counted)


def _cut_short(
    call: Call, size: tuple[int, ...], strides: list[int], dilations: list[int], before: list[int], after: list[int]
) -> bool:
    """Whether windows that may be cut short at the end are as many as those with a border ``after``."""
    for length, kernel, stride, dilation, less, more in zip(
        call.shape()[2:], size, strides, dilations, before, after, strict=True
    ):
        reach = dilation * (kernel - 1) + 1
        whole = (length + less + more - reach) // stride + 1
        cut = -(-(length + 2 * less - reach) // stride) + 1
        if (cut - 1) * stride >= length + less:  # the last would begin behind the end
            cut -= 1
        if cut != whole or 2 * less > kernel:
            return False
    return True


def power_pool(call: Call) -> Any:
    """LpPool: the sum of powers in each window, and its root."""
    size, p = tuple(call.get("kernel_shape")), call.get("p", 2)
    strides, dilations, before, after = window(call, size)
    if any(step != 1 for step in dilations):
        raise call.refusal("pools with a dilation")
    powers = padded(call.tensor().abs() ** p, before, after)
    mean = AVERAGE_POOLS[len(size) - 1](powers, size, strides, 0, bool(call.get("ceil_mode", 0)))
    return (mean * prod(size)) ** (1 / p)


def global_pool(call: Call) -> Any:
    axes = list(range(2, call.rank()))
    return call.tensor().amax(axes, True) if "Max" in call.node.op_type else call.tensor().mean(axes, True)


def attention(call: Call) -> Any:
    """Attention, by heads or with those side by side, as PyTorch's exporters write it from opset 23 on."""
    if any(call.node.output[1:]) or any(call.has(place) for place in (4, 5, 6)) or call.get("softcap", 0.0):
        raise call.refusal("keeps what it has seen, or caps its scores")
    causal, mask = bool(call.get("is_causal", 0)), call.tensor(3) if call.has(3) else None
    if causal and mask is not None:
        raise call.refusal("has a mask and is causal as well")
    heads = [call.get("q_num_heads"), *[call.get("kv_num_heads")] * 2]
    q, k, v = call.tensors()[:3]
    beside = call.rank() == 3
    if beside:
        q, k, v = (part.unflatten(2, (count, -1)).transpose(1, 2) for part, count in zip((q, k, v), heads, strict=True))
    counts = heads[:2] if beside else [call.shape(0)[1], call.shape(1)[1]]
    made = F.scaled_dot_product_attention(
        q, k, v, mask, 0.0, causal, scale=call.get("scale"), enable_gqa=counts[0] != counts[1]
    )
    return made.transpose(1, 2).flatten(2) if beside else made


ACTIVATIONS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}  # of one direction


def recurrent(call: Call) -> Any:
    """RNN, GRU and LSTM as PyTorch's, whose gates have another order; (steps, samples, features) as ONNX has them.

    One that begins at the last step is one that begins at the first of what is turned round.
    """
    kind, hidden = call.node.op_type, call.get("hidden_size")
    direction, layout = call.get("direction", "forward"), call.get("layout", 0)
    both, backward = direction == "bidirectional", direction == "reverse"
    named = [v.decode() if isinstance(v, bytes) else v for v in call.get("activations") or ACTIVATIONS[kind]]
    usual = ["Relu"] if kind == "RNN" and named[0] == "Relu" else ACTIVATIONS[kind]
    if layout or named not in (usual, usual * (1 + both)) or call.get("clip") or call.get("input_forget"):
        raise call.refusal("is a recurrent layer of a kind that PyTorch lacks")
    if kind == "GRU" and not call.get("linear_before_reset", 0):
        raise call.refusal("is a GRU whose reset gate comes before the product (linear_before_reset of 0)")
    if (lengths := call.array(4)) is not None and (lengths != call.shape()[0]).any() or call.has(4) and lengths is None:
        raise call.refusal("runs as many steps as the model computes")
    w, r, b = call.array(1), call.array(2), call.array(3)
    if w is None or r is None or call.has(3) and b is None or call.has(7):
        raise call.refusal("has no constant weights")
    states = [_state(call, index) for index in (5, 6) if call.has(index)]
    order = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}[kind]  # ONNX's gates in PyTorch's order
    layer = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}[kind]
    how = {"nonlinearity": usual[0].lower()} if kind == "RNN" else {}
    how |= {"bidirectional": both, "bias": b is not None, "batch_first": True}  # as most modules are
    built = layer(w.shape[2], hidden, **how)
    for place, suffix in enumerate(("", "_reverse")[: 1 + both]):
        parts = {"weight_ih": w[place], "weight_hh": r[place]}
        if b is not None:
            parts |= {"bias_ih": b[place, : len(order) * hidden], "bias_hh": b[place, len(order) * hidden :]}
        for name, value in parts.items():
            gates = np.split(value, len(order))
            put(built, **{f"{name}_l0{suffix}": np.concatenate([gates[i] for i in order])})
    if states and all(state is None for state in states):
        states = []
    if any(state is None for state in states):
        raise call.refusal("begins with one of its two states")
    start = [tuple(states) if kind == "LSTM" else states[0]] if states else []
    key = (kind, *call.node.input[1:4], call.node.output[0])
    given = turned(call.tensor(), (1, 0, 2))
    out = call.module(built, key, given.flip([1]) if backward else given, *start)
    sequence, state = out[0].flip([1]) if backward else out[0], out[1]
    steps = sequence.permute([1, 0, 2]).unflatten(2, (1 + both, hidden)).permute([0, 2, 1, 3])
    last = state if kind == "LSTM" else (state,)
    wanted = (steps, *(last[index] for index in range(len(call.node.output) - 1)))
    return call.named(wanted)


def _state(call: Call, index: int) -> Any:
    """What a recurrent layer begins with; ``None`` for zeros, which is what it begins with by itself."""
    value, maker = call.array(index), call.maker(index)
    if value is not None and not value.any():
        return None
    if maker is not None and maker.target is torch.full and not maker.args[1]:
        return None
    if maker is not None and maker.target == "expand" and call.translation.is_zero(maker.args[0]):
        return None
    return call.tensor(index) if value is None else call.tensor(index).expand(-1, call.translation.batch, -1)


LAYERS: dict[str, Callable[[Call], Any]] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "Gemm": gemm, "MatMul": matmul, "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm, "InstanceNormalization": instance_norm, "GroupNormalization": group_norm,
    "RMSNormalization": rms_norm, "LRN": local_response_norm, "MaxPool": pool, "AveragePool": pool,
    "MeanVarianceNormalization": mean_variance_norm, "LpPool": power_pool, "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool, "RNN": recurrent, "GRU": recurrent, "LSTM": recurrent,
    "Attention": attention,
}  # fmt: skip
