"""A model in stages with early exits: a file per stage, thresholds for what may be lost, and the latency to expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgesdk.bundle.bundle import publish, reserve, write_folder
from edgesdk.bundle.documents import STAGES
from edgesdk.compress.exits import fitted, picked, places, split, spread
from edgesdk.core.artifact import Artifact, baseline
from edgesdk.core.errors import BudgetError, ModelError, UsageError
from edgesdk.core.graph import Shapes
from edgesdk.core.parity import Parity
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.core.report import Measurement, Tell
from edgesdk.core.runtime import exportable, find_runtime, format_of, formats
from edgesdk.core.schema import Schema
from edgesdk.core.scratch import scratch_folder
from edgesdk.core.serialize import dumps
from edgesdk.core.target import Target
from edgesdk.core.wording import counted
from edgesdk.data.data import Batches, Data, check
from edgesdk.data.task import first_tensor
from edgesdk.devices.bench import usual_mode
from edgesdk.devices.pools import At
from edgesdk.export.formats import export, grid_of
from edgesdk.export.parity import parity, runner
from edgesdk.network.network import Batch, Network
from edgesdk.network.reference import same_random_numbers
from edgesdk.network.trace import trace
from edgesdk.price.operators import precisions
from edgesdk.techniques.exits import MEASURES, NEVER, doubt, expected, leaves, reached, thresholds
from edgesdk.train.apply import quantize
from edgesdk.workflows.deploy import Preprocess, quiet
from edgesdk.workflows.inputs import read_inputs
from edgesdk.workflows.where import Where


@dataclass(frozen=True)
class Stage:
    """One stage: its file, the layer that its exit reads, and the doubt up to which samples leave there.

    ``exit`` and ``threshold`` are ``None`` for the last, where all leave; a threshold of -1 lets none. ``inputs`` and
    ``outputs`` are the file's names, of the outputs the logits first, then the features for the next stage.
    ``reached`` and ``left`` are shares of the test samples, ``latency_ms`` what a run of it takes.
    """

    file: str
    exit: str | None
    threshold: float | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reached: float
    left: float
    latency_ms: float
    size_bytes: int
    parity: Parity


@dataclass(frozen=True)
class Judged:
    """Accuracy in percent: of the dense float model, of the last stage's answers for all samples, and in stages.

    Without labels it is agreement with the dense model.
    """

    dense: float
    last: float
    staged: float


@dataclass(frozen=True)
class Stages:
    """A model in stages, in the folder ``path``.

    ``dense_ms`` and ``whole_ms`` are what the float model takes and the one in the stages' precision, each in one file,
    from the same run as the stages'. ``basis`` says what those and the stages' figures are; ``expected_ms`` is
    predicted from them and from the shares of the test samples. ``held`` judges by what the thresholds were chosen by,
    ``test`` by what they were not.
    """

    path: str
    target: str
    runtime: str
    runtime_version: str
    format: str
    precision: str
    threads: int
    confidence: str
    stages: tuple[Stage, ...]
    expected_ms: float
    whole_ms: float
    dense_ms: float
    basis: Mapping[str, str]
    held: Judged
    test: Judged
    max_drop: float
    data: str
    notes: tuple[str, ...]
    schema: str = Schema("stages", 1)


@same_random_numbers()
def stages(
    model: nn.Module | str | None = None, target: str = "x86", data: Any = None, *, exits: int = 1,
    max_drop: float = 0.5, runtime: str | None = None, precision: str = FP32, confidence: str = "entropy",
    out: str | Path = "stages", weights: Path | None = None, threads: int = 1, seed: int = 0,
    device: At | None = None, force: bool = False, preprocess: Preprocess = None,
    shapes: Shapes = None, tell: Tell = quiet,
) -> Stages:  # fmt: skip
    """Write ``model``, a classifier, to the folder ``out`` as a file per stage, each but the last with an exit.

    BranchyNet (Teerapittayanon et al. 2016). Exits are fitted to the training data, or without labels to the model's
    own answers; the model itself is left as it is, and all else equal its last stage answers as it does. The places of
    the ``exits`` and their thresholds are those with which a sample is expected to take least, while the accuracy on
    held-out data is no more than ``max_drop`` points below that of the model. ``runtime`` is one of the target's, by
    default the first that stages can be written for; with the ``precision`` int8 all layers are that can be.
    ``confidence`` is by the ``entropy`` of an exit's answer, or by its ``maximum`` probability.

    ``model``, ``data``, ``target`` and ``device`` are as for :func:`edgesdk.deploy`. Stages are measured on the
    ``device``, or here for a target that is at hand; else predicted from the target's profile. On ``pool:NAME``, or
    several, alike boards measure side by side, and of each file the slowest counts. Raises ``UsageError``
    for options out of range and more exits than places, ``ModelError`` for a model that does not classify or that
    cannot be cut, ``BudgetError`` where int8 alone loses more than ``max_drop``, and the errors of loading, exporting
    and measuring.
    """
    where = Where.named(target, runtime, threads, device)
    runtime, int8 = _checked(exits, max_drop, runtime, confidence, where.target), _is_int8(precision)
    format = format_of(runtime).name
    with reserve(Path(out), force) as place, scratch_folder() as folder:
        given = read_inputs(model, data, weights, "top-1", seed, preprocess=preprocess, force=force, shapes=shapes)
        tell("tracing", None)
        network = _classifier(given.model, given.data)
        at = spread(places(network), exits)
        samples = given.checked(None, force, tell).data
        tell("fitting exits", None)
        train = samples.train if samples.train is not None else samples.calibration
        heads = fitted(network, at, train, samples.labelled)
        held = samples.holdout if samples.labelled else [(x, None) for x, _ in samples.holdout]
        chosen = picked(network, heads, exits, held, max_drop / 100, confidence)
        parts = split(network, {name: heads[name] for name in chosen}, samples.example)
        tell(f"exporting to {format}", None)
        calibration, holdout = [x for x, _ in samples.calibration], [x for x, _ in samples.holdout]
        artifacts: dict[str, Artifact] = {}
        agree: list[Parity] = []
        for number, part in enumerate(parts, 1):
            ready, options = _ready(part, runtime, int8, calibration)
            path = place / f"stage-{number}{format_of(runtime).suffix}"
            export(ready, calibration[0], path, runtime)
            artifacts[path.name] = Artifact(path, ready.graph, options, runtime)
            agree.append(parity(ready, artifacts[path.name], holdout))
            if number < len(parts):
                calibration, holdout = ([_features(ready, x) for x in every] for every in (calibration, holdout))
        files = list(artifacts.values())
        every = _whole(network, samples, runtime, int8, folder)
        tell("measuring", None)
        reports, said = _measured({**artifacts, **every}, replace(where, runtime=runtime), folder, force)
        tell("judging", None)
        costs = [reports[name].latency_ms() for name in artifacts]
        doubts, right, dense = _answers(network, files, parts, samples.holdout, samples.labelled, confidence)
        least = dense - max_drop / 100
        if float(right[-1].double().mean()) < least:
            lost = 100 * (dense - float(right[-1].double().mean()))
            fact = f"without any exit the int8 model loses {counted(lost, 'point', '.2g')} on the held-out data"
            raise BudgetError(
                fact, f"allow --max-drop {lost:.2g} or more, or leave --precision int8 out", figure="max_drop",
                asked=max_drop, tightest=lost, basis="measured",
            )  # fmt: skip
        limits = thresholds(doubts, right, costs, least)
        on_held = _judged(dense, right, leaves(doubts, limits))
        doubts, right, dense = _answers(network, files, parts, samples.test, samples.labelled, confidence)
        last = leaves(doubts, limits)
        shares = reached(last, len(parts))
        whole, float_ = reports["whole" if int8 else "dense"], reports["dense"]
        total = expected(shares, costs)
        result = Stages(
            path=str(out),
            target=where.target.name,
            runtime=runtime,
            runtime_version=float_.runtime_version,
            format=format,
            precision=precision,
            threads=threads,
            confidence=confidence,
            stages=tuple(
                Stage(
                    file=artifact.path.name,
                    exit=chosen[index] if index < exits else None,
                    threshold=limits[index] if index < exits else None,
                    **_names(parts[index]),
                    reached=shares[index],
                    left=float((last == index).double().mean()),
                    latency_ms=costs[index],
                    size_bytes=artifact.size_bytes,
                    parity=agree[index],
                )
                for index, artifact in enumerate(files)
            ),
            expected_ms=total,
            whole_ms=whole.latency_ms(),
            dense_ms=float_.latency_ms(),
            basis={"stages": float_.basis, "expected": "predicted"},
            held=on_held,
            test=_judged(dense, right, last),
            max_drop=max_drop,
            data=samples.description,
            notes=(*samples.notes, *_notes(limits, total, whole.latency_ms(), reports, samples), *said),
        )
        (place / "stages.json").write_text(dumps(result))
        write_folder(place, STAGES)
        publish(place)
    return result


def _checked(exits: int, max_drop: float, runtime: str | None, confidence: str, target: Target) -> str:
    """``runtime`` or the first of ``target`` with stages. Raises ``UsageError`` for what is wrong on its face."""
    if confidence not in MEASURES:
        raise UsageError(f"there is no confidence {confidence!r}", f"choose {' or '.join(MEASURES)}")
    if exits < 1:
        raise UsageError(f"{exits} exits", "give 1 or more")
    if not 0 <= max_drop < 100:
        raise UsageError(f"a drop of {max_drop:g} points", "give 0 or more, and less than 100")
    staged = formats(measured=True)
    available = [name for name in target.runtimes if name in exportable() and format_of(name).name in staged]
    if not available:
        raise UsageError(f"no runtime of {target.name} runs stages", f"they are for formats of {', '.join(staged)}")
    if runtime is not None and runtime not in available:
        raise UsageError(f"{target.name} runs no stages in {runtime!r}", f"choose one of {', '.join(available)}")
    return runtime or available[0]


def _is_int8(precision: str) -> bool:
    if precision not in (FP32, INT8):
        raise UsageError(f"there are no stages in {precision!r}", f"choose {FP32} or {INT8}")
    return precision == INT8


def _classifier(model: nn.Module, data: Data) -> Network:
    """``model`` traced. Raises ``ModelError`` where it answers with something else than classes."""
    check(data, model, False)
    network = trace(model, data.example)
    shape = tuple(network.flat(data.example)[0].shape[1:])
    if len(shape) != 1 or shape[0] < 2:
        fact = f"the model's first output has shape {('N', *shape)}, not (N, classes)"
        raise ModelError(fact.replace("'", ""), "early exits are for models that classify")
    check(data, model, True)
    return network


def _ready(part: Network, runtime: str, int8: bool, calibration: Sequence[Batch]) -> tuple[Network, dict[str, Option]]:
    """``part`` as it is exported, with its ranges set by ``calibration``, and its layers' options."""
    graph, has = part.graph, find_runtime(runtime).is_integer
    wanted = {n.name: Option(INT8, 8) for n in graph.layers if int8 and INT8 in precisions(n) and has(n, graph)}
    ready = quantize(part, wanted, calibration, grid_of(runtime))
    return ready, {layer.name: wanted.get(layer.name, Option()) for layer in part.graph.layers}


@torch.no_grad()
def _features(part: Network, x: Batch) -> Tensor:
    return part.flat(x)[1]


def _whole(network: Network, data: Data, runtime: str, int8: bool, folder: Path) -> dict[str, Artifact]:
    """The network in one file: in float, and in int8 where the stages are."""
    artifacts: dict[str, Artifact] = {}
    for name, whole in {"dense": False, **({"whole": True} if int8 else {})}.items():
        ready, options = _ready(network, runtime, whole, [x for x, _ in data.calibration])
        path = folder / f"{name}{format_of(runtime).suffix}"
        export(ready, data.example, path, runtime)
        artifacts[name] = Artifact(path, ready.graph, options, runtime)
    return artifacts


def _measured(
    artifacts: Mapping[str, Artifact], where: Where, folder: Path, force: bool
) -> tuple[Mapping[str, Measurement], tuple[str, ...]]:
    """A report of each from one interleaved run, or a prediction where that is not at hand; and what is to be said of
    the device."""
    with where.reach() as agent:
        (meter,) = where.open_meters(agent, force).meters
        baselines = {meter.runtime: baseline(folder, meter.runtime)}
        return meter.measure(artifacts, usual_mode(), baselines, thorough=False), meter.notes


def _answers(
    network: Network,
    files: Sequence[Artifact],
    parts: Sequence[Network],
    batches: Batches,
    labelled: bool,
    measure: str,
) -> tuple[Tensor, Tensor, float]:
    """Each exit's doubts, (exits, N), which stage answers rightly, (stages, N), and the share that ``network`` does.

    Every file is run on every sample. Without labels its own answers are the right ones.
    """
    run = [runner(file, part.structure) for file, part in zip(files, parts, strict=True)]
    doubts: list[Tensor] = []
    right: list[Tensor] = []
    exact: list[Tensor] = []
    for x, y in batches:
        with torch.no_grad():
            own = first_tensor(network(x)).argmax(1)
        labels = y if labelled else own
        exact.append(own == labels)
        logits: list[Tensor] = []
        for share in run[:-1]:
            answer, x = share(x)
            logits.append(answer)
        doubts.append(torch.stack([doubt(answer, measure) for answer in logits]))
        logits.append(first_tensor(run[-1](x)))
        right.append(torch.stack([answer.argmax(1) == labels for answer in logits]))
    return torch.cat(doubts, 1), torch.cat(right, 1), float(torch.cat(exact).double().mean())


def _judged(dense: float, right: Tensor, last: Tensor) -> Judged:
    staged = right[last, torch.arange(right.shape[1])]
    return Judged(100 * dense, 100 * float(right[-1].double().mean()), 100 * float(staged.double().mean()))


def _names(part: Network) -> dict[str, tuple[str, ...]]:
    return {"inputs": tuple(part.input_names), "outputs": part.structure.output_names}


def _notes(
    limits: Sequence[float], total: float, whole: float, reports: Mapping[str, Measurement], data: Data
) -> list[str]:
    """What a reader must know."""
    notes = [] if data.train is not None else ["no training data: exits were fitted to the calibration samples"]
    notes += [] if data.labelled else ["no labels: accuracy is agreement with the dense model"]
    if NEVER in limits:
        notes.append(f"no sample leaves at exit {limits.index(NEVER) + 1}: fewer exits are faster")
    if total >= whole:
        notes.append("stages are expected to take longer than the model in one file")
    reason = next((report.reason for report in reports.values() if not report.valid), None)
    return [*notes, *([f"the run was invalid: {reason}"] if reason else [])]
