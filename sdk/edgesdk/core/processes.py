"""What is many and independent, in processes of this machine: each task by itself, so that one lost costs no other."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from edgesdk.core.errors import EdgeSdkError, UsageError
from edgesdk.core.wording import said

TRIES = 2  # of a task whose process dies
GRACE = 5.0  # seconds for a process to end by itself
READY, SHARE, DONE, REFUSED, FAILED, UNREAD = "ready", "share", "done", "refused", "failed", "unread"

Progress = Callable[[float], None]
Work = Callable[[Any, Any, Progress], Any]
"""A function of a module: of what all tasks share, and a task's own; it tells how far it is."""


class Unsendable(Exception):
    """What is to be done holds something that another process cannot be sent."""


@dataclass(frozen=True)
class Job:
    """What ``name`` says is done of what is ``given``."""

    name: str
    given: Any


class Processes:
    """As many as ``count`` processes of this machine that do ``work``, what all ``shared`` sent to each once.

    They start when there is something to do, and are there until :meth:`close`. Raises ``Unsendable``, as :meth:`run`
    does, for what no process can be sent.
    """

    def __init__(self, count: int, work: Work, shared: Any) -> None:
        self.count: int = count
        self._shared: bytes = pickled((work, shared))
        self._workers: list[_Worker] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, tasks: Sequence[Job], progress: Progress = lambda share: None) -> list[Any]:
        """What each of ``tasks`` comes to, in their order; ``progress`` is told the share of all.

        A task whose process dies is done once more. Raises ``EdgeSdkError`` where that dies, too, and what a task
        itself raises; no process is left then.
        """
        try:
            return self._run(tasks, progress)
        except BaseException:
            self.close(at_once=True)
            raise

    def _run(self, tasks: Sequence[Job], progress: Progress) -> list[Any]:
        sent = [pickled(task.given) for task in tasks]
        waiting, tries = deque(range(len(tasks))), Counter[int]()
        results: dict[int, Any] = {}
        shares: dict[int, float] = {}
        while len(results) < len(tasks):
            while waiting and (worker := self._find_idle()):
                worker.take(number := waiting.popleft(), sent[number])
                tries[number] += 1
            busy = {worker.connection: worker for worker in self._workers if worker.task is not None}
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                number = worker.task
                assert number is not None
                try:
                    kind, value = unpickled(worker.connection.recv_bytes())
                except (EOFError, OSError):
                    self._workers.remove(worker)
                    if not worker.was_ready:
                        raise UsageError(_how_ended(worker, "a process for --jobs"), GUARD) from None
                    if tries[number] >= TRIES:
                        fact = f"{_how_ended(worker, tasks[number].name)}, and so when it was tried again"
                        raise EdgeSdkError(fact, "give fewer --jobs if the memory is too little for so many") from None
                    waiting.appendleft(number)
                    continue
                if kind == READY:
                    worker.was_ready = True
                elif kind == SHARE:
                    shares[number] = value
                    progress(sum(shares.values()) / len(tasks))
                elif kind == DONE:
                    results[number], shares[number], worker.task = value, 1.0, None
                    progress(sum(shares.values()) / len(tasks))
                elif kind == UNREAD:
                    raise Unsendable(value)
                elif kind == REFUSED:
                    raise value
                else:
                    raise RuntimeError(f"{tasks[number].name} failed in a process of its own:\n{value}")
        return [results[number] for number in range(len(tasks))]

    def _find_idle(self) -> _Worker | None:
        """A process that has nothing to do, a new one where there may be more; ``None`` where all are busy."""
        idle = next((worker for worker in self._workers if worker.task is None), None)
        if idle is None and len(self._workers) < self.count:
            idle = _Worker.start(self._shared)
            self._workers.append(idle)
        return idle

    def close(self, at_once: bool = False) -> None:
        """End all processes; what they are at is lost ``at_once``."""
        for worker in self._workers:
            worker.connection.close()  # which ends one that waits for a task
            if at_once:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(GRACE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()


GUARD = 'in a script of your own put what calls edgesdk below `if __name__ == "__main__":`'


@dataclass(eq=False)
class _Worker:
    """A process, the way to it, and the number of the task that it has."""

    process: BaseProcess
    connection: Connection
    task: int | None = None
    was_ready: bool = False

    @classmethod
    def start(cls, shared: bytes) -> _Worker:
        context = multiprocessing.get_context("spawn")
        own, its = context.Pipe()
        process = context.Process(target=_serve, args=(its,), daemon=True)
        process.start()
        its.close()
        with suppress(OSError):  # where it died at once, it is told by what it does not answer
            own.send_bytes(shared)
        return cls(process, own)

    def take(self, number: int, given: bytes) -> None:
        self.task = number
        with suppress(OSError):
            self.connection.send_bytes(given)


def count_cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # of macOS and Windows
        return os.cpu_count() or 1


def check_jobs(jobs: int) -> None:
    """Raise ``UsageError`` for a number of processes below 1, and in a script that a process for it is to read."""
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"{jobs!r} jobs", "give 1 or more")
    if jobs > 1 and getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError("a process that was started for --jobs would start others", GUARD)


def pickled(value: Any) -> bytes:
    try:
        with _silently():
            return pickle.dumps(value)
    except Exception as error:
        raise Unsendable(said(error)) from error


def unpickled(sent: bytes) -> Any:
    with _silently():
        return pickle.loads(sent)


@contextmanager
def _silently() -> Iterator[None]:
    """Without what PyTorch says of its own classes when they are sent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _how_ended(worker: _Worker, what: str) -> str:
    worker.process.join(GRACE)
    code = worker.process.exitcode
    return f"{what} ended unfinished: {f'signal {-code}' if code is not None and code < 0 else f'exit code {code}'}"


def _serve(connection: Connection) -> None:
    """Do tasks as they come, until nobody is there who would give one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it

    def tell(kind: str, value: Any = None) -> None:
        connection.send_bytes(pickled((kind, value)))

    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            work, shared = unpickled(connection.recv_bytes())
        except Exception as error:
            return tell(UNREAD, said(error))
        tell(READY)
        while True:
            given = unpickled(connection.recv_bytes())
            try:
                result = work(shared, given, lambda share: tell(SHARE, share))
                tell(DONE, result)
            except EdgeSdkError as error:
                tell(REFUSED, error)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                return None
            except Exception:
                tell(FAILED, traceback.format_exc())
