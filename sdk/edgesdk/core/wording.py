"""How other people's exceptions and long lists read in a message of one line."""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 3  # names in a message, before the rest is counted


def said(error: BaseException) -> str:
    """An exception on one line: its type, and the first line of its message that says something."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__


def listed(names: Iterable[object]) -> str:
    """The first few of ``names``, then how many more there are."""
    shown = [str(name) for name in names]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more
