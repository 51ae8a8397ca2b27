"""Movements that exporters write in pairs, one of which undoes the other or both of which are a simpler one."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from edgesdk.network.onnx_module.translation import Call


def turned(x: Any, order: Sequence[int]) -> Any:
    """``x`` with its axes in another order: where it had been turned before, by a single turn."""
    if _is_method(x.node, "permute"):
        inner, before = x.node.args
        x, order = _as_proxy(x, inner), [before[axis] for axis in order]
    return x if list(order) == sorted(order) else x.permute(list(order))


def squeezed(x: Any, axes: Sequence[int]) -> Any:
    """``x`` without ``axes``, each of a single place: what had put one there is left out, and a place that was cut out
    is picked."""
    node = x.node
    if _is_method(node, "permute"):
        inner, order = node.args
        rest = [axis for place, axis in enumerate(order) if place not in axes]
        return turned(squeezed(_as_proxy(x, inner), sorted(order[axis] for axis in axes)), _ranked(rest))
    if len(axes) == 1:
        (axis,) = axes
        if _is_method(node, "unflatten") and (node.args[1], node.args[2][0]) == (axis, 1):
            return _as_proxy(x, node.args[0])
        if node.target is operator.getitem and (found := _cut_out(node, axis)) is not None:
            return _as_proxy(x, found[0]).select(axis, found[1])
    return x.squeeze(list(axes))


def rejoined(call: Call, made: Any) -> Any:
    """``made`` of the input of ``call`` by a Reshape, or what that was taken apart from where both have one shape."""
    apart: Any = call.maker(0)
    shapes = call.translation.shapes_of(made.node)
    if _is_method(apart, "unflatten") and call.translation.shapes_of(apart.args[0]) == shapes:
        return _as_proxy(made, apart.args[0])
    return made


def _cut_out(node: fx.Node, axis: int) -> tuple[Any, Any] | None:
    """Of what a node picks that is a single place along ``axis``: of which tensor, and which place."""
    source: Any
    places: Any
    source, places = node.args
    if isinstance(places, tuple) and len(places) == axis + 1 and isinstance(places[axis], slice):
        if places[axis].stop == places[axis].start + 1 and all(place == slice(None) for place in places[:axis]):
            return source, places[axis].start
    if source.target is torch.split and set(source.args[1]) == {1}:
        along = source.args[2] if len(source.args) > 2 else source.kwargs.get("dim", 0)
        return (source.args[0], places) if along == axis else None
    return None


def _ranked(numbers: list[int]) -> list[int]:
    """Of each number, how many of the others are less."""
    return [sorted(numbers).index(number) for number in numbers]


def _is_method(node: Any, name: str) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_method" and node.target == name


def _as_proxy(x: Any, node: Any) -> Any:
    return fx.Proxy(node, x.tracer)
