"""A bundle onto a device: sent, checked there, tried there, and only then what runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgesdk.bundle.bundle import Bundle
from edgesdk.bundle.signing import check_signature
from edgesdk.core.artifact import baseline
from edgesdk.core.errors import DeviceError, UsageError
from edgesdk.core.report import Tell
from edgesdk.core.runtime import find_runtime
from edgesdk.core.scratch import scratch_folder
from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.bench import Bench
from edgesdk.devices.inventory import Device
from edgesdk.devices.inventory import device as find_device
from edgesdk.devices.reach import reach

KEEP = 3  # versions on a device
ROOT = "~/edgesdk"  # on a device; a folder per name of a bundle


def install(
    bundle: str | Path, device: str | Device, *, install_root: str | None = None, force: bool = False, keep: int = KEEP,
    tell: Tell = lambda stage, share: None,
) -> dict[str, Any]:  # fmt: skip
    """Install ``bundle`` on ``device``, below ``install_root`` there; what the agent says of it.

    The agent checks every digest before it loads anything, runs the recorded sample, holds latency (ms) and peak memory
    (bytes) against the bundle's budget, and switches ``install_root/current`` to it in one step. Where that fails the
    version before goes on running. ``keep`` versions stay there. ``install_root`` is by default the device's in the
    inventory, else ``~/edgesdk/NAME``, NAME being that of the bundle's folder. Raises ``BundleError`` for a bundle that
    is damaged, not signed by the device's key, older than what runs there (without ``force``) or for other hardware,
    ``StorageError`` where there is no space or no permission, ``DeviceError`` where it is too slow, wrong or cannot be
    reached.
    """
    board = find_device(device) if isinstance(device, str) else device
    opened = _opened(bundle, board, keep)
    with reach(board) as agent:
        return put(opened, agent, install_root or board.install_root, force, keep, tell)


def put(
    bundle: Bundle, agent: AgentProcess, root: str | None, force: bool = False, keep: int = KEEP,
    tell: Tell = lambda stage, share: None,
) -> dict[str, Any]:  # fmt: skip
    """What :func:`install` does with an agent that is there already."""
    tell("sending the bundle", None)
    files = [bundle.path / name for name in ("manifest.json", *bundle.manifest["files"])]
    folder = agent.place(*files).rpartition("/")[0]
    runtime = bundle.artifact.runtime
    with scratch_folder() as here:
        engines = find_runtime(runtime).engines and runtime in (agent.call("probe").get("runners") or {})
        tiny = None if engines else agent.place(baseline(here, find_runtime(runtime).here))
        return agent.call(
            "install", folder=folder, root=root or f"{ROOT}/{bundle.path.resolve().name}", keep=keep, force=force,
            baseline=tiny, on_progress=lambda step: tell(f"installing: {step.get('state')}", None),
            **_beside(bundle, agent),
        )  # fmt: skip


def _beside(bundle: Bundle, agent: AgentProcess) -> dict[str, Any]:
    """What tells the device's undisturbed state, in which its latency is held against the budget.

    Nothing where nothing can be measured there: why, the agent says itself.
    """
    try:
        return Bench(agent, bundle.manifest["threads"], bundle.artifact.runtime).beside()
    except DeviceError:
        return {}


def rollback(device: str | Device, *, install_root: str | None = None) -> dict[str, Any]:
    """Go back to the version that ran before on ``device``; both versions' names.

    Raises ``BundleError`` where there is none, or where it is no longer whole.
    """
    board = find_device(device) if isinstance(device, str) else device
    place = install_root or board.install_root
    if place is None:
        raise UsageError(f"the folder of the bundle on {board.name} is not known", "give --install-root")
    with reach(board) as agent:
        return agent.call("rollback", root=place)


def check_key(bundle: Path, at: Device) -> None:
    """Raise ``BundleError`` where ``at`` names a key that ``bundle`` is not signed with."""
    if at.key_file is not None:
        check_signature(bundle, at.key_file)


def _opened(bundle: str | Path, at: Device, keep: int) -> Bundle:
    if keep < 1:
        raise UsageError(f"{keep} versions to keep", "keep 1 or more")
    opened = Bundle.open(bundle)
    check_key(opened.path, at)
    return opened
