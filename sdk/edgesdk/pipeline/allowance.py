"""How much a run may train, and what is left of that."""

from __future__ import annotations

from math import inf

from edgesdk.core.errors import UsageError

SHORT_SHARE = 0.3  # of the epochs and of the time, to tell finalists apart
AT_ONCE = 0.7  # of what is left of that, for those that are compared now
ROUNDS_SHARE = 0.6  # of the epochs and of the time, to cut in rounds
FULL_SHARE = 0.9  # of what is left, for the first that is trained in full: another may have to be


def check_epochs(epochs: float) -> None:
    """Raises ``UsageError`` for what is no number of epochs."""
    if not 0 <= epochs < inf:
        raise UsageError(f"{epochs:g} epochs", "give 0 for none, or more")


class Allowance:
    """``epochs`` of training in all."""

    def __init__(self, epochs: float) -> None:
        self.epochs: float = epochs
        self.spent: float = 0.0
        self._short = 0.0  # of what is spent

    def short(self, share: float, units: float) -> float:
        """Take the epochs of a short training: a ``share`` of a unit, where what is compared now takes ``units``."""
        left = SHORT_SHARE * self.epochs - self._short
        epochs = share * max(0.0, min(0.5 * SHORT_SHARE * self.epochs, AT_ONCE * left / units))
        self._short += epochs
        self.spent += epochs
        return epochs

    def round(self, rounds: int) -> float:
        """Take the epochs of one of so many rounds of cutting."""
        epochs = max(0.0, min(ROUNDS_SHARE * self.epochs / rounds, self.epochs - self.spent))
        self.spent += epochs
        return epochs

    def full(self) -> float:
        """Take the epochs of a training in full."""
        epochs = FULL_SHARE * max(0.0, self.epochs - self.spent)
        self.spent += epochs
        return epochs
