"""Programs that take turns: in which order, what is done together, and that none outlives the others."""

from __future__ import annotations

import _thread
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from edgesdk.core.errors import UsageError
from edgesdk.core.processes import Job
from edgesdk.core.turns import Ask, take_turns

Program = Callable[[Ask], Any]
told: ContextVar[str] = ContextVar("told", default="nothing")


def asking(name: str, log: list[str], *sizes: int, ends: Callable[[], Any] = lambda: "done") -> Program:
    """Asks for so many jobs, one ``sizes`` after another."""

    def program(ask: Ask) -> Any:
        came = []
        try:
            for size in sizes:
                log.append(f"{name} goes on")
                came.append(ask([Job(f"{name}{number}", number) for number in range(size)]))
            log.append(f"{name} ends")
            return came, ends()
        finally:
            log.append(f"{name} cleans up")

    return program


def doing(log: list[str]) -> Ask:
    def do(jobs: Sequence[Job]) -> list[Any]:
        log.append(" ".join(job.name for job in jobs))
        return [job.name.upper() for job in jobs]

    return do


def test_programs_go_on_one_at_a_time_and_what_they_ask_for_is_done_together() -> None:
    log: list[str] = []
    programs = [asking("a", log, 2, 1), asking("b", log, 0), asking("c", log), asking("d", log, 1, 1)]
    results = take_turns(programs, doing(log))
    assert [came for came, _ in results] == [[["A0", "A1"], ["A0"]], [[]], [], [["D0"], ["D0"]]]
    assert [line for line in log if "cleans" not in line] == [
        "a goes on", "b goes on", "c ends", "d goes on", "a0 a1 d0", "a goes on", "b ends", "d goes on", "a0 d0",
        "a ends", "d ends",
    ]  # fmt: skip
    assert take_turns([], doing(log)) == []


def test_a_program_knows_what_its_caller_knows() -> None:
    token = told.set("all")
    try:
        assert take_turns([lambda ask: told.get()], doing([])) == ["all"]
    finally:
        told.reset(token)


@pytest.mark.parametrize("where", ["in a program", "in what is done"])
def test_an_error_ends_all_and_is_raised(where: str) -> None:
    log: list[str] = []

    def fail(*_: Any) -> Any:
        raise UsageError("a fact", "a remedy")

    first = asking("a", log, 1, 1)
    second = asking("b", log, ends=fail) if where == "in a program" else asking("b", log, 1)
    with pytest.raises(UsageError, match="a fact"):
        take_turns([first, second, asking("c", log, 1)], doing(log) if where == "in a program" else fail)
    assert "a cleans up" in log and "b cleans up" in log and "a ends" not in log


@pytest.mark.parametrize("at", ["while a program goes on", "while jobs are done"])
def test_an_interruption_ends_all(at: str) -> None:
    log: list[str] = []

    def wait() -> None:
        _thread.interrupt_main()  # as Ctrl-C does
        while True:
            time.sleep(0.01)

    def do(jobs: Sequence[Job]) -> list[Any]:
        raise KeyboardInterrupt

    second = asking("b", log, ends=wait) if at == "while a program goes on" else asking("b", log, 1)
    with pytest.raises(KeyboardInterrupt):
        take_turns([asking("a", log, 1), second], do)
    assert sorted(line for line in log if "cleans" in line) == ["a cleans up", "b cleans up"]


def test_turns_are_taken_within_a_turn() -> None:
    """A program may have programs of its own."""
    inner, outer = list[str](), list[str]()

    def program(ask: Ask) -> Any:
        return take_turns([asking("a", inner, 1), asking("b", inner, 1)], lambda jobs: ask(jobs))

    ((first, second),) = take_turns([program], doing(outer))
    assert (first, second) == (([["A0"]], "done"), ([["B0"]], "done")) and outer == ["a0 b0"]
