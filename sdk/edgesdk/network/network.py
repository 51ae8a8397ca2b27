"""A traced network: a module that trains and exports, with the ``Graph`` that describes it and the way between them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from edgesdk.core.graph import WEIGHTED, Graph
from edgesdk.network.channels import Channels
from edgesdk.network.shipping import Parts
from edgesdk.techniques.packing import Packed

Batch = Any  # a tensor, or a tuple or dict of tensors: what a data set yields as x


def tensors(x: Batch) -> list[Tensor]:
    """The tensors of one batch in the order in which a network takes them."""
    return [x] if isinstance(x, Tensor) else list(x.values()) if isinstance(x, Mapping) else list(x)


def rebatch(x: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """``x`` with ``change`` made to each of its tensors."""
    if isinstance(x, Tensor):
        return change(x)
    return {k: change(v) for k, v in x.items()} if isinstance(x, Mapping) else tuple(change(v) for v in x)


def figures(value: Tensor) -> Tensor:
    """The figures of each sample in a row, also where it has one alone: (samples, figures)."""
    return value.flatten(1) if value.dim() > 1 else value[:, None]


def answer(model: nn.Module, x: Batch) -> Any:
    """What the user's module answers to a batch, called as a user does; it may write into its own copy of ``x``."""
    x = rebatch(x, torch.clone)
    with torch.no_grad():
        return model(**x) if isinstance(x, Mapping) else model(*tensors(x))


@dataclass(frozen=True)
class Structure:
    """In what a model returns its tensors: ``spec`` with a leaf for each, and ``constants`` in the places of others.

    ``inputs`` and ``outputs`` are what a file is to call them, where the model itself came as a file: an input by the
    name of the network's, outputs in their order.
    """

    spec: Any
    constants: Mapping[int, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()

    @classmethod
    def plain(cls, count: int) -> Structure:
        """So many tensors as a tuple."""
        return cls(pytree.tree_structure((0,) * count))

    @property
    def count(self) -> int:
        """How many tensors there are."""
        return self.spec.num_leaves - len(self.constants)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What a file calls the outputs."""
        count = self.count
        return self.outputs or (("output",) if count == 1 else tuple(f"output_{index}" for index in range(count)))

    def of(self, values: Iterable[Any]) -> Any:
        """The tensors ``values`` in this structure, the constants between them."""
        remaining = iter(values)
        leaves = [self.constants[i] if i in self.constants else next(remaining) for i in range(self.spec.num_leaves)]
        return pytree.tree_unflatten(leaves, self.spec)


@dataclass(frozen=True)
class Site:
    """Where a layer lies in the module: its weighted submodule, its BatchNorm, and the node that makes its output."""

    module: str | None
    norm: str | None
    output: str


@dataclass(frozen=True)
class Network:
    """A flat ``torch.fx`` module whose convolutions, linear layers and norms are submodules, and its ``Graph``.

    ``module`` takes the tensors of a batch in order and returns the flat list of the model's outputs.
    ``sites`` says where each layer lies. ``stored`` has, by parameter, the form that a file is to store a weight in;
    the weight itself is what that decodes to. ``channels`` says where the channels of its groups lie, heads left out.
    """

    module: fx.GraphModule
    graph: Graph
    sites: Mapping[str, Site]
    structure: Structure
    stored: Mapping[str, Packed] = field(default_factory=dict)
    channels: Channels | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "module": Parts.of(self.module)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, module=state["module"].join())

    @property
    def input_names(self) -> list[str]:
        """What a file calls the inputs."""
        return [self.structure.inputs.get(tensor.name, tensor.name) for tensor in self.graph.inputs]

    def __call__(self, x: Batch) -> Any:
        """The model's outputs, in the structure in which the model returns them."""
        return self.structure.of(self.flat(x))

    def flat(self, x: Batch) -> list[Tensor]:
        """The model's outputs as a flat list of tensors."""
        return list(self.module(*tensors(x)))

    def copy(self) -> Network:
        """The same network with weights of its own."""
        return replace(self, module=copy.deepcopy(self.module))

    def submodule(self, layer: str) -> nn.Module:
        """The convolution or linear module of ``layer``."""
        site = self.sites[layer]
        assert site.module is not None, f"{layer} has no weights"
        return self.module.get_submodule(site.module)

    def node(self, layer: str) -> fx.Node:
        """The node that makes the output of ``layer``, or the placeholder of a graph input."""
        wanted = self.sites[layer].output if layer in self.sites else layer
        return next(node for node in self.module.graph.nodes if node.name == wanted)

    def entries(self, group: str) -> dict[fx.Node, tuple[int, Tensor]]:
        """The tensors in which layers with weights read the channels of ``group``: the axis that these are on, and
        which of them is at each place (-1 for none).

        A flattened tensor has several entries in a row for each channel.
        """
        places = {}
        mixing = self.channels.read if self.channels is not None else {}
        for layer in self.graph.layers:
            if layer.reads != group or layer.depthwise:
                continue
            node = self.node(layer.name)
            path = self.sites[layer.name].module
            call = node if path is None else call_of(self.module, path)
            if layer.kind in WEIGHTED or call.name in mixing and layer.macs:  # a recurrent layer
                place = self.along(call.all_input_nodes[0], group)
                if place is not None:
                    places[call.all_input_nodes[0]] = place
        return places

    def along(self, node: fx.Node, group: str) -> tuple[int, Tensor] | None:
        """The axis of a node's output on which channels of ``group`` lie, and which of them at each place."""
        if self.graph.group_by_name[group].heads:
            return -1, torch.arange(self.graph.group_by_name[group].size)
        return None if self.channels is None else self.channels.along(node.name, group)


def call_of(module: fx.GraphModule, path: str) -> fx.Node:
    """The first node that calls the submodule ``path``; an input may be called as it is."""
    return next(n for n in module.graph.nodes if n.op == "call_module" and n.target == path)


class Edited(fx.Interpreter):
    """Runs a module with the outputs of some nodes edited: masked, quantized, or replaced by another node's.

    ``edits`` maps a node's name to a function of (its output, its input values).
    """

    def __init__(self, module: fx.GraphModule, edits: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(module)
        self.edits = edits

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        edit = self.edits.get(n.name)
        return edit(value, *(self.env[i] for i in n.all_input_nodes)) if edit else value
