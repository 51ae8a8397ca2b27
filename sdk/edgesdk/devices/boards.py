"""The boards of a pool at once: a thread for each, and what dropped out is known with the reason."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgesdk.core.cache import cache_folder
from edgesdk.core.errors import DeviceError, EdgeSdkError, StorageError
from edgesdk.core.report import Tell
from edgesdk.core.serialize import digest
from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.inventory import Device
from edgesdk.devices.pools import Pool
from edgesdk.devices.reach import reach

FAULTS = (DeviceError, StorageError)  # of one board, where another may do better
ANSWER_SECONDS = 30.0
T = TypeVar("T")


@dataclass(frozen=True)
class Board:
    """A board of a pool, and the agent on it."""

    device: Device
    agent: AgentProcess

    @property
    def name(self) -> str:
        return self.device.name


class Boards:
    """The boards of ``pool``, reached for as long as the ``with`` block lasts.

    ``lost`` has those that dropped out, by name, each with what it failed with; nothing is asked of them any more.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool: Pool = pool
        self.every: tuple[Board, ...] = tuple(Board(device, reach(device)) for device in pool.devices)
        self.lost: dict[str, EdgeSdkError] = {}

    def __enter__(self) -> Boards:
        return self

    def __exit__(self, *_: object) -> None:
        for board in self.every:
            board.agent.close()

    @property
    def left(self) -> list[Board]:
        """Those that have not dropped out."""
        return [board for board in self.every if board.name not in self.lost]

    @property
    def notes(self) -> tuple[str, ...]:
        """Who dropped out, and why."""
        return tuple(f"{name} dropped out of {self.pool.name}: {error.fact}" for name, error in self.lost.items())

    def check(self) -> None:
        """Raise ``DeviceError``, naming each with its reason, where no board is left."""
        if not self.left:
            raise self._fail(self.lost)

    def _fail(self, errors: Mapping[str, EdgeSdkError]) -> DeviceError:
        told = "; ".join(f"{name}: {error.fact}" for name, error in errors.items())
        fact = f"no board of {self.pool.name} is left of {', '.join(errors)} ({told})"
        return DeviceError(fact, next(iter(errors.values())).remedy)

    def _answers(self, board: Board) -> bool:
        """Whether the agent is there, so that what failed may have been what was asked of it."""
        try:
            board.agent.call("probe", timeout=ANSWER_SECONDS)
        except EdgeSdkError:
            return False
        return True

    def probe(self) -> dict[str, Mapping[str, Any]]:
        """The facts of each board that answers; the others drop out. Raises ``DeviceError`` where none does."""
        return self.each(lambda board, tell: board.agent.call("probe"))

    def list_differences(self, runtimes: Iterable[str] | None = None) -> tuple[str, ...]:
        """In what the boards differ that latency depends on, a sentence each; those that do not answer drop out."""
        return self.tell_differences(list_differences(self.probe(), runtimes))

    def tell_differences(self, said: Iterable[str]) -> tuple[str, ...]:
        """Sentences that what is ``said`` are differences between the boards."""
        return tuple(f"the boards of {self.pool.name} differ: {each}" for each in said)

    def each(self, work: Callable[[Board, Tell], T], tell: Tell = lambda stage, share: None) -> dict[str, T]:
        """What ``work`` gives on each board that is left, side by side; a board on which it fails drops out.

        Raises ``DeviceError`` where it fails on all. Those that answer all the same stay: what failed was what was
        asked of them.
        """
        self.check()
        done: dict[str, T] = {}
        failed: dict[str, EdgeSdkError] = {}
        asked = self.left
        for name, result in side_by_side(asked, work, tell).items():
            if not isinstance(result, EdgeSdkError):
                done[name] = result
            elif isinstance(result, FAULTS):
                failed[name] = result
            else:
                raise result
        if done:
            self.lost |= failed
            return done
        errors = {**self.lost, **failed}
        self.lost |= {board.name: failed[board.name] for board in asked if not self._answers(board)}
        raise self._fail(errors)

    def on_one(self, work: Callable[[Board], T]) -> T:
        """What ``work`` gives on the first board that is left; on the next where that one no longer answers.

        Raises what ``work`` raises on a board that does, and ``DeviceError`` where none is left.
        """
        for board in self.left:
            try:
                return work(board)
            except FAULTS as error:
                if self._answers(board):
                    raise
                self.lost[board.name] = error
        raise self._fail(self.lost)


def side_by_side(
    boards: Sequence[Board], work: Callable[[Board, Tell], T], tell: Tell = lambda stage, share: None
) -> dict[str, T | EdgeSdkError]:
    """What ``work`` gives on each of ``boards``, in a thread of its own, or the error of edgesdk's that it raises.

    What ``work`` tells is told in this thread, with the board's name. Whatever else is raised, here or there, ends all
    calls to the boards, and is raised here.
    """
    said: queue.SimpleQueue[tuple[str, float | None] | None] = queue.SimpleQueue()
    done: dict[str, T | EdgeSdkError] = {}
    unforeseen: list[BaseException] = []

    def run(board: Board) -> None:
        try:
            done[board.name] = work(board, lambda stage, share: said.put((_on(board.name, stage), share)))
        except EdgeSdkError as error:
            done[board.name] = error
        except BaseException as error:
            unforeseen.append(error)
        finally:
            said.put(None)

    threads = [threading.Thread(target=run, args=(board,), daemon=True) for board in boards]
    try:
        for thread in threads:
            thread.start()
        left = len(threads)
        while left and not unforeseen:
            news = said.get()
            if news is None:
                left -= 1
            else:
                tell(*news)
        if unforeseen:
            raise unforeseen[0]
    except BaseException:
        for board in boards:
            board.agent.interrupt()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        raise
    return {board.name: done[board.name] for board in boards}


def prices_folder(device: Device) -> Path:
    """Where the prices of one board of a pool are kept: apart from another's, however alike they are."""
    return cache_folder() / "prices" / f"board-{digest([device.address, device.python])[:16]}"


def _on(name: str, stage: str) -> str:
    """``stage`` as it is on the board ``name``, which is detail of it."""
    head, _, detail = stage.partition(": ")
    return f"{head}: {name}{f' {detail}' if detail else ''}"


def list_differences(facts: Mapping[str, Mapping[str, Any]], runtimes: Iterable[str] | None = None) -> list[str]:
    """In what boards differ that latency depends on, by their ``facts``; nothing where they are alike.

    Versions are compared of ``runtimes``, or of all that any of them has.
    """
    versions = {name: told.get("runners") or {} for name, told in facts.items()}
    wanted = list(
        dict.fromkeys(runtimes if runtimes is not None else (key for own in versions.values() for key in own))
    )
    kinds: dict[str, dict[str, str]] = {
        "board": {name: str(told.get("board") or "not known") for name, told in facts.items()},
        "processor": {name: str(told.get("cpu") or "not known") for name, told in facts.items()},
        "features": _beyond_common({name: set(told.get("features") or ()) for name, told in facts.items()}),
        "cores": {name: str(told.get("cores")) for name, told in facts.items()},
        "usable cores": {name: _usable_cores(told) for name, told in facts.items()},
        "architecture": {name: str(told.get("architecture")) for name, told in facts.items()},
        "clock": {name: _clock(told) for name, told in facts.items()},
        "power mode": {name: _power_mode(told) for name, told in facts.items()},
        **{key: {name: str(own.get(key) or "not there") for name, own in versions.items()} for key in wanted},
    }
    return [f"{what} is {_by_value(values)}" for what, values in kinds.items() if len(set(values.values())) > 1]


def _beyond_common(features: Mapping[str, set[str]]) -> dict[str, str]:
    """What of its features each has that not all have."""
    common = set.intersection(*features.values()) if features else set[str]()
    return {name: " ".join(sorted(own - common)) or "none more" for name, own in features.items()}


def _by_value(values: Mapping[str, str]) -> str:
    named: dict[str, list[str]] = {}
    for name, value in values.items():
        named.setdefault(value, []).append(name)
    return ", ".join(f"{value} on {' and '.join(names)}" for value, names in named.items())


def _clock(facts: Mapping[str, Any]) -> str:
    cores = (facts.get("conditions") or {}).get("frequencies") or ()
    fastest = max((core.get("maximum_mhz") or 0.0 for core in cores), default=0.0)
    return f"{fastest:.0f} MHz" if fastest else "not known"


def _power_mode(facts: Mapping[str, Any]) -> str:
    return str((facts.get("conditions") or {}).get("power_mode") or "not known")


def _usable_cores(facts: Mapping[str, Any]) -> str:
    return str(len((facts.get("conditions") or {}).get("usable_cores") or ()) or "not known")
