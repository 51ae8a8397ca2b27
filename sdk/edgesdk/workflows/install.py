"""A bundle onto a device: sent, checked there, tried there, and only then what runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from edgesdk.bundle.bundle import Bundle
from edgesdk.bundle.signing import check_signature
from edgesdk.core.artifact import baseline
from edgesdk.core.errors import DeviceError, UsageError
from edgesdk.core.report import Tell
from edgesdk.core.rollout import Rollout
from edgesdk.core.runtime import find_runtime
from edgesdk.core.scratch import scratch_folder
from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.bench import Bench
from edgesdk.devices.boards import Board, prices_folder
from edgesdk.devices.inventory import Device
from edgesdk.devices.pools import At, Pool, find_place
from edgesdk.devices.reach import reach
from edgesdk.workflows.rollout import CANARY, check_canary, roll_back, roll_out

KEEP = 3  # versions on a device
ROOT = "~/edgesdk"  # on a device; a folder per name of a bundle


@overload
def install(
    bundle: str | Path, device: Device, *, install_root: str | None = None, force: bool = False, keep: int = KEEP,
    canary: int | None = None, tell: Tell = lambda stage, share: None,
) -> dict[str, Any]: ...  # fmt: skip
@overload
def install(
    bundle: str | Path, device: Pool, *, install_root: str | None = None, force: bool = False, keep: int = KEEP,
    canary: int | None = None, tell: Tell = lambda stage, share: None,
) -> Rollout: ...  # fmt: skip
@overload
def install(
    bundle: str | Path, device: At, *, install_root: str | None = None, force: bool = False, keep: int = KEEP,
    canary: int | None = None, tell: Tell = lambda stage, share: None,
) -> dict[str, Any] | Rollout: ...  # fmt: skip
def install(
    bundle: str | Path, device: At, *, install_root: str | None = None, force: bool = False, keep: int = KEEP,
    canary: int | None = None, tell: Tell = lambda stage, share: None,
) -> dict[str, Any] | Rollout:  # fmt: skip
    """Install ``bundle`` on ``device``, below ``install_root`` there; what the agent says of it.

    The agent checks every digest before it loads anything, runs the recorded sample, holds latency (ms) and peak memory
    (bytes) against the bundle's budget, and switches ``install_root/current`` to it in one step. Where that fails the
    version before goes on running. ``keep`` versions stay there. ``install_root`` is by default the device's in the
    inventory, else ``~/edgesdk/NAME``, NAME being that of the bundle's folder. Raises ``BundleError`` for a bundle that
    is damaged, not signed by the device's key, older than what runs there (without ``force``) or for other hardware,
    ``StorageError`` where there is no space or no permission, ``DeviceError`` where it is too slow, wrong or cannot be
    reached.

    On a pool it goes in stages: ``canary`` boards first (by default one), then the others, ``AT_ONCE`` at a time. Where
    one fails, what was switched is rolled back and the rest is left as it is; the :class:`Rollout` says where each
    stands, and what of that is an error its ``exit_code``. What is wrong with the bundle itself is raised.
    """
    place = find_place(device)
    boards = place.devices if isinstance(place, Pool) else (place,)
    opened = _opened(bundle, boards, keep)
    check_canary(place, canary)
    if isinstance(place, Pool):
        return roll_out(place, canary or CANARY, Installing(opened, install_root, force, keep), tell)
    with reach(place) as agent:
        return put(opened, agent, install_root or place.install_root, force, keep, tell)


@dataclass(frozen=True)
class Installing:
    """What is installed on each board of a pool, and how."""

    bundle: Bundle
    install_root: str | None
    force: bool
    keep: int

    def find_root(self, device: Device) -> str:
        """The folder on ``device`` that it goes below."""
        return find_root(self.bundle, self.install_root or device.install_root)

    def put(self, board: Board, tell: Tell) -> Mapping[str, Any]:
        """Install it on ``board``; what the agent says of it."""
        prices = prices_folder(board.device)
        return put(self.bundle, board.agent, self.find_root(board.device), self.force, self.keep, tell, prices)


def find_root(bundle: Bundle, root: str | None) -> str:
    """The folder on a device that ``bundle`` goes below, by default one of its own name."""
    return root or f"{ROOT}/{bundle.path.resolve().name}"


def put(
    bundle: Bundle, agent: AgentProcess, root: str | None, force: bool = False, keep: int = KEEP,
    tell: Tell = lambda stage, share: None, prices: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What :func:`install` does with an agent that is there already; the board's prices are kept in ``prices``."""
    tell("sending the bundle", None)
    files = [bundle.path / name for name in ("manifest.json", *bundle.manifest["files"])]
    folder = agent.place(*files).rpartition("/")[0]
    runtime = bundle.artifact.runtime
    with scratch_folder() as here:
        engines = find_runtime(runtime).engines and runtime in (agent.call("probe").get("runners") or {})
        tiny = None if engines else agent.place(baseline(here, find_runtime(runtime).here))
        return agent.call(
            "install", folder=folder, root=find_root(bundle, root), keep=keep, force=force,
            baseline=tiny, on_progress=lambda step: tell(f"installing: {step.get('state')}", None),
            **_beside(bundle, agent, prices),
        )  # fmt: skip


def _beside(bundle: Bundle, agent: AgentProcess, prices: Path | None) -> dict[str, Any]:
    """What tells the device's undisturbed state, in which its latency is held against the budget.

    Nothing where nothing can be measured there: why, the agent says itself.
    """
    try:
        return Bench(agent, bundle.manifest["threads"], bundle.artifact.runtime, prices).beside()
    except DeviceError:
        return {}


@overload
def rollback(device: Device, *, install_root: str | None = None) -> dict[str, Any]: ...
@overload
def rollback(device: Pool, *, install_root: str | None = None) -> Rollout: ...
@overload
def rollback(device: At, *, install_root: str | None = None) -> dict[str, Any] | Rollout: ...
def rollback(device: At, *, install_root: str | None = None) -> dict[str, Any] | Rollout:
    """Go back to the version that ran before on ``device``; both versions' names.

    Of a pool each board goes back, and the :class:`Rollout` says where each stands. Raises ``BundleError`` where there
    is none, or where it is no longer whole.
    """
    place = find_place(device)
    roots: dict[str, str] = {}
    for board in place.devices if isinstance(place, Pool) else (place,):
        root = install_root or board.install_root
        if root is None:
            raise UsageError(f"the folder of the bundle on {board.name} is not known", "give --install-root")
        roots[board.name] = root
    if isinstance(place, Pool):
        return roll_back(place, roots)
    with reach(place) as agent:
        return agent.call("rollback", root=roots[place.name])


def check_key(bundle: Path, at: Device) -> None:
    """Raise ``BundleError`` where ``at`` names a key that ``bundle`` is not signed with."""
    if at.key_file is not None:
        check_signature(bundle, at.key_file)


def _opened(bundle: str | Path, boards: Sequence[Device], keep: int) -> Bundle:
    if keep < 1:
        raise UsageError(f"{keep} versions to keep", "keep 1 or more")
    opened = Bundle.open(bundle)
    for board in boards:
        check_key(opened.path, board)
    return opened
