"""A file that was exported, with the network that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgesdk.graph import Graph
from edgesdk.plan import Option


@dataclass(frozen=True)
class Artefact:
    """A model file; ``graph`` and ``options`` say what is in it, where that is known. To measure it needs neither."""

    path: Path
    graph: Graph | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
