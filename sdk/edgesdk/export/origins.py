"""From which operator of the user's forward() a node of an ONNX model comes: what an error can name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from onnx import ModelProto
from torch import fx

from edgesdk.network.network import Network
from edgesdk.network.places import name_operator

SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter notes the modules around an operator, and its own name


def note_origins(model: ModelProto, network: Network) -> None:
    """Let the ``doc_string`` of each node of ``model`` name the operator of ``network`` that it was exported from."""
    operators = {node.name: node for node in network.module.graph.nodes}
    told = {name: name_operator(node) for name, node in operators.items() if node.op.startswith("call_")}
    for node in model.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
        name = next(reversed(ast.literal_eval(scopes)), "")
        node.doc_string = told.get(name, name)


def drop_origins(model: ModelProto) -> None:
    """Take the names out again, which no file needs."""
    for node in model.graph.node:
        node.ClearField("doc_string")


def find_unsound(model: ModelProto, error: Exception) -> str | None:
    """The operator of forward() whose nodes ONNX's checker calls unsound in ``error``."""
    named = {node.name: node.doc_string for node in model.graph.node}
    return next((told for name in re.findall(r"Name: (\S+) OpType", str(error)) if (told := named.get(name))), None)


def find_unknown(network: Network, error: BaseException) -> str | None:
    """The operator of ``network`` at which PyTorch's exporter stopped with ``error``; where it was taken apart before
    that, the one with most of its name, or the one whose name has it in it, as ``cumprod`` has ``prod``."""
    told = " ".join(str(cause) for cause in _causes(error))
    name, lacking = re.search(r"translating node %(\w+)", told), re.search(r"OpOverload\(op='\w+\.(\w+)'", told)
    called = {node: node.target.overloadpacket.__name__ for node in network.module.graph.nodes if _is_operator(node)}
    own = [node for node in called if name is not None and node.name == name[1]]
    parts = [node for node, packet in called.items() if lacking is not None and packet in lacking[1]]
    whole = lacking[1].replace("_", "") if lacking is not None else ""
    wider = [node for node, packet in called.items() if whole and whole in packet.replace("_", "")]
    found = [*own, *sorted(parts, key=lambda node: -len(called[node])), *wider]
    return name_operator(found[0]) if found else lacking[1] if lacking is not None else None


def _is_operator(node: fx.Node) -> bool:
    return node.op == "call_function" and hasattr(node.target, "overloadpacket")


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    if error.__cause__ is not None:
        yield from _causes(error.__cause__)
