"""The folder that a deployment ends in: written whole or not at all, and checked by its digests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np

from edgesdk.budget import Budget
from edgesdk.compress.data import Data
from edgesdk.compress.network import Network, tensors
from edgesdk.errors import BundleError, StorageError
from edgesdk.export.parity import session
from edgesdk.plan import Plan
from edgesdk.record import dumps, from_json
from edgesdk.report import Prediction, Report
from edgesdk.result import Result

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

SCHEMA = 1
FILES = ("model.onnx", "plan.json", "report.json", "sample.npz", "run.py")
SAMPLES = 8
TOLERANCE = 5e-2  # of the outputs' spread: another CPU sums in another order


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk: ``manifest`` and ``report`` as they are in it, and its plan."""

    path: Path
    manifest: Mapping[str, Any]
    plan: Plan
    report: Mapping[str, Any]

    @property
    def model(self) -> Path:
        return self.path / "model.onnx"

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """The bundle at ``path``, its digests checked. Raises ``BundleError`` where a file is missing or changed."""
        path = Path(path)
        manifest = _read(path / "manifest.json")
        if manifest.get("schema", SCHEMA + 1) > SCHEMA:
            raise BundleError(f"{path} has schema {manifest.get('schema')}, newer than {SCHEMA}", "update edgesdk")
        files = manifest.get("files")
        if not isinstance(files, dict) or set(files) != set(FILES):
            raise BundleError(f"the manifest of {path} does not list the files of a bundle", "deploy again")
        for name, entry in files.items():
            if not (path / name).is_file():
                raise BundleError(f"{path} lacks {name}", "deploy again, or copy the whole folder")
            if _digest(path / name) != entry["sha256"]:
                raise BundleError(f"{path / name} was changed: its SHA-256 is not the manifest's", "deploy again")
        return cls(path, manifest, from_json(Plan, _read(path / "plan.json")), _read(path / "report.json"))


@contextmanager
def reserve(out: Path, force: bool) -> Iterator[Path]:
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
    place: Path, result: Result, target: str, data: Data, network: Network, budget: Budget, facts: Mapping[str, Any]
) -> Bundle:
    """Fill ``place`` with the bundle and rename it to what it was reserved for. Raises ``StorageError``."""
    out = place.with_name(place.name[1:].rpartition(".partial-")[0])
    try:
        shutil.copyfile(result.path, place / "model.onnx")
        (place / "plan.json").write_text(dumps(result.plan))
        (place / "report.json").write_text(dumps(_report(result, data, budget, facts)))
        _record(place, network, data)
        run = resources.files("edgesdk_targets").joinpath("bundle_run.py").read_text()
        (place / "run.py").write_text(run)
        (place / "manifest.json").write_text(dumps(_manifest(place, result, target, data, network)))
        for file in place.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        old = out.with_name(f".{out.name}.old")
        if out.exists():
            out.rename(old)
        place.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise StorageError(
            f"cannot write the bundle {out}: {error.strerror}", "free some space or give another --out"
        ) from None
    return Bundle.open(out)


def _record(place: Path, network: Network, data: Data) -> None:
    """A few inputs with the outputs that this machine's runtime gave for them."""
    columns = [t[:SAMPLES].numpy() for t in tensors(data.example)]
    inputs = {tensor.name: column for tensor, column in zip(network.graph.inputs, columns, strict=True)}
    outputs = _outputs(place / "model.onnx", inputs)
    arrays = {f"input:{k}": v for k, v in inputs.items()} | {f"output:{k}": v for k, v in outputs.items()}
    np.savez_compressed(place / "sample.npz", **arrays)  # type: ignore[arg-type]


def _outputs(model: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = session(model)
    count = len(next(iter(inputs.values())))
    rows = [found.run(None, {name: value[i : i + 1] for name, value in inputs.items()}) for i in range(count)]
    names = [value.name for value in found.get_outputs()]
    return {name: np.concatenate(parts) for name, parts in zip(names, zip(*rows, strict=True), strict=True)}


def _manifest(place: Path, result: Result, target: str, data: Data, network: Network) -> dict[str, Any]:
    found = session(place / "model.onnx")
    layout = {4: "NCHW", 3: "NCL", 2: "NC"}
    return {
        "schema": SCHEMA,
        "edgesdk": metadata.version("edgesdk"),
        "target": target,
        "basis": result.deployed.basis,
        "runtime": {"name": result.deployed.runtime, "version": result.deployed.runtime_version, "minimum": "1.18"},
        "threads": result.plan.threads,
        "plan": result.plan.digest,
        "graph": result.plan.graph_digest,
        "inputs": [
            {
                "name": tensor.name,
                "shape": [1, *tensor.shape],
                "dtype": tensor.dtype,
                "layout": layout.get(len(tensor.shape) + 1, "N..."),
                "normalization": data.normalization,
            }
            for tensor in network.graph.inputs
        ],
        "outputs": [
            {"name": v.name, "shape": v.shape, "dtype": v.type.removeprefix("tensor(").rstrip(")")}
            for v in found.get_outputs()
        ],
        "files": {name: {"sha256": _digest(place / name), "bytes": (place / name).stat().st_size} for name in FILES},
    }


def _report(result: Result, data: Data, budget: Budget, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Dense beside deployed, predicted beside measured, and how it came about."""
    notes = [*data.notes, *facts.get("notes", ()), *(step["note"] for step in result.history if "note" in step)]
    measured = isinstance(result.deployed, Report)
    recipe = _recipe(result.deployed.runtime)
    if isinstance(result.deployed, Prediction):
        notes = ["predicted, not measured: nothing ran on the target", *result.deployed.notes, *recipe["notes"], *notes]
    return {
        "schema": SCHEMA,
        "basis": result.deployed.basis,
        "budget": budget,
        "data": data.description,
        "notes": notes,
        "metric": facts["metric"],
        "score": {"dense": result.dense_score, "deployed": result.score, "judged_on": "the exported files"},
        "predicted": result.plan.predicted,
        "measured": result.deployed.cost(budget) if measured else None,
        "to_measure": [] if measured else [line.format(threads=result.plan.threads) for line in recipe["measure"]],
        "dense": _without_samples(result.dense),
        "deployed": result.deployed,
        "parity": result.parity,
        "fell_back_to_float": result.fallbacks,
        "struck": result.plan.struck,
        "history": result.history,
        **{name: value for name, value in facts.items() if name not in ("notes", "metric")},
    }


def _recipe(runtime: str) -> dict[str, Any]:
    """What ``runtime`` needs on a board, and how to measure with it there."""
    return tomllib.loads((resources.files("edgesdk_targets") / "recipes" / f"{runtime}.toml").read_text("utf-8"))


def _without_samples(report: Report | Prediction) -> dict[str, Any]:
    return {name: value for name, value in vars(report).items() if name != "samples_ms"}


def verify(path: str | Path) -> dict[str, Any]:
    """Check a bundle: digests, schema, runtime version, and its outputs on the recorded sample.

    Returns what was checked. Raises ``BundleError`` for what does not hold.
    """
    bundle = Bundle.open(path)
    import onnxruntime

    recorded = dict(np.load(bundle.path / "sample.npz"))
    inputs = {entry["name"]: recorded[f"input:{entry['name']}"] for entry in bundle.manifest["inputs"]}
    try:
        outputs = _outputs(bundle.model, inputs)
    except Exception as error:  # the runtime's own exceptions share no base
        raise BundleError(
            f"{bundle.model} does not run: {str(error).splitlines()[0]}", "deploy for this runtime"
        ) from None
    errors = {}
    for name, value in outputs.items():
        expected = recorded[f"output:{name}"]
        errors[name] = float(np.sqrt(np.mean((value - expected) ** 2)) / max(float(expected.std()), 1e-12))
        if not errors[name] <= TOLERANCE:
            raise BundleError(
                f"{name} differs from the recorded sample by {errors[name]:.2g} of its spread", "deploy again here"
            )
    return {
        "bundle": str(bundle.path),
        "files": len(FILES),
        "runtime": {"recorded": bundle.manifest["runtime"]["version"], "here": onnxruntime.__version__},
        "sample_error": errors,
        "valid": True,
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", "give the folder of a bundle") from None
    except ValueError:
        raise BundleError(f"{path} is no JSON", "deploy again") from None
    if not isinstance(content, dict):
        raise BundleError(f"{path} is not a JSON object", "deploy again")
    return content


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
