"""Data for a bundle that is there, read as for the deployment that made it."""

from __future__ import annotations

from typing import Any

from edgesdk.bundle.bundle import Bundle
from edgesdk.data.data import Data, load_data
from edgesdk.data.metrics import METRICS, TOP_1
from edgesdk.data.preprocessing import read_preprocessing


def load_for(bundle: Bundle, data: Any) -> Data:
    """``data`` as batches that ``bundle`` takes: pixels prepared as its manifest says, targets as its metric has them.

    Raises ``DataError`` and ``UsageError`` as :func:`edgesdk.data.data.load_data` does.
    """
    names = [str(entry["name"]) for entry in bundle.manifest["inputs"]]
    pixels = read_preprocessing(bundle.manifest.get("preprocessing"))
    classifies = str(bundle.report.get("metric")).startswith(METRICS[TOP_1].title)
    return load_data(data, inputs=names, classifies=classifies, usual=pixels)
