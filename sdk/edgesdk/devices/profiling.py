"""What a runtime ran for each layer of a file, by its own profiler."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgesdk.core.kernels import Kernel

PREFIX = re.compile(r"^(node_|/)")  # of names that an exporter makes of a layer's
NCHWC = "_nchwc"  # ends what ONNX Runtime calls a kernel in its blocked layout, by the tensor that it makes
INTO_CONVOLUTIONS = ("Conv", "Add", "Sum", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid")
WEIGHTS = re.compile(r"\.weight\b|/WithoutBiases$")  # in names that are of a layer, whatever the file numbers anew
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "GRU", "LSTM", "RNN")  # nodes that may be named after a layer
SPELT = {
    "float": "fp32", "f32": "fp32", "float32": "fp32", "float16": "fp16", "f16": "fp16", "bfloat16": "bf16",
    "double": "fp64", "f64": "fp64", "float64": "fp64", "i8": "int8", "u8": "uint8", "i16": "int16", "u16": "uint16",
    "i32": "int32", "u32": "uint32", "i64": "int64", "u64": "uint64", "boolean": "bool",
}  # fmt: skip
"""What a kernel computes in, as runtimes spell it and as a plan does."""
INNER = re.compile(r"[^A-Za-z0-9]")  # what comes between the name of a layer and that of a part of it


def read_kernels(
    told: Sequence[Mapping[str, Any]], layers: Mapping[str, tuple[str, ...]] | None, path: Path
) -> tuple[Kernel, ...]:
    """The kernels that an agent ``told`` of the file at ``path``, with the names of a plan's ``layers``, or without a
    plan as they are. Of each layer there is what the file calls the tensors that it makes, where that is known."""
    names = [tuple(kernel["layers"]) for kernel in told]
    if layers is None:  # constants and weights are no layers, and tell a plan's alone
        names = [
            tuple(name for name in own if name not in kernel.get("held", ()))
            for kernel, own in zip(told, names, strict=True)
        ]
    made = {tensor for tensors in (layers or {}).values() for tensor in tensors}
    if path.suffix == ".onnx":
        names = _add_fused(names, [(kernel.get("takes", ()), kernel.get("makes", ())) for kernel in told], path, made)
    elif made:
        names = [_select_told(own, made, path.suffix == ".tflite") for own in names]
    return tuple(
        Kernel(
            name=str(kernel["name"]),
            operator=str(kernel["operator"]),
            provider=str(kernel["provider"]),
            precision=SPELT.get(str(kernel["precision"]).lower(), kernel["precision"]),
            layers=own if layers is None else name_layers(own, layers),
            share=kernel["share"],
            profiled_ms=kernel.get("profiled_ms"),
            low_ms=kernel.get("low_ms"),
            high_ms=kernel.get("high_ms"),
        )
        for kernel, own in zip(told, names, strict=True)
    )


def _select_told(told: tuple[str, ...], made: Collection[str], one_each: bool) -> tuple[str, ...]:
    """Of what a runtime ``told`` of a kernel the tensors that layers have ``made``, and the weights: a file numbers its
    operators anew, so that other names may be those of other layers. Where a kernel is of ``one_each`` its tensor is
    enough: constants that are alike are stored once, under the name of one."""
    tensors = tuple(plain for name in told for plain in (name, PREFIX.sub("", name)) if plain in made)
    return tensors if tensors and one_each else (*tensors, *(name for name in told if WEIGHTS.search(name)))


def _add_fused(
    told: Sequence[tuple[str, ...]],
    tensors: Sequence[tuple[Sequence[str], Sequence[str]]],
    path: Path,
    made: Collection[str],
) -> list[tuple[str, ...]]:
    """What ONNX Runtime ``told`` of each kernel, with the names of all nodes of the file that are fused in it; where
    tensors are known that layers have ``made`` these alone, and of nodes with weights that make none their names.

    They are those between the ``tensors`` that the kernel takes and makes, where these are the file's. Where they are
    not, as in another layout, or not told, a node that no kernel tells of is in one that makes what the node reads: of
    several in the last that ran, which had to wait for the others.
    """
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph  # pyright: ignore[reportUnknownMemberType]
    nodes = graph.node
    blocked, named = _name_blocked(nodes), {node.name for node in nodes if node.name}
    kernels = [
        list(dict.fromkeys(part for name in names for part in blocked.get(name) or (_find_node(name, named),)))
        for names in told
    ]
    places = {name: place for place, names in enumerate(kernels) for name in names if name in named}
    between = _find_between(_list_varying(graph), tensors, places)
    for place, names in between.items():
        kernels[place] = names
        places |= dict.fromkeys(names, place)
    lost = {name for takes, _ in tensors for name in takes} - {name for _, makes in tensors for name in makes}
    makers: dict[str, int] = {}  # by tensor
    for node in nodes:
        if node.name not in places and lost.intersection(node.output):  # made by kernels that are not told, or by none
            continue
        before = [makers[name] for name in node.input if name in makers]
        place = places.get(node.name, max(before, default=None))
        if place is None:
            continue
        if node.name and node.name not in kernels[place] and place not in between:
            kernels[place].append(node.name)
        makers |= dict.fromkeys(node.output, place)
    if not made:
        return [tuple(names) for names in kernels]
    known = {
        node.name: tuple(name for name in node.output if name in made) or (node.name,) * (node.op_type in WEIGHTED)
        for node in nodes
        if node.name
    }
    return [tuple(part for name in names for part in known.get(name, ())) for names in kernels]


def _list_varying(graph: Any) -> list[Any]:
    """The nodes that compute something else in another run, or may: not those of constants and of held weights."""
    varying, constants = list[Any](), {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        is_closed = bool(node.input) and not any(part.HasField("g") for part in node.attribute)  # reads inputs alone
        if node.op_type == "Constant" or (is_closed and constants.issuperset(filter(None, node.input))):
            constants.update(node.output)
        else:
            varying.append(node)
    return varying


def _find_between(
    nodes: Sequence[Any], tensors: Sequence[tuple[Sequence[str], Sequence[str]]], places: Mapping[str, int]
) -> dict[int, list[str]]:
    """The names of the ``nodes`` between the ``tensors`` that a kernel takes and makes, by its place, for kernels whose
    tensors are all the file's. Nodes that other kernels are called after, at their ``places``, are not between."""
    makers = {name: node for node in nodes for name in node.output}
    of_file = {name for node in nodes for name in node.input} | {*makers}
    ran = {name: place for place, (_, makes) in enumerate(tensors) for name in makes}
    between: dict[int, list[str]] = {}
    for place, (takes, makes) in enumerate(tensors):
        if not makes or not makers.keys() >= {*makes} or not of_file.issuperset(ran.keys() & takes):
            continue
        left, inside = list(makes), set[str]()
        while left:
            node = makers.get(left.pop())
            if node is None or node.output[0] in inside or places.get(node.name, place) != place:
                continue
            inside.update(node.output)
            left += (name for name in node.input if name not in takes and ran.get(name, place) == place)
        names = [node.name for node in nodes if node.name and inside.intersection(node.output)]
        if names:
            between[place] = names
    return between


def _find_node(kernel: str, nodes: Collection[str]) -> str:
    """The one of ``nodes`` that ONNX Runtime called a ``kernel`` after, or the name as it is.

    It puts the names of what it fused behind that of a node, as in ``node_MatMul_1/MatMulAddFusion``.
    """
    name = kernel
    while name and name not in nodes:  # names of nodes may have slashes, too: the longest counts
        name = name.rpartition("/")[0]
    return name or kernel


def _name_blocked(nodes: Iterable[Any]) -> dict[str, tuple[str, ...]]:
    """What ONNX Runtime may call a kernel in its blocked layout, by the tensor that it makes, and the nodes in it.

    Into a convolution it fuses the sum and the activation behind it: the nodes are those, one after the other, up to
    the convolution. Whatever else makes the tensor is a kernel of its own.
    """
    makers = {name: node for node in nodes for name in node.output}
    blocked: dict[str, tuple[str, ...]] = {}
    for tensor in makers:
        chain, name = list[str](), tensor
        while (node := makers.get(name)) is not None and (not chain or node.op_type in INTO_CONVOLUTIONS):
            chain.append(node.name)
            if node.op_type not in INTO_CONVOLUTIONS or node.op_type == "Conv":
                break
            name = node.input[0] if node.input else ""
        blocked[tensor + NCHWC] = tuple(reversed(chain))
    return blocked


def name_layers(names: Sequence[str], layers: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The ``layers`` that ``names`` of a file belong to: a tensor to the layer that makes it, as ``relu_2`` to a sum
    with its ReLU, ``fc.weight`` and ``node_fc`` to ``fc``, the longest first."""
    makers = {tensor: layer for layer, tensors in layers.items() for tensor in tensors}
    each = (makers.get(name) or _find_layer(name, layers) for name in names)
    named = {layer for layer in each if layer is not None}
    return tuple(layer for layer in layers if layer in named)


def _find_layer(name: str, layers: Iterable[str]) -> str | None:
    for plain in (name, PREFIX.sub("", name)):
        fitting = [
            each for each in layers if plain == each or plain.startswith(each) and INNER.match(plain[len(each) :])
        ]
        if fitting:
            return max(fitting, key=len)
    return None
