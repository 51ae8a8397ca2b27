"""What the commands share: errors as one line, progress on stderr, documents on stdout."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from edgesdk.errors import BundleError, EdgeSdkError, UsageError

INTERRUPTED = 130


class Commands(click.Group):
    """Commands whose errors are one line on stderr, without a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was begun is cleaned up
        try:
            return sys.exit(super().main(*args, **kwargs) or 0)
        except EdgeSdkError as error:
            click.echo(f"edgesdk: {error}", err=True)
            sys.exit(error.exit_code)
        except click.ClickException as error:
            click.echo(f"edgesdk: {' '.join(error.format_message().split()).rstrip('.')}: see --help", err=True)
            sys.exit(UsageError.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo("edgesdk: interrupted: prices that were measured are kept, run it again to go on", err=True)
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(1)


@contextmanager
def telling() -> Iterator[Callable[[str, float | None], None]]:
    """Progress on stderr; silent where that is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage, share: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        rows: dict[str, Any] = {}

        def tell(stage: str, share: float | None) -> None:
            if stage not in rows:
                for row in rows.values():
                    progress.update(row, total=1.0, completed=1.0)
                rows[stage] = progress.add_task(stage, total=None if share is None else 1.0)
            if share is not None:
                progress.update(rows[stage], total=1.0, completed=share)

        yield tell


def free(out: Path, force: bool) -> Path:
    """``out``, where nothing is, or what is there may be replaced."""
    if out.exists() and not force:
        raise BundleError(f"{out} exists", "give --force to replace it, or another --out")
    return out
