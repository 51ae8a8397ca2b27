"""Recurrent layers as nodes of a flat module: which of their weights read what, and the states they begin with."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

from torch import fx

from edgesdk.network.modularize import arguments, aten

RECURRENT = (aten.gru.input, aten.lstm.input, aten.rnn_tanh.input, aten.rnn_relu.input)
SIZES: dict[Any, int] = {aten.zeros.default: 0, aten.new_zeros.default: 1}  # where what makes zeros is told their sizes


@dataclass(frozen=True)
class Cell:
    """A recurrent layer of ``width`` states, in one or two ``directions``, its weights of so many ``gates``.

    By their columns weights read the layer's input (``outer``), the states of the layer below (``between``), or their
    own (``states``). ``first`` are the nodes of zeros that it begins with, which nothing else reads.
    """

    width: int
    gates: int
    directions: int
    outer: tuple[str, ...]
    between: tuple[str, ...]
    states: tuple[str, ...]
    biases: tuple[str, ...]
    first: tuple[fx.Node, ...]

    @property
    def own(self) -> tuple[str, ...]:
        """All of its weights."""
        return *self.outer, *self.between, *self.states, *self.biases


def cell_of(module: fx.GraphModule, node: fx.Node) -> Cell | None:
    """What the recurrent ``node`` is; ``None`` where the width of its states is not its own to choose: they are
    projected, begin with what is computed or learnt, or its weights are no parameters."""
    given = arguments(node)
    each = _weights_of_a_layer(given)
    first = given["hx"] if isinstance(given["hx"], (tuple, list)) else [given["hx"]]
    names = [str(weight.target) for weight in given["params"] if weight.op == "get_attr"]
    if len(names) != each * given["num_layers"] or not all(_is_zeros_of(n, node) for n in first):
        return None
    weights = [name for name in names if operator.attrgetter(name)(module).dim() == 2]
    inputs, states = weights[::2], weights[1::2]
    directions = 2 if given["bidirectional"] else 1
    rows, width = operator.attrgetter(states[0])(module).shape
    biases = tuple(name for name in names if name not in weights)
    return Cell(
        width, rows // width, directions, tuple(inputs[:directions]), tuple(inputs[directions:]), tuple(states), biases,
        tuple(first),
    )  # fmt: skip


def is_projected(node: fx.Node) -> bool:
    """Whether the recurrent ``node`` has further weights, by which its states are projected."""
    given = arguments(node)
    return len(given["params"]) != _weights_of_a_layer(given) * given["num_layers"]


def _weights_of_a_layer(given: dict[str, Any]) -> int:
    return (4 if given["has_biases"] else 2) * (2 if given["bidirectional"] else 1)


def narrow_first(cell: Cell, width: int) -> None:
    """Let the states that ``cell`` begins with be so many."""
    for node in cell.first:
        place = SIZES[node.target]
        node.update_arg(place, [*node.args[place][:-1], width])  # type: ignore[index]


def _is_zeros_of(value: Any, node: fx.Node) -> bool:
    return isinstance(value, fx.Node) and value.target in SIZES and set(value.users) == {node}
