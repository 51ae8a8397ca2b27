"""Run this bundle's model on a file: NumPy and the runtime that the manifest names are all it needs.

    python run.py [INPUT] [--output OUT.npz] [--threads N] [--time SECONDS] [--check]

INPUT is an .npz with an array per input under its name, an .npy of the only input, a .wav, or an image (with Pillow).
Pixels of uint8 are prepared as the manifest says, images brought to the model's size before, and waves to its rate and
length.
Where the manifest names the classes, the likeliest is printed. A batch is run one sample at a time. Without INPUT the
recorded sample is run and compared; with --check nothing is printed but what differs by more than 5 % of its spread,
and the exit code is then 1. With --time one sample is run again and again for that long, at least 128 times, and its
latency printed.
"""

import argparse
import importlib
import io
import json
import math
import os
import struct
import sys
import time
from collections import namedtuple
from contextlib import contextmanager, redirect_stderr
from importlib import metadata
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO does without

HERE = Path(__file__).resolve().parent
MODULES = {
    "onnxruntime": ["onnxruntime"],
    "openvino": ["openvino"],
    "litert": ["ai_edge_litert.interpreter", "tflite_runtime.interpreter"],  # either reads such files
    "tflite": ["tflite_runtime.interpreter", "ai_edge_litert.interpreter"],
    "ncnn": ["ncnn"],
    "executorch": ["executorch.extension.pybindings._C"],
    "tensorrt": ["onnxruntime"],  # on the processor: trtexec runs the file on the graphics
}
UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # what Pillow must do, by what EXIF says
TOLERANCE = 5e-2  # of the outputs' spread: another processor sums in another order
Opened = namedtuple("Opened", "inputs outputs run name version")


def opened(path, runtime, threads=1, precision="f32"):
    """The model at ``path``, loaded: the names of its ``inputs`` and ``outputs`` in the file's order, and ``run``.

    ``run(feeds)`` takes an array per input by name and returns copies of the outputs; ``name`` and ``version`` are
    those of what runs it. ``precision`` is what OpenVINO and ncnn compute in where the file has floats; left to
    themselves they take half of it where the processor has that. Raises ``ImportError`` where the runtime is not
    installed, and what the runtime raises where it refuses the file.
    """
    library = _imported(runtime)
    if runtime == "openvino":
        return _openvino(library, path, threads, precision)
    if runtime == "ncnn":
        return _ncnn(library, path, threads, precision)
    if runtime == "executorch":
        return _executorch(library, path, threads)
    if library.__name__ == "onnxruntime":
        return _onnxruntime(library, path, threads)
    return _tflite(library, path, threads)


def _imported(runtime):
    reasons = []
    for module in MODULES[runtime]:
        try:
            if runtime == "executorch":
                importlib.import_module("torch")  # with whose libraries its own is linked
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
    """Keep off stderr, which is Python's or C's, what a runtime tells of itself; what is wrong it raises."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with redirect_stderr(io.StringIO()):
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


def _ncnn(library, path, threads, precision):
    net = library.Net()
    net.opt.num_threads = threads
    # Left to itself it computes in half precision where the processor has it.
    halves = ("fp16_packed", "fp16_storage", "fp16_arithmetic") if precision != "f16" else ()
    for option in (*halves, "bf16_packed", "bf16_storage", "vulkan_compute"):
        if hasattr(net.opt, "use_" + option):  # older versions have fewer
            setattr(net.opt, "use_" + option, False)
    with _hushed():
        if net.load_param(str(path)) or net.load_model(str(Path(path).with_suffix(".bin"))):
            raise ValueError("ncnn says of a layer that it does not know it, or that its numbers are not there")
    inputs = list(net.input_names())
    outputs = [name for name in net.output_names() if name not in inputs]

    def run(feeds):
        with net.create_extractor() as extractor:
            for name in inputs:  # a copy: it has no dimension of samples, and images begin at multiples of 16 bytes
                extractor.input(name, library.Mat(np.ascontiguousarray(feeds[name][0])).clone())
            made = [extractor.extract(name) for name in outputs]
        if any(code for code, _ in made):
            raise RuntimeError(f"ncnn ends with {max(made, key=lambda each: abs(each[0]))[0]}")
        return [np.array(value)[None] for _, value in made]

    return Opened(inputs, outputs, run, "ncnn", library.__version__)


def _executorch(library, path, threads):
    torch = importlib.import_module("torch")
    with open(path, "rb") as file:
        head = file.read(8)
    if head[4:6] != b"ET":  # its own check would end the process
        raise ValueError("it is no ExecuTorch program")
    with _hushed():
        if library._threadpool_get_thread_count() != threads:  # what was loaded before would be left without one
            library._unsafe_reset_threadpool(threads)
        program = library._load_program(str(path))
        method, meta = program.load_method("forward"), program.method_meta("forward")
        names = [program.get_method_name(index) for index in range(program.num_methods())]
        told = json.loads(program.load_method("edgesdk")(())[0]) if "edgesdk" in names else {}
    inputs = told.get("inputs") or [f"input_{index}" for index in range(meta.num_inputs())]
    outputs = told.get("outputs") or [f"output_{index}" for index in range(meta.num_outputs())]

    def run(feeds):
        made = method(tuple(torch.from_numpy(np.array(feeds[name])) for name in inputs))
        return [value.numpy().copy() for value in made]

    run.program = program  # which its methods read from
    return Opened(inputs, outputs, run, "executorch", metadata.version("executorch"))


def read(path, manifest):
    """The arrays in the file ``path``, by the names of the inputs: pixels of an image, samples of a wave."""
    entries = manifest["inputs"]
    if path.suffix.lower() in (".npz", ".npy"):
        loaded = arrays(path)
        single = isinstance(loaded, np.ndarray)
        if not single and (missing := [e["name"] for e in entries if e["name"] not in loaded]):
            sys.exit(f"{path} has no array {missing[0]}, it holds {', '.join(loaded)}")
        return {e["name"]: loaded if single else loaded[e["name"]] for e in entries}
    if len(entries) > 1:
        sys.exit(f"the model has {len(entries)} inputs: give an .npz with {', '.join(e['name'] for e in entries)}")
    made = wave_samples if path.suffix.lower() == ".wav" else image_pixels
    return {entries[0]["name"]: made(path, entries[0], manifest.get("preprocessing"))}


def arrays(path):
    """The array of an .npy file, or those of an .npz by name. Nothing in them is executed."""
    try:
        loaded = np.load(path, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else dict(loaded)
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        sys.exit(f"{path} cannot be read as arrays ({told(error)})")


def told(error):
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def image_pixels(path, entry, how):
    """An image as uint8 pixels in the model's size and layout, red first."""
    try:
        from PIL import Image
    except ImportError:
        sys.exit("reading an image takes Pillow: pip install pillow, or give an .npy of uint8 pixels")
    if not how or len(entry["shape"]) != 4:
        sys.exit(f"{entry['name']} takes {entry['shape']}, and no preprocessing of images is recorded: give arrays")
    channels, height, width = entry["shape"][1:]
    if entry["layout"] == "NHWC":
        height, width, channels = entry["shape"][1:]
    try:
        with Image.open(path) as opened_image:
            image = as_mode(opened_image, {1: "L", 3: "RGB", 4: "RGBA"}[channels])
    except Exception as error:  # each format's reader has its own
        sys.exit(f"{path} cannot be read as an image of {channels} channels ({told(error)})")
    pixels = np.asarray(resized(image, (height, width), how["resize"])).reshape(height, width, channels)
    return (pixels if entry["layout"] == "NHWC" else pixels.transpose(2, 0, 1))[None]


def orientation(image):
    """How the camera was held, a number from 1 (upright) to 8 that it notes in EXIF; where that says nothing, 1."""
    try:
        noted = image.getexif().get(0x0112)
    except Exception:  # it is damaged, which the pixels need not be
        return 1
    return noted if noted in UPRIGHT else 1


def as_mode(image, mode):
    """The ``image`` upright, in ``mode`` if one is wanted. Grey of 16 bits is taken as 8: Pillow would cut it off."""
    from PIL import Image

    image.load()  # the file that it is in may be closed afterwards
    if image.mode == "F":
        raise ValueError("its pixels are floats, whose range nothing says")
    if image.mode == "I" and image.format == "TIFF":
        raise ValueError("its pixels are signed integers, whose range nothing says")
    if orientation(image) != 1:
        image = image.transpose(UPRIGHT[orientation(image)])
    if image.mode.startswith("I"):
        image = Image.fromarray(np.round(np.asarray(image).astype(np.float64).clip(0, 65535) / 257).astype(np.uint8))
    return image if mode in (None, image.mode) else image.convert(mode)


def resized(image, size, how):
    """``image`` of ``size``, height and width: for ``crop`` its shorter side is scaled to it and the centre cut out."""
    from PIL import Image

    height, width = size
    whole, box = (width, height), (0, 0, width, height)
    if how == "crop":
        scale = max(width / image.width, height / image.height)
        whole = max(width, round(image.width * scale)), max(height, round(image.height * scale))
        left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
        box = (left, top, left + width, top + height)
    if image.size != whole:
        image = image.resize(whole, Image.BILINEAR)  # pyright: ignore[reportAttributeAccessIssue]
    return image.crop(box)


def wave_samples(path, entry, how):
    """A wave as float32 from -1 to 1 in the model's shape: at the rate that the model takes, mixed to one channel where
    it takes one, its middle cut out, or zeros put behind it."""
    shape = entry["shape"]
    if len(shape) not in (2, 3) or entry["dtype"] != "float32":
        sys.exit(f"{entry['name']} takes {entry['dtype']} {shape}, which is no wave: give arrays")
    try:
        values, rate = read_wave(path)
    except Exception as error:
        sys.exit(f"{path} cannot be read as a wave of PCM or float samples ({told(error)})")
    wanted, length = (shape[1] if len(shape) == 3 else 1), shape[-1]
    if wanted == 1:
        values = values.mean(0, keepdims=True, dtype=np.float32)
    if len(values) != wanted:
        sys.exit(f"{path} has {len(values)} channels: the model takes {wanted}")
    if entry.get("sample_rate"):
        values = resampled(values, rate, entry["sample_rate"])
    else:
        print(f"samples of {rate} Hz are taken as they are: the bundle records no sample rate", file=sys.stderr)
    extra = values.shape[1] - length
    values = values[:, extra // 2 : extra // 2 + length] if extra > 0 else np.pad(values, ((0, 0), (0, -extra)))
    return values.reshape([1, *shape[1:]])


def read_wave(path):
    """The samples of a RIFF file as float32 from -1 to 1, (channels, samples), and their rate; or ``ValueError``."""
    content, at, form, raw = path.read_bytes(), 12, b"", None
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError("it is no RIFF file of waves")
    while raw is None and at + 8 <= len(content):
        name, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        part = content[at + 8 : at + 8 + size]
        form, raw = (part if name == b"fmt " else form), (part if name == b"data" else raw)
        at += 8 + size + size % 2
    if raw is None or len(form) < 16:
        raise ValueError("it has no samples")
    kind, count, rate, _, block, _ = struct.unpack("<HHIIHH", form[:16])
    if kind == 0xFFFE and len(form) >= 26:  # an extension says which
        kind = int.from_bytes(form[24:26], "little")
    if not count or not rate or block % count:
        raise ValueError(f"it has {count} channels, {rate} Hz and {block} bytes for both")
    width = block // count
    raw = raw[: len(raw) // block * block] if block else b""  # a file that is cut short ends within a sample
    if kind == 3 and width in (4, 8):
        values = np.frombuffer(raw, "<f%d" % width).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError("it holds what is no finite number")
    elif kind == 1 and width == 1:
        values = (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    elif kind == 1 and 2 <= width <= 4:  # little-endian integers, as the upper bytes of 4
        parts = np.frombuffer(raw, np.uint8).reshape(-1, width)
        whole = np.zeros((len(parts), 4), np.uint8)
        whole[:, 4 - width :] = parts
        values = (whole.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    else:
        raise ValueError(f"its samples are of kind {kind} and {width} bytes")
    return values.reshape(-1, count).T, rate


def resampled(values, rate, wanted):
    """Waves (channels, samples) at another rate, by a windowed sinc below the highest frequency of both rates."""
    if rate == wanted:
        return values
    common = math.gcd(rate, wanted)
    step, phases = rate // common, wanted // common
    cut = 0.95 * min(1.0, wanted / rate)  # of the highest frequency: the window blurs the edge
    around = math.ceil(16 / cut)  # samples on either side
    length = -(-values.shape[1] * wanted // rate)
    padded = np.pad(values, ((0, 0), (around, around + step)))
    columns = np.zeros((len(values), length), np.float32)
    reach = np.arange(-around, around + 1)
    for phase in range(min(phases, length)):  # every so many results lie alike between the samples
        whole, rest = divmod(phase * step, phases)
        away = reach - rest / phases
        kernel = cut * np.sinc(cut * away) * np.cos(np.pi * np.clip(away / (around + 1), -1, 1) / 2) ** 2
        places = np.arange(phase, length, phases) // phases * step + whole
        columns[:, phase::phases] = padded[:, places[:, None] + reach + around] @ (kernel / kernel.sum())
    return columns


def prepared(array, entry, how=None):
    """The array as the model takes it: one leading axis of samples, the dtype of the input, uint8 pixels prepared."""
    normalization = entry.get("normalization")
    axis = len(entry["shape"]) - 1 if entry.get("layout") == "NHWC" else 1
    if array.ndim == len(entry["shape"]) - 1:
        array = array[None]
    if array.dtype == np.uint8 and array.ndim == 4 and list(array.shape[1:]) != entry["shape"][1:]:
        other = array.transpose(0, 2, 3, 1) if axis == 3 else array.transpose(0, 3, 1, 2)  # as --data may have it
        array = other if list(other.shape[1:]) == entry["shape"][1:] else array
    if array.dtype == np.uint8 and how and how["channel_order"] == "BGR" and array.ndim == 4 and array.shape[axis] == 3:
        array = np.flip(array, axis)
    if array.dtype == np.uint8 and entry["dtype"] == "float32":
        if not normalization:
            sys.exit(f"{entry['name']} takes float32 and the bundle records no normalisation: give floats")
        array = array.astype(np.float32) * np.float32(normalization["scale"])
        array = array + np.float32(normalization.get("offset", 0.0))
        if normalization.get("mean"):
            shape = [1] * array.ndim
            shape[axis] = -1
            mean = np.asarray(normalization["mean"], np.float32).reshape(shape)
            array = (array - mean) / np.asarray(normalization["std"], np.float32).reshape(shape)
    if list(array.shape[1:]) != entry["shape"][1:]:
        sys.exit(f"{entry['name']} has shape {list(array.shape)}: the model takes {entry['shape']}")
    return np.ascontiguousarray(array.astype(entry["dtype"]))


def named(outputs, classes):
    """The likeliest class of each sample by its name, from the first output that has a figure per class."""
    for value in outputs.values():
        if classes and value.ndim == 2 and value.shape[1] == len(classes):
            return [classes[index] for index in value.argmax(1)]
    return []


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
    try:
        manifest = json.loads((HERE / "manifest.json").read_text())
    except (OSError, ValueError, RecursionError) as error:
        sys.exit(f"{HERE / 'manifest.json'} cannot be read ({told(error)})")
    recorded = arrays(HERE / "sample.npz")
    if options.input is None:
        given = {entry["name"]: recorded["input:" + entry["name"]] for entry in manifest["inputs"]}
    else:
        if not options.input.is_file():
            sys.exit(f"there is no file {options.input}")
        given = read(options.input, manifest)
    runtime = manifest["runtime"]
    try:
        path, precision = HERE / manifest.get("model", "model.onnx"), runtime.get("precision") or "f32"
        model = opened(path, runtime["name"], options.threads, precision)
    except ImportError as error:
        sys.exit(str(error))
    how = manifest.get("preprocessing")
    feeds = {entry["name"]: prepared(given[entry["name"]], entry, how) for entry in manifest["inputs"]}
    if options.time:
        times = timed(model, {name: value[:1] for name, value in feeds.items()}, options.time)
        shown = ", ".join(f"p{p} {np.percentile(times, p):.4g} ms" for p in (50, 90, 95))
        threads = f"{options.threads} thread{'s' * (options.threads > 1)}"
        print(f"{len(times)} runs, {threads}, {model.name} {model.version}: {shown}")
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
    if options.input is not None:
        for name in named(outputs, manifest.get("classes")):
            print(f"class: {name}")


if __name__ == "__main__":
    main()
