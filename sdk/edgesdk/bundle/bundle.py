"""The folder that a deployment ends in: written whole or not at all, and checked by its digests."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edgesdk.bundle.documents import (
    FOLDER,
    MANIFEST,
    REPORT,
    DeploymentReport,
    Distance,
    File,
    Folder,
    InputSpec,
    Manifest,
    OutputSpec,
    Pixels,
    RuntimeNeed,
    Scores,
    Step,
)  # fmt: skip
from edgesdk.bundle.signing import check_signature, sign
from edgesdk.core.arrays import read_npz
from edgesdk.core.artifact import Artifact, open_file
from edgesdk.core.asked import read_command
from edgesdk.core.budget import Budget
from edgesdk.core.errors import BundleError, EdgeSdkError, StorageError
from edgesdk.core.plan import FP32, INT8, Plan
from edgesdk.core.report import NOT_RUN, Measurement, Prediction, Report, is_predicted
from edgesdk.core.rollout import Rollout
from edgesdk.core.runtime import exportable, find_runtime, format_of, is_substituted, read_recipe
from edgesdk.core.schema import Schema
from edgesdk.core.serialize import dumps, from_json, is_list, is_table, loads
from edgesdk.core.target import target as find_target
from edgesdk.core.wording import said
from edgesdk.pages.bundle_page import render_bundle
from edgesdk.pipeline.result import Result
from edgesdk_targets.bundle_run import TOLERANCE, distance  # pyright: ignore[reportUnknownVariableType]  # untyped

if TYPE_CHECKING:  # to check a bundle nobody should wait for torch
    from edgesdk.data.data import Data
    from edgesdk.data.preprocessing import Preprocessing
    from edgesdk.network.network import Network
    from edgesdk.network.reference import Reference

FILES = ("plan.json", "report.json", "sample.npz", "run.py")  # beside those of the model
UNIT = "edgesdk-model.service"
PAGE = "report.html"
SIMULATION = "simulation.pt2"  # what each layer of the file should compute, for `edgesdk diff`
MODEL = "model.onnx"  # where a manifest of before does not say
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # what a bundle's files are called
SAMPLES = 8


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk: ``manifest`` and ``report`` as they are in it, and its plan.

    Where the same deployment installed it, ``installed`` is what the device said, or ``rollout`` where each board of a
    pool stands.
    """

    path: Path
    manifest: Mapping[str, Any]
    plan: Plan
    report: Mapping[str, Any]
    installed: Mapping[str, Any] | None = None
    rollout: Rollout | None = None

    @property
    def model(self) -> Path:
        """The file of the model: ``.onnx``, ``.xml`` or ``.tflite``."""
        return self.path / self.manifest.get("model", MODEL)

    def recorded(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The inputs and outputs of its sample by name. Raises ``BundleError`` where it has not all of them."""
        arrays = self._read_sample()
        return self._part(arrays, "input", "inputs"), self._part(arrays, "output", "outputs")

    def recorded_of_model(self) -> dict[str, np.ndarray]:
        """What the dense model itself answered to the inputs of the sample, by output; nothing in a bundle of before.

        Raises ``BundleError`` where the sample has that of some outputs alone.
        """
        arrays = self._read_sample()
        return self._part(arrays, "model", "outputs") if any(name.startswith("model:") for name in arrays) else {}

    def _read_sample(self) -> dict[str, np.ndarray]:
        try:
            return read_npz(self.path / "sample.npz")
        except (OSError, ValueError) as error:
            raise BundleError(f"the sample of {self.path} cannot be read ({error})", "deploy again") from None

    def _part(self, arrays: Mapping[str, np.ndarray], side: str, entries: str) -> dict[str, np.ndarray]:
        """The arrays of one ``side`` of the sample, for each of the manifest's ``entries``."""
        names = [entry["name"] for entry in self.manifest[entries]]
        if lacking := [name for name in names if f"{side}:{name}" not in arrays]:
            raise BundleError(f"the sample of {self.path} lacks the {side} {lacking[0]}", "deploy again")
        return {name: arrays[f"{side}:{name}"] for name in names}

    @property
    def artifact(self) -> Artifact:
        """Its model as a file for its runtime."""
        return Artifact(self.model, runtime=self.manifest["runtime"]["name"])

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """The bundle at ``path``, its digests checked. Raises ``BundleError`` where a file is missing or changed."""
        path = Path(path)
        manifest = _read(path / "manifest.json")
        files, model = manifest.get("files"), manifest.get("model", MODEL)
        if FOLDER.of(manifest.get("schema")) and is_table(files) and not {*FILES[1:]} & set(files):  # a plan at most
            raise BundleError(f"{path} is a folder of files and no bundle", "name a file in it, or a bundle")
        MANIFEST.check(manifest.get("schema"), str(path))
        if not is_table(files) or not isinstance(model, str) or not {*FILES, model} <= set(files):
            raise BundleError(f"the manifest of {path} does not list the files of a bundle", "deploy again")
        runtime = manifest.get("runtime")
        if not is_table(runtime) or runtime.get("name") not in exportable():
            raise BundleError(f"the manifest of {path} names no runtime that edgesdk knows", "deploy again")
        for side in ("inputs", "outputs"):
            entries = manifest.get(side)
            if not (entries and is_list(entries) and all(map(_is_named, entries))):
                raise BundleError(f"the manifest of {path} does not name the {side} of the model", "deploy again")
        _check_files(path, recorded_files(path, manifest))
        report = _read(path / "report.json")
        REPORT.check(report.get("schema"), str(path / "report.json"))
        return cls(path, manifest, from_json(Plan, _read(path / "plan.json")), report)


def _is_named(entry: Any) -> bool:
    return is_table(entry) and isinstance(entry.get("name"), str)


def recorded_files(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The files that ``manifest`` records, and of its pages those that are in ``path``: a device has none of them."""
    pages = manifest.get("pages")
    there = {name: entry for name, entry in pages.items() if os.path.lexists(path / name)} if is_table(pages) else {}
    return {**there, **manifest["files"]}


def _check_files(path: Path, files: Mapping[str, Any]) -> None:
    """Raise ``BundleError`` unless each of the manifest's ``files`` is in ``path`` itself, as it was."""
    for name, entry in files.items():
        if not PLAIN.fullmatch(name) or (path / name).is_symlink():
            raise BundleError(f"{path} has {name!r} in its manifest, which is no file of its own", "deploy again")
        if not (path / name).is_file():
            raise BundleError(f"{path} lacks {name}", "deploy again, or copy the whole folder")
        if not is_table(entry) or file_digest(path / name) != entry.get("sha256"):
            raise BundleError(f"{path / name} was changed: its SHA-256 is not the manifest's", "deploy again")


@contextmanager
def reserve(out: Path, force: bool) -> Generator[Path]:
    """A temporary folder beside ``out``, gone if the work fails; :func:`pack` renames it to ``out``.

    Raises ``BundleError`` where ``out`` exists and ``force`` does not allow replacing it, ``StorageError`` where the
    folder cannot be made.
    """
    if out.exists() and not force:
        raise BundleError(f"{out} exists", "give --force to replace it, or another --out")
    if out.exists() and not (out / "manifest.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out} exists and is no bundle", "give another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        temporary = out.with_name(f".{out.name}.partial-{os.getpid()}")
        temporary.mkdir()
    except OSError as error:
        raise StorageError(f"cannot write beside {out}: {error.strerror}", "choose another --out") from None
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(out: Path) -> None:
    """Remove what killed runs left behind, and bring back a bundle that one was about to replace."""
    old = out.with_name(f".{out.name}.old")
    if old.exists():
        shutil.rmtree(old) if out.exists() else old.rename(out)
    for left in out.parent.glob(f".{out.name}.partial-*"):
        owner = left.name.rpartition("-")[2]
        if not (owner.isdigit() and Path(f"/proc/{owner}").exists()):
            shutil.rmtree(left, ignore_errors=True)


def pack(
    place: Path, result: Result, data: Data, network: Network, reference: Reference, budget: Budget,
    facts: Mapping[str, Any], key: Path | None = None,
) -> Bundle:  # fmt: skip
    """Fill ``place`` with the bundle, sign it with ``key`` and rename it to what it was reserved for.

    Raises ``StorageError``.
    """
    out = _out(place)
    try:
        for file in result.artifact.every:
            shutil.copyfile(file, place / file.name)
        (place / "plan.json").write_text(dumps(result.plan))
        simulation, notes = _simulate(place, result, data)
        report = dumps(_report(result, data, budget, {**facts, "notes": [*facts.get("notes", ()), *notes]}))
        (place / "report.json").write_text(report)
        model = Artifact(place / result.artifact.path.name, runtime=result.artifact.runtime)
        _record(place, model, network, reference, data)
        run = resources.files("edgesdk_targets").joinpath("bundle_run.py").read_text()
        (place / "run.py").write_text(run)
        (place / UNIT).write_text(resources.files("edgesdk_targets").joinpath(UNIT).read_text())
        manifest = _manifest(model, result, data, network)
        (place / PAGE).write_text(render_bundle(loads(dumps(manifest)), result.plan, loads(report)), "utf-8")
        (place / "manifest.json").write_text(dumps(replace(manifest, pages=described(place, [PAGE, *simulation]))))
        if key is not None:
            sign(place, key)
    except OSError as error:
        raise StorageError(
            f"cannot write the bundle {out}: {error.strerror}", "free some space or give another --out"
        ) from None
    return Bundle.open(publish(place))


def publish(place: Path) -> Path:
    """Make the filled folder that :func:`reserve` gave what it was reserved for; that path. Raises ``StorageError``."""
    out = _out(place)
    try:
        for file in place.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        old = out.with_name(f".{out.name}.old")
        if out.exists():
            out.rename(old)
        place.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror}", "free some space or give another --out") from None
    return out


def _priced_as(runtime: str, target: str) -> str | None:
    """In what floats are to be computed where nothing was measured, and the prices are those of half precision."""
    halved = find_target(target).runs_as(runtime, FP32) != FP32 and not is_substituted(runtime)
    return "f16" if halved else None


def _out(place: Path) -> Path:
    return place.with_name(place.name[1:].rpartition(".partial-")[0])


def _simulate(place: Path, result: Result, data: Data) -> tuple[list[str], list[str]]:
    """Write what the file is made of, where that is known; the names of what was written, and a note where PyTorch
    cannot write it: the bundle is whole without what only `edgesdk diff` reads."""
    if result.simulated is None:
        return [], []
    from edgesdk.export.simulation import write_simulation

    try:
        write_simulation(result.simulated, data.example, place / SIMULATION)
    except OSError:
        raise
    except Exception as error:  # PyTorch raises many kinds
        (place / SIMULATION).unlink(missing_ok=True)
        return [], [
            f"edgesdk diff has nothing to compare layers with: PyTorch cannot write {SIMULATION} ({said(error)})"
        ]
    return [SIMULATION], []


def _record(place: Path, model: Artifact, network: Network, reference: Reference, data: Data) -> None:
    """A few inputs, with the outputs that a runtime on this machine gave for them, and those of the user's module."""
    from edgesdk.network.network import rebatch, tensors

    few = rebatch(data.example, lambda t: t[:SAMPLES])
    inputs = dict(zip(network.input_names, [t.numpy() for t in tensors(few)], strict=True))
    outputs = _outputs(open_file(model), inputs)
    answers = dict(zip(outputs, reference.arrays(few), strict=True))
    sides = {"input": inputs, "output": outputs, "model": answers}
    arrays = {f"{side}:{name}": value for side, values in sides.items() for name, value in values.items()}
    np.savez_compressed(place / "sample.npz", **arrays)  # type: ignore[arg-type]


def _outputs(session: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    count = len(next(iter(inputs.values())))
    rows = [session.run({name: value[i : i + 1] for name, value in inputs.items()}) for i in range(count)]
    return {name: np.concatenate(parts) for name, parts in zip(session.outputs, zip(*rows, strict=True), strict=True)}


def _manifest(model: Artifact, result: Result, data: Data, network: Network) -> Manifest:
    place = model.path.parent
    layout = {4: "NCHW" if data.preprocessing is None else data.preprocessing.layout, 3: "NCL", 2: "NC"}
    recorded = np.load(place / "sample.npz")
    outputs = [name.removeprefix("output:") for name in recorded.files if name.startswith("output:")]
    files = [*(file.name for file in model.every), *FILES, UNIT]
    runtime = result.deployed.runtime
    return Manifest(
        edgesdk=metadata.version("edgesdk"),
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        target=result.plan.target,
        architecture=result.deployed.architecture or find_target(result.plan.target).architecture,
        basis=result.deployed.basis,
        runtime=RuntimeNeed(
            runtime, result.deployed.runtime_version, find_runtime(runtime).oldest,
            result.deployed.precision or _priced_as(runtime, result.plan.target),
        ),
        model=model.path.name,
        format=format_of(runtime).name,
        layout_inside=format_of(runtime).layout,
        threads=result.plan.threads,
        plan=result.plan.digest,
        graph=result.plan.graph_digest,
        inputs=tuple(
            InputSpec(
                name, (1, *tensor.shape), tensor.dtype, layout.get(len(tensor.shape) + 1, "N..."),
                data.normalization, data.sample_rate if len(tensor.shape) < 3 else None,
            )
            for name, tensor in zip(network.input_names, network.graph.inputs, strict=True)
        ),
        preprocessing=None if data.preprocessing is None else _pixels(data.preprocessing),
        classes=tuple(data.classes),
        outputs=tuple(
            OutputSpec(name, (1, *array.shape[1:]), str(array.dtype))
            for name in outputs
            for array in [recorded[f"output:{name}"]]
        ),
        files=described(place, files),
    )  # fmt: skip


def _pixels(preprocessing: Preprocessing) -> Pixels:
    return Pixels(**{field.name: getattr(preprocessing, field.name) for field in fields(Pixels)})


def _report(result: Result, data: Data, budget: Budget, facts: Mapping[str, Any]) -> DeploymentReport:
    """Dense beside deployed, predicted beside measured, and how it came about."""
    notes = [*data.notes, *facts.get("notes", ()), *(step["note"] for step in result.history if "note" in step)]
    predicted = is_predicted(result.deployed)
    recipe = read_recipe(result.deployed.runtime)
    whole = any(layer.option.precision == INT8 for layer in result.plan.layers)
    lines = recipe.get("measure_int8", recipe["measure"]) if whole else recipe["measure"]
    if predicted:
        notes = ["predicted, not measured: nothing ran on the target", *result.deployed.notes, *recipe["notes"], *notes]
    return DeploymentReport(
        basis=result.deployed.basis,
        budget=budget,
        data=data.description,
        notes=tuple(notes),
        metric=facts["metric"],
        score=Scores(result.dense_score, result.score, "the model and the file", result.samples, result.decisions),
        predicted=result.plan.predicted,
        measured=None if predicted else result.deployed.cost(budget),
        to_measure=tuple(line.format(threads=result.plan.threads) for line in lines) if predicted else (),
        dense=_without_samples(result.dense),
        deployed=cast("Report | Prediction", result.deployed),  # what else is a measurement is a test's
        parity=result.parity,
        against_model={
            name: Distance(off.error, off.samples, off.top1_differs, off.by_output)
            for name, off in result.against_model.items()
        },
        fell_back_to_float=tuple(result.fallbacks),
        rejected=result.plan.rejected,
        history=tuple(Step(**step) for step in result.history),
        beside={name: _without_samples(report) for name, report in result.beside.items()},
        refused_runtimes=result.refused,
        changes=result.changes,
        eased=result.eased,
        command=read_command(),
        **{name: value for name, value in facts.items() if name not in ("notes", "metric")},
    )


def _without_samples(report: Measurement) -> Any:
    return replace(report, samples_ms=()) if isinstance(report, Report) else report


@dataclass(frozen=True)
class Versions:
    """The version of the runtime that a bundle was measured with, ``None`` where it was predicted, and that of here."""

    recorded: str | None
    here: str


@dataclass(frozen=True)
class AgainstModel:
    """How far each output of a bundle is from the model's, of the spread of what that answers, over ``samples``.

    ``deployment_saw`` is the largest of ``deployment_saw_by_output``, which has what the deployment itself saw on
    others. ``model_errors`` are how far the model's own answers to the recorded sample are from those that the bundle
    records; nothing in a bundle of before, of which ``notes`` say what could not be checked.
    """

    errors: Mapping[str, float]
    deployment_saw: float
    samples: int
    deployment_saw_by_output: Mapping[str, float]
    model_errors: Mapping[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verification:
    """What of a bundle was checked, and holds: ``files`` as recorded, and the signature where it was asked for.

    ``sample_error`` is how far each output is from the recorded sample's, of its spread. Folders of files alone, of
    ``edgesdk export`` or ``stages``, have no ``runtime`` and no sample.
    """

    path: str
    files: int
    signed: bool
    runtime: Versions | None = None
    sample_error: Mapping[str, float] = field(default_factory=dict[str, float])
    against_model: AgainstModel | None = None
    valid: bool = True
    schema: str = Schema("verification", 1)


def check(path: str | Path, key: str | Path | None = None) -> Verification:
    """Check a bundle: digests, schema, runtime version, its outputs on the recorded sample, its signature by ``key``.

    Of a folder that ``edgesdk export`` wrote, the digests. Raises ``BundleError`` for what does not hold.
    """
    if key is not None:
        check_signature(Path(path), Path(key))
    manifest = _read(Path(path) / "manifest.json")
    if "kind" in manifest and isinstance(manifest.get("files"), dict):
        FOLDER.check(manifest.get("schema"), str(path))
        _check_files(Path(path), manifest["files"])
        return Verification(str(path), len(manifest["files"]), key is not None)
    bundle = Bundle.open(path)
    inputs, recorded = bundle.recorded()
    try:
        session = open_file(bundle.artifact)
        outputs = _outputs(session, inputs)
    except EdgeSdkError:
        raise
    except Exception as error:  # the runtime's own exceptions share no base
        raise BundleError(f"{bundle.model} does not run: {said(error)}", "deploy for this runtime") from None
    errors: dict[str, float] = {}
    for name, value in outputs.items():
        if name not in recorded or recorded[name].shape != value.shape:
            raise BundleError(f"{bundle.model} has an output {name} that is not the recorded sample's", "deploy again")
        errors[name] = float(distance(value, recorded[name]))
        if not errors[name] <= TOLERANCE:
            raise BundleError(
                f"{name} differs from the recorded sample by {errors[name]:.2g} of its spread", "deploy again here"
            )
    recorded_version = bundle.manifest["runtime"].get("version")
    versions = Versions(None if recorded_version == NOT_RUN else recorded_version, session.version)
    files = recorded_files(bundle.path, bundle.manifest)
    return Verification(str(bundle.path), len(files), key is not None, versions, errors)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = loads(path.read_text())
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", "give the folder of a bundle") from None
    except ValueError:
        raise BundleError(f"{path} is no JSON", "deploy again") from None
    if not is_table(content):
        raise BundleError(f"{path} is not a JSON object", "deploy again")
    return content


def described(place: Path, names: Iterable[str]) -> dict[str, File]:
    """The files of those ``names`` in ``place``, for a manifest."""
    return {name: File(file_digest(place / name), (place / name).stat().st_size) for name in names}


def write_folder(place: Path, kind: str, **more: Any) -> None:
    """The manifest of all that is in ``place``, a folder of that ``kind``."""
    files = described(place, sorted(file.name for file in place.iterdir()))
    manifest = Folder(kind, metadata.version("edgesdk"), platform.machine(), files, **more)
    (place / "manifest.json").write_text(dumps(manifest))


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
