"""A bundle's file against the model that it was made of."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgesdk.bundle.bundle import AgainstModel, Bundle
from edgesdk.core.errors import BundleError, ModelError
from edgesdk.data.data import load_data
from edgesdk.export.parity import compared_by_output
from edgesdk.network.copying import copied
from edgesdk.network.load import load_model
from edgesdk.network.network import Batch, tensors
from edgesdk.network.reference import Reference
from edgesdk_targets.bundle_run import TOLERANCE

FACTOR = 2.0  # of what the deployment saw on other samples


def against_model(
    path: str | Path, model: str | nn.Module, weights: str | Path | None = None, data: Any = None
) -> AgainstModel:
    """How far the file of the bundle at ``path`` is from ``model`` by output, of the spread of what the model answers.

    Judged on the samples that the bundle holds or, where they are given, the test samples of ``data``. Raises
    ``BundleError`` where that is more than twice what the deployment itself saw, and than a runtime's rounding.
    """
    bundle = Bundle.open(path)
    names = [entry["name"] for entry in bundle.manifest["inputs"]]
    shapes = {name: tuple(entry["shape"][1:]) for name, entry in zip(names, bundle.manifest["inputs"], strict=True)}
    reference = Reference(load_model(model if isinstance(model, str) else copied(model), weights, shapes))
    if data is None:
        recorded, _ = bundle.recorded()
        batches = [_batch(reference.module, names, [torch.from_numpy(recorded[name]) for name in names])]
    else:
        given = [x for x, _ in load_data(data, inputs=names).test]
        batches = [_batch(reference.module, names, list(tensors(x))) if isinstance(x, dict) else x for x in given]
    try:
        reference(batches[0])
    except Exception as error:  # a model raises what it likes
        said = next(iter(str(error).splitlines()), type(error).__name__)
        fact = f"the model does not take the bundle's inputs ({said})"
        raise ModelError(fact, "give the model that it was made of") from None
    errors = compared_by_output(reference.flat, bundle.artifact, batches)
    outputs = [entry["name"] for entry in bundle.manifest["outputs"]]
    if len(errors) != len(outputs):
        fact = f"the model answers with {len(errors)} tensors, the bundle with {len(outputs)}"
        raise BundleError(fact, "give the model that it was made of")
    try:
        seen = float(bundle.report.get("against_model", {}).get("deployed", {}).get("error", 0.0))
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise BundleError(f"the report of {path} does not say how far it is from the model", "deploy again") from None
    by_output = dict(zip(outputs, errors, strict=True))
    for name, error in by_output.items():
        if not error <= max(TOLERANCE, FACTOR * seen):
            fact = f"{name} differs from the model by {error:.2g} of its spread, where the deployment saw {seen:.2g}"
            raise BundleError(fact, "give the model and the weights that it was made of, or deploy again")
    return AgainstModel(by_output, seen, sum(len(tensors(x)[0]) for x in batches))


def _batch(module: nn.Module, names: Sequence[str], columns: Sequence[Tensor]) -> Batch:
    """The bundle's inputs as the model is called: by name where forward() has all of these names."""
    if set(names) <= set(inspect.signature(module.forward).parameters):
        return dict(zip(names, columns, strict=True))
    return tuple(columns)
