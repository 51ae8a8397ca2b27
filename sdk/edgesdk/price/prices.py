"""What the search asks of prices in ms, whether operators were timed on the device or are known from a profile."""

from __future__ import annotations

from typing import Protocol

from edgesdk.price.operator import Operator


class Prices(Protocol):
    """Milliseconds of operators in one runtime on one device: a ``Table`` of timed ones, or ``Predicted`` ones."""

    @property
    def call_ms(self) -> float | None:
        """What a call costs beside its operators; ``None`` where that is not known apart from them."""
        ...

    def latency_ms(self, operator: Operator) -> float:
        """What one ``operator`` takes."""
        ...

    def error_ms(self, operator: Operator) -> float:
        """The standard error of that."""
        ...

    def is_timed(self, operator: Operator) -> bool:
        """Whether the price of ``operator`` was timed, so that it can be timed again where it is contradicted."""
        ...

    def has_price(self, operator: Operator) -> bool:
        """Whether it is known what ``operator`` takes: what the time to price did not suffice for is not on a menu."""
        ...
