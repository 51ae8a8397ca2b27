"""A model as a flat graph of modules: what ``torch.export`` sees, with the weighted operators made modules again."""

from __future__ import annotations

import contextlib
import inspect
import io
import keyword
import logging
import operator
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import InputKind
from torch.fx.node import map_arg

from edgesdk.core.errors import ModelError
from edgesdk.core.wording import listed
from edgesdk.network.blame import blamed_on_weights, check_widths
from edgesdk.network.computed_weights import Held, fold_computed
from edgesdk.network.equivalents import Equivalents, free_lengths
from edgesdk.network.functionalize import functionalized
from edgesdk.network.in_turn import in_turn
from edgesdk.network.network import Batch, answer, rebatch, tensors
from edgesdk.network.own_values import OwnValues
from edgesdk.network.parametrize import folded
from edgesdk.network.products import make_linear
from edgesdk.network.returned import make_known, returned
from edgesdk.network.shared import SHARES
from edgesdk.network.spelled import spelled
from edgesdk.network.untraceable import check_traceable, explain_untraceable
from edgesdk.network.writes import written

aten: Any = torch.ops.aten
RENAMED = "renamed"  # where in a module's ``meta`` stands what tensors are called whose own names no code can write
CONVOLUTIONS: dict[Any, type[nn.Module]] = {aten.conv1d: nn.Conv1d, aten.conv2d: nn.Conv2d, aten.conv3d: nn.Conv3d}
TRANSPOSED: dict[Any, type[nn.Module]] = {
    aten.conv_transpose1d: nn.ConvTranspose1d, aten.conv_transpose2d: nn.ConvTranspose2d,
    aten.conv_transpose3d: nn.ConvTranspose3d,
}  # fmt: skip
PRODUCTS = (aten.linear, *CONVOLUTIONS, *TRANSPOSED)
ALIKE = ("running_mean", "running_var", "groups", "normalized_shape", "training")  # in calls that share their weights
NORMS: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
CASTS = (aten.type_as.default, aten.to.dtype, aten._to_copy.default)
NEUTRAL = {aten.add.Tensor: 0, aten.sub.Tensor: 0, aten.mul.Tensor: 1, aten.div.Tensor: 1}
"""By which number operators return what they are given: RepVGG adds 0 where it has no branch, as ``sum`` does first."""
HALVES = (torch.float16, torch.bfloat16)


@in_turn()
def exported(model: nn.Module, x: Batch, free_batch: bool = True) -> ExportedProgram:
    """``model`` through ``torch.export``, by default with a free batch size, which takes twice as long.

    What is traced is a copy in evaluation mode, its parametrizations folded, its writes functionalized. Raises
    ``ModelError`` naming what cannot be traced.
    """
    two = rebatch(x, lambda t: torch.cat([t[:1], t[:1]]) if free_batch else t.clone())
    three = rebatch(x, lambda t: t[[0, 0, 0]] if free_batch else t.clone())
    args = tuple(tensors(two)) if not isinstance(two, dict) else ()
    kwargs = two if isinstance(two, dict) else {}
    free = ShapesCollection()
    for given in (*args, *kwargs.values()):
        free[given] = {0: Dim.DYNAMIC}
    check_traceable(model)
    check_widths(model, two)
    plain = folded(model)
    if isinstance(plain, fx.GraphModule):
        _order_inputs(plain, kwargs)
    quiet = logging.getLogger("torch").level
    logging.getLogger("torch").setLevel(logging.CRITICAL)

    def follow() -> ExportedProgram:
        shapes: Any = free if free_batch else None
        with free_lengths(plain), OwnValues(plain), Equivalents():
            return torch.export.export(plain, args, kwargs, dynamic_shapes=shapes)

    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            try:
                # of another number of samples, which a module may remember and ask for when it is traced
                make_known(answer(plain, three))
                _name_inputs(plain, kwargs)
                return functionalized(follow())
            except ModelError:
                raise
            except Exception as error:  # torch.export raises many kinds, and models raise their own
                raise blamed_on_weights(plain, two) or explain_untraceable(error, follow) from None
    finally:
        logging.getLogger("torch").setLevel(quiet)


def _order_inputs(model: fx.GraphModule, names: Iterable[str]) -> None:
    """Let ``model`` take the inputs ``names`` in this order: ``torch.export`` gives a graph what it takes by places."""
    inputs = {str(node.target): node for node in model.graph.nodes if node.op == "placeholder"}
    first = next(node for node in model.graph.nodes if node.op != "placeholder")
    for name in names:
        if name in inputs:
            first.prepend(inputs[name])
    model.recompile()


def _name_inputs(model: nn.Module, names: Iterable[str]) -> None:
    """Let forward() of ``model`` have the inputs ``names`` where it takes them as ``**``, whose axes cannot be free."""
    forward = model.forward
    parameters = inspect.signature(forward).parameters
    if set(names) <= set(parameters) or all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
        return

    if reserved := [name for name in names if not name.isidentifier() or keyword.iskeyword(name)]:
        raise ModelError(f"the inputs {listed(reserved)} have names that Python cannot write", "call them otherwise")

    def called(**inputs: Tensor) -> Any:
        return forward(**inputs)

    called.__signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    model.forward = called


def modularize(program: ExportedProgram) -> fx.GraphModule:
    """A trainable module of ``program``: weighted operators as ``nn`` modules, all else as ATen calls.

    Convolutions, linear layers, batch and layer norms whose weights are plain parameters become submodules under the
    parameters' own path, and so do those whose weights are computed of parameters alone. A module's name in the graph
    is its path, so that a weight keeps its name; one that is not called ``weight``, or does not lie alone, gives its
    own to the module, whose ``weight`` it is then, but for the ``in_proj_weight`` of an attention: its linear layer is
    ``in_proj``. ``meta`` of a node says where it comes from, ``meta["halves"]`` of the module whether the model
    computes in 16 bits anywhere.
    """
    return _Builder(program).build()


class _Builder:
    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.values: dict[fx.Node, Any] = {}  # nodes of the program to nodes of the graph
        self.state: dict[fx.Node, Held] = {}
        self.before: set[fx.Node] = set()  # nodes of the program that nothing is made of any more
        self.inside: dict[str, list[fx.Node]] = {}  # what is held under each path
        self.normed: set[Any] = set()  # BatchNorms that return their statistics, too
        self.taken: set[str] = set()  # all paths of parameters and what they lie in
        self.idle: list[fx.Node] = []  # calls that return what they are given
        # by weight, its first call: the path, the bias and the module
        self.first: dict[fx.Node, tuple[str, fx.Node | None, nn.Module]] = {}

    def build(self) -> fx.GraphModule:
        constants = {**self.program.state_dict, **self.program.constants}
        module = fx.GraphModule(nn.Module(), fx.Graph())
        renamed: dict[str, str] = {}
        taken = self.taken = set[str]().union(*map(_prefixes, constants))
        called = {f"{kind}_{path.replace('.', '_')}" for path in constants for kind in "pbc"}  # by the exporter
        for spec in self.program.graph_signature.input_specs:
            if spec.kind != InputKind.USER_INPUT and spec.target is not None:
                node = next(n for n in self.program.graph.nodes if n.name == spec.arg.name)
                value = constants[spec.target]
                if isinstance(value, Tensor):
                    path = _free(module, spec.target, taken, called)
                    if path != spec.target:
                        renamed[spec.target] = path
                    self.state[node] = Held(path, value.detach().clone(), spec.kind == InputKind.PARAMETER)
                else:
                    fact = f"forward() uses an object of type {type(value).__name__}, which no file holds"
                    raise ModelError(fact, "let it compute with tensors alone; make constants in __init__, as buffers")
        make_linear(self.program.graph, [node for node, held in self.state.items() if held.trainable])
        folded, self.before = fold_computed(self.program.graph, self.state)
        self.state |= folded
        for node, held in self.state.items():
            for owner in _prefixes(held.path) if node not in self.before else ():
                self.inside.setdefault(owner, []).append(node)
        for node in self.program.graph.nodes:
            if node in self.state or node in self.before:
                continue
            if node.op == "output":
                self.graph.output(tuple(self.convert(value) for value in returned(self.program)))
            elif (module := self.module_of(node)) is not None:
                path, built, inputs = module
                self.root_add(path, built)
                self.values[node] = self.graph.create_node("call_module", path, inputs, {}, node.name)
            else:
                self.values[node] = self.plain(node)
                if _is_idle(node):
                    self.idle.append(self.values[node])
            if isinstance(made := self.values.get(node), fx.Node):
                made.meta = _origin(node) | made.meta  # of a read that is the value that was written, the write's
        for node in self.idle:
            node.replace_all_uses_with(node.all_input_nodes[0])
        self.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output"))
        self.graph.lint()
        module = fx.GraphModule(self.root, self.graph)
        values = [node.meta.get("val") for node in self.program.graph.nodes]
        module.meta[RENAMED] = renamed
        module.meta["halves"] = any(isinstance(v, Tensor) and v.dtype in HALVES for v in values)
        return module

    def plain(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            raise _holding(node)
        if node.target is operator.getitem and node.args[0] in self.normed:
            return self.values[node.args[0]]  # type: ignore[index]
        if node.target is aten.view.default:
            return self.reshape(node)
        args = tuple(self.convert(argument) for argument in node.args)
        if (value := written(self.graph, node, args, self.constant)) is not None:
            return value
        if (value := spelled(self.graph, node, args, _origin(node))) is not None:
            return value
        kwargs = {name: self.convert(argument) for name, argument in node.kwargs.items()}
        return self.graph.create_node(node.op, node.target, args, kwargs, node.name)

    def constant(self, value: Tensor) -> fx.Node:
        """A tensor of the graph's own."""
        name = f"constant_{len(list(self.root.buffers(recurse=False)))}"
        self.root.register_buffer(name, value)
        return self.graph.get_attr(name)

    def reshape(self, node: fx.Node) -> fx.Node:
        """A view as an operator that holds whatever the strides are; where it flattens samples, as no stated size."""
        source, sizes = node.args
        before, after = (value.meta["val"].shape for value in (source, node))  # type: ignore[union-attr]
        if len(after) == 2 < len(before) and str(before[0]) == str(after[0]):
            return self.graph.create_node(
                "call_function", aten.flatten.using_ints, (self.convert(source), 1), {}, node.name
            )
        return self.graph.create_node(
            "call_function", aten.reshape.default, (self.convert(source), self.convert(sizes)), {}, node.name
        )

    def convert(self, argument: Any) -> Any:
        """An argument of the program as one of the graph; weights become attributes where they are first used."""
        return map_arg(argument, self.value)

    def value(self, node: fx.Node) -> Any:
        if node not in self.values and node in self.state:
            held = self.state[node]
            owner, _, leaf = held.path.rpartition(".")
            holder = self.holder(owner)
            if not hasattr(holder, leaf):
                if held.trainable:
                    holder.register_parameter(leaf, nn.Parameter(held.value))
                else:
                    holder.register_buffer(leaf, held.value)
            self.values[node] = self.graph.get_attr(held.path)
        return self.values[node]

    def holder(self, path: str) -> nn.Module:
        module = self.root
        for part in filter(None, path.split(".")):
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        return module

    def root_add(self, path: str, module: nn.Module) -> None:
        parent, _, leaf = path.rpartition(".")
        self.holder(parent).add_module(leaf, module)

    def module_of(self, node: fx.Node) -> tuple[str, nn.Module, tuple[Any, ...]] | None:
        """The module that ``node`` is a call of, with its path and inputs; ``None`` where it stays a plain call."""
        if node.op != "call_function" or not hasattr(node.target, "overloadpacket"):
            return None
        packet = node.target.overloadpacket  # type: ignore[union-attr]
        bound = arguments(node)
        weight = bound.get("weight")
        if weight not in self.state or not self.all_alike(weight, packet):
            return None
        if self.state[weight].value.is_complex():  # no layer has such weights
            return None
        path = self.path_of(weight, node)
        bias = bound.get("bias")
        if bias is not None and bias not in self.state:
            return None
        w, b = self.state[weight].value, None if bias is None else self.state[bias].value
        if packet in CONVOLUTIONS:
            module: nn.Module = CONVOLUTIONS[packet](
                w.shape[1] * bound["groups"],
                w.shape[0],
                tuple(w.shape[2:]),
                each(bound["stride"], w.dim() - 2),
                bound["padding"] if isinstance(bound["padding"], str) else each(bound["padding"], w.dim() - 2),
                each(bound["dilation"], w.dim() - 2),
                bound["groups"],
                b is not None,
            )
        elif packet in TRANSPOSED:
            window = (each(bound[name], w.dim() - 2) for name in ("stride", "padding", "output_padding"))
            module = TRANSPOSED[packet](
                w.shape[0], w.shape[1] * bound["groups"], tuple(w.shape[2:]), *window, bound["groups"], b is not None,
                each(bound["dilation"], w.dim() - 2),
            )  # fmt: skip
        elif packet is aten.linear:
            module = nn.Linear(w.shape[1], w.shape[0], b is not None)
        elif packet is aten.batch_norm and not bound["training"]:
            module = self.batch_norm(node, bound)
        elif packet is aten._native_batch_norm_legit_no_training:
            module = self.batch_norm(node, bound)
            self.normed.add(node)
        elif packet is aten.layer_norm:
            module = nn.LayerNorm(list(bound["normalized_shape"]), bound["eps"], bias=b is not None)
        else:
            return None
        with torch.no_grad():
            module.weight.copy_(w)  # type: ignore[operator,union-attr]
            if b is not None:
                module.bias.copy_(b)  # type: ignore[operator,union-attr]
        if len(weight.users) > 1:
            path = self.share(weight, bias, path, module)
        return path, module.eval(), (self.convert(node.args[0]),)

    def all_alike(self, weight: fx.Node, packet: Any) -> bool:
        """Whether whoever reads ``weight`` is a call of the same operator, of norms with the same statistics."""
        names = ALIKE if packet in PRODUCTS else (*ALIKE, "bias")

        def read(node: fx.Node) -> list[Any]:
            given = arguments(node)
            return [getattr(node.target, "overloadpacket", None), given.get("weight"), *map(given.get, names)]

        first, *others = [read(user) for user in weight.users]
        return not others or (first[:2] == [packet, weight] and all(other == first for other in others))

    def share(self, weight: fx.Node, bias: fx.Node | None, path: str, module: nn.Module) -> str:
        """Let ``module`` have in common with those that other calls with ``weight`` are what they hold, the bias where
        it is the same one; its path."""
        if weight not in self.first:
            self.first[weight] = path, bias, module
            module.__dict__[SHARES] = path
            return path
        path, its, first = self.first[weight]
        held = {name: value for name, value in first._parameters.items() if name != "bias" or its is bias}
        module._parameters.update(held)
        module._buffers.update(first._buffers)
        module.__dict__[SHARES] = path
        number = 2
        while f"{path}_call_{number}" in self.taken:
            number += 1
        self.taken.add(f"{path}_call_{number}")
        return f"{path}_call_{number}"

    def path_of(self, weight: fx.Node, node: fx.Node) -> str:
        """The path of the module that ``node`` is a call of: what ``weight`` lies in, or its own name where it has one,
        or others lie beside it, which the module would take with it when something else comes in its place."""
        path = self.state[weight].path
        owner, _, leaf = path.rpartition(".")
        if leaf == "in_proj_weight":  # of queries, keys and values together, as nn.MultiheadAttention holds it
            return f"{owner}.in_proj".removeprefix(".")
        alone = owner and leaf == "weight" and not any(set(n.users) - set(weight.users) for n in self.inside[owner])
        return owner if alone else path

    def batch_norm(self, node: fx.Node, bound: dict[str, Any]) -> nn.Module:
        mean, variance = (self.state[bound[name]].value for name in ("running_mean", "running_var"))
        dimensions = node.args[0].meta["val"].dim()  # type: ignore[union-attr]
        module = NORMS[dimensions](len(mean), bound["eps"], bound["momentum"])
        with torch.no_grad():
            module.running_mean.copy_(mean)  # type: ignore[union-attr]
            module.running_var.copy_(variance)  # type: ignore[union-attr]
        return module


def _is_idle(node: fx.Node) -> bool:
    """Whether a node returns the very values that it is given: it takes all of an axis, lays them out in order, adds
    nothing, or asks for another width of floats, which all have the same one here."""
    if node.target is aten.detach.default:
        return True
    if (neutral := NEUTRAL.get(node.target)) is not None:
        source, other = node.args
        if isinstance(other, (fx.Node, bool)) or other != neutral:
            return False
        return node.meta["val"].dtype == source.meta["val"].dtype  # type: ignore[union-attr]
    if node.target in CASTS and not node.kwargs:
        return all(value.meta["val"].is_floating_point() for value in (node, node.args[0]))  # type: ignore[union-attr]
    if node.target not in (aten.slice.Tensor, aten.contiguous.default) or arguments(node).get("step", 1) != 1:
        return False
    before, after = (value.meta["val"].shape for value in (node.all_input_nodes[0], node))
    return [str(size) for size in before] == [str(size) for size in after]


def _holding(node: fx.Node) -> ModelError:
    """What a user is told of an operator that takes the sub-graph ``node``."""
    user = next(iter(node.users), node)
    line = _origin(user)["line"]
    fact = f"{user.target} runs functions of its own, which no file holds" + (f" ({line})" if line else "")
    return ModelError(fact, "compute all that they may compute and choose with torch.where, or write their steps out")


def _free(module: nn.Module, path: str, taken: set[str], called: set[str]) -> str:
    """``path`` as the graph's code can write it, no part of it like another of those ``taken``.

    A part is changed that is a word of Python (a ``ModuleDict`` may have ``in``), and the first where ``module`` has
    that for itself, as a graph module has ``graph``, or another tensor is ``called`` so.
    """
    words: list[str] = []
    parts = path.split(".")
    for depth, part in enumerate(parts):
        name = part
        while (
            keyword.iskeyword(name)
            or (not depth and (hasattr(module, name) or name in called))
            or (name != part and ".".join([*parts[:depth], name]) in taken)
        ):
            name += "_"
        words.append(name)
    return ".".join(words)


def _prefixes(path: str) -> set[str]:
    """``path`` and all that it lies in."""
    parts = path.split(".")
    return {".".join(parts[: end + 1]) for end in range(len(parts))}


def _origin(node: fx.Node) -> dict[str, Any]:
    """Where in the user's model a node comes from: the paths of the modules around it, and the line."""
    paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if "File " in line]
    read = [line.removeprefix("File ").split(", ") for line in lines if "site-packages/torch" not in line]
    own = [line for line in read if not line[0].startswith('"<')]  # code that PyTorch made of theirs
    line = f"{own[-1][0].strip(chr(34)).rpartition('/')[2]}, {own[-1][1]}" if own else ""
    return {"paths": paths, "line": line}


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an ATen call by name, defaults filled in."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    values = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    values.update({argument.name: value for argument, value in zip(schema, node.args, strict=False)})
    return {**values, **node.kwargs}


def each(value: Any, count: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values * count if len(values) == 1 else values


def is_relu(node: fx.Node) -> bool:
    return node.target is aten.relu.default


def is_relu6(node: fx.Node) -> bool:
    if node.target is aten.relu6.default:
        return True
    if node.target not in (aten.hardtanh.default, aten.clamp.default):
        return False
    bound = arguments(node)
    return (bound.get("min_val", bound.get("min")), bound.get("max_val", bound.get("max"))) == (0, 6)
