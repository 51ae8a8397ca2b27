"""A network as an ONNX file whose integer layers are integer: stored as such, and run as such by ONNX Runtime."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import logging
import operator
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, helper, numpy_helper
from onnx_ir.passes import common
from onnxscript import FLOAT, INT8, UINT8, ir, optimizer, rewriter
from onnxscript import opset21 as op
from torch import Tensor, fx
from torch.fx.node import map_arg

from edgesdk.compress.integers import TensorSpec
from edgesdk.compress.quantize import frozen, specification
from edgesdk.core.errors import FidelityError, ModelError
from edgesdk.core.serialize import write
from edgesdk.export.collecting import collecting_once
from edgesdk.export.decompositions import tracing_once
from edgesdk.export.origins import drop_origins, find_unknown, find_unsound, note_origins
from edgesdk.export.pools import spell_out_pools
from edgesdk.export.program import export_telling, list_tensors
from edgesdk.export.resizing import spell_out
from edgesdk.export.rewrites import rewrite
from edgesdk.export.translations import reading_once
from edgesdk.network.in_turn import in_turn
from edgesdk.network.modularize import aten
from edgesdk.network.network import Batch, Network, rebatch, tensors
from edgesdk.network.places import name_operator
from edgesdk.network.recurrent import is_projected
from edgesdk.network.shared import set_apart

ITERATIONS = 2  # of folding constants and rewriting, as the exporter has it
LOUD = ("torch.onnx", "onnxscript", "onnx_ir")  # loggers that tell what concerns no user
INSTEAD = "compute it in forward() by other operators of torch"
ALGEBRA = ("slogdet", "logdet", "det", "inverse", "pinverse", "matrix_exp", "cholesky", "cholesky_inverse", "qr", "svd")
LARGEST = 512 * 512  # numbers that are made of nothing and written: what the exporter folds
NODE = "node_"  # how the exporter calls what makes a tensor: this, and the tensor's name
OPSET = 21  # the first whose quantization operators take 4-bit integers


def converted(network: Network, x: Batch) -> ModelProto:
    """``network`` as ONNX for one sample like those in ``x``, its integer layers stored as integers.

    Inputs keep their names; outputs are ``output``, or ``output_0``, ``output_1`` and so on, where the model came as a
    file what that calls them. Weighted nodes are named after their layer, and all say in their ``doc_string`` which
    operator they come from. Raises ``ModelError`` for an operator that ONNX lacks, ``FidelityError`` where a scale,
    zero point or width in the file is not the specification's.
    """
    specs = specification(network)
    _check_projections(network)
    plain = spell_out_pools(exportable(network), x)
    set_apart(plain.module)
    model = _exported(plain, x)
    note_origins(model, plain)
    _name_nodes(model)
    rewrite(model)
    for name, spec in specs.items():
        if spec.bits == 4:
            _pack(model, name)
    _clean(model)
    _check_sound(model)
    check(model, specs)
    return model


def export(network: Network, x: Batch, path: Path) -> None:
    """Write ``network`` as :func:`converted` to ``path``. Raises its errors, and ``StorageError`` where it cannot."""
    write(path, serialized(converted(network, x)))


def write_model(model: ModelProto, path: Path, specs: Mapping[str, TensorSpec]) -> None:
    """Write ``model``, whose integers :func:`converted` has checked, to ``path``.

    ONNX Runtime (1.32) puts channels last between integer layers, and cannot shrink by cubics then.
    """
    write(path, serialized(spell_out(model, lambda r: bool(specs) and r.cubic and r.shrinks and not r.smooth)))


def serialized(model: ModelProto) -> bytes:
    """``model`` as it is written: without the shapes of what lies inside, which other formats are made with, without
    the names of where it comes from, and with the weights of a layer that runs several times once."""
    small = ModelProto()
    small.CopyFrom(model)
    del small.graph.value_info[:]
    drop_origins(small)
    _write_once(small)
    return small.SerializeToString()


def _write_once(model: ModelProto) -> None:
    """Let whoever reads a matrix, or what has more axes, that is another one to the last bit read that."""
    first: dict[tuple[Any, ...], str] = {}
    same: dict[str, str] = {}
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1:
            held = hashlib.sha256(numpy_helper.to_array(tensor).tobytes()).digest()
            name = first.setdefault((tensor.data_type, tuple(tensor.dims), held), tensor.name)
            same |= {tensor.name: name} if name != tensor.name else {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = same.get(name, name)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in same]
    if same:
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)


def exportable(network: Network) -> Network:
    """A copy of ``network`` as the exporter is given it, which names tensors after its nodes: weights as integers."""
    return _with_constants(_with_heads(frozen(network)))


def _with_heads(network: Network) -> Network:
    """``network``, its attentions over (batch, tokens, width) as ones of a single head: the exporter knows no other."""
    graph, unsqueeze, squeeze = network.module.graph, aten.unsqueeze.default, aten.squeeze.dim
    rank = {network.sites[layer.name].output: len(layer.shape) + 1 for layer in network.graph.layers}
    for node in list(graph.nodes):
        if node.target is not aten.scaled_dot_product_attention.default or rank.get(node.name) != 3:
            continue
        for read in [n for n in node.all_input_nodes if rank.get(n.name, 3) == 3]:
            with graph.inserting_before(node):
                node.replace_input_with(read, graph.call_function(unsqueeze, (read, 1)))
        with graph.inserting_after(node):
            back = graph.call_function(squeeze, (node, 1))
        node.replace_all_uses_with(back, lambda user, back=back: user is not back)
    network.module.recompile()
    return network


def _with_constants(network: Network) -> Network:
    """``network`` with what its operators make of nothing, as windows are, as PyTorch makes it, and what algebra makes
    of parameters alone, as an inverse is: the exporter lacks some of these operators, and writes a Hamming window that
    is another. What is large is left to the runtime."""
    module, graph = network.module, network.module.graph
    made: dict[fx.Node, Any] = {}
    held: dict[fx.Node, Any] = {}  # what else is computed of parameters alone, once it is asked for
    constant, solved = set[fx.Node](), set[fx.Node]()

    def value_of(node: fx.Node) -> Any:
        if node in made or node in held:
            return made[node] if node in made else held[node]
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(module)
        args, kwargs = map_arg((node.args, node.kwargs), value_of)
        with torch.no_grad():
            held[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return held[node]

    for node in graph.nodes:
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if node.op == "get_attr":
            constant.add(node)
        elif node.op == "call_function" and not random and all(n in constant for n in node.all_input_nodes):
            constant.add(node)
            if _is_algebra(node) or any(n in solved for n in node.all_input_nodes):
                solved.add(node)
            if node in solved or all(n in made for n in node.all_input_nodes):
                made[node] = value_of(node)
    for node, value in made.items():
        if isinstance(value, Tensor) and value.numel() <= LARGEST and not made.keys() >= node.users.keys():
            name = f"made_{node.name}"
            while hasattr(module, name):  # a module or a buffer of the user's own
                name += "_"
            module.register_buffer(name, value.contiguous().clone())
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.get_attr(name), lambda user: user not in made)
    graph.eliminate_dead_code()
    module.recompile()
    return network


def _is_algebra(node: fx.Node) -> bool:
    name = str(getattr(node.target, "overloadpacket", "")).removeprefix("aten.").lstrip("_")
    return name in ALGEBRA or (name.startswith("linalg_") and "norm" not in name)


@in_turn()
def _exported(network: Network, x: Batch) -> ModelProto:
    sample = tuple(tensors(rebatch(x, lambda t: t[:1])))
    module, outputs = network.module.eval(), list(network.structure.output_names)
    levels = {name: logging.getLogger(name).level for name in LOUD}
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad(),
            reading_once(), collecting_once(), tracing_once(),
        ):  # fmt: skip
            warnings.simplefilter("ignore")
            telling = export_telling(module, sample, list_tensors(module, sample))
            program = torch.onnx.export(
                telling.program,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table={
                    torch.ops.edgesdk.quantize_dequantize.default: _quantize_dequantize,
                    torch.ops.edgesdk.dequantize.default: _dequantize,
                },
                optimize=False,
                verbose=False,
            )
            assert program is not None
            called = telling.name_in_files(network.input_names, outputs)
            _rename_held(program.model, {*network.input_names, *outputs, *called.values()})
            _fold(program.model)  # names are of what is left: what does nothing is taken away with its own
            _name_inside(program.model, [called[name] for name in telling.inside.values()])
            _simplify(program.model, {name for name, _ in network.module.named_parameters()})
            _name_ends(program.model, network.input_names, outputs)
            return program.model_proto
    except Exception as error:  # the exporter raises many kinds
        where = find_unknown(network, error)
        lacks = where is not None and "No ONNX function found" in str(error)
        fact = f"ONNX has no {where}" if lacks else f"{where or 'the model'} cannot be written as ONNX: {_cause(error)}"
        raise ModelError(fact, INSTEAD) from None
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _check_projections(network: Network) -> None:
    """Raise ``ModelError`` for an LSTM whose states are projected: the exporter writes one that is none."""
    for node in network.module.graph.nodes:
        if node.target is aten.lstm.input and is_projected(node):
            fact = f"ONNX has no {name_operator(node)} whose states are projected (proj_size)"
            raise ModelError(fact, "leave proj_size at 0, with fewer states, or write the steps in forward()")


def _check_sound(model: ModelProto) -> None:
    """Raise ``ModelError`` for what PyTorch's exporter writes and ONNX does not allow."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        where = find_unsound(model, error) or "the model"
        raise ModelError(f"{where} cannot be written as ONNX: {lines[0]}", INSTEAD) from None


def _fold(model: ir.Model) -> None:
    optimizer.inline(model)
    optimizer.fold_constants(model, onnx_shape_inference=True)
    rewriter.rewrite(model)


def _simplify(model: ir.Model, apart: Collection[str]) -> None:
    """What the exporter's own optimization does, but that weights, which are known by their names, stay ``apart``."""
    for _ in range(ITERATIONS):
        _fold(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    first: dict[tuple[Any, ...], ir.Value] = {}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or name in apart or name.endswith(".weight"):
            continue
        same = first.setdefault((tensor.dtype, tuple(tensor.shape), tensor.tobytes()), value)
        if same is not value:
            value.replace_all_uses_with(same)
            del model.graph.initializers[name]
    common.CommonSubexpressionEliminationPass()(model)


def _rename_held(model: ir.Model, taken: Collection[str]) -> None:
    """Let nothing that is held have a name of those ``taken``: it would be given a number, and so another's name."""
    held = model.graph.initializers
    for value in list(held.values()):
        name = str(value.name)
        while name in taken or name != value.name and name in held:
            name += "_"
        value.name = name


def _name_inside(model: ir.Model, names: Sequence[str]) -> None:
    """Take the outputs behind the model's own away, one for each of ``names``, and call the values so, and what makes
    them: the exporter calls what it makes in several steps as the last of these, and a name may be that of a step
    elsewhere."""
    graph = model.graph
    ends = len(graph.outputs) - len(names)
    named: dict[ir.Value, str] = {}
    for value, name in zip(graph.outputs[ends:], names, strict=True):
        value = _original(value)
        if value.producer() is not None:
            named.setdefault(value, name)
    graph.outputs[ends:] = []  # `del` would leave them marked as outputs
    values = {*named.values()}
    nodes = {f"{NODE}{name}" for name in values}
    for node in graph.all_nodes():
        node.name = None if node.name in nodes else node.name  # steps of others are numbered anew
        for value in node.outputs:
            if value in named:
                value.name = named[value]
                node.name = f"{NODE}{value.name}"
            elif value.name in values:
                value.name = None
    common.NameFixPass()(model)


def _original(value: ir.Value) -> ir.Value:
    """What a ``value`` is the same as, which is left of both: the exporter makes an ELU, say, times one."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value, node = node.inputs[0], node.inputs[0].producer()
    return value


def _name_ends(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Call inputs and outputs so, with an identity where an output is an input or another output, too."""
    graph, named = model.graph, list[ir.Value]()
    for value, name in zip(graph.inputs, inputs, strict=True):
        value.name = name
        named.append(value)
    for place, (value, name) in enumerate(zip(list(graph.outputs), outputs, strict=True)):
        if value in named or value.is_initializer():
            same = ir.node("Identity", [value])
            graph.append(same)
            same.outputs[0].type, same.outputs[0].shape = value.type, value.shape
            value = graph.outputs[place] = same.outputs[0]
        value.name = name
        named.append(value)
    common.NameFixPass()(model)


def _quantize_dequantize(x: FLOAT, scale: FLOAT, zero_point: UINT8 | INT8, low: int = -128) -> FLOAT:
    return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point), scale, zero_point)  # type: ignore[return-value]


def _dequantize(x: INT8, scale: FLOAT, zero_point: INT8, axis: int = 0) -> FLOAT:
    return op.DequantizeLinear(x, scale, zero_point, axis=axis)  # type: ignore[return-value]


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _name_nodes(model: ModelProto) -> None:
    """Name the nodes that multiply with a weight after its module, where it is theirs alone; no two names are alike."""
    makers = {output: other for other in model.graph.node for output in other.output}
    layers = [_layer_of(node, makers) for node in model.graph.node]
    taken = {layer for layer in layers if layer is not None and layers.count(layer) == 1}
    for node, layer in zip(model.graph.node, layers, strict=True):
        if layer in taken:
            node.name = layer
            continue
        while node.name in taken:
            node.name += "_"
        taken.add(node.name)


def _layer_of(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> str | None:
    """The path of the module whose weight ``node`` multiplies with."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return None
    weight = node.input[1]
    while weight in makers and makers[weight].op_type in ("DequantizeLinear", "Transpose"):
        weight = makers[weight].input[0]
    return weight.removesuffix(".weight") if weight.endswith(".weight") else None


def _pack(model: ModelProto, name: str) -> None:
    """Store the integers ``name`` in four bits; a runtime unpacks them once, while it loads."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    tensor = initializers[name]
    values = numpy_helper.to_array(tensor)
    halves = np.append(values.ravel() & 15, np.zeros(values.size % 2, np.int8)).astype(np.uint8)
    packed = halves[0::2] | halves[1::2] << 4  # as raw bytes: as numbers, those above 127 would take two each
    kind = onnx.TensorProto.INT4
    tensor.CopyFrom(helper.make_tensor(f"{name}.packed", kind, values.shape, packed.tobytes(), raw=True))
    unpack = helper.make_node("Cast", [f"{name}.packed"], [name], f"{name}.unpack", to=onnx.TensorProto.INT8)
    model.graph.node.insert(0, unpack)


def _clean(model: ModelProto) -> None:
    """Drop what the exporter notes for its own use, empty notes too: it would be half of a small file."""
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        node.ClearField("metadata_props")
    for part in (model, graph, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    _shorten(graph)


def _shorten(graph: onnx.GraphProto) -> None:
    """Number the single numbers, which are scales and zero points: their names would be more than they are."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {v.name for v in graph.input}
    numbers = (name for number in itertools.count() if (name := f"c{number}") not in taken)
    short = {tensor.name: next(numbers) for tensor in graph.initializer if not tensor.dims}
    for tensor in graph.initializer:
        tensor.name = short.get(tensor.name, tensor.name)
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in short:
                node.input[place] = short[name]


def check(model: ModelProto, specs: Mapping[str, TensorSpec]) -> None:
    """Raise ``FidelityError`` unless the file's integers, scales and zero points are exactly those of ``specs``."""
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    width: dict[int, tuple[int, bool]] = {  # bits, and whether signed
        onnx.TensorProto.INT4: (4, True),
        onnx.TensorProto.INT8: (8, True),
        onnx.TensorProto.UINT8: (8, False),
    }
    grids: set[tuple] = set()
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            zero = arrays.get(node.input[2]) if len(node.input) > 2 else None
            source = next((t for n in (node.input[0], f"{node.input[0]}.packed") if (t := arrays.get(n))), zero)
            if source is not None and source.data_type in width:
                scale = numpy_helper.to_array(arrays[node.input[1]]).astype(np.float32).ravel()
                points = numpy_helper.to_array(zero).ravel() if zero is not None else np.zeros(len(scale), int)
                name = node.input[0] if source is not zero else None
                grids.add((name, *width[source.data_type], tuple(scale.tolist()), tuple(int(p) for p in points)))
    for name, spec in specs.items():
        key = (name if spec.axis is not None else None, spec.bits, spec.low < 0, spec.scale, spec.zero_point)
        if key not in grids:
            raise FidelityError(f"{name} is not quantized in the file as specified", FidelityError.INSTEAD)
