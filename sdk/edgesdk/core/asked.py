"""The command at work, for the documents that come of it: a page says by it how to make the same again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

PASSWORD = re.compile(r"(?<=://)([^\s/:@]*):[^\s/@]*@")  # in an address, behind the user
_at_work: ContextVar[str | None] = ContextVar("_at_work", default=None)


def without_passwords(text: str) -> str:
    """``text`` with the user alone in its addresses: what is written is sent to others."""
    return PASSWORD.sub(r"\1@", text)


@contextmanager
def asked_by(command: str) -> Iterator[None]:
    """Meanwhile ``command``, as a shell takes it, is what asks; passwords in addresses are left out of it."""
    before = _at_work.set(without_passwords(command))
    try:
        yield
    finally:
        _at_work.reset(before)


def read_command() -> str | None:
    """The command that asks; ``None`` where Python does."""
    return _at_work.get()
