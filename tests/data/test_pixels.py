"""How a model takes pixels is settled once; folders of images as people have them, nothing left uncounted."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from edgesdk.core.errors import DataError, EdgeSdkError, UsageError
from edgesdk.data.data import check, load_data
from edgesdk.data.folders import read_folder
from edgesdk.data.preprocessing import Preprocessing, read_preprocessing


def refused(kind: type[EdgeSdkError], call: Any, *parts: str) -> None:
    with pytest.raises(kind) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message and all(part in message for part in parts), message


def noted(data: Any, *parts: str) -> None:
    for part in parts:
        assert any(part in note for note in data.notes), data.notes


# What is done to pixels

X = np.random.default_rng(0).integers(0, 256, (80, 3, 4, 5), dtype=np.uint8)
Y = np.arange(80) % 2


@pytest.mark.parametrize(
    ("wanted", "formula"),
    [
        ({}, lambda x: x / 255),
        ({"input_range": (0, 255)}, lambda x: x),
        ({"input_range": "-1,1"}, lambda x: x / 127.5 - 1),
        ({"mean": 0.5, "std": 0.25}, lambda x: (x / 255 - 0.5) / 0.25),
        ({"mean": "0.1,0.2,0.3", "std": (1, 2, 4)}, lambda x: (x / 255 - C(0.1, 0.2, 0.3)) / C(1, 2, 4)),
        ({"input_range": (0, 255), "mean": (103, 116, 123), "std": 1}, lambda x: x - C(103, 116, 123)),
        ({"channel_order": "BGR"}, lambda x: x.flip(1) / 255),
        (
            {"channel_order": "BGR", "mean": (0.1, 0.2, 0.3), "std": (1, 2, 4)},
            lambda x: (x.flip(1) / 255 - C(0.1, 0.2, 0.3)) / C(1, 2, 4),  # of the model's channels
        ),
        ({"layout": "NHWC"}, lambda x: x.permute(0, 2, 3, 1) / 255),
        ({"dtype": "uint8"}, lambda x: x.to(torch.uint8)),
    ],
)  # fmt: skip
def test_pixels_become_what_is_said(wanted: dict[str, Any], formula: Any) -> None:
    data = load_data((X, Y), preprocess=read_preprocessing(wanted))
    pixels = torch.from_numpy(X).float()
    expected = {t.numpy().tobytes(): formula(t[None])[0] for t in pixels}
    assert data.preprocessing is not None
    back = torch.cat([data.preprocessing.pixels(x.float()) for x, _ in data.test]).round()
    read = torch.cat([x for x, _ in data.test])
    for actual, pixel in zip(read, back, strict=True):
        assert torch.allclose(actual.float(), expected[pixel.numpy().tobytes()].float(), atol=1e-5)
    assert read.is_contiguous() and (read.dtype == torch.uint8) == (wanted.get("dtype") == "uint8")


def C(*figures: float) -> Tensor:
    return torch.tensor(figures).view(1, 3, 1, 1)


def test_what_a_user_says_goes_before_what_the_data_say(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y, mean=[0.5] * 3, std=[0.5] * 3, classes=["cat", "dog"], extra=X[:1])
    file = tmp_path / "pixels.toml"
    file.write_text('mean = [0.1, 0.2, 0.3]\nchannel_order = "BGR"\n')

    def settled(wanted: Any) -> Preprocessing:
        data = load_data(str(tmp_path / "data.npz"), preprocess=read_preprocessing(wanted))
        assert data.preprocessing is not None and data.classes == ("cat", "dog")
        noted(data, "arrays that mean nothing here were left out: extra")
        return data.preprocessing

    assert settled({}) == Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3)
    assert settled(file) == Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5,) * 3, channel_order="BGR")
    assert settled({"std": 0.25}) == Preprocessing(mean=(0.5,) * 3, std=(0.25,))
    assert settled({"input_range": (0, 255)}) == Preprocessing(input_range=(0, 255))  # mean and std were of 0 to 1
    assert settled(Preprocessing(input_range=(-1, 1))) == Preprocessing(input_range=(-1, 1))


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"input_range": "255,0"}, "lower end first"),
        ({"input_range": "0"}, "--input-range has 1 figures"),
        ({"mean": "a,b"}, "no list of numbers"),
        ({"mean": [0.1, float("nan")], "std": 1}, "finite numbers"),
        ({"std": 0}, "positive figures"),
        ({"mean": (1, 2), "std": (1, 2)}, "--mean has 2 figures"),
        ({"image_size": "0x3"}, "like 224x224"),
        ({"image_size": "wide"}, "like 224x224"),
        ({"channel_order": "RBG"}, "choose one of RGB, BGR, L"),
        ({"colour": "RGB"}, "no key 'colour'"),
    ],
)
def test_a_preprocessing_that_is_none_is_refused(tmp_path: Path, wanted: dict[str, Any], says: str) -> None:
    refused(UsageError, lambda: read_preprocessing(wanted), says)
    (tmp_path / "broken.toml").write_text("mean = [")
    refused(UsageError, lambda: read_preprocessing(tmp_path / "broken.toml"), "no TOML")
    refused(UsageError, lambda: read_preprocessing(tmp_path / "absent.toml"), "cannot be read")


def test_a_preprocessing_of_what_are_no_pixels_is_refused() -> None:
    wanted = read_preprocessing({"mean": 0.5, "std": 0.5})
    refused(UsageError, lambda: load_data((X / np.float32(255), Y), preprocess=wanted), "x is float32", "as uint8")
    part = [(torch.rand(64, 3), torch.arange(64) % 2)]
    source = type("Parts", (), {"calibration": part, "train": None, "test": None})
    refused(UsageError, lambda: load_data(source, preprocess=wanted), "gives its own batches")
    refused(DataError, lambda: load_data((X[:, :1], Y), preprocess=read_preprocessing({"mean": (1, 1, 1), "std": 1})),
            "for 1 channels")  # fmt: skip


# Folders


def fill(folder: Path, names: str, count: int, colour: int, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        value: Any = {"RGB": (colour, i, 0), "RGBA": (colour, i, 0, 255)}.get(mode, colour)
        Image.new(mode, size, value).save(folder / names.format(i))


def pixels(data: Any, part: str) -> list[tuple[int, int]]:
    """The first channel's first pixel and the label of each sample."""
    return sorted((round(255 * float(x[0, 0, 0])), int(y)) for xs, ys in getattr(data, part) for x, y in zip(xs, ys))  # noqa: B905


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "gif", "tif", "ppm", "PNG"])
def test_every_format_that_pillow_reads_is_read(tmp_path: Path, suffix: str) -> None:
    for label, name in enumerate(("cat", "dog")):
        fill(tmp_path / name, "{}.png", 5, 100 * label)
        fill(tmp_path / name, f"{{}}-more.{suffix}", 5, 100 * label)
    data = load_data(tmp_path)
    assert "16 training" in data.description and data.classes == ("cat", "dog")
    assert data.example.shape == (16, 3, 4, 6)
    assert all(abs(value - 100 * label) < 9 for value, label in pixels(data, "test"))


def test_what_is_no_image_is_counted_and_named_and_what_systems_leave_behind_too(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, "{}.png", 10, 50)
        (tmp_path / name / ".DS_Store").write_bytes(b"x")
        (tmp_path / name / "._0.png").write_bytes(b"x")
    fill(tmp_path / "__MACOSX" / "cat", "._{}.png", 3, 0)
    (tmp_path / "cat" / "notes.txt").write_text("x")
    (tmp_path / "cat" / "clip.mp4").write_bytes(b"x")
    (tmp_path / "dog" / "more.txt").write_text("x")
    (tmp_path / "dog" / "README").write_text("x")
    (tmp_path / "labels.csv").write_text("x")
    data = load_data(tmp_path)
    assert data.classes == ("cat", "dog")
    noted(
        data, "5 files are no images in a class, and were skipped: 1 .csv, 1 .mp4, 2 .txt, 1 without a suffix",
        "left out what systems leave behind: 1 __MACOSX, 4 hidden",
    )  # fmt: skip


def test_a_class_that_is_missing_is_said(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog", "eel")):
        fill(tmp_path / name, "{}.png", 10, 100 * label)
    data, model = load_data(tmp_path), nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    assert check(data, model, True) == ()
    shutil.rmtree(tmp_path / "dog")  # the eels are now 1, which the model has for dogs
    (note,) = check(load_data(tmp_path), model, True)
    assert note.startswith("the data has 2 classes, and the model tells 3 apart")


def test_what_leads_nowhere_is_counted_and_neither_followed_nor_waited_for(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name, "{}.png", 10, 50)
    (tmp_path / "dog" / "all").symlink_to(tmp_path)  # would give dog the cats
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
    (tmp_path / "more").mkdir()
    fill(tmp_path / "more" / "far", "{}.png", 3, 50)
    (tmp_path / "more" / "far" / "back").symlink_to(tmp_path / "more")
    (tmp_path / "dog" / "far").symlink_to(tmp_path / "more" / "far")  # a link that leads somewhere
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "labels.csv").write_text("x")
    data = read_folder(tmp_path, {})
    assert Counter(data.parts["train"][1].tolist()) == {0: 10, 1: 13, 2: 3} and data.classes == ("cat", "dog", "more")
    assert any("skipped: 1 .csv, 4 circular links, 1 special file" in note for note in data.notes), data.notes


@pytest.mark.parametrize("judging", ["val", "valid", "validation", "test", "Test"])
def test_folders_of_splits_are_taken_as_such(tmp_path: Path, judging: str) -> None:
    for label, name in enumerate(("cat", "dog")):
        fill(tmp_path / "train" / name, "{}.png", 30, 100 * label)
        fill(tmp_path / judging / name, "{}.png", 4, 100 * label + 7)
    (tmp_path / "__MACOSX").mkdir()
    data = load_data(tmp_path)
    assert pixels(data, "test") == [(7, 0)] * 4 + [(107, 1)] * 4
    assert {value for value, _ in pixels(data, "calibration")} == {0, 100}
    noted(data, f"the folders train, {judging} were taken as splits", "cat, dog")
    assert not any("set aside" in note for note in data.notes)


def test_three_splits_are_used_each_for_its_own(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        for offset, (split, count) in enumerate({"train": 20, "val": 20, "test": 4}.items()):
            fill(tmp_path / split / name, "{}.png", count, 100 * label + offset)
    data = load_data(tmp_path)
    assert {v % 100 for v, _ in pixels(data, "train")} == {0} and len(pixels(data, "holdout")) == 40
    assert {v % 100 for v, _ in pixels(data, "holdout")} == {1} and {v % 100 for v, _ in pixels(data, "test")} == {2}


def test_classes_that_are_called_as_splits_are_classes_where_there_are_others(tmp_path: Path) -> None:
    for label, name in enumerate(("bus", "test", "train")):
        fill(tmp_path / name, "{}.png", 10, 50 * label)
    assert load_data(tmp_path).classes == ("bus", "test", "train")


def test_splits_with_something_beside_them_are_not_taken_for_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            fill(tmp_path / split / name, "{}.png", 2, 0)
    fill(tmp_path / "unlabelled", "{}.png", 2, 0)
    refused(DataError, lambda: load_data(tmp_path), "the splits train, val, and beside them unlabelled", "is no split")
    (tmp_path / "unlabelled").rename(tmp_path / "val" / "cat" / "more")
    fill(tmp_path / "training" / "cat", "{}.png", 2, 0)
    refused(DataError, lambda: load_data(tmp_path), "and beside them training")


def test_a_folder_around_everything_and_folders_within_classes(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        fill(tmp_path / "pets" / "train" / name / "indoors", "{}.png", 10, 100 * label)
        fill(tmp_path / "pets" / "train" / name / "outdoors", "{}.png", 10, 100 * label)
    data = load_data(tmp_path)
    assert data.classes == ("cat", "dog") and "32 training" in data.description
    noted(data, "in the one folder of", "pets")


def test_folders_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "val" / "cat", "{}.png", 3, 0)
    (tmp_path / "test").mkdir()
    refused(DataError, lambda: load_data(tmp_path), "has the splits test, val and no train")
    (tmp_path / "test").rmdir()
    fill(tmp_path / "train" / "dog", "{}.png", 3, 0)
    refused(DataError, lambda: load_data(tmp_path), "has the classes cat, which", "the same sub-folders")
    (tmp_path / "val" / "cat").rename(tmp_path / "val" / "dog")
    (tmp_path / "train" / "ant").mkdir()
    (tmp_path / "train" / "ant" / "notes.txt").write_text("x")
    refused(DataError, lambda: load_data(tmp_path), "ant holds no images, but 1 .txt")


def test_images_of_any_size_and_mode_are_brought_to_one(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        fill(tmp_path / name, "{}.png", 5, 100 * label)
        fill(tmp_path / name, "{}-wide.png", 5, 100 * label, (30, 10))
        fill(tmp_path / name, "{}-high.png", 5, 100 * label, (9, 40), "RGBA")
        fill(tmp_path / name, "{}-grey.png", 5, 100 * label, mode="L")
        fill(tmp_path / name, "{}-palette.png", 5, 0, mode="P")
    refused(DataError, lambda: load_data(tmp_path), "where the images before it are", "--image-size")
    wanted = read_preprocessing({"image_size": "8x6", "channel_order": "RGB"})
    data = load_data(tmp_path, preprocess=wanted)
    assert data.example.shape[1:] == (3, 8, 6)
    noted(data, "images of 3 sizes were scaled by the shorter side and cut out of the centre to 8x6",
          "images were converted to RGB: 10 L, 10 P, 10 RGBA")  # fmt: skip
    wanted = read_preprocessing({"image_size": 5, "channel_order": "L", "resize": "stretch"})
    grey = load_data(tmp_path, preprocess=wanted)
    assert grey.example.shape[1:] == (1, 5, 5)
    noted(grey, "stretched to 5x5")


def test_a_crop_keeps_the_centre_and_a_stretch_all(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        image = Image.new("L", (40, 10), 0)
        image.paste(200, (15, 0, 25, 10))
        for i in range(10):
            image.save(tmp_path / name / f"{i}.png")
    crop, stretch = (
        load_data(tmp_path, preprocess=read_preprocessing({"image_size": 10, "resize": how})).example[0, 0]
        for how in ("crop", "stretch")
    )
    assert torch.allclose(crop * 255, torch.full((10, 10), 200.0), atol=1e-3)
    assert float(stretch[:, 0].max()) == 0 and float(stretch[:, 5].min()) * 255 > 150


# Plain data sets


class Pairs(Dataset[Any]):
    """What people write: an image and its label, one after the other."""

    def __init__(self, count: int = 1000) -> None:
        self.x, self.targets = torch.arange(float(count))[:, None].repeat(1, 6), (torch.arange(count) % 4).tolist()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.x[i], self.targets[i]


class Plain:
    """The same without PyTorch's class."""

    def __init__(self) -> None:
        self.pairs = Pairs()

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        x, y = self.pairs[i]
        return x.numpy(), y


def rows(batches: Any) -> set[int]:
    return {int(value) for x, _ in batches for value in x[:, 0]}


@pytest.mark.parametrize("made", [Pairs, Plain, lambda: TensorDataset(Pairs().x, torch.tensor(Pairs().targets))])
def test_a_plain_data_set_is_split_and_batched(made: Any) -> None:
    data = load_data(made())
    assert data.labelled and data.train is not None and data.example.shape == (64, 6)
    train, test, holdout, calibration = (rows(p) for p in (data.train, data.test, data.holdout, data.calibration))
    assert len(test) == 200 and not test & (train | holdout | calibration) and not holdout & train
    assert all(int(x[0]) % 4 == y for xs, ys in data.test for x, y in zip(xs, ys, strict=True))
    noted(data, "200 samples were set aside")
    assert rows(load_data(made()).test) == test != rows(load_data(made(), seed=1).test)
    assert not torch.equal(next(iter(data.train))[0], next(iter(data.train))[0])  # a new order each time


def test_data_sets_for_parts_and_for_judging(tmp_path: Path) -> None:
    judging = Pairs(30)
    judging.x += 1000
    two = load_data((Pairs(), judging))
    assert rows(two.test) == set(range(1000, 1030)) and not any("set aside" in note for note in two.notes)
    parts = load_data(type("Parts", (), {"train": Pairs(), "calibration": None, "test": judging}))
    assert rows(parts.test) == rows(two.test) and len(parts.train) == 15  # type: ignore[arg-type]
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch.utils.data import Dataset\nclass Mine(Dataset):\n"
        "    def __len__(self): return 100\n    def __getitem__(self, i): return torch.full((3,), float(i)), i % 2\n"
    )
    assert load_data(f"{tmp_path}/mine.py:Mine").example.shape[1:] == (3,)


def test_data_sets_that_cannot_be_batched_are_refused() -> None:
    class Pictures(Pairs):
        def __getitem__(self, i: int) -> Any:
            return Image.new("L", (2, 2)), 0

    refused(DataError, lambda: load_data(Pictures()), "reading", "failed with TypeError")
    refused(DataError, lambda: load_data(Pairs(0)), "the data set is empty")
