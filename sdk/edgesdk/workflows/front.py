"""A front as a document: its points, read and written without what it takes to make one."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from edgesdk.core.budget import Budget, Cost
from edgesdk.core.errors import BundleError, UsageError
from edgesdk.core.plan import Plan
from edgesdk.core.schema import Schema
from edgesdk.core.serialize import dumps, from_json, is_table, loads, write
from edgesdk.core.wording import counted

FRONT = Schema("front", 1)
ROOM = 0.031  # above what a point promises: a deployment searches 3 % below its budget


@dataclass(frozen=True)
class Built:
    """What a point came to: the folder of its ``bundle``, in a document from where that is.

    ``plan`` is the digest of the plan that was built, ``as_planned`` whether that is the point's: what was measured
    corrects the prices, and may lead to another. ``promised`` is what that plan was to cost, ``cost`` what the finished
    file does, which is predicted where the target is. The scores are by the ``metric``.
    """

    bundle: str
    plan: str
    as_planned: bool
    promised: Cost
    cost: Cost
    metric: str
    dense_score: float
    score: float


@dataclass(frozen=True)
class SweptModel:
    """One model of a sweep by its ``name``, with the digest of its ``graph``.

    ``dense_score`` is what it scores by the ``metric`` as it is, on so many test ``samples``; ``None`` without labels.
    """

    name: str
    graph: str
    metric: str
    dense_score: float | None
    samples: int


@dataclass(frozen=True)
class Point:
    """One plan of a front, by its ``number`` from 1 on.

    ``model`` is the name of the one that it is of. ``kind`` is ``plan``, ``dense`` or ``dense int8``. ``predicted`` is
    its cost at the prices (ms, bytes), ``ratio`` the latency as a share of the dense model's at the same prices, on
    this target in the runtime and with the threads in which that is fastest, ``own_ratio`` as a share of that which the
    dense model has in the same runtime with as many threads, where that is known. ``loss`` is its price in accuracy:
    how far the outputs move on calibration data, before anything is learnt back; it ranks plans, and is no score.
    ``gap`` is how far from the best at these prices it can be, relative to that. ``best`` says that no other point of
    the same model and target has less of latency and loss. ``built`` is what it came to, where it was carried out.
    ``weights`` is the digest of the dense model's; empty where a document of before has none.
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
    own_ratio: float | None = None
    built: Built | None = None
    model: str = ""
    weights: str = ""

    @property
    def own_share(self) -> float:
        """The latency as a share of the dense model's in the same runtime."""
        return self.ratio if self.own_ratio is None else self.own_ratio

    @property
    def least_loss(self) -> float | None:
        """What no plan of this latency loses less than, at these prices; ``None`` where none was searched for."""
        proof = self.plan.proof
        return max(0.0, proof.bound) if proof.searched else None

    def within(self, bounds: Budget) -> Budget:
        """``bounds`` with the latency of this point as another, and the room that a deployment keeps for noise."""
        return replace(bounds, latency_ms=None, latency_ratio=self.own_share * (1 + ROOM))


@dataclass(frozen=True)
class Front:
    """The points of a sweep, by model and target, then by latency, all within ``bounds`` on memory and size.

    ``graph`` is the first model's. Losses are of each model's own outputs: what compares ``models`` are their scores.
    ``refused`` says why a runtime has none, or why a point came to nothing, ``notes`` in what the boards of a pool
    differ, and which dropped out. ``command`` is the command line that asked for it; ``None`` where Python did.
    """

    graph: str
    points: tuple[Point, ...]
    refused: Mapping[str, str]
    bounds: Budget = field(default_factory=Budget)
    models: tuple[SweptModel, ...] = ()
    notes: tuple[str, ...] = ()
    command: str | None = None
    schema: str = FRONT

    @staticmethod
    def read(path: str | Path) -> Front:
        """The front in the file that ``edgesdk sweep`` wrote. Raises ``BundleError`` for what is none."""
        try:
            document = loads(Path(path).read_text("utf-8"))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise BundleError(f"{path} cannot be read: {why}", "give the front.json of edgesdk sweep") from None
        FRONT.check(document.get("schema") if is_table(document) else None, str(path))
        return from_json(Front, document).found_from(Path(path).parent)

    def found_from(self, folder: str | Path) -> Front:
        """The same of a document in ``folder``, which names its bundles from there, as they are found from here."""
        return self._with_bundles(lambda bundle: os.path.join(folder, bundle))

    def relative_to(self, folder: str | Path) -> Front:
        """The same with its bundles named from ``folder``, as a document there has them."""
        return self._with_bundles(lambda bundle: os.path.relpath(bundle, folder))

    def write(self, path: str | Path) -> None:
        """Write it to ``path`` as JSON. Raises ``StorageError``."""
        write(Path(path), dumps(self.relative_to(Path(path).parent)))

    def _with_bundles(self, name: Callable[[str], str]) -> Front:
        points = (
            replace(point, built=point.built and replace(point.built, bundle=name(point.built.bundle)))
            for point in self.points
        )
        return replace(self, points=tuple(points))

    def build(
        self, points: Sequence[int], model: Any = None, data: Any = None, out_dir: str | Path = "front", *,
        weights: Path | None = None, metric: Any = "top-1", device: Any = None, precision: str | Sequence[str] = (),
        candidate: Sequence[str] = (), epochs: float | None = None, recover: Any = None, seed: int = 0,
        force: bool = False, output: str | int | None = None, preprocess: Any = None, shapes: Any = None,
        loss: Any = None, pictures: bool = True, train_on: str = "auto",
        jobs: int = 1, cluster: str | None = None,
        tell: Callable[[str, float | None], None] | None = None,
    ) -> Front:  # fmt: skip
        """Carry out the ``points`` of these numbers, each to a bundle ``point-N`` in ``out_dir``; the front with them.

        Prices, sensitivities and the dense model's figures are shared, and those that were kept serve again. All else
        is as for :func:`edgesdk.deploy`, and raises the same errors; what keeps its point's latency out of reach is in
        ``refused``. Raises ``UsageError`` for another model than the front's, and warns where prices have changed.
        """
        from edgesdk.workflows.building import build_points
        from edgesdk.workflows.deploy import quiet
        from edgesdk.workflows.inputs import named, read_inputs

        given = read_inputs(
            model, data, weights, metric, seed, output=output, preprocess=preprocess, force=force, shapes=shapes,
            loss=loss, pictures=pictures,
        )  # fmt: skip
        return build_points(
            self, given, points, out_dir, device=device, precision=named(precision), candidate=candidate,
            epochs=epochs, recover=recover, seed=seed, force=force, train_on=train_on, jobs=jobs, cluster=cluster,
            tell=tell or quiet,
        )  # fmt: skip

    def point(self, number: int) -> Point:
        """The point of that ``number``. Raises ``UsageError`` where there is none."""
        for point in self.points:
            if point.number == number:
                return point
        raise UsageError(f"the front has no point {number}", f"choose from 1 to {len(self.points)}")

    def rows(self) -> list[dict[str, Any]]:
        """A row for each point, without its plan; of one that was built with what it came to."""
        rows: list[dict[str, Any]] = []
        for point in self.points:
            row = {name: value for name, value in vars(point).items() if name not in ("predicted", "plan", "built")}
            row |= {"latency_ms": point.predicted.latency_ms, **_bytes(point.predicted)}
            row |= {"least_loss": point.least_loss}
            built = point.built
            row |= dict.fromkeys(("built", "built_basis", "built_latency_ms", "dense_score", "score"))
            row |= {f"built_{name}": None for name in _bytes(point.predicted)}
            if built is not None:
                row |= {"built": built.bundle, "built_basis": built.cost.basis, "score": built.score}
                row |= {"built_latency_ms": built.cost.latency_ms, "dense_score": built.dense_score}
                row |= {f"built_{name}": value for name, value in _bytes(built.cost).items()}
            rows.append(row)
        return rows

    def __repr__(self) -> str:
        """What it is of: all plans of all points are some hundred thousand letters."""
        models, targets = (", ".join(dict.fromkeys(getattr(each, name) for each in self.points)) or "none"
                           for name in ("model", "target"))  # fmt: skip
        return f"<Front: {counted(len(self.points), 'point')} of {models} on {targets}>"

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


def _bytes(cost: Cost) -> dict[str, int]:
    return {name: round(getattr(cost, name)) for name in ("peak_memory_bytes", "size_bytes")}
