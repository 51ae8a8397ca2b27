"""How numbers, long lists and other people's exceptions read in a message of one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

SHOWN = 3  # names in a message, before the rest is counted
SMALLEST = 1e-9  # a difference of scores that is more than rounding


def said(error: BaseException) -> str:
    """An exception on one line: its type, and the first line of its message that says something."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__


def listed(names: Iterable[object]) -> str:
    """The first few of ``names``, then how many more there are."""
    shown = [str(name) for name in names]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more


def name_apart(paths: Iterable[str]) -> dict[str, str]:
    """The shortest end of each path that no other of them has: its last part, where that is of it alone."""
    parts = {path: Path(path).parts for path in paths}
    ends = Counter(own[-count:] for own in parts.values() for count in range(1, len(own) + 1))
    names: dict[str, str] = {}
    for path, own in parts.items():
        alone = next((count for count in range(1, len(own)) if ends[own[-count:]] == 1), len(own))
        names[path] = str(Path(*own[-alone:])) if own else path
    return names


def counted(number: float, noun: str, digits: str = "g") -> str:
    """``1 thread``, ``2 threads``, ``0.5 points``."""
    text = f"{number:{digits}}"
    return f"{text} {noun}{'s' * (text != '1')}"


def thread_counts(counts: Sequence[int]) -> str:
    """``1 thread``, ``1 and 4 threads``."""
    return f"{' and '.join(map(str, counts))} thread{'s' * (tuple(counts) != (1,))}"


def score(value: float, sign: str = "") -> str:
    """A score or a difference of two: two decimals, or two digits of what is so small that they would say nothing."""
    if abs(value) < SMALLEST:
        value = 0.0
    return f"{value:{sign}.2f}" if abs(value) >= 0.1 or not value else f"{value:{sign}.2g}"
