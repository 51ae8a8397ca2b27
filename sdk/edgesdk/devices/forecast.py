"""A target that is not at hand: what a ``Bench`` measures there, predicted from the target's profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgesdk.core.artifact import Artifact
from edgesdk.core.energy import Energy
from edgesdk.core.errors import DeviceError
from edgesdk.core.pairing import Ratio
from edgesdk.core.report import NOT_RUN, Prediction
from edgesdk.core.runtime import find_runtime
from edgesdk.core.target import Target
from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.answers import Arrays
from edgesdk.devices.bench import Bench
from edgesdk.devices.estimate import predicted
from edgesdk.devices.profile_prices import ProfilePrices
from edgesdk.price.profile import Predicted


class Forecast(ProfilePrices):
    """What is asked of a ``Bench``, answered from a profile. Only the file itself is looked at on this machine."""

    version = NOT_RUN
    reference_ms = None
    notes: tuple[str, ...] = ()

    def __init__(self, target: Target, agent: AgentProcess, threads: int, runtime: str) -> None:
        self.here: Bench = Bench(agent, runtime=find_runtime(runtime).here)
        self.runtime: str = runtime
        self.threads: int = threads
        super().__init__(target, runtime, threads)
        self.conditions: dict[str, str] = {"target": target.name, "runtime": runtime, "threads": str(threads)}

    def measure(
        self,
        artifacts: Mapping[str, Artifact],
        mode: str,
        baselines: Mapping[str, Path] | None = None,
        thorough: bool = True,
        seconds: float | None = None,
    ) -> dict[str, Prediction]:
        """What each artifact is predicted to cost on the target, in its own runtime."""
        predictions = {}
        for name, artifact in artifacts.items():
            if artifact.graph is None:
                raise DeviceError(f"what is in {artifact.path.name} is not known", "estimate an .onnx file instead")
            prices = Predicted(self._prices.profile, artifact.runtime, self.threads)
            cost = predicted(artifact.graph, artifact.options, prices, exact=False)
            predictions[name] = Prediction(
                name=name,
                digest=artifact.digest,
                size_bytes=artifact.size_bytes,
                runtime=artifact.runtime,
                runtime_version=self.version,
                threads=self.threads,
                median_ms=cost.latency_ms,
                low_ms=cost.latency_low_ms,
                high_ms=cost.latency_high_ms,
                peak_memory_bytes=cost.peak_memory_bytes,
                runtime_memory_bytes=cost.runtime_memory_bytes,
                provenance=cost.provenance,
                sources=cost.sources,
                notes=cost.notes,
            )
        return {
            name: replace(prediction, ratios=_ratios(prediction, predictions))
            for name, prediction in predictions.items()
        }

    @property
    def has_energy(self) -> bool:
        return False

    def measure_energy(self, artifacts: Mapping[str, Artifact], mode: str) -> Mapping[str, Energy]:
        """Nothing: a profile knows of no power."""
        return {}

    def answer(self, artifact: Artifact, samples: Sequence[Arrays]) -> list[Arrays]:
        """What the runtime at hand answers: nothing runs on the target."""
        return self.here.answer(artifact, samples)

    def kernels(self, artifact: Artifact) -> list[dict[str, Any]]:
        """The kernels with which the file runs on the machine at hand, in its runtime or one that reads such files."""
        return self.here.kernels(artifact)

    def profile(self, artifact: Artifact, layers: Mapping[str, tuple[str, ...]] | None = None) -> None:
        """Nothing: nothing runs on the target."""


def _ratios(own: Prediction, predictions: Mapping[str, Prediction]) -> dict[str, Ratio]:
    """What is predicted of ``own`` as shares of all others."""
    shares = {name: own.median_ms / other.median_ms for name, other in predictions.items() if other is not own}
    return {name: Ratio(share, share, share, rounds=0) for name, share in shares.items()}
