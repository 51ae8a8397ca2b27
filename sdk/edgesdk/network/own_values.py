"""What ``forward()`` asks of the values of its own parameters and buffers, answered while it is traced.

``self.scale.item()``, ``if self.ready:`` and ``range(int(self.steps))`` are the same whatever the input is. PyTorch
traces parameters without their values, and takes such a question for one of the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot
from torch.fx.node import map_arg
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

Members: Any = Tensor
ASKING = (
    Members.item, Members.tolist, Members.__bool__, Members.__int__, Members.__float__, Members.__index__,
    Members.equal, Members.allclose, torch.is_nonzero, torch.equal, torch.allclose,
)  # fmt: skip
COUNTING = (torch.full, torch.arange, torch.linspace)  # which ask a tensor for its number without calling these


class OwnValues(TorchFunctionMode):
    """Within it the values of what ``model`` computes of its own parameters and buffers alone are known to be what they
    are now. What follows from an input, from random numbers, or from what ``forward()`` writes is left to PyTorch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.values: dict[str, Tensor] = _tensors(model)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in ASKING:
            known = [self.known(value) if isinstance(value, Tensor) else value for value in args]
            if not any(value is None for value in known):
                with _disable_current_modes():
                    return func(*known, **kwargs)
        elif func in COUNTING:
            args = [self.number(value) for value in args]
            kwargs = {name: self.number(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)

    def number(self, value: Any) -> Any:
        """``value``, a number where it is a tensor of one that is known."""
        known = self.known(value) if isinstance(value, Tensor) and not value.dim() else None
        return value if known is None else known.item()

    def known(self, value: Tensor) -> Tensor | None:
        """The values of ``value``; ``None`` where they are not known before there is an input."""
        mode = get_proxy_mode()
        node = None if mode is None else _node_of(value, mode.tracer)
        if node is None:
            return None
        tracer: Any = mode.tracer  # type: ignore[union-attr]
        sources = {}
        for name, own in _tensors(self.model).items():
            place = _node_of(own, tracer)
            if place is not None and name in self.values:
                sources[place] = self.values[name]
        for part in node.graph.nodes:
            held = getattr(tracer.root, str(part.target), None) if part.op == "get_attr" else None
            if isinstance(held, Tensor) and not isinstance(held, FakeTensor):  # a plain attribute, or torch.tensor(...)
                sources[part] = held
        cone = _cone(node, sources)
        if cone is None or _written(node.graph, {n for n in cone if n in sources}):
            return None
        with _disable_current_modes(), torch.no_grad():
            return _computed([n for n in node.graph.nodes if n in cone], sources)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return parameters | dict(model.named_buffers(remove_duplicate=False))


def _node_of(value: Tensor, tracer: Any) -> fx.Node | None:
    slot = get_proxy_slot(value, tracer, None)
    return None if slot is None else slot.proxy.node


def _cone(node: fx.Node, sources: Mapping[fx.Node, Tensor]) -> set[fx.Node] | None:
    """All that ``node`` is computed of, where that is ``sources`` alone."""
    cone: set[fx.Node] = set()
    todo = [node]
    while todo:
        part = todo.pop()
        if part in cone:
            continue
        cone.add(part)
        if part in sources:
            continue
        if part.op != "call_function" or torch.Tag.nondeterministic_seeded in getattr(part.target, "tags", ()):
            return None
        todo += part.all_input_nodes
    return cone


def _written(graph: fx.Graph, sources: set[fx.Node]) -> bool:
    """Whether anything is written so far to what is computed of ``sources``, which may be a view of them."""
    reached = set(sources)
    for node in graph.nodes:
        if reached.isdisjoint(node.all_input_nodes):
            continue
        reached.add(node)
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable and node.target is not torch.ops.aten.detach_.default:
            return True
    return False


def _computed(nodes: list[fx.Node], sources: Mapping[fx.Node, Tensor]) -> Tensor:
    """The value of the last of ``nodes``, which are in the order in which they are computed."""
    values: dict[fx.Node, Any] = {}
    for node in nodes:
        if node in sources:
            values[node] = sources[node].detach()
            continue
        args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
        values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return values[nodes[-1]]
