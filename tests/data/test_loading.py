"""A user's models, weights and data: what loads, how it is split, and what each bad input is answered with."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from edgesdk.core.errors import DataError, EdgeSdkError, ModelError, UsageError
from edgesdk.data.data import check, load_data
from edgesdk.example.data import augmented, example_data, example_model
from edgesdk.network.load import load_callable, load_model
from edgesdk.network.network import tensors

MODELS = """
import torch
from torch import nn
from layers_of_mine import WIDTH

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, WIDTH), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 3))

made = net()
number = 7

def lists():
    return [1, 2]

def fails():
    raise ValueError("no such variant\\nsecond line")

def network():
    return net()
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "layers_of_mine.py").write_text("WIDTH = 4\n")
    path = tmp_path / "models.py"
    path.write_text(MODELS)
    return path


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def refused(kind: type[EdgeSdkError], call: Any, *parts: str) -> None:
    """``call`` raises ``kind`` on one line, with each of ``parts`` in it."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is kind and "\n" not in message and caught.value.remedy
    for part in parts:
        assert part in message, message


def images(count: int = 400, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (count, 3, 2, 2), and labels of which class 0 has half."""
    generator = np.random.default_rng(seed)
    y = np.where(np.arange(count) % 2 == 0, 0, 1 + np.arange(count) // 2 % (classes - 1))
    return generator.integers(0, 256, (count, 3, 2, 2), dtype=np.uint8), y


def labels(batches: Any) -> Tensor:
    return torch.cat([y for _, y in batches])


def rows(batches: Any) -> set[bytes]:
    return {sample.numpy().tobytes() for x, _ in batches for sample in x}


# Callables and models


def test_a_model_loads_from_a_file_and_its_neighbours(models: Path) -> None:
    model = load_model(f"{models}:net")
    assert not model.training and model(torch.zeros(2, 3, 2, 2)).shape == (2, 3)
    assert isinstance(load_model(f"{models}:made"), nn.Sequential)


def test_a_model_loads_from_a_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "zoo_of_mine").mkdir()
    (tmp_path / "zoo_of_mine" / "nets.py").write_text("from torch import nn\nclass Net(nn.Linear):\n"
                                                      "    def __init__(self): super().__init__(2, 2)\n")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert type(load_model("zoo_of_mine.nets:Net")).__name__ == "Net"
    refused(ModelError, lambda: load_model("zoo_of_mine.more:Net"), "no module 'zoo_of_mine.more'")


def test_a_wrong_callable_is_said(models: Path, tmp_path: Path) -> None:
    broken, absent, leaving = (tmp_path / f"{name}.py" for name in ("broken", "absent", "leaving"))
    broken.write_text("x = 1\nraise RuntimeError('first\\nsecond')\n")
    absent.write_text("import not_installed_here\n")
    leaving.write_text("import sys\nsys.exit('bye')\n")
    (tmp_path / "syntax.py").write_text("def f(:\n")

    def load(spec: str) -> Any:
        return lambda: load_callable(spec, "METRIC")

    refused(UsageError, load(str(models)), "names no callable", "file.py:callable")
    refused(UsageError, load(f"{models}:"), "names no callable")
    refused(UsageError, load(f"{tmp_path}/none.py:f"), "METRIC", "there is no file", "none.py")
    refused(UsageError, load("no_such_package.at_all:f"), "no module 'no_such_package'")
    refused(UsageError, load(f"{broken}:f"), "RuntimeError: first", "(line 2)")
    refused(UsageError, load(f"{absent}:f"), "ModuleNotFoundError", "not_installed_here")
    refused(UsageError, load(f"{leaving}:f"), "SystemExit: bye")
    refused(UsageError, load(f"{tmp_path}/syntax.py:f"), "SyntaxError")
    refused(UsageError, load(f"{models}:netwrk"), "has no 'netwrk'", "did you mean network")
    refused(UsageError, load(f"{models}:number"), "of type int", "cannot be called")
    refused(ModelError, lambda: load_callable(f"{models}:number", "MODEL", ModelError), "of type int")


def test_what_is_no_model_is_named(models: Path) -> None:
    refused(ModelError, lambda: load_model(f"{models}:lists"), "type list")
    refused(ModelError, lambda: load_model(f"{models}:fails"), "ValueError: no such variant")
    refused(ModelError, lambda: load_model(nn.LazyLinear(2)), "without a shape", "weight")
    refused(ModelError, lambda: load_model(3), "type int")  # type: ignore[arg-type]


# Weights


@pytest.mark.parametrize("form", ["safetensors", "unnamed safetensors", "state dict", "checkpoint"])
def test_weights_are_loaded(models: Path, tmp_path: Path, form: str) -> None:
    trained = net()
    state = {name: value for name, value in trained.state_dict().items() if "num_batches" not in name}
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.bin")
    if "safetensors" in form:
        save_file(state, path)
    else:
        torch.save(state if form == "state dict" else {"state_dict": state, "epoch": 3}, path)
    x = torch.randn(5, 3, 2, 2)
    assert torch.equal(load_model(f"{models}:net", path)(x), trained.eval()(x))


def test_shared_weights_may_be_stored_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    state = {name: torch.ones_like(v) for name, v in model.state_dict().items() if name != "1.weight"}
    save_file(state, tmp_path / "weights.safetensors")
    assert load_model(model, tmp_path / "weights.safetensors")[1].weight.eq(1).all()  # type: ignore[index]


class Malicious:
    """A pickle of it makes a folder where it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pkl"])
def test_code_in_weights_is_never_executed(tmp_path: Path, name: str) -> None:
    path, mark = tmp_path / name, tmp_path / "executed"
    if name == "weights.pt":
        torch.save({"0.weight": Malicious(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(mark)))
    refused(
        ModelError, lambda: load_model(net(), path), "never executed", "mkdir" if name == "weights.pt" else "pickle"
    )
    assert not mark.exists()
    with path.open("rb") as file:  # the file does hold that code
        torch.load(file, weights_only=False) if name == "weights.pt" else pickle.load(file)
    assert mark.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "model.pt")
    refused(ModelError, lambda: load_model(net(), tmp_path / "model.pt"), "never executed", "Sequential")


def test_weights_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    refused(ModelError, lambda: load_model(net(), tmp_path / "none.pt"), "there is no file")
    refused(ModelError, lambda: load_model(net(), tmp_path), "cannot be read")
    for name in ("text.pt", "text.safetensors"):
        (tmp_path / name).write_text("not a model at all")
        refused(ModelError, lambda name=name: load_model(net(), tmp_path / name), name)
    torch.save(net().state_dict(), tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:900])
    refused(ModelError, lambda: load_model(net(), tmp_path / "cut.pt"), "cannot be read")
    torch.save({"epoch": 3, "loss": torch.zeros(1)}, tmp_path / "else.pt")
    refused(ModelError, lambda: load_model(net(), tmp_path / "else.pt"), "no state dict", "epoch")
    torch.save({1: torch.zeros(1)}, tmp_path / "numbers.pt")
    refused(ModelError, lambda: load_model(net(), tmp_path / "numbers.pt"), "the model has no 1")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    refused(ModelError, lambda: load_model(net(), tmp_path / "list.pt"), "no state dict", "list")


def test_weights_that_do_not_fit_are_named_and_not_loaded(tmp_path: Path) -> None:
    state = OrderedDict(net().state_dict())
    state["1.weight"] = torch.zeros(4, 13)
    del state["3.bias"]
    state.update({f"extra.{i}": torch.zeros(1) for i in range(5)})
    torch.save(state, tmp_path / "weights.pt")
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refused(
        ModelError, lambda: load_model(model, tmp_path / "weights.pt"),
        "it lacks 3.bias", "1.weight of shape (4, 13) where the model has (4, 12)", "extra.2 and 2 more",
    )  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["3.weight", "2.running_mean", "2.running_var"])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, name: str, value: float) -> None:
    state = {name: v.clone() for name, v in net().state_dict().items()}
    state[name].view(-1)[1] = value
    torch.save(state, tmp_path / "weights.pt")
    refused(ModelError, lambda: load_model(net(), tmp_path / "weights.pt"), "NaN or infinite", name)


# Data: what loads


def test_an_npz_is_scaled_normalised_and_split(tmp_path: Path) -> None:
    x, y = images()
    np.savez(tmp_path / "data.npz", x=x, y=y, mean=[0.1, 0.2, 0.3], std=[0.5, 0.5, 0.25])
    data = load_data(str(tmp_path / "data.npz"), batch_size=32)
    assert data.labelled and data.train is not None
    assert data.normalization == {"scale": 1 / 255, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.25]}
    mean, std = (np.array(v, np.float32)[:, None, None] for v in ([0.1, 0.2, 0.3], [0.5, 0.5, 0.25]))
    wanted = torch.from_numpy((x.astype(np.float32) / 255 - mean) / std)
    of = {tuple(labelled.flatten().tolist()): int(label) for labelled, label in zip(x, y, strict=True)}
    for batch, labelled in data.test:
        for sample, label in zip(batch, labelled, strict=True):
            nearest = (wanted - sample).abs().amax((1, 2, 3))
            assert nearest.min() < 1e-5 and of[tuple(x[int(nearest.argmin())].flatten().tolist())] == int(label)
    train, holdout, test, calibration = (rows(p) for p in (data.train, data.holdout, data.test, data.calibration))
    assert len(test) == 80 and len(holdout) == 32 and len(calibration) == 256
    assert not train & holdout and not train & test and not holdout & test and not calibration & (holdout | test)
    assert any("set aside" in note for note in data.notes)
    assert data.example.shape == (32, 3, 2, 2) and "288 training" in data.description


def test_splits_keep_the_share_of_each_label(tmp_path: Path) -> None:
    x, y = images(2000)
    data = load_data((x, y))
    for part in (data.test, data.holdout, data.calibration):
        counts = labels(part).bincount(minlength=4) / len(labels(part))
        assert torch.allclose(counts, torch.tensor([1 / 2, 1 / 6, 1 / 6, 1 / 6]), atol=0.01)


def test_the_same_seed_makes_the_same_splits_and_orders() -> None:
    def epochs(seed: int) -> list[Tensor]:
        data = load_data(images(), seed=seed)
        assert data.train is not None
        parts = [data.calibration, data.holdout, data.test, data.train, data.train]
        return [torch.cat([x for x, _ in part]) for part in parts]

    first, again, other = epochs(0), epochs(0), epochs(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[3], first[4])  # a new order each time


def test_a_test_part_that_was_given_is_the_test_part(tmp_path: Path) -> None:
    (x, y), (x_test, y_test) = images(), images(70, seed=1)
    np.savez(tmp_path / "data.npz", x=x / np.float32(255), y=y, x_test=x_test / np.float32(255), y_test=y_test)
    data = load_data(str(tmp_path / "data.npz"))
    assert torch.equal(torch.cat([x for x, _ in data.test]), torch.from_numpy(x_test / np.float32(255)))
    assert torch.equal(labels(data.test), torch.from_numpy(y_test)) and data.normalization is None and not data.notes


def test_channels_last_images_are_turned(tmp_path: Path) -> None:
    x, y = images()
    wide = np.repeat(x, 4, axis=2)  # (N, 3, 8, 2)
    turned, plain = load_data((wide.transpose(0, 2, 3, 1), y)), load_data((wide, y))
    assert torch.equal(turned.example, plain.example) and turned.example.is_contiguous()
    assert any("channels" in note for note in turned.notes)


def test_without_labels_there_are_none() -> None:
    data = load_data((np.random.default_rng(0).normal(size=(400, 5)), None))
    assert not data.labelled and data.calibration[0][1] is None and data.example.dtype == torch.float32


def test_tokens_and_regression_targets_stay_as_they_are() -> None:
    tokens = np.arange(800).reshape(400, 2)
    data = load_data((tokens, np.linspace(0, 1, 400)), classifies=False)
    assert data.example.dtype == torch.int64 and data.test[0][1].dtype == torch.float32


def test_a_folder_of_images_loads(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(20):
            Image.new("RGB", (5, 4), (100 * label, i, 0)).save(tmp_path / name / f"{i}.{('png', 'bmp')[i % 2]}")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    data = load_data(tmp_path)
    assert data.example.shape == (32, 3, 4, 5) and data.normalization == {"scale": 1 / 255}
    for x, y in data.test:
        assert torch.equal((x[:, 0, 0, 0] * 255).round(), 100.0 * y)
    assert data.holdout is data.calibration and any("cat, dog" in note for note in data.notes)


def test_a_small_set_compares_on_calibration_data() -> None:
    data = load_data(images(100))
    assert data.holdout is data.calibration and any("too little" in note for note in data.notes)


DATA = """
from types import SimpleNamespace
import torch
def tuple_of_arrays():
    return torch.rand(100, 4), torch.arange(100) % 2
def batches():
    part = [(torch.rand(50, 4), torch.arange(50) % 2) for _ in range(8)]
    return SimpleNamespace(train=part, calibration=part, test=part[:2])
def fails():
    raise OSError("no disk")
"""


def test_a_callable_gives_data(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(DATA)
    assert load_data(f"{path}:tuple_of_arrays").labelled
    data = load_data(f"{path}:batches")
    assert len(data.train) == 8 and len(data.test) == 2  # type: ignore[arg-type]
    assert len(data.calibration) == 6 and len(data.holdout) == 2
    refused(DataError, lambda: load_data(f"{path}:fails"), "OSError: no disk")
    refused(DataError, lambda: load_data(f"{path}:batch"), "did you mean batches")


def test_data_loaders_are_taken() -> None:
    x, y = (torch.from_numpy(a) for a in images(300, classes=3))
    train = DataLoader(TensorDataset(x.float(), y), 50, shuffle=True)
    part = DataLoader(TensorDataset(x.float(), y), 50)
    data = load_data(SimpleNamespace(train=train, calibration=part, test=part))
    assert data.train is not None and len(data.train) == 6 and data.labelled  # type: ignore[arg-type]
    assert [len(x) for x, _ in data.train] == [50] * 6 == [len(x) for x, _ in data.train]
    check(data, net(), True)


@pytest.mark.parametrize("form", [dict, tuple, list])
def test_several_inputs_are_taken(form: type) -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return torch.cat([a, b], 1)

    def batch() -> Any:
        a, b = np.ones((40, 2), np.float32), torch.zeros(40, 3)
        return {"b": b, "a": a} if form is dict else form((a, b))

    y = torch.arange(40) % 5
    data = load_data(SimpleNamespace(train=None, calibration=[(batch(), y)], test=[[batch(), y]]))
    assert isinstance(data.example, dict if form is dict else tuple) and data.train is None
    check(data, Two(), True)
    if form is not list:
        whole = load_data((batch(), y))
        assert type(whole.example) is form
        check(whole, Two(), True)


@pytest.mark.parametrize("width", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("form", ["arrays", "batches", "a dict of batches", "a data set"])
def test_floats_of_any_width_are_what_files_take(form: str, width: torch.dtype) -> None:
    x, y = torch.rand(80, 12).to(width), torch.arange(80) % 3
    given: Any = {
        "arrays": (x, y),
        "batches": SimpleNamespace(calibration=[(x, y)], test=[(x, y)], train=[(x, y)]),
        "a dict of batches": SimpleNamespace(calibration=[({"x": x}, y)], test=[({"x": x}, y)]),
        "a data set": TensorDataset(x, y),
    }[form]
    data = load_data(given)
    parts = [part for part in (data.calibration, data.test, data.train) if part is not None]
    assert all(value.dtype == torch.float32 for part in parts for batch, _ in part for value in tensors(batch))


def test_parts_may_be_absent() -> None:
    part = [(torch.rand(64, 12), torch.arange(64) % 3) for _ in range(8)]
    alone = load_data(SimpleNamespace(calibration=part))
    assert [len(p) for p in (alone.calibration, alone.holdout, alone.test)] == [4, 2, 2] and alone.train is None
    assert any("no recovery" in note for note in alone.notes)
    training = load_data(SimpleNamespace(train=part))
    assert len(training.calibration) == 4 and training.test is training.calibration is training.holdout
    unlabelled = load_data(SimpleNamespace(calibration=[x for x, _ in part], test=[(x,) for x, _ in part]))
    assert not unlabelled.labelled
    check(unlabelled, net(), True)


@pytest.mark.parametrize("without", [("calibration",), ("test",), ("calibration", "test")])
def test_labels_that_a_part_lacks_are_asked_for_by_its_name(without: tuple[str, ...]) -> None:
    x, y = torch.randn(40, 4), torch.arange(40) % 3
    parts = {name: [(x, None if name in without else y)] for name in ("calibration", "test")}
    data = load_data(SimpleNamespace(train=None, **parts))
    notes = [note for note in data.notes if "no labels are used" in note]
    assert not data.labelled and len(notes) == (len(without) < 2)
    assert all(note.startswith(f"batches of {without[0]} have no labels") for note in notes)


def test_an_array_for_each_input_of_the_model(tmp_path: Path) -> None:
    left, right, y = np.random.rand(30, 4).astype("f"), np.arange(60).reshape(30, 2), np.arange(30) % 3
    path = str(tmp_path / "pairs.npz")
    np.savez(
        path, right=right, note=np.zeros(3), left=left, y=y, left_test=left[:6], right_test=right[:6], y_test=y[:6]
    )
    data = load_data(path, inputs=["left", "right"])
    assert list(data.example) == ["left", "right"] and data.description.startswith(path)
    assert sum(len(x["left"]) for x, _ in data.test) == 6 and any("left out: note" in note for note in data.notes)
    refused(DataError, lambda: load_data(path), "there is no note_test")  # nobody knows that note is no input
    np.savez(path, **{"input.1": left, "x": right}, y=y)  # as an ONNX file calls it, beside one that is called x
    assert list(load_data(path, inputs=["x", "input_1"]).example) == ["x", "input_1"]
    assert isinstance(load_data(path, inputs=["x"]).example, Tensor) and isinstance(load_data(path).example, Tensor)
    np.savez(path, left=left, right=right, y=y)
    assert sorted(load_data(path).example) == ["left", "right"]
    refused(DataError, lambda: load_data(path, inputs=["a", "b"]), "no array x, it holds left, right, y", "(a, b)")
    np.savez(path, left=left, right=right, y=y, left_test=left, y_test=y)
    refused(DataError, lambda: load_data(path, inputs=["left", "right"]), "there is no right_test, and left_test")


# Data: what does not


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    def load(name: str, *parts: str) -> None:
        refused(DataError, lambda: load_data(str(tmp_path / name)), *parts)

    load("x" * 5000, "cannot be read", "too long")
    load("none.npz", "there is no file or folder")
    (tmp_path / "data.csv").write_text("1,2")
    load("data.csv", "not an .npz file", "sub-folder")
    (tmp_path / "text.npz").write_text("1,2")
    load("text.npz", "no .npz archive")
    x, y = images()
    np.savez(tmp_path / "z.npz", z=x)
    load("z.npz", "no array x", "it holds z")
    np.savez_compressed(tmp_path / "cut.npz", x=x, y=y)
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:200] + bytes(200) + whole[400:])
    load("cut.npz", "cannot be read")
    (tmp_path / "cut.npz").write_bytes(whole[:200])
    load("cut.npz", "no .npz archive")


def test_code_in_data_is_never_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Malicious(mark)))
    refused(DataError, lambda: load_data(str(tmp_path / "raw.npz")), "pickle", "not be executed")
    np.savez(tmp_path / "inside.npz", x=np.array([Malicious(mark)], dtype=object))
    refused(DataError, lambda: load_data(str(tmp_path / "inside.npz")), "pickled objects", "never executed")
    assert not mark.exists()
    with np.load(tmp_path / "inside.npz", allow_pickle=True) as file:  # the file does hold that code
        _ = file["x"]
    assert mark.exists()


X, Y = images()
FLOAT = X.astype(np.float32)
WITH_NAN = FLOAT.copy()
WITH_NAN[3, 1, 0, 1], WITH_NAN[9, 0, 0, 0] = np.nan, np.inf


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        (dict(x=X[:0], y=Y[:0]), ["x is empty"]),
        (dict(x=X, y=Y[:-1]), ["400 samples", "399"]),
        (dict(x=X, y=Y.astype(np.float32)), ["float32", "whole class numbers"]),
        (dict(x=X, y=np.ones((400, 4), np.float32)), ["(N, 4) mark several or no classes", "multilabel-f1"]),
        (dict(x=X, y=np.full((400, 4), 0.3, np.float32)), ["soft labels are to be probabilities", "softmax"]),
        (dict(x=X, y=Y - 1), ["hold -1", "from 0"]),
        (dict(x=X, y=Y * 0 + 2), ["all labels are 2", "two classes"]),
        (dict(x=WITH_NAN, y=Y), ["2 NaN or infinite values in 2 of 400 samples", "(3, 1, 0, 1)"]),
        (dict(x=X.astype(np.complex64), y=Y), ["complex64"]),
        (dict(x=X.astype(np.uint16), y=Y), ["uint16"]),
        (dict(x=X.astype(str), y=Y), ["dtype <U"]),
        (dict(x=np.float32(1), y=Y), ["no axis of samples"]),
        (dict(x=X[:1], y=Y[:1] * 0), ["all labels are 0"]),
        (dict(x=X[:1]), ["one sample"]),
        (dict(x=X, y=Y, x_test=X), ["x_test is there without y_test"]),
        (dict(x=X, y=Y, y_test=Y), ["y_test is there without x_test"]),
        (dict(x=X, y=Y, x_test=X[:, :1], y_test=Y), ["x_test is (1, 2, 2) uint8 where x is (3, 2, 2) uint8"]),
        (dict(x=X, y=Y, x_test=X, y_test=Y[1:]), ["x_test has 400 samples and y_test 399"]),
        (dict(x=X, y=Y, mean=[0.5]), ["std is missing"]),
        (dict(x=X, y=Y, mean=[0.5, 0.5], std=[1, 1]), ["mean is [0.5, 0.5] for 3 channels"]),
        (dict(x=X, y=Y, mean=["q"], std=[1]), ["mean is of dtype <U1"]),
        (dict(x=X, y=Y, mean=[np.nan], std=[1]), ["mean is [nan]"]),
        (dict(x=X, y=np.full(len(X), "cat")), ["y is of dtype <U3"]),
        (dict(x=X, y=Y, mean=[0.5], std=[0]), ["std is [0.0]", "positive"]),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], parts: list[str]) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    refused(DataError, lambda: load_data(str(tmp_path / "data.npz")), *parts)


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    def load(*parts: str) -> None:
        refused(DataError, lambda: load_data(str(tmp_path)), *parts)

    load("has no sub-folders")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "c").mkdir()
    load("c holds no images")
    odd = tmp_path / "c" / "odd.png"
    Image.new("RGB", (5, 4)).save(odd)
    load("odd.png is 5x4 RGB", "4x4 RGB")
    Image.new("L", (4, 4)).save(odd)
    load("odd.png is 4x4 L")
    Image.new("P", (4, 4)).save(odd)
    load("odd.png is of mode P")
    odd.write_bytes(b"not a picture")
    load("odd.png cannot be read")
    odd.write_bytes((tmp_path / "a" / "0.png").read_bytes()[:-30])
    load("odd.png cannot be read")


def once() -> Iterator[tuple[Tensor, Tensor]]:
    yield torch.rand(4, 12), torch.arange(4) % 3


def failing() -> Iterator[tuple[Tensor, Tensor]]:
    yield torch.rand(4, 12), torch.arange(4) % 3
    raise KeyError("row")


GOOD = [(torch.rand(64, 12), torch.arange(64) % 3)]


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        (SimpleNamespace(), ["neither calibration nor train"]),
        (SimpleNamespace(train=once(), calibration=GOOD), ["only once", "generator"]),
        (SimpleNamespace(calibration=[]), ["calibration is empty"]),
        (SimpleNamespace(calibration=GOOD, test=[]), ["test is empty"]),
        (SimpleNamespace(calibration=5), ["calibration is of type int"]),
        (SimpleNamespace(calibration=failing()), ["reading calibration failed with KeyError"]),
        (SimpleNamespace(calibration=[(torch.rand(3, 4), 1)]), ["single samples", "DataLoader"]),
        (SimpleNamespace(calibration=[(1, 2, 3)]), ["yields a tuple of 3"]),
        (SimpleNamespace(calibration=[(np.array(["a"]), torch.zeros(1))]), ["x of type ndarray"]),
        (SimpleNamespace(calibration=["text"]), ["yields a str"]),
        (SimpleNamespace(calibration=[("text", torch.zeros(4))]), ["x of type str"]),
        (SimpleNamespace(calibration=[(torch.rand(4, 2), torch.rand(4))]), ["y of calibration are float32"]),
        (SimpleNamespace(calibration=[(torch.rand(4, 2), torch.arange(3))]), ["4 samples", "3"]),
        (SimpleNamespace(calibration=[(torch.rand(4, 2) / 0, torch.arange(4))]), ["NaN or infinite"]),
        (SimpleNamespace(calibration=[(torch.rand(4, 2), torch.ones(4, dtype=torch.long))]), ["all labels are 1"]),
        (({"a": torch.rand(4, 2), "b": torch.rand(3, 2)}, None), ["differ in length"]),
        (([[1.0, 2.0], [1.0]], None), ["x differ in shape"]),
    ],
)
def test_bad_sources_are_refused(source: Any, parts: list[str]) -> None:
    refused(DataError, lambda: load_data(source), *parts)


# Data against the model


class Answers(nn.Module):
    """Whatever ``made`` makes of its input."""

    def __init__(self, made: Any) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: Tensor) -> Any:
        return self.made(x)


def test_data_that_does_not_fit_the_model_is_said() -> None:
    data = load_data(images())
    narrow = load_data((images()[0][:, :, :1], images()[1]))
    refused(DataError, lambda: check(narrow, net(), True), "float32 of shape (N, 3, 1, 2)", "mat1 and mat2")
    tokens = load_data((np.arange(4800).reshape(400, 12), images()[1]))
    refused(DataError, lambda: check(tokens, net(), True), "int64 of shape (N, 12)", "dtype")
    refused(DataError, lambda: check(data, net(), True), "label 3 is out of range", "3 classes")
    refused(ModelError, lambda: check(data, Answers(lambda x: x.flatten(1) * torch.nan), True), "NaN")
    refused(ModelError, lambda: check(data, Answers(lambda x: x.no_such_thing), True), "AttributeError")
    refused(DataError, lambda: check(data, Answers(lambda x: x), True), "(2, 3, 2, 2)", "a class for each place")
    check(data, Answers(lambda x: x), False)
    check(data, Answers(lambda x: {"logits": x.flatten(1)}), True)


def test_training_data_is_checked_too() -> None:
    def data(x: Tensor, y: Tensor | None, *more: Any) -> Any:
        return load_data(SimpleNamespace(train=[(x, y), *more], calibration=GOOD, test=GOOD))

    y = torch.arange(4) % 3
    refused(DataError, lambda: check(data(torch.rand(4, 11), y), net(), True), "shape (N, 11)")
    refused(DataError, lambda: check(data(torch.rand(4, 12), y + 1), net(), True), "label 3 is out of range")
    refused(DataError, lambda: check(data(torch.rand(4, 12), None), net(), True), "train has no labels")
    empty = load_data(SimpleNamespace(train=[], calibration=GOOD, test=GOOD))
    refused(DataError, lambda: check(empty, net(), True), "train is empty")
    late = data(torch.rand(4, 12), y, (torch.rand(4, 12), y + 7))
    check(late, net(), True)
    refused(DataError, lambda: list(late.train), "label 9 is out of range")


# The built-in example


def test_the_example_fits_its_model() -> None:
    data, model = example_data(), example_model()
    assert check(data, model, True) == () and data.classes[9] == "Ankle boot"
    assert data.train is not None and data.normalization is not None and not data.notes
    assert sum(len(x) for x, _ in data.test) == 2000 and labels(data.holdout).bincount().eq(50).all()
    with torch.no_grad():
        right = torch.cat([model(x).argmax(1) == y for x, y in data.test[:8]])
    assert right.float().mean() > 0.88
    first, second = next(iter(data.train))[0], next(iter(data.train))[0]
    again = next(iter(example_data().train or []))[0]
    assert first.shape == second.shape == (64, 1, 28, 28) and not torch.equal(first, second)
    assert again.min() == data.example.min()  # what comes in at the border is black


def test_augmenting_mirrors_and_moves() -> None:
    x = torch.arange(1.0, 10.0).view(1, 1, 3, 3).expand(200, 1, 3, 3)
    moved = augmented(x, torch.Generator().manual_seed(0), padding=1, value=-1.0)
    seen = {tuple(image.flatten().tolist()) for image in moved}
    assert len(seen) == 18  # nine places, mirrored or not
    assert tuple(range(1, 10)) in seen and (3, 2, 1, 6, 5, 4, 9, 8, 7) in seen
    assert (-1, -1, -1, -1, 1, 2, -1, 4, 5) in seen
