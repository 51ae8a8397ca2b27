"""What lies on a board or comes over its pipes, damaged: the agent answers, ``run.py`` says what is wrong."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
import wave
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import altered, as_json, bounded, damaged, examples, read_or_refused, written
from PIL import Image

from edgesdk.bundle.bundle import check
from edgesdk.core.errors import EdgeSdkError
from edgesdk_targets import bundle_run
from edgesdk_targets.agent import health, install, protocol, scratch
from edgesdk_targets.agent.protocol import AgentError
from edgesdk_targets.agent.runners import arrays
from edgesdk_targets.agent.versions import Versions

VERBS = {"put": scratch.put, "drop": scratch.drop, "installed": install.installed, "rollback": install.rollback}
REQUESTS = (
    {"protocol": 1, "id": 1, "verb": "put", "arguments": {"name": "model/a.onnx", "data": "AAAA", "offset": 0}},
    {"protocol": 1, "id": 2, "verb": "drop", "arguments": {"name": "model"}},
    {"protocol": 1, "id": 3, "verb": "installed", "arguments": {"root": "/nowhere/to/be/found"}},
)
ANSWERS = (
    {"protocol": 1, "id": 7, "result": {"samples_ms": [1.0, 1.1]}},
    {"protocol": 1, "id": 7, "progress": {"done": 1, "of": 2, "state": "at work"}},
    {"protocol": 1, "id": 7, "error": {"kind": "busy", "fact": "held", "remedy": "wait"}},
)
NEXT = protocol.request(99, "drop", {"name": "nothing"})


def lines(documents: tuple[Any, ...]) -> st.SearchStrategy[bytes]:
    def mutated(document: Any) -> st.SearchStrategy[bytes]:
        return altered(document).map(as_json) | damaged(as_json(document))

    return st.one_of(*map(mutated, documents))


@examples(150)
@given(line=lines(REQUESTS))
def test_every_line_is_answered_and_the_agent_goes_on(line: bytes) -> None:
    sink = io.BytesIO()
    with bounded(), contextlib.redirect_stderr(io.StringIO()):
        protocol.serve(io.BytesIO(line + b"\n" + NEXT), sink, VERBS)
    answers = [json.loads(answer) for answer in sink.getvalue().splitlines()]
    assert answers[-1]["id"] == 99 and "result" in answers[-1]
    assert len(answers) == 1 + sum(bool(part.strip()) for part in line.split(b"\n"))
    assert max(map(len, sink.getvalue().splitlines())) < 10_000


@examples(150)
@given(line=lines(ANSWERS))
def test_an_answer_is_taken_or_is_nonsense(line: bytes) -> None:
    answer = read_or_refused(lambda: protocol.answer(line, 7), ValueError)
    assert answer is None or isinstance(answer, dict)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("devices")


def bundle(folder: Path) -> dict[str, Any]:
    """A bundle in ``folder`` with the smallest model, and its manifest."""
    folder.mkdir(exist_ok=True)
    model = (files("edgesdk_targets") / "baselines" / "tiny.onnx").read_bytes()
    opened = bundle_run.opened(str(written(folder / "model.onnx", model)), "onnxruntime")
    import onnxruntime

    (value,) = onnxruntime.InferenceSession(model).get_inputs()
    shape = [1, *(size if isinstance(size, int) else 1 for size in value.shape[1:])]
    given = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    made = dict(zip(opened.outputs, opened.run({value.name: given}), strict=True))
    recorded = {f"input:{value.name}": given} | {f"output:{name}": array for name, array in made.items()}
    np.savez(folder / "sample.npz", **recorded)  # type: ignore[arg-type]
    plan = {
        "graph_digest": "c0ffee", "target": "x86", "runtime": "onnxruntime", "threads": 1, "kept": {}, "layers": [],
        "dropped": [], "predicted": {"latency_ms": 1, "peak_memory_bytes": 1, "size_bytes": 1, "basis": "predicted"},
        "proof": {"objective": 1, "bound": 1, "gap": 0, "seconds": 0, "solver": "HiGHS"},
    }  # fmt: skip
    written(folder / "plan.json", as_json(plan))
    written(folder / "report.json", as_json({"budget": {"latency_ms": 1e5, "percentile": None}}))
    written(folder / "run.py", b"pass\n")
    return {
        "schema": 1, "created": "2026-11-21T16:00:00Z",
        "runtime": {"name": "onnxruntime", "version": "1", "minimum": "1"},
        "model": "model.onnx", "threads": 1, "target": "x86", "architecture": None,
        "inputs": [{"name": value.name, "shape": shape, "dtype": "float32", "layout": "NCHW", "normalization": None}],
        "outputs": [{"name": n, "shape": list(output.shape), "dtype": str(output.dtype)} for n, output in made.items()],
        "preprocessing": None, "classes": [], "files": listed(folder),
    }  # fmt: skip


def listed(folder: Path) -> dict[str, Any]:
    contents = {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != "manifest.json"}
    return {name: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)} for name, c in contents.items()}


@examples(60)
@given(data=st.data())
def test_a_bundle_is_whole_or_refused(folder: Path, data: st.DataObject) -> None:
    place = folder / "bundle"
    manifest = bundle(place)
    part = data.draw(st.sampled_from(["manifest.json", "plan.json", "report.json", "sample.npz", "model.onnx"]))
    if part != "manifest.json":
        content = (place / part).read_bytes()
        changed = damaged(content)
        if part.endswith(".json"):
            changed |= altered(json.loads(content)).map(as_json)
        written(place / part, data.draw(changed))
        written(place / "manifest.json", as_json({**manifest, "files": listed(place)}))
    else:
        written(place / part, data.draw(altered(manifest).map(as_json) | damaged(as_json(manifest))))
    read_or_refused(lambda: check(place), EdgeSdkError)
    read_or_refused(lambda: install._Bundle(str(place)), AgentError)
    read_or_refused(lambda: health._budget(str(place / "report.json")), AgentError)
    read_or_refused(lambda: arrays.read_inputs(str(place / "sample.npz")), AgentError)


@examples(60)
@given(data=st.data())
def test_an_order_of_versions_that_is_lost_is_no_fault(folder: Path, data: st.DataObject) -> None:
    versions = Versions(str(folder / "root"))
    version = "20261121T160000Z-0123456789ab"
    os.makedirs(versions.path(version), exist_ok=True)
    order = {"schema": 1, "versions": [version]}
    content = data.draw(altered(order).map(as_json) | damaged(as_json(order)))
    written(folder / "root" / "order.json", content)
    assert read_or_refused(versions.order) in ([], [version])


def waves() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(2)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(range(200)))
    return file.getvalue()


def saved(write: Callable[[io.BytesIO], Any]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


PIXELS = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(8, 8, 3)
INPUTS = {
    ".npz": saved(lambda file: np.savez(file, x=PIXELS)),
    ".npy": saved(lambda file: np.save(file, PIXELS)),
    ".wav": waves(),
    ".png": saved(lambda file: Image.fromarray(PIXELS).save(file, "PNG")),
    ".jpg": saved(lambda file: Image.fromarray(PIXELS).save(file, "JPEG")),
}


@pytest.mark.parametrize("suffix", INPUTS)
@examples(80)
@given(data=st.data())
def test_what_run_py_is_given_is_read_or_refused(folder: Path, suffix: str, data: st.DataObject) -> None:
    shape = [1, 2, 64] if suffix == ".wav" else [1, 3, 8, 8]
    entry = {"name": "x", "shape": shape, "dtype": "float32", "layout": "NCHW", "normalization": {"scale": 1 / 255}}
    how = {"resize": "crop", "channel_order": "BGR"}
    path = written(folder / f"input{suffix}", data.draw(damaged(INPUTS[suffix])))

    def prepared() -> Any:
        arrays = bundle_run.read(path, {"inputs": [entry], "preprocessing": how})
        return bundle_run.prepared(arrays["x"], entry, how)

    arrays = read_or_refused(prepared, SystemExit)
    assert arrays is None or list(arrays.shape[1:]) == shape[1:]


@examples(40)
@given(data=st.data())
def test_run_py_says_in_one_line_that_its_own_files_are_damaged(folder: Path, data: st.DataObject) -> None:
    place = folder / "run"
    manifest = as_json(bundle(place))
    part = data.draw(st.sampled_from(["manifest.json", "sample.npz"]))
    written(place / "manifest.json", manifest)
    written(place / part, data.draw(st.integers(0, 60).map(lambda count: (place / part).read_bytes()[:count])))
    before = bundle_run.HERE, sys.argv
    bundle_run.HERE, sys.argv = place, ["run.py", "--check"]
    try:
        with pytest.raises(SystemExit, match="cannot be read"):
            bundle_run.main()
    finally:
        bundle_run.HERE, sys.argv = before
