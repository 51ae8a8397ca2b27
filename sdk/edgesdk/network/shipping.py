"""A flat module as parts that reach another process whole: PyTorch's own pickle traces anew, and renames its nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate

HOLDS = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set")


@dataclass(frozen=True)
class _Read:
    """The node of that number, where another reads it."""

    number: int


@dataclass(frozen=True)
class _Operator:
    """An operator of PyTorch's, by its name: ``aten::add`` and ``Tensor``, ``aten::add`` alone for all of its forms."""

    name: str
    form: str | None

    def find(self) -> Any:
        space, _, name = self.name.partition("::")
        found = getattr(getattr(torch.ops, space), name)
        return found if self.form is None else getattr(found, self.form)


@dataclass(frozen=True)
class Parts:
    """The ``nodes`` of a module, in order, as (kind, name, target, arguments, keyword arguments, what is noted of it),
    what they call and read, and what is noted of it all."""

    nodes: tuple[tuple[str, str, Any, Any, Any, dict[str, Any]], ...]
    root: nn.Module
    meta: dict[str, Any]

    @classmethod
    def of(cls, module: fx.GraphModule) -> Parts:
        numbers = {node: number for number, node in enumerate(module.graph.nodes)}

        def sent(leaf: Any) -> Any:
            return _Read(numbers[leaf]) if isinstance(leaf, fx.Node) else _sent(leaf)

        nodes = tuple(
            (node.op, node.name, _sent(node.target), map_aggregate(node.args, sent), map_aggregate(node.kwargs, sent),
             {name: value for name, value in node.meta.items() if _is_plain(value)})
            for node in module.graph.nodes
        )  # fmt: skip
        root = nn.Module()
        for kind in HOLDS:
            setattr(root, kind, getattr(module, kind))
        root.training = module.training
        return cls(nodes, root, dict(module.meta))  # type: ignore[arg-type]

    def join(self) -> fx.GraphModule:
        """The module that they are of."""
        graph, made = fx.Graph(), list[fx.Node]()
        for kind, name, target, args, kwargs, meta in self.nodes:
            given = [
                map_aggregate(part, lambda leaf: made[leaf.number] if isinstance(leaf, _Read) else _found(leaf))
                for part in (args, kwargs)
            ]
            node = graph.create_node(kind, _found(target), *given, name=name)  # type: ignore[arg-type]
            node.name = name
            node.meta = dict(meta)
            made.append(node)
        module = fx.GraphModule(self.root, graph)
        for kind in HOLDS:  # in the order that they had, which that of the weights follows
            setattr(module, kind, getattr(self.root, kind))
        module.meta = dict(self.meta)
        return module


def _sent(value: Any) -> Any:
    if isinstance(value, torch._ops.OpOverload):
        return _Operator(value._schema.name, value._overloadname)
    return _Operator(value._qualified_op_name, None) if isinstance(value, torch._ops.OpOverloadPacket) else value


def _found(value: Any) -> Any:
    return value.find() if isinstance(value, _Operator) else value


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, tuple, list))
