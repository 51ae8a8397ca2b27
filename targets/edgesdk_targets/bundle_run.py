"""Run this bundle's model on a file: NumPy and the runtime that the manifest names are all it needs.

    python run.py [INPUT.npz | INPUT.npy] [--output OUT.npz] [--threads N] [--time SECONDS] [--check]

INPUT.npz holds an array per input under its name; INPUT.npy the only input. uint8 images are normalised as the manifest
says, when it says so. A batch is run one sample at a time. Without INPUT the recorded sample is run and compared;
with --check nothing is printed but what differs by more than 5 % of its spread, and the exit code is then 1.
With --time one sample is run again and again for that long, at least 128 times, and its latency printed.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections import namedtuple
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np

HERE = Path(__file__).resolve().parent
MODULES = {
    "onnxruntime": ["onnxruntime"],
    "openvino": ["openvino"],
    "litert": ["ai_edge_litert.interpreter", "tflite_runtime.interpreter"],  # either reads such files
    "tflite": ["tflite_runtime.interpreter", "ai_edge_litert.interpreter"],
    "tensorrt": ["onnxruntime"],  # on the processor: trtexec runs the file on the graphics
}
TOLERANCE = 5e-2  # of the outputs' spread: another processor sums in another order
Opened = namedtuple("Opened", "inputs outputs run name version")


def opened(path, runtime, threads=1, precision="f32"):
    """The model at ``path``, loaded: the names of its ``inputs`` and ``outputs`` in the file's order, and ``run``.

    ``run(feeds)`` takes an array per input by name and returns copies of the outputs; ``name`` and ``version`` are
    those of what runs it. ``precision`` is what OpenVINO computes in where the file has floats; left to itself it takes
    bfloat16 where the processor has it. Raises ``ImportError`` where the runtime is not installed, and what the runtime
    raises where it refuses the file.
    """
    library = _imported(runtime)
    if runtime == "openvino":
        return _openvino(library, path, threads, precision)
    if library.__name__ == "onnxruntime":
        return _onnxruntime(library, path, threads)
    return _tflite(library, path, threads)


def _imported(runtime):
    reasons = []
    for module in MODULES[runtime]:
        try:
            return importlib.import_module(module)
        except ImportError as error:
            reasons.append(str(error))
    install = MODULES[runtime][0].partition(".")[0].replace("_", "-")
    raise ImportError(f"{runtime} cannot be imported ({'; '.join(reasons)}): pip install {install}")


def _onnxruntime(library, path, threads):
    settings = library.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads, settings.log_severity_level = threads, 1, 3
    # It would quantize a float layer between integer ones by itself, with one scale for all of its weights.
    without = {"disabled_optimizers": ["WeightBiasQuantization"]}
    session = library.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"], **without)
    inputs, outputs = ([value.name for value in side] for side in (session.get_inputs(), session.get_outputs()))
    return Opened(inputs, outputs, lambda feeds: session.run(None, feeds), "onnxruntime", library.__version__)


def _openvino(library, path, threads, precision):
    settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
    settings.update(INFERENCE_PRECISION_HINT=precision)
    compiled = library.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()

    def name(port):  # a tensor may have several: the one that the file gives to the input or output itself
        own = port.get_node().get_friendly_name().partition("/sink_port_")[0]
        return own if own in port.get_names() or not port.get_names() else port.get_any_name()

    inputs, outputs = [name(port) for port in compiled.inputs], [name(port) for port in compiled.outputs]

    def run(feeds):
        request.infer({index: feeds[each] for index, each in enumerate(inputs)}, share_outputs=True)
        return [request.get_output_tensor(index).data.copy() for index in range(len(outputs))]

    return Opened(inputs, outputs, run, "openvino", library.__version__.partition("-")[0])


@contextmanager
def _hushed():
    """Keep off stderr what a runtime tells of itself from C++; what is wrong it raises."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _tflite(library, path, threads):
    with _hushed():
        interpreter = library.Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    sides = (interpreter.get_input_details(), interpreter.get_output_details())
    places = [[int(detail["index"]) for detail in side] for side in sides]
    names = [[detail["name"] for detail in side] for side in sides]
    for signature in interpreter._get_full_signature_list().values():  # one may be of another subgraph
        signed = [{index: name for name, index in signature[side].items()} for side in ("inputs", "outputs")]
        if [set(side) for side in signed] == [set(side) for side in places]:
            names = [[of[index] for index in side] for of, side in zip(signed, places)]
            break

    def run(feeds):
        for index, name in zip(places[0], names[0]):
            interpreter.set_tensor(index, feeds[name])
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in places[1]]

    package = library.__name__.partition(".")[0].replace("_", "-")
    return Opened(names[0], names[1], run, package, metadata.version(package))


def prepared(array, entry):
    """The array as the model takes it: one leading axis of samples, the dtype of the input, uint8 images normalised."""
    normalization = entry.get("normalization")
    if array.dtype == np.uint8 and entry["dtype"] == "float32":
        if not normalization:
            sys.exit(f"{entry['name']} takes float32 and the bundle records no normalisation: give floats")
        array = array.astype(np.float32) * np.float32(normalization["scale"])
        if normalization.get("mean"):
            shape = (-1,) + (1,) * (len(entry["shape"]) - 2)
            mean = np.asarray(normalization["mean"], np.float32).reshape(shape)
            array = (array - mean) / np.asarray(normalization["std"], np.float32).reshape(shape)
    if array.ndim == len(entry["shape"]) - 1:
        array = array[None]
    if list(array.shape[1:]) != entry["shape"][1:]:
        sys.exit(f"{entry['name']} has shape {list(array.shape)}: the model takes {entry['shape']}")
    return array.astype(entry["dtype"])


def distance(value, expected):
    """The root mean square of the difference, over the standard deviation of what is expected."""
    return float(np.sqrt(np.mean((value - expected) ** 2)) / max(float(expected.std()), 1e-12))


def emulated():
    """Whether this is no real device: QEMU shows in the name that the kernel has for this process."""
    try:
        name = Path("/proc/self/status").read_text().split("\n")[0]
    except OSError:
        name = ""
    return "\tqemu-" in name or os.environ.get("EDGESDK_EMULATED") == "1"


def timed(model, feeds, seconds):
    """Milliseconds of each run, for at least that long and 128 times, after a tenth of it as warm-up."""
    times = []
    for share, least in ((0.1, 10), (1.0, 128)):
        times, end = [], time.perf_counter() + share * seconds
        while time.perf_counter() < end or len(times) < least:
            start = time.perf_counter()
            model.run(feeds)
            times.append(1e3 * (time.perf_counter() - start))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--time", type=float, metavar="SECONDS")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.check and (options.input or options.output or options.time):
        parser.error("--check takes the recorded sample alone")
    if options.time and emulated():
        sys.exit("this device is emulated, so that its times mean nothing: measure on the board itself")
    manifest = json.loads((HERE / "manifest.json").read_text())
    recorded = dict(np.load(HERE / "sample.npz"))
    if options.input is None:
        given = {entry["name"]: recorded["input:" + entry["name"]] for entry in manifest["inputs"]}
    else:
        loaded = np.load(options.input, allow_pickle=False)
        single = isinstance(loaded, np.ndarray)
        given = {e["name"]: loaded if single else loaded[e["name"]] for e in manifest["inputs"]}
    runtime = manifest["runtime"]
    try:
        path, precision = HERE / manifest.get("model", "model.onnx"), runtime.get("precision") or "f32"
        model = opened(path, runtime["name"], options.threads, precision)
    except ImportError as error:
        sys.exit(str(error))
    feeds = {entry["name"]: prepared(given[entry["name"]], entry) for entry in manifest["inputs"]}
    if options.time:
        times = timed(model, {name: value[:1] for name, value in feeds.items()}, options.time)
        shown = ", ".join(f"p{p} {np.percentile(times, p):.4g} ms" for p in (50, 90, 95))
        print(f"{len(times)} runs, {options.threads} thread(s), {model.name} {model.version}: {shown}")
        return
    count = len(next(iter(feeds.values())))
    rows = [model.run({name: value[i : i + 1] for name, value in feeds.items()}) for i in range(count)]
    outputs = {e["name"]: np.concatenate(parts) for e, parts in zip(manifest["outputs"], zip(*rows))}
    if options.input is None:
        off = {name: distance(value, recorded["output:" + name]) for name, value in outputs.items()}
        said = [f"{name}: differs from the recorded sample by {error:.2g} of its spread" for name, error in off.items()]
        if options.check:
            sys.exit("\n".join(said) if not all(error <= TOLERANCE for error in off.values()) else 0)
        print("\n".join(said))
    if options.output:
        np.savez(options.output, **outputs)  # type: ignore[arg-type]
    else:
        for name, value in outputs.items():
            print(name, np.array2string(value, precision=4, threshold=200))


if __name__ == "__main__":
    main()
