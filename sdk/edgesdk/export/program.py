"""A network as a program of PyTorch's that returns what lies inside, too: what each of its tensors is called."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from edgesdk.network.in_turn import in_turn


@dataclass(frozen=True)
class Telling:
    """A ``program`` that returns its ``outputs`` and more behind them: by nodes of the network, what it calls which."""

    program: ExportedProgram
    outputs: tuple[str, ...]
    inside: dict[fx.Node, str]

    def name_in_files(self, inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, str]:
        """What files call each tensor, by its name in the program: what is returned as the first of ``outputs`` that it
        is, all else unlike these, the ``inputs`` and what is held, which may have any name."""
        taken = {*inputs, *outputs, *self.program.state_dict, *self.program.constants}
        made = [node.name for node in self.program.graph.nodes if node.op == "call_function"]
        called: dict[str, str] = {}
        for own, name in zip(self.outputs, outputs, strict=True):
            called.setdefault(own, name)
        for own in made:
            name = own
            while own not in called and (name in taken or name != own and name in made):
                name += "_"
            taken.add(called.setdefault(own, name))
        return called


def list_tensors(module: fx.GraphModule, sample: tuple[Tensor, ...]) -> list[fx.Node]:
    """The nodes of ``module`` that make a tensor of ``sample``, in order: what it is given and holds is none."""
    made: list[fx.Node] = []

    class Noting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.op.startswith("call_") and isinstance(value, Tensor):
                made.append(n)
            return value

    with torch.no_grad():
        Noting(module).run(*sample)
    return made


@in_turn()
def export_telling(module: fx.GraphModule, sample: tuple[Tensor, ...], inside: Sequence[fx.Node]) -> Telling:
    """``module`` as a program for ``sample`` that returns what the nodes ``inside`` make, behind its own outputs."""
    output = module.graph.output_node()
    own: Any = output.args[0]
    output.args = ((*own, *inside),)
    module.recompile()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, sample, strict=False)
    finally:
        output.args = (own,)
        module.recompile()
    names = [str(name) for name in program.graph_signature.user_outputs]
    ends = len(names) - len(inside)
    return Telling(
        program,
        tuple(names[:ends]),
        dict(zip(inside, names[ends:], strict=True)),
    )
