"""`edgesdk diff`: a bundle's layers beside their simulation, in words and as a document."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console
from running import Run

import edgesdk
from edgesdk.bundle.bundle import SIMULATION, Bundle, _simulate, check, described
from edgesdk.cli.diffing import show_diff
from edgesdk.core.serialize import dumps, loads
from edgesdk.workflows.diff import diff, find_farthest, list_apart, summarize
from edgesdk.workflows.layer_errors import Comparison, Error, LayerDiff

ALL = ("alone", "file", "simulation")
BEFORE = Path(__file__).parent / "before"


def test_a_sound_bundle_is_as_specified(edgesdk: Run, deployed: tuple[Path, str]) -> None:
    bundle = deployed[0]
    plain, said = edgesdk("diff", bundle), edgesdk("diff", bundle, "--json").document
    assert said["schema"] == "edgesdk.diff/1" and said["holds"] and said["first"] is None
    assert said["command"] == f"edgesdk diff {bundle} --json"
    assert Bundle.open(bundle).report["command"].endswith(f"--max-drop 100 --out {bundle} --json")
    assert diff(bundle).command is None
    assert said["outputs"] <= said["tolerance"] == Bundle.open(bundle).report["parity"]["tolerance"]
    assert [layer["name"] for layer in said["layers"]] == [layer.name for layer in Bundle.open(bundle).plan.layers]
    assert plain.code == 0 and "every layer that was seen computes what was specified" in plain.out
    assert all(layer["name"] in plain.out for layer in said["layers"])
    quiet = edgesdk("diff", bundle, "-q")
    assert f"is not seen here, but with your model and its weights: edgesdk diff {bundle} --model MODEL" in quiet.out
    assert plain.out.startswith(quiet.out) and "signal to noise" not in quiet.out


def test_it_compares_with_the_users_own_model_and_data(edgesdk: Run, deployed: tuple[Path, str]) -> None:
    said = edgesdk("diff", deployed[0], "--model", "models.py:Small", "--data", "data.npz", "--json").document
    assert (said["float_model"], said["samples"] > 8) == ("the model", True)
    plain = edgesdk("diff", deployed[0], "--model", "models.py:Small", "-q")
    assert plain.code == 0 and "is not seen here" not in plain.out
    assert edgesdk("diff", deployed[0], "--model", "models.py:Deep").code == 3
    refused = edgesdk("diff", deployed[0], "--weights", "none.pt")
    assert refused.code == 2 and "weights without a model: give --model, too" in refused.line


def test_overlays_go_to_a_new_folder(edgesdk: Run, deployed: tuple[Path, str], tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    assert edgesdk("diff", deployed[0], "--overlays", seen, "-q").code == 0
    shown = {f"node-data-{name}.json" for name in ALL}  # and no times, for nothing was measured
    assert {path.name for path in seen.iterdir()} == {"model-netron.onnx", *shown}
    again = edgesdk("diff", deployed[0], "--overlays", seen)
    assert again.code == 2 and "exists: name another folder for the overlays" in again.line


def test_data_of_another_shape_is_said(edgesdk: Run, deployed: tuple[Path, str], tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", x=np.zeros((40, 3, 9, 8), np.float32), y=np.arange(40) % 4)
    done = edgesdk("diff", deployed[0], "--data", tmp_path / "wide.npz")
    assert done.code == 4 and "(3, 9, 8), the bundle takes float32 of shape (3, 8, 8)" in done.line


def test_the_manifest_knows_the_simulation_and_no_board_takes_it(deployed: tuple[Path, str], tmp_path: Path) -> None:
    bundle = Bundle.open(deployed[0])
    assert SIMULATION in bundle.manifest["pages"] and SIMULATION not in bundle.manifest["files"]
    copied = tmp_path / "copied"
    shutil.copytree(bundle.path, copied)
    (copied / SIMULATION).write_bytes(b"another")
    with pytest.raises(edgesdk.EdgeSdkError, match=r"simulation\.pt2 was changed"):
        edgesdk.diff(copied)
    (copied / SIMULATION).unlink()
    assert check(copied).valid
    with pytest.raises(edgesdk.EdgeSdkError, match=r"has no simulation\.pt2"):
        edgesdk.diff(copied)


def test_a_bundle_of_before_says_what_remains_possible(edgesdk: Run) -> None:
    done = edgesdk("diff", BEFORE / "bundle")
    assert done.code == 8 and "has no simulation.pt2" in done.line and "edgesdk verify --model" in done.line


def change(bundle: Path, name: str) -> None:
    """Turn the sign of what the file has as ``name``, and have the manifest believe it."""
    path = bundle / "model.onnx"
    model = onnx.load(str(path))
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), name))
    onnx.save(model, str(path))
    manifest: Any = loads((bundle / "manifest.json").read_text())
    manifest["files"].update(loads(dumps(described(bundle, ["model.onnx"]))))
    (bundle / "manifest.json").write_text(dumps(manifest))


def test_a_fault_is_named_and_what_to_do(edgesdk: Run, deployed: tuple[Path, str], tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(deployed[0], copied)
    change(copied, "fc.weight")
    done = edgesdk("diff", copied)
    assert done.code == 0 and "fc is the first layer that leaves its specification" in done.out
    assert "not as specified" in done.out and "deploy with another --runtime" in done.out


def test_names_are_no_markup_and_outputs_may_be_off_alone(deployed: tuple[Path, str]) -> None:
    compared = edgesdk.diff(deployed[0])
    named = replace(compared.layers[0], name="[red]x[/red]")
    apart = replace(compared, layers=(named, *compared.layers[1:]), outputs=0.5, ends_apart=0.25, holds=False)
    out = io.StringIO()
    show_diff(apart, Console(file=out, width=80))
    assert "[red]x[/red]" in out.getvalue()
    assert "but the outputs do" in out.getvalue() and "0.25 apart" in out.getvalue()


def test_a_simulation_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(network: Any, x: Any, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise RuntimeError("no such operator")

    monkeypatch.setattr("edgesdk.export.simulation.write_simulation", fail)
    result, data = SimpleNamespace(simulated=object()), SimpleNamespace(example=None)
    written, notes = _simulate(tmp_path, result, data)  # type: ignore[arg-type]
    assert (written, list(tmp_path.iterdir())) == ([], [])
    assert len(notes) == 1 and "no such operator" in notes[0] and "edgesdk diff" in notes[0]


def test_of_several_boards_the_farthest_is_shown_and_what_they_compute_otherwise_is_named() -> None:
    exact = Error(None, 0.0, 0.0)
    layers = tuple(LayerDiff(name, name, exact, exact, None, None, None, None, False) for name in ("in", "mid", "out"))
    alike = Comparison(layers, (), 1e-4, 0.0, "onnxruntime", "1.30")
    rounds = replace(
        alike, layers=(*layers[:1], replace(layers[1], alone=Error(50.0, 0.1, 1.0)), layers[2]), outputs=1e-3
    )
    leaves = replace(alike, layers=(*layers[:2], replace(layers[2], leaves=True)))
    for every, farthest, apart in (
        ({"a": alike, "b": alike}, "a", ()),
        ({"a": alike, "b": rounds, "c": alike}, "b", ("mid",)),
        ({"a": alike, "b": rounds, "c": leaves}, "c", ("mid", "out")),
    ):
        boards = {name: summarize(own, 1e-2) for name, own in every.items()}
        assert find_farthest(boards) == farthest and list_apart(every) == apart
        assert boards[farthest].holds == (farthest != "c") and boards[farthest].first == (
            "out" if farthest == "c" else None
        )
