"""How much a run may train and how long it may take, and what is left of both."""

from __future__ import annotations

import re
import time

from edgesdk.core.errors import UsageError

SHORT_SHARE = 0.3  # of the epochs and of the time, to tell finalists apart
AT_ONCE = 0.7  # of what is left of that, for those that are compared now
FULL_SHARE = 0.9  # of what is left, for the first that is trained in full: another may have to be
ENDING_SHARE = 0.1  # of the time, to export, prove, measure and pack
UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class Allowance:
    """``epochs`` of training in all and ``seconds`` for the whole run, ``None`` being without end.

    The run has ``begun`` at that time of the monotonic clock, by default now.
    """

    def __init__(self, epochs: float, seconds: float | None = None, begun: float | None = None) -> None:
        self.epochs: float = epochs
        self.spent: float = 0.0
        self._short = 0.0  # of what is spent
        self._begun = time.monotonic() if begun is None else begun
        self._seconds = seconds

    def short(self, share: float, units: float) -> float:
        """Take the epochs of a short training: a ``share`` of a unit, where what is compared now takes ``units``."""
        left = SHORT_SHARE * self.epochs - self._short
        epochs = share * max(0.0, min(0.5 * SHORT_SHARE * self.epochs, AT_ONCE * left / units))
        self._short += epochs
        self.spent += epochs
        return epochs

    def full(self) -> float:
        """Take the epochs of a training in full."""
        epochs = FULL_SHARE * max(0.0, self.epochs - self.spent)
        self.spent += epochs
        return epochs

    def until(self, share: float) -> float | None:
        """When, on the monotonic clock, a training ends that may take a ``share`` of the time that is left for any."""
        if self._seconds is None:
            return None
        now, end = time.monotonic(), self._begun + (1 - ENDING_SHARE) * self._seconds
        return now + share * max(0.0, end - now)

    @property
    def late(self) -> bool:
        """Whether so much of the time is gone that what is left of it should go to training what was found."""
        return self._seconds is not None and time.monotonic() > self._begun + 0.5 * self._seconds


def parse_seconds(text: str) -> float:
    """Seconds in ``text``, like 10min, 90s or 1.5h. Raises ``UsageError`` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]+)\s*", text)
    if not match or match[2] not in UNITS or not 0 < float(match[1]) < 1e6:
        raise UsageError(f"--time {text!r} is no time", "write it like 90s, 10min or 1.5h")
    return float(match[1]) * UNITS[match[2]]
