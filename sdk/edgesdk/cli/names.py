"""Names of targets and devices, which a shell completes."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from edgesdk.core.errors import EdgeSdkError


class TargetName(click.ParamType):
    """The name of a kind of device, or an alias; what is none is refused where it is used."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from edgesdk.core.target import targets

        try:
            return [CompletionItem(t.name, help=t.title) for t in targets().values() if t.name.startswith(incomplete)]
        except EdgeSdkError:
            return []  # of a profile that cannot be read the command itself tells


class DeviceName(click.ParamType):
    """The name of a device of the inventory, or its address; what is none is refused where it is used."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from edgesdk.devices.inventory import LOCAL, devices

        try:
            known = {LOCAL: "this machine", **{device.name: device.address for device in devices().values()}}
        except EdgeSdkError:
            return []
        return [CompletionItem(name, help=said) for name, said in known.items() if name.startswith(incomplete)]


TARGET, DEVICE_NAME = TargetName(), DeviceName()
