"""Running models with TensorRT on a Jetson's graphics or its accelerator through ``trtexec``, which builds engines.

A run is one of many in a process of ``trtexec``, which times them itself: the data's way to the GPU, the kernels, and
the way back, by events on the GPU. Floats are computed in half precision, integers where the file has them.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import weakref
from contextlib import contextmanager, suppress
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy

from edgesdk_targets.agent import files, onnx_file, scratch, trtexec
from edgesdk_targets.agent.protocol import MISSING, RUNTIME, STORAGE, USAGE, AgentError
from edgesdk_targets.agent.runners import arrays

_VERSION = trtexec.version()
VERSION = str(_VERSION)
NAME = f"TensorRT {VERSION}"
TYPED = "-fp16.onnx"  # ends the name of the file whose precisions TensorRT 11 goes by, beside the other
QUANTIZED = "QuantizeLinear"
ENGINES_KEPT = 12  # beside those of the models that are loaded
WARM_UP_MS = 200.0  # of every process: clocks go up with the load
ENGINES = "EDGESDK_ENGINES"  # the folder of engines, for this process and the fresh ones that it starts
PROFILES = 3  # passes of the profiler
PROFILED_RUNS = 50
NO_DLA = ((11, 0, 0), (11, 4, 1))  # versions without a way to the accelerator: from the first up to the second
DESERIALIZED = re.compile(r"Engine (?:deserialized|loaded) in ([\d.e+-]+) sec")
MANAGED = re.compile(r"TensorRT-managed allocation in IExecutionContext creation:.*now: CPU (\d+), GPU (\d+) \(MiB\)")
_loaded: "weakref.WeakSet[Session]" = weakref.WeakSet()
sample, read_inputs = arrays.sample, arrays.read_inputs


class Session:
    """A model as an engine, which is built where there is none yet. Raises ``AgentError`` where that cannot be."""

    def __init__(self, source: str | bytes, threads: int, dla: Optional[int] = None) -> None:
        files.check(source, "tensorrt", files.ONNX)
        self.path = _chosen(source) if isinstance(source, str) else _kept(source)
        content = _read(self.path)
        told = onnx_file.describe(content)
        self.dla = _accelerator(dla)
        self.inputs = [arrays.describe(item.name, item.shape, item.dtype, "tensor") for item in told.inputs]
        self.outputs = {item.name: item.dtype for item in told.outputs}
        self.operators = set(told.operators)
        self.is_fixed = all(isinstance(size, int) for item in told.inputs for size in item.shape)
        self.providers = ["GPU"] if dla is None else [f"DLA {dla}", "GPU"]
        self.precision = None if _VERSION.is_typed else "f16"  # typed files say it themselves
        self.engine = self._built(content)
        _loaded.add(self)
        self.load_ms: Optional[float] = None
        self.memory: Optional[Dict[str, Any]] = None

    def bind(self, values: Optional[Dict[str, Any]] = None) -> "Bound":
        """A function that runs the model once, its inputs in files. The first call is a run that tries them."""
        bound = Bound(self, arrays.values_for(self.inputs, values))
        bound()
        return bound

    def run_once(self, values: Dict[str, Any]) -> Dict[str, Any]:
        """The outputs of one run with ``values``, by name. ``trtexec`` tells six digits of each number."""
        return Bound(self, arrays.values_for(self.inputs, values)).answer()

    def _built(self, content: bytes) -> str:
        """Where the engine is, built if it is not."""
        options = self._options()
        key = hashlib.sha256(content + "\n".join([VERSION, *options]).encode()).hexdigest()[:24]
        target = os.path.join(_folder(), key + ".engine")
        if os.path.isfile(target):
            os.utime(target)
            return target
        workspace = trtexec.workspace_bytes(len(content), trtexec.memory())
        begun = target + ".begun"
        made = [
            f"--onnx={self.path}", f"--saveEngine={begun}", *options, f"--memPoolSize=workspace:{workspace >> 20}",
            f"--timingCacheFile={_timing_cache()}", "--profilingVerbosity=detailed", _VERSION.builds_only,
        ]  # fmt: skip
        try:
            trtexec.run(made, trtexec.BUILD_SECONDS, "while it built the engine")
            os.replace(begun, target)
        except FileNotFoundError:
            fact = f"{NAME} says that it built the engine, and wrote none"
            raise AgentError(RUNTIME, fact, "look at the space in the temporary folder") from None
        finally:
            if os.path.exists(begun):
                os.remove(begun)
        _prune()
        return target

    def _options(self) -> List[str]:
        """What an engine depends on besides its file: precisions, shapes, and where it runs."""
        options = []
        if not _VERSION.is_typed:  # without --int8 it refuses a file with integers, and with it makes up others
            options += ["--fp16"] + ["--int8"] * (QUANTIZED in self.operators)
        if not self.is_fixed:
            options.append(f"--optShapes={self.shapes}")
        return [*options, *self.device_options, *(["--allowGPUFallback"] if self.dla is not None else [])]

    @property
    def device_options(self) -> List[str]:
        """What chooses the accelerator, as an engine is built and as it is run."""
        return [] if self.dla is None else [f"--useDLACore={self.dla}"]

    @property
    def shapes(self) -> str:
        """The shapes of all inputs, as options have them."""
        return ",".join(f"{item['name']}:{'x'.join(map(str, item['shape']))}" for item in self.inputs)


class Bound:
    """Runs an engine on ``values``: once when it is called, and as often as is asked in ``times``."""

    def __init__(self, session: Session, values: Dict[str, Any]) -> None:
        for item in session.inputs:
            shape = list(values[item["name"]].shape)
            if shape != item["shape"]:
                fact = f"the input {item['name']} has shape {shape}, the engine was built for {item['shape']}"
                raise AgentError(RUNTIME, fact, "give that shape, or export the model for the other one")
        self._session, self._values = session, values
        self._typical_ms = 1000.0

    def __call__(self) -> None:
        """One run, in a process of its own."""
        with self._process() as (arguments, _):
            self._run([*arguments, "--iterations=1", "--duration=0", "--warmUp=0"], 1)

    def times(self, count: int, seconds: float = 0.0) -> List[int]:
        """The nanoseconds of each of at least ``count`` runs, over about ``seconds``, after a warm-up of their own."""
        with self._process() as (arguments, folder):
            file = os.path.join(folder, "times.json")
            timed = ["--useCudaGraph", f"--exportTimes={file}"]
            self._run([*arguments, *_for(count, seconds), *timed], count, seconds)
            rows = trtexec.read_times(_text(file, "times"), WARM_UP_MS)
        latencies = [row["latency"] for row in rows]
        if len(latencies) < count:
            fact = f"trtexec wrote the times of {len(latencies)} runs where {count} were asked for"
            raise AgentError(RUNTIME, fact, "use TensorRT 8.5, 8.6, 10 or 11; report this")
        self._typical_ms = sorted(latencies)[len(latencies) // 2]
        return [int(latency * 1e6) for latency in latencies]

    def profiled(self) -> Tuple[List[int], int, List[Dict[str, Any]], List[Dict[str, Any]]]:
        """The nanoseconds of runs without the profiler, how many were under it, its layers, and what these are."""
        with self._process() as (arguments, folder):
            times, profile, layers = (os.path.join(folder, name) for name in ("times", "profile", "layers"))
            told = [f"--exportTimes={times}", f"--exportProfile={profile}", f"--exportLayerInfo={layers}"]
            apart = ["--separateProfileRun", "--profilingVerbosity=detailed"]
            self._run([*arguments, *_for(PROFILED_RUNS, 0.0), *told, *apart], 2 * PROFILED_RUNS)
            rows = trtexec.read_times(_text(times, "times"), WARM_UP_MS)
            count, timed = trtexec.read_profile(_text(profile, "profile"))
            return (
                [int(row["latency"] * 1e6) for row in rows],
                count,
                timed,
                trtexec.read_layers(_text(layers, "layers")),
            )

    def answer(self) -> Dict[str, Any]:
        """The outputs of one run, by name."""
        with self._process() as (arguments, folder):
            file = os.path.join(folder, "output.json")
            self._run([*arguments, "--iterations=1", "--duration=0", "--warmUp=0", f"--exportOutput={file}"], 1)
            told = trtexec.read_output(_text(file, "output"))
        wanted = self._session.outputs
        if missing := [name for name in wanted if name not in told]:
            fact = f"trtexec told no output {missing[0]}, but {', '.join(told) or 'none'}"
            raise AgentError(RUNTIME, fact, "export for this version of TensorRT")
        return {name: numpy.array(told[name][1]).reshape(told[name][0]).astype(wanted[name]) for name in wanted}

    def _run(self, arguments: List[str], count: int, seconds: float = 0.0) -> None:
        session = self._session
        limit = trtexec.RUN_SECONDS + 3 * (seconds + count * self._typical_ms / 1e3)
        said = trtexec.run(arguments, limit, "while it ran the engine")
        loaded, managed = DESERIALIZED.search(said), MANAGED.search(said)
        if loaded is not None:
            session.load_ms = float(loaded.group(1)) * 1e3
        if managed is not None:
            mebibytes = sum(map(int, managed.groups()))
            session.memory = {"method": "TensorRT's own account", "peak_added": mebibytes << 20}

    @contextmanager
    def _process(self) -> Iterator[Tuple[List[str], str]]:
        """The arguments that name engine and inputs, and the folder that these are in."""
        session = self._session
        with tempfile.TemporaryDirectory(prefix="edgesdk-") as folder:
            given = []
            for place, (name, array) in enumerate(self._values.items()):
                file = os.path.join(folder, f"{place}.bin")
                try:
                    array.tofile(file)
                except OSError as error:
                    fact = f"cannot write {file} on this device: {error.strerror}"
                    raise AgentError(STORAGE, fact, "free some space there, or set TMPDIR") from None
                given.append(f"{name}:{file}")
            arguments = [f"--loadEngine={session.engine}", f"--loadInputs={','.join(given)}", *session.device_options]
            if not session.is_fixed:
                arguments.append(f"--shapes={session.shapes}")
            yield arguments, folder


class _Dla:
    """This module with engines for an accelerator, as a runner."""

    VERSION = VERSION
    sample, read_inputs = staticmethod(sample), staticmethod(read_inputs)

    def __init__(self, core: int) -> None:
        self._core = core

    def load(self, source: str | bytes, threads: int) -> Session:
        """As :func:`load`, for the accelerator; what it cannot take runs on the GPU."""
        return Session(source, threads, self._core)

    def profile(self, path: str, values: Optional[Dict[str, Any]], threads: int, take: Any) -> List[Dict[str, Any]]:
        """As :func:`profile`."""
        return _profile(self.load(path, threads), values, take)


def with_option(option: str) -> _Dla:
    """The runner for an accelerator, ``dla0`` or ``dla1``. Raises ``AgentError`` for anything else."""
    core = re.fullmatch(r"dla(\d)", option)
    if core is None:
        raise AgentError(
            USAGE, f"tensorrt has no option {option!r:.80}", "give tensorrt, tensorrt+dla0 or tensorrt+dla1"
        )
    return _Dla(int(core.group(1)))


def load(source: str | bytes, threads: int) -> Session:
    """The model in the file or in the bytes ``source``; ``threads`` of the processor have no part in it."""
    return Session(source, threads)


def profile(path: str, values: Optional[Dict[str, Any]], threads: int, take: Any) -> List[Dict[str, Any]]:
    """The layers of the engine in the order in which they ran, as the package says; its times are of a pass apart."""
    return _profile(load(path, threads), values, take)


def _profile(session: Session, values: Optional[Dict[str, Any]], take: Any) -> List[Dict[str, Any]]:
    bound = session.bind(values)
    passes = [bound.profiled() for _ in range(PROFILES)]
    take.tell([run for times, *_ in passes for run in times], sum(count for _, count, *_ in passes))
    timed = trtexec.merge([layers for *_, layers, _ in passes])
    described = {layer["name"]: layer for layer in passes[0][-1]}
    whole = sum(layer["ms"] for layer in timed)
    return [_kernel(layer, described.get(layer["name"]), whole) for layer in timed]


def _kernel(timed: Dict[str, Any], told: Optional[Dict[str, Any]], whole: float) -> Dict[str, Any]:
    name = timed["name"]
    return {
        "name": name,
        "operator": told["operator"] if told else "layer",
        "provider": told["device"] if told else "GPU",
        "share": timed["ms"] / whole if whole else None,
        "profiled_ms": timed["ms"],
        "low_ms": timed["low"],
        "high_ms": timed["high"],
        "layers": told["nodes"] if told else trtexec.nodes_of(name),
        "precision": told["precision"] if told else None,
    }


def _for(count: int, seconds: float) -> List[str]:
    return [f"--iterations={count}", f"--duration={seconds:g}", f"--warmUp={WARM_UP_MS:.0f}"]


def _accelerator(dla: Optional[int]) -> Optional[int]:
    if dla is not None and NO_DLA[0] <= _VERSION < NO_DLA[1]:
        fact = f"{NAME} has no way to the accelerator (DLA)"
        raise AgentError(MISSING, fact, "use TensorRT 8.5 to 10, or 11.4.1 on JetPack 7.2.2, or leave --dla out")
    return dla


def _chosen(path: str) -> str:
    """The file at ``path``, or the one beside it with precisions of its own, where TensorRT goes by these alone."""
    typed = os.path.splitext(path)[0] + TYPED
    return typed if _VERSION.is_typed and os.path.isfile(typed) else path


def _kept(content: bytes) -> str:
    path = os.path.join(_folder(), hashlib.sha256(content).hexdigest()[:24] + ".onnx")
    try:
        with open(path, "wb") as file:
            file.write(content)
    except OSError as error:
        fact = f"cannot write {path} on this device: {error.strerror}"
        raise AgentError(STORAGE, fact, "free some space there, or set TMPDIR to a folder with more") from None
    return path


def _folder() -> str:
    """Where engines are: in the agent's own folder, which goes with it, for the processes that it starts, too."""
    folder = os.environ.setdefault(ENGINES, os.path.join(scratch.folder(), "engines"))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return folder


def _prune() -> None:
    """Remove the engines that were used longest ago: a search builds many, and a board has little room."""
    used = {session.engine for session in _loaded}
    engines = [entry for entry in os.scandir(_folder()) if entry.name.endswith(".engine") and entry.path not in used]
    for entry in sorted(engines, key=lambda entry: entry.stat().st_mtime)[:-ENGINES_KEPT]:
        with suppress(FileNotFoundError):
            os.remove(entry.path)


def _timing_cache() -> str:
    """The file in which ``trtexec`` keeps what its kernels took, per version; beside the engines where home is full."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(home, "edgesdk")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError:
        folder = _folder()
    return os.path.join(folder if os.access(folder, os.W_OK) else _folder(), f"tensorrt-{VERSION}.timing")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise AgentError(MISSING, f"{path} cannot be read: {error.strerror}", "send the file first") from None


def _text(path: str, what: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        raise AgentError(
            RUNTIME, f"trtexec ended well, and wrote no {what}", "use TensorRT 8.5, 8.6, 10 or 11"
        ) from None
