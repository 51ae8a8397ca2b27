"""A stand-in for ``trtexec``, as no Jetson is at hand: real answers and times by ONNX Runtime, said as NVIDIA's does.

What it takes and writes is that of NVIDIA's published source, per version: ``samples/common/sampleOptions.cpp`` and
``sampleReporting.cpp`` of github.com/NVIDIA/TensorRT, and the documentation's pages on migrating ``trtexec`` and
``IEngineInspector``. What TensorRT fuses, and in what it computes, is its own: the stand-in fuses an activation
into what it reads, and takes pairs of Q and DQ into the layers around them, as the documentation has it.

:func:`write` makes a program of it, of one version and with one fault.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

NUMBERS = {"8.5": "8502", "8.6": "8602", "10": "100300", "11": "110401"}
FAULTS = {
    "none", "hangs", "exits", "signal", "other times", "no times", "few times", "other layers", "no JSON", "no memory",
    "no engine",  "no banner", "overflows",
}  # fmt: skip
COMMON = {
    "--help", "--onnx", "--saveEngine", "--loadEngine", "--optShapes", "--shapes", "--memPoolSize", "--timingCacheFile",
    "--profilingVerbosity", "--useDLACore", "--allowGPUFallback", "--loadInputs", "--iterations", "--duration",
    "--warmUp", "--exportTimes", "--exportProfile", "--exportLayerInfo", "--exportOutput", "--separateProfileRun",
    "--useCudaGraph",
}  # fmt: skip
WEAK = {"--fp16", "--int8"}
TAKES = {
    "8.5": COMMON | WEAK | {"--buildOnly", "--workspace"},
    "8.6": COMMON | WEAK | {"--buildOnly", "--skipInference", "--workspace"},
    "10": COMMON | WEAK | {"--skipInference", "--stronglyTyped"},
    "11": COMMON | {"--skipInference"},
}
FUSED = ("Relu", "Clip", "Sigmoid", "Add", "BatchNormalization")
PAIR = ("QuantizeLinear", "DequantizeLinear")
WEIGHTED = ("Conv", "Gemm", "MatMul")


def write(path: Path, version: str = "10", fault: str = "none", slower: float = 1.0, log: Path | None = None) -> Path:
    """The stand-in as a program at ``path``, of that ``version``; a file with integers takes ``slower`` times as
    long, and where that is below 1 one without takes longer by as much.

    What it is called with goes to ``log``, a line each.
    """
    assert version in NUMBERS or version.isdigit()
    assert fault in FAULTS
    here = str(Path(__file__).parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {here!r})\nimport agent_trtexec\n"
        f"sys.exit(agent_trtexec.main(sys.argv, {version!r}, {fault!r}, {slower!r}, {str(log or '')!r}))\n"
    )
    path.chmod(0o755)
    return path


def main(argv: list[str], version: str, fault: str, slower: float, log: str) -> int:
    """The program; its exit status."""
    given = {name: value for name, _, value in (part.partition("=") for part in argv[1:])}
    number = NUMBERS.get(version, version)
    if log:
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(argv[1:]) + "\n")
    said = f"TensorRT.trtexec [TensorRT v{number}] # {' '.join(argv)}"
    if fault != "no banner":
        print(f"&&&& RUNNING {said}", flush=True)
    if "--help" in given:
        return 0
    try:
        _work(given, version if version in NUMBERS else "10", fault, slower, argv[0])
    except _Failed as error:
        print(f"[11/29/2026-21:00:00] [E] {error}")
        print(f"&&&& FAILED {said}")
        return 1
    print(f"&&&& PASSED {said}")
    return 0


class _Failed(Exception):
    """What is printed as an error."""


def _work(given: dict[str, str], version: str, fault: str, slower: float, program: str) -> None:
    for option in given:
        if option not in TAKES[version]:
            raise _Failed(f"Unknown option: {option} {given[option]}")
    builds = "--onnx" in given
    if fault == "hangs":
        time.sleep(3600)
    if fault == "exits":
        os._exit(3)
    if fault == "signal":
        os.kill(os.getpid(), 9)
    if fault == "no memory":
        raise _Failed("[TRT] Could not find any implementation for node conv due to insufficient workspace.")
    if builds:
        _build(given, version, fault)
    else:
        _run(given, version, fault, slower)


def _build(given: dict[str, str], version: str, fault: str) -> None:
    content = Path(given["--onnx"]).read_bytes()
    import onnxruntime

    try:
        onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _Failed(f"[TRT] ModelImporter.cpp: {str(error).splitlines()[0]}") from None
    if b"QuantizeLinear" in content and version != "11" and "--int8" not in given and "--stronglyTyped" not in given:
        raise _Failed("[TRT] Int8 precision has been set for a layer or layer output, but int8 is not configured")
    if "--useDLACore" in given and version == "11" and "--allowGPUFallback" not in given:
        raise _Failed("[TRT] Layers cannot run on DLA")
    Path(given["--timingCacheFile"]).write_bytes(b"timing cache")
    if fault != "no engine":
        kept = {name: given.get(name) for name in ("--int8", "--fp16", "--useDLACore", "--optShapes")}
        head = json.dumps({**kept, "version": version}).encode()
        Path(given["--saveEngine"]).write_bytes(len(head).to_bytes(4, "little") + head + content)
    print("[11/29/2026-21:00:00] [I] Engine built in 0.5 sec.")


def _run(given: dict[str, str], version: str, fault: str, slower: float) -> None:
    import numpy
    import onnxruntime

    whole = Path(given["--loadEngine"]).read_bytes()
    size = int.from_bytes(whole[:4], "little")
    built, content = json.loads(whole[4 : 4 + size].decode()), whole[4 + size :]
    if built["version"] != version:
        raise _Failed("[TRT] 6: The engine plan file is not compatible with this version of TensorRT")
    if built["--useDLACore"] != given.get("--useDLACore"):
        raise _Failed("[TRT] The engine was built for another device")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    files = _pairs(given["--loadInputs"])
    shapes = _pairs(given.get("--shapes", ""))
    feeds = {}
    for item in session.get_inputs():
        sizes = [int(side) for side in shapes[item.name].split("x")] if item.name in shapes else item.shape
        dtype = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64"}[item.type]
        array = numpy.fromfile(files[item.name], dtype)
        if array.size != numpy.prod(sizes):
            raise _Failed(f"Input tensor size mismatch for {item.name}")
        feeds[item.name] = array.reshape(sizes)
    names = [item.name for item in session.get_outputs()]
    print("[11/29/2026-21:00:00] [I] Engine deserialized in 0.0123 sec.")
    managed = "TensorRT-managed allocation in IExecutionContext creation: CPU +0, GPU +3, now: CPU 0, GPU 5 (MiB)"
    print(f"[11/29/2026-21:00:00] [I] [TRT] [MemUsageChange] {managed}")
    integers = b"QuantizeLinear" in content
    warm_up = float(given.get("--warmUp", 200)) if "--exportTimes" not in given else min(float(given["--warmUp"]), 20.0)
    shift = float(given.get("--warmUp", 200)) - warm_up  # the stand-in warms up for less, and tells the times it should
    begin, rows = time.perf_counter(), []
    outputs: list = []
    while True:
        start = (time.perf_counter() - begin) * 1e3
        before = time.perf_counter()
        outputs = list(session.run(names, feeds))
        took = (time.perf_counter() - before) * 1e3
        longer = slower if integers else 1 / slower
        if longer > 1:
            time.sleep(took * (longer - 1) / 1e3)
            took = (time.perf_counter() - before) * 1e3
        rows.append((start, took))
        timed = [row for row in rows if row[0] >= warm_up]
        enough = len(timed) >= int(given["--iterations"])
        if enough and sum(row[1] for row in timed) >= float(given["--duration"]) * 1e3:
            break
    profiles = "--exportProfile" in given
    if "--exportTimes" in given and (not profiles or "--separateProfileRun" in given):
        kept = rows if version == "8.5" else timed
        times = [_trace(start + shift * (start >= warm_up), took) for start, took in kept]
        _write_times(Path(given["--exportTimes"]), times, version, fault)
    layers = _layers(content, built, version) if profiles or "--exportLayerInfo" in given else []
    if profiles:
        _write_profile(Path(given["--exportProfile"]), layers, len(timed), timed, version)
    if "--exportLayerInfo" in given:
        _write_layers(Path(given["--exportLayerInfo"]), layers, session, version, fault)
    if fault == "overflows":
        outputs = [numpy.where(array > array.mean(), numpy.inf, array) for array in outputs]
    if "--exportOutput" in given:
        tensors = [
            {"name": name, "dimensions": "x".join(map(str, array.shape)), "values": "\0"}
            for name, array in zip(names, outputs)
        ]
        text = json.dumps(tensors)
        for array in outputs:  # C++ prints six digits, and nan and inf by these words
            text = text.replace('"\\u0000"', "[ " + ", ".join(f"{value:.6g}" for value in array.ravel()) + " ]", 1)
        Path(given["--exportOutput"]).write_text(text if fault != "no JSON" else "values: 1 2 3")


def _pairs(text: str) -> dict[str, str]:
    """A list of ``name:value`` by name; a name may have colons."""
    return {name: value for name, _, value in (part.rpartition(":") for part in text.split(",") if part)}


def _trace(start: float, took: float) -> dict[str, float]:
    """A run as it is told: of the time that it took, a tenth is either way of the data's."""
    way, compute = 0.1 * took, 0.8 * took
    return {
        "startEnqMs": start, "endEnqMs": start + 0.01, "startH2dMs": start, "endH2dMs": start + way,
        "startComputeMs": start + way, "endComputeMs": start + way + compute, "startD2hMs": start + way + compute,
        "endD2hMs": start + took, "h2dMs": way, "computeMs": compute, "d2hMs": way, "latencyMs": took,
    }  # fmt: skip


def _write_times(path: Path, times: list[dict[str, float]], version: str, fault: str) -> None:
    if fault == "no times":
        return
    if version == "8.5":
        times = [dict(row, endToEndMs=row["latencyMs"] * 1.5) for row in times]
    if fault == "other times":
        times = [{"inMs": row["h2dMs"], "computeMs": row["computeMs"]} for row in times]
    if fault == "few times":
        times = times[:3]
    path.write_text("no" if fault == "no JSON" else json.dumps(times))


def _layers(content: bytes, built: dict, version: str) -> list[dict]:
    """The layers of the engine: what is fused, in what it computes, and how large a share of the time is its."""
    import onnx

    graph = onnx.load_from_string(content).graph
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    into: dict[str, dict] = {}  # the layer that makes a tensor
    found: list[dict] = []
    dla = built["--useDLACore"] is not None
    for node in graph.node:
        if node.op_type in (*PAIR, "Cast", "Identity", "Constant"):
            if node.input and node.input[0] in into:
                into[node.output[0]] = into[node.input[0]]
            continue
        before = next((into[name] for name in node.input if name in into and into[name] is found[-1]), None)
        if node.op_type in FUSED and before is not None and readers.get(node.input[0], 0) == 1:
            before["nodes"].append(node.name)
            into[node.output[0]] = before
            continue
        reads = [makers[name].op_type for name in node.input if name in makers]
        is_integer = node.op_type in WEIGHTED and "DequantizeLinear" in reads
        weight = 4.0 if node.op_type in WEIGHTED else 1.0
        layer = {
            "nodes": [node.name], "kind": node.op_type, "integer": is_integer, "weight": weight,
            "dla": dla and node.op_type in ("Conv", "Relu"),
        }  # fmt: skip
        found.append(layer)
        into[node.output[0]] = layer
    return found


def _name(layer: dict) -> str:
    first, *rest = layer["nodes"]
    if layer["dla"]:
        return f"{{ForeignNode[{first}...{layer['nodes'][-1]}]}}"
    return " + ".join([first, *rest])


def _write_profile(path: Path, layers: list[dict], count: int, timed: list, version: str) -> None:
    run = sorted(took for _, took in timed)[len(timed) // 2]
    whole = sum(layer["weight"] for layer in layers) + 1
    rows: list[dict] = [{"count": count}]
    for name, share in [("Reformatting CopyNode for Input Tensor 0 to " + _name(layers[0]), 1 / whole)] + [
        (_name(layer), layer["weight"] / whole) for layer in layers
    ]:
        took = run * share
        told = {"name": name, "timeMs": took * count, "averageMs": took, "medianMs": took, "percentage": 100 * share}
        if version == "8.5":
            del told["medianMs"]
        rows.append(told)
    path.write_text(json.dumps(rows))


def _write_layers(path: Path, layers: list[dict], session, version: str, fault: str) -> None:
    if fault == "other layers":
        path.write_text(json.dumps({"Operators": [_name(layer) for layer in layers]}))
        return
    rows = []
    for layer in layers:
        tensor = "Int8" if layer["integer"] else "FP16"
        row = {
            "Name": _name(layer),
            "LayerType": "DLA" if layer["dla"] else "CaskConvolution" if layer["kind"] == "Conv" else layer["kind"],
            "Inputs": [_tensor("in", tensor, version)],
            "Outputs": [_tensor("out", "FP16", version)],
            "TacticName": "sm80_xmma_fprop_i8i8" if layer["integer"] else "sm80_xmma_fprop_f16f16",
        }
        if layer["kind"] == "Conv" and not layer["dla"]:
            row.update(
                ParameterType="Convolution", Weights={"Type": "Int8" if layer["integer"] else "Half", "Count": 9}
            )
        if version != "8.5":
            row["Metadata"] = "\x1e".join(f"[ONNX Layer: {name}]" for name in layer["nodes"])
        rows.append(row)
    names = [item.name for item in (*session.get_inputs(), *session.get_outputs())]
    if version == "11":
        borders = {"I/O Tensors": [{"Name": name, "IOMode": "Input", "DataType": "Float"} for name in names]}
    else:
        borders = {"Bindings": names}
    path.write_text(json.dumps({"Layers": rows, **borders}))


def _tensor(name: str, kind: str, version: str) -> dict:
    wide = f"Thirty-two wide channel vectorized row major {kind} format"
    if version == "11":
        return {"Name": name, "Format": wide, "DataType": {"Int8": "Int8", "FP16": "Half"}[kind]}
    return {"Name": name, "Dimensions": [1, 8, 8, 8], "Format/Datatype": wide}
