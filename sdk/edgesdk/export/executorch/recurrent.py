"""GRUs and LSTMs in PyTorch's operators, unrolled: ExecuTorch has neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgesdk.export.executorch.lowering import Lowering, refused
from edgesdk.export.reading import Node
from edgesdk.export.recurrences import read_recurrence


def recurrent(graph: Lowering, node: Node) -> None:
    """A GRU or LSTM, step by step; the products with its input are taken for all steps at once."""
    x = graph.real(node.inputs[0])
    steps, batch, _ = x.shape
    given = read_recurrence(graph, node, steps, batch, refused)
    run = gru if node.op == "GRU" else lstm
    rows, finals = [], []
    for d, flip in enumerate(given.backward):
        order = range(steps)[:: -1 if flip else 1]
        parts = {"w": given.w[d], "r": given.r[d], "b": given.b[d], "first": given.first[d], "cell": given.cell[d]}

        def constant(name: str, array: np.ndarray, d: int = d) -> Tensor:
            label = node.outputs[0] or node.name
            return graph.keep(label, f"{name}{d}", lambda: np.ascontiguousarray(array, np.float32))

        made, last = run(node, x, parts, constant, order)
        rows.append(torch.stack([made[t] for t in range(steps)]))
        finals.append((made[order[-1]], last))
    whole = torch.stack(rows, 1)
    graph.make(node, whole, *(torch.stack(each) for each in zip(*finals, strict=True)))


Constant = Callable[[str, np.ndarray], Tensor]


def gru(
    node: Node, x: Tensor, parts: dict[str, np.ndarray], constant: Constant, order: Sequence[int]
) -> tuple[dict[int, Tensor], Tensor]:
    """Cho et al. 2014; ``linear_before_reset`` is cuDNN's form, which PyTorch has."""
    w, r, b = parts["w"], parts["r"], parts["b"]
    size, late = r.shape[1], bool(node.get("linear_before_reset", 0))
    wb, rb = b[: 3 * size], b[3 * size :]
    added = wb + np.concatenate([rb[: 2 * size], np.zeros(size, np.float32) if late else rb[2 * size :]])
    products = F.linear(x, constant("w", w), constant("b", added))
    both, own = constant("gates", r[: 2 * size]), constant("state", r[2 * size :])
    own_bias = constant("bias", rb[2 * size :]) if late else None
    h, result = constant("first", parts["first"]), {}
    for t in order:
        gates = torch.sigmoid(products[t][:, : 2 * size] + F.linear(h, both))
        update, reset = gates[:, :size], gates[:, size:]
        part = reset * F.linear(h, own, own_bias) if late else F.linear(reset * h, own)
        new = torch.tanh(part + products[t][:, 2 * size :])
        h = result[t] = new + update * (h - new)
    return result, h


def lstm(
    node: Node, x: Tensor, parts: dict[str, np.ndarray], constant: Constant, order: Sequence[int]
) -> tuple[dict[int, Tensor], Tensor]:
    """Hochreiter and Schmidhuber 1997 with forget gates; the second result is the last cell."""
    w, r, b = parts["w"], parts["r"], parts["b"]
    size = r.shape[1]
    products = F.linear(x, constant("w", w), constant("b", b[: 4 * size] + b[4 * size :]))
    recur, h, c, result = constant("r", r), constant("first", parts["first"]), constant("cell", parts["cell"]), {}
    for t in order:
        enter, leave, forget, new = (products[t] + F.linear(h, recur)).chunk(4, 1)
        c = torch.sigmoid(forget) * c + torch.sigmoid(enter) * torch.tanh(new)
        h = result[t] = torch.sigmoid(leave) * torch.tanh(c)
    return result, c


OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {"GRU": recurrent, "LSTM": recurrent}
