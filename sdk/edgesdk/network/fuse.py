"""A flat module as layers: each operator with what a runtime fuses into it, named as ATen names it."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgesdk.core.graph import (
    ACTIVATION,
    ADD,
    CONV,
    FLATTEN,
    LINEAR,
    MEAN,
    OTHER,
    POOL,
    TRANSPOSED,
    WEIGHTED,
    WINDOWED,
    Graph,
    Layer,
    without_batch,
)
from edgesdk.core.graph import Tensor as Input
from edgesdk.network.modularize import arguments, aten, each, exported, is_relu, is_relu6, modularize
from edgesdk.network.network import Batch, Network, Site, Structure, rebatch, tensors
from edgesdk.network.returned import check_depend, structure_of
from edgesdk.network.shared import first_of, list_shared, share
from edgesdk.network.source import source_of
from edgesdk.network.spelled import ALIKE, FILLED
from edgesdk.price.kinds import RECURRENT, kind_of
from edgesdk.techniques import layouts

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
POOLS = (aten.max_pool2d.default, aten.avg_pool2d.default)
RESHAPES = (aten.flatten.using_ints, aten.view.default, aten.reshape.default, aten.squeeze.dims, aten.squeeze.dim)


def flat(model: nn.Module, x: Batch, free_batch: bool = True) -> Network:
    """The network that ``model`` is, without channel groups and branches: enough to train and export it.

    Raises ``ModelError`` where ``torch.export`` cannot follow it.
    """
    program = exported(model, x, free_batch)
    module = modularize(program)
    check_depend(module)
    source = source_of(model)
    structure = structure_of(program)
    if source is not None:
        own = [node.name for node in module.graph.nodes if node.op == "placeholder"]
        names = [source.inputs[name] for name in x] if isinstance(x, Mapping) else source.inputs.values()
        structure = replace(structure, inputs=dict(zip(own, names, strict=True)), outputs=source.outputs)
    return describe_layers(module, x, structure)


def describe_layers(module: fx.GraphModule, x: Batch, structure: Structure) -> Network:
    """The network that a flat module is, without channel groups and branches.

    Of calls that share their parameters the first that ``module`` has is the one that these are known by, from then on.
    """
    share(module)
    values = run(module, rebatch(x, lambda t: t[:1]))
    layers, sites = _Layers(module, values).collect()
    inputs = tuple(
        Input(n.name, tuple(values[n.name].shape[1:]), str(values[n.name].dtype).removeprefix("torch."))
        for n in module.graph.nodes
        if n.op == "placeholder"
    )
    graph = Graph(inputs, tuple(layers), tuple(owner(n, sites) for n in outputs(module)))
    return Network(module, graph, sites, structure)


def run(module: fx.GraphModule, x: Batch) -> dict[str, Any]:
    interpreter = fx.Interpreter(module, garbage_collect_values=False)
    with torch.no_grad():
        interpreter.run(*tensors(x))
    return {node.name: value for node, value in interpreter.env.items()}


def outputs(module: fx.GraphModule) -> list[fx.Node]:
    return [n for n in next(n for n in module.graph.nodes if n.op == "output").args[0] if isinstance(n, fx.Node)]


def owner(node: fx.Node, sites: dict[str, Site]) -> str:
    return next((name for name, site in sites.items() if site.output == node.name), node.name)


class _Layers:
    """Reads the module's graph from its start and fuses as runtimes do: weights, BatchNorm, ReLU or ReLU6."""

    def __init__(self, module: fx.GraphModule, values: dict[str, Any]) -> None:
        self.module, self.values = module, values
        self.owner: dict[fx.Node, str] = {}  # node to the layer or input whose output it is
        self.taken = {str(n.target) for n in module.graph.nodes if n.op in ("call_module", "placeholder")}
        self.constant: set[str] = set()  # layers that depend on no input
        self.layers: list[Layer] = []
        self.sites: dict[str, Site] = {}

    def collect(self) -> tuple[list[Layer], dict[str, Site]]:
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                self.owner[node] = node.name
            elif node.op in ("call_module", "call_function") and node not in self.owner:
                if isinstance(self.values[node.name], (Tensor, tuple, list)):
                    self.add(node)
        return self.sharing(), self.sites

    def sharing(self) -> list[Layer]:
        """The layers, and which of them have their weights in common, as they are once BatchNorms are folded."""
        named = {site.module: name for name, site in self.sites.items() if site.module is not None}
        shares: dict[str, str] = {}
        for paths in list_shared(self.module).values():
            names = [named[path] for path in paths if path in named]
            norms = {None if (norm := self.sites[name].norm) is None else first_of(self.module, norm) for name in names}
            if len(names) > 1 and len(norms) == 1:
                shares |= dict.fromkeys(names, names[0])
        return [replace(layer, shares=shares.get(layer.name)) for layer in self.layers]

    def add(self, node: fx.Node) -> None:
        module = self.module.get_submodule(node.target) if node.op == "call_module" else None  # type: ignore[arg-type]
        kind, fixed = self.kind(node, module)
        if (dtype := self.dtype(node)) != "float32":
            kind, fixed = OTHER, f"it computes with {dtype}"
        weighted = kind in WEIGHTED
        last, norm, activation = node, None, None
        if weighted and (reader := _only(last)) is not None and reader.op == "call_module":
            if isinstance(self.module.get_submodule(reader.target), NORMS):  # type: ignore[arg-type]
                last, norm = reader, reader.target
        if weighted or kind == ADD:
            reader = _only(last)
            if reader is not None and (is_relu(reader) or is_relu6(reader)):
                last, activation = reader, "relu" if is_relu(reader) else "relu6"
        name = self.name(node, weighted)
        for fused in self.chain(node, last):
            self.owner[fused] = name
        inputs = tuple(self.owner[i] for i in node.all_input_nodes if i in self.owner)
        filled = node.target in (*ALIKE, *FILLED)  # it takes no more than a size from what it reads
        if filled or all(read in self.constant for read in inputs):  # it is the same for every sample
            inputs = ()
            self.constant.add(name)
        first = next((self.values[i.name] for i in node.all_input_nodes if i in self.owner), None)
        images, shape = _extent(self.values[last.name], kind)
        weight: Tensor | None = module.weight if weighted else None  # type: ignore[union-attr]
        parameters = sum(p.numel() for p in module.parameters()) if module is not None else 0
        parameters += sum(_parameter(self.module, i) for i in node.all_input_nodes if i.op == "get_attr")
        spatial = {}
        if kind in WINDOWED:
            assert isinstance(module, (*CONVOLUTIONS, *layouts.TRANSPOSED))
            padding = module.padding if isinstance(module.padding, tuple) else _same(module)
            spatial = dict(kernel=module.kernel_size, stride=module.stride, padding=padding, dilation=module.dilation)
        elif kind == POOL:
            spatial = _window(node)
        self.layers.append(
            Layer(
                name=name,
                kind=kind,
                inputs=inputs,
                input_shape=_input_shape(node, first, kind),
                shape=shape,
                operator=_operator(node, module),
                weight_shape=tuple(weight.shape) if weight is not None else (),
                has_bias=weighted and (module.bias is not None or norm is not None),  # type: ignore[union-attr]
                groups=module.groups if kind in WINDOWED else 1,  # type: ignore[union-attr,arg-type]
                activation=activation,
                parameters=parameters,
                macs=_macs(node, module, self.values),
                images=images,
                fixed=fixed,
                **spatial,  # type: ignore[arg-type]
            )
        )
        self.sites[name] = Site(str(node.target) if weighted else None, norm, last.name)  # type: ignore[arg-type]

    def dtype(self, node: fx.Node) -> str:
        """What ``node`` computes with, as NumPy names it: of its tensors the first type that is not float32, if any."""
        values = [self.values[n.name] for n in (node, *node.all_input_nodes) if n is node or n in self.owner]
        dtypes = [str(value.dtype).removeprefix("torch.") for value in values if isinstance(value, Tensor)]
        return next((dtype for dtype in dtypes if dtype != "float32"), "float32")

    def name(self, node: fx.Node, weighted: bool) -> str:
        """The path of a weighted layer's module, a node's own else: none is another layer's or an input's."""
        own = str(node.target) if weighted else None
        name = own or node.name
        inputs = [n.name for n in self.owner if n.op == "placeholder"]
        while name in inputs or name in self.taken and name != own:
            name += "_"
        self.taken.add(name)
        return name

    def kind(self, node: fx.Node, module: nn.Module | None) -> tuple[str, str | None]:
        """What a node is to the search, and why it is left as it is."""
        if isinstance(module, CONVOLUTIONS):
            kind, fixed = CONV, None
            if (
                module.groups not in (1, module.in_channels)
                or module.in_channels > module.out_channels != 1 < module.groups
            ):
                fixed = f"a convolution in {module.groups} groups is neither full nor depthwise"
            calls = [n for n in self.module.graph.nodes if n.op == "call_module" and n.target == node.target]
            return kind, "its weights are used in several places" if len(calls) > 1 else fixed
        if isinstance(module, layouts.TRANSPOSED):
            return TRANSPOSED, None
        if isinstance(module, nn.Linear):
            return LINEAR, None
        reads = [i for i in node.all_input_nodes if i in self.owner and self.owner[i] not in self.constant]
        if node.target is aten.add.Tensor and len(reads) == 2:
            if self.values[reads[0].name].shape == self.values[reads[1].name].shape:
                return ADD, None
        if node.target in POOLS and len(reads) == 1:
            return POOL, None
        if _is_global_mean(node, self.values):
            return MEAN, None
        if node.target in RESHAPES and _flattens(node, self.values):
            return FLATTEN, None
        if is_relu(node) or is_relu6(node):
            return ACTIVATION, None
        return OTHER, f"{_operator(node, module)} has no compressed form here"

    def chain(self, first: fx.Node, last: fx.Node) -> Iterable[fx.Node]:
        node = first
        yield node
        while node is not last:
            node = next(iter(node.users))
            yield node


def _operator(node: fx.Node, module: nn.Module | None) -> str:
    """The plain name of an operator, ATen's: ``conv2d``, ``batch_norm``, ``add``, ``softmax``."""
    if module is not None:
        name = type(module).__name__.lower()
        name = name.replace("convtranspose", "conv_transpose")
        return {"layernorm": "layer_norm"}.get(name, "batch_norm" if name.startswith("batchnorm") else name)
    packet = getattr(node.target, "overloadpacket", None)
    name = str(packet).removeprefix("aten.") if packet is not None else getattr(node.target, "__name__", "unknown")
    return name.strip("_")


def _macs(node: fx.Node, module: nn.Module | None, values: dict[str, Any]) -> int:
    """Multiply-accumulates for one sample of a module with weights, a product of tensors or a recurrent layer."""
    value = values[node.name]
    if isinstance(module, CONVOLUTIONS):
        return prod(module.weight.shape) * len(value) * prod(value.shape[2:])
    if isinstance(module, layouts.TRANSPOSED):  # each number that it reads meets all weights of its channel
        return prod(module.weight.shape[1:]) * prod(values[node.all_input_nodes[0].name].shape)
    if isinstance(module, nn.Linear):
        return prod(module.weight.shape) * prod(value.shape[:-1])
    name = _operator(node, module)
    read = [values[i.name] for i in node.all_input_nodes if isinstance(values.get(i.name), Tensor)]
    if name in ("matmul", "bmm", "linear") and len(read) >= 2:
        return prod(value.shape) * read[0].shape[-1]
    if name == "scaled_dot_product_attention":
        query, key, result = read[0], read[1], value
        return (prod(query.shape) + prod(result.shape)) * key.shape[-2]
    if name.rstrip("123d") in ("conv", "conv_transpose") and len(read) >= 2:
        each = read[0] if name.startswith("conv_transpose") else value
        return prod(read[1].shape[1:]) * prod(each.shape)
    if kind_of(name) == RECURRENT:
        steps = read[0].shape[1 if arguments(node).get("batch_first") else 0] if read[0].dim() == 3 else len(read[0])
        return steps * sum(prod(weight.shape) for weight in read[1:] if weight.dim() == 2)
    return 0


def _extent(value: Any, kind: str) -> tuple[int, tuple[int, ...]]:
    """How many images ``value`` is, and its shape without the batch; () for what is no tensor."""
    return without_batch(value.shape, kind) if isinstance(value, Tensor) else (1, ())


def _input_shape(node: fx.Node, value: Any, kind: str) -> tuple[int, ...]:
    """The shape of what a layer reads first; of a recurrent one (steps, numbers), whichever axis its samples are."""
    if kind_of(_operator(node, None)) == RECURRENT and isinstance(value, Tensor) and value.dim() == 3:
        return (value.shape[1 if arguments(node).get("batch_first") else 0], value.shape[-1])
    return _extent(value, kind)[1]


def _window(node: fx.Node) -> dict[str, tuple[int, ...]]:
    """The kernel, stride and padding of a pooling call; its stride is its kernel where none is given."""
    given = arguments(node)
    size = each(given["kernel_size"], 2)
    return dict(
        kernel=size, stride=each(given.get("stride") or size, 2), padding=each(given.get("padding", 0), 2),
        dilation=each(given.get("dilation", 1), 2),
    )  # fmt: skip


def _only(node: fx.Node) -> fx.Node | None:
    """The one node that reads ``node``, where there is but one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _parameter(module: fx.GraphModule, node: fx.Node) -> int:
    value = operator.attrgetter(node.target)(module)  # type: ignore[arg-type]
    return value.numel() if isinstance(value, nn.Parameter) else 0


def _same(module: Any) -> tuple[int, ...]:
    if module.padding == "valid":
        return (0,) * len(module.kernel_size)
    return tuple(d * (k - 1) // 2 for d, k in zip(module.dilation, module.kernel_size, strict=True))


def _is_global_mean(node: fx.Node, values: dict[str, Any]) -> bool:
    if node.target is aten.adaptive_avg_pool2d.default:
        return tuple(node.args[1]) == (1, 1)  # type: ignore[arg-type]
    if node.target is aten.mean.dim:
        source = values[node.all_input_nodes[0].name]
        return source.dim() == 4 and sorted(d % 4 for d in node.args[1]) == [2, 3]  # type: ignore[union-attr]
    return False


def _flattens(node: fx.Node, values: dict[str, Any]) -> bool:
    source, result = values[node.all_input_nodes[0].name], values[node.name]
    return isinstance(source, Tensor) and result.dim() == 2 and source.shape[0] == result.shape[0]
