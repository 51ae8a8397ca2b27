"""PyTorch's exporter traces every program twice, to take apart what ONNX lacks: here only those that have such."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Collection, Iterator
from typing import Any

from torch import Tensor, fx
from torch._ops import OpOverload
from torch.export import ExportedProgram

from edgesdk.network.modularize import aten

RESHAPES = (aten.flatten.using_ints, aten.unflatten.int)
Call = tuple[OpOverload, tuple[Any, ...]]


@contextlib.contextmanager
def tracing_once() -> Iterator[None]:
    """While this lasts, a program is traced a second time only where that takes something apart.

    ``torch.onnx.export`` always does so, which is half of the time that a file takes. What most networks have of what
    is taken apart, reshapes and a mean over all places, is put in its place here. Where a version of PyTorch tells
    elsewhere what it keeps whole, nothing is changed.
    """
    try:
        from torch._export.utils import _is_cia_op, _is_preservable_cia_op
    except ImportError:
        yield
        return
    own = ExportedProgram.run_decompositions

    def run(program: ExportedProgram, decomp_table: Any = None, *given: Any, **named: Any) -> ExportedProgram:
        def stays(target: OpOverload) -> bool:
            kept = not target._schema.is_mutable and target not in decomp_table
            return kept and (not _is_cia_op(target) or _is_preservable_cia_op(target))

        if decomp_table is not None and _taken_apart(program.graph, stays):
            return program
        return own(program, decomp_table, *given, **named)

    ExportedProgram.run_decompositions = run  # type: ignore[method-assign]
    try:
        yield
    finally:
        ExportedProgram.run_decompositions = own  # type: ignore[method-assign]


def _taken_apart(graph: fx.Graph, stays: Callable[[OpOverload], bool]) -> bool:
    """Whether all of ``graph`` stays as it is, or could be put in other words, which are there then."""
    instead: dict[fx.Node, Call] = {}
    for node in graph.nodes:
        if node.op in ("placeholder", "output") or node.target is operator.getitem:
            continue
        if not isinstance(node.target, OpOverload):  # a graph inside this one
            return False
        call = _in_other_words(node)
        if call is not None:
            instead[node] = call
        elif not stays(node.target):
            return False
    for node, (target, arguments) in instead.items():
        node.target, node.args, node.kwargs = target, arguments, {}
    graph.eliminate_dead_code()
    return True


def _in_other_words(node: fx.Node) -> Call | None:
    """What a call is that is nothing but another one: as which PyTorch's second trace would see it, too."""
    read = node.args[0] if node.args else None
    given, made = (n.meta.get("val") if isinstance(n, fx.Node) else None for n in (read, node))
    if not isinstance(given, Tensor) or not isinstance(made, Tensor) or not _is_plain(given):
        return None
    if node.target is aten.reshape.default:
        return aten.view.default, node.args
    if node.target in RESHAPES:
        return aten.view.default, (read, list(made.shape))
    if node.target is aten.adaptive_avg_pool2d.default and tuple(made.shape[-2:]) == (1, 1):
        return aten.mean.dim, (read, [-1, -2], True)
    return None


def _is_plain(tensor: Tensor) -> bool:
    """Whether the sizes are numbers and all lies in their order."""
    sizes: Collection[Any] = tensor.shape
    return all(type(size) is int for size in sizes) and tensor.is_contiguous()
