"""Bad input: one line with the fact and the remedy, the documented exit code, nothing written, nothing executed."""

from __future__ import annotations

import errno
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from given import MODELS, told
from safetensors.torch import save_file

import edgesdk
from edgesdk.bundle import bundle
from edgesdk.cli import main
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import StorageError, UsageError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with models and sound data in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text(MODELS)
    arrays("good.npz")
    return tmp_path


def arrays(name: str, **changes: np.ndarray) -> str:
    x = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
    np.savez(name, **{"x": x, "y": np.arange(64) % 4, **changes})
    return name


@pytest.fixture
def fails(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command, expect that it fails cleanly, and give its one line."""

    def run(code: int, *arguments: str | Path) -> str:
        before = {path: path.stat().st_mtime_ns for path in here.rglob("*") if "__pycache__" not in path.parts}
        with pytest.raises(SystemExit) as ended:
            main.main([str(a) for a in arguments], prog_name="edgesdk")
        captured = capsys.readouterr()
        after = {path: path.stat().st_mtime_ns for path in here.rglob("*") if "__pycache__" not in path.parts}
        assert ended.value.code == code, captured.err
        assert captured.out == ""
        line = told(captured.err)
        assert line.startswith("edgesdk: ") and ": " in line.removeprefix("edgesdk: ")  # the fact, then the remedy
        assert set(after) == set(before)
        assert {p: t for p, t in after.items() if p.is_file()} == {p: t for p, t in before.items() if p.is_file()}
        return line

    return run


def own(model: str = "models.py:Small", data: str = "good.npz", *more: str) -> list[str]:
    return ["deploy", model, "--target", "x86", "--data", data, "--epochs", "0", "--out", "out", *more]


def test_an_unknown_target_names_those_that_exist(fails) -> None:
    assert "x86" in fails(2, "deploy", "--target", "toaster", "--out", "out")
    assert "x86" in fails(2, "search", "--target", "toaster", "--out", "out")
    assert "x86" in fails(2, "targets", "toaster")


def test_a_form_that_there_is_not_or_that_the_file_cannot_hold(fails) -> None:
    said = fails(2, *own(), "--candidate", "origami")
    assert "'origami' is no form" in said and "separable" in said and "k-means" in said
    said = fails(2, *own(), "--runtime", "litert", "--candidate", "k-means")
    assert "tflite files hold no weights as k-means" in said and "fp16" in said


def test_an_accuracy_that_the_dense_model_does_not_reach_itself(fails) -> None:
    said = fails(5, *own(), "--accuracy", "100")
    assert "the dense model itself scores" in said and "less than the 100" in said


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--latency", "2", "no unit"),
        ("--latency", "2kB", "unknown unit"),
        ("--latency", "-2ms", "not positive"),
        ("--latency", "0ms", "not positive"),
        ("--latency", "soon", "not a number"),
        ("--size", "200", "no unit"),
        ("--size", "0kB", "not positive"),
        ("--peak-memory", "-1MB", "not positive"),
        ("--max-drop", "-1", "not positive"),
        ("--max-drop", "nan", "not a finite number"),
        ("--percentile", "100", "no percentile"),
    ],
)
def test_a_budget_that_is_none(fails, option: str, value: str, says: str) -> None:
    assert says in fails(2, "deploy", "--target", "x86", option, value, "--out", "out")


def test_usage(fails) -> None:
    fails(2, "deploy", "--out", "out")  # no target
    fails(2, "deploy", "--target", "x86", "--threads", "0")
    fails(2, "deploy", "--target", "x86", "--no-such-option")
    fails(2, "no-such-command")
    assert "--data" in fails(2, "deploy", "models.py:Small", "--target", "x86")
    assert "MODEL" in fails(2, "deploy", "--weights", "w.safetensors", "--target", "x86")
    assert "no metric" in fails(2, *own("models.py:Small", "good.npz", "--metric", "beauty"))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("absent.py:Small", "no file absent.py"),
        ("models.py:Smal", "did you mean Small"),
        ("models.py", "names no callable"),
        ("models.py:nothing", "cannot be called"),
        ("models.py:number", "type int"),
        ("models.py:failing", "no weights today"),
        ("no_such_package.models:net", "no module"),
    ],
)
def test_a_model_that_is_none(fails, model: str, says: str) -> None:
    assert says in fails(3, *own(model))


def test_control_flow_that_depends_on_data_cannot_be_traced(fails) -> None:
    said = fails(3, *own("models.py:Branching"))
    assert "cannot be traced" in said and "models.py" in said


class Code:
    """A pickle that would write a file."""

    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_weights_that_do_not_fit(fails, here: Path) -> None:
    save_file({"conv.weight": torch.zeros(8, 3, 5, 5)}, "other.safetensors")
    said = fails(3, *own("models.py:Small", "good.npz", "--weights", "other.safetensors"))
    assert "do not fit" in said and "conv.weight" in said
    assert "no file" in fails(3, *own("models.py:Small", "good.npz", "--weights", "absent.safetensors"))
    (here / "text.pt").write_text("hello")
    fails(3, *own("models.py:Small", "good.npz", "--weights", "text.pt"))


def test_weights_that_are_not_finite(fails) -> None:
    shapes = {"conv.weight": (8, 3, 3, 3), "conv.bias": (8,), "fc.weight": (4, 8), "fc.bias": (4,)}
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    state["fc.weight"][1, 1] = float("nan")
    save_file(state, "nan.safetensors")
    said = fails(3, *own("models.py:Small", "good.npz", "--weights", "nan.safetensors"))
    assert "NaN" in said and "fc.weight" in said


def test_a_pickle_with_code_is_never_executed(fails, here: Path) -> None:
    torch.save({"conv.weight": Code()}, "evil.pt")
    (here / "plain.pkl").write_bytes(pickle.dumps(Code()))
    for name in ("evil.pt", "plain.pkl"):
        fails(3, *own("models.py:Small", "good.npz", "--weights", name))
        assert not (here / "executed").exists()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x": noise(0, 3, 8, 8), "y": np.zeros(0, int)}, "empty"),
        ({"y": np.arange(64) % 5}, "out of range"),
        ({"y": np.arange(64) % 4 - 1}, "-1"),
        ({"y": np.zeros(64, int)}, "all labels are 0"),
        ({"y": np.linspace(0, 1, 64)}, "labels"),
        ({"y": np.zeros(63, int)}, "63"),
        ({"x": noise(64, 1, 8, 8)}, "does not fit the model"),
        ({"x": noise(64, 3, 8, 8).astype(np.int64)}, "int64"),
        ({"x": np.where(noise(64, 3, 8, 8) > 2, np.nan, noise(64, 3, 8, 8))}, "NaN"),
    ],
)
def test_data_that_is_wrong(fails, here: Path, changes: dict[str, np.ndarray], says: str) -> None:
    assert says in fails(4, *own("models.py:Small", arrays("bad.npz", **changes)))


OWN = """
import torch
from torch import nn

class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(192, 4), nn.Linear(192, 6)
    def forward(self, x):
        return {"main": self.a(x.flatten(1)), "aux": self.b(x.flatten(1))}

class Value(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(192, 1)
    def forward(self, x):
        return self.a(x.flatten(1))

class Brightest(nn.Module):  # which of three channels, from pixels of 0 to 255
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1 / 16))
    def forward(self, x):
        return (x.mean((2, 3)) - 128).clamp(-8, 8) * self.scale
"""


def several(here: Path) -> None:
    (here / "own.py").write_text(OWN)
    random = np.random.default_rng(0)
    y = np.arange(300) % 3
    pixels = random.integers(118, 128, (300, 3, 8, 8), dtype=np.uint8)
    pixels[np.arange(300), y] += 9
    np.savez("pixels.npz", x=pixels, y=y)
    np.savez("chance.npz", x=random.standard_normal((600, 3, 8, 8)).astype(np.float32), y=np.arange(600) % 4)
    np.savez("value.npz", x=random.standard_normal((300, 3, 8, 8)).astype(np.float32), y=np.ones(300, np.float32))


@pytest.mark.parametrize(
    ("code", "model", "data", "options", "says"),
    [
        (3, "models.py:Small", "chance.npz", (), "than answers that know nothing of the sample: give --weights"),
        (2, "own.py:Heads", "chance.npz", (), "may be the one that is judged: say which with --output, of main (N, 4)"),
        (2, "own.py:Heads", "chance.npz", ("--output", "head"), "no output 'head'"),
        (4, "own.py:Heads", "pixels.npz", ("--metric", "mse"), "none of the model's outputs"),
        (4, "own.py:Value", "value.npz", ("--metric", "mse"), "targets of shape (N,) for outputs of shape (N, 1)"),
        (4, "own.py:Brightest", "pixels.npz", (), "give --input-range 0,255, or --force"),
        (2, "own.py:Brightest", "chance.npz", ("--mean", "0.5", "--std", "0.5"), "and x is float32"),
        (2, "own.py:Brightest", "pixels.npz", ("--mean", "much"), "no list of numbers"),
        (2, "own.py:Brightest", "pixels.npz", ("--preprocess", "absent.toml"), "absent.toml cannot be read"),
        (2, "own.py:Brightest", "pixels.npz", ("--metric", "torchmetrics:Beauty"), "no metric 'Beauty'"),
        (5, "own.py:Brightest", "pixels.npz", ("--input-range", "0,255", "--accuracy", "101"), "less than the 101"),
    ],
)  # fmt: skip
def test_what_is_judged_and_how_pixels_are_taken(
    fails, here: Path, code: int, model: str, data: str, options: tuple[str, ...], says: str
) -> None:
    several(here)
    assert says in fails(code, *own(model, data, *options))
    assert "without data" in fails(2, "deploy", "--target", "x86", "--input-range", "0,255", "--out", "out")


def test_data_that_is_not_there_or_no_data(fails, here: Path) -> None:
    (here / "text.npz").write_text("hello")
    (here / "folder").mkdir()
    assert "absent.npz" in fails(4, *own("models.py:Small", "absent.npz"))
    fails(4, *own("models.py:Small", "text.npz"))
    fails(4, *own("models.py:Small", "folder"))
    fails(4, *own("models.py:Small", "models.py:number"))


@pytest.mark.parametrize(
    ("command", "bound", "unit", "title"),
    [("deploy", "--size=10B", "kB", "size"), ("search", "--latency=1us", "[μm]s", "latency")],
)
def test_a_budget_out_of_reach_names_the_tightest_reachable(
    fails, command: str, bound: str, unit: str, title: str
) -> None:
    said = fails(5, command, "models.py:Small", "--target", "x86", "--data", "good.npz", "--out", "out", bound)
    assert re.search(rf"\d {unit}\b", said) and title in said
    assert "conv" in said or "fc" in said  # what holds it there


def test_an_output_that_exists_is_refused_and_left_alone(fails, here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "mine.txt").write_text("mine")
    assert "--force" in fails(8, *own())
    assert "no bundle" in fails(8, *own("models.py:Small", "good.npz", "--force"))
    assert (here / "out" / "mine.txt").read_text() == "mine"
    (here / "plan.json").write_text("{}")
    assert "--force" in fails(8, "search", "--target", "x86")


def test_benchmark_takes_each_file_once_and_one_at_the_least(here: Path) -> None:
    with pytest.raises(UsageError, match="there is no file to measure: name a model's file or a bundle"):
        edgesdk.benchmark([])
    with pytest.raises(UsageError, match="a file is named twice"):
        edgesdk.benchmark(["a.onnx", "a.onnx"])


def test_no_bundle_to_verify_or_benchmark(fails, here: Path) -> None:
    for command in ("verify", "benchmark"):
        fails(8, command, "absent")
        fails(8, command, here)
        fails(8, command, "models.py")
    (here / "manifest.json").write_text("{")
    assert "no JSON" in fails(8, "verify", here)


def test_a_broken_onnx_file(fails, here: Path) -> None:
    (here / "broken.onnx").write_bytes(b"not a model")
    assert "not an ONNX file, or is cut short" in fails(3, "benchmark", "broken.onnx")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text("{}")

    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    result = SimpleNamespace(artifact=Artifact(tmp_path / "model.onnx"))
    nothing: dict = {}
    with pytest.raises(StorageError, match="No space left on device") as raised, bundle.reserve(out, True) as place:
        bundle.pack(place, result, None, None, None, None, nothing)  # type: ignore[arg-type]
    assert raised.value.exit_code == 9
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "manifest.json").read_text() == "{}"
