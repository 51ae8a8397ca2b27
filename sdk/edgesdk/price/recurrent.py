"""What a recurrent layer is, from what a graph says of it, and what is left of it with fewer inputs and states."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isqrt

from edgesdk.core.graph import Layer
from edgesdk.price.files import hidden

GATES = {"gru": 3, "lstm": 4}
MOST_LAYERS = 12


@dataclass(frozen=True)
class Recurrence:
    """So many ``layers`` of ``states`` in each of one or two ``directions``, the first of which reads ``inputs``."""

    gates: int
    inputs: int
    states: int
    layers: int = 1
    directions: int = 1
    biased: bool = True

    @property
    def weights(self) -> int:
        """How many numbers its matrices have, each of which is multiplied with once in each step."""
        read = self.inputs + self.states + (self.layers - 1) * (self.directions + 1) * self.states
        return self.gates * self.states * self.directions * read

    @property
    def parameters(self) -> int:
        """How many numbers it has, of biases two rows."""
        return self.weights + 2 * self.gates * self.states * self.directions * self.layers * self.biased


def recurrence(layer: Layer) -> Recurrence:
    """What ``layer`` is: what has as many weights and parameters; if nothing has, one layer of about as many."""
    gates, (steps, inputs) = GATES.get(layer.operator, 1), (1, *layer.input_shape)[-2:]
    weights = layer.macs // max(1, steps)
    for layers in range(1, MOST_LAYERS + 1):
        for directions in (1, 2):
            square = 1 + (layers - 1) * (directions + 1)  # weights are gates directions (inputs h + square h^2)
            states = (isqrt(inputs**2 + 4 * square * weights // (gates * directions)) - inputs) // (2 * square)
            whole = Recurrence(gates, inputs, states, layers, directions)
            for found in (whole, replace(whole, biased=False)):
                if states and found.weights == weights and found.parameters == layer.parameters:
                    return found
    return Recurrence(gates, inputs, hidden(layer))


def narrowed(layer: Layer, read: tuple[int, int], write: tuple[int, int]) -> Layer:
    """A recurrent ``layer`` of which so many of so many channels that it reads are left, and of its states."""
    whole = recurrence(layer)
    left = replace(whole, inputs=whole.inputs * read[0] // read[1], states=whole.states * write[0] // write[1])
    return replace(
        layer, parameters=layer.parameters * left.parameters // max(1, whole.parameters),
        macs=layer.macs * left.weights // max(1, whole.weights),
        input_shape=(*layer.input_shape[:-1], left.inputs),
    )  # fmt: skip


def timed(layer: Layer) -> tuple[int, ...]:
    """By what a probe can time a recurrent ``layer``: its gates, steps, inputs, states, layers and directions; nothing
    for what runtimes have no operator for, or where it is not known for sure."""
    found = recurrence(layer)
    known = found.parameters == layer.parameters and len(layer.input_shape) == 2
    if layer.operator not in GATES or not known:
        return ()
    return (found.gates, *layer.input_shape, found.states, found.layers, found.directions)
