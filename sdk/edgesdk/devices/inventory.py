"""The inventory: the user's devices by name, each with where it is reached and what is to be known of it.

It is a TOML file, ``EDGESDK_DEVICES`` or ``devices.toml`` in the user's config folder::

    schema = "edgesdk.devices/2"

    [devices.lab-pi-3]
    address = "ssh://pi@10.0.0.3:22"
    target = "raspberry-pi-4"
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs

from edgesdk.core.errors import StorageError, UsageError
from edgesdk.core.schema import Schema
from edgesdk.core.serialize import loads_toml, write
from edgesdk.core.target import target

SCHEMA = Schema("devices", 2)  # 1: the number alone, and ``root`` for ``install_root``
LOCAL = "local"
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
        for field, value in vars(self).items():
            if value is not None and not (isinstance(value, str) and value.strip() == value and value.isprintable()):
                raise UsageError(f"the {field} {value!r} of a device is no plain text", "write it on one line")
            if value == "":
                raise UsageError(f"the {field} of a device is empty", "leave it out, or say what it is")
        _check_address(self.address)
        if self.name != self.address and (not NAME.fullmatch(self.name) or self.name == LOCAL):
            remedy = f"take letters, digits, '.', '_' and '-', 64 at most, and not {LOCAL!r}"
            raise UsageError(f"a device cannot be called {self.name!r}", remedy)
        if (self.python or "").startswith("-"):
            raise UsageError(f"the python of a device cannot be {self.python!r}", "give a command or a path")
        for field, value in (("install_root", self.install_root), ("key", self.key)):
            if value is not None and not value.startswith(("/", "~/")) and value != "~":
                raise UsageError(f"the {field} {value!r} of a device is no absolute path", "begin it with / or ~/")

    @property
    def local(self) -> bool:
        """Whether it is this machine."""
        return self.address == LOCAL

    @property
    def key_file(self) -> Path | None:
        """The public key, with ``~`` resolved."""
        return None if self.key is None else Path(os.path.expanduser(self.key))


BEFORE = {"root": "install_root"}  # keys of schema 1
KEYS = tuple(field.name for field in dataclasses.fields(Device) if field.name != "name")


def inventory() -> Path:
    """Where the inventory is, or will be: ``EDGESDK_DEVICES``, or the user's config folder."""
    return Path(os.environ.get("EDGESDK_DEVICES") or Path(platformdirs.user_config_dir("edgesdk")) / "devices.toml")


def devices() -> dict[str, Device]:
    """The inventory's devices by name, in alphabetical order; none where there is no inventory.

    Raises ``UsageError`` where it cannot be read, with the line of an error in its syntax, and for keys that edgesdk
    does not know.
    """
    path = inventory()
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
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
    _known(path, "the inventory", document, ("schema", "devices"))
    tables = document.get("devices", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise UsageError(f"devices of {path} are no tables", "write each as [devices.NAME]")
    if version == 1:
        tables = {name: {BEFORE.get(key, key): table[key] for key in table} for name, table in tables.items()}
    return {name: _device(path, name, tables[name]) for name in sorted(tables)}


def device(text: str) -> Device:
    """What a user means by ``text``: a name of the inventory, ``local``, or an ``ssh://`` address.

    An address that one device of the inventory has is that device, so that its key and target hold. Raises
    ``UsageError`` where there is none of that name, and where several have the address.
    """
    if text == LOCAL:
        return Device(LOCAL, LOCAL)
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
    with _alone(path.parent):
        by_name = devices()
        if device.name in by_name and not force:
            fact = f"there is a device {device.name} already, at {by_name[device.name].address}"
            raise UsageError(fact, "give --force to replace it, or another name")
        by_name[device.name] = device
        _write(path, by_name)
    return path


def remove(name: str) -> Path:
    """Take the device ``name`` out of the inventory; that file. Raises ``UsageError`` where it has none of that name.

    What is installed on the device stays there.
    """
    path = inventory().resolve()
    with _alone(path.parent):
        by_name = devices()
        if name not in by_name:
            choice = f"choose one of {', '.join(by_name)}" if by_name else "there is none yet"
            raise UsageError(f"there is no device {name!r} in {path}", choice)
        del by_name[name]
        _write(path, by_name)
    return path


def _write(path: Path, by_name: Mapping[str, Device]) -> None:
    tables = (_table(entry) for _, entry in sorted(by_name.items()))
    write(path, "\n".join((f"{HEAD}schema = {json.dumps(SCHEMA)}\n", *tables)))


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
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else adds a device meanwhile: two that do so at once would lose one of the two."""
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
