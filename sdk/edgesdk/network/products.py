"""Products with a matrix of parameters as layers, however spelled: ``x @ w``, ``x @ w + b``, ``addmm``, ``w @ x``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

aten: Any = torch.ops.aten
TURNS = (aten.t.default, aten.numpy_T.default, aten.matrix_H.default, aten.mT.default)


def make_linear(graph: fx.Graph, parameters: Collection[fx.Node]) -> None:
    """Let products of what is computed with a matrix of ``parameters``, or computed of such alone, be layers.

    From the right it is a linear layer, from the left of (samples, k, length) a convolution of one place. Parameters
    that are added to one, of an entry for each output, are its bias. A matrix that the user holds as a buffer is not to
    be learnt, as one of a transform, and stays what it is. ``graph`` is changed.
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
            elif x in constant and _multiplies(x, 0) and len(_shape(x)) == 2 and len(_shape(weight)) == 3:
                _stand(node, x, weight)
        elif node.target is aten.addmm.default and len(node.args) == 3 and not node.kwargs:
            bias, x, weight = node.args
            if weight in constant and _multiplies(weight) and _shape(bias) == _shape(weight)[1:]:
                _turn(node, turned, x, weight, bias)
        elif node.target is aten.add.Tensor and len(node.args) == 2 and not node.kwargs:
            product, bias = node.args if node.args[1] in constant else node.args[::-1]
            if not _lacks_bias(product) or bias not in constant:
                continue
            if product.target is aten.linear.default and _shape(bias) == _shape(product)[-1:]:
                _add(node, product, bias)
            elif product.target is aten.conv1d.default and _shape(bias) == (*_shape(product)[1:-1], 1):
                with graph.inserting_before(product):
                    entries = graph.call_function(aten.squeeze.dim, (bias, 1))
                entries.meta = {"val": bias.meta["val"].squeeze(1)}
                _add(node, product, entries)


def _add(node: fx.Node, product: fx.Node, bias: fx.Node) -> None:
    """Let the sum ``node`` be the layer ``product`` with that ``bias``."""
    node.target, node.args = product.target, (*product.args, bias)
    node.graph.erase_node(product)


def _multiplies(weight: fx.Node, side: int = 1) -> bool:
    """Whether ``weight`` is read for nothing but to be multiplied with from the right, or with ``side`` 0 from the
    left, or to be turned for that; complex numbers are no layer's."""
    right = {aten.mm.default: 1, aten.addmm.default: 2, aten.t.default: 0}
    places = {aten.matmul.default: side, **(right if side else {aten.unsqueeze.default: 0})}
    return not weight.meta["val"].is_complex() and all(
        [place for place, given in enumerate(user.args) if given is weight] == [places.get(user.target)]
        for user in weight.users
    )


def _lacks_bias(product: Any) -> bool:
    """Whether ``product`` is a layer made here, or a linear one, without a bias, that nothing else reads."""
    layer = isinstance(product, fx.Node) and product.target in (aten.linear.default, aten.conv1d.default)
    return layer and len(product.users) == 1 and len(product.args) == 2 and not product.kwargs


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


def _stand(node: fx.Node, weight: fx.Node, x: fx.Node) -> None:
    """Let ``node`` be a convolution of one place, whose kernel is ``weight``."""
    with node.graph.inserting_before(node):
        kernel = node.graph.call_function(aten.unsqueeze.default, (weight, 2))
    kernel.meta = {"val": weight.meta["val"].unsqueeze(2)}
    node.target, node.args = aten.conv1d.default, (x, kernel)


def _shape(node: Any) -> tuple[Any, ...]:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()
