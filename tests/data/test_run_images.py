"""Images as cameras and programs write them: loader and ``run.py`` see the picture that a person sees, both alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgesdk.core.errors import DataError
from edgesdk.core.serialize import to_json
from edgesdk.data.data import load_data
from edgesdk.data.preprocessing import read_preprocessing
from edgesdk_targets import bundle_run

HEIGHT, WIDTH = 12, 20
PICTURE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)  # red above, green to the left, blue below and right
PICTURE[:3] = (250, 0, 0)
PICTURE[3:, :5] = (0, 250, 0)
PICTURE[3:, 5:] = (0, 0, 250)


def seen(folder: Path, **wanted: Any) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The one picture in ``folder`` as the loader and as ``run.py`` prepare it, as (height, width, channels), notes."""
    data = load_data(folder, preprocess=read_preprocessing({"input_range": (0, 255), **wanted}))
    about = {"preprocessing": to_json(data.preprocessing), "classes": list(data.classes)}
    shape = [1, *data.example.shape[1:]]
    entry = {"name": "x", "shape": shape, "layout": "NCHW", "dtype": "float32", "normalization": data.normalization}
    file = next(folder.rglob("0.*"))
    ran = bundle_run.prepared(bundle_run.read(file, {"inputs": [entry], **about})["x"], entry, about["preprocessing"])
    pixels = data.test[0][0][0].numpy()
    return pixels.transpose(1, 2, 0), ran[0].transpose(1, 2, 0), data.notes


def save(folder: Path, image: Image.Image, suffix: str = "png", **options: Any) -> None:
    for name in ("cat", "dog"):
        (folder / name).mkdir(exist_ok=True)
        for i in range(5):
            image.save(folder / name / f"{i}.{suffix}", **options)


HELD = {  # what the sensor saw where the camera notes so, of what a person is to see
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2), 6: lambda a: a.transpose(1, 0, 2)[::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1], 8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("held", HELD)
def test_a_photograph_is_seen_upright(tmp_path: Path, held: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = held
    options = {"quality": 98, "subsampling": 0} if suffix == "jpg" else {}
    save(tmp_path, Image.fromarray(np.ascontiguousarray(HELD[held](PICTURE))), suffix, exif=exif, **options)
    actual, expected, notes = seen(tmp_path)
    assert actual.shape == PICTURE.shape and np.abs(actual - PICTURE).max() < 30  # a JPEG blurs edges
    assert np.array_equal(actual, expected)
    assert any("10 images turned upright" in note for note in notes) == (held != 1)


def test_exif_that_is_damaged_or_says_nonsense_is_left_alone(tmp_path: Path) -> None:
    save(tmp_path, Image.fromarray(PICTURE), exif=b"Exif\0\0MM\0*" + b"\xff" * 12)
    assert np.array_equal(seen(tmp_path)[0], PICTURE)
    exif = Image.Exif()
    exif[0x0112] = 77
    save(tmp_path, Image.fromarray(PICTURE), exif=exif)
    assert np.array_equal(seen(tmp_path)[1], PICTURE)


@pytest.mark.parametrize("order", ["L", "RGB", "BGR", None])
def test_grey_of_16_bits_is_taken_as_8(tmp_path: Path, order: str | None) -> None:
    ramp = np.linspace(0, 65535, HEIGHT * WIDTH).round().astype(np.uint16).reshape(HEIGHT, WIDTH)
    save(tmp_path, Image.fromarray(ramp))
    actual, expected, notes = seen(tmp_path, **({"channel_order": order} if order else {}))
    assert np.array_equal(actual, expected)
    assert np.abs(actual - ramp[..., None] / 257).max() <= 0.5 + 1e-4
    assert any("10 images with 16 bits a pixel: taken as 8" in note for note in notes)


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "L", "1", "CMYK"])
def test_pictures_of_every_mode_become_the_models(tmp_path: Path, mode: str) -> None:
    whole = Image.fromarray(PICTURE)
    save(tmp_path, whole.convert("L").convert("LA") if mode == "LA" else whole.convert(mode), "tif")
    expected = np.asarray(whole) if mode in ("RGBA", "CMYK", "P") else np.asarray(whole.convert("L"))[..., None]
    for order, wanted in (("RGB", expected), ("L", np.asarray(whole.convert("L"))[..., None])):
        actual, fed, _ = seen(tmp_path, channel_order=order)
        assert np.array_equal(actual, fed)
        if mode != "1":  # which dithers
            assert np.abs(actual - wanted).max() <= (60 if mode == "P" else 8)
        else:
            assert set(np.unique(actual)) <= {0.0, 255.0}


@pytest.mark.parametrize(("dtype", "named"), [(np.float32, "floats"), (np.int32, "signed integers")])
def test_figures_that_are_no_pixels_are_refused(tmp_path: Path, dtype: Any, named: str) -> None:
    save(tmp_path, Image.fromarray(PICTURE[..., 0].astype(dtype)), "tif")
    for wanted in ({}, {"channel_order": "RGB"}):
        with pytest.raises(DataError, match=f"its pixels are {named}, whose range nothing says"):
            seen(tmp_path, **wanted)
    with pytest.raises(SystemExit, match=named):
        bundle_run.image_pixels(
            tmp_path / "cat" / "0.tif", {"shape": [1, 1, 8, 8], "layout": "NCHW"}, {"resize": "crop"}
        )


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif", "MPO"])
def test_frames_that_are_left_out_are_counted(tmp_path: Path, suffix: str) -> None:
    options = (
        {"lossless": True}
        if suffix == "webp"
        else {"format": "MPO", "quality": 98, "subsampling": 0}
        if suffix == "MPO"
        else {}
    )
    more = [Image.fromarray(np.full_like(PICTURE, shade)) for shade in (9, 99)]
    named = "jpg" if suffix == "MPO" else suffix  # as telephones name it
    save(tmp_path, Image.fromarray(PICTURE), named, save_all=True, append_images=more, **options)
    actual, expected, notes = seen(tmp_path)
    assert "10 images of several frames: the first of each was taken" in notes
    assert np.array_equal(actual, expected) and np.abs(actual - PICTURE).max() < 30
