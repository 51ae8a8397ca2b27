"""What a deployment came to, before it is packed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesdk.export.parity import Parity
from edgesdk.plan import Plan
from edgesdk.report import Prediction, Report


@dataclass(frozen=True)
class Result:
    """What a deployment came to: the chosen candidate, recovered and exported, beside the dense model."""

    plan: Plan
    path: Path
    dense: Report | Prediction
    deployed: Report | Prediction
    dense_score: float
    score: float
    parity: Parity
    fallbacks: tuple[str, ...]
    history: tuple[Mapping[str, Any], ...]
