"""What a study asks about a device, whether it is at hand or known from a profile alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from edgesdk.core.artifact import Artifact
from edgesdk.core.energy import Energy
from edgesdk.core.kernels import KernelProfile
from edgesdk.core.report import Measurement
from edgesdk.devices.answers import Arrays
from edgesdk.price.operator import Operator
from edgesdk.price.prices import Prices

Progress = Callable[[float], None]


class Meter(Protocol):
    """Says what files take in one runtime with a fixed number of threads.

    A ``Bench`` measures that on a device, a ``Forecast`` predicts it from a profile.
    """

    @property
    def runtime(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def version(self) -> str:
        """The runtime's."""
        ...

    @property
    def conditions(self) -> Mapping[str, str]:
        """All that the figures depend on."""
        ...

    @property
    def reference_ms(self) -> float | None:
        """What the references take in the device's undisturbed state, as is known by now; ``None`` without any."""
        ...

    @property
    def has_energy(self) -> bool:
        """Whether the device has a meter of its energy that can be read."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its figures must know, as of now: in what the boards of a pool differ, who dropped out."""
        ...

    def prices(self, weights: int) -> Prices:
        """What operators take, in a network of so many weights."""
        ...

    def time(
        self,
        operators: Sequence[Operator],
        probe: Callable[[Operator], bytes],
        progress: Progress = lambda share: None,
        again: bool = False,
        seconds: float | None = None,
    ) -> int:
        """Time what has no price yet of ``operators``, or all ``again``; how many probes that took.

        In order, and for about ``seconds`` at most, where so many are given.
        """
        ...

    def measure(
        self,
        artifacts: Mapping[str, Artifact],
        mode: str,
        baselines: Mapping[str, Path] | None = None,
        thorough: bool = True,
        seconds: float | None = None,
    ) -> Mapping[str, Measurement]:
        """What each artifact takes, compared with each other; ``thorough`` with its cold load, where that is known.

        Where ``seconds`` are given, that is cut short so that it takes about so long at most.
        """
        ...

    def measure_energy(self, artifacts: Mapping[str, Artifact], mode: str) -> Mapping[str, Energy]:
        """What a run of each takes in energy; nothing where the device has no meter that can be read."""
        ...

    def answer(self, artifact: Artifact, samples: Sequence[Arrays]) -> list[Arrays]:
        """What the device itself answers to each of ``samples``: arrays for the file's inputs, in their order."""
        ...

    def kernels(self, artifact: Artifact) -> list[dict[str, Any]]:
        """The kernels that a runtime executes of the file: name, operator, provider, share of the time."""
        ...

    def profile(self, artifact: Artifact, layers: Mapping[str, tuple[str, ...]] | None = None) -> KernelProfile | None:
        """What the runtime's profiler tells of the file, by the names of ``layers``, with what the file calls
        the tensors that each makes; ``None`` where nothing runs.

        Raises ``DeviceError`` where it has none that works.
        """
        ...
