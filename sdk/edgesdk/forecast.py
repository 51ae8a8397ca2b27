"""A target that is not at hand: what a ``Bench`` measures there, predicted from the target's profile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgesdk.artefact import Artefact
from edgesdk.device import Target
from edgesdk.estimation import predicted
from edgesdk.price.profile import Predicted, profile
from edgesdk.record import digest
from edgesdk.remote.bench import Bench
from edgesdk.remote.local import AgentProcess
from edgesdk.report import Prediction

EXPORTED = ("onnxruntime", "tensorrt")  # what there is a file for


class Forecast:
    """What is asked of a ``Bench``, answered from a profile. Only the file itself is looked at on this machine."""

    version = "not run on the target"

    def __init__(self, target: Target, agent: AgentProcess, threads: int = 1) -> None:
        known = profile(target)
        self.here = Bench(agent)
        self.runtime, self.threads = known.runtime(EXPORTED), threads
        self.prices = Predicted(known, self.runtime, threads)
        self.conditions = {"target": target.name, "runtime": self.runtime, "threads": str(threads)}

    def table(self, folder: Path, copies: int, weights: int) -> Predicted:
        """Every operator's price; nothing is kept on disk."""
        return Predicted(self.prices.profile, self.runtime, self.threads, weights)

    def measure(
        self, artefacts: Mapping[str, Artefact], mode: str, baseline: Path | None = None, thorough: bool = True
    ) -> dict[str, Prediction]:
        """What each artefact is predicted to cost on the target."""
        found = {}
        for name, artefact in artefacts.items():
            assert artefact.graph is not None
            cost = predicted(artefact.graph, artefact.options, self.prices, exact=False)
            content = artefact.path.read_bytes()
            found[name] = Prediction(
                name=name,
                digest=digest(content),
                size_bytes=len(content),
                runtime=self.runtime,
                runtime_version=self.version,
                threads=self.threads,
                median_ms=cost.latency_ms,
                low_ms=cost.latency_low_ms,
                high_ms=cost.latency_high_ms,
                peak_memory_bytes=cost.peak_memory_bytes,
                runtime_memory_bytes=cost.runtime_memory_bytes,
                standing=cost.standing,
                sources=cost.sources,
                notes=cost.notes,
            )
        return found

    def kernels(self, path: Path) -> list[dict[str, Any]]:
        """The kernels with which ONNX Runtime runs the file on the machine at hand."""
        return self.here.kernels(path)
