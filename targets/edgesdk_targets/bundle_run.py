"""Run this bundle's model on a file: numpy and onnxruntime are all it needs.

    python run.py [INPUT.npz | INPUT.npy] [--output OUT.npz] [--threads N] [--time SECONDS]

INPUT.npz holds an array per input under its name; INPUT.npy the only input. uint8 images are normalised as the manifest
says, when it says so. A batch is run one sample at a time. Without INPUT the recorded sample is run and compared.
With --time one sample is run again and again for that long, at least 128 times, and its latency printed.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np

HERE = Path(__file__).resolve().parent


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


def timed(session, feeds, seconds):
    """Milliseconds of each run, for at least that long and 128 times, after a tenth of it as warm-up."""
    times = []
    for share, least in ((0.1, 10), (1.0, 128)):
        times, end = [], time.perf_counter() + share * seconds
        while time.perf_counter() < end or len(times) < least:
            start = time.perf_counter()
            session.run(None, feeds)
            times.append(1e3 * (time.perf_counter() - start))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--time", type=float, metavar="SECONDS")
    options = parser.parse_args()
    import onnxruntime

    manifest = json.loads((HERE / "manifest.json").read_text())
    recorded = dict(np.load(HERE / "sample.npz"))
    if options.input is None:
        given = {entry["name"]: recorded["input:" + entry["name"]] for entry in manifest["inputs"]}
    else:
        loaded = np.load(options.input, allow_pickle=False)
        single = isinstance(loaded, np.ndarray)
        given = {e["name"]: loaded if single else loaded[e["name"]] for e in manifest["inputs"]}
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(str(HERE / "model.onnx"), settings, providers=["CPUExecutionProvider"])
    feeds = {entry["name"]: prepared(given[entry["name"]], entry) for entry in manifest["inputs"]}
    if options.time:
        times = timed(session, {name: value[:1] for name, value in feeds.items()}, options.time)
        shown = ", ".join(f"p{p} {np.percentile(times, p):.4g} ms" for p in (50, 90, 95))
        print(f"{len(times)} runs, {options.threads} thread(s), onnxruntime {onnxruntime.__version__}: {shown}")
        return
    count = len(next(iter(feeds.values())))
    rows = [session.run(None, {name: value[i : i + 1] for name, value in feeds.items()}) for i in range(count)]
    outputs = {e["name"]: np.concatenate(parts) for e, parts in zip(manifest["outputs"], zip(*rows))}
    if options.input is None:
        for name, value in outputs.items():
            expected = recorded["output:" + name]
            error = float(np.sqrt(np.mean((value - expected) ** 2)) / max(float(expected.std()), 1e-12))
            print(f"{name}: differs from the recorded sample by {error:.2g} of its spread")
    if options.output:
        np.savez(options.output, **outputs)  # type: ignore[arg-type]
    else:
        for name, value in outputs.items():
            print(name, np.array2string(value, precision=4, threshold=200))


if __name__ == "__main__":
    main()
