"""A runtime in one file: its row, what writes and opens its files, and the runner by which the agent measures it.

Its files are ONNX, compressed. The agent imports this module too, and has no SDK: what needs one imports it by itself.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

VERSION = "1.0"
MAGIC = b"TOYRT1"


def row() -> Any:
    from edgesdk.core.runtime import ONNX, Format, Runtime

    return Runtime(
        "toy", Format("toy", ".toy", ONNX.takes), writer="toy_runtime:write_model", probes="toy_runtime:compressed",
        opener="toy_runtime:opened", package="toy-runtime",
    )  # fmt: skip


def compressed(content: bytes) -> bytes:
    return MAGIC + zlib.compress(content)


def expanded(source: str | bytes) -> bytes:
    content = Path(source).read_bytes() if isinstance(source, str) else source
    if not content.startswith(MAGIC):
        raise ValueError("it is no file of this runtime")
    return zlib.decompress(content[len(MAGIC) :])


def write_model(model: Any, path: Path, specs: Any) -> None:
    path.write_bytes(compressed(model.SerializeToString()))


def opened(path: str, name: str) -> Any:
    from edgesdk_targets import bundle_run

    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "model.onnx"
        whole.write_bytes(expanded(path))
        return bundle_run.opened(whole, "onnxruntime")._replace(name=name, version=VERSION)


def sample(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    from edgesdk_targets.agent.runners import arrays

    return arrays.sample(inputs)


def read_inputs(path: str) -> dict[str, Any]:
    from edgesdk_targets.agent.runners import arrays

    return arrays.read_inputs(path)


def load(source: str | bytes, threads: int) -> Any:
    from edgesdk_targets.agent.runners import onnxruntime_runner

    return onnxruntime_runner.load(expanded(source), threads)


def profile(path: str, values: dict[str, Any] | None, threads: int, take: Any) -> list[dict[str, Any]]:
    from edgesdk_targets.agent.runners import onnxruntime_runner

    with tempfile.TemporaryDirectory() as folder:
        whole = os.path.join(folder, "model.onnx")
        Path(whole).write_bytes(expanded(path))
        return onnxruntime_runner.profile(whole, values, threads, take)
