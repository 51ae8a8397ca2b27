"""Programs that take turns: one at a time goes on, and what they have others do is done when all wait for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import copy_context
from itertools import islice
from typing import Any, Generic, TypeVar

from greenlet import getcurrent, greenlet

from edgesdk.core.processes import Job

T = TypeVar("T")
Ask = Callable[[Sequence[Job]], list[Any]]
"""What jobs come to, in their order; whoever asks waits."""


def take_turns(programs: Sequence[Callable[[Ask], T]], do: Ask) -> list[T]:
    """What each of ``programs`` gives, in their order.

    Each is called with what it asks for jobs by. It goes on until it asks, or ends, and then the next does. When none
    is left that does not wait, the jobs of all are done at once: ``do`` is called with them, while no program goes on.
    So in which order things are done is the same whatever ``do`` does them with.

    What a program raises, or ``do``, ends all, and is raised here; an interruption is raised in the program whose turn
    it is.
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
    finally:
        for program in every:
            program.abandon()


class _Program(Generic[T]):
    """A program with a stack of its own, which goes on by turns; ``asks`` has the jobs that it waits for, if any."""

    def __init__(self, program: Callable[[Ask], T]) -> None:
        self.asks: Sequence[Job] | None = None
        self.answer: list[Any] | None = None
        self.result: list[T] = []
        caller = getcurrent()

        def run() -> None:
            self.result.append(program(ask))

        def ask(jobs: Sequence[Job]) -> list[Any]:
            self.asks = jobs
            caller.switch()
            self.asks = None
            assert self.answer is not None
            return self.answer

        self._stack = greenlet(run)
        self._stack.gr_context = copy_context()

    def go_on(self) -> None:
        """Its turn, until it asks or ends. Raises what it does."""
        self._stack.switch()

    def abandon(self) -> None:
        """End it where it waits, if it does."""
        self.asks = None
        if self._stack:  # begun, and not at its end
            self._stack.throw()
