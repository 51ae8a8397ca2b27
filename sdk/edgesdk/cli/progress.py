"""How far a command is: on stderr, as bars in a terminal, elsewhere as a line per stage, finalist and round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from edgesdk.cli.frame import QUIET, STAGE, told

Steps = Sequence["str | tuple[str, ...]"]
Tell = Callable[[str, "float | None"], None]


@contextmanager
def telling(steps: Steps = (), seconds: float | None = None) -> Iterator[Tell]:
    """A function that is told the stage and its share; what stands after ``": "`` in a stage is detail that may change.

    ``steps`` are how the stages of the whole command begin, in order, so that it can be said which of how many it is;
    stages that alternate are one step. With ``seconds`` for the command, what is left of them is told.
    """
    context = click.get_current_context(silent=True)
    meta: dict[str, Any] = {} if context is None else context.meta
    with _shown(steps, _Left(seconds)) as show:

        def tell(stage: str, share: float | None) -> None:
            name, _, detail = stage.partition(": ")
            meta[STAGE] = name
            show(name, detail, share)

        yield tell


class _Left:
    """What is left, in words, of the ``seconds`` that a command may take from now on."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.begun = time.monotonic()

    @property
    def passed(self) -> float:
        return time.monotonic() - self.begun

    def __str__(self) -> str:
        if self.seconds is None:
            return ""
        left = max(0, round(self.seconds - self.passed))
        return f"{left // 60}:{left % 60:02} of the time left"


@contextmanager
def _shown(steps: Steps, left: _Left) -> Iterator[Callable[[str, str, float | None], None]]:
    from rich.console import Console

    console = Console(stderr=True)
    if told(QUIET):
        yield lambda name, detail, share: None
    elif console.is_terminal:
        with _bars(steps, console, left) as show:
            yield show
    else:
        yield _lines(steps, left)


def _lines(steps: Steps, left: _Left) -> Callable[[str, str, float | None], None]:
    """A line as each stage begins, and each part of it that its detail begins with, with the seconds since the command
    did."""
    last = [("", "")]

    def show(name: str, detail: str, share: float | None) -> None:
        part = detail.partition(", ")[0]
        if (name, part) != last[0]:
            last[0] = name, part
            said = ", ".join(filter(None, (_numbered(name, steps) + (f": {detail}" if detail else ""), str(left))))
            click.echo(f"{left.passed:7.1f} s  {said}", err=True)

    return show


@contextmanager
def _bars(steps: Steps, console: Any, left: _Left) -> Iterator[Callable[[str, str, float | None], None]]:
    """A bar per stage, with what it took or, of the one at work, what is left."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[detail]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        rows: dict[str, Any] = {}

        def show(name: str, detail: str, share: float | None) -> None:
            detail = ", ".join(filter(None, (detail, str(left))))
            if name not in rows:
                for row in rows.values():
                    progress.update(row, total=1.0, completed=1.0, detail="")
                total = None if share is None else 1.0
                rows[name] = progress.add_task(_numbered(name, steps), total=total, detail=detail)
            if share is not None:
                progress.update(rows[name], total=1.0, completed=share, detail=detail)
            else:
                progress.update(rows[name], detail=detail)

        yield show


def _numbered(name: str, steps: Steps) -> str:
    """``name`` with which of the ``steps`` it is."""
    number = next((i for i, step in enumerate(steps, 1) if name.startswith(step)), None)
    return name if number is None else f"{number}/{len(steps)} {name}"
