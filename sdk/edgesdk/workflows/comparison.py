"""A bundle's file against the model that it was made of."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgesdk.bundle.bundle import AgainstModel, Bundle
from edgesdk.core.errors import BundleError, ModelError
from edgesdk.export.parity import compared_by_output, distance
from edgesdk.network.copying import copied
from edgesdk.network.load import load_model
from edgesdk.network.network import Batch, tensors
from edgesdk.network.reference import TOLERANCE as SAME
from edgesdk.network.reference import Reference
from edgesdk.workflows.bundle_data import load_for
from edgesdk_targets.bundle_run import TOLERANCE

FACTOR = 2.0  # of what the deployment saw on other samples
THE_MODEL = "give the model and the weights that it was made of"
UNKNOWN = (
    "the bundle, of a version before, does not record what the model answered: whether this is the model that it was "
    "made of could not be checked, nor each output by itself, only how far they all are; deploy again for that"
)


def against_model(
    path: str | Path, model: str | nn.Module, weights: str | Path | None = None, data: Any = None
) -> AgainstModel:
    """How far the file of the bundle at ``path`` is from ``model`` by output, of the spread of what the model answers.

    Judged on the samples that the bundle holds or, where they are given, the test samples of ``data``. Raises
    ``BundleError`` where the model does not answer to the bundle's sample what the bundle records of its own, and where
    an output of the file is farther from the model's than twice what the deployment itself saw of that output, and than
    a runtime's rounding.
    """
    bundle = Bundle.open(path)
    names = [entry["name"] for entry in bundle.manifest["inputs"]]
    shapes = {name: tuple(entry["shape"][1:]) for name, entry in zip(names, bundle.manifest["inputs"], strict=True)}
    reference = Reference(load_model(model if isinstance(model, str) else copied(model), weights, shapes))
    inputs, outputs = bundle.recorded()
    sample = _batch(reference.module, names, [torch.from_numpy(inputs[name]) for name in names])
    try:
        answers = reference.arrays(sample)
    except Exception as error:  # a model raises what it likes
        said = next(iter(str(error).splitlines()), type(error).__name__)
        fact = f"the model does not take the bundle's inputs ({said})"
        raise ModelError(fact, "give the model that it was made of") from None
    _check_shapes([value.shape for value in answers], [value.shape for value in outputs.values()])
    recorded = bundle.recorded_of_model()
    own = _distances(recorded, dict(zip(outputs, answers, strict=True)))
    for name, far in _read_seen(bundle, "dense").items() if own else ():
        if not own[name] <= max(SAME, FACTOR * far):  # of what the dense file's rounding came to
            fact = f"this is not the model that the bundle was made of: {name} differs from its recorded answers by"
            raise BundleError(f"{fact} {own[name]:.2g} of their spread", THE_MODEL)
    batches = [sample]
    if data is not None:
        given = [x for x, _ in load_for(bundle, data).test]
        batches = [_batch(reference.module, names, list(tensors(x))) if isinstance(x, dict) else x for x in given]
    errors = dict(zip(outputs, compared_by_output(reference.flat, bundle.artifact, batches), strict=True))
    seen, there = _read_seen(bundle, "deployed"), _distances(recorded, outputs)
    for name, error in errors.items():
        far = max(seen[name], there.get(name, 0.0))  # of few samples an output may spread less
        if not error <= max(TOLERANCE, FACTOR * far):
            fact = f"{name} differs from the model by {error:.2g} of its spread, where the deployment saw {far:.2g}"
            raise BundleError(fact, f"{THE_MODEL}, or deploy again")
    count = sum(len(tensors(x)[0]) for x in batches)
    return AgainstModel(errors, max(seen.values()), count, seen, own, () if recorded else (UNKNOWN,))


def _check_shapes(answered: Sequence[tuple[int, ...]], recorded: Sequence[tuple[int, ...]]) -> None:
    """Raise ``BundleError`` unless the model's answers are as many as the file's, and of their shapes."""
    if len(answered) != len(recorded):
        fact = f"the model answers with {len(answered)} tensors, the bundle with {len(recorded)}"
        raise BundleError(fact, THE_MODEL)
    for place, (ours, theirs) in enumerate(zip(answered, recorded, strict=True), 1):
        if ours != theirs:
            fact = f"output {place} of the model has the shape {tuple(ours)}, that of the bundle {tuple(theirs)}"
            raise BundleError(fact, THE_MODEL)


def _distances(wanted: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How far each of ``given`` is from what is ``wanted`` of it, where anything is."""
    pairs = {name: (torch.from_numpy(value), torch.from_numpy(given[name])) for name, value in wanted.items()}
    return {name: distance(pair) for name, pair in pairs.items()}


def _read_seen(bundle: Bundle, which: str) -> dict[str, float]:
    """How far the deployment saw each output of the ``dense`` or the ``deployed`` file from the model's."""
    names = [entry["name"] for entry in bundle.manifest["outputs"]]
    try:
        told = bundle.report.get("against_model", {}).get(which, {})
        each = told.get("by_output") or [told.get("error", 0.0)] * len(names)
        return dict(zip(names, map(float, each), strict=True))
    except (AttributeError, TypeError, ValueError, OverflowError):
        fact = f"the report of {bundle.path} does not say how far it is from the model"
        raise BundleError(fact, "deploy again") from None


def _batch(module: nn.Module, names: Sequence[str], columns: Sequence[Tensor]) -> Batch:
    """The bundle's inputs as the model is called: by name where forward() has all of these names."""
    if set(names) <= set(inspect.signature(module.forward).parameters):
        return dict(zip(names, columns, strict=True))
    return tuple(columns)
