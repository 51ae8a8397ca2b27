"""GRUs and LSTMs as ONNX states them, for formats that have neither and unroll them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgesdk.core.errors import ModelError
from edgesdk.export.reading import Node, Reading

PLAIN = {"activations", "activation_alpha", "activation_beta", "clip", "input_forget"}  # what the usual ones leave out
BACKWARD: dict[str, tuple[bool, ...]] = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


@dataclass(frozen=True)
class Recurrence:
    """Weights of inputs ``w`` and of states ``r``, biases ``b``, and the ``first`` states and, of an LSTM, ``cell``.

    Their first axis is the directions; ``backward`` says of each whether it begins at the last step.
    """

    w: np.ndarray
    r: np.ndarray
    b: np.ndarray
    first: np.ndarray
    cell: np.ndarray
    backward: tuple[bool, ...]


def read_recurrence(
    graph: Reading, node: Node, steps: int, batch: int, refused: Callable[[Node, str], ModelError]
) -> Recurrence:
    """What ``node``, a GRU or LSTM, computes with over so many ``steps``.

    Raises what ``refused`` makes of a reason where it is not the usual one, or its weights are not constant.
    """
    arrays = [graph.array(name) if name else None for name in node.inputs]
    arrays += [None] * (8 - len(arrays))
    w, r, b, lengths, first, cell, peephole = arrays[1:8]
    size, gates = int(node.get("hidden_size", 0)), 3 if node.op == "GRU" else 4
    if w is None or r is None or any(name and a is None for name, a in zip(node.inputs[1:], arrays[1:], strict=False)):
        raise refused(node, "its weights or its first state are not constant")
    if PLAIN & {k for k, v in node.attributes.items() if v} or node.get("layout", 0) or peephole is not None:
        raise refused(node, "it is not the usual one")
    if lengths is not None and np.any(lengths != steps):
        raise refused(node, "its sequences end early")
    states = np.zeros((len(w), batch, size), np.float32)
    return Recurrence(
        w, r, np.zeros((len(w), 2 * gates * size), np.float32) if b is None else b,
        states if first is None else first, states if cell is None else cell,
        BACKWARD[node.get("direction", "forward")],
    )  # fmt: skip
