"""Layers that run several times: each call is a submodule of its own, and all have their parameters in common.

So whatever is told of a layer by the node that runs it (what it reads, its ranges, its time) holds for them, too. A
call says of which path it ``SHARES`` the weights: that of the first call, which says so itself.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx, nn

SHARES = "shares_with"


def shares_with(part: nn.Module) -> str | None:
    """The path of the first of the calls that have the parameters of ``part`` in common; ``None`` where it is alone."""
    return part.__dict__.get(SHARES)


def first_of(module: nn.Module, path: str) -> str:
    """The path under which the parameters of the submodule ``path`` are known: that of the first call."""
    return shares_with(module.get_submodule(path)) or path


def named(module: nn.Module, path: str, name: str) -> str:
    """How the parameter or buffer ``name`` of the call ``path`` is known: by the first call, where that has it, too."""
    first = first_of(module, path)
    same = getattr(module.get_submodule(first), name, None) is getattr(module.get_submodule(path), name)
    return f"{first if same else path}.{name}"


def list_shared(module: fx.GraphModule) -> dict[str, list[str]]:
    """By the path of the first one, the paths of the calls that have their parameters in common, in order."""
    together: dict[str, list[str]] = {}
    for node in module.graph.nodes:
        if node.op == "call_module":
            first = shares_with(module.get_submodule(str(node.target)))
            if first is not None and node.target not in together.setdefault(first, []):
                together[first].append(str(node.target))
    return together


def share(module: fx.GraphModule, names: Collection[str] | None = None) -> None:
    """Let calls have in common again what was changed in each alike, and know the first of those that are left, in
    place: all of their parameters and buffers, or the ``names`` alone."""
    for paths in list_shared(module).values():
        parts = [module.get_submodule(path) for path in paths]
        for part in parts:
            if len(parts) > 1:
                part.__dict__[SHARES] = paths[0]
            else:
                del part.__dict__[SHARES]
        for part in parts[1:]:
            for name in {**part._parameters, **part._buffers} if names is None else names:
                value = getattr(parts[0], name, None)
                if _alike(value, getattr(part, name)):
                    setattr(part, name, value)


def set_apart(module: fx.GraphModule) -> None:
    """Give every call a matrix of weights of its own, in place: a file names them after its layers."""
    for first, *others in list_shared(module).values():
        for path in others:
            call = module.get_submodule(path)
            for name, value in module.get_submodule(first).named_parameters(recurse=False):
                if value.dim() > 1 and getattr(call, name) is value:
                    setattr(call, name, nn.Parameter(value.detach().clone(), value.requires_grad))


def _alike(left: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    return left is not None and right is not None and left is not right and torch.equal(left, right)
