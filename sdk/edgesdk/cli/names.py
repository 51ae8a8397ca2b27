"""Names of targets, devices and files, which a shell completes; what is none is refused where it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from edgesdk.core.errors import EdgeSdkError
from edgesdk.core.serialize import find_file


def complete_targets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The kinds of devices whose names begin so."""
    from edgesdk.core.target import targets

    try:
        return [CompletionItem(t.name, help=t.title) for t in targets().values() if t.name.startswith(incomplete)]
    except EdgeSdkError:
        return []  # of a profile that cannot be read the command itself tells


def complete_targets_or_all(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The kinds of devices whose names begin so, and the word for all of them."""
    from edgesdk.core.target import ALL

    word = [CompletionItem(ALL, help="every target that has prices")]
    return [*complete_targets(ctx, param, incomplete), *(word if ALL.startswith(incomplete) else ())]


def complete_devices(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """This machine, and the devices of the inventory whose names begin so."""
    from edgesdk.devices.inventory import LOCAL, devices

    try:
        known = {LOCAL: "this machine", **{device.name: device.address for device in devices().values()}}
    except EdgeSdkError:
        return []
    return [CompletionItem(name, help=said) for name, said in known.items() if name.startswith(incomplete)]


def complete_places(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Those, and the pools of the inventory."""
    from edgesdk.devices.inventory import POOL
    from edgesdk.devices.pools import pools

    try:
        known = {f"{POOL}{name}": ", ".join(members) for name, members in pools().items()}
    except EdgeSdkError:
        return []
    own = [CompletionItem(name, help=said) for name, said in known.items() if name.startswith(incomplete)]
    return [*complete_devices(ctx, param, incomplete), *own]


TARGET: dict[str, Any] = {"shell_complete": complete_targets}
TARGET_OR_ALL: dict[str, Any] = {"shell_complete": complete_targets_or_all}
DEVICE_NAME: dict[str, Any] = {"shell_complete": complete_devices}
PLACE_NAME: dict[str, Any] = {"shell_complete": complete_places}
"""What an option or an argument of such a name is declared with."""


class NewFile(click.Path):
    """A file to be written; of a folder, or of what ends with a slash, the one in it that is called as is ``usual``."""

    def __init__(self, usual: str) -> None:
        super().__init__()
        self.usual = usual

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return find_file(value, self.usual)
