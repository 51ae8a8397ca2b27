"""What a file's tensors and nodes are called in PyTorch: as the file calls them, as far as Python lets them."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

from onnx import NodeProto
from torch import fx, nn

from edgesdk.network.inert import sanitize

RESERVED = {*dir(fx.GraphModule), "graph", "meta", *keyword.kwlist}  # what a module of a graph has itself, or cannot
LEAVES = ("weight", "bias", "gamma", "beta", "scale", "running_mean", "running_var")


def identifiers(names: Iterable[str]) -> list[str]:
    """``names`` as those of arguments: what Python does not allow in them is an underscore, no two are alike."""
    taken: list[str] = []
    for name in names:
        made = re.sub(r"\W", "_", name)
        made = f"x_{made}" if not made or made[0].isdigit() or keyword.iskeyword(made) else made
        while made in taken:
            made += "_"
        taken.append(made)
    return taken


class Paths:
    """Paths of modules and tensors in the tree of modules that a network is; no path lies within another's."""

    def __init__(self) -> None:
        self.taken: set[str] = set()  # modules and tensors
        self.within: set[str] = set()  # what holds these

    def module(self, node: NodeProto, weight: str | None) -> str:
        """For what a node is: the owner of its weight, as PyTorch's exporters write it, else the node's own name."""
        owner, _, leaf = (weight or "").rpartition(".")
        named = owner if owner and leaf in LEAVES else node.name or next((n for n in node.output if n), node.op_type)
        return self._free(named)

    def constant(self, name: str) -> str:
        """For a tensor."""
        return self._free(name)

    def holder(self, root: nn.Module, path: str) -> tuple[nn.Module, str]:
        """The module that is to hold what lies at ``path``, made where it is not there, and the name in it."""
        *parts, leaf = path.split(".")
        for part in parts:
            if part not in root._modules:
                root.add_module(part, nn.Module())
            root = root._modules[part]  # type: ignore[assignment]
        return root, leaf

    def _free(self, name: str) -> str:
        """``name`` as a path that is free: modules within modules at its dots."""
        named = [part for part in sanitize(name).split(".") if part] or ["tensor"]
        parts = [f"{part}_" if part in RESERVED else part for part in named]
        if any(".".join(parts[:end]) in self.taken for end in range(1, len(parts))):
            parts = ["_".join(parts)]  # what is to hold it is itself a module or a tensor
        while (path := ".".join(parts)) in self.taken or path in self.within:
            parts[-1] += "_"
        self.taken.add(path)
        self.within.update(".".join(parts[:end]) for end in range(1, len(parts)))
        return path
