"""What was found of layers, laid over the graph of their file: as metadata that Netron shows, and as node data that
Model Explorer colours nodes by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import StorageError, UsageError
from edgesdk.core.runtime import format_of
from edgesdk.core.serialize import dumps, write
from edgesdk.workflows.layer_errors import Error, LayerDiff

SHOWN = ("onnx", "tflite")  # formats that both programs open
COMPARED = ("alone", "file", "simulation")
PREFIX = "edgesdk."  # of the names of metadata
COLOURS = ("#ffffff", "#d32f2f")  # of a layer without noise, and of the one with most


def check_overlays(artifact: Artifact, folder: Path) -> None:
    """Raise ``UsageError`` for a file that neither program opens, and where ``folder`` is there already."""
    name = format_of(artifact.runtime).name
    if name not in SHOWN:
        raise UsageError(f"there are no overlays for {name} files", f"choose a bundle of {' or '.join(SHOWN)}")
    if folder.exists():
        raise UsageError(f"{folder} exists", "name another folder for the overlays")


def write_overlays(layers: Sequence[LayerDiff], artifact: Artifact, folder: Path) -> None:
    """Write ``node-data-*.json`` for Model Explorer to ``folder``, and of an ONNX file ``model-netron.onnx``, a copy.

    Raises ``StorageError`` where that cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {error.strerror}", "give another --overlays") from None
    nodes = {layer.name: [layer.tensor] for layer in layers if layer.tensor is not None}
    if format_of(artifact.runtime).name == "onnx":
        nodes = _annotate(layers, artifact.path, folder / "model-netron.onnx")
    for compared in COMPARED:
        write(folder / f"node-data-{compared}.json", dumps(_node_data(layers, nodes, compared)))


def _annotate(layers: Sequence[LayerDiff], path: Path, out: Path) -> dict[str, list[str]]:
    """Write a copy of an ONNX file whose nodes say what was found of their layers; the names of these nodes by layer.

    They are the node that multiplies with the layer's weight, which is called as the layer is, and the one that makes
    what was compared.
    """
    import onnx

    model = onnx.load(str(path))  # pyright: ignore[reportUnknownMemberType]
    found: dict[str, list[str]] = {}
    for layer in layers:
        for node in model.graph.node:
            if node.name == layer.name or layer.tensor in node.output:
                found.setdefault(layer.name, []).append(node.name)
                for key, value in _list_facts(layer).items():
                    node.metadata_props.add(key=PREFIX + key, value=value)
    write(out, model.SerializeToString())
    return found


def _list_facts(layer: LayerDiff) -> dict[str, str]:
    """What was found of ``layer``, in words."""
    facts = {"layer": layer.name, "as specified": "no" if layer.leaves else "yes"}
    for compared in COMPARED:
        error: Error | None = getattr(layer, compared)
        if error is not None:
            steps = "" if error.largest_steps is None else f", {error.largest_steps:.3g} steps at most"
            facts[compared] = "equal" if error.snr_db is None else f"{error.snr_db:.1f} dB{steps}"
    if layer.clipped is not None:
        facts["clipped"] = f"{100 * layer.clipped:.2g} %"
    return facts


def _node_data(layers: Sequence[LayerDiff], nodes: dict[str, list[str]], compared: str) -> dict[str, Any]:
    """The noise in each layer's output, in per cent of its signal, as Model Explorer reads it for one graph."""
    results: dict[str, Any] = {}
    for layer in layers:
        error: Error | None = getattr(layer, compared)
        if error is not None:
            noise = 0.0 if error.snr_db is None else 100 * 10 ** (-error.snr_db / 20)
            results |= {node: {"value": noise} for node in nodes.get(layer.name, ())}
    return {"results": results, "gradient": [{"stop": i, "bgColor": colour} for i, colour in enumerate(COLOURS)]}
