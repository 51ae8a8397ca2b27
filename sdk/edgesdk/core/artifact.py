"""A file that was exported, with the network that it holds; and the tiny ones that every runtime is measured beside."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from edgesdk.core.errors import DeviceError, UsageError
from edgesdk.core.graph import Graph
from edgesdk.core.plan import Option
from edgesdk.core.runtime import RUNTIMES, find_runtime, format_of, load_function


def check_stored(options: Iterable[Option], runtime: str) -> None:
    """Raise ``UsageError`` where one of ``options`` stores weights in a form that files for ``runtime`` cannot hold."""
    file_format = format_of(runtime)
    for form in (option.form for option in options if option.form is not None and option.form.stored):
        if form.method not in file_format.holds:
            every = (row.format for row in RUNTIMES.values() if row.format is not None)
            holders = dict.fromkeys(row.name for row in every if form.method in row.holds)
            raise UsageError(
                f"{file_format.name} files hold no weights as {form}", f"choose {' or '.join(holders)} for them"
            )


REFERENCES = ("call", "arithmetic", "memory")  # what each takes most of its time for


def baseline(folder: Path, runtime: str) -> Path:
    """A tiny model with the kernels that all models use, in ``folder``, for ``runtime`` to page itself in with.

    It is the probe of an 8-channel int8 convolution, kept as files so that to measure needs nothing that makes any.
    """
    content, suffix = _tiny("tiny", runtime)
    path = folder / f"baseline{suffix}"
    path.write_bytes(content)
    return path


def references(runtime: str) -> list[bytes]:
    """The tiny models that ``runtime`` runs between all that is timed: the probes of ``price.table.REFERENCES``."""
    return [_tiny(f"reference-{name}", runtime)[0] for name in REFERENCES]


def _tiny(name: str, runtime: str) -> tuple[bytes, str]:
    """The tiny model ``name`` as ``runtime`` reads it, and its suffix; converted where it is not kept so."""
    row, folder = find_runtime(runtime), resources.files("edgesdk_targets") / "baselines"
    if row.probes is None:
        return (folder / f"{name}.onnx").read_bytes(), ".onnx"
    suffix = format_of(runtime).suffix
    kept = folder / f"{name}{suffix}"
    if kept.is_file():
        return kept.read_bytes(), suffix
    return load_function(row.probes)((folder / f"{name}.onnx").read_bytes()), suffix


WHERE = ("Exception from ", "Check ")  # how lines begin that say where in a runtime it was raised


@dataclass(frozen=True)
class Artifact:
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
        return (*self.files, *self.instead)

    @property
    def instead(self) -> tuple[Path, ...]:
        """What serves in the place of those with other versions of the runtime."""
        return self._ending(format_of(self.runtime).instead)

    @property
    def sent(self) -> tuple[Path, ...]:
        """What a device is sent: which of them it loads, the version of its runtime decides."""
        return (*self.files, *(file for file in self.instead if file.is_file()))

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


def open_file(artifact: Artifact) -> Any:
    """The file, loaded in its runtime or in one on this machine that reads such files: see ``Runtime.opener``.

    Raises ``DeviceError`` where that runtime is not installed, or refuses the file.
    """
    runtime = find_runtime(artifact.runtime)
    try:
        return load_function(runtime.opener)(str(artifact.path), runtime.name)
    except ImportError:
        raise DeviceError(f"{runtime.here} is not installed", runtime.install) from None
    except Exception as error:  # runtimes' own exceptions share no base
        raise refusal(artifact, error) from None


def refusal(artifact: Artifact, error: Exception) -> DeviceError:
    """What the runtime of the file said where it did not load or run it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if not line.startswith(WHERE)), lines[0] if lines else type(error).__name__)
    fact = f"{find_runtime(artifact.runtime).name} refuses {artifact.path.name} ({told})"
    return DeviceError(fact, "export it anew for this runtime, or choose another")
