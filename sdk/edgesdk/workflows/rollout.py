"""A bundle onto the boards of a pool: a few first, then the rest, and back again where one of them fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from edgesdk.core.errors import DeviceError, EdgeSdkError, UsageError
from edgesdk.core.report import Tell
from edgesdk.core.rollout import (
    FAILED,
    INSTALLED,
    NOT_ROLLED_BACK,
    OUT_OF_REACH,
    ROLLED_BACK,
    UNCHANGED,
    UNKNOWN,
    WAITING,
    Rollout,
    Standing,
)
from edgesdk.devices.boards import Board, Boards, side_by_side
from edgesdk.devices.inventory import Device
from edgesdk.devices.pools import Place, Pool

CANARY = 1  # boards that are first
AT_ONCE = 16  # boards that are installed on side by side, at most
SECONDS = 60.0  # to ask what is installed


class Installation(Protocol):
    """What is installed, and how."""

    def find_root(self, device: Device) -> str:
        """The folder on ``device`` that it goes below."""
        ...

    def put(self, board: Board, tell: Tell) -> Mapping[str, Any]:
        """Install it on ``board``; what the agent says of it. Raises ``EdgeSdkError``; what ran before runs then."""
        ...


def check_canary(at: Place, canary: int | None) -> None:
    """Raise ``UsageError`` where ``at`` has fewer boards than are to be first, or is one board alone."""
    if canary is None:
        return
    if not isinstance(at, Pool):
        raise UsageError(f"{canary} as canary, and {at.name} is one board", "give pool:NAME, or leave it out")
    if not 1 <= canary <= len(at.devices):
        raise UsageError(f"{canary} of {len(at.devices)} boards as canary", f"give 1 to {len(at.devices)}")


def roll_out(pool: Pool, canary: int, what: Installation, tell: Tell) -> Rollout:
    """Install ``what`` on the boards of ``pool``, on ``canary`` of them first.

    A board that does not answer is left out. Where any fails after that, nothing more is begun, and each board that was
    switched goes back. Raises ``UsageError`` for more canaries than boards, ``DeviceError`` where no board answers.
    """
    check_canary(pool, canary)
    with Boards(pool) as boards:
        tell(f"looking at {pool.name}", None)
        before = boards.each(lambda board, tell: _ask(board, what.find_root(board.device)))
        standing = {board.name: Standing(board.name, WAITING, version=before.get(board.name)) for board in boards.every}
        for name, error in boards.lost.items():
            standing[name] = _told(standing[name], OUT_OF_REACH, error)
        failed: EdgeSdkError | None = None
        for stage, group in _stages(boards.left, canary):
            results = side_by_side(group, what.put, tell)
            for board in group:
                now = replace(standing[board.name], stage=stage, previous=before[board.name])
                result = results[board.name]
                if isinstance(result, EdgeSdkError):
                    failed = failed or result
                    standing[board.name] = _see(board, what.find_root(board.device), now, result)
                else:
                    standing[board.name] = _done(now, result)
            if failed is not None:
                break
        if failed is not None:
            _take_back(boards, standing, what, tell)
    missing = DeviceError.exit_code if boards.lost else 0
    return Rollout(pool.name, tuple(standing.values()), missing if failed is None else failed.exit_code)


def roll_back(pool: Pool, roots: Mapping[str, str]) -> Rollout:
    """Go back to the version before on each board, below its folder in ``roots``; where each stands."""
    with Boards(pool) as boards:
        results = side_by_side(boards.every, lambda board, tell: board.agent.call("rollback", root=roots[board.name]))
    standing: list[Standing] = []
    code = 0
    for name, result in results.items():
        if isinstance(result, EdgeSdkError):
            code = code or result.exit_code
            standing.append(_told(Standing(name, FAILED), FAILED, result))
        else:
            standing.append(Standing(name, ROLLED_BACK, version=result["version"], previous=result["previous"]))
    return Rollout(pool.name, tuple(standing), code)


def _stages(boards: Sequence[Board], canary: int) -> Iterator[tuple[int, Sequence[Board]]]:
    yield 1, boards[:canary]
    for begin in range(canary, len(boards), AT_ONCE):
        yield 2, boards[begin : begin + AT_ONCE]


def _ask(board: Board, root: str) -> str | None:
    """The version that runs on ``board``."""
    return board.agent.call("installed", root=root, timeout=SECONDS)["current"]


def _done(standing: Standing, said: Mapping[str, Any]) -> Standing:
    health, version = said["health"], str(said["version"])
    return replace(
        standing,
        state=UNCHANGED if said["previous"] == version else INSTALLED,
        version=version,
        latency_ms=health.get("latency_ms"),
        peak_memory_bytes=health.get("peak_memory_bytes"),
    )


def _told(standing: Standing, state: str, error: EdgeSdkError) -> Standing:
    return replace(standing, state=state, fact=error.fact, remedy=error.remedy)


def _see(board: Board, root: str, standing: Standing, error: EdgeSdkError) -> Standing:
    """Where a board stands that failed with ``error``: one that was lost may have been switched before that."""
    failed = _told(standing, FAILED, error)
    try:
        current = _ask(board, root)
    except EdgeSdkError:
        return replace(failed, state=UNKNOWN, version=None)
    return replace(failed, version=current)


def _take_back(boards: Boards, standing: dict[str, Standing], what: Installation, tell: Tell) -> None:
    """Roll back each board that was switched; where that cannot be, it is said."""

    def back(board: Board, tell: Tell) -> Mapping[str, Any]:
        root, switched = what.find_root(board.device), standing[board.name].version
        if standing[board.name].previous is None:
            raise DeviceError("nothing ran there before", "install a bundle that works there")
        if _ask(board, root) != switched:
            raise DeviceError("another version was installed there meanwhile", "look at who else installs there")
        tell("rolling back", None)
        return board.agent.call("rollback", root=root)

    switched = [
        board
        for board in boards.every
        if standing[board.name].stage is not None
        and standing[board.name].version not in (None, standing[board.name].previous)
    ]
    for begin in range(0, len(switched), AT_ONCE):
        for name, result in side_by_side(switched[begin : begin + AT_ONCE], back, tell).items():
            now = standing[name]
            if isinstance(result, EdgeSdkError):
                standing[name] = _told(now, NOT_ROLLED_BACK, result)
            else:
                standing[name] = replace(now, state=ROLLED_BACK, version=result["version"], previous=now.version)
