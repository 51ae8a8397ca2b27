"""A front as a document: its points, read and written without what it takes to make one."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from edgesdk.core.budget import Cost
from edgesdk.core.errors import BundleError, UsageError
from edgesdk.core.plan import Plan
from edgesdk.core.schema import Schema
from edgesdk.core.serialize import from_json, is_table, loads

FRONT = Schema("front", 1)


@dataclass(frozen=True)
class Point:
    """One plan of a front, by its ``number`` from 1 on.

    ``kind`` is ``plan``, ``dense`` or ``dense int8``. ``predicted`` is its cost at the prices (ms, bytes), ``ratio``
    the latency as a share of the dense model's at the same prices. ``loss`` is its price in accuracy: how far the
    outputs move on calibration data, before anything is learnt back; it ranks plans, and is no score. ``gap`` is how
    far from the best at these prices it can be, relative to that. ``best`` says that no other point of the same target
    has less of latency and loss.
    """

    number: int
    target: str
    runtime: str
    threads: int
    kind: str
    predicted: Cost
    ratio: float
    loss: float
    gap: float
    best: bool
    plan: Plan


@dataclass(frozen=True)
class Front:
    """The points of a sweep, by target, then by latency; ``refused`` says why a runtime has none."""

    graph: str
    points: tuple[Point, ...]
    refused: Mapping[str, str]
    schema: str = FRONT

    @staticmethod
    def read(path: str | Path) -> Front:
        """The front in the file that ``edgesdk sweep`` wrote. Raises ``BundleError`` for what is none."""
        try:
            document = loads(Path(path).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise BundleError(f"{path} cannot be read ({error})", "give the front.json of edgesdk sweep") from None
        FRONT.check(document.get("schema") if is_table(document) else None, str(path))
        return from_json(Front, document)

    def point(self, number: int) -> Point:
        """The point of that ``number``. Raises ``UsageError`` where there is none."""
        for point in self.points:
            if point.number == number:
                return point
        raise UsageError(f"the front has no point {number}", f"choose from 1 to {len(self.points)}")

    def rows(self) -> list[dict[str, Any]]:
        """A row for each point, without its plan."""
        rows: list[dict[str, Any]] = []
        for point in self.points:
            row = {name: value for name, value in vars(point).items() if name not in ("predicted", "plan")}
            cost = point.predicted
            figures = {name: round(getattr(cost, name)) for name in ("peak_memory_bytes", "size_bytes")}
            rows.append({**row, "latency_ms": cost.latency_ms, **figures})
        return rows

    def to_frame(self) -> Any:
        """The rows as a ``pandas.DataFrame``, by the numbers of the points. Raises ``UsageError`` without pandas."""
        try:
            pandas: Any = import_module("pandas")  # as one that has no types
        except ImportError:
            raise UsageError("pandas is not installed", "pip install 'edgesdk[pandas]', or take rows()") from None
        return pandas.DataFrame(self.rows()).set_index("number")

    def csv(self) -> str:
        """The rows as CSV with a head."""
        rows, text = self.rows(), io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
