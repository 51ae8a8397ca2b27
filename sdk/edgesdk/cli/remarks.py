"""What a user should know before anything long begins, as lines on stderr."""

from __future__ import annotations

import warnings
from typing import Any

import click

from edgesdk.cli.frame import QUIET, told
from edgesdk.core.errors import EdgeSdkWarning


def show_as_lines() -> None:
    """Let every ``EdgeSdkWarning`` be a line on stderr; other warnings are shown as Python does."""
    plain = warnings.showwarning
    if getattr(plain, "as_lines", False):
        return

    def show(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
        if not issubclass(category, EdgeSdkWarning):
            plain(message, category, *rest, **more)
        elif not told(QUIET):
            click.echo(f"note: {message}", err=True)

    show.as_lines = True
    warnings.showwarning = show
    warnings.simplefilter("always", EdgeSdkWarning)
