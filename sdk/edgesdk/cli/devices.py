"""Commands about devices: the inventory, what is installed on them, the agent by itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesdk.cli.frame import Commands
from edgesdk.cli.names import DEVICE_NAME, TARGET
from edgesdk.cli.progress import telling
from edgesdk.cli.shared import free
from edgesdk.cli.streams import console, emit, emit_json

if TYPE_CHECKING:
    from edgesdk.cli.documents import Inventory

DLA = "TensorRT builds for the accelerator of that number; what it cannot take runs on the GPU."
DEVICE = "A name of the inventory, ssh://user@host[:port], or local."


@click.group(cls=Commands)
def device() -> None:
    """Boards: an inventory of them, what they are, and what is installed there."""


@device.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_(as_json: bool) -> None:
    """The devices of the inventory."""
    from edgesdk.devices.inventory import devices, inventory

    if as_json:
        emit_json(_inventory())
        return
    by_name = devices()
    for entry in by_name.values():
        rest = [f"{name} {value}" for name, value in vars(entry).items() if value and name not in ("name", "address")]
        emit(", ".join([f"{entry.name}: {entry.address}", *rest]))
    if not by_name:
        emit(f"no devices in {inventory()}")


@device.command()
@click.argument("name")
@click.argument("address")
@click.option("--python", help="Its interpreter.  [default: ~/.edgesdk/venv/bin/python there, else python3]")
@click.option("--target", **TARGET, help="What kind of device it is: see `edgesdk targets`.")
@click.option("--install-root", help="The folder there that bundles are installed in.")
@click.option("--key", type=click.Path(path_type=Path), help="Public key that its bundles must be signed with.")
@click.option("--force", is_flag=True, help="Replace the device of that name.")
@click.option("--json", "as_json", is_flag=True, help="The inventory as it is then, one JSON document on stdout.")
def add(name: str, address: str, key: Path | None, force: bool, as_json: bool, **options: Any) -> None:
    """Write a device into the inventory. ADDRESS is ssh://user@host[:port], or local."""
    from edgesdk.devices.inventory import Device
    from edgesdk.devices.inventory import add as write

    place = str(Path(os.path.expanduser(key)).absolute()) if key else None
    path = write(Device(name, address, key=place, **options), force)
    if as_json:
        emit_json(_inventory())
    else:
        emit(f"{name}: written to {path}")


@device.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="The inventory as it is then, one JSON document on stdout.")
def remove(name: str, as_json: bool) -> None:
    """Take a device out of the inventory; what is installed on it stays there."""
    from edgesdk.devices.inventory import remove as take_out

    path = take_out(name)
    if as_json:
        emit_json(_inventory())
    else:
        emit(f"{name}: no longer in {path}")


def _inventory() -> Inventory:
    from edgesdk.cli.documents import Inventory
    from edgesdk.devices.inventory import devices, inventory

    return Inventory(str(inventory()), tuple(devices().values()))


@device.command()
@click.argument("name", metavar="DEVICE", **DEVICE_NAME)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def probe(name: str, as_json: bool) -> None:
    """What a device is: its processor, memory, system, runtimes, temperatures."""
    from edgesdk.devices.reach import reach

    with reach(name) as agent:
        facts = agent.call("probe")
    if as_json:
        from edgesdk.core.facts import Facts
        from edgesdk.core.serialize import from_json

        emit_json(from_json(Facts, facts))
        return
    from edgesdk.cli.show import show_facts

    show_facts(name, facts, console(soft_wrap=True))


@device.command()
@click.argument("device", **DEVICE_NAME)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--install-root", help="The folder there.  [default: the inventory's, else ~/edgesdk/NAME]")
@click.option("--keep", type=click.IntRange(1), default=3, show_default=True, help="Versions that stay there.")
@click.option("--force", is_flag=True, help="Even if it is older, or made for another architecture.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def install(device: str, bundle: Path, as_json: bool, **options: Any) -> None:
    """Install a bundle: send it, check it there, try it there, then switch to it in one step."""
    with telling() as tell:
        from edgesdk.workflows.install import install as run

        result = run(bundle, device, **options, tell=tell)
    if as_json:
        from edgesdk.cli.documents import Installed
        from edgesdk.core.serialize import from_json

        emit_json(from_json(Installed, result))
    else:
        from edgesdk.cli.show import show_installed

        show_installed(result, console(soft_wrap=True))


@device.command()
@click.argument("device", **DEVICE_NAME)
@click.option("--install-root", help="The folder there.  [default: the inventory's]")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def rollback(device: str, install_root: str | None, as_json: bool) -> None:
    """Go back to the version that ran before."""
    from edgesdk.workflows.install import rollback as run

    result = run(device, install_root=install_root)
    if as_json:
        from edgesdk.cli.documents import RolledBack
        from edgesdk.core.serialize import from_json

        emit_json(from_json(RolledBack, result))
    else:
        emit(f"running: {result['version']}; before: {result['previous']}")


@click.group(cls=Commands)
def agent() -> None:
    """The measuring agent as a file, for boards that are reached by other means than ssh."""


@agent.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace what is there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def build(out: Path, force: bool, as_json: bool) -> None:
    """Write the agent as one file: `python3 OUT` answers JSON requests, a line each; Python 3.8 or newer."""
    from edgesdk.devices.archive import build as write

    path = write(free(out, force))
    if as_json:
        from edgesdk.cli.documents import AgentFile
        from edgesdk.core.serialize import digest

        content = path.read_bytes()
        emit_json(AgentFile(str(path), len(content), digest(content)))
    else:
        emit(f"agent: {path}")
