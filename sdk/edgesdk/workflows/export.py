"""A plan applied to a model and written in several formats, each proved to be that model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgesdk.bundle.bundle import publish, reserve, write_folder
from edgesdk.bundle.documents import EXPORT, Held
from edgesdk.compress.criteria import ranked
from edgesdk.compress.quantize import specification
from edgesdk.core.artifact import Artifact, check_stored
from edgesdk.core.errors import BundleError, EdgeSdkWarning, ModelError, UsageError
from edgesdk.core.graph import Shapes
from edgesdk.core.parity import Parity
from edgesdk.core.plan import Plan
from edgesdk.core.report import Tell
from edgesdk.core.runtime import find_runtime, format_of
from edgesdk.core.runtime import formats as known_formats
from edgesdk.core.schema import Schema
from edgesdk.core.serialize import dumps, from_json, loads
from edgesdk.core.target import target as find_target
from edgesdk.data.losses import Loss
from edgesdk.data.metrics import Metric
from edgesdk.export.formats import save
from edgesdk.export.onnx import converted
from edgesdk.export.packed import packed
from edgesdk.export.parity import parity
from edgesdk.network.placement import AUTO, find_device
from edgesdk.network.reference import same_random_numbers
from edgesdk.network.trace import trace
from edgesdk.pipeline.allowance import check_epochs
from edgesdk.train.apply import apply
from edgesdk.workflows.deploy import Preprocess, quiet
from edgesdk.workflows.inputs import named, read_inputs

ALL = "all"


@dataclass(frozen=True)
class ExportedFile:
    """One format of a plan, written: its ``path``, the bytes of all its files, the runtime that ran it, and the parity.

    The parity is the distance of its outputs from the simulation in PyTorch, over their spread.
    """

    format: str
    path: str
    size_bytes: int
    runtime: str
    parity: Parity


@dataclass(frozen=True)
class Exported:
    """The folder that a plan, of that digest, was exported to, and its ``files``."""

    path: str
    plan: str
    files: tuple[ExportedFile, ...]
    schema: str = Schema("exported", 1)


@same_random_numbers()
def export_plan(
    plan: Plan | str | Path, model: nn.Module | str | None = None, data: Any = None, *,
    format: str | Sequence[str] = (), out: str | Path = "exported", target: str | None = None,
    weights: Path | None = None, metric: str | Metric = "top-1", epochs: float = 0.0, seed: int = 0,
    force: bool = False, output: str | int | None = None, preprocess: Preprocess = None, shapes: Shapes = None,
    loss: str | Loss | None = None, train_on: str = AUTO,
    tell: Tell = quiet,
) -> Exported:  # fmt: skip
    """Apply ``plan`` to ``model`` and write it to the folder ``out`` in each ``format`` named, by default in all that
    can hold it: a warning says which cannot, and why.

    All files hold the same integers, scales and zero points. ``data`` gives the ranges of integer layers, and with
    ``epochs`` what compression cost is learnt back, ``train_on`` as for :func:`edgesdk.deploy`. The dense model is
    judged first, as by that, and refused where it makes no sense on the data, unless with ``force``. Nothing is written
    unless all that is named is.

    Raises ``BundleError`` for a plan that is damaged, or made for another model or ``target``; ``UsageError`` for a
    format that cannot hold a form which the plan stores weights in; ``ModelError`` for what else a format cannot hold;
    ``DeviceError`` for an extra that is not installed; ``FidelityError`` for a file that computes something else.
    """
    wanted, learns_on = _formats(named(format)), find_device(train_on)
    if not isinstance(plan, Plan):
        plan = read_plan(Path(plan))
    if target is not None and find_target(target).name != find_target(plan.target).name:
        raise BundleError(f"the plan was made for {plan.target}, not for {target}", "search again for that target")
    for runtime in wanted.values():
        check_stored(plan.options.values(), runtime)
    check_epochs(epochs)
    with reserve(Path(out), force) as place:
        given = read_inputs(
            model, data, weights, metric, seed, output=output, preprocess=preprocess, force=force, shapes=shapes,
            loss=loss,
        )  # fmt: skip
        given = given.checked(None, force, tell)
        loaded, samples, task = given.model, given.data, given.task
        tell("tracing", None)
        network = trace(loaded, samples.example)
        plan.check(network.graph)
        scores = ranked(network, samples.calibration, task)

        def share(done: float, what: str) -> None:
            tell(f"recovering ({what})", done)

        applied = apply(plan, network, samples, task, scores, epochs, seed, share, learns_on)
        for note in applied.notes:
            warnings.warn(note, EdgeSdkWarning, stacklevel=2)
        ready, options = applied.network, applied.options
        held = [x for x, _ in samples.holdout]
        whole, specs = converted(ready, samples.example), specification(ready)
        every: list[ExportedFile] = []
        lacking: ModelError | None = None
        for name, runtime in wanted.items():
            tell(f"exporting to {name}", None)
            artifact = Artifact(place / f"model{format_of(runtime).suffix}", ready.graph, options, runtime)
            try:
                save(packed(whole, ready.stored, runtime), specs, artifact.path, runtime)
            except ModelError as error:
                if name in named(format):
                    raise
                lacking = error
                warnings.warn(f"no {name} file is written: {error.fact}", EdgeSdkWarning, stacklevel=2)
                continue
            shown = str(Path(out) / artifact.path.name)
            every.append(ExportedFile(name, shown, artifact.size_bytes, runtime, parity(ready, artifact, held)))
        if lacking is not None and not every:
            raise lacking
        (place / "plan.json").write_text(dumps(plan))
        held = {file.format: Held(file.runtime, file.parity) for file in every}
        write_folder(place, EXPORT, plan=plan.digest, graph=plan.graph_digest, formats=held)
        publish(place)
    return Exported(str(out), plan.digest, tuple(every))


def read_plan(path: Path) -> Plan:
    """The plan in the file ``path``. Raises ``BundleError`` where there is none."""
    try:
        content = loads(path.read_text())
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", "give a plan.json that a search wrote") from None
    except ValueError:
        raise BundleError(f"{path} is no JSON", "give a plan.json that a search wrote") from None
    return from_json(Plan, content)


def _formats(wanted: Sequence[str]) -> dict[str, str]:
    """The formats that are ``wanted``, each with the runtime that proves its file here."""
    formats = known_formats(measured=True)
    if unknown := [name for name in wanted if name not in (*formats, ALL)]:
        raise UsageError(f"there is no format {unknown[0]!r}", f"choose one of {', '.join([*formats, ALL])}")
    if not wanted or ALL in wanted:
        return {
            name: runtime for name, runtime in formats.items() if not find_runtime(runtime).by_name or name in wanted
        }
    return {name: formats[name] for name in wanted}
