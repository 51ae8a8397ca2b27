"""Products with a matrix of parameters as linear layers, however spelled: ``x @ w``, ``x @ w + b``, ``addmm``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

aten: Any = torch.ops.aten
TURNS = (aten.t.default, aten.numpy_T.default, aten.matrix_H.default, aten.mT.default)


def make_linear(graph: fx.Graph, parameters: Collection[fx.Node]) -> None:
    """Let products of what is computed with a matrix of ``parameters``, or computed of such alone, be linear layers.

    A row of parameters that is added to one is its bias. A matrix that the user holds as a buffer is not to be learnt,
    as one of a transform, and stays what it is. ``graph`` is changed.
    """
    constant = set(parameters)
    turned: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op == "call_function" and node.all_input_nodes and constant.issuperset(node.all_input_nodes):
            constant.add(node)
        elif node.target in (aten.matmul.default, aten.mm.default):
            x, weight = node.args
            if weight in constant and _multiplies(weight) and len(_shape(weight)) == 2 <= len(_shape(x)):
                _turn(node, turned, x, weight)
        elif node.target is aten.addmm.default and len(node.args) == 3 and not node.kwargs:
            bias, x, weight = node.args
            if weight in constant and _multiplies(weight) and _shape(bias) == _shape(weight)[1:]:
                _turn(node, turned, x, weight, bias)
        elif node.target is aten.add.Tensor and len(node.args) == 2 and not node.kwargs:
            product, bias = node.args if node.args[1] in constant else node.args[::-1]
            if _lacks_bias(product) and bias in constant and _shape(bias) == _shape(product)[-1:]:
                node.target, node.args = aten.linear.default, (*product.args, bias)
                graph.erase_node(product)


def _multiplies(weight: fx.Node) -> bool:
    """Whether ``weight`` is read for nothing but to be multiplied with from the right, or to be turned for that."""
    places = {aten.matmul.default: 1, aten.mm.default: 1, aten.addmm.default: 2, aten.t.default: 0}
    return all(
        [place for place, given in enumerate(user.args) if given is weight] == [places.get(user.target)]
        for user in weight.users
    )


def _lacks_bias(product: Any) -> bool:
    """Whether ``product`` is a linear layer without a bias that nothing else reads."""
    linear = isinstance(product, fx.Node) and product.target is aten.linear.default and len(product.users) == 1
    return linear and len(product.args) == 2 and not product.kwargs


def _turn(node: fx.Node, turned: dict[fx.Node, fx.Node], x: fx.Node, weight: fx.Node, *bias: fx.Node) -> None:
    """Let ``node`` be a linear layer, whose weight lies the other way round: as ``turned`` before, or anew."""
    if weight.target in TURNS and len(weight.args) == 1 and _shape(weight.args[0]) == _shape(weight)[::-1]:
        turned[weight] = weight.args[0]  # type: ignore[assignment]
    if weight not in turned:
        with node.graph.inserting_before(node):
            turned[weight] = node.graph.call_function(aten.t.default, (weight,))
        turned[weight].meta = {"val": weight.meta["val"].t()}
    node.target, node.args = aten.linear.default, (x, turned[weight], *bias)
    if not weight.users:
        node.graph.erase_node(weight)


def _shape(node: Any) -> tuple[Any, ...]:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()
