"""GRUs and LSTMs as TFLite's operators, unrolled: it has no GRU, and its LSTM is not ONNX's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgesdk.export.reading import Node
from edgesdk.export.recurrences import read_recurrence
from edgesdk.export.tflite.layers import refused
from edgesdk.export.tflite.lowering import Lowering
from edgesdk.export.tflite.writer import Data, Value, dense


def recurrent(graph: Lowering, node: Node) -> None:
    """A GRU or LSTM, step by step; the products with its input are taken for all steps at once."""
    x = graph.value(node.inputs[0])
    steps, batch, _ = x.shape
    given = read_recurrence(graph, node, steps, batch, refused)
    hidden: list[list[int]] = []
    finals: list[list[int]] = [[], []]
    run = gru if node.op == "GRU" else lstm
    for d, flip in enumerate(given.backward):
        order = range(steps)[:: -1 if flip else 1]
        weights, states = (given.w[d], given.r[d], given.b[d]), (given.first[d], given.cell[d])
        parts = run(graph, node, x, weights, states, order, d)
        hidden.append([parts[0][t] for t in range(steps)])
        finals[0].append(parts[0][0 if flip else steps - 1])
        finals[1].append(parts[1])
    sequence = [hidden[d][t] for t, d in itertools.product(range(steps), range(len(given.w)))]
    for name, tensors in zip(node.outputs, (sequence, *finals), strict=False):
        shape = graph.shapes.get(name)
        if name and shape is not None:
            data = Data(name, int(np.prod(shape)), np.dtype(np.float32), parts=tensors)
            if len(tensors) == 1:
                data.reals[(batch, given.r.shape[2])] = tensors[0]
            graph.values[name] = Value(shape, dense(shape, range(len(shape))), data)


class _Steps:
    """The operators of one direction of a recurrent layer."""

    def __init__(self, graph: Lowering, node: Node, batch: int, direction: int) -> None:
        self.graph, self.batch, self.label = graph, batch, f"{node.outputs[0] or node.name}/{direction}"

    def op(self, kind: str, inputs: list[int], size: int, version: int = 1, **options: Any) -> int:
        result = self.graph.file.fresh(f"{self.label}/{kind.lower()}", (self.batch, size), np.float32)
        self.graph.file.operator(kind, inputs, [result], version, **options)
        return result

    def constant(self, array: np.ndarray, name: str) -> int:
        return self.graph.file.constant(np.ascontiguousarray(array, np.float32), f"{self.label}/{name}")

    def inputs(self, x: Value, weight: np.ndarray, added: np.ndarray, name: str) -> list[int]:
        """The products of ``weight`` with each step of ``x``."""
        file, (steps, batch, _), size = self.graph.file, x.shape, len(weight)
        whole = file.fresh(f"{self.label}/products", (steps * batch, size), np.float32)
        source = file.arranged(x, range(3), False, (steps * batch, x.shape[2]))
        third = self.constant(added, "bias")
        weights = file.constant(np.ascontiguousarray(weight, np.float32), name)
        file.operator("FULLY_CONNECTED", [source, weights, third], [whole])
        result = [file.fresh(f"{self.label}/product", (batch, size), np.float32) for _ in range(steps)]
        if steps == 1:
            return [whole]
        file.operator("SPLIT", [file.constant(np.array(0, np.int32)), whole], result, numSplits=steps)
        return result

    def product(self, state: int, weight: int, size: int, added: int = -1) -> int:
        return self.op("FULLY_CONNECTED", [state, weight, added], size, 1 if added >= 0 else 6)

    def cut(self, x: int, count: int, size: int) -> list[int]:
        """``x`` in ``count`` pieces of ``size`` along its last dimension."""
        result = [self.graph.file.fresh(f"{self.label}/gate", (self.batch, size), np.float32) for _ in range(count)]
        axis = self.graph.file.constant(np.array(1, np.int32))
        self.graph.file.operator("SPLIT", [axis, x], result, numSplits=count)
        return result


def gru(
    graph: Lowering,
    node: Node,
    x: Value,
    weights: tuple[np.ndarray, ...],
    state: tuple[np.ndarray, ...],
    order: Sequence[int],
    direction: int,
) -> tuple[dict[int, int], int]:
    """Cho et al. 2014; ``linear_before_reset`` is cuDNN's form, which PyTorch has."""
    w, r, b = weights
    size = r.shape[1]
    late = bool(node.get("linear_before_reset", 0))
    cell = _Steps(graph, node, x.shape[1], direction)
    wb, rb = b[: 3 * size], b[3 * size :]
    added = wb + np.concatenate([rb[: 2 * size], np.zeros(size) if late else rb[2 * size :]])
    gates = cell.inputs(x, w[: 2 * size], added[: 2 * size], f"{node.inputs[1]}/gates")
    fresh = cell.inputs(x, w[2 * size :], added[2 * size :], f"{node.inputs[1]}/state")
    recur, own = cell.constant(r[: 2 * size], "gates"), cell.constant(r[2 * size :], "state")
    own_bias = cell.constant(rb[2 * size :], "state_bias") if late else -1
    h = cell.constant(state[0], "first")
    result = {}
    for t in order:
        both = cell.op("ADD", [gates[t], cell.product(h, recur, 2 * size)], 2 * size)
        update, reset = cell.cut(cell.op("LOGISTIC", [both], 2 * size), 2, size)
        if late:
            part = cell.op("MUL", [reset, cell.product(h, own, size, own_bias)], size)
        else:
            part = cell.product(cell.op("MUL", [reset, h], size), own, size)
        new = cell.op("TANH", [cell.op("ADD", [part, fresh[t]], size)], size)
        kept = cell.op("MUL", [update, cell.op("SUB", [h, new], size)], size)
        h = result[t] = cell.op("ADD", [new, kept], size)
    return result, h


def lstm(
    graph: Lowering,
    node: Node,
    x: Value,
    weights: tuple[np.ndarray, ...],
    state: tuple[np.ndarray, ...],
    order: Sequence[int],
    direction: int,
) -> tuple[dict[int, int], int]:
    """Hochreiter and Schmidhuber 1997 with forget gates; the second result is the last cell."""
    w, r, b = weights
    size = r.shape[1]
    cell = _Steps(graph, node, x.shape[1], direction)
    products = cell.inputs(x, w, b[: 4 * size] + b[4 * size :], node.inputs[1])
    recur = cell.constant(r, "recurrent")
    h, c = cell.constant(state[0], "first"), cell.constant(state[1], "first_cell")
    result = {}
    for t in order:
        both = cell.op("ADD", [products[t], cell.product(h, recur, 4 * size)], 4 * size)
        enter, leave, forget, new = cell.cut(both, 4, size)
        enter, leave, forget = (cell.op("LOGISTIC", [gate], size) for gate in (enter, leave, forget))
        new = cell.op("MUL", [enter, cell.op("TANH", [new], size)], size)
        c = cell.op("ADD", [cell.op("MUL", [forget, c], size), new], size)
        h = result[t] = cell.op("MUL", [leave, cell.op("TANH", [c], size)], size)
    return result, c


OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {"GRU": recurrent, "LSTM": recurrent}
