"""What the commands share beside their frame."""

from __future__ import annotations

from pathlib import Path

from edgesdk.core.errors import BundleError


def free(out: Path, force: bool) -> Path:
    """``out``, where nothing is, or what is there may be replaced."""
    if out.exists() and not force:
        raise BundleError(f"{out} exists", "give --force to replace it, or another --out")
    return out
