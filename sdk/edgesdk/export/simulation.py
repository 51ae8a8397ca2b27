"""The simulation that a file is made of, as a file of its own: what each of its layers should compute.

It is an exported program (``.pt2``) of the network with its weights as integers, which returns the outputs of the model
and then those of every layer. It needs nothing of the user's model, and nothing in it is executed when it is read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from edgesdk.compress.integers import ActivationQuantizer
from edgesdk.core.errors import BundleError
from edgesdk.export.places import AGAIN, PLACES, Place, read_places
from edgesdk.export.program import Telling, export_telling, list_tensors
from edgesdk.network.exported_program import aten, read
from edgesdk.network.network import Batch, Network, rebatch, tensors

QUANTIZE: Any = torch.ops.edgesdk.quantize_dequantize.default
RESHAPES: tuple[Any, ...] = (
    aten.view.default, aten.reshape.default, aten.unflatten.int, aten.flatten.using_ints, aten.unsqueeze.default,
    aten.squeeze.dim, aten.squeeze.dims,
)  # fmt: skip


@dataclass(frozen=True)
class Simulation:
    """A program that was read: its ``outputs`` by the names of nodes, in order, and the ``places`` of its layers."""

    module: fx.GraphModule
    outputs: tuple[str, ...]
    places: tuple[Place, ...]

    @cached_property
    def nodes(self) -> dict[str, fx.Node]:
        """The nodes of the program by name."""
        return {node.name: node for node in self.module.graph.nodes}

    def step(self, tensor: str) -> float | None:
        """The scale of that tensor's integers; ``None`` where it has none."""
        node = self.nodes[tensor]
        if node.target is not QUANTIZE:
            return None
        scale: Any = node.args[1]
        return float(_attribute(self.module, str(scale.target)))

    @cached_property
    def shapes_of_made(self) -> dict[str, tuple[str, ...]]:
        """By layer, what is ``made``, and what that is but another shape of: a file may have either."""
        taken = {place.tensor for place in self.places}
        found: dict[str, tuple[str, ...]] = {}
        for place in self.places:
            chain = [self.nodes[place.made]]
            while chain[-1].target in RESHAPES and len((source := chain[-1].all_input_nodes[0]).users) == 1:
                chain.append(source)
            found[place.layer] = tuple(node.name for node in chain if node is chain[0] or node.name not in taken)
        return found

    @cached_property
    def wanted(self) -> frozenset[str]:
        """The nodes that stand for what a layer makes, in any of its shapes."""
        shapes = (name for names in self.shapes_of_made.values() for name in names)
        return frozenset((*self.outputs, *(place.tensor for place in self.places), *shapes))

    def run(self, inputs: list[Tensor], given: Mapping[str, Tensor] | None = None, exact: bool = False) -> Run:
        """One run: with the tensors that are ``given`` in the place of its own, once these are made; ``exact``
        leaves activations as they are."""
        run = Run(self.module, self.wanted, given, exact)
        with torch.no_grad():
            run.run(*inputs)
        return run


class Run(fx.Interpreter):
    """What was ``made`` in a run, by the names of nodes; of what was quantized, ``clipped`` has the share beyond the
    grid."""

    def __init__(
        self, module: fx.GraphModule, wanted: Collection[str], given: Mapping[str, Tensor] | None, exact: bool
    ) -> None:
        super().__init__(module)
        self.wanted: Collection[str] = wanted
        self.given: Mapping[str, Tensor] = given or {}
        self.exact: bool = exact
        self.made: dict[str, Tensor] = {}
        self.clipped: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.target is QUANTIZE:
            before, scale, zero = (self.env[source] for source in n.all_input_nodes)
            kind = torch.iinfo(zero.dtype)
            whole = (before / scale).round() + zero
            self.clipped[n.name] = float(((whole < kind.min) | (whole > kind.max)).double().mean())
            value = before if self.exact else value
        if n.name in self.wanted and isinstance(value, Tensor):
            self.made[n.name] = value
        return self.given.get(n.name, value)


def _attribute(module: fx.GraphModule, target: str) -> Any:
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    return value


def write_simulation(network: Network, x: Batch, path: Path) -> None:
    """Write what an integer ``network`` computes for one sample like those in ``x``, layer by layer, to ``path``."""
    telling, places = _exported(network, x)
    told = json.dumps({"outputs": telling.outputs, "places": [asdict(place) for place in places]})
    torch.export.save(telling.program, path, extra_files={PLACES: told})


def list_called(network: Network, x: Batch) -> dict[str, tuple[str, ...]]:
    """By layer of ``network``, what its files call what that makes, and what lies within it."""
    return {place.layer: place.called for place in _exported(network, x)[1]}


def _exported(network: Network, x: Batch) -> tuple[Telling, tuple[Place, ...]]:
    """``network`` as a program that returns its outputs, then what its layers make, and where these are."""
    from edgesdk.export.onnx import exportable  # takes seconds, and to read a simulation nobody needs it

    ready = exportable(network)
    module, sample = ready.module.eval(), tuple(tensors(rebatch(x, lambda t: t[:1].clone())))  # of its own: it is saved
    known = {node.name: node for node in list_tensors(module, sample)}  # what is made of nothing is there no more
    layers = [(layer, known[name]) for layer in ready.graph.layers if (name := ready.sites[layer.name].output) in known]
    ends = {made: _quantized(module, made) for _, made in layers}
    telling = export_telling(module, sample, [node for made, end in ends.items() for node in (end, made)])
    names, called = telling.inside, telling.name_in_files(network.input_names, network.structure.output_names)
    inner = _list_inner(telling.program.graph, {names[made] for made in ends}, {*names.values()})
    places = (
        Place(
            layer.name,
            names[ends[made]],
            names[made],
            tuple(layer.inputs),
            tuple(called.get(name, name) for name in (names[made], *inner[names[made]])),
        )
        for layer, made in layers
    )
    return telling, tuple(places)


def _list_inner(graph: fx.Graph, made: Collection[str], ends: Collection[str]) -> dict[str, list[str]]:
    """By each node that is ``made`` by a layer, those within that layer: all that it is made of, from the ``ends`` of
    other layers and from changes of precision on, but for what is of several."""
    nodes, found = {node.name: node for node in graph.nodes}, dict[str, list[str]]()
    for name in made:
        left, seen = list(nodes[name].all_input_nodes), dict[str, None]()
        while left:
            node = left.pop()
            if node.op == "call_function" and node.target is not QUANTIZE and node.name not in {*seen, *ends}:
                seen[node.name] = None
                left += node.all_input_nodes
        found[name] = list(seen)
    shared = Counter(name for names in found.values() for name in names)
    return {name: [part for part in names if shared[part] == 1] for name, names in found.items()}


def _quantized(module: fx.GraphModule, made: fx.Node) -> fx.Node:
    """``made`` as all that read it do: on its grid, where all do so."""
    users = list(made.users)
    if len(users) == 1 and users[0].op == "call_module":
        part = module.get_submodule(str(users[0].target))
        if isinstance(part, ActivationQuantizer):
            return users[0]
    return made


def read_simulation(path: Path) -> Simulation:
    """What is in the file ``path``. Raises ``ModelError`` where it is damaged, ``BundleError`` for another file."""
    module = read(path)
    outputs, places = read_places(path)
    nodes = {node.name for node in module.graph.nodes}
    if not {*outputs, *(name for place in places for name in (place.tensor, place.made))} <= nodes:
        raise BundleError(f"{path} names layers that it does not have", AGAIN)
    return Simulation(module, outputs, places)
