"""The inventory: the user's devices by name, each with where it is reached and what is to be known of it.

It is a TOML file, ``EDGESDK_DEVICES`` or ``devices.toml`` in the user's config folder::

    schema = "edgesdk.devices/2"

    [devices.lab-pi-3]
    address = "ssh://pi@10.0.0.3:22"
    target = "raspberry-pi-4"

    [pools.lab]
    devices = ["lab-pi-3", "lab-pi-4"]

A pool is boards that are used together; ``pools.py`` says what ``pool:lab`` is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from edgesdk.core.errors import StorageError, UsageError
from edgesdk.core.schema import Schema
from edgesdk.core.serialize import loads_toml, write
from edgesdk.core.target import target

SCHEMA = Schema("devices", 2)  # 1: the number alone, and ``root`` for ``install_root``
LOCAL, POOL = "local", "pool:"
HEAD = "# Devices of edgesdk. `edgesdk device add` writes this file anew, without comments.\n"
FORM = "give it as ssh://user@host, ssh://user@host:port or local"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ADDRESS = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._+-]*)@)?"
    r"(?P<host>[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True)
class Device:
    """A device: what it is called, and its ``address``, ``ssh://[user@]host[:port]`` or ``local``.

    ``python`` is its interpreter and ``install_root`` the folder that bundles are installed in, both as the device
    knows them; ``target`` the kind of device that it is; ``key`` the public key here that its bundles must be signed
    with, an absolute path or one from ``~/``. Raises ``UsageError`` for what cannot be: a host that ssh would take for
    an option, a password in the address.
    """

    name: str
    address: str
    python: str | None = None
    target: str | None = None
    install_root: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if value is not None and not (isinstance(value, str) and value.strip() == value and value.isprintable()):
                raise UsageError(f"the {key} {value!r} of a device is no plain text", "write it on one line")
            if value == "":
                raise UsageError(f"the {key} of a device is empty", "leave it out, or say what it is")
        _check_address(self.address)
        if self.name != self.address and (not NAME.fullmatch(self.name) or self.name == LOCAL):
            remedy = f"take letters, digits, '.', '_' and '-', 64 at most, and not {LOCAL!r}"
            raise UsageError(f"a device cannot be called {self.name!r}", remedy)
        if (self.python or "").startswith("-"):
            raise UsageError(f"the python of a device cannot be {self.python!r}", "give a command or a path")
        for key, value in (("install_root", self.install_root), ("key", self.key)):
            if value is not None and not value.startswith(("/", "~/")) and value != "~":
                raise UsageError(f"the {key} {value!r} of a device is no absolute path", "begin it with / or ~/")

    @property
    def local(self) -> bool:
        """Whether it is this machine."""
        return self.address == LOCAL

    @property
    def key_file(self) -> Path | None:
        """The public key, with ``~`` resolved."""
        return None if self.key is None else Path(os.path.expanduser(self.key))


Entry = TypeVar("Entry")
BEFORE = {"root": "install_root"}  # keys of schema 1
KEYS = tuple(field.name for field in dataclasses.fields(Device) if field.name != "name")


def inventory() -> Path:
    """Where the inventory is, or will be: ``EDGESDK_DEVICES``, or the user's config folder."""
    return Path(os.environ.get("EDGESDK_DEVICES") or Path(platformdirs.user_config_dir("edgesdk")) / "devices.toml")


@dataclass(frozen=True)
class Entries:
    """What the inventory holds: ``devices``, and the names of those in each of the ``pools``, both by name."""

    devices: Mapping[str, Device] = field(default_factory=dict[str, Device])
    pools: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def list_pools(self, name: str) -> list[str]:
        """The pools that the device ``name`` is in, as a user calls them."""
        return [f"{POOL}{pool}" for pool, members in self.pools.items() if name in members]


def devices() -> dict[str, Device]:
    """The inventory's devices by name, in alphabetical order; none where there is no inventory.

    Raises ``UsageError`` as :func:`read` does.
    """
    return dict(read().devices)


def read() -> Entries:
    """What is in the inventory, in alphabetical order; nothing where there is none.

    Raises ``UsageError`` where it cannot be read, with the line of an error in its syntax, and for keys that edgesdk
    does not know.
    """
    path = inventory()
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Entries()
    except OSError as error:
        raise UsageError(
            f"the inventory {path} cannot be read: {error.strerror}", "give another by EDGESDK_DEVICES"
        ) from None
    document = _parse(path, content)
    version = SCHEMA.of(document.get("schema"))
    if version is None:
        raise UsageError(f"the inventory {path} has no schema", f'begin it with schema = "{SCHEMA}"')
    if version > SCHEMA.version:
        raise UsageError(f"the inventory {path} has schema {version}, newer than {SCHEMA}", "update edgesdk")
    _known(path, "the inventory", document, ("schema", "devices", "pools"))
    tables, pools = _tables(path, document, "devices"), _tables(path, document, "pools")
    if version == 1:
        tables = {name: {BEFORE.get(key, key): table[key] for key in table} for name, table in tables.items()}
    by_name = {name: _device(path, name, tables[name]) for name in sorted(tables)}
    return Entries(by_name, {name: _members(path, name, pools[name]) for name in sorted(pools)})


def device(text: str) -> Device:
    """What a user means by ``text``: a name of the inventory, ``local``, or an ``ssh://`` address.

    An address that one device of the inventory has is that device, so that its key and target hold. Raises
    ``UsageError`` where there is none of that name, where several have the address, and for a pool.
    """
    if text == LOCAL:
        return Device(LOCAL, LOCAL)
    if text.startswith(POOL):
        members = read().pools.get(text[len(POOL) :], ())
        raise UsageError(f"{text} is no single device, which is wanted here", _offer(members))
    by_name = devices()
    if text in by_name:
        return by_name[text]
    if "://" in text:
        _check_address(text)
        same = [entry for entry in by_name.values() if entry.address == text]
        if len(same) > 1:
            raise UsageError(f"{text} is {' and '.join(entry.name for entry in same)}", "say which by its name")
        return same[0] if same else Device(text, text)
    choice = f"choose one of {', '.join(by_name)}, or give" if by_name else "edgesdk device add makes one; or give"
    raise UsageError(f"there is no device {text!r} in {inventory()}", f"{choice} {LOCAL} or ssh://user@host")


def add(device: Device, force: bool = False) -> Path:
    """Write ``device`` into the inventory; that file. The others stay as they are, comments do not.

    Raises ``UsageError`` where its name is taken and ``force`` does not allow replacing it, for a target that there
    is not, and where the inventory cannot be read; ``StorageError`` where it cannot be written.
    """
    if device.name == device.address:
        raise UsageError(f"{device.address} has no name of its own", "give the device one")
    if device.target is not None:
        device = replace(device, target=target(device.target).name)  # an alias may move
    path = inventory().resolve()  # a link into one's own collection of settings stays one
    with alone(path.parent):
        entries = read()
        if device.name in entries.devices and not force:
            fact = f"there is a device {device.name} already, at {entries.devices[device.name].address}"
            raise UsageError(fact, "give --force to replace it, or another name")
        save(path, replace(entries, devices={**entries.devices, device.name: device}))
    return path


def remove(name: str) -> Path:
    """Take the device ``name``, or the pool ``pool:NAME``, out of the inventory; that file.

    What is installed on devices stays there, and devices of a pool stay in the inventory. Raises ``UsageError`` where
    it has none of that name, and where the device is in a pool.
    """
    path = inventory().resolve()
    with alone(path.parent):
        entries = read()
        if name.startswith(POOL):
            save(path, replace(entries, pools=_without(entries.pools, name[len(POOL) :], "pool", path)))
            return path
        left = _without(entries.devices, name, "device", path)
        if pools := entries.list_pools(name):
            fact = f"{name} is in {' and '.join(pools)}"
            raise UsageError(fact, "write the pool anew without it: edgesdk device pool --force")
        save(path, replace(entries, devices=left))
    return path


def _without(entries: Mapping[str, Entry], name: str, what: str, path: Path) -> dict[str, Entry]:
    if name not in entries:
        choice = f"choose one of {', '.join(entries)}" if entries else "there is none yet"
        raise UsageError(f"there is no {what} {name!r} in {path}", choice)
    return {key: entry for key, entry in entries.items() if key != name}


def save(path: Path, entries: Entries) -> None:
    """Write ``entries`` as the inventory at ``path``, whole or not at all."""
    tables = (_table(entry) for _, entry in sorted(entries.devices.items()))
    pools = (
        f"[pools.{json.dumps(name)}]\ndevices = {json.dumps(members, ensure_ascii=False)}\n"
        for name, members in sorted(entries.pools.items())
    )
    write(path, "\n".join((f"{HEAD}schema = {json.dumps(SCHEMA)}\n", *tables, *pools)))


def _check_address(address: str) -> None:
    if address == LOCAL:
        return
    match = ADDRESS.fullmatch(address)
    if match is None:
        if re.match(r"ssh://[^@/]*:[^@/]*@", address):
            fact = "an address holds a password"  # which is not said again
            raise UsageError(fact, "leave it out: ssh takes the user's keys, agent and configuration")
        raise UsageError(f"{address!r} is no address of a device", FORM)
    if match["port"] is not None and not 0 < int(match["port"]) < 65536:
        raise UsageError(f"the port of {address} is not from 1 to 65535", FORM)


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"line {line} of {path} is no UTF-8", "save it as UTF-8") from None
    try:
        return loads_toml(text)
    except ValueError as error:
        end = f"at line {text.rstrip().count(chr(10)) + 1}, the end of it"
        said = str(error).replace("at end of document", end)
        raise UsageError(f"the inventory {path} is no TOML: {said}", "correct that line") from None


def _known(path: Path, what: str, table: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    if unknown := [key for key in table if key not in keys]:
        fact = f"{what} has {', '.join(map(repr, unknown))} in {path}, which edgesdk does not know"
        raise UsageError(fact, f"take it out: there is {', '.join(keys)}")


def _tables(path: Path, document: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    tables = document.get(key, {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise UsageError(f"{key} of {path} are no tables", f"write each as [{key}.NAME]")
    return tables


def _members(path: Path, name: str, table: Mapping[str, Any]) -> tuple[str, ...]:
    """The names in a pool's table. Whether there are such devices is said where the pool is used."""
    _known(path, f"the pool {name!r}", table, ("devices",))
    try:
        check_pool_name(name)
    except UsageError as error:
        raise UsageError(f"{path}: {error.fact}", error.remedy) from None
    names = table.get("devices")
    if not isinstance(names, list) or not all(isinstance(entry, str) for entry in names):
        raise UsageError(f"the pool {name!r} in {path} lists no devices", 'write devices = ["NAME", "NAME"]')
    return tuple(names)


def check_pool_name(name: str) -> None:
    """Raise ``UsageError`` for what cannot be called so."""
    if not NAME.fullmatch(name):
        raise UsageError(f"a pool cannot be called {name!r}", "take letters, digits, '.', '_' and '-', 64 at most")


def _offer(members: Sequence[str]) -> str:
    return f"name one of its boards: {', '.join(members)}" if members else "name a board"


def _device(path: Path, name: str, table: Mapping[str, Any]) -> Device:
    _known(path, f"the device {name!r}", table, KEYS)
    if "address" not in table:
        raise UsageError(f"the device {name!r} in {path} has no address", FORM)
    try:
        added = Device(name, **table)
    except UsageError as error:
        raise UsageError(f"{path}: {error.fact}", error.remedy) from None
    if added.name == added.address:
        raise UsageError(f"{path}: a device cannot be called {name!r}", "give it a name of its own")
    return added


def _table(device: Device) -> str:
    """``device`` as TOML. Printable text in JSON's quotes is a basic string there."""
    head = f"[devices.{json.dumps(device.name)}]\n"
    values = ((key, getattr(device, key)) for key in KEYS)
    return head + "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values if value is not None
    )


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else writes the inventory in ``folder`` meanwhile: two that do so at once would lose one of the two."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"cannot write into {folder}: {error.strerror}", "give another by EDGESDK_DEVICES") from None
    try:
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
