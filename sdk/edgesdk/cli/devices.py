"""Commands about devices: the inventory, what is installed on them, the agent by itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesdk.cli.frame import Commands
from edgesdk.cli.names import DEVICE_NAME, PLACE_NAME, TARGET, NewFile
from edgesdk.cli.progress import telling
from edgesdk.cli.shared import free
from edgesdk.cli.streams import console, emit, emit_json
from edgesdk.core.errors import DeviceError

if TYPE_CHECKING:
    from edgesdk.cli.documents import Inventory
    from edgesdk.core.rollout import Rollout
    from edgesdk.devices.pools import Pool

DLA = "TensorRT builds for the accelerator of that number; what it cannot take runs on the GPU."
CANARY = "Of a pool, on how many boards it is installed first.  [default: 1]"
DEVICES = "A name of the inventory, ssh://user@host[:port], local, or pool:NAME; several are a pool."


def lowered(text: str) -> str:
    """``text`` as it goes on after a colon."""
    return text[0].lower() + text[1:]


@click.group(cls=Commands)
def device() -> None:
    """Boards: an inventory of them, what they are, and what is installed there."""


@device.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_(as_json: bool) -> None:
    """The devices and pools of the inventory."""
    from edgesdk.devices.inventory import POOL, inventory, read

    if as_json:
        emit_json(_inventory())
        return
    entries = read()
    for entry in entries.devices.values():
        rest = [f"{name} {value}" for name, value in vars(entry).items() if value and name not in ("name", "address")]
        emit(", ".join([f"{entry.name}: {entry.address}", *rest]))
    for name, members in entries.pools.items():
        emit(f"{POOL}{name}: {', '.join(members)}")
    if not entries.devices and not entries.pools:
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
@click.argument("devices", metavar="DEVICE...", nargs=-1, required=True, **DEVICE_NAME)
@click.option("--force", is_flag=True, help="Replace the pool of that name.")
@click.option("--json", "as_json", is_flag=True, help="The inventory as it is then, one JSON document on stdout.")
def pool(name: str, devices: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Write a pool into the inventory: devices of it that are used together, as pool:NAME."""
    from edgesdk.devices.pools import add_pool

    path = add_pool(name, devices, force)
    if as_json:
        emit_json(_inventory())
    else:
        emit(f"pool:{name}: written to {path}")


@device.command()
@click.argument("name", **PLACE_NAME)
@click.option("--json", "as_json", is_flag=True, help="The inventory as it is then, one JSON document on stdout.")
def remove(name: str, as_json: bool) -> None:
    """Take a device or pool:NAME out of the inventory; what is installed on devices stays there."""
    from edgesdk.devices.inventory import remove as take_out

    path = take_out(name)
    if as_json:
        emit_json(_inventory())
    else:
        emit(f"{name}: no longer in {path}")


def _inventory() -> Inventory:
    from edgesdk.cli.documents import Inventory
    from edgesdk.devices.inventory import inventory, read

    entries = read()
    return Inventory(str(inventory()), tuple(entries.devices.values()), entries.pools)


@device.command()
@click.argument("name", metavar="DEVICE", **PLACE_NAME)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def probe(name: str, as_json: bool) -> None:
    """What a device is: its processor, memory, system, runtimes, temperatures. Of pool:NAME, how its boards differ.

    Exit code 6 where a board of the pool does not answer.
    """
    from edgesdk.devices.pools import Pool, find_place
    from edgesdk.devices.reach import reach

    place = find_place(name)
    if isinstance(place, Pool):
        _probe_pool(place, as_json)
        return
    with reach(place) as agent:
        facts = agent.call("probe")
    if as_json:
        from edgesdk.core.facts import Facts
        from edgesdk.core.serialize import from_json

        emit_json(from_json(Facts, facts))
        return
    from edgesdk.cli.show_devices import show_facts

    show_facts(name, facts, console(soft_wrap=True))


def _probe_pool(pool: Pool, as_json: bool) -> None:
    from edgesdk.devices.boards import Boards, list_differences

    with Boards(pool) as boards:
        facts = boards.probe()
        lost = {name: error.fact for name, error in boards.lost.items()}
    differences = list_differences(facts)
    if as_json:
        from edgesdk.cli.documents import PoolFacts
        from edgesdk.core.facts import Facts
        from edgesdk.core.serialize import from_json

        told = {name: from_json(Facts, own) for name, own in facts.items()}
        emit_json(PoolFacts(pool.name, told, lost, tuple(differences)))
    else:
        from edgesdk.cli.show_devices import show_facts

        for name, own in facts.items():
            show_facts(name, own, console(soft_wrap=True))
        for name, fact in lost.items():
            emit(f"{name} does not answer: {fact}")
        for said in differences or ["alike in all that latency depends on"] * (len(facts) > 1):
            emit(f"{pool.name}: {said}")
    if lost:
        click.get_current_context().exit(DeviceError.exit_code)


@device.command()
@click.argument("device", **PLACE_NAME)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--install-root", help="The folder there.  [default: the inventory's, else ~/edgesdk/NAME]")
@click.option("--keep", type=click.IntRange(1), default=3, show_default=True, help="Versions that stay there.")
@click.option("--force", is_flag=True, help="Even if it is older, or made for another architecture.")
@click.option("--canary", type=click.IntRange(1), help=CANARY)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def install(device: str, bundle: Path, as_json: bool, **options: Any) -> int:
    """Install a bundle: send it, check it there, try it there, then switch to it in one step.

    On pool:NAME first on --canary boards, then on the others. Where one fails, those that were switched go back, and
    the exit code is that of the failure; 6, too, where a board was out of reach.
    """
    with telling() as tell:
        from edgesdk.workflows.install import install as run

        result = run(bundle, device, **options, tell=tell)
    if not isinstance(result, dict):
        return _end_rollout(result, as_json)
    if as_json:
        from edgesdk.cli.documents import Installed
        from edgesdk.core.serialize import from_json

        emit_json(from_json(Installed, result))
    else:
        from edgesdk.cli.show_devices import show_installed

        show_installed(result, console(soft_wrap=True))
    return 0


def _end_rollout(result: Rollout, as_json: bool) -> int:
    """Print where each board stands; the exit code."""
    if as_json:
        emit_json(result)
    else:
        from edgesdk.cli.show_devices import show_rollout

        show_rollout(result, console())
    return result.exit_code


@device.command()
@click.argument("device", **PLACE_NAME)
@click.option("--install-root", help="The folder there.  [default: the inventory's]")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def rollback(device: str, install_root: str | None, as_json: bool) -> int:
    """Go back to the version that ran before. Of pool:NAME each board does."""
    from edgesdk.workflows.install import rollback as run

    result = run(device, install_root=install_root)
    if not isinstance(result, dict):
        return _end_rollout(result, as_json)
    if as_json:
        from edgesdk.cli.documents import RolledBack
        from edgesdk.core.serialize import from_json

        emit_json(from_json(RolledBack, result))
    else:
        emit(f"running: {result['version']}; before: {result['previous']}")
    return 0


@click.group(cls=Commands)
def agent() -> None:
    """The measuring agent as a file, for boards that are reached by other means than ssh."""


@agent.command()
@click.argument("out", type=NewFile("agent.pyz"))
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
