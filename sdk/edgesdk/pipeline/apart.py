"""Candidates that are fitted and learn at once: where, what each is sent, and what comes back."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from edgesdk.compress.integers import Grid
from edgesdk.core.cluster import LOCAL, Cluster
from edgesdk.core.errors import EdgeSdkWarning
from edgesdk.core.plan import Option, Plan
from edgesdk.core.processes import Job, Processes, Progress, Unsendable
from edgesdk.core.turns import Ask
from edgesdk.data.data import Data
from edgesdk.data.orders import Order, set_order
from edgesdk.data.task import Task
from edgesdk.network.load import Imported
from edgesdk.network.network import Network
from edgesdk.network.placement import CPU
from edgesdk.network.reference import same_random_numbers
from edgesdk.pipeline.setup import Setup
from edgesdk.train.apply import fit, learn
from edgesdk.train.recovery import Recovery
from edgesdk.train.resumption import Kept
from edgesdk.train.trainer import Recovered


@dataclass(frozen=True)
class Shared:
    """What every candidate needs, sent to each process once: the dense ``network``, the data to learn from, and how.

    ``threads`` are those of PyTorch that each process has, ``files`` the user's own that objects in it are of.
    """

    files: Imported
    network: Network
    data: Data
    task: Task
    recovery: Recovery
    seed: int
    device: torch.device
    threads: int

    @classmethod
    def of(cls, setup: Setup, recovery: Recovery, seed: int = 0, device: torch.device = CPU) -> Shared:
        """What the model of ``setup`` learns by ``recovery``, without the samples that judge: none is judged there."""
        data = replace(setup.data, holdout=[], test=[])
        return cls(Imported.now(), setup.network, data, setup.task, recovery, seed, device, torch.get_num_threads())


@dataclass(frozen=True)
class Candidacy:
    """A candidate to be learnt for ``epochs``: its plan, the ``network`` that it makes, and that as it was ``fitted``,
    where it was. ``order`` is where the training data begin, ``fit_seconds`` and ``seconds`` what it may take. Where
    nothing is learnt blocks are fitted if it ``reconstructs``.
    """

    plan: Plan
    network: Network
    fitted: Network | None
    options: Mapping[str, Option]
    grid: Grid
    scores: Mapping[str, Tensor]
    epochs: float
    rounding: str | None
    order: Order | None
    kept_fit: Kept | None
    kept: Kept | None
    fit_seconds: float | None
    seconds: float | None
    reconstructs: bool = False


@dataclass(frozen=True)
class Learnt:
    """What a candidate came to, the network as it was ``fitted``, and whether the time ended that."""

    recovered: Recovered
    fitted: Network
    fit_was_cut: bool


def learn_apart(shared: Shared, given: Candidacy, progress: Progress) -> Learnt:
    """A candidate fitted and learnt in another process, with its share of the threads."""
    torch.set_num_threads(shared.threads)
    return _learn(shared, given, progress)


def _learn(shared: Shared, given: Candidacy, progress: Progress) -> Learnt:
    """A candidate fitted and learnt, as :meth:`edgesdk.pipeline.training.Training.recover` does it."""
    set_order(shared.data.train, given.order)
    begun = time.monotonic()
    fitted, was_cut = given.fitted, False
    if fitted is None:
        calibration = [x for x, _ in shared.data.calibration]
        until = None if given.fit_seconds is None else begun + given.fit_seconds
        fitted = fit(
            given.plan, shared.network, given.network, given.scores, calibration, until=until, kept=given.kept_fit,
            device=shared.device,
        )  # fmt: skip
        was_cut = until is not None and time.monotonic() >= until
    recovered = learn(
        given.plan, shared.network, fitted, given.options, shared.data, shared.task, given.epochs, shared.seed,
        lambda share, what: progress(share), grid=given.grid, recovery=shared.recovery, rounding=given.rounding,
        kept=given.kept, until=None if given.seconds is None else begun + given.seconds,
        scores=given.scores if given.reconstructs else None, device=shared.device,
    )  # fmt: skip
    return Learnt(recovered, fitted, was_cut)


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
            return _learn(self._shared, job.given, lambda share: progress((number + share) / count))


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
