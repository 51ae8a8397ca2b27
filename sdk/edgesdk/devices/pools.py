"""Pools: boards that are used together, named in the inventory or one after the other."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgesdk.core.errors import UsageError
from edgesdk.devices.inventory import POOL, Device, alone, check_pool_name, device, inventory, read, save


@dataclass(frozen=True)
class Pool:
    """Two ``devices`` or more, and what they are called together: ``pool:lab``, or their names.

    Raises ``UsageError`` where there are none, and where two are the same board.
    """

    name: str
    devices: tuple[Device, ...]

    def __post_init__(self) -> None:
        if not self.devices:
            raise UsageError(f"{self.name} is empty", "give it boards: edgesdk device pool NAME DEVICE...")
        seen: dict[str, Device] = {}
        for entry in self.devices:
            before = seen.get(entry.address)
            if before is not None:
                both = entry.name if before.name == entry.name else f"{before.name} and {entry.name}"
                raise UsageError(f"{self.name} has one board twice: {both} at {entry.address}", "name each board once")
            seen[entry.address] = entry
        targets = {entry.target: entry for entry in self.devices if entry.target is not None}
        if len(targets) > 1:
            told = ", ".join(f"{entry.name} is {target}" for target, entry in targets.items())
            raise UsageError(f"the boards of {self.name} are of different kinds: {told}", "make a pool of each kind")

    @property
    def target(self) -> str | None:
        """The kind of device that they are, where the inventory says it of one."""
        return next((entry.target for entry in self.devices if entry.target is not None), None)


Place = Device | Pool
At = str | Device | Pool | Sequence[str | Device | Pool]
"""What a user may give as a device: a name, an address, ``pool:NAME``, or several of these."""


def pools() -> dict[str, tuple[str, ...]]:
    """The names of the boards in each pool of the inventory. Raises ``UsageError`` where it cannot be read."""
    return dict(read().pools)


def find_place(at: At) -> Place:
    """The board or the pool that ``at`` means: several, or a pool among them, are a pool of all their boards.

    Raises ``UsageError`` where there is none such, with the name that comes nearest.
    """
    if isinstance(at, str):
        return _find_pool(at) if at.startswith(POOL) else device(at)
    if isinstance(at, (Device, Pool)):
        return at
    places = [find_place(each) for each in at]
    if len(places) == 1:
        return places[0]
    boards = [board for place in places for board in (place.devices if isinstance(place, Pool) else (place,))]
    return Pool(" and ".join(place.name for place in places) or "no device", tuple(boards))


def add_pool(name: str, devices: Sequence[str], force: bool = False) -> Path:
    """Write the pool ``name`` of those ``devices`` into the inventory; that file.

    Raises ``UsageError`` for a device that the inventory does not have, one that is named twice, and where the name is
    taken and ``force`` does not allow replacing it.
    """
    check_pool_name(name)
    path = inventory().resolve()
    with alone(path.parent):
        entries = read()
        if name in entries.pools and not force:
            fact = f"there is a pool {name} already, of {', '.join(entries.pools[name])}"
            raise UsageError(fact, "give --force to replace it, or another name")
        found = replace(entries, pools={**entries.pools, name: tuple(devices)})
        Pool(f"{POOL}{name}", tuple(_member(f"{POOL}{name}", each, found.devices) for each in devices))
        save(path, found)
    return path


def _find_pool(text: str) -> Pool:
    entries, name = read(), text[len(POOL) :]
    if name not in entries.pools:
        close = difflib.get_close_matches(name, entries.pools, 1)
        may = f"{POOL}{close[0]} may be meant; " if close else ""
        every = ", ".join(POOL + known for known in entries.pools)
        there = f"there is {every}" if every else "there is none yet: edgesdk device pool NAME DEVICE... makes one"
        raise UsageError(f"there is no {text!r} in {inventory()}", may + there)
    return Pool(text, tuple(_member(text, member, entries.devices) for member in entries.pools[name]))


def _member(pool: str, name: str, known: Mapping[str, Device]) -> Device:
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, 1)
    may = f"{close[0]} may be meant; " if close else ""
    there = f"there is {', '.join(known)}" if known else "edgesdk device add makes one"
    raise UsageError(f"{pool} names {name!r}, which is no device of {inventory()}", may + there)
