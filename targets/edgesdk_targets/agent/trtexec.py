"""NVIDIA's ``trtexec``, which JetPack brings: found, started within limits of time and memory, what it says read.

Its options and files are those of its published source, github.com/NVIDIA/TensorRT, ``samples/common``:

- [options] ``sampleOptions.cpp``, and the documentation's "Migrating trtexec Usage" from 8.x to 10.x and 10.x to 11.x.
- [times] ``sampleReporting.cpp``, ``exportJSONTrace``: once with the runs of its warm-up, later without.
- [profile] the same, ``Profiler::exportJSONProfile``; there are times beside it where it has a run of its own.
- [output] the same, ``exportJSONOutput``.
- [layers] the documentation's "Engine Inspector", and "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x".
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from statistics import median
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from edgesdk_targets.agent import wheels
from edgesdk_targets.agent.protocol import FAILED, MISSING, RUNTIME, AgentError
from edgesdk_targets.agent.sysfs import read

NAME = "trtexec"
PLACES = ("/usr/src/tensorrt/bin/trtexec", "/usr/local/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec")
VARIABLE = "EDGESDK_TRTEXEC"  # where it is elsewhere
INSTALL = "install it with JetPack: sudo apt install nvidia-jetpack, or name it in EDGESDK_TRTEXEC"
BANNER = re.compile(r"\[TensorRT v(\d+(?:\.\d+)*)\]")
OLDEST, NEWEST = (8, 5), 11  # whose options are known; 9 was never one of a Jetson's
KNOWN = (8, 10, 11)
VERSION_SECONDS = 30.0  # to say its version: it loads CUDA before
BUILD_SECONDS = 3600.0  # a detector takes some ten minutes on a small board
RUN_SECONDS = 120.0  # to load an engine and to end, beyond the time that its runs take
POLL_SECONDS = 0.2
FLOOR_BYTES = 64 << 20  # of memory that must stay available while it works
CONTEXT_BYTES = 500 << 20  # CUDA's context with the libraries that hold TensorRT's kernels
COPIES = 4  # of the weights, while an engine is built
LEAST_WORKSPACE, MOST_WORKSPACE = 16 << 20, 1 << 30
SWAP_BYTES = 32 << 20  # that may go to swap meanwhile: something else may have been idle
ENGINE_FORMATS = {  # what a tensor is of, by a word in how [layers] call its format
    **{"int8": "int8", "fp8": "fp8", "fp16": "f16", "half": "f16", "bf16": "bf16", "bfloat16": "bf16"},
    **{"fp32": "f32", "float": "f32", "int32": "int32", "int64": "int64", "int4": "int4", "bool": "bool"},
}
NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")  # in the metadata of a layer
FOREIGN = re.compile(
    r"\{ForeignNode\[(.*?)\.\.\.(.*?)\]\}"
)  # a part of a network that another compiler took as a whole
OWN = re.compile(
    r"Reformat|CopyNode|HostToDeviceCopy|DeviceToHostCopy|ShapeHostToDevice|^\[?(?:NoOp|signal|wait)", re.I
)


class Version(NamedTuple):
    """A version of TensorRT."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return "%d.%d.%d" % self

    @property
    def is_typed(self) -> bool:
        """Whether it takes precisions from the file alone."""
        return self.major >= 11

    @property
    def builds_only(self) -> str:
        """The option with which it builds and does not run [options]."""
        return "--buildOnly" if self < (8, 6) else "--skipInference"


def find() -> Optional[str]:
    """Where it is: what ``EDGESDK_TRTEXEC`` names, on ``PATH``, or where JetPack has it; ``None`` where it is not."""
    named = os.environ.get(VARIABLE)
    if named:
        return named if os.access(named, os.X_OK) else None
    there = shutil.which(NAME)
    return there or next((path for path in PLACES if os.access(path, os.X_OK)), None)


def parsed_version(text: str) -> Optional[Version]:
    """The version in the first line of what it prints: ``v8502`` is 8.5.2, ``v100300`` 10.3.0, ``v8.6.1`` itself.

    It prints the number that NvInferVersion.h makes of it: 1000 times the major version up to 9, from 10 on 10000.
    """
    match = BANNER.search(text)
    if match is None:
        return None
    if "." in match.group(1):
        parts = [int(part) for part in match.group(1).split(".")][:3]
        return Version(*[*parts, 0, 0][:3])
    number = int(match.group(1))
    unit = 10000 if number >= 100000 else 1000
    return Version(number // unit, number % unit // 100, number % 100)


def version(path: Optional[str] = None) -> Version:
    """The version that it is of. Raises ``AgentError`` where it is not there, says none, or one that is not known."""
    path = path or find()
    if path is None:
        raise AgentError(MISSING, "trtexec is not on this device, which measures TensorRT", INSTALL)
    told = parsed_version(_banner(path, os.stat(path).st_mtime_ns))
    if told is None:
        raise AgentError(RUNTIME, f"{path} names no version of TensorRT", f"look at what {path} --help prints")
    if told < OLDEST or told.major not in KNOWN:
        fact = f"{path} is of TensorRT {told}, whose options edgesdk does not know"
        raise AgentError(RUNTIME, fact, "use TensorRT 8.5, 8.6, 10 or 11, or --runtime onnxruntime")
    return told


def installed() -> Optional[str]:
    """The version as a word; ``None`` where it is not there or cannot be used."""
    try:
        return str(version()) if find_spec("numpy") else None  # its runner takes that
    except AgentError:
        return None


def advice() -> str:
    """Why it cannot be used here and how it gets there; nothing where it can."""
    try:
        version()
    except AgentError as error:
        return error.remedy if error.kind == MISSING else str(error)
    return "" if find_spec("numpy") else wheels.own(f"{wheels.VENV} numpy")


@functools.lru_cache(maxsize=8)
def _banner(path: str, changed: int) -> str:
    """What the program at ``path``, which was ``changed`` then, prints first. Raises ``AgentError``."""
    try:
        done = subprocess.run(
            [path, "--help"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=VERSION_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        fact = f"{path} did not say its version within {VERSION_SECONDS:.0f} s"
        raise AgentError(FAILED, fact, "look at what else uses the GPU, or start the board again") from None
    except OSError as error:
        raise AgentError(RUNTIME, f"{path} cannot be started: {error.strerror}", INSTALL) from None
    return done.stdout[:4096].decode("utf-8", "replace")


class Memory(NamedTuple):
    """What the board has left, in bytes."""

    available: int
    swap_free: int


def memory(root: str = "/") -> Optional[Memory]:
    """What the kernel says of memory; ``None`` where it says nothing."""
    found = dict(re.findall(r"^(MemAvailable|SwapFree):\s*(\d+) kB", read(root, "proc/meminfo") or "", re.MULTILINE))
    if "MemAvailable" not in found:
        return None
    return Memory(int(found["MemAvailable"]) << 10, int(found.get("SwapFree", "0")) << 10)


def run(arguments: Sequence[str], seconds: float, doing: str, root: str = "/") -> str:
    """What it prints, called with ``arguments``.

    Raises ``AgentError``: of kind ``failed`` where it takes over ``seconds`` or the board would swap, when it is ended;
    of kind ``runtime`` where it fails, in its own words. ``doing`` says what it does.
    """
    path = find()
    if path is None:
        raise AgentError(MISSING, "trtexec is not on this device, which measures TensorRT", INSTALL)
    before = memory(root)
    with tempfile.TemporaryFile() as said:
        try:
            command = [path, *arguments]
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
        except OSError as error:
            raise AgentError(RUNTIME, f"{path} cannot be started: {error.strerror}", INSTALL) from None
        try:
            _wait(child, seconds, doing, before, root)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        said.seek(0)
        text = said.read().decode("utf-8", "replace")
    if child.returncode != 0 or "&&&& FAILED" in text:
        raise AgentError(RUNTIME, f"trtexec failed {doing} ({_words(text, child.returncode)})", _remedy(text))
    return text


def _wait(child: "subprocess.Popen[bytes]", seconds: float, doing: str, before: Optional[Memory], root: str) -> None:
    end, pause = time.monotonic() + seconds, 0.01
    while True:
        try:
            child.wait(pause)
            return
        except subprocess.TimeoutExpired:
            pause = min(2 * pause, POLL_SECONDS)
        if time.monotonic() >= end:
            fact = f"trtexec took over {seconds:.0f} s {doing}, and was ended"
            raise AgentError(FAILED, fact, "look at what else uses the GPU, or use a smaller model")
        now = memory(root)
        if before is None or now is None:
            continue
        swaps = before.swap_free - now.swap_free > SWAP_BYTES and now.available < CONTEXT_BYTES
        if now.available < FLOOR_BYTES or swaps:
            fact = f"trtexec was ended {doing}, before the board swaps: {_mb(now.available)} of memory were left"
            raise AgentError(FAILED, fact, "end what else runs there, or use a smaller model or a smaller input")


def _words(text: str, code: int) -> str:
    """What it says of why it failed, in short."""
    lines = [re.sub(r"^\[[\d/:-]+\] \[E\] (\[TRT\] )?", "", line) for line in text.splitlines() if "[E]" in line]
    lines = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not lines:
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("&&&&")][-2:]
    how = f"it was ended by signal {-code}" if code < 0 else f"exit code {code}"
    return "; ".join(lines[:3])[:1000] or how


def _remedy(text: str) -> str:
    if re.search(
        r"out of memory|OutOfMemory|insufficient (?:memory|workspace)|Requested amount of GPU memory", text, re.I
    ):
        return "end what else uses the board's memory, or use a smaller model or a smaller input"
    if "Unknown option" in text:
        return "this build of trtexec takes other options than its version does: report it with what it prints"
    return "export for this version of TensorRT, or use another --runtime"


def workspace_bytes(model_bytes: int, left: Optional[Memory]) -> int:
    """How much workspace an engine may be built with: of what the board has ``left``, 1 GiB at most.

    A builder holds two copies of the weights in the host's memory, and one more and the engine on the GPU, which on a
    Jetson is the same memory (TensorRT documentation, "How TensorRT Works", "GPU Memory Usage"); CUDA and its libraries
    take their own. Raises ``AgentError`` of kind ``failed`` where that is more than is left, so that the board would
    swap.
    """
    if left is None:
        return MOST_WORKSPACE
    fixed = CONTEXT_BYTES + COPIES * model_bytes
    workspace = min(MOST_WORKSPACE, (left.available - FLOOR_BYTES - fixed) // 2)
    if workspace < LEAST_WORKSPACE:
        needed = fixed + FLOOR_BYTES + 2 * LEAST_WORKSPACE
        fact = f"building an engine of this model takes about {_mb(needed)}, and {_mb(left.available)} are available"
        raise AgentError(FAILED, f"{fact}: the board would swap", "end what else runs there, or use a smaller model")
    return workspace


def _mb(size: float) -> str:
    return f"{size / 1e6:.0f} MB"


def read_times(content: str, warm_up_ms: float = 0.0) -> List[Dict[str, float]]:
    """The runs in a file of ``--exportTimes`` [times], each ``{"latency", "compute"}`` in ms.

    A latency is that of the data's way to the GPU, of its kernels and of the way back. Runs that began within
    ``warm_up_ms`` are left out, as older versions have them in the file. Raises ``AgentError`` for another format.
    """
    rows = _document(content, "times")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _other_format("times", "it is no list of runs")
    found = []
    for row in rows:
        numbers: List[Any] = [row.get(name) for name in ("latencyMs", "computeMs", "startComputeMs")]
        if not all(_is_number(number) for number in numbers):
            raise _other_format("times", f"a run has {', '.join(sorted(row))[:200] or 'nothing'}")
        latency, compute, start = map(float, numbers)
        if latency <= 0 or compute < 0:
            raise _other_format("times", f"a run took {latency:g} ms")
        if start >= warm_up_ms:
            found.append({"latency": latency, "compute": compute})
    if not found:
        raise _other_format("times", "it holds no run after the warm-up")
    return found


def read_profile(content: str) -> Tuple[int, List[Dict[str, Any]]]:
    """A file of ``--exportProfile`` [profile]: how many runs it is of, and the layers in their order.

    Each is ``{"name", "ms"}``, its median where the version tells that, else its mean. Raises ``AgentError``.
    """
    rows = _document(content, "profile")
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict) or not _is_number(rows[0].get("count")):
        raise _other_format("profile", "it does not begin with a count of runs")
    layers = []
    for row in rows[1:]:
        told: Any = row.get("medianMs", row.get("averageMs")) if isinstance(row, dict) else None
        if not _is_number(told) or not isinstance(row.get("name"), str):
            raise _other_format("profile", "a layer has no name or no time")
        layers.append({"name": row["name"], "ms": float(told)})
    return int(rows[0]["count"]), layers


def read_layers(content: str) -> List[Dict[str, Any]]:
    """A file of ``--exportLayerInfo`` [layers]: each layer as ``{"name", "operator", "nodes", "precision", "device"}``.

    ``nodes`` are the ONNX file's that are fused in it, from its metadata, which 8.5 does not have, or its name;
    ``precision`` is what it multiplies where that is told, else what it gives; ``device`` is ``GPU`` or ``DLA``.
    """
    document = _document(content, "layers")
    rows = document.get("Layers") if isinstance(document, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, (dict, str)) for row in rows):
        raise _other_format("layers", "it has no list Layers")
    return [_layer({"Name": row} if isinstance(row, str) else row) for row in rows]


def _layer(row: Dict[str, Any]) -> Dict[str, Any]:
    name, kind = str(row.get("Name", "")), str(row.get("LayerType", ""))
    told = NODE.findall(str(row.get("Metadata", "")))
    is_dla = kind.upper().startswith("DLA")
    return {
        "name": name,
        "operator": str(row.get("ParameterType") or kind or "layer"),
        "nodes": list(dict.fromkeys(told)) or nodes_of(name),
        "precision": _precision(row),
        "device": "DLA" if is_dla else "GPU",
    }


def nodes_of(name: str) -> List[str]:
    """The ONNX nodes that the ``name`` of a layer lists: ``conv1 + PWN(relu1)``; none for one that TensorRT adds.

    Of a part that another compiler took as a whole, ``{ForeignNode[first...last]}``, these are the two that it names.
    """
    if OWN.search(name):
        return []
    names = [part for pair in FOREIGN.findall(name) for part in pair]
    rest = re.sub(r"PWN\(|[()]", " ", FOREIGN.sub(" ", name))
    names += re.split(r"\s\+\s|\s\|\|\s|,\s", rest)
    return list(dict.fromkeys(part.strip() for part in names if part.strip(" +|,")))


def _precision(row: Dict[str, Any]) -> Optional[str]:
    """What a layer computes in: the type of its weights, as it multiplies these; else of its first output."""
    weights = row.get("Weights")
    if isinstance(weights, dict) and _format(str(weights.get("Type", ""))):
        return _format(str(weights["Type"]))
    tactic = str(row.get("TacticName", "")).lower()
    if "i8i8" in tactic or "imma" in tactic:
        return "int8"
    for side in ("Outputs", "Inputs"):
        for tensor in row.get(side) or ():
            if isinstance(tensor, dict):
                told = tensor.get("DataType") or tensor.get("Datatype") or tensor.get("Format/Datatype")
                found = _format(str(told or tensor.get("Format", "")))
                if found:
                    return found
    return None


def _format(text: str) -> Optional[str]:
    words = re.findall(r"[a-z]+\d*", text.lower())
    return next((ENGINE_FORMATS[word] for word in words if word in ENGINE_FORMATS), None)


def read_output(content: str) -> Dict[str, Tuple[List[int], List[float]]]:
    """A file of ``--exportOutput`` [output]: by name, the shape and the numbers of each output of the last run.

    It prints six digits of a number, and what is none as C++ does, which JSON has no word for. Raises ``AgentError``.
    """
    content = re.sub(r"(?<=[\s,\[])(-?)(?:nan|NaN)(?:\(\w*\))?(?=[\s,\]])", "NaN", content)
    content = re.sub(r"(?<=[\s,\[])(-?)inf(?=[\s,\]])", r"\1Infinity", content)
    rows = _document(content, "output")
    if not isinstance(rows, list) or not rows:
        raise _other_format("output", "it is no list of tensors")
    found: Dict[str, Tuple[List[int], List[float]]] = {}
    for row in rows:
        shape = re.fullmatch(r"\d+(?:x\d+)*|", str(row.get("dimensions", "?"))) if isinstance(row, dict) else None
        values = row.get("values") if isinstance(row, dict) else None
        if (
            shape is None
            or not isinstance(values, list)
            or not all(_is_number(value, finite=False) for value in values)
        ):
            raise _other_format("output", "a tensor has no dimensions or no values")
        sizes = [int(size) for size in shape.group().split("x") if size]
        if math.prod(sizes) != len(values):
            raise _other_format("output", f"{row.get('name')} has {len(values)} values for {shape.group()}")
        found[str(row.get("name"))] = sizes, values
    return found


def merge(profiles: Sequence[List[Dict[str, Any]]]) -> List[Dict[str, Any]]:
    """The layers of several profiles of one engine, the median of each, with what they lie between."""
    times = [[layer["ms"] for layer in column] for column in zip(*profiles)]
    return [
        {"name": layer["name"], "ms": median(taken), "low": min(taken), "high": max(taken)}
        for layer, taken in zip(profiles[0], times)
    ]


def _document(content: str, what: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _other_format(what, f"it is not JSON: {error!s:.100}") from None


def _other_format(what: str, why: str) -> AgentError:
    fact = f"trtexec wrote its {what} in a format that edgesdk does not know ({why})"
    return AgentError(RUNTIME, fact, "use TensorRT 8.5, 8.6, 10 or 11; report this with that file")


def _is_number(value: object, finite: bool = True) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    if abs(value) <= sys.float_info.max:  # math.isfinite raises for a whole number beyond that
        return True
    return isinstance(value, float) and not finite
