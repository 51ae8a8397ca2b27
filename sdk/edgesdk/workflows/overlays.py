"""What was found of layers, laid over the graph of their file: as metadata that Netron shows, and as node data that
Model Explorer colours nodes by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgesdk.core.artifact import Artifact
from edgesdk.core.budget import show
from edgesdk.core.errors import StorageError, UsageError
from edgesdk.core.kernels import KernelProfile, Part, group_by_layers
from edgesdk.core.runtime import format_of
from edgesdk.core.serialize import dumps, write
from edgesdk.core.wording import listed
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


def write_overlays(
    layers: Sequence[LayerDiff], artifact: Artifact, folder: Path, profile: KernelProfile | None = None
) -> None:
    """Write ``node-data-*.json`` for Model Explorer to ``folder``, and of an ONNX file ``model-netron.onnx``, a copy.

    With what the ``profile`` tells of times. Raises ``StorageError`` where that cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {error.strerror}", "give another --overlays") from None
    times = _find_times(layers, profile)
    nodes = {layer.name: [layer.tensor] for layer in layers if layer.tensor is not None}
    if format_of(artifact.runtime).name == "onnx":
        nodes = _annotate(layers, times, artifact.path, folder / "model-netron.onnx")
    for compared in COMPARED:
        write(folder / f"node-data-{compared}.json", dumps(_node_data(nodes, _list_noise(layers, compared))))
    if times:
        first = {name: names[:1] for name, names in nodes.items()}  # so that what is fused counts once
        told = {name: part.ms for name, part in times.items()}
        write(folder / "node-data-time.json", dumps(_node_data(first, told)))


def _find_times(layers: Sequence[LayerDiff], profile: KernelProfile | None) -> dict[str, Part]:
    """What kernels took, by the first layer of those that they are of; one in parts is called by its name with a number
    behind it here."""
    every = () if profile is None else group_by_layers(profile.kernels)
    parts = {part.layers[0]: part for part in every if part.layers}
    found: dict[str, Part] = {}
    for layer in layers:
        whole = layer.name.rpartition(".")[0]
        name = layer.name if layer.name in parts else whole
        if name in parts:
            found[layer.name] = parts.pop(name)
    return found


def _annotate(layers: Sequence[LayerDiff], times: Mapping[str, Part], path: Path, out: Path) -> dict[str, list[str]]:
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
                for key, value in _list_facts(layer, times.get(layer.name)).items():
                    node.metadata_props.add(key=PREFIX + key, value=value)
    write(out, model.SerializeToString())
    return found


def _list_facts(layer: LayerDiff, part: Part | None) -> dict[str, str]:
    """What was found of ``layer``, in words."""
    facts = {"layer": layer.name, "as specified": "no" if layer.leaves else "yes"}
    for compared in COMPARED:
        error: Error | None = getattr(layer, compared)
        if error is not None:
            steps = "" if error.largest_steps is None else f", {error.largest_steps:.3g} steps at most"
            facts[compared] = "equal" if error.snr_db is None else f"{error.snr_db:.1f} dB{steps}"
    if layer.clipped is not None:
        facts["clipped"] = f"{100 * layer.clipped:.2g} %"
    if part is not None:
        others = f", with {listed(part.layers[1:])}" if part.layers[1:] else ""
        facts["measured under the profiler"] = f"{show('latency_ms', part.ms)}{others}"
    return facts


def _list_noise(layers: Sequence[LayerDiff], compared: str) -> dict[str, float]:
    """The noise in each layer's output, in per cent of its signal."""
    errors: dict[str, Error | None] = {layer.name: getattr(layer, compared) for layer in layers}
    return {
        name: 0.0 if error.snr_db is None else 100 * 10 ** (-error.snr_db / 20)
        for name, error in errors.items()
        if error is not None
    }


def _node_data(nodes: Mapping[str, Sequence[str]], values: Mapping[str, float]) -> dict[str, Any]:
    """A value of each layer, as Model Explorer reads it for the nodes of one graph."""
    results = {node: {"value": value} for name, value in values.items() for node in nodes.get(name, ())}
    return {"results": results, "gradient": [{"stop": i, "bgColor": colour} for i, colour in enumerate(COLOURS)]}
