"""Which layers of a student and a teacher are compared, and where their channels are. From their graphs alone."""

from __future__ import annotations

from edgesdk.core.errors import UsageError
from edgesdk.core.graph import LINEAR, OTHER, WEIGHTED, WINDOWED, Graph
from edgesdk.train.recovery import ATTENTION, RELATIONS, Pair, Term

SHOWN = 8  # layers in a message


def paired(term: Term, student: Graph, dense: Graph, teacher: Graph) -> tuple[Pair, ...]:
    """The layers of ``student`` and ``teacher`` that a loss of layers compares: those it names, or the usual ones.

    A factorized layer stands for its last part. What the plan left out of the ``dense`` network is left out. Raises
    ``UsageError`` for a layer that there is not, with those that there are.
    """
    if term.pairs is not None:
        pairs = []
        for own, other in term.pairs:
            small, large = _part(student, own), _part(teacher, other)
            if small is None and own not in dense.by_name:
                raise UsageError(f"the loss {term.kind}: the student has no layer {own!r}", _there_are(dense))
            if large is None and other not in dense.by_name:
                raise UsageError(f"the loss {term.kind}: the teacher has no layer {other!r}", _there_are(teacher))
            pairs += [(small, large)] if small and large else []
        return tuple(pairs)
    last: dict[tuple[int, ...], Pair] = {}
    for layer in teacher.layers:
        small = _part(student, layer.name)
        if small is None or layer.name in teacher.outputs or layer.kind == OTHER:
            continue
        axis, shape = channel_axis(teacher, layer.name), student.by_name[small].shape
        where = places(layer.shape, axis)
        if len(shape) == len(layer.shape) and places(shape, axis) == where:
            last.pop(where, None)
            last[where] = (small, layer.name)
    spread = tuple(pair for where, pair in last.items() if where)
    if term.kind in RELATIONS:
        spread = tuple(last.values())[-1:]
    elif not spread and term.kind != ATTENTION:
        spread = tuple(last.values())
    if not spread:
        raise UsageError(
            f"the loss {term.kind} finds no layer of the same name in both", f"name pairs: {_there_are(teacher)}"
        )
    return spread


def find_members(term: Term, student: Graph, dense: Graph) -> tuple[str, ...]:
    """The layers of ``student`` by which the members of an ensemble answer: those that ``term`` names, or the usual
    ones. What the plan left out of the ``dense`` network is left out.

    Raises ``UsageError`` for a layer that there is not, and where there are less than two.
    """
    names = [own for own, _ in term.pairs or ()]
    if unknown := [name for name in names if name not in dense.by_name and _part(student, name) is None]:
        raise UsageError(f"the loss {term.kind}: the student has no layer {unknown[0]!r}", _there_are(dense))
    names = names or _list_members(student)
    if len(names) < 2:
        fact = f"the loss {term.kind} finds no members of an ensemble in the model"
        raise UsageError(fact, f"name the layers that make their logits, or leave it out: {_there_are(dense)}")
    return tuple(part for name in names if (part := _part(student, name)) is not None)


def _list_members(graph: Graph) -> list[str]:
    """What softmaxes of the shape of the first output read; where there are no several, linear layers of that shape."""
    last = graph.by_name.get(graph.outputs[0])
    alike = [layer for layer in graph.layers if last is not None and layer is not last and layer.shape == last.shape]
    read = {layer.name: layer.inputs[0] for layer in alike if layer.operator == "softmax"}
    voted = [logits for name, logits in read.items() if name not in read.values() and logits in graph.by_name]
    linear = [layer.name for layer in alike if layer.kind == LINEAR and not layer.activation]
    return voted if len(voted) > 1 else linear


def channel_axis(graph: Graph, name: str) -> int:
    """The axis of the channels in the output of a layer, counted with the batch."""
    layer = graph.by_name[name]
    rank = len(layer.shape)
    while layer.kind not in WEIGHTED:
        before = graph.by_name.get(layer.inputs[0]) if layer.inputs and layer.kind != OTHER else None
        if before is None or len(before.shape) != rank:
            return rank if rank == 2 else 1  # tokens have their channels last, images first
        layer = before
    return 1 if layer.kind in WINDOWED else rank


def places(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """``shape``, without the batch, without its channels."""
    return (*shape[: axis - 1], *shape[axis:])


def _part(graph: Graph, name: str) -> str | None:
    """A layer, or the last part of what it was factorized into."""
    if name in graph.by_name:
        return name
    parts = [part for part in graph.by_name if part.startswith(f"{name}.") and part[len(name) + 1 :].isdigit()]
    return parts[-1] if parts else None


def _there_are(graph: Graph) -> str:
    names = [layer.name for layer in graph.layers]
    return f"there are {', '.join(names[:SHOWN])}" + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
