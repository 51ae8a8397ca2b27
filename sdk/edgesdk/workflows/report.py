"""A bundle as a page: one file of HTML that nothing has to be loaded for."""

from __future__ import annotations

from pathlib import Path

from edgesdk.bundle.bundle import Bundle
from edgesdk.core.errors import BundleError, UsageError
from edgesdk.core.serialize import write
from edgesdk.pages.bundle_page import render_bundle

SUFFIX = ".html"


def report(path: str | Path, out: str | Path | None = None, *, force: bool = False) -> Path:
    """Write the page of the bundle at ``path`` to ``out``; where that is.

    By default it is beside the bundle, under its name with ``.html``. The bundle itself stays as it is. Raises
    ``BundleError`` for what is no bundle, is damaged or of a newer version, and where ``out`` exists without ``force``;
    ``UsageError`` where ``out`` is in a bundle, whose files are recorded; ``StorageError`` where it cannot be written.
    """
    path = Path(path)
    page = _render(path)
    place = find_place(path) if out is None else Path(out)
    if (place.parent / "manifest.json").exists():
        raise UsageError(f"{place} is among files that a manifest records", "give --out another place")
    if place.exists() and not force:
        raise BundleError(f"{place} exists", "give --force to replace it, or another --out")
    write(place, page)
    return place


def find_place(path: Path) -> Path:
    """Where the page of ``path`` goes, where nobody says."""
    path = path if path.name not in ("", "..") else path.resolve()
    return path.with_name((path.name if path.is_dir() else path.stem) + SUFFIX)


def _render(path: Path) -> str:
    bundle = Bundle.open(path)
    return render_bundle(bundle.manifest, bundle.plan, bundle.report)
