"""Programs that take turns: one at a time goes on, and what they have others do is done when all wait for that."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from itertools import islice
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from edgesdk.core.processes import Job

AGAIN = 2.0  # seconds, after which a program is told once more to end: Python ignores what is raised in a destructor
T = TypeVar("T")
Ask = Callable[[Sequence[Job]], list[Any]]
"""What jobs come to, in their order; whoever asks waits."""


class Abandoned(SystemExit):  # of which a thread says nothing
    """The others have ended without this program, which ends where it is."""


def take_turns(
    programs: Sequence[Callable[[Ask], T]], do: Ask, interrupt: Callable[[], None] = lambda: None
) -> list[T]:  # fmt: skip
    """What each of ``programs`` gives, in their order.

    Each is called with what it asks for jobs by. It goes on until it asks, or ends, and then the next does. When none
    is left that does not wait, the jobs of all are done at once: ``do`` is called with them in this thread, while no
    program goes on. So in which order things are done is the same whatever ``do`` does them with.

    A program runs in a thread of its own, where it can wait in the middle. What one raises, or ``do``, ends all, and is
    raised here. So does an interruption of this thread, which calls ``interrupt`` to end what the program whose turn it
    is waits for outside.
    """
    every = [_Program(program) for program in programs]
    try:
        left = every
        while left:
            for program in left:
                program.go_on()
            left = [program for program in left if program.asks is not None]
            results = iter(do([job for program in left for job in program.asks or ()]) if left else ())
            for program in left:
                program.answer = list(islice(results, len(program.asks or ())))
        return [program.result[0] for program in every]
    except BaseException:
        if any(program.has_turn for program in every):
            interrupt()
        for program in every:
            program.abandon()
        raise


class _Program(Generic[T]):
    """A program in a thread, which goes on by turns; ``asks`` has the jobs that it waits for, if it does."""

    def __init__(self, program: Callable[[Ask], T]) -> None:
        self.asks: Sequence[Job] | None = None
        self.answer: list[Any] | None = None
        self.result: list[T] = []
        self.has_turn: bool = False
        self._program = program
        self._error: BaseException | None = None
        self._turns: SimpleQueue[list[Any] | None] = SimpleQueue()  # with what it asked for; None where it is abandoned
        self._ends: SimpleQueue[None] = SimpleQueue()  # of turns
        context = copy_context()
        self._thread = threading.Thread(target=lambda: context.run(self._run), daemon=True)

    def go_on(self) -> None:
        """Its turn, until it asks or ends. Raises what it does."""
        self.has_turn = True
        if self.answer is None:
            self._thread.start()
        else:
            self._turns.put(self.answer)
        self._ends.get()
        self.has_turn = False
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """End it, wherever it is."""
        if self._thread.ident is None:  # it has not begun
            return
        self._turns.put(None)
        while self._thread.is_alive():
            if self.has_turn:  # at the next line of Python that it comes to
                thread, error = ctypes.c_ulong(self._thread.ident), ctypes.py_object(Abandoned)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, error)
            self._thread.join(AGAIN)

    def _run(self) -> None:
        try:
            self.result.append(self._program(self._ask))
        except BaseException as error:
            self._error = error
        self.asks = None
        self._ends.put(None)

    def _ask(self, jobs: Sequence[Job]) -> list[Any]:
        self.asks = jobs
        self._ends.put(None)
        answer = self._turns.get()
        if answer is None:
            raise Abandoned
        return answer
