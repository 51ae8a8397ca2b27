"""From a device to the agent on it."""

from __future__ import annotations

from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.inventory import Device, device
from edgesdk.devices.local import LocalDevice
from edgesdk.devices.sent import OtherPython
from edgesdk.devices.ssh import SshDevice


def reach(at: str | Device) -> AgentProcess:
    """The agent on ``at``, a device of the inventory, ``local`` or an ``ssh://`` address; started by its first call."""
    entry = device(at) if isinstance(at, str) else at
    if not entry.local:
        return SshDevice(entry.address, entry.python)
    return OtherPython(entry.python) if entry.python else LocalDevice()
