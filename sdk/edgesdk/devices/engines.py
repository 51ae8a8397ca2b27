"""A device whose runtime builds an engine of each file: files are measured there, operators priced by a profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgesdk.core.target import Target
from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.bench import Bench
from edgesdk.devices.meter import Progress
from edgesdk.price.operator import Operator
from edgesdk.price.profile import Predicted, profile


class EngineBench(Bench):
    """A ``Bench`` that times no operators: an engine of each would take seconds to build, and tell little.

    What TensorRT fuses, it fuses across operators. So a search begins with the ``target``'s profile, which what whole
    networks are measured at corrects, as it does everywhere.
    """

    def __init__(self, target: Target, agent: AgentProcess, threads: int, runtime: str, dla: int | None = None) -> None:
        super().__init__(agent, threads, runtime, dla=dla)
        self._prices = Predicted(profile(target), runtime, threads)  # says here what is wrong with either

    @property
    def conditions(self) -> dict[str, str]:
        """All that the figures depend on, the power mode with it: a GPU's clock hangs on that."""
        mode = (self.facts.get("conditions") or {}).get("power_mode")
        return {**super().conditions, **({"power mode": str(mode)} if mode else {})}

    @property
    def has_energy(self) -> bool:
        """No: a process runs the engine many times, and loads it before, which a meter does not tell apart."""
        return False

    def prices(self, weights: int) -> Predicted:  # type: ignore[override]
        """Every operator's price by the profile."""
        return Predicted(self._prices.profile, self.runtime, self.threads, weights)

    def time(
        self,
        operators: Sequence[Operator],
        probe: Callable[[Operator], bytes],
        progress: Progress = lambda share: None,
        again: bool = False,
        seconds: float | None = None,
    ) -> int:
        """Nothing: the profile has a price for each."""
        return 0
