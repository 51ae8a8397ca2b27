"""What a JSON document says of itself: which kind of document it is, in which version of that kind."""

from __future__ import annotations

import re
from typing import Any

from edgesdk.core.errors import BundleError

WRITTEN = re.compile(r"edgesdk\.(?P<kind>[a-z-]+)/(?P<version>[1-9][0-9]{0,8})")


class Schema(str):
    """``edgesdk.plan/2``: the value of a document's field ``schema``, and the default of that field in its type.

    A version names what its fields mean. Fields may be added to a version; one that goes, or means something else,
    makes another version. Versions before the kind was written were the number alone.
    """

    kind: str
    version: int

    def __new__(cls, kind: str, version: int) -> Schema:
        made = super().__new__(cls, f"edgesdk.{kind}/{version}")
        made.kind, made.version = kind, version
        return made

    def of(self, value: Any) -> int | None:
        """The version that ``value`` says, which may be newer than this; ``None`` where it is of no such document."""
        if type(value) is int and value > 0:
            return value
        match = WRITTEN.fullmatch(value) if isinstance(value, str) else None
        return int(match["version"]) if match and match["kind"] == self.kind else None

    def check(self, value: Any, what: str) -> Schema:
        """This schema, where ``value``, which ``what`` has, is it or of a version before.

        Raises ``BundleError`` where it is newer, or of another kind of document.
        """
        version = self.of(value)
        if version is None:
            raise BundleError(f"{what} has the schema {value!r:.80}, not {self}", f"give a file with schema {self}")
        if version > self.version:
            raise BundleError(f"{what} has the schema {value!r:.80}, newer than {self}", "update edgesdk")
        return self

    def __getnewargs__(self) -> tuple[str, int]:  # copies and pickles are made of these
        return (self.kind, self.version)


def kind_of(value: Any) -> str | None:
    """Which kind of document says ``value`` of itself; ``None`` where that says no kind."""
    match = WRITTEN.fullmatch(value) if isinstance(value, str) else None
    return match["kind"] if match else None
