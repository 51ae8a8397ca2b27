"""Tiny bundles, and what must hold of the folder that they are installed to, whatever happened to it."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import re

import agent_models

CREATED = "2026-11-21T16:00:00Z"
BESIDE = ("order.json", "versions", ".lock")  # beside the link


def write(folder: str, contents: dict[str, bytes], **manifest) -> str:
    """A bundle of the files ``contents`` in the new folder ``folder``, with a manifest that lists them unless told."""
    os.makedirs(folder)
    for name, content in contents.items():
        agent_models.write(os.path.join(folder, name), content)
    document = {
        "schema": 1,
        "created": CREATED,
        "runtime": {"name": "onnxruntime", "minimum": "1.14"},
        "model": "model.onnx",
        "threads": 1,
        "files": listed(contents),
        **manifest,
    }
    agent_models.write(os.path.join(folder, "manifest.json"), json.dumps(document).encode())
    return folder


def listed(contents: dict[str, bytes]) -> dict[str, dict]:
    """How a manifest lists files."""
    return {name: {"sha256": digest(content), "bytes": len(content)} for name, content in contents.items()}


def hollow(**files: bytes) -> dict[str, bytes]:
    """Files as a bundle has them, with nothing in them that runs."""
    return {"model.onnx": b"no model", "sample.npz": b"no sample", "report.json": report(), **files}


def report(**budget) -> bytes:
    """A report with that budget."""
    bounds = {"latency_ms": None, "peak_memory_bytes": None, "size_bytes": None, "percentile": None, **budget}
    return json.dumps({"budget": bounds}).encode()


@functools.lru_cache(maxsize=None)
def _convolution(channels: int) -> tuple:
    """A model, and three inputs with what this machine's ONNX Runtime makes of them."""
    import numpy

    from edgesdk_targets.agent import runners

    model = agent_models.conv(channels)
    session = runners.runner("onnxruntime").load(model, 1)
    given = numpy.random.RandomState(1).standard_normal((3, channels, 8, 8)).astype("float32")
    return model, given, numpy.concatenate([session.run_once({"x": given[i : i + 1]})["y"] for i in range(3)])


def real(channels: int = 8, off: float = 0.0, **budget) -> dict[str, bytes]:
    """The files of a bundle that runs: its recorded outputs are ``off`` by that much from what they should be."""
    model, given, made = _convolution(channels)
    recorded = {"input:x": given, "output:y": (made + off).astype("float32")}
    return {"model.onnx": model, "sample.npz": npz(**recorded), "report.json": report(**budget), "run.py": b"pass\n"}


def npz(**arrays) -> bytes:
    """Arrays as the content of an ``.npz`` file."""
    import numpy

    file = io.BytesIO()
    numpy.savez(file, **arrays)
    return file.getvalue()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def current(root: str) -> str | None:
    """The version that ``current`` leads to, every file of which is as its manifest says; ``None`` without a link."""
    link = os.path.join(root, "current")
    if not os.path.lexists(link):
        return None
    whole(os.path.realpath(link))
    return os.path.basename(os.path.realpath(link))


def state(root: str) -> dict[str, object]:
    """All that is below ``root``: by path without numbers of processes, where a link leads or what a file holds."""
    state: dict[str, object] = {}
    for folder, folders, names in os.walk(root):
        for name in [*folders, *names]:
            path = os.path.join(folder, name)
            told = re.sub(r"\.[0-9]+$", "", os.path.relpath(path, root))
            if os.path.islink(path):
                state[told] = os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    state[told] = file.read()
            else:
                state[told] = None
    return state


def whole(folder: str) -> None:
    """Fail unless the folder has just what its manifest lists, and is named by it."""
    with open(os.path.join(folder, "manifest.json"), "rb") as file:
        content = file.read()
    files = json.loads(content.decode())["files"]
    assert os.path.basename(folder).endswith("-" + digest(content)[:12]), folder
    assert sorted(os.listdir(folder)) == sorted(["manifest.json", *files]), os.listdir(folder)
    for name, entry in files.items():
        with open(os.path.join(folder, name), "rb") as file:
            assert digest(file.read()) == entry["sha256"], name


def tidy(root: str) -> list[str]:
    """Fail where anything is below ``root`` that no whole version or the order of them accounts for. The order."""
    with open(os.path.join(root, "order.json"), encoding="utf-8") as file:
        order = json.load(file)["versions"]
    assert sorted(os.listdir(root)) == sorted([*BESIDE, "current"]), os.listdir(root)
    assert sorted(os.listdir(os.path.join(root, "versions"))) == sorted(order), (os.listdir(root + "/versions"), order)
    for version in order:
        whole(os.path.join(root, "versions", version))
    assert current(root) in order
    return order
