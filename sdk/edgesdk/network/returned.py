"""What a model returns: tensors in a structure of Python's, and values beside them that are always the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from edgesdk.core.errors import ModelError
from edgesdk.network.network import Structure

PLAIN = (Tensor, bool, int, float, complex, str, bytes, type(None))
FORMS = "return tensors, numbers or None, in tuples, lists, dicts, named tuples or dataclasses"


def make_known(value: Any) -> None:
    """Let PyTorch take apart what a model returned: dataclasses and kinds of dict that it does not know.

    Raises ``ModelError`` for other objects.
    """
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, PLAIN):
            continue
        kind = type(leaf)
        if dataclasses.is_dataclass(leaf):
            torch.export.register_dataclass(kind)
        elif isinstance(leaf, Mapping):
            pytree.register_pytree_node(
                kind,
                lambda mapping: (list(mapping.values()), list(mapping)),
                lambda values, keys, kind=kind: kind(zip(keys, values, strict=True)),
                serialized_type_name=f"{kind.__module__}.{kind.__qualname__}",
                flatten_with_keys_fn=_keyed,
            )
        else:
            raise ModelError(f"the model returns an object of type {kind.__name__}", FORMS)
        return make_known(value)


def _keyed(mapping: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """What a mapping holds, by its keys as PyTorch's paths have them, and the keys alone."""
    return [(pytree.MappingKey(key), part) for key, part in mapping.items()], list(mapping)


def path_name(path: Sequence[Any]) -> str:
    """Where a tensor lies in what a model returns: its keys, fields and places, joined by dots."""
    return ".".join(
        str(next(getattr(part, name) for name in ("key", "name", "idx") if hasattr(part, name))) for part in path
    )


def returned(program: ExportedProgram) -> list[fx.Node]:
    """The tensors that the model returns, in order."""
    return [value for value, spec in _user_outputs(program) if isinstance(spec, TensorArgument)]


def structure_of(program: ExportedProgram) -> Structure:
    """In what the model returns its tensors, and what stands beside them."""
    constants = {}
    outputs = _user_outputs(program)
    if not any(isinstance(spec, TensorArgument) for _, spec in outputs):
        raise ModelError("the model returns no tensor", FORMS)
    for place, (value, spec) in enumerate(outputs):
        if isinstance(spec, TensorArgument) and value.meta["val"].is_complex():
            fact = f"output {place + 1} of the model is complex, which no file's output can be"
            raise ModelError(fact, "return its magnitude, or its parts by torch.view_as_real")
        if isinstance(spec, ConstantArgument):
            constants[place] = spec.value
        elif not isinstance(spec, TensorArgument):
            fact = f"output {place + 1} of the model is a number that depends on the size of the batch"
            raise ModelError(fact, "return tensors and constants alone")
    assert program.call_spec.out_spec is not None
    structure = Structure(program.call_spec.out_spec, constants)
    inputs = _own_names(program)
    nodes = [str(node.name) for node in program.graph.nodes if node.op == "placeholder"]
    taken = [inputs.get(name, name) for name in nodes]
    return dataclasses.replace(structure, inputs=inputs, outputs=_file_names(structure, taken))


def _own_names(program: ExportedProgram) -> dict[str, str]:
    """What the model itself calls inputs that PyTorch wrote in small letters, by their names in the graph."""
    signature = program.module_call_graph[0].signature
    names = (signature and signature.forward_arg_names) or ()
    own = {name.lower(): name for name in names}
    own = own if len(own) == len(names) else {}  # of two that differ in this alone it is not known which is which
    taken = [str(name) for name in program.graph_signature.user_inputs]
    return {name: own[name] for name in taken if own.get(name, name) != name}


def _file_names(structure: Structure, taken: Sequence[str]) -> tuple[str, ...]:
    """What a file calls the outputs where that is not what it calls those of most: several by their keys and fields, or
    by their number where they have none, where an input is called so, whose names are ``taken``, and where two are."""
    usual = Structure.plain(structure.count).output_names
    numbered = tuple(_unlike(f"output_{place}", taken) for place in range(structure.count))
    numbered = numbered if {*usual} & {*taken} else ()
    if structure.count < 2:
        return numbered
    paths = [path for path, _ in pytree.tree_flatten_with_path(structure.of(range(structure.count)))[0]]
    own = [path_name(path) for place, path in enumerate(paths) if place not in structure.constants]
    bare = {name for name in own if name in taken or name.replace(".", "").isdigit()}
    names = tuple((numbered or usual)[place] if name in bare else name for place, name in enumerate(own))
    return names if len(set(names)) == len(names) else numbered


def _unlike(name: str, taken: Sequence[str]) -> str:
    return _unlike(f"{name}_", taken) if name in taken else name


def _user_outputs(program: ExportedProgram) -> list[tuple[Any, Any]]:
    """What the model returns, without what it leaves in its buffers and inputs: value and specification."""
    values = next(node for node in program.graph.nodes if node.op == "output").args[0]
    pairs = zip(values, program.graph_signature.output_specs, strict=True)
    return [(value, spec.arg) for value, spec in pairs if spec.kind == OutputKind.USER_OUTPUT]


def check_depend(module: fx.GraphModule) -> None:
    """Raise ``ModelError`` where an output of ``module`` is a tensor that depends on no input."""
    end = next(node for node in module.graph.nodes if node.op == "output")
    depends: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder" or depends.intersection(node.all_input_nodes):
            depends.add(node)
    for place, node in enumerate(end.args[0], 1):
        if node not in depends:
            fact = f"output {place} of the model's tensors is always the same, whatever the inputs"
            raise ModelError(fact, "return what depends on them alone, and keep the rest in your own code")
