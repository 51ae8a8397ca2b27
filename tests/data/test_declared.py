"""What a user's own batches say of themselves is recorded for ``run.py``, and held against what they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from edgesdk import Preprocessing
from edgesdk.core.errors import DataError, EdgeSdkError, UsageError
from edgesdk.data.data import load_data
from edgesdk.data.preprocessing import read_preprocessing

PIXELS = torch.randint(0, 256, (120, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(120) % 2
IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
NAMES = ["cat", "dog"]


class Photos(Dataset[Any]):
    """As torchvision's folders of images are: the names of the classes, and the label of each sample."""

    def __init__(self, x: Tensor, **said: Any) -> None:
        self.x, self.targets, self.classes = x, Y.tolist(), NAMES
        for name, value in said.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], self.targets[index]


def forms(photos: Photos) -> dict[str, Any]:
    loader = DataLoader(photos, 20)
    return {
        "a data set": photos,
        "two": (photos, Photos(photos.x)),
        "a part of one": Subset(photos, range(100)),
        "loaders": SimpleNamespace(train=loader, calibration=loader, test=loader),
        "parts": SimpleNamespace(train=photos, test=photos),
    }


@pytest.mark.parametrize("form", forms(Photos(PIXELS)))
def test_what_a_data_set_says_is_taken_from_wherever_it_is(form: str) -> None:
    prepared = IMAGENET.of_pixels(PIXELS)
    data = load_data(forms(Photos(prepared, preprocessing=IMAGENET))[form])
    assert data.classes == ("cat", "dog") and data.preprocessing == IMAGENET
    assert data.normalization == IMAGENET.normalization
    assert float(data.example.max()) == pytest.approx(float(prepared.max()), abs=0.1)  # it is not prepared again
    plain = load_data(forms(Photos(prepared))[form])
    assert plain.preprocessing is None and plain.classes == ("cat", "dog")


@pytest.mark.parametrize("said", [IMAGENET, {"input_range": [-1, 1]}, {"dtype": "uint8"}, {"layout": "NHWC"}, "file"])
def test_a_preprocessing_may_be_said_in_any_form(said: Any, tmp_path: Path) -> None:
    if said == "file":
        said = tmp_path / "pixels.toml"
        said.write_text('channel_order = "BGR"\nmean = 0.5\nstd = 0.25\n')
    how = Preprocessing(**read_preprocessing(said))
    data = load_data(Photos(how.of_pixels(PIXELS), preprocessing=said))
    assert data.preprocessing == how


@pytest.mark.parametrize(
    ("x", "said", "kind", "says"),
    [
        (PIXELS.float(), IMAGENET, DataError, "x is not what its preprocessing makes of pixels: they would have been"),
        (PIXELS / 127.5 - 1, {"input_range": [0, 1]}, DataError, "would have been -255 to 255"),
        (PIXELS, IMAGENET, DataError, "x is uint8, and its preprocessing says float32"),
        (PIXELS / 255, {"dtype": "uint8"}, DataError, "x is float32, and its preprocessing says uint8"),
        (torch.rand(120, 9), IMAGENET, DataError, "x is no batch of images"),
        (PIXELS / 255, {"means": 1}, UsageError, "no key 'means'"),
    ],
)
def test_what_is_said_is_held_against_x(x: Tensor, said: Any, kind: type[EdgeSdkError], says: str) -> None:
    with pytest.raises(kind) as raised:
        load_data(Photos(x, preprocessing=said))
    assert says in str(raised.value) and "\n" not in str(raised.value)


def test_a_sample_rate_comes_from_flags_data_or_a_file(tmp_path: Path) -> None:
    waves = torch.randn(120, 50)
    np.savez(tmp_path / "data.npz", x=waves, y=Y, sample_rate=16000)
    assert load_data(tmp_path / "data.npz").sample_rate == 16000
    assert load_data(tmp_path / "data.npz", preprocess={"sample_rate": 8000}).sample_rate == 8000
    (tmp_path / "waves.toml").write_text("sample_rate = 22050\n")
    wanted = read_preprocessing(tmp_path / "waves.toml")
    assert load_data((waves, Y), preprocess=wanted).sample_rate == 22050
    assert load_data((waves, Y), preprocess=read_preprocessing(Preprocessing(sample_rate=11025))).sample_rate == 11025
    assert load_data(Photos(waves, sample_rate=44100)).sample_rate == 44100
    assert load_data(Photos(waves, preprocessing={"sample_rate": 44100})).sample_rate == 44100
    assert load_data(TensorDataset(waves, Y)).sample_rate is None
    for wrong in (0, -1, 1.5, "fast", True, [16000], 10**9):
        with pytest.raises(UsageError, match=r"--sample-rate is .*give it in Hz"):
            read_preprocessing({"sample_rate": wrong})
