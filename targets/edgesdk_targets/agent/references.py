"""Reference models, visited between all others: they tell how fast the device is at the moment."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any, Callable, Sequence

from edgesdk_targets.agent import clock, files, undisturbed
from edgesdk_targets.agent.protocol import USAGE, AgentError

VISIT_SECONDS = 5e-5  # of each reference, so that all of them take less than the device stays as it is
LEAST_RUNS, MOST_RUNS = 3, 50
SETTLING_SECONDS = 0.3  # of visits before anything else, so that the lowest mode is seen early


class References:
    """Tiny models of one runtime, loaded to be visited; without any, the device counts as undisturbed.

    ``known_ms`` is what they took undisturbed in an earlier run. They run on one thread, whatever others do: a pool of
    theirs would take the cores from what is timed.
    """

    def __init__(self, runner: Any, models: Sequence[dict[str, str]], known_ms: float | None = None) -> None:
        self.lowest = known_ms * 1e6 if known_ms else math.inf
        self.levels: list[float] = []
        self._runs: list[tuple[Callable[[], object], int]] = []
        for model in models:
            run = runner.load(files.source(model), 1).bind()
            self._runs.append((run, clock.runs_in(run, VISIT_SECONDS, LEAST_RUNS, MOST_RUNS)))
        end = perf_counter() + SETTLING_SECONDS
        while self._runs and perf_counter() < end:
            self.visit()
        self.refresh()

    def __bool__(self) -> bool:
        return bool(self._runs)

    def visit(self) -> float:
        """What they take now, in ns: the geometric mean of a low quantile of a few runs of each."""
        if not self._runs:
            return 1.0
        total = 0.0
        for run, count in self._runs:
            total += math.log(clock.visit(run, count))
        self.levels.append(math.exp(total / len(self._runs)))
        return self.levels[-1]

    def refresh(self) -> None:
        """Find the undisturbed level anew, from all visits so far.

        Where none is seen as low as the one that is known, the device is disturbed all the time.
        """
        self.fast = min(self.lowest, undisturbed.undisturbed(self.levels)) if self._runs else 1.0

    def is_slow(self, level: float) -> bool:
        """Whether the device is disturbed where the references take ``level``."""
        return level > self.fast * math.exp(undisturbed.TOLERANCE)

    def wait(self, seconds: float) -> tuple[float, float]:
        """Visit them until the device is undisturbed, for ``seconds`` at most: the last level, and how long it took."""
        begin = perf_counter()
        level = self.visit()
        while self.is_slow(level) and perf_counter() - begin < seconds:
            level = self.visit()
        return level, perf_counter() - begin

    def result(self) -> dict[str, Any] | None:
        """What they took undisturbed, in ms, and the share of their own visits that were disturbed."""
        if not self._runs:
            return None
        self.refresh()
        slow = sum(map(self.is_slow, self.levels)) / len(self.levels)
        return {"ms": self.fast / 1e6, "disturbed": slow, "visits": len(self.levels)}


def check(models: Any, known_ms: Any) -> None:
    """Raise ``AgentError`` unless ``models`` is a list of models, and ``known_ms`` a time or ``None``."""
    if not isinstance(models, (list, tuple)) or not all(isinstance(model, dict) for model in models):
        raise AgentError(USAGE, "the references are no list of models", 'give {"path"} or {"model"} of each')
    if known_ms is not None and not (isinstance(known_ms, (int, float)) and 0 < known_ms < math.inf):
        raise AgentError(USAGE, f"{known_ms!r} is no time of the references", "give milliseconds, or leave it out")
