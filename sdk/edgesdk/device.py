"""What is known of each target before anything is measured, read from the profiles that come with edgesdk."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.resources import files

from edgesdk.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

SCHEMA = 1


@dataclass(frozen=True)
class Fact:
    """One thing that is known of a target, and where from."""

    fact: str
    value: str
    source: str

    def __post_init__(self) -> None:
        if not (self.fact and self.value and self.source):
            raise ValueError(f"the fact {self.fact!r} lacks a value or a source")


@dataclass(frozen=True)
class Target:
    """A kind of device: its runtimes in the order in which they are tried, the precisions that layers run in there."""

    name: str
    aliases: tuple[str, ...]
    runtimes: tuple[str, ...]
    precisions: tuple[str, ...]
    facts: tuple[Fact, ...]


def targets() -> dict[str, Target]:
    """Every target that edgesdk knows, by name, in alphabetical order."""
    folders = sorted(files("edgesdk_profiles").iterdir(), key=lambda folder: folder.name)
    found = [_read(profile.read_text("utf-8")) for f in folders if (profile := f / "device.toml").is_file()]
    return {target.name: target for target in found}


def target(name: str) -> Target:
    """The target with that name or alias, in upper or lower case. Raises ``UsageError`` where there is none."""
    known = targets()
    wanted = name.strip().lower()
    for found in known.values():
        if wanted in (found.name, *found.aliases):
            return found
    raise UsageError(f"there is no target {name!r}", f"choose one of {', '.join(known)}")


def _read(text: str) -> Target:
    document = tomllib.loads(text)
    if document["schema"] != SCHEMA:
        raise ValueError(f"the profile of {document['name']} has schema {document['schema']}, not {SCHEMA}")
    return Target(
        name=document["name"],
        aliases=tuple(document["aliases"]),
        runtimes=tuple(document["runtimes"]),
        precisions=tuple(document["precisions"]),
        facts=tuple(Fact(**fact) for fact in document["facts"]),
    )
