"""Files of weights, arrays, images and models that are damaged: read, or refused in one line; none is executed."""

from __future__ import annotations

import argparse
import functools
import io
import os
import pickle
import resource
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutations import bounded, damaged, examples, read_or_refused, written
from onnx import TensorProto, helper, numpy_helper
from onnx_damage import network, rewired
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from edgesdk.core.errors import DataError, EdgeSdkError, ModelError
from edgesdk.data.folders import read_folder
from edgesdk.data.sources import from_npz
from edgesdk.network.load import load_weighted
from edgesdk.network.onnx_graph import read

PIXELS = np.arange(4 * 3 * 8 * 8, dtype=np.uint8).reshape(4, 3, 8, 8)


class Marking:
    """What leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def safetensors(folder: Path) -> bytes:
    save_file(net().state_dict(), folder / "plain.safetensors")
    return (folder / "plain.safetensors").read_bytes()


def checkpoint() -> dict[str, Any]:
    figures = {"loss": np.float64(0.5), "history": np.arange(3.0), "options": argparse.Namespace(rate=0.1)}
    return {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in net().state_dict().items()}, **figures}


def repickled(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A file of ``torch.save`` with another pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            part = old.read(entry)
            new.writestr(entry.filename, change(part) if entry.filename.endswith("data.pkl") else part)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


WEIGHTS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "safetensors": (".safetensors", safetensors),
    "a state dict": (".pt", lambda _: saved(net().state_dict())),
    "a state dict of before": (".pth", lambda _: saved(net().state_dict(), _use_new_zipfile_serialization=False)),
    "a checkpoint": (".ckpt", lambda _: saved(checkpoint())),
    "a checkpoint of before": (".ckpt", lambda _: saved(checkpoint(), _use_new_zipfile_serialization=False)),
}


@functools.cache
def whole_weights(name: str, folder: Path) -> bytes:
    """The file, made once: torch.save names storages by where they are in memory."""
    return WEIGHTS[name][1](folder)


@pytest.mark.parametrize("name", WEIGHTS)
@examples(100)
@given(data=st.data())
def test_weights_are_read_or_refused(folder: Path, name: str, data: st.DataObject) -> None:
    suffix = WEIGHTS[name][0]
    whole = whole_weights(name, folder)
    strategy = damaged(whole)
    if whole[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            inner = next(archive.read(entry) for entry in archive.namelist() if entry.endswith("data.pkl"))
        strategy |= damaged(inner).map(lambda changed: repickled(whole, lambda _: changed))
    elif suffix == ".safetensors":
        length = struct.unpack("<Q", whole[:8])[0]
        heads = damaged(whole[8 : 8 + length])
        strategy |= heads.map(lambda head: struct.pack("<Q", len(head)) + head + whole[8 + length :])
    path = written(folder / f"weights{suffix}", data.draw(strategy))
    loaded = read_or_refused(lambda: load_weighted(net(), path), ModelError)
    if loaded is not None:
        assert all(torch.isfinite(value).all() for value in loaded[0].state_dict().values())


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_calls_for_code_is_refused_and_not_executed(tmp_path: Path, legacy: bool) -> None:
    marker = tmp_path / "marker"
    for content in (Marking(marker), {"a": Marking(marker)}, {**net().state_dict(), "0.weight": Marking(marker)}):
        for whole in (saved(content, _use_new_zipfile_serialization=not legacy), pickle.dumps(content)):
            path = written(tmp_path / "weights.pt", whole)
            with pytest.raises(ModelError):
                load_weighted(net(), path)
    assert not marker.exists()


@pytest.mark.parametrize("change", ["sparse", "meta", "quantized", "complex", "text"])
def test_tensors_that_are_no_plain_ones_are_refused(tmp_path: Path, change: str) -> None:
    state: dict[Any, Any] = dict(net().state_dict())
    weight = state["3.weight"]
    state["3.weight"] = {
        "sparse": weight.to_sparse,
        "meta": lambda: weight.to("meta"),
        "quantized": lambda: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
        "complex": lambda: weight.to(torch.complex64),
        "text": lambda: "a weight",
    }[change]()
    path = written(tmp_path / "weights.pt", saved(state))
    assert read_or_refused(lambda: load_weighted(net(), path), ModelError) is None


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


ARRAYS = {
    "x": PIXELS, "y": np.arange(4), "x_test": PIXELS, "y_test": np.arange(4), "mean": np.full(3, 0.5),
    "std": np.full(3, 0.25), "classes": np.array(["a", "b", "c", "d"]),
}  # fmt: skip


@pytest.mark.parametrize("compressed", [False, True])
@examples(150)
@given(data=st.data())
def test_samples_are_read_or_refused(folder: Path, compressed: bool, data: st.DataObject) -> None:
    whole = npz(compressed, **ARRAYS)
    name = data.draw(st.sampled_from(list(ARRAYS)))
    array = io.BytesIO()
    np.save(array, ARRAYS[name])

    def replaced(content: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(buffer, "w") as new:
            for entry in old.infolist():
                new.writestr(entry.filename, content if entry.filename == f"{name}.npy" else old.read(entry))
        return buffer.getvalue()

    heads = damaged(array.getvalue()[:128]).map(lambda head: replaced(head + array.getvalue()[128:]))
    kinds = st.sampled_from(["u1", "i1", "<f2", "f4", ">f8", "c8", "?", "S3", "U2", "M8[s]", "V4", "u2", "u8", "O"])
    shapes = st.lists(st.integers(0, 5), max_size=4)
    others = st.tuples(kinds, shapes).map(lambda k: npz(compressed, **{**ARRAYS, name: np.zeros(k[1], k[0])}))
    path = written(folder / "samples.npz", data.draw(damaged(whole) | heads | others))
    samples = read_or_refused(lambda: from_npz(path, {}), DataError)
    if samples is not None:
        assert len(samples) > 0
        samples.prepare(samples.x)


def declared(shape: str, dtype: str = "<f4") -> bytes:
    """An archive of one array that says what it has, and has none of it."""
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        declared("(400000000,)"), declared("(10000000000000,)"), declared("(-1,)"), declared("(1000000000000,)", "|S0"),
        declared("(" * 90), declared("'''"), npz(x=np.array([None])), b"PK\x05\x06" + bytes(18), b"PK",
    ],
    ids=["large", "huge", "negative", "empty values", "deep", "text", "objects", "no entries", "cut"],
)  # fmt: skip
def test_arrays_that_are_not_what_they_say_are_refused_before_they_take_memory(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path / "samples.npz", content)
    tracemalloc.start()
    try:
        with bounded(), pytest.raises(DataError):
            from_npz(path, {})
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_objects_in_arrays_are_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    held = np.array([Marking(marker)], dtype=object)
    for content in (npz(x=held), npz(x=PIXELS, y=held), pickle.dumps(Marking(marker))):
        with pytest.raises(DataError):
            from_npz(written(tmp_path / "samples.npz", content), {})
    assert not marker.exists()


def image(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS[0].transpose(1, 2, 0)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA"])
@examples(40)
@given(data=st.data())
def test_images_are_read_or_refused(folder: Path, kind: str, data: st.DataObject) -> None:
    place = folder / kind / "class"
    place.mkdir(parents=True, exist_ok=True)
    written(place / "image.png", data.draw(damaged(image(kind))))
    wanted = {"image_size": (8, 8), "channel_order": "RGB"}
    images = read_or_refused(lambda: read_folder(place.parent, wanted), DataError)
    assert images is None or images.parts["train"][0].shape == (1, 3, 8, 8)


def test_an_image_in_a_format_that_takes_a_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    written(tmp_path / "class" / "image.png", drawing)
    with pytest.raises(DataError, match="cannot identify image file"):
        read_folder(tmp_path, {})


@examples(200)
@given(data=st.data())
def test_an_onnx_file_is_read_or_refused(folder: Path, data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        content = data.draw(rewired(network()))
    else:
        content = data.draw(damaged(network().SerializeToString()))
    path = written(folder / "model.onnx", content)
    result = read_or_refused(lambda: read(path, (3, 6, 6)), EdgeSdkError)
    if result is not None:
        graph, options = result
        assert set(options) == {layer.name for layer in graph.layers} and graph.digest


def whole_number(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values if len(values) != 1 else values[0], np.int64), name)


ONE = numpy_helper.from_array(np.ones(1, np.float32), "one")
MANY = numpy_helper.from_array(np.array([1 << 30], np.int64), "many")
SELF = helper.make_function(
    "own", "F", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="own")], [helper.make_opsetid("own", 1)]
)
TWICE = [
    helper.make_function(
        "own", f"F{i or ''}", ["a"], ["b"],
        [helper.make_node(f"F{i + 1}", [x], [y], domain="own") for x, y in (("a", "c"), ("c", "b"))],
        [helper.make_opsetid("own", 1)],
    )
    for i in range(40)
]  # fmt: skip
LARGE = {
    "Expand": ([helper.make_node("Expand", ["one", "many"], ["z"])], []),
    "Tile": ([helper.make_node("Tile", ["one", "many"], ["z"])], []),
    "ConstantOfShape": ([helper.make_node("ConstantOfShape", ["many"], ["z"])], []),
    "Pad": ([helper.make_node("Pad", ["one", "around"], ["z"])], []),
    "Range": (
        [helper.make_node("Range", ["zero", "last", "step"], ["r"]), helper.make_node("Cast", ["r"], ["z"], to=1)],
        [],
    ),
    "a function that calls itself": ([helper.make_node("F", ["one"], ["z"], domain="own")], [SELF]),
    "functions that call others twice": ([helper.make_node("F", ["one"], ["z"], domain="own")], TWICE),
    "a circle": ([helper.make_node("Identity", ["w"], ["z"]), helper.make_node("Identity", ["z"], ["w"])], []),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_small_onnx_file_asks_for_little(tmp_path: Path, name: str) -> None:
    nodes, functions = LARGE[name]
    x, y = (helper.make_tensor_value_info(side, TensorProto.FLOAT, [1, 1]) for side in ("x", "y"))
    numbers = [whole_number("around", 0, 1 << 30), *map(whole_number, ("zero", "last", "step"), (0, 1 << 30, 1))]
    nodes = [*nodes, helper.make_node("Add", ["x", "z"], ["y"])]
    graph = helper.make_graph(nodes, "graph", [x], [y], [ONE, MANY, *numbers])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    content = helper.make_model(graph, opset_imports=opsets, functions=functions).SerializeToString()
    path = written(tmp_path / "model.onnx", content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read_or_refused(lambda: read(path), ModelError)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10, "kB"
