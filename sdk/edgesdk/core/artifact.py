"""A file that was exported, with the network that it holds; and the formats that there are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from edgesdk.core.errors import DeviceError, UsageError
from edgesdk.core.graph import Graph
from edgesdk.core.plan import STORED, Option


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


REFERENCES = ("call", "arithmetic", "memory")  # what each takes most of its time for


def baseline(folder: Path, runtime: str) -> Path:
    """A tiny model with the kernels that all models use, in ``folder``, for ``runtime`` to page itself in with.

    It is the probe of an 8-channel int8 convolution, kept as files so that to measure needs nothing that makes any.
    """
    suffix = ".tflite" if FORMAT_OF[runtime] == "tflite" else ".onnx"
    path = folder / f"baseline{suffix}"
    path.write_bytes((resources.files("edgesdk_targets") / "baselines" / f"tiny{suffix}").read_bytes())
    return path


def references(runtime: str) -> list[bytes]:
    """The tiny models that ``runtime`` runs between all that is timed: the probes of ``price.table.REFERENCES``."""
    suffix = ".tflite" if FORMAT_OF[runtime] == "tflite" else ".onnx"
    folder = resources.files("edgesdk_targets") / "baselines"
    return [(folder / f"reference-{name}{suffix}").read_bytes() for name in REFERENCES]


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


def open_file(artefact: Artefact) -> Any:
    """The file, loaded in its runtime or in one on this machine that reads such files: see ``bundle_run.opened``.

    Raises ``DeviceError`` where that runtime is not installed, or refuses the file.
    """
    from edgesdk_targets.bundle_run import opened  # NumPy, which what only lists files does without

    runtime = artefact.runtime
    try:
        return opened(str(artefact.path), runtime)
    except ImportError:
        extra = format_of(runtime).extra
        remedy = f"pip install 'edgesdk[{extra}]'" if extra else f"pip install {runtime}"
        raise DeviceError(f"{runtime} is not installed", remedy) from None
    except Exception as error:  # runtimes' own exceptions share no base
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        fact = f"{runtime} refuses {artefact.path.name} ({lines[0] if lines else type(error).__name__})"
        raise DeviceError(fact, "export it anew, for this runtime") from None
