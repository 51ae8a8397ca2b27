"""The versions of a bundle that are installed below a root, and the link ``current`` that says which of them runs.

    ROOT/versions/<id>/...             a bundle, whole
    ROOT/current -> versions/<id>      what runs; nothing else says so
    ROOT/order.json                    the ids in the order in which they came to run, for rolling back
    ROOT/.lock                         held while anything here changes

What is half done has a name that begins with a dot, so that it is told from what is whole, and every change is a
rename. An id begins with the time at which the host made the bundle; the device's own clock is not asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from typing import Any

from edgesdk_targets.agent.protocol import REFUSED, USAGE, AgentError, decoded

SCHEMA = 1
FOLDER, CURRENT, ORDER, LOCK = "versions", "current", "order.json", ".lock"
ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{12}")


class Versions:
    """What is installed below ``root``. Its methods raise ``OSError`` where the file system refuses."""

    def __init__(self, root: str) -> None:
        path = os.path.expanduser(root) if isinstance(root, str) else ""
        if not path or path[0] == "~" or not path.isprintable():
            raise AgentError(USAGE, f"{root!r} is no folder to install to", "give a path, which may begin with ~/")
        self.root = os.path.abspath(path)
        self.folder = os.path.join(self.root, FOLDER)

    def path(self, version: str) -> str:
        """Where a version is, or is to be."""
        return os.path.join(self.folder, version)

    def current(self) -> str | None:
        """The version that runs; ``None`` where there is none. Raises ``AgentError`` where others made ``current``."""
        link = os.path.join(self.root, CURRENT)
        if not os.path.lexists(link):
            return None
        folder, _, version = os.readlink(link).rpartition("/") if os.path.islink(link) else ("", "", "")
        if folder != FOLDER or not ID.fullmatch(version):
            raise AgentError(REFUSED, f"{link} was not made by edgesdk", "install to another folder")
        return version if os.path.isdir(self.path(version)) else None

    def order(self) -> list[str]:
        """The versions that are here, in the order in which they came to run."""
        try:
            with open(os.path.join(self.root, ORDER), "rb") as file:
                document = decoded(file.read())
            names = [str(version) for version in document["versions"]]
        except FileNotFoundError:
            names = sorted(self._found()) if self.current() else []
        except (ValueError, KeyError, TypeError):  # lost: the names begin with their time
            names = sorted(self._found())
        return [version for version in names if ID.fullmatch(version) and os.path.isdir(self.path(version))]

    def before(self) -> str | None:
        """The version that ran before the one that runs."""
        order, current = self.order(), self.current()
        place = order.index(current) if current in order else len(order)
        return order[place - 1] if place else None

    def write_order(self, order: list[str]) -> None:
        """Make ``order`` what is known, whole or not at all."""
        path = os.path.join(self.root, ORDER)
        temporary = os.path.join(self.root, f".{ORDER}.{os.getpid()}")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"schema": SCHEMA, "versions": order}, file)
            file.flush()
            os.fsync(file.fileno())
        self._publish(temporary, path)

    def switch(self, version: str) -> None:
        """Make ``version`` the one that runs, in one step."""
        temporary = os.path.join(self.root, f".{CURRENT}.{os.getpid()}")
        os.symlink(f"{FOLDER}/{version}", temporary)
        self._publish(temporary, os.path.join(self.root, CURRENT))

    def publish(self, partial: str, version: str) -> None:
        """Make the folder ``partial``, whose files are on the disk, that of ``version``."""
        self._publish(partial, self.path(version))

    def remove(self, version: str) -> None:
        """Remove a version. It is there or gone, never a part of it."""
        hidden = self.path(f".{version}.removed")
        with contextlib.suppress(OSError):
            os.rename(self.path(version), hidden)
            _erase(hidden)

    def sweep(self) -> None:
        """Remove what an interrupted installation left behind."""
        kept = {*self.order(), self.current()}
        for name in os.listdir(self.folder):
            if name.startswith(".") or (ID.fullmatch(name) and name not in kept):
                _erase(self.path(name))
        for name in os.listdir(self.root):
            if name.startswith((f".{CURRENT}.", f".{ORDER}.")):
                _erase(os.path.join(self.root, name))

    def told(self) -> dict[str, Any]:
        """``current`` and the ``versions`` with when they were made and how large they are."""
        versions = []
        for version in self.order():
            time = re.sub(r"(....)(..)(..)T(..)(..)(..)Z.*", r"\1-\2-\3T\4:\5:\6Z", version)
            size = sum(entry.stat().st_size for entry in os.scandir(self.path(version)))
            versions.append({"version": version, "created": time, "bytes": size})
        return {"current": self.current(), "versions": versions}

    def _found(self) -> list[str]:
        return [name for name in os.listdir(self.folder) if ID.fullmatch(name)] if os.path.isdir(self.folder) else []

    def _publish(self, temporary: str, path: str) -> None:
        # Opened before the rename: whatever fails, fails while the old one is still there.
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.rename(temporary, path)
            os.fsync(folder)
        finally:
            os.close(folder)


def _erase(path: str) -> None:
    """Remove a folder with all that is in it, or a file; what cannot be removed stays for the next time."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        os.remove(path)
