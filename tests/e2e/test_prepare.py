"""Preparing a dense model, through the command line and in Python: what comes out is what `deploy` takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import contracts
import numpy as np
import pytest
import torch
from given import MODELS
from torch import Tensor, nn

from edgesdk.bundle.bundle import file_digest
from edgesdk.cli import main
from edgesdk.compress.quantize import integer
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import DataError, ModelError, UsageError
from edgesdk.data.data import load_data
from edgesdk.data.task import Task
from edgesdk.export.formats import export
from edgesdk.export.parity import parity
from edgesdk.network.load import load_model
from edgesdk.network.trace import trace
from edgesdk.techniques.ensembles import Ensemble
from edgesdk.train.recovery import SOFT, Recovery, Teacher, Term
from edgesdk.train.trainer import Schedule, recovered
from edgesdk.workflows.prepare import ensemble, sparsify, transfer

NORMED = """
class Untaught(Small):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
    def forward(self, x):
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

class Normed(Untaught):  # much better than chance, and less than can be learnt
    def __init__(self):
        torch.manual_seed(6)
        super().__init__()
        with torch.no_grad():
            for i in range(3):
                self.conv.weight[i, i] += 0.05
                self.fc.weight[i, i] += 1

class Lost(Normed):
    def forward(self, x):
        return super().forward(x) * torch.nan

class Dead(Normed):
    def forward(self, x):
        return 0 * super().forward(x)

class Sure(Small):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(100.0))
    def forward(self, x):
        return 1e-9 * super().forward(x) + self.scale * nn.functional.pad(x.mean((2, 3)), (0, 1))

class Headless(Normed):
    def forward(self, x):
        return super().forward(x).softmax(-1)

class Pooled(nn.Module):  # whose answers no linear layer makes
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
    def forward(self, x):
        return self.head(torch.relu(self.conv(x))).mean((2, 3))

class Places(Pooled):
    def forward(self, x):
        return self.head(torch.relu(self.conv(x)))

class Double(Pooled):
    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.head(x).mean((2, 3)), x

def half(model):
    return sum(p.square().sum() for p in model.parameters())

def text(model):
    return "much"

def worst(outputs, targets):
    return 0.0
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with models and data of three classes that can be learnt."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text(MODELS + NORMED)
    x, y = learnable(512)
    np.savez("good.npz", x=x, y=y)
    np.savez("bare.npz", x=x)
    return tmp_path


def learnable(count: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Images of noise whose brightest channel is the class."""
    random = np.random.default_rng(0)
    y = np.arange(count) % classes
    x = random.standard_normal((count, 3, 8, 8)).astype(np.float32)
    x[np.arange(count), y] += 1.0
    return x, y


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main.main([str(a) for a in arguments], prog_name="edgesdk")
    return int(ended.value.code or 0)


@pytest.fixture
def fails(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that fails: one line, the documented code, nothing left behind."""

    def check(code: int, *arguments: str | Path) -> str:
        before = {path for path in here.rglob("*") if "__pycache__" not in path.parts}
        assert run("prepare", *arguments, "-q") == code
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith("edgesdk: ") and said.err.count("\n") == 1
        assert {path for path in here.rglob("*") if "__pycache__" not in path.parts} == before
        return said.err

    return check


def answers(model: nn.Module, count: int = 16) -> Tensor:
    with torch.no_grad():
        return model.eval()(torch.from_numpy(learnable(count)[0]))


def given(*more: str | Path) -> list[str | Path]:
    return ["models.py:Normed", "--data", "good.npz", "--epochs", "4", *more]


@pytest.mark.parametrize(
    "way",
    [
        ["sparsify", "--strength", "0.1"],
        ["sparsify", "--on", "channels", "--strength", "0.1"],
        ["sparsify", "--on", "models.py:half", "--strength", "0.1"],
        ["transfer", "--classes", "3", "--frozen-epochs", "2"],
        ["ensemble", "--members", "2"],
        ["ensemble", "--members", "3", "--by", "boosting", "--anew"],
        ["ensemble", "--by", "together", "--members", "2"],
    ],
    ids=lambda way: " ".join(way[:3]),
)
def test_a_command_writes_a_model_that_loads_with_its_weights(
    way: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("prepare", way[0], *given(*way[1:], "--out", "made/prepared", "--json", "-q")) == 0
    said = capsys.readouterr()
    document = contracts.loaded(said.out)
    assert said.err == ""
    folder = here / "made" / "prepared"
    assert {path.name for path in folder.iterdir()} == {"model.py", "weights.safetensors", "manifest.json"}
    manifest = contracts.loaded((folder / "manifest.json").read_text())
    assert manifest["report"] == document["report"]
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == {
        name: file_digest(folder / name) for name in ("model.py", "weights.safetensors")
    }
    model, data = load_model("made/prepared/model.py:model"), load_data("good.npz")
    network = trace(model, data.example)
    assert Task().score(network, data.test, network) == document["report"]["score"]["after"]
    (here / "project").mkdir()
    for name in ("made", "models.py"):  # the folder moves with the model that it is of
        (here / name).rename(here / "project" / name)
    other = load_model(str(here / "project/made/prepared/model.py:model"))
    assert torch.equal(answers(model), answers(other))
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 4 if way[0] != "transfer" else 3)


def test_the_report_in_words_says_how_to_go_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prepare", "sparsify", *given()) == 0
    said = capsys.readouterr().out
    assert "top-1 accuracy on test data: before" in said and "channels near zero: 0.0 % before" in said
    assert "edgesdk deploy prepared/model.py:model" in said
    assert run("prepare", "sparsify", *given()) == 8  # it is not replaced unasked
    assert "--force" in capsys.readouterr().err
    assert run("prepare", "ensemble", *given("--members", "2", "--force")) == 0
    assert "members: " in capsys.readouterr().out


@pytest.mark.parametrize("on", ["gamma", "channels"])
def test_the_term_shrinks_what_it_is_of_and_training_without_it_does_not(on: str, here: Path) -> None:
    model = load_model("models.py:Normed")
    ways = {"without": 1e-9, "with": 1.0}
    made = {way: sparsify(model, "good.npz", way, on=on, strength=s, epochs=6).report for way, s in ways.items()}
    sizes = {way: report["size"]["after"] for way, report in made.items()}
    assert made["without"]["size"]["before"] == made["with"]["size"]["before"]
    assert sizes["with"] < 0.99 * sizes["without"]


def test_an_ensemble_is_a_model_as_any_other_in_every_format(here: Path) -> None:
    made = ensemble("models.py:Normed", "good.npz", members=2, epochs=2)
    x = torch.from_numpy(learnable(64)[0])
    network = trace(made.model, x[:8])
    torch.testing.assert_close(network.flat(x)[0], answers(made.model, 64), rtol=1e-4, atol=1e-5)
    assert len([group for group in network.graph.groups if group.fixed is None]) == 2
    plain = integer(network, {})
    for runtime, name in (("onnxruntime", "a.onnx"), ("openvino", "a.xml"), ("litert", "a.tflite")):
        export(plain, x[:8], here / name, runtime)
        assert parity(plain, Artifact(here / name, plain.graph, {}, runtime), [x]).error < 1e-3


def test_an_ensemble_teaches(here: Path) -> None:
    made = ensemble("models.py:Sure", "good.npz", members=2, epochs=0.5)
    x, y = (torch.from_numpy(part) for part in learnable(512))
    batches = list(zip(x.split(64), y.split(64), strict=True))
    small = trace(load_model("models.py:Untaught"), x[:8])
    recovery = Recovery((Teacher(made.model),), (Term(SOFT),), rate=0.03)
    taught = recovered(small, small, {}, batches, [x[:64]], Task(), Schedule(6.0), recovery=recovery).network
    before, after = (Task().score(network, batches, small) for network in (small, taught))
    assert after > before + 20


def test_transfer_leaves_a_frozen_body_alone_and_learns_with_the_rest(here: Path) -> None:
    body = load_model("models.py:Normed")
    before = {name: value.clone() for name, value in body.state_dict().items()}
    frozen = transfer(body, "good.npz", "a", classes=3, epochs=3, frozen_epochs=3)
    tuned = transfer(body, "good.npz", "b", classes=3, epochs=6, frozen_epochs=3)
    assert all(torch.equal(value, before[name]) for name, value in body.state_dict().items())
    state = frozen.model.state_dict()
    inside = [name for name in before if not name.startswith("fc.") and not name.endswith("num_batches_tracked")]
    assert len(inside) == 6 and all(torch.equal(state[name], before[name]) for name in inside)
    assert not any(torch.equal(tuned.model.state_dict()[name], before[name]) for name in inside)
    score = tuned.report["score"]
    assert score["head"] > score["before"] + 5 and score["after"] > score["before"] + 30
    assert frozen.report["score"]["head"] == frozen.report["score"]["after"]
    assert not (frozen.path / "model.py").exists()  # of a module there is nothing to write down


def test_a_term_that_turns_nan_ends_the_training_and_the_last_good_weights_are_kept(here: Path) -> None:
    steps: list[float] = []

    def spoilt(model: nn.Module) -> Tensor:
        steps.append(1.0)
        norm = torch.stack([p.abs().sum() for p in model.parameters()]).sum()
        return norm * math.nan if 10 < len(steps) < 13 else norm

    made = sparsify(load_model("models.py:Normed"), "good.npz", on=spoilt, strength=0.01, epochs=8)
    (note,) = [note for note in made.report["notes"] if "not finite" in note]
    assert "sparsity training was stopped after 1.8 epochs" in note and "after 1.0 epochs were kept" in note
    assert all(bool(value.isfinite().all()) for value in made.model.state_dict().values())

    def lost(model: nn.Module) -> Tensor:
        return model.get_parameter("fc.weight").sum() * math.nan

    with pytest.raises(DataError, match="the sparsity training's loss is not finite"):
        sparsify(load_model("models.py:Normed"), "good.npz", "b", on=lost, epochs=1)
    assert not Path("b").exists()


def test_without_labels_a_model_can_be_made_sparse_and_nothing_else(here: Path) -> None:
    made = sparsify("models.py:Normed", "bare.npz", epochs=2, strength=0.1)
    assert made.report["score"]["before"] == 100 and "fidelity" in made.report["metric"]
    for way in (lambda: ensemble("models.py:Normed", "bare.npz", "b"),
                lambda: transfer("models.py:Normed", "bare.npz", "b", classes=3)):  # fmt: skip
        with pytest.raises(DataError, match="no labels to learn from"):
            way()


def test_members_learn_together_without_labels_or_linear_heads_and_by_a_loss_of_ones_own(
    here: Path,
) -> None:
    made = ensemble("models.py:Pooled", "bare.npz", "a", by="together", members=2, epochs=0.5, force=True)
    assert made.report["by"] == "together" and "fidelity" in made.report["metric"]
    calls: list[int] = []

    def own(outputs: list[Tensor], y: Tensor) -> Tensor:
        calls.append(len(y))
        return nn.functional.cross_entropy(outputs[0] if isinstance(outputs, (list, tuple)) else outputs, y)

    ensemble("models.py:Normed", "good.npz", "b", by="together", members=2, epochs=1, loss=own)
    assert len(calls) > 5, "at each step"


@pytest.mark.parametrize("by", ["bagging", "boosting", "together"])
def test_members_answer_one_tensor_and_vote_along_the_axis_of_its_classes(by: str, here: Path) -> None:
    x, y = learnable(128)
    with pytest.raises(UsageError, match="answers more than one tensor"):
        ensemble("models.py:Double", (x, y), by=by, members=2, force=True)
    y = np.broadcast_to(y[:, None, None], (128, 6, 6)).copy()
    if by == "boosting":
        with pytest.raises(UsageError, match="several classes in each sample"):
            ensemble("models.py:Places", (x, y), by=by, members=2, force=True)
        return
    made = ensemble("models.py:Places", (x, y), by=by, members=2, epochs=0.3, force=True)
    assert torch.allclose(answers(made.model).exp().sum(1), torch.ones(16, 6, 6), atol=1e-5)
    assert torch.equal(answers(load_model("prepared/model.py:model")), answers(made.model))


def test_boosting_of_what_is_always_right_is_refused(here: Path) -> None:
    x, y = learnable(256)
    x[np.arange(256), y] += 20
    with pytest.raises(DataError, match="never wrong on the training data, and one is no ensemble"):
        ensemble("models.py:Sure", (x, y), by="boosting", epochs=0.5)
    assert not Path("prepared").exists()


def test_regression_is_bagged_by_its_mean(here: Path) -> None:
    x, _ = learnable(256)
    y = np.repeat(x.mean((2, 3)).sum(1, keepdims=True), 4, 1)
    made = ensemble("models.py:Untaught", (x, y), members=2, anew=True, epochs=12, metric="mse")
    assert isinstance(made.model, Ensemble) and not made.model.classify
    assert made.report["score"]["after"] > made.report["score"]["before"]
    for by in ("boosting", "together"):
        with pytest.raises(UsageError, match=f"{by} is for models that classify"):
            ensemble("models.py:Normed", (x, y), "b", by=by, metric="mse")


def test_the_head_alone_learns_no_longer_than_all(here: Path) -> None:
    for epochs, alone in ((0.5, 0.5), (3, 2)):
        made = transfer("models.py:Normed", "good.npz", "short", classes=3, epochs=epochs, force=True)
        assert made.report["frozen_epochs"] == alone


@pytest.mark.parametrize("way", ["sparsify", "ensemble"])
def test_a_model_that_makes_no_sense_is_refused_before_it_is_taught(way: str, fails) -> None:
    names = ("Lost", "Dead", "Untaught")
    said = {name: fails(3, way, f"models.py:{name}", *given()[1:]) for name in names}
    assert "the model answers NaN" in said["Lost"] and "the same answer to each of 102 samples" in said["Dead"]
    assert "the dense model scores" in said["Untaught"]
    if way == "ensemble":  # what they learn from
        assert "the dense model scores" in fails(3, way, "models.py:Untaught", *given("--by", "together", "--anew")[1:])
    assert all("give --weights, for none were given" in said[name] for name in ("Dead", "Untaught"))


def test_a_model_that_is_taught_anew_need_not_make_sense_and_another_can_be_forced(here: Path) -> None:
    given = ("models.py:Untaught", "--data", "good.npz", "--epochs", "0.5")
    assert run("prepare", "transfer", *given, "--classes", "3", "--out", "a") == 0
    assert run("prepare", "ensemble", *given, "--members", "2", "--anew", "--out", "b") == 0
    assert run("prepare", "sparsify", *given, "--force", "--out", "c") == 0
    notes = contracts.loaded((here / "c" / "manifest.json").read_text())["report"]["notes"]
    assert any(note.startswith("forced: the dense model scores") for note in notes)


@pytest.mark.parametrize("strength", ["0", "-0.1", "1.5", "nan", "inf"])
def test_a_strength_out_of_range_is_refused(strength: str, fails) -> None:
    why = "is not a finite number" if strength in ("nan", "inf") else "a strength of"
    assert why in fails(2, "sparsify", *given("--strength", strength))


def test_what_does_not_fit_is_refused(fails) -> None:
    assert "no BatchNorm" in fails(3, "sparsify", "models.py:Sure", "--data", "good.npz")
    assert "'gama'" in fails(2, "sparsify", *given("--on", "gama"))
    assert "no scalar" in fails(2, "sparsify", *given("--on", "models.py:text"))
    assert "failed with" in fails(2, "sparsify", *given("--on", "models.py:number"))
    assert "1 member" in fails(2, "ensemble", *given("--members", "1"))
    assert "'stacking'" in fails(2, "ensemble", *given("--by", "stacking"))
    assert "label 2 is out of range" in fails(4, "transfer", *given("--classes", "2"))
    assert "0 classes" in fails(2, "transfer", *given("--classes", "0"))
    assert "5 frozen of 4 epochs" in fails(2, "transfer", *given("--classes", "3", "--frozen-epochs", "5"))
    assert "no head" in fails(3, "transfer", "models.py:Headless", "--data", "good.npz", "--classes", "3")
    assert "has no loss" in fails(2, "transfer", *given("--classes", "3", "--metric", "models.py:worst"))
    assert "--epochs" in fails(2, "sparsify", *given("--epochs", "0"))
    assert "no data" in fails(2, "sparsify", "models.py:Normed")
    assert "without a MODEL" in fails(2, "ensemble", "--weights", "w.safetensors")


def test_without_training_data_there_is_nothing_to_prepare(here: Path) -> None:
    x, y = (torch.from_numpy(part) for part in learnable(64))
    data = SimpleNamespace(calibration=[(x, y)], test=[(x, y)])
    with pytest.raises(DataError, match="there is no training data"):
        sparsify("models.py:Normed", data)
    with pytest.raises(ModelError):
        transfer("models.py:nothing", data, classes=3)
