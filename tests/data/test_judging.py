"""Of several outputs one is judged, and said; labels of every form fit or are refused; metrics with a state."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgesdk.core.errors import DataError, EdgeSdkError, ModelError, UsageError
from edgesdk.data.data import check
from edgesdk.data.metrics import read_metric
from edgesdk.data.task import Task
from edgesdk.network.torchvision import import_torchvision
from edgesdk.network.trace import trace
from edgesdk.workflows.inputs import Inputs, read_inputs

Pair = namedtuple("Pair", "logits boxes")
X = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(200) % 3


class Many(nn.Module):
    """Logits of three classes and what ``form`` puts beside them."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any], other: int = 4) -> None:
        super().__init__()
        self.logits, self.other, self.form = nn.Linear(6, 3), nn.Linear(6, other), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.logits(x), self.other(x))


def read(model: nn.Module, y: Any = Y, metric: Any = "top-1", **more: Any) -> Inputs:
    return read_inputs(model, (X, y), None, metric, 0, **more)


def refused(kind: type[EdgeSdkError], call: Callable[[], Any], *parts: str) -> None:
    with pytest.raises(kind) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message and all(part in message for part in parts), message


def score(inputs: Inputs) -> float:
    return inputs.task.score(inputs.run, inputs.data.test, inputs.run)


def accuracy(inputs: Inputs, of: Callable[[Any], Tensor]) -> float:
    right = torch.cat([of(inputs.run(x)).argmax(1) == y for x, y in inputs.data.test])
    return 100 * float(right.double().mean())


# Which output


@pytest.mark.parametrize(
    ("form", "name", "of"),
    [
        (lambda a, b: {"boxes": b, "logits": a}, "logits", lambda out: out["logits"]),
        (lambda a, b: (b.view(-1, 2, 2), a), "1", lambda out: out[1]),
        (lambda a, b: Pair(a, b.view(-1, 2, 2)), "logits", lambda out: out.logits),
        (lambda a, b: {"aux": [b.view(-1, 4, 1)], "main": {"out": a}}, "main.out", lambda out: out["main"]["out"]),
        (lambda a, b: (b[:, :2], a), "1", lambda out: out[1]),  # two figures cannot tell three classes apart
    ],
)
def test_the_one_that_alone_can_be_meant_is_judged_and_said(form: Any, name: str, of: Any) -> None:
    two = Many(form)
    if name == "logits" and isinstance(form(X[:1, :3], X[:1, :4]), dict):
        two = Many(lambda a, b: {"boxes": b.view(-1, 2, 2), "logits": a})
    inputs = read(two)
    assert inputs.task.output_name == name and name in inputs.task.name
    said = f"of the model's outputs {name} (N, 3) is judged, the only one that fits"
    assert any(said in note for note in inputs.data.notes)
    assert score(inputs) == pytest.approx(accuracy(inputs, of))


def test_where_several_can_be_meant_it_must_be_said() -> None:
    model = Many(lambda a, b: {"main": a, "aux": b})
    refused(UsageError, lambda: read(model), "outputs main, aux may be", "--output, of main (N, 3), aux (N, 4)")
    for output in ("aux", "1", 1):
        inputs = read(model, output=output)
        assert score(inputs) == pytest.approx(accuracy(inputs, lambda out: out["aux"]))
        assert not any("judged" in note for note in inputs.data.notes)
    refused(UsageError, lambda: read(model, output="head"), "no output 'head'", "main (N, 3), aux (N, 4)")
    refused(UsageError, lambda: read(model, output=2), "no output 2")


def test_labels_that_fit_no_output_are_said() -> None:
    model = Many(lambda a, b: (a, b))
    refused(DataError, lambda: read(model, Y + 4), "none of the model's outputs", "(N, 3)", "(N, 4)")
    refused(DataError, lambda: read(model, torch.randn(200, 5), "mse"), "fits targets of shape (N, 5)")


class Masks(nn.Module):
    """Logits of three classes at each pixel, and those of the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Conv2d(1, 3, 1)

    def forward(self, x: Tensor) -> Any:
        y = self.logits(x)
        return {"out": y, "aux": y.mean((2, 3))}


@pytest.mark.parametrize("ignored", [255, 3])
def test_a_label_out_of_range_is_said_where_one_output_alone_has_its_shape(ignored: int) -> None:
    """As in masks of VOC, where 255 is not judged: not that no output fits."""
    x, y = torch.randn(200, 1, 4, 4), torch.arange(3200).reshape(200, 4, 4) % 3
    y[:, 0, 0] = ignored
    inputs = read_inputs(Masks(), (x, y), None, "top-1", 0)
    told = f"label {ignored} is out of range: the model has 3 classes"
    refused(DataError, lambda: inputs.checked(None, False, lambda *_: None), told, "-100 where nothing is to be judged")


def test_every_output_is_judged_by_fidelity_of_figures() -> None:
    inputs = read_inputs(Many(lambda a, b: {"boxes": b, "scores": a}), (X, None), None, "mse", 0)
    assert any("all of the model's outputs are judged together" in note for note in inputs.data.notes)
    off = inputs.task.score(lambda x: {k: v + 1 for k, v in inputs.run(x).items()}, inputs.data.test, inputs.run)
    assert off == pytest.approx(-1) and score(inputs) == 0


def test_targets_of_several_outputs_are_those_of_the_one_that_is_judged() -> None:
    boxes = torch.randn(200, 4)
    model = Many(lambda a, b: {"boxes": b, "scores": a})
    batches = [(X[i : i + 50], {"boxes": boxes[i : i + 50], "scores": Y[i : i + 50]}) for i in range(0, 200, 50)]
    source = type("Parts", (), {"train": None, "calibration": batches, "test": batches})
    inputs = read_inputs(model, source, None, "mse", 0, output="boxes")
    with torch.no_grad():
        wanted = -float(F.mse_loss(model(X)["boxes"], boxes))
    assert score(inputs) == pytest.approx(wanted, rel=1e-5)


def test_a_traced_network_is_judged_by_the_same_output() -> None:
    inputs = read(Many(lambda a, b: {"main": b, "aux": a}), output="aux")
    network = trace(inputs.model, inputs.data.example)
    assert inputs.task.score(network, inputs.data.test, network) == pytest.approx(score(inputs))
    x, y = inputs.data.calibration[0]
    outputs = network.flat(x)
    assert torch.allclose(inputs.task.supervised(outputs, y), F.cross_entropy(inputs.run(x)["aux"], y))


# Labels


def one_hot(y: Tensor) -> Tensor:
    return F.one_hot(y, 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y.to(torch.uint8), lambda y: y.to(torch.int16), lambda y: y.int(), lambda y: y[:, None],
        one_hot, lambda y: one_hot(y).float(), lambda y: one_hot(y).to(torch.uint8), lambda y: one_hot(y).bool(),
        lambda y: 0.9 * one_hot(y) + 0.1 / 3,
    ],
)  # fmt: skip
def test_labels_of_every_form_score_alike(change: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(1)
    model = nn.Linear(6, 3)
    plain, other = read(model), read(model, change(Y))
    assert score(other) == score(plain)
    (x, y), (_, z) = plain.data.calibration[0], other.data.calibration[0]
    soft = z.is_floating_point()
    loss = F.cross_entropy(model(x), z if soft else y)
    assert torch.allclose(other.task.supervised([model(x)], z), loss)
    assert other.data.train is not None
    for x, z in other.data.train:
        assert torch.isfinite(other.task.distillation([model(x)], [model(x)], z))


class Segments(nn.Module):
    def __init__(self, last: bool = False) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3, padding=1), last

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).permute(0, 2, 3, 1) if self.last else self.conv(x)


# With the classes last, an axis of one in the labels would stand where the classes are: that is no case.
@pytest.mark.parametrize(("last", "with_axis"), [(False, False), (False, True), (True, False)])
def test_every_pixel_of_a_segmentation_is_judged_but_those_to_ignore(last: bool, with_axis: bool) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(60, 3, 6, 5), torch.randint(0, 4, (60, 6, 5))
    y[:, 0] = -100
    model = Segments(last).eval()
    inputs = read_inputs(model, (x, y[:, None] if with_axis else y), None, "top-1", 0)
    count = right = 0
    with torch.no_grad():
        for batch, labels in inputs.data.test:
            answers = model(batch).argmax(-1 if last else 1)
            labels = labels.squeeze(1) if with_axis else labels
            right += int((answers == labels)[:, 1:].sum())
            count += labels[:, 1:].numel()
    assert score(inputs) == pytest.approx(100 * right / count)
    batch, labels = inputs.data.calibration[0]
    assert torch.isfinite(inputs.task.supervised([model(batch)], labels))
    assert torch.isfinite(inputs.task.distillation([model(batch)], [model(batch)], labels))


def test_several_labels_of_a_sample_have_a_metric_of_their_own() -> None:
    torch.manual_seed(0)
    y = (torch.rand(200, 3) < 0.4).float()
    refused(DataError, lambda: read(nn.Linear(6, 3), y), "mark several or no classes", "--metric multilabel-f1")
    for model in (nn.Linear(6, 3), nn.Sequential(nn.Linear(6, 3), nn.Sigmoid())):
        inputs = read(model, y, "multilabel-f1")
        pairs = [(inputs.run(x), wanted) for x, wanted in inputs.data.test]
        limit = 0.5 if isinstance(model, nn.Sequential) else 0.0
        answered, wanted = (torch.cat(side) for side in zip(*((out > limit, y > 0) for out, y in pairs), strict=True))
        f1 = 200 * int((answered & wanted).sum()) / int(answered.sum() + wanted.sum())
        assert score(inputs) == pytest.approx(f1)
        assert torch.isfinite(inputs.task.supervised([pairs[0][0]], pairs[0][1]))
    refused(DataError, lambda: score(read(nn.Linear(6, 3), y * 2, "multilabel-f1")), "0 or 1")


@pytest.mark.parametrize(
    ("shape", "targets", "metric"),
    [
        ((1,), (), "mse"), ((), (1,), "mse"), ((3, 4), (1, 3, 4), "mse"), ((1, 3, 4), (3, 4), "mse"),
        ((5,), (1,), "mse"), ((5,), (), "mse"), ((3,), (1,), "multilabel-f1"), ((3,), (3, 1), "multilabel-f1"),
    ],
)  # fmt: skip
def test_shapes_that_would_broadcast_are_an_error_and_never_a_figure(shape: Any, targets: Any, metric: str) -> None:
    class Shaped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1).view(-1, *(1 for _ in shape)).expand(-1, *shape).clone()

    y = torch.zeros(200, *targets)
    refused(DataError, lambda: score(read(Shaped(), y, metric)), "targets of shape", "for outputs of shape", "to one")


def test_class_numbers_that_do_not_fit_are_an_error() -> None:
    task = Task()
    for logits, y in (((4, 3, 5), (4,)), ((4, 3), (4, 5)), ((4, 3, 2, 2), (4, 1, 1, 2)), ((4,), (4,))):
        with pytest.raises(DataError, match="do not fit outputs of shape"):
            batches = [(torch.rand(4, 1), torch.zeros(y).long())]
            task.score(lambda x, shape=logits: torch.rand(shape), batches, lambda x: x)


AXES: dict[str, Callable[[Tensor], Tensor]] = {
    "(N, C, 1)": lambda a: a[..., None], "(N, 1, C)": lambda a: a[:, None],
    "(N, C, 1, 1)": lambda a: a[..., None, None],
}  # fmt: skip


@pytest.mark.parametrize("axes", AXES)
def test_axes_of_one_beside_the_classes_change_nothing(axes: str) -> None:
    torch.manual_seed(1)
    plain = nn.Linear(6, 3)

    class Shaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = plain

        def forward(self, x: Tensor) -> Tensor:
            return AXES[axes](self.inner(x))

    one, other = read(plain), read(Shaped())
    check(other.data, other.model, True, other.task.output, other.task.target)
    assert score(other) == score(one)
    x, y = other.data.calibration[0]
    assert torch.allclose(other.task.supervised([other.model(x)], y), F.cross_entropy(plain(x), y))
    teacher = [other.model(x).detach()]
    assert torch.isfinite(other.task.distillation([other.model(x)], teacher, y))


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_labels_of_several_heads_are_each_their_own(form: str) -> None:
    model = Many((lambda a, b: {"main": a, "aux": b}) if form == "dict" else (lambda a, b: (a, b)))
    aux = Y.flip(0) % 4
    both = {"main": Y, "aux": aux} if form == "dict" else (Y, aux)
    part = [(X, both)]
    source = type("Parts", (), {"train": part, "calibration": part, "test": part})
    refused(UsageError, lambda: read_inputs(model, source, None, "top-1", 0), "say which with --output")
    for place, wanted in enumerate((Y, aux)):
        inputs = read_inputs(model, source, None, "top-1", 0, output=place)
        check(inputs.data, inputs.model, True, inputs.task.output, inputs.task.target)
        with torch.no_grad():
            outputs = model(X)
        answers = outputs[("main", "aux")[place]] if form == "dict" else outputs[place]
        assert score(inputs) == pytest.approx(100 * float((answers.argmax(1) == wanted).double().mean()))
    only = {"aux": aux} if form == "dict" else None
    if only is not None:
        one = [(X, only)]
        inputs = read_inputs(
            model, type("Parts", (), {"train": one, "calibration": one, "test": one}), None, "top-1", 0
        )
        assert inputs.task.output_name == "aux"


def test_class_numbers_in_the_place_of_scores_are_refused_for_what_they_are() -> None:
    for form in (lambda a, b: a.argmax(1), lambda a, b: {"classes": a.argmax(1), "boxes": b}):
        inputs = read(Many(form), output=0)
        call = lambda inputs=inputs: check(inputs.data, inputs.model, True, 0, inputs.task.target)  # noqa: E731
        refused(ModelError, call, "holds int64, which is no score", "return the scores that classes are chosen by")
    refused(
        DataError, lambda: read(Many(lambda a, b: a), Y[:, None].float()), "the labels y are float32", "whole class"
    )


@pytest.mark.parametrize(
    ("y", "kind", "says"),
    [
        (None, ModelError, ("without labels nothing says which axis holds classes", "give labels, or --metric mse")),
        (Y, DataError, ("the labels are one for each sample", "give a class for each place")),
    ],
)
def test_outputs_with_places_want_labels_for_each(y: Tensor | None, kind: type[EdgeSdkError], says: Any) -> None:
    inputs = read(Many(lambda a, b: torch.stack([a, a, b[:, :3]], 2)), y)
    refused(kind, lambda: check(inputs.data, inputs.model, True, inputs.task.output, inputs.task.target), *says)


# Metrics


class Worst:
    """A metric that cannot be said as a mean of batches: the worst sample of all."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.seen.append((outputs - targets).abs().amax(1))

    def compute(self) -> Tensor:
        return -torch.cat(self.seen).max()


def test_a_metric_with_a_state_sees_the_whole_set_and_starts_anew() -> None:
    y = torch.randn(200, 3)
    metric = Worst()
    for given in (metric, Worst):
        inputs = read(nn.Linear(6, 3), y, given)
        apart = max(float((inputs.run(x) - wanted).abs().max()) for x, wanted in inputs.data.test)
        assert score(inputs) == score(inputs) == pytest.approx(-apart) and inputs.task.name == "Worst"
    assert not metric.seen


METRICS = """
import torch
class Spread:
    def __init__(self): self.all = []
    def update(self, outputs, targets): self.all.append(outputs)
    def compute(self): return torch.cat(self.all).std()
def made():
    return Spread()
def plain(outputs, targets):
    return float((outputs.argmax(1) == targets).float().mean())
class Broken(Spread):
    def compute(self): return {"map": 1.0, "map_50": 2.0}
def fails(outputs, targets):
    return outputs.no_such_thing
def vector(outputs, targets):
    return outputs
three = 3
"""


def test_metrics_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METRICS)
    model, file = nn.Linear(6, 3), f"{tmp_path}/mine.py"
    spread = [score(read(model, Y, f"{file}:{name}")) for name in ("Spread", "made")]
    inputs = read(model, Y, f"{file}:plain")
    assert spread[0] == spread[1] == pytest.approx(float(torch.cat([inputs.run(x) for x, _ in inputs.data.test]).std()))
    assert score(inputs) == pytest.approx(score(read(model)) / 100)
    refused(UsageError, lambda: score(read(model, Y, f"{file}:Broken")), "Broken", "dict of map, map_50, not one")
    refused(UsageError, lambda: score(read(model, Y, f"{file}:fails")), "fails failed with AttributeError")
    refused(UsageError, lambda: score(read(model, Y, f"{file}:vector")), "not one figure")
    refused(UsageError, lambda: read(model, Y, f"{file}:three"), "cannot be called")
    refused(UsageError, lambda: read(model, Y, "beauty"), "no metric 'beauty'", "torchmetrics:NAME")


def test_metrics_of_torchmetrics_are_taken_by_name_or_as_objects() -> None:
    import_torchvision()  # which torchmetrics takes where it is there
    torchmetrics = pytest.importorskip("torchmetrics")
    model = nn.Linear(6, 3)
    plain = read(model, Y, lambda outputs, targets: 0.0)
    logits, y = (torch.cat(side) for side in zip(*((plain.run(x), y) for x, y in plain.data.test), strict=True))
    f1 = torchmetrics.classification.MulticlassF1Score(num_classes=3)
    wanted = float(f1(logits, y))
    f1.reset()
    for metric in (
        f1, "torchmetrics:MulticlassF1Score", "torchmetrics:F1Score(average='macro')",
        "torchmetrics.classification:MulticlassF1Score(num_classes=3)",
    ):  # fmt: skip
        assert score(read(model, Y, metric)) == pytest.approx(wanted)
    several = Many(lambda a, b: (b, a), other=3)
    refused(UsageError, lambda: read(several, Y, "torchmetrics:MulticlassF1Score"), "--output")
    assert 0 <= score(read(several, Y, "torchmetrics:MulticlassF1Score", output=1)) <= 1
    y = torch.randn(200, 3)
    error = read(model, y, "torchmetrics:MeanSquaredError")
    assert score(error) == pytest.approx(score(read(model, y, "mse")), rel=1e-4)  # less is better: negated
    wrong = {"Beauty": "no metric 'Beauty'", "F1Score(3)": "by name", "F1Score(a=1)": "making torchmetrics'"}
    for spec, said in wrong.items():
        refused(UsageError, lambda spec=spec: read(model, Y, f"torchmetrics:{spec}"), said)


def test_a_metric_is_read_once() -> None:
    assert read_metric("mse") == "mse" and read_metric(max) is max
    refused(UsageError, lambda: read_metric(3), "neither update and compute nor a call")  # type: ignore[arg-type]


def test_a_model_that_answers_no_tensor_is_said() -> None:
    refused(ModelError, lambda: read(Many(lambda a, b: None)), "answers with a NoneType")


UNCOMPILED = """
import torch

@torch.library.register_fake("torchvision::nms")
def nms(boxes, scores, overlap):
    return boxes
"""
"""What torchvision does first as it is imported: PyTorch fails where the compiled part did not declare the operator."""


def test_a_file_is_read_whose_imports_take_a_torchvision_without_its_compiled_part(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text(UNCOMPILED)
    (tmp_path / "library.py").write_text("import torchvision\n")
    (tmp_path / "own.py").write_text("import library\n\ndef metric(outputs, targets):\n    return 7.0\n")
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from edgesdk.data.metrics import read_metric\n"
        "print(read_metric('own.py:metric')(None, None))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "7.0\n", done.stderr
