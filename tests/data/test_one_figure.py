"""Models that answer one figure, or a mask of yes and no: judged, learnt and held against chance, whatever the axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.errors import DataError, ModelError
from edgesdk.core.plan import INT8, Option
from edgesdk.data.data import check
from edgesdk.data.metrics import started
from edgesdk.data.points import point
from edgesdk.data.sanity import judged_dense
from edgesdk.data.targets import BINARY, MULTI_LABEL
from edgesdk.network.trace import trace
from edgesdk.train.objective import Objective
from edgesdk.train.recovery import Recovery
from edgesdk.workflows.inputs import Inputs, read_inputs


class Answers(nn.Module):
    """Knows the sign of the first figure, roughly; its logits or probabilities in another ``form``."""

    def __init__(self, form: Callable[[Tensor], Tensor], ends: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.last, self.form, self.ends = nn.Linear(6, 8), nn.Linear(8, 1), form, ends
        with torch.no_grad():
            for part in (self.inner, self.last):
                part.weight.mul_(0.05)
                part.bias.zero_()
            self.inner.weight[0, 0] = self.last.weight[0, 0] = 2.0
            self.inner.weight[1, 0] = self.last.weight[0, 1] = -2.0
            self.last.weight[0, 1] = -2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self.ends(self.last(self.inner(x).relu())))


X = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
PIXELS = torch.randn(300, 4, 5, 6, generator=torch.Generator().manual_seed(0))
YES, MASK = (X[:, 0] > 0).long(), (PIXELS[..., 0] > 0).long()
FORMS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor, Tensor]] = {
    "(N,) and (N,)": (lambda a: a[:, 0], X, YES), "(N,) and (N, 1)": (lambda a: a[:, 0], X, YES[:, None]),
    "(N, 1) and (N,)": (lambda a: a, X, YES), "(N, 1) and (N, 1) floats": (lambda a: a, X, YES[:, None].float()),
    "bool": (lambda a: a, X, YES.bool()),
    "a mask": (lambda a: a.permute(0, 3, 1, 2), PIXELS, MASK),
    "a mask with its axis": (lambda a: a.permute(0, 3, 1, 2), PIXELS, MASK[:, None]),
    "a mask without": (lambda a: a[..., 0], PIXELS, MASK[:, None].float()),
}  # fmt: skip
ENDS: dict[str, Callable[[Tensor], Tensor]] = {"logits": lambda a: a, "probabilities": torch.sigmoid}


def read(form: str, ends: str = "logits", metric: Any = BINARY) -> Inputs:
    torch.manual_seed(0)
    make, x, y = FORMS[form]
    return read_inputs(Answers(make, ENDS[ends]), (x, y), None, metric, 0)


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("form", FORMS)
def test_yes_and_no_are_judged_and_learnt_whatever_the_axes(form: str, ends: str) -> None:
    inputs = read(form, ends)
    check(inputs.data, inputs.model, inputs.task.classifies, inputs.task.output)
    limit = 0.0 if ends == "logits" else 0.5
    pairs = [((inputs.run(x) > limit).flatten(), (y > 0).flatten()) for x, y in inputs.data.test]
    right = 100 * float(torch.cat([given == wanted for given, wanted in pairs]).double().mean())
    assert 80 < right <= 100
    assert inputs.task.score(inputs.run, inputs.data.test, inputs.run) == pytest.approx(right)
    assert judged_dense(inputs.model, inputs.data, inputs.task).error is None
    x, y = inputs.data.calibration[0]
    outputs = inputs.run(x)
    wanted = y.reshape(outputs.shape).float()
    plain = F.binary_cross_entropy_with_logits if ends == "logits" else F.binary_cross_entropy
    assert torch.allclose(inputs.task.supervised([outputs], y), plain(outputs, wanted))
    network = trace(inputs.model, x)
    loss = Objective(Recovery(), network, network, inputs.task, x)(network, x, y, 0.0, False)
    assert torch.isfinite(loss)
    assert inputs.task.score(inputs.run, [(x, None)], inputs.run) if not inputs.task.labelled else True


@pytest.mark.parametrize("metric", [BINARY, MULTI_LABEL, "mse"])
def test_a_figure_without_an_axis_passes_every_stage(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, x, y = FORMS["(N,) and (N,)"]
    x = x.clone()
    x[::50, 1] = 14  # what ranges are looked at more closely for
    inputs = read_inputs(Answers(make, ENDS["logits"]), (x, y.float()), None, metric, 0)
    assert judged_dense(inputs.model, inputs.data, inputs.task).score is not None
    network = trace(inputs.model, inputs.data.example)
    eight = {layer.name: Option(INT8, 8) for layer in network.graph.layers if layer.macs}
    ready = integer(network, eight)
    calibrate(ready, [x for x, _ in inputs.data.calibration])
    assert ready.flat(inputs.data.example)[0].shape == (len(inputs.data.example),)
    assert point(inputs.task, inputs.run, inputs.data.test) > 0


def test_probabilities_that_rounding_takes_beyond_1_are_none_the_less() -> None:
    meter = started(BINARY, 0.5)
    meter.update(torch.tensor([1.0000001, 0.2, -1e-7]), torch.tensor([1, 0, 0]))
    assert meter.compute() == 100
    inputs = read("(N, 1) and (N,)", "probabilities")
    assert inputs.task.limit == 0.5
    assert torch.isfinite(inputs.task.supervised([torch.tensor([[1.0000001], [-1e-7]])], torch.tensor([1, 0])))


def test_a_classifier_of_one_figure_is_told_of_the_metric() -> None:
    for form in ("(N,) and (N,)", "(N, 1) and (N,)"):
        with pytest.raises((ModelError, DataError), match="--metric binary-accuracy") as raised:
            inputs = read(form, metric="top-1")
            check(inputs.data, inputs.model, inputs.task.classifies, inputs.task.output)
        assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match=r"targets of shape \(N, 2\) for outputs of shape \(N, 1\)"):
        inputs = read_inputs(Answers(lambda a: a, ENDS["logits"]), (X, YES[:, None].repeat(1, 2)), None, BINARY, 0)
        inputs.task.score(inputs.run, inputs.data.test, inputs.run)


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


class Squared:
    def __init__(self) -> None:
        self.total = 0.0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.total += float(squared(outputs, targets))

    def compute(self) -> float:
        return -self.total


@pytest.mark.parametrize("form", ["(N,) and (N, 1)", "(N, 1) and (N,)"])
@pytest.mark.parametrize(
    "more",
    [
        {"metric": lambda outputs, targets: -float(squared(outputs, targets))}, {"metric": Squared},
        {"metric": BINARY, "loss": squared}, {"metric": BINARY, "loss": nn.MSELoss()},
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_metrics_and_losses_of_ones_own_that_repeat_targets_are_told(form: str, more: dict[str, Any]) -> None:
    make, x, y = FORMS[form]
    torch.manual_seed(0)
    model = Answers(make, ENDS["logits"])
    more = dict(more)
    metric, loss = more.pop("metric"), more.pop("loss", None)
    with pytest.raises(DataError, match=r"repeats targets of shape .* along outputs of shape"):
        read_inputs(model, (x, y.float()), None, metric, 0, loss=loss)
    same = y.float().reshape(model(x).shape)
    assert read_inputs(model, (x, same), None, metric, 0, loss=loss).task.output is not None or metric is Squared

    def careful(outputs: Tensor, targets: Tensor) -> float:
        return -float(squared(outputs.flatten(), targets.flatten()))

    assert read_inputs(model, (x, y.float()), None, careful, 0).task.labelled
