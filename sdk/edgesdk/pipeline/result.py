"""What a deployment came to, before it is packed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgesdk.core.answers import AnswerChanges
from edgesdk.core.artifact import Artifact
from edgesdk.core.budget import Budget
from edgesdk.core.plan import Plan
from edgesdk.core.report import Measurement
from edgesdk.core.sampling import Decisions

if TYPE_CHECKING:
    from edgesdk.core.parity import Parity
    from edgesdk.network.network import Network


@dataclass(frozen=True)
class Result:
    """What a deployment came to: the chosen candidate, recovered and exported, beside the dense model.

    ``budget`` is what it was found within where that is not what was asked, which is ``eased`` then: why, in words.
    ``beside`` has what was measured in the same run of other runtimes, ``refused`` why a runtime has no part in it.
    ``simulated`` is the network that the file is made of. ``dense_score`` is the user's own module's, ``against_model``
    how far the dense and the deployed file are from it.
    ``score`` is of so many ``samples``, ``decisions`` say which of them the file answered rightly, and ``changes`` what
    it answers otherwise than the dense model.
    """

    plan: Plan
    artifact: Artifact
    dense: Measurement
    deployed: Measurement
    dense_score: float
    score: float
    parity: Parity
    fallbacks: tuple[str, ...]
    history: tuple[Mapping[str, Any], ...]
    beside: Mapping[str, Measurement] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    against_model: Mapping[str, Parity] = field(default_factory=dict)
    samples: int | None = None
    decisions: Decisions | None = None
    changes: AnswerChanges | None = None
    simulated: Network | None = None
    budget: Budget | None = None
    eased: str | None = None
