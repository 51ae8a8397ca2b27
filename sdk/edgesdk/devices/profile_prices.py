"""Prices of operators by a target's profile, where none is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgesdk.core.target import Target
from edgesdk.devices.meter import Progress
from edgesdk.price.operator import Operator
from edgesdk.price.profile import Predicted, profile


class ProfilePrices:
    """What of a ``Meter`` prices operators, by the profile of ``target``. Raises ``DeviceError`` where that has no
    prices for ``runtime`` and so many ``threads``."""

    def __init__(self, target: Target, runtime: str, threads: int) -> None:
        self._prices = Predicted(profile(target), runtime, threads)

    def prices(self, weights: int) -> Predicted:
        """Every operator's price by the profile, in a network of so many weights."""
        return Predicted(self._prices.profile, self._prices.runtime, self._prices.threads, weights)

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
