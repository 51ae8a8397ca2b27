"""What the SDK asks of a device, of a pool of alike boards: operators are shared out, files are measured on each."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgesdk.core.artifact import Artifact
from edgesdk.core.budget import show
from edgesdk.core.energy import Energy
from edgesdk.core.errors import DeviceError, EdgeSdkError
from edgesdk.core.kernels import KernelProfile
from edgesdk.core.report import Report, Tell
from edgesdk.core.runtime import find_runtime
from edgesdk.devices.answers import Arrays
from edgesdk.devices.bench import Bench
from edgesdk.devices.boards import Board, Boards, list_differences, prices_folder, side_by_side
from edgesdk.devices.meter import Progress
from edgesdk.devices.pool_prices import PoolPrices
from edgesdk.devices.pools import Pool
from edgesdk.price.operator import Operator
from edgesdk.price.operators import baseline
from edgesdk.price.prices import Prices

CONTROLS = 8  # operators that every board times, of kinds that are not known of each yet, at most
BATCH = 8  # operators that a board takes at a time, at least
AHEAD = 0.5  # of its even share of what is left, that a board takes at a time: the last are small, so all end together

Opening = Callable[[Board, Path], Bench]


class PoolBench:
    """The ``boards`` of a pool as one device, a bench on each as ``opening`` makes it with a folder for its prices.

    The slowest counts. A board that fails drops out, and what it had begun another one does; ``boards.notes`` and the
    notes of every report say so. Raises ``DeviceError`` where the runtime is missing.
    """

    def __init__(self, boards: Boards, opening: Opening) -> None:
        self.boards: Boards = boards
        self.benches: dict[str, Bench] = {}
        opened = side_by_side(boards.left, lambda board, tell: opening(board, prices_folder(board.device)))
        for board in boards.left:
            result = opened[board.name]
            if isinstance(result, EdgeSdkError):
                raise result
            self.benches[board.name] = result
        first = next(iter(self.benches.values()))
        self.runtime: str = first.runtime
        self.threads: int = first.threads
        self.version: str = first.version
        facts = {name: bench.facts for name, bench in self.benches.items()}
        self._differences: tuple[str, ...] = tuple(list_differences(facts, [self.runtime]))
        self._names = ", ".join(sorted(board.device.address for board in boards.every))
        self._prices = PoolPrices({name: bench.table for name, bench in self.benches.items()})
        self._lock = threading.Lock()

    @property
    def conditions(self) -> Mapping[str, str]:
        """Those of the first board, and which boards there are."""
        return {**next(iter(self.benches.values())).conditions, "pool": self._names}

    @property
    def reference_ms(self) -> float | None:
        """What the references take on the slowest board, undisturbed."""
        return self._prices.reference_ms

    @property
    def has_energy(self) -> bool:
        """Whether a board is left that has a meter which can be read."""
        return any(self.benches[board.name].has_energy for board in self.boards.left)

    @property
    def notes(self) -> tuple[str, ...]:
        """In what the boards differ, by what they are and by what they take, and which dropped out."""
        differ = (*self._differences, *self._prices.list_differences())
        return (*self.boards.tell_differences(differ), *self.boards.notes)

    def prices(self, weights: int) -> Prices:
        """What operators take on the slowest; of a runtime that builds engines, by the profile."""
        if find_runtime(self.runtime).engines:
            return next(iter(self.benches.values())).prices(weights)
        return self._prices

    def time(
        self,
        operators: Sequence[Operator],
        probe: Callable[[Operator], bytes],
        progress: Progress = lambda share: None,
        again: bool = False,
        seconds: float | None = None,
    ) -> int:
        """Time what has no price yet of ``operators``, or all ``again``, each on one board, and a few on each."""
        if find_runtime(self.runtime).engines:
            return 0
        until = None if seconds is None else time.monotonic() + seconds
        distinct = list({op.key: op for op in operators if op.probed}.values())
        wanted = distinct if again else self._prices.list_missing(distinct)
        if not wanted:
            return 0
        controls = self._choose_controls(wanted) if len(self.boards.left) > 1 else []
        rest = [op for op in wanted if op not in controls]
        queue = deque(self._share_out(rest))
        total, counts = len(rest) + 1, list[int]()
        timed: list[tuple[str, list[Operator]]] = []

        def alone(op: Operator) -> bytes:  # what writes a probe is one thread's at a time
            with self._lock:
                return probe(op)

        def left() -> float | None:
            return None if until is None else until - time.monotonic()

        def work(board: Board, tell: Tell) -> None:
            bench = self.benches[board.name]
            if controls:
                counts.append(bench.time(controls, alone, again=again, seconds=left()))
            while (seconds := left()) is None or seconds > 0:
                try:
                    batch = queue.popleft()
                except IndexError:
                    return
                try:
                    counts.append(bench.time(batch, alone, again=again, seconds=seconds))
                except BaseException:
                    queue.appendleft(batch)  # another board's, then
                    raise
                timed.append((board.name, batch))
                tell("pricing", sum(len(each) for _, each in timed) / total)

        def told(stage: str, share: float | None) -> None:
            progress(share or 0.0)

        self.boards.each(work, told)
        while queue and ((seconds := left()) is None or seconds > 0):  # what a board left that failed last
            self.boards.each(work, told)
        if again:
            for name, batch in timed:
                self._prices.keep_alone(name, batch)
        self._prices.update()
        progress(1.0)
        return sum(counts)

    def _choose_controls(self, wanted: Sequence[Operator]) -> list[Operator]:
        """One of each kind and precision that is wanted, as many as are few; none of a kind that all have timed."""
        tables = [self.benches[board.name].table for board in self.boards.left]
        kinds = {(op.kind, op.precision): op for op in reversed(wanted)}
        known = {(op.kind, op.precision) for op in wanted if all(table.has_price(op) for table in tables)}
        return [op for kind, op in kinds.items() if kind not in known][:CONTROLS]

    def _share_out(self, operators: Sequence[Operator]) -> list[list[Operator]]:
        """Batches of ``operators``, each smaller than the one before.

        Those with the same baseline are together, so that it is timed on few boards.
        """
        groups: dict[str, list[Operator]] = {}
        for op in operators:
            groups.setdefault(baseline(op).key, []).append(op)
        ordered = [op for group in groups.values() for op in group]
        batches: list[list[Operator]] = []
        while ordered:
            size = max(BATCH, round(AHEAD * len(ordered) / len(self.boards.left)))
            batches.append(ordered[:size])
            del ordered[:size]
        return batches

    def measure(
        self,
        artifacts: Mapping[str, Artifact],
        mode: str,
        baselines: Mapping[str, Path] | None = None,
        thorough: bool = True,
        seconds: float | None = None,
    ) -> dict[str, Report]:
        """Each artifact's report from the board on which it takes longest, with the most memory that any took.

        Its notes say what each board measured. A board whose run is invalid counts where there is no other.
        """

        def work(board: Board, tell: Tell) -> dict[str, Report]:
            return self.benches[board.name].measure(artifacts, mode, baselines, thorough, seconds)

        taken = self.boards.each(work)
        return {name: self._join({board: reports[name] for board, reports in taken.items()}) for name in artifacts}

    def _join(self, reports: Mapping[str, Report]) -> Report:
        slowest = max(reports, key=lambda board: (reports[board].valid, reports[board].latency_ms()))
        report = reports[slowest]
        each = ", ".join(f"{board} {show('latency_ms', own.latency_ms())}" for board, own in reports.items())
        note = f"the slowest of {self.boards.pool.name} counts, {slowest}: {each}"
        memories = [own.peak_memory_bytes for own in reports.values() if own.peak_memory_bytes is not None]
        most = max(memories, default=None)
        return replace(report, peak_memory_bytes=most, notes=(*report.notes, note, *self.notes))

    def measure_energy(self, artifacts: Mapping[str, Artifact], mode: str) -> Mapping[str, Energy]:
        """What a run takes on the first board that has a meter."""
        return self.boards.on_one(lambda board: self.benches[board.name].measure_energy(artifacts, mode))

    def answer(self, artifact: Artifact, samples: Sequence[Arrays]) -> list[Arrays]:
        """What one of the boards answers."""
        return self.boards.on_one(lambda board: self.benches[board.name].answer(artifact, samples))

    def kernels(self, artifact: Artifact) -> list[dict[str, Any]]:
        """The kernels that one of the boards executes."""
        return self.boards.on_one(lambda board: self.benches[board.name].kernels(artifact))

    def profile(self, artifact: Artifact, layers: Mapping[str, tuple[str, ...]] | None = None) -> KernelProfile | None:
        """What the profiler tells on one of the boards."""
        return self.boards.on_one(lambda board: self.benches[board.name].profile(artifact, layers))


def check_alike(pool: Pool, facts: Mapping[str, Mapping[str, Any]], runtimes: Sequence[str] | None) -> None:
    """Raise ``DeviceError``, saying how, where the boards of ``pool`` differ in what prices depend on."""
    if differences := list_differences(facts, runtimes):
        fact = f"the boards of {pool.name} are not alike: {'; '.join(differences)}"
        raise DeviceError(fact, "make a pool of each kind, bring them to the same state, or give --force")
