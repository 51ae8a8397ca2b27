"""A bundle, or what other commands wrote, as a page: one file of HTML that nothing has to be loaded for."""

from __future__ import annotations

import os
from pathlib import Path

from edgesdk.bundle.bundle import Bundle
from edgesdk.core.errors import BundleError, UsageError
from edgesdk.core.schema import kind_of
from edgesdk.core.serialize import find_file, from_json, is_table, loads, to_json, write
from edgesdk.core.wording import said
from edgesdk.pages.benchmark_page import render_benchmark
from edgesdk.pages.bundle_page import render_bundle
from edgesdk.pages.diff_page import render_diff
from edgesdk.pages.front_page import render_front
from edgesdk.workflows.front import Front

SUFFIX = ".html"
REMEDY = "give the folder of a bundle, what edgesdk sweep wrote, or what edgesdk benchmark or diff --json printed"


def report(path: str | Path, out: str | Path | None = None, *, force: bool = False) -> Path:
    """Write the page of what is at ``path`` to ``out``; where that is.

    ``out`` is a file, or a folder: one that is there, or what ends with a slash.

    ``path`` is a bundle, the file that ``edgesdk sweep`` wrote, or what ``edgesdk benchmark`` or ``edgesdk diff``
    printed with ``--json``. By default the page is beside it, under its name with ``.html``; a bundle itself stays as
    it is. Raises ``BundleError`` for what is none of these, is damaged or of a newer version, and where ``out`` exists
    without ``force``; ``UsageError`` where ``out`` is in a bundle, whose files are recorded; ``StorageError`` where it
    cannot be written.
    """
    path = Path(path)
    place = find_place(path)
    place = place if out is None else find_file(out, place.name)
    try:
        page = _render(path, place.parent)
    except (ArithmeticError, ValueError) as error:  # figures beyond all that a chart has room for
        raise BundleError(f"{path} has figures that cannot be drawn ({said(error)})", REMEDY) from None
    if os.path.exists(place.parent / "manifest.json"):
        raise UsageError(f"{place} is among files that a manifest records", "give --out another place")
    if os.path.exists(place) and not force:
        raise BundleError(f"{place} exists", "give --force to replace it, or another --out")
    write(place, page)
    return place


def find_place(path: Path) -> Path:
    """Where the page of ``path`` goes, where nobody says."""
    path = path if path.name not in ("", "..") else path.resolve()
    return path.with_name((path.name if os.path.isdir(path) else path.stem) + SUFFIX)


def _render(path: Path, folder: Path) -> str:
    """The page of what is at ``path``, whose links are right from ``folder`` on."""
    if os.path.isdir(path):
        bundle = Bundle.open(path)
        return render_bundle(bundle.manifest, bundle.plan, bundle.report)
    try:
        document = loads(path.read_text("utf-8"))
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", REMEDY) from None
    except ValueError as error:
        raise BundleError(f"{path} cannot be read ({said(error)})", REMEDY) from None
    schema = document.get("schema") if is_table(document) else None
    kind = kind_of(schema)
    if kind == "front":
        return render_front(to_json(from_json(Front, document).found_from(path.parent).relative_to(folder)))
    if kind == "benchmark":
        from edgesdk.workflows.benchmark import Benchmark

        measured = from_json(Benchmark, document)
        if not measured.reports:
            raise BundleError(f"{path} has no report in it", REMEDY)
        return render_benchmark(to_json(measured))
    if kind == "diff":
        from edgesdk.workflows.diff import Diff

        compared = from_json(Diff, document)
        if not compared.layers:
            raise BundleError(f"{path} has no layer in it", REMEDY)
        return render_diff(to_json(compared))
    raise BundleError(f"{path} has the schema {schema!r:.80}, of which there is no page", REMEDY)
