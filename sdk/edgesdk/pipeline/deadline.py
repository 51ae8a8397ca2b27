"""The time that a run may take, what each of its stages may take of it, and what was cut to keep it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from edgesdk.core.errors import UsageError
from edgesdk.core.wording import listed

PRICING, SENSITIVITY, SEARCH, LEARNING = "pricing", "sensitivity", "search", "learning"
STAGES = {PRICING: 0.30, SENSITIVITY: 0.15, SEARCH: 0.20, LEARNING: 0.35}
"""The stages of a run in order, with what each may take of the time between the first and the ending."""
ENDING_SHARE, MOST_ENDING = 0.1, 0.5  # of the whole time, to export, prove, measure and pack: at least, and at most
MEASURING_SHARE, MEASURING_SECONDS = 0.15, 20.0  # of that, to measure the last file: of the whole time, and at most
UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class Deadline:
    """``seconds`` for a whole run, ``None`` being without end, that has ``begun`` at that time of the ``clock``.

    Each stage has a mark at which it ends at the latest; one that ends before leaves its time to those behind it. The
    time that the first of them has begun, and what the ending is known to take, are settled by :meth:`plan`.
    """

    def __init__(
        self, seconds: float | None = None, begun: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds: float | None = seconds
        self.clock: Callable[[], float] = clock
        self.cuts: list[str] = []
        self._begun = self._first = clock() if begun is None else begun
        self._ending = ENDING_SHARE * (seconds or 0.0)
        self._least: float | None = None  # seconds that the run takes whatever is cut, where they are more

    @classmethod
    def of(cls, time: float | str | Deadline | None) -> Deadline:
        """What is given as a time, from now on unless it has begun: seconds, text like 10min, nothing for no end."""
        if isinstance(time, Deadline):
            return time
        return cls(parse_seconds(time) if isinstance(time, str) else time)

    def plan(self, ending_seconds: float) -> None:
        """Share out what is left from now on; the ending takes ``ending_seconds`` before it measures the last file."""
        if self.seconds is not None:
            self._first = self.clock()
            ending = ending_seconds + min(MEASURING_SHARE * self.seconds, MEASURING_SECONDS)
            self._ending = min(max(ENDING_SHARE * self.seconds, ending), MOST_ENDING * self.seconds)

    def find_shortfall(self, ending_seconds: float) -> str | None:
        """In a line, that the time cannot be kept and what is the least, where it ends in ``ending_seconds`` if all is
        cut that can be; ``None`` where that is in time."""
        least = self.clock() - self._begun + ending_seconds
        if self.seconds is None or least <= self.seconds:
            return None
        self._least = least
        return f"{self._cannot}: it ends as soon as it can"

    @property
    def _cannot(self) -> str:
        asked, least = show_seconds(self.seconds or 0.0), show_seconds(float(f"{self._least or 0.0:.2g}"))
        return f"{asked} cannot be kept, as reading, tracing and writing files take about {least} at the least"

    def until(self, stage: str = LEARNING) -> float | None:
        """When ``stage`` ends at the latest, on the clock; ``None`` where no time was given."""
        if self.seconds is None:
            return None
        names = list(STAGES)
        share = sum(STAGES[name] for name in names[: names.index(stage) + 1])
        return self._first + share * max(0.0, self._begun + self.seconds - self._ending - self._first)

    def is_over(self, stage: str = LEARNING) -> bool:
        """Whether ``stage`` has no time left; of the last, whether all but the ending is over."""
        end = self.until(stage)
        return end is not None and self.clock() >= end

    def ends(self, stage: str, what: str) -> bool:
        """Whether ``stage`` is over, which is noted as having cut ``what``."""
        over = self.is_over(stage)
        if over:
            self.note_cut(what)
        return over

    def share_out(self, share: float) -> float | None:
        """When what may take a ``share`` of the time that is left before the ending ends at the latest."""
        end = self.until()
        if end is None:
            return None
        now = self.clock()
        return now + share * max(0.0, end - now)

    def left(self, stage: str | None = None) -> float | None:
        """Seconds until ``stage`` ends, without one until the run does; ``None`` where no time was given."""
        if self.seconds is None:
            return None
        end = self._begun + self.seconds if stage is None else self.until(stage)
        return max(0.0, (end or 0.0) - self.clock())

    def note_cut(self, what: str) -> None:
        """Remember that the time cut ``what``."""
        if what not in self.cuts:
            self.cuts.append(what)

    @property
    def note(self) -> str | None:
        """In a line, what was cut to keep the time; ``None`` where nothing was."""
        if self._least is not None:
            return f"{self._cannot}: the run cut {listed(self.cuts)}" if self.cuts else self._cannot
        if not self.cuts or self.seconds is None:
            return None
        return f"to end within {show_seconds(self.seconds)} the run cut {listed(self.cuts)}"


def show_seconds(seconds: float) -> str:
    """Seconds as people write them after --time."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def parse_seconds(text: str) -> float:
    """Seconds in ``text``, like 10min, 90s or 1.5h. Raises ``UsageError`` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]+)\s*", text)
    if not match or match[2] not in UNITS or not 0 < float(match[1]) < 1e6:
        raise UsageError(f"--time {text!r} is no time", "write it like 90s, 10min or 1.5h")
    return float(match[1]) * UNITS[match[2]]
