"""A file that was exported, with the network that it holds; and the formats that there are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgesdk.errors import UsageError
from edgesdk.graph import Graph
from edgesdk.plan import STORED, Option


@dataclass(frozen=True)
class Format:
    """A kind of model file: its suffix, how the names of files beside it end, and the layout of images inside.

    ``instead`` is the ending of a file that serves in its place with other versions of its runtime. ``extra`` is what
    pip installs with edgesdk to write and run it; ``unpacks`` says that its runtimes widen 4-bit weights once, while
    they load, so that these run as 8-bit ones do. ``stores`` are the forms of ``plan.STORED`` that it can hold.
    """

    suffix: str
    beside: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()
    layout: str = "channels first"
    extra: str | None = None
    unpacks: bool = True
    stores: tuple[str, ...] = ()


FORMATS = {
    "onnx": Format(".onnx", stores=tuple(STORED)),
    "openvino": Format(".xml", (".bin",), extra="openvino", stores=("fp16", "bf16")),
    "tflite": Format(".tflite", layout="channels last", extra="tflite", unpacks=False, stores=("fp16",)),
    "tensorrt": Format(".onnx", instead=("-fp16.onnx",)),  # ONNX within TensorRT's restrictions
}
FORMAT_OF = {
    "onnxruntime": "onnx", "openvino": "openvino", "litert": "tflite", "tflite": "tflite", "tensorrt": "tensorrt",
}  # fmt: skip
"""The format that each runtime is given."""
HERE = {"tensorrt": "onnxruntime"}
"""What runs a runtime's file on this machine, where that is another."""


def format_of(runtime: str) -> Format:
    """The format of the files for ``runtime``. Raises ``UsageError`` where edgesdk writes none."""
    if runtime not in FORMAT_OF:
        raise UsageError(f"there is no file format for {runtime}", f"choose one of {', '.join(FORMAT_OF)}")
    return FORMATS[FORMAT_OF[runtime]]


def check_stored(options: Iterable[Option], runtime: str) -> None:
    """Raise ``UsageError`` where one of ``options`` stores weights in a form that files for ``runtime`` cannot hold."""
    for form in (option.form for option in options if option.form is not None and option.form.stored):
        if form.method not in format_of(runtime).stores:
            holders = [name for name, format_ in FORMATS.items() if form.method in format_.stores]
            raise UsageError(
                f"{FORMAT_OF[runtime]} files hold no weights as {form}", f"choose {' or '.join(holders)} for them"
            )


@dataclass(frozen=True)
class Artefact:
    """A model file; ``graph`` and ``options`` say what is in it, where that is known. To measure it needs neither."""

    path: Path
    graph: Graph | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    runtime: str = "onnxruntime"

    @property
    def files(self) -> tuple[Path, ...]:
        """The file and those that it needs beside it."""
        return (self.path, *self._ending(format_of(self.runtime).beside))

    @property
    def every(self) -> tuple[Path, ...]:
        """Those, and what serves in their place with other versions of the runtime."""
        return (*self.files, *self._ending(format_of(self.runtime).instead))

    @property
    def digest(self) -> str:
        """SHA-256 of the files that a device loads, one after the other."""
        return hashlib.sha256(b"".join(path.read_bytes() for path in self.files)).hexdigest()

    @property
    def size_bytes(self) -> int:
        """The size of the files that a device loads."""
        return sum(path.stat().st_size for path in self.files)

    def _ending(self, endings: tuple[str, ...]) -> tuple[Path, ...]:
        return tuple(self.path.with_name(self.path.stem + ending) for ending in endings)
