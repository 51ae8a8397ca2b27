"""The nodes of an ONNX graph as calls of PyTorch, one after the other; arithmetic on shapes is done beforehand.

What a node makes is known for any batch (a constant), counts samples (sizes that grow with the batch), or is a tensor
that a call makes. The shape of each tensor is found with a batch of one and with a batch of two: where the two differ
lie the samples, and that is how a file that was written for a batch of one takes any.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from onnx import GraphProto, NodeProto, ValueInfoProto, helper, numpy_helper
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import map_aggregate, map_arg
from torch.fx.proxy import GraphAppendingTracer

from edgesdk.core.errors import EdgeSdkError, ModelError
from edgesdk.core.wording import said
from edgesdk.network.onnx_module.names import Paths, identifiers
from edgesdk.network.onnx_module.runtime import run_alone

BATCHES = (1, 2)
MOST = 2**26  # elements of a constant that others make: more would be all memory, for a few bytes in a file
LARGEST = 2**31  # elements of what is made of one sample
SIZED = ("ConstantOfShape", "Expand", "Tile", "Range")  # by the numbers in what they read
MOVED = ("Shape", "Size")  # known whatever the values of what they read
COUNTED = 64  # elements at most that count samples: they are sizes and places, not tensors


@dataclass(frozen=True)
class Counted:
    """Whole numbers that grow with the batch: what they are for one sample, and what each further one adds."""

    first: np.ndarray
    step: np.ndarray

    def at(self, batch: int) -> np.ndarray:
        """The numbers for so many samples."""
        return np.asarray(self.first + self.step * (batch - 1), self.first.dtype)


class Translation:
    """A ``torch.fx`` graph and the modules that it calls, grown node by node.

    ``free`` says that the file is for any batch by itself, so that what it leaves open is right for any.
    """

    def __init__(self, graph: GraphProto, opsets: Mapping[str, int], where: str, free: bool) -> None:
        self.opsets: Mapping[str, int] = opsets
        self.free: bool = free
        self.where: str = where
        self.root: nn.Module = nn.Module()
        self.graph: fx.Graph = fx.Graph()
        self.tracer: GraphAppendingTracer = GraphAppendingTracer(self.graph)
        self.constants: dict[str, np.ndarray] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.trained: set[str] = {n for n, a in self.constants.items() if a.dtype == np.float32 and a.size > 1}
        self.counted: dict[str, Counted] = {}
        self.nodes: dict[str, fx.Node] = {}  # by the names of the file's tensors
        self.held: dict[str, str] = {}  # constants that are attributes of the root, by the file's names
        self.modules: dict[Any, str] = {}  # paths of modules, by what they are made of
        self.matrices: dict[tuple[str, tuple[int, ...]], nn.Parameter] = {}  # by the file's names and their shapes
        self.readers: Counter[str] = Counter(name for node in graph.node for name in node.input)
        self.readers.update(value.name for value in graph.output)
        self.shapes: dict[fx.Node, tuple[Any, Any]] = {}  # what each call makes of a batch of one and of two
        self.modes: tuple[FakeTensorMode, ...] = tuple(FakeTensorMode(allow_non_fake_inputs=True) for _ in BATCHES)
        self.paths: Paths = Paths()
        weights = {t.name for t in graph.initializer}
        self.inputs: list[ValueInfoProto] = [value for value in graph.input if value.name not in weights]
        for value, name in zip(self.inputs, identifiers(v.name for v in self.inputs), strict=True):
            self._add_input(value, name)
        self.batch: Any = self.proxy(self.nodes[self.inputs[0].name]).size(0)
        self._run_new()

    def _add_input(self, value: Any, name: str) -> None:
        kind = value.type.tensor_type
        dtype = torch.from_numpy(np.zeros(0, helper.tensor_dtype_to_np_dtype(kind.elem_type))).dtype
        dims = [d.dim_value for d in kind.shape.dim]
        if not dims:
            fact = f"the input {value.name} of {self.where} has no axis of samples"
            raise ModelError(fact, "export it with every input batched along its first axis")
        node = self.graph.placeholder(name)
        made = []
        for mode, batch in zip(self.modes, BATCHES, strict=True):
            with mode:
                made.append(torch.empty(batch, *dims[1:], dtype=dtype))
        self.nodes[value.name], self.shapes[node] = node, (made[0], made[1])

    def add(self, node: NodeProto, translate: Any) -> None:
        """Translate one node; ``translate`` is a function of a :class:`Call` that returns what the outputs are."""
        call = Call(self, node)
        try:
            if self._fold(node):
                return
            if translate is None:
                raise call.refusal("has no translation to PyTorch")
            made = translate(call)
            self._run_new()
            self._check_size(call)
        except EdgeSdkError:
            raise
        except Exception as error:  # each operator fails in its own way on what it does not expect
            raise call.refusal(f"cannot be translated as it is ({said(error)})") from error
        outputs = [name for name in node.output if name]
        values = list(made) if isinstance(made, (tuple, list)) else [made]
        for name, value in zip(outputs, values, strict=False):
            if isinstance(value, np.ndarray):
                self.constants[name] = value
            else:
                self.nodes[name] = value.node

    def _check_size(self, call: Call) -> None:
        """Raise ``ModelError`` where the newest call makes of one sample what no memory holds."""
        made = self.shapes.get(next(iter(reversed(self.graph.nodes))))
        if made is not None and isinstance(made[0], Tensor) and made[0].numel() > LARGEST:
            raise call.refusal(f"makes {' x '.join(map(str, made[0].shape))} numbers of one sample")

    def finish(self, outputs: Iterable[str]) -> fx.GraphModule:
        """The module that returns ``outputs``: one as it is, several as a dict of these names."""
        nodes = {}
        for name in outputs:
            nodes[name] = self.node(name)
            at_one, at_two = (tuple(v.shape) for v in self.shapes[nodes[name]])
            if at_one == at_two:
                fact = f"the output {name} of {self.where} is of shape {at_one} whatever the batch"
                raise ModelError(fact, "export the model with a free batch, as the first axis of each output")
        self.graph.output(next(iter(nodes.values())) if len(nodes) == 1 else nodes)
        for node in reversed(self.graph.nodes):
            if not node.users and node.op not in ("placeholder", "output"):
                self.graph.erase_node(node)
        self.graph.lint()
        for tensor, node in self.nodes.items():
            node.meta.setdefault("tensor", tensor)
        used = {str(node.target) for node in self.graph.nodes if node.op in ("get_attr", "call_module")}
        module = fx.GraphModule(_only(self.root, used), self.graph)
        return module

    def proxy(self, node: fx.Node) -> Any:
        return fx.Proxy(node, self.tracer)

    def made(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """A call of ``function``, none of whose arguments needs to be a tensor."""
        given, named = (map_aggregate(part, _node_of) for part in (args, kwargs))
        call = self.graph.call_function(function, given, named)  # type: ignore[arg-type]
        return self.proxy(call)

    def node(self, name: str) -> fx.Node:
        """The call that makes a tensor of the file; a constant becomes an attribute, sizes a small tensor."""
        if name in self.nodes:
            return self.nodes[name]
        if name in self.constants:
            self.nodes[name] = self.graph.get_attr(self.hold(name))
        elif name in self.counted:
            self.nodes[name] = self._stacked(name).node
        else:
            fact = f"nothing that is translated makes {name} of {self.where}"
            raise ModelError(fact, "export the model without that output of its node")
        self._run_new()
        return self.nodes[name]

    def numbers(self, name: str) -> list[Any]:
        """The whole numbers of a tensor that counts samples, those that grow with the batch as what a call makes."""
        value = self.counted[name]
        pairs = zip(value.first.reshape(-1).tolist(), value.step.reshape(-1).tolist(), strict=True)
        return [_times(self.batch, step, first) for first, step in pairs]

    def _stacked(self, name: str) -> Any:
        """Sizes that grow with the batch as a tensor."""
        value = self.counted[name]
        first, dtype = self.proxy(self.nodes[self.inputs[0].name]), torch.from_numpy(value.first).dtype
        numbers: list[Any] = [first.new_full((), size, dtype=dtype) for size in self.numbers(name)]
        stacked = torch.stack(numbers) if value.first.ndim else numbers[0]
        return stacked.reshape(value.first.shape) if value.first.ndim > 1 else stacked

    def hold(self, name: str) -> str:
        """The path of a constant as an attribute: a parameter where the file trained it, else a buffer."""
        if name not in self.held:
            value, path = torch.from_numpy(np.array(self.constants[name])), self.paths.constant(name)
            holder, leaf = self.paths.holder(self.root, path)
            if name in self.trained:
                holder.register_parameter(leaf, nn.Parameter(value))
            else:
                holder.register_buffer(leaf, value)
            self.held[name] = path
        return self.held[name]

    def _fold(self, node: NodeProto) -> bool:
        """Compute what depends on constants and sizes alone; whether that was so."""
        if node.op_type in MOVED and node.input[0] in self.nodes:
            return self._set_size(node)
        constant = all(not name or name in self.constants or name in self.counted for name in node.input)
        if not constant or "Random" in node.op_type or node.domain not in ("", "ai.onnx"):
            return False
        if not any(name in self.counted for name in node.input):
            self.constants.update(zip(node.output, self._computed(node, 1), strict=False))
            return True
        at_one, at_two = (self._computed(node, batch) for batch in BATCHES)
        if not all(map(_is_counted, at_one, at_two)):
            return False  # as large as the batch, or no numbers: a call makes it
        for name, a, b in zip(node.output, at_one, at_two, strict=False):
            self._set(name, a, b)
        return True

    def _set_size(self, node: NodeProto) -> bool:
        at_one, at_two = (np.array(v.shape, np.int64) for v in self.shapes[self.nodes[node.input[0]]])
        if node.op_type == "Size":
            at_one, at_two = (np.array(v.prod(), np.int64) for v in (at_one, at_two))
        else:
            given = {a.name: a.i for a in node.attribute}
            part = slice(given.get("start", 0), given.get("end", len(at_one)))
            at_one, at_two = at_one[part], at_two[part]
        self._set(node.output[0], at_one, at_two)
        return True

    def _set(self, name: str, at_one: np.ndarray, at_two: np.ndarray) -> None:
        if np.array_equal(at_one, at_two):
            self.constants[name] = at_one
        else:
            self.counted[name] = Counted(at_one, at_two - at_one)

    def _computed(self, node: NodeProto, batch: int) -> list[np.ndarray]:
        given = {n: self.constants[n] if n in self.constants else self.counted[n].at(batch) for n in node.input if n}
        if node.op_type in SIZED and _made(node, given) > MOST:
            raise Call(self, node).refusal("makes a constant that no memory should hold")
        made = [name for name in node.output if name]
        values = dict(zip(made, run_alone(node, given, self.opsets), strict=True))
        return [values.get(name, np.zeros(0)) for name in node.output]

    def _run_new(self) -> None:
        """Find what the calls that were added make of a batch of one and of two, values aside."""
        for node in reversed(list(self._new())):
            values = []
            for turn, mode in enumerate(self.modes):
                at = partial(self._seen, turn)
                args, kwargs = map_arg(node.args, at), map_arg(node.kwargs, at)
                with mode, torch.no_grad():
                    values.append(_called(self.root, node, args, kwargs))
            self.shapes[node] = (values[0], values[1])

    def is_zero(self, node: fx.Node) -> bool:
        """Whether a call is of a constant of zeros alone."""
        return node.op == "get_attr" and not bool(operator.attrgetter(str(node.target))(self.root).any())

    def shapes_of(self, node: fx.Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shape of what a call makes of a batch of one, and of a batch of two."""
        self._run_new()
        at_one, at_two = self.shapes[node]
        return tuple(at_one.shape), tuple(at_two.shape)

    def _seen(self, turn: int, node: fx.Node) -> Any:
        return self.shapes[node][turn]

    def _new(self) -> Iterable[fx.Node]:
        for node in reversed(self.graph.nodes):
            if node in self.shapes:
                return
            yield node


class Call:
    """One node of the file, as the function that translates it sees it."""

    def __init__(self, translation: Translation, node: NodeProto) -> None:
        self.translation: Translation = translation
        self.node: NodeProto = node
        self.attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.opset: int = translation.opsets.get("", 1)

    def refusal(self, why: str) -> ModelError:
        """An error that names the node, its operator and the opset."""
        node, domain = self.node, self.node.domain or "ai.onnx"
        opset = self.translation.opsets.get(node.domain, self.opset)
        named = node.name or next((name for name in node.output if name), "without a name")
        fact = f"the node {named} of {self.translation.where} ({node.op_type}, {domain} opset {opset}) {why}"
        return ModelError(fact, "give the PyTorch module as file.py:callable, or export without that operator")

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute; text as text."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def has(self, index: int) -> bool:
        return index < len(self.node.input) and bool(self.node.input[index])

    def named(self, values: Iterable[Any]) -> list[Any]:
        """``values``, one for each output, without those that the file does not name."""
        return [value for value, name in zip(values, self.node.output, strict=False) if name]

    def __len__(self) -> int:
        return len(self.node.input)

    def tensor(self, index: int = 0) -> Any:
        """An input as what a call makes."""
        return self.translation.proxy(self.translation.node(self.node.input[index]))

    def tensors(self) -> list[Any]:
        return [self.tensor(index) for index in range(len(self))]

    def array(self, index: int) -> np.ndarray | None:
        """An input that is a constant; ``None`` for one that is not, or that is left out."""
        return self.translation.constants.get(self.node.input[index]) if self.has(index) else None

    def constant(self, value: Tensor) -> Any:
        """A tensor of the translation's own."""
        name = f"{next(name for name in self.node.output if name)}.constant"
        while name in self.translation.constants:
            name += "_"
        self.translation.constants[name] = value.numpy()
        return self.translation.proxy(self.translation.node(name))

    def scalar(self, index: int) -> float | int | bool | None:
        """An input that is a single number."""
        value = self.array(index)
        return value.item() if value is not None and value.size == 1 else None

    def setting(self, name: str, index: int, default: Any = None) -> Any:
        """What older opsets have as an attribute and newer ones as an input, which must be a constant."""
        if name in self.attributes:
            return self.get(name)
        if not self.has(index):
            return default
        value = self.array(index)
        if value is None:
            raise self.refusal(f"takes its {name} from what the model computes")
        return value.tolist()

    def sizes(self, index: int) -> list[Any]:
        """Whole numbers in an input; those that grow with the batch as what a call makes."""
        name = self.node.input[index]
        if (value := self.array(index)) is not None:
            return [int(number) for number in value.reshape(-1)]
        if name not in self.translation.counted:
            raise self.refusal("takes a size from what the model computes")
        return self.translation.numbers(name)

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """An input's shape with a batch of one."""
        return self.shapes(index)[0]

    def shapes(self, index: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """An input's shape with a batch of one, and with a batch of two."""
        name = self.node.input[index]
        held = self.translation.counted[name].first if name in self.translation.counted else self.array(index)
        if held is not None:
            return held.shape, held.shape
        at_one, at_two = self.translation.shapes[self.translation.node(name)]
        return tuple(at_one.shape), tuple(at_two.shape)

    def dtype(self, index: int = 0) -> torch.dtype:
        """The type of an input's numbers."""
        return self.translation.shapes[self.translation.node(self.node.input[index])][0].dtype

    def rank(self, index: int = 0) -> int:
        return len(self.shape(index))

    def alone(self, index: int) -> bool:
        """Whether no other node reads an input."""
        return self.translation.readers[self.node.input[index]] == 1

    def maker(self, index: int) -> Any:
        """The call that makes an input; ``None`` for a constant."""
        return self.translation.nodes.get(self.node.input[index])

    def module_of(self, node: fx.Node | None) -> nn.Module | None:
        """The module that ``node`` is a call of."""
        is_module = node is not None and node.op == "call_module"
        return self.translation.root.get_submodule(str(node.target)) if is_module else None  # type: ignore[union-attr]

    def module(self, built: nn.Module, key: tuple[Any, ...], *inputs: Any, weight: str | None = None) -> Any:
        """A call of ``built``, which lies under the name that the file gives its ``weight``, else its node.

        What was built with the same ``key`` is called again instead: then its weights are shared.
        """
        modules = self.translation.modules
        if key not in modules:
            path = self.translation.paths.module(self.node, weight)
            holder, leaf = self.translation.paths.holder(self.translation.root, path)
            holder.add_module(leaf, built.eval())
            modules[key] = path
            self._share(built, weight)
        given = map_aggregate(inputs, _node_of)
        node = self.translation.graph.call_module(modules[key], given)
        return self.translation.proxy(node)

    def _share(self, built: Any, weight: str | None) -> None:
        """Let ``built`` have the matrix of another module that is made of the same ``weight``, where that is as it is
        there: what a file holds once is learnt as one, whatever biases are beside it."""
        own = getattr(built, "weight", None)
        if weight and isinstance(own, nn.Parameter) and own.dim() > 1:
            first = self.translation.matrices.setdefault((weight, tuple(own.shape)), own)
            if first is not own and torch.equal(first, own):
                built.weight = first

    def by_itself(self, node: fx.Node) -> None:
        """Build what later nodes have of the weights of the module that ``node`` is a call of anew: it is changed."""
        modules = self.translation.modules
        self.translation.modules = {key: path for key, path in modules.items() if path != node.target}


def _node_of(value: Any) -> Any:
    return value.node if isinstance(value, fx.Proxy) else value


def _is_counted(at_one: np.ndarray, at_two: np.ndarray) -> bool:
    """Whether what is made for one sample and for two is the same, or whole numbers that differ."""
    if at_one.shape != at_two.shape:
        return False
    return np.array_equal(at_one, at_two) or at_one.size <= COUNTED and at_one.dtype.kind == "i"


def _times(batch: Any, step: int, first: int) -> Any:
    """``first + step * (batch - 1)``."""
    if step == 0:
        return first
    grown = batch if step == 1 else batch * step
    return grown if first == step else grown + (first - step)


def _made(node: NodeProto, given: Mapping[str, np.ndarray]) -> float:
    """How many elements a node makes that is told how many."""
    values = [given[name] for name in node.input if name]
    if node.op_type == "Range":
        start, stop, step = (float(value) for value in values)
        return abs((stop - start) / step) if step else float("inf")
    times = values[0].size if node.op_type == "Tile" else 1
    return float(np.prod(values[-1].astype(np.float64))) * times


def _called(root: nn.Module, node: fx.Node, args: Any, kwargs: Any) -> Any:
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(root)
    if node.op == "call_module":
        return root.get_submodule(str(node.target))(*args)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _only(root: nn.Module, used: set[str]) -> nn.Module:
    """``root`` without what no call uses: what became part of another module."""
    kept = nn.Module()
    for path in sorted(used):
        owner, _, leaf = path.rpartition(".")
        holder = kept
        for part in filter(None, owner.split(".")):
            if not hasattr(holder, part):
                holder.add_module(part, nn.Module())
            holder = getattr(holder, part)
        value: Any = root
        for part in path.split("."):
            value = getattr(value, part)
        if isinstance(value, nn.Module):
            holder.add_module(leaf, value)
        elif isinstance(value, nn.Parameter):
            holder.register_parameter(leaf, value)
        else:
            assert isinstance(value, Tensor)
            holder.register_buffer(leaf, value)
    return kept
