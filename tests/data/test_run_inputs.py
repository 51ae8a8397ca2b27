"""What a bundle's ``run.py`` makes of a file is what the loaders make of it, to the bit."""

from __future__ import annotations

import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgesdk.core.serialize import to_json
from edgesdk.data.data import load_data
from edgesdk.data.preprocessing import read_preprocessing
from edgesdk_targets import bundle_run


def manifest(data: Any) -> dict[str, Any]:
    """What a bundle records of such data."""
    shape = [1, *data.example.shape[1:]]
    layout = data.preprocessing.layout
    entry = {"name": "x", "shape": shape, "layout": layout, "dtype": str(data.example.dtype).removeprefix("torch.")}
    inputs = [{**entry, "normalization": data.normalization}]
    return {"inputs": inputs, "preprocessing": to_json(data.preprocessing), "classes": list(data.classes)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(6):
            size = ((30, 20), (20, 44), (16, 16))[i % 3]
            picture = Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
            picture = picture.convert(("RGB", "L", "P")[i % 3 if i < 3 else 0])
            picture.save(tmp_path / "images" / name / f"{i}.{('png', 'bmp')[i % 2]}")
    return tmp_path / "images"


@pytest.mark.parametrize("order", ["RGB", "BGR", "L"])
@pytest.mark.parametrize(
    "wanted",
    [
        {}, {"input_range": (0, 255)}, {"input_range": (-1, 1)}, {"mean": 0.4, "std": 0.3}, {"resize": "stretch"},
        {"layout": "NHWC", "mean": 0.4, "std": 0.3}, {"dtype": "uint8"},
    ],
)  # fmt: skip
def test_an_image_is_prepared_as_in_training(folder: Path, order: str, wanted: dict[str, Any]) -> None:
    if order != "L" and "mean" in wanted:
        wanted = {**wanted, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 2)}
    how = read_preprocessing({"image_size": "16x12", "channel_order": order, **wanted})
    data = load_data(folder, preprocess=how)
    assert data.train is not None
    samples = {x.numpy().tobytes() for part in (data.calibration, data.test) for xs, _ in part for x in xs}
    about, count = manifest(data), 0
    entry = about["inputs"][0]
    for file in folder.rglob("*.*"):
        given = bundle_run.read(file, about)["x"]
        prepared = bundle_run.prepared(given, entry, about["preprocessing"])
        assert prepared.shape == tuple(entry["shape"]) and str(prepared.dtype) == entry["dtype"]
        count += prepared.astype(prepared.dtype)[0].tobytes() in samples
        same = any(np.allclose(prepared[0], np.frombuffer(x, prepared.dtype).reshape(prepared[0].shape), atol=1e-6)
                   for x in samples)  # fmt: skip
        assert same
    assert count >= 10  # sums of floats may end in another last bit


def test_pixels_in_an_array_are_prepared_alike(tmp_path: Path, folder: Path) -> None:
    data = load_data(folder, preprocess=read_preprocessing({"image_size": 9, "channel_order": "BGR"}))
    about = manifest(data)
    file = next(folder.rglob("0.png"))
    pixels: Any = bundle_run.read(file, about)["x"]
    np.save(tmp_path / "one.npy", pixels[0])
    np.savez(tmp_path / "named.npz", x=pixels)
    entry, how = about["inputs"][0], about["preprocessing"]
    wanted = bundle_run.prepared(pixels, entry, how)
    for name in ("one.npy", "named.npz"):
        assert np.array_equal(bundle_run.prepared(bundle_run.read(tmp_path / name, about)["x"], entry, how), wanted)
    turned = pixels.transpose(0, 2, 3, 1)
    assert np.array_equal(bundle_run.prepared(turned, entry, how), wanted)
    last = {**entry, "shape": [1, 9, 9, 3], "layout": "NHWC"}
    for given in (pixels, turned):
        assert np.array_equal(bundle_run.prepared(given, last, how), wanted.transpose(0, 2, 3, 1))
    np.savez(tmp_path / "other.npz", y=pixels)
    with pytest.raises(SystemExit, match="has no array x, it holds y"):
        bundle_run.read(tmp_path / "other.npz", about)


def test_what_cannot_be_read_as_an_image_is_said(tmp_path: Path, folder: Path) -> None:
    about = manifest(load_data(folder, preprocess=read_preprocessing({"image_size": 9, "channel_order": "RGB"})))
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(SystemExit, match="cannot be read as an image"):
        bundle_run.read(tmp_path / "broken.png", about)
    with pytest.raises(SystemExit, match="no preprocessing of images is recorded"):
        bundle_run.read(next(folder.rglob("0.png")), {**about, "preprocessing": None})
    with pytest.raises(SystemExit, match=r"has 2 inputs: give an .npz with x, z"):
        bundle_run.read(next(folder.rglob("0.png")), {"inputs": [*about["inputs"], {"name": "z"}]})


def tone(path: Path, width: int, channels: int = 1, count: int = 400) -> np.ndarray:
    """A wave of ``width`` bytes a sample, in a file; the same from -1 to 1, (channels, count)."""
    values = np.stack([np.sin(np.arange(count) * (0.05 + 0.1 * c)) * 0.9 for c in range(channels)])
    largest = 2 ** (8 * width - 1)
    integers = np.round(values * (largest - 1)).astype(np.int64)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(16000)
        for value in integers.T.ravel():
            whole = value + 128 if width == 1 else value
            file.writeframesraw(struct.pack("<q", whole)[:width])
    return integers / largest


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize(("shape", "channels"), [([1, 400], 1), ([1, 1, 400], 2), ([1, 2, 400], 2)])
def test_a_wave_is_read_in_the_models_shape(tmp_path: Path, width: int, shape: list[int], channels: int) -> None:
    wanted = tone(tmp_path / "tone.wav", width, channels)
    about = {"inputs": [{"name": "x", "shape": shape, "dtype": "float32", "layout": "NCL"}]}
    given: Any = bundle_run.read(tmp_path / "tone.wav", about)["x"]
    assert list(given.shape) == shape and given.dtype == np.float32
    wanted = wanted if len(shape) == 3 and shape[1] == 2 else wanted.mean(0)
    assert np.allclose(given.reshape(wanted.shape), wanted, atol=1e-6)


def test_a_wave_of_another_length_is_cut_out_of_the_middle_or_filled_up(tmp_path: Path) -> None:
    wanted = tone(tmp_path / "tone.wav", 2)[0]
    entry = {"name": "x", "dtype": "float32", "layout": "NC"}
    short, long = (bundle_run.read(tmp_path / "tone.wav", {"inputs": [{**entry, "shape": [1, n]}]})["x"][0]
                   for n in (100, 500))  # fmt: skip
    assert np.allclose(short, wanted[150:250], atol=1e-6)
    assert np.allclose(long[:400], wanted, atol=1e-6) and not long[400:].any()
    for changed in ({"shape": [1, 3, 4, 4]}, {"shape": [1, 9], "dtype": "int64"}):
        with pytest.raises(SystemExit, match="which is no wave"):
            bundle_run.read(tmp_path / "tone.wav", {"inputs": [{**entry, **changed}]})
    (tmp_path / "broken.wav").write_bytes(b"RIFFxxxx")
    with pytest.raises(SystemExit, match="cannot be read as a wave"):
        bundle_run.read(tmp_path / "broken.wav", {"inputs": [{**entry, "shape": [1, 9]}]})


def test_the_likeliest_class_is_named() -> None:
    outputs = {"boxes": np.zeros((2, 4)), "scores": np.array([[0.1, 2.0, 0.3], [3.0, 0.1, 0.2]])}
    assert bundle_run.named(outputs, ["cat", "dog", "fox"]) == ["dog", "cat"]
    assert bundle_run.named(outputs, []) == bundle_run.named(outputs, ["cat", "dog"]) == []
    assert torch.tensor(outputs["scores"]).argmax(1).tolist() == [1, 0]
