"""Check a bundle, by itself and against the model that it was made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesdk.bundle.bundle import Verification, check
from edgesdk.core.errors import UsageError

if TYPE_CHECKING:  # to check a bundle by itself nobody should wait for torch
    from torch import nn


def verify(
    path: str | Path, key: str | Path | None = None, *, model: nn.Module | str | None = None,
    weights: str | Path | None = None, data: Any = None,
) -> Verification:  # fmt: skip
    """Check the bundle at ``path``: digests, versions, its outputs on the recorded sample, its signature by ``key``.

    With the ``model`` that it was made of, and its ``weights``, the model is to answer to the sample what the bundle
    records of it, and the bundle's outputs are compared with the model's, on that sample or the test samples of
    ``data``. Of a bundle of before, which records no answers of the model, ``against_model.notes`` say so. Of a folder
    that ``edgesdk export`` wrote, the digests. Raises ``BundleError`` for what does not hold, and the errors of loading
    a model and its data.
    """
    if model is None and (weights is not None or data is not None):
        raise UsageError(f"{'weights' if weights is not None else 'data'} without a model", "give --model, too")
    checked = check(path, key)
    if model is None:
        return checked
    from edgesdk.workflows.comparison import against_model

    return replace(checked, against_model=against_model(path, model, weights, data))
