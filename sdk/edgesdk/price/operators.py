"""The operators that a layer runs as, one way or another: what has a price, and by which name it is remembered."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgesdk.graph import ADD, CONV, LINEAR, POOL, Graph, Layer
from edgesdk.plan import FP32, INT8, Factor, Option

CHANGES = ("quantize", "dequantize")


@dataclass(frozen=True)
class Operator:
    """A fused operator at one size: everything that its latency depends on, on one device, runtime and thread count.

    ``size`` is the spatial size of the input: () for a vector, (rows,) for rows of vectors in a linear layer.
    ``entry`` marks the first operator of a network, which reads the caller's tensor in the caller's layout.
    """

    kind: str
    precision: str
    inputs: int
    outputs: int
    size: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    depthwise: bool = False
    activation: str | None = None
    entry: bool = False

    @property
    def key(self) -> str:
        """One line that names it in a table of latencies."""
        shape = "x".join(map(str, (self.inputs, *self.size)))
        window = [",".join(map(str, v)) for v in (self.kernel, self.stride, self.padding, self.dilation)]
        marks = [self.activation or "", "depthwise" * self.depthwise, "entry" * self.entry]
        return " ".join([self.kind, self.precision, f"{shape}->{self.outputs}", "/".join(window), *filter(None, marks)])


def widths(size: int) -> tuple[int, ...]:
    """The channel counts that are offered for a group of ``size``: eighths, rounded up to multiples of 4."""
    return tuple(sorted({min(size, -(-size * eighth // 32) * 4) for eighth in range(1, 9)}))


def factors(layer: Layer) -> tuple[Factor, ...]:
    """The low-rank forms that are worth pricing: a quarter and a half of full rank, in multiples of 8."""
    if layer.kind == LINEAR or (layer.kind == CONV and set(layer.kernel) == {1} and len(layer.kernel) == 2):
        n, c = layer.weight_shape[:2]
        ranks = {r for share in (4, 2) if (r := _eight(min(n, c) // share)) * (n + c) < n * c}
        return tuple(Factor("svd", (r,)) for r in sorted(ranks)) if layer.groups == 1 else ()
    if layer.kind != CONV or layer.groups != 1 or len(layer.kernel) != 2:
        return ()
    n, c = layer.weight_shape[:2]
    found = []
    for share in (4, 2):
        r_in, r_out, rank = _eight(c // share), _eight(n // share), _eight(min(n, c) // share)
        if r_in < c and r_out < n:
            found.append(Factor("tucker", (r_in, r_out)))
        if rank < min(n, c):
            found.append(Factor("spatial", (rank,)))
    return tuple(dict.fromkeys(found))


def _eight(rank: int) -> int:
    return max(8, rank // 8 * 8)


def fits(factor: Factor, reads: int, writes: int) -> bool:
    """Whether a low-rank form is still one at so many input and output channels."""
    if factor.method == "tucker":
        return factor.ranks[0] < reads and factor.ranks[1] < writes
    return factor.ranks[0] < min(reads, writes)


def precisions(layer: Layer) -> tuple[str, ...]:
    """The precisions in which an operator of this kind can run: float always, integer where runtimes have a kernel."""
    return (FP32,) if layer.kind == "other" or layer.fixed and layer.kind not in (CONV, LINEAR) else (FP32, INT8)


def channels(layer: Layer, graph: Graph, reads: int | None, writes: int | None) -> tuple[int, int]:
    """Input and output channels of ``layer`` where its groups keep ``reads`` and ``writes`` channels."""
    axis = -1 if layer.kind == LINEAR else 0
    inputs = layer.input_shape[axis] if layer.input_shape else 0
    outputs = layer.shape[axis] if layer.shape else 0
    if layer.reads and reads is not None:
        inputs = inputs * reads // graph.group_by_name[layer.reads].size
    if layer.writes and writes is not None:
        outputs = outputs * writes // graph.group_by_name[layer.writes].size
    return inputs, outputs


def operators(
    layer: Layer, graph: Graph, option: Option, reads: int | None, writes: int | None
) -> tuple[Operator, ...]:
    """What ``layer`` runs as with ``option``; nothing for what costs nothing or has no price of its own."""
    inputs, outputs = channels(layer, graph, reads, writes)
    entry = layer.inputs[0] in {tensor.name for tensor in graph.inputs} if layer.inputs else False
    if layer.kind == LINEAR:
        rows = layer.input_shape[:-1]
        size = (_product(rows),) if rows else ()
        whole = Operator(LINEAR, option.precision, inputs, outputs, size, activation=layer.activation, entry=entry)
    elif layer.kind == CONV:
        whole = Operator(
            CONV, option.precision, inputs, outputs, layer.input_shape[1:], layer.kernel, layer.stride, layer.padding,
            layer.dilation, layer.depthwise, layer.activation, entry,
        )  # fmt: skip
    elif layer.kind in (ADD, "mean", "activation") and layer.input_shape[1:]:
        activation = layer.activation or ("relu" if layer.kind == "activation" else None)
        return (Operator(layer.kind, option.precision, outputs, outputs, layer.input_shape[1:], activation=activation),)
    elif layer.kind == POOL:
        window = layer.input_shape[1] // max(1, layer.shape[1])
        two = (window,) * (len(layer.shape) - 1)
        return (Operator(POOL, option.precision, outputs, outputs, layer.input_shape[1:], two, two),)
    else:
        return ()
    return (whole,) if option.factor is None else _parts(whole, option.factor)


def _parts(whole: Operator, factor: Factor) -> tuple[Operator, ...]:
    """The smaller operators that a low-rank form of ``whole`` runs as."""
    plain = replace(whole, activation=None)
    if whole.kind == LINEAR:
        (rank,) = factor.ranks
        return replace(plain, outputs=rank), replace(whole, inputs=rank, entry=False)
    after = tuple(_after(n, k, s, p, d) for n, k, s, p, d in _windows(whole))
    one = dict(kernel=(1, 1), stride=(1, 1), padding=(0, 0), dilation=(1, 1))
    if factor.method == "svd":
        (rank,) = factor.ranks
        return replace(plain, outputs=rank), replace(whole, inputs=rank, size=after, entry=False, **one)
    if factor.method == "spatial":
        (rank,) = factor.ranks
        (kh, kw), (sh, sw), (ph, pw), (dh, dw) = whole.kernel, whole.stride, whole.padding, whole.dilation
        first = replace(plain, outputs=rank, kernel=(kh, 1), stride=(sh, 1), padding=(ph, 0), dilation=(dh, 1))
        second = replace(whole, inputs=rank, size=(after[0], whole.size[1]), kernel=(1, kw), stride=(1, sw),
                         padding=(0, pw), dilation=(1, dw), entry=False)  # fmt: skip
        return first, second
    rank_in, rank_out = factor.ranks
    return (
        replace(plain, outputs=rank_in, **one),
        replace(plain, inputs=rank_in, outputs=rank_out, entry=False),
        replace(whole, inputs=rank_out, size=after, entry=False, **one),
    )


def _windows(operator: Operator) -> list[tuple[int, ...]]:
    return list(zip(operator.size, operator.kernel, operator.stride, operator.padding, operator.dilation, strict=True))


def _after(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def change(direction: str, layer_shape: tuple[int, ...], channels: int) -> Operator:
    """The change of precision of a tensor of that shape: ``quantize`` or ``dequantize``."""
    precision = FP32 if direction == "quantize" else INT8
    return Operator(direction, precision, channels, channels, layer_shape[1:])


def _product(values: tuple[int, ...]) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def baseline(operator: Operator) -> Operator:
    """What is taken off the time of ``operator``'s probe, so that the operator alone remains.

    A convolution is timed between the maker of its input and a reader of its output that costs next to nothing; what
    follows a convolution in a network is timed behind one.
    """
    behind = operator.kind not in (CONV, LINEAR)
    kind = "behind" if behind else "alone"
    vector = operator.kind == LINEAR
    return Operator(
        f"{kind} linear" if vector else kind, operator.precision, operator.inputs, operator.inputs, operator.size,
        entry=operator.entry and not behind,
    )  # fmt: skip
