"""Where candidates learn at once: in this process, in others, on a cluster, or in turn with those of other points."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from edgesdk.core.cluster import LOCAL, Cluster
from edgesdk.core.errors import EdgeSdkWarning
from edgesdk.core.processes import Job, Processes, Progress, Unsendable
from edgesdk.core.turns import Ask
from edgesdk.network.reference import same_random_numbers
from edgesdk.pipeline.apart import Learnt, Shared, learn_apart, learn_here


class Learners(Protocol):
    """Where candidates learn that are described for it; ``together`` says that one alone does, too, since others may
    at the same time. ``has_disk`` says whether this machine's is there."""

    @property
    def together(self) -> bool: ...

    @property
    def has_disk(self) -> bool: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: object) -> None: ...

    def open(self, count: int) -> int:
        """How many of so many candidates learn at a time; 0 where each does as well when it is its turn."""
        ...

    def told(self, count: int) -> str:
        """In how many processes so many learn, and where: in words, with a space before them."""
        ...

    def run(self, jobs: Sequence[Job], progress: Progress) -> list[Learnt]:
        """What the candidates of ``jobs``, each a :class:`Candidacy`, come to, in their order."""
        ...


class Workers:
    """``jobs`` processes of this machine, or the nodes of a Ray ``cluster``, where candidates of one model learn.

    They are opened for the first that are to learn at once, and are there until :meth:`close`. With one process, or for
    one candidate, it is this one that they learn in, and so it is, after a warning, for what cannot be sent to another.
    Raises the errors of :class:`Processes` and :class:`Cluster`.
    """

    together = False

    def __init__(self, shared: Shared, jobs: int = 1, cluster: str | None = None) -> None:
        self.jobs: int = jobs
        self.cluster: str | None = cluster
        self._shared = shared
        self._opened: Processes | Cluster | None = None

    @property
    def has_disk(self) -> bool:
        return self.cluster is None  # a node's disk is another one

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, or leave the cluster."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def rest(self) -> None:
        """Let nothing that takes time of this machine be there until candidates learn again: a measurement comes."""
        if self.cluster == LOCAL:  # whose own processes are at work even when no task is
            self.close()

    def open(self, count: int) -> int:
        if self.cluster is None and min(self.jobs, count) < 2:
            return 0
        if self._opened is None:
            try:
                self._opened = self._open()
            except Unsendable as error:
                self._stay_here(error)
                return 0
        return min(self._opened.count, count)

    def _open(self) -> Processes | Cluster:
        if self.cluster is not None:
            shared, gpu = self._shared, self._shared.device.type == "cuda"
            return Cluster(self.cluster, learn_apart, shared, shared.threads, gpu)
        threads = max(1, self._shared.threads // self.jobs)  # those of one machine are shared out
        return Processes(self.jobs, learn_apart, replace(self._shared, threads=threads))

    def _stay_here(self, error: Unsendable) -> None:
        self.close()
        self.jobs, self.cluster = 1, None
        fact = f"the model, data or loss cannot be sent to another process ({error})"
        warnings.warn(f"{fact}: candidates learn one after another, in this one", EdgeSdkWarning, stacklevel=2)

    def told(self, count: int) -> str:
        at_once = self.open(count)
        where = "" if self.cluster is None else f" on {self.cluster},"
        return f"{where} in {at_once} process{'es' * (at_once > 1)} at a time" if at_once else ""

    def run(self, jobs: Sequence[Job], progress: Progress = lambda share: None) -> list[Learnt]:
        if self.open(len(jobs)):
            assert self._opened is not None
            try:
                return self._opened.run(jobs, progress)
            except Unsendable as error:
                self._stay_here(error)
        return [self._learn_here(job, number, len(jobs), progress) for number, job in enumerate(jobs)]

    def _learn_here(self, job: Job, number: int, count: int, progress: Progress) -> Learnt:
        with same_random_numbers():  # as where another process draws them
            return learn_here(self._shared, job.given, lambda share: progress((number + share) / count))


class InTurn:
    """The candidates of one of several programs that take turns, which ``ask`` for what they come to."""

    together = True

    def __init__(self, workers: Workers, ask: Ask, name: str) -> None:
        self._workers, self._ask, self._name = workers, ask, name

    def __enter__(self) -> InTurn:
        return self

    def __exit__(self, *_: object) -> None:
        """The workers are there for the other programs, too."""

    @property
    def has_disk(self) -> bool:
        return self._workers.has_disk

    def open(self, count: int) -> int:
        return 1

    def told(self, count: int) -> str:
        return ""

    def run(self, jobs: Sequence[Job], progress: Progress = lambda share: None) -> list[Learnt]:
        return self._ask([replace(job, name=f"{self._name}: {job.name}") for job in jobs])
