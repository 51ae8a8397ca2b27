"""A device whose runtime builds an engine of each file: files are measured there, operators priced by a profile."""

from __future__ import annotations

from edgesdk.core.target import Target
from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.bench import Bench
from edgesdk.devices.profile_prices import ProfilePrices


class EngineBench(ProfilePrices, Bench):
    """A ``Bench`` that times no operators: an engine of each would take seconds to build, and tell little.

    What TensorRT fuses, it fuses across operators. So a search begins with the ``target``'s profile, which what whole
    networks are measured at corrects, as it does everywhere.
    """

    def __init__(self, target: Target, agent: AgentProcess, threads: int, runtime: str, dla: int | None = None) -> None:
        ProfilePrices.__init__(self, target, runtime, threads)
        Bench.__init__(self, agent, threads, runtime, dla=dla)

    @property
    def conditions(self) -> dict[str, str]:
        """All that the figures depend on, the power mode with it: a GPU's clock hangs on that."""
        mode = (self.facts.get("conditions") or {}).get("power_mode")
        return {**super().conditions, **({"power mode": str(mode)} if mode else {})}

    @property
    def has_energy(self) -> bool:
        """No: a process runs the engine many times, and loads it before, which a meter does not tell apart."""
        return False
