"""The user's module is the reference: what tracing, a batch or a second call would change is refused by name."""

from __future__ import annotations

import copy
import functools
import random
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import FidelityError, ModelError
from edgesdk.core.plan import Option
from edgesdk.export.formats import export
from edgesdk.export.parity import compared_by_output, faithful, parity
from edgesdk.network.reference import Reference, check
from edgesdk.network.trace import trace

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(5))


class Base(nn.Module):
    """A convolution and a head; what lies between is each test's."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.stem, self.middle, self.head = nn.Conv2d(3, 8, 3), middle, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.stem(x)).mean((2, 3)))


class Calling(nn.Module):
    """A module out of a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Counting(nn.Module):
    """Remembers how often it was called in a buffer, and lets the answer depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class Remembering(nn.Module):
    """The same in an attribute."""

    last = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.last = 1.0 - self.last
        return x + self.last


def centred(x: Tensor) -> Tensor:
    return x - x.mean(0, keepdim=True)


def otherwise(x: Tensor) -> Tensor:
    return x * 2 if torch.compiler.is_exporting() else x * 3


RANDOM = {
    "dropout without training": Calling(lambda x: F.dropout(x, 0.3)),
    "noise": Calling(lambda x: x + torch.randn_like(x)),
    "a choice of Python's": Calling(lambda x: x * random.random()),
    "a choice of NumPy's": Calling(lambda x: x * float(np.random.rand())),
}
MIXING = {
    "statistics of the batch": (nn.BatchNorm2d(8, track_running_stats=False), "batch_norm in middle"),
    "centred over the batch": (Calling(centred), r"mean in middle \(test_reference.py, line \d+\)"),
    "scaled by the batch": (Calling(lambda x: x / x.abs().amax()), "amax in middle"),
    "softmax over the batch": (Calling(lambda x: x.softmax(0)), "softmax in middle"),
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_model_that_is_random_in_evaluation_mode_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=r"draws random numbers: two calls differ from .*middle.* on"):
        trace(Base(RANDOM[name]), X)


@pytest.mark.parametrize("middle", [Counting(), Remembering()], ids=["in a buffer", "in an attribute"])
def test_a_model_that_remembers_calls_is_refused(middle: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"remembers earlier calls: .* differ from .*middle"):
        trace(Base(middle), X)


def seeded(x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return x * (torch.rand(8) > 0.5).float()[:, None, None]


def seeded_noise(x: Tensor) -> Tensor:
    torch.manual_seed(1)
    return x + torch.randn_like(x[:1])


@pytest.mark.parametrize("draw", [seeded, seeded_noise])
def test_numbers_that_are_drawn_by_a_seed_of_forward_are_said_to_be(draw: Any) -> None:
    with pytest.raises(
        ModelError, match=r"draws random numbers, by a seed of its own, at rand.* in middle .*line \d+"
    ) as told:
        trace(Base(Calling(draw)), X)
    assert "as a buffer" in told.value.remedy


class Warming(nn.Module):
    """Another thing after so many calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * (1 if self.calls < 9 else 2)


def test_a_model_that_changes_after_some_calls_is_not_said_to_mix_samples() -> None:
    with pytest.raises(ModelError, match="remembers earlier calls: output 1 changes"):
        trace(Base(Warming()), X)


class Growing(Base):
    """With an output more at every second call."""

    calls = 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return (super().forward(x),) * (1 + self.calls % 2)


class Alone(Base):
    """With an output more, or less, for a sample by itself."""

    def __init__(self, more: int) -> None:
        super().__init__(nn.Identity())
        self.more = more

    def forward(self, x: Tensor) -> Any:
        return (super().forward(x),) * (2 + self.more * (len(x) == 1))


def test_outputs_that_come_and_go_are_refused() -> None:
    for x in (X, X[:1]):
        with pytest.raises(ModelError, match="remembers earlier calls: "):
            trace(Growing(nn.Identity()), x)
    for more, count in ((1, 3), (-1, 1)):
        with pytest.raises(ModelError, match=f"returns 2 values for {len(X)} samples, and {count} for one"):
            trace(Alone(more), X)


@pytest.mark.parametrize("name", MIXING)
def test_a_model_that_mixes_samples_is_refused_and_the_operator_named(name: str) -> None:
    middle, where = MIXING[name]
    with pytest.raises(ModelError, match=f"depends on the others in its batch, from {where}"):
        trace(Base(middle), X)


def test_samples_along_another_axis_are_refused() -> None:
    model = Calling(lambda x: x.flatten(1).transpose(0, 1))
    with pytest.raises(ModelError, match="output 1 of the model has the samples of a batch along axis 1"):
        trace(nn.Sequential(nn.Conv2d(3, 8, 3), model), X)


def test_what_is_traced_otherwise_than_it_runs_is_refused_where_the_two_part() -> None:
    with pytest.raises(ModelError, match=re.escape("the two part at middle (Calling), after stem (Conv2d)")):
        trace(Base(Calling(otherwise)), X)


def test_a_counter_that_nothing_reads_is_no_reason_to_refuse() -> None:
    class Silent(Counting):
        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x.clamp(-1, 1)

    model = Base(Silent())
    network = trace(model, X)
    assert float(model.get_buffer("middle.calls")) == 0
    with torch.no_grad():
        assert torch.equal(network(X), model.eval()(X))


def state(model: nn.Module) -> list:
    """All that tracing might leave behind in a module."""
    values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    hooks = [(len(p._forward_hooks), len(p._forward_pre_hooks), type(p), p.training) for p in model.modules()]
    return [hooks, {name: (value.clone(), value.requires_grad, id(value)) for name, value in values.items()}]


def legacy_numbers() -> np.ndarray:
    """The state of NumPy's global generator."""
    return np.random.get_state(legacy=False)["state"]["key"]


def parametrized() -> Base:
    return Base(
        nn.Sequential(
            parametrizations.weight_norm(nn.Conv2d(8, 8, 3)),
            parametrizations.spectral_norm(nn.Conv2d(8, 8, 1)),
            nn.utils.weight_norm(nn.Conv2d(8, 8, 1)),
            nn.utils.spectral_norm(nn.Conv2d(8, 8, 1)),
            prune.l1_unstructured(nn.Conv2d(8, 8, 1), "weight", 0.5),
            parametrizations.orthogonal(nn.Conv2d(8, 8, 1)),
            nn.BatchNorm2d(8),
            nn.Dropout(0.1),
        )
    )


@pytest.mark.filterwarnings("ignore")
def test_the_module_is_left_as_it_was() -> None:
    model = parametrized().train()
    model.stem.eval()  # a frozen part
    model(X)  # with gradients: the old norms keep a weight that deepcopy refuses
    before, numbers = state(model), (torch.get_rng_state(), legacy_numbers().copy(), random.getstate())
    x = X.clone()
    network = trace(model, X)
    after = state(model)
    assert before[0] == after[0]
    for name, (value, grad, place) in before[1].items():
        assert torch.equal(value, after[1][name][0]) and (grad, place) == after[1][name][1:]
    assert torch.equal(numbers[0], torch.get_rng_state())
    assert (numbers[1] == legacy_numbers()).all() and numbers[2] == random.getstate()
    assert torch.equal(x, X)
    model(X)  # and it still runs, in training mode
    assert {f"middle.{i}" for i in range(6)} <= set(network.graph.by_name)


@pytest.mark.filterwarnings("ignore")
def test_parametrized_layers_are_plain_layers_of_the_network() -> None:
    model = parametrized().eval()
    network = trace(model, X)
    with torch.no_grad():
        assert torch.allclose(network(X), model(X), atol=1e-5)
    assert {layer.operator for layer in network.graph.layers if layer.name.startswith("middle")} == {"conv2d"}
    assert not [group for group in network.graph.groups if group.fixed and group.name.startswith("middle")]


def test_the_reference_leaves_inputs_and_random_numbers_alone() -> None:
    class Rude(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sub_(1).mul_(2) + 0 * torch.rand(())

    x, before = X.clone(), torch.get_rng_state()
    assert torch.equal(Reference(Rude())(x), (X - 1) * 2)
    assert torch.equal(x, X) and torch.equal(before, torch.get_rng_state())


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    class Held(nn.Linear):
        def __deepcopy__(self, memo):
            raise TypeError("cannot pickle a socket")

    with pytest.raises(ModelError, match=r"cannot be copied .*a socket"):
        trace(nn.Sequential(Held(4, 4)), torch.randn(4, 4))


class Holding(nn.Module):
    """Functions that see this module and its parts, a lock, and a table that a hook fills."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.twice, self.seen = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), {}
        self.lock, self.script = threading.Lock(), torch.jit.script(F.softsign)
        forward, kept = self.twice.forward, self.seen
        self.twice.forward = lambda x: 2 * forward(x)  # type: ignore[assignment]
        self.inner.register_forward_hook(lambda module, given, value: kept.update(inner=value))
        self.through = functools.partial(lambda x, part=self.twice: part(x).relu())

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            self.inner(x)
        return self.script(self.through(self.seen["inner"]))


def test_a_copy_computes_by_its_own_parts_and_leaves_those_of_the_module_alone() -> None:
    model = Base(Holding()).eval()
    network = trace(model, X)
    assert model.get_submodule("middle").seen == {}
    assert {"middle.inner", "middle.twice"} <= set(network.graph.by_name)  # layers, no constants of elsewhere
    with torch.no_grad():
        assert torch.equal(network(X[:2]), model(X[:2]))
        reference = Reference(model)
        for layer in (reference.module.get_submodule(f"middle.{name}") for name in ("inner", "twice")):
            layer.get_parameter("weight").zero_()
            layer.get_parameter("bias").zero_()
        assert torch.equal(reference(X), model.head.bias.expand(8, 4))
        assert not torch.equal(model(X), reference(X))


UNTRACEABLE = {
    "values are asked for": (lambda x: x if x.sum() > 0 else -x, r"asks what the values .*, in test_reference.py line"),
    "one by one": (
        lambda x: torch.stack([row * 2 for row in x]),
        r"takes them one by one, in test_reference.py line \d+: compute all samples at once",
    ),
    "a count of samples": (
        lambda x: sum(x * i for i in range(len(x))), r"fixes how many samples .*, in test_reference.py line \d+: compu",
    ),
    "a choice of functions": (
        lambda x: torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y * 3, (x,)),
        r"cond runs functions of its own, which no file holds \(test_reference.py, line \d+\): compute all",
    ),
    "NumPy": (lambda x: x * float(np.mean(x.numpy())), r"numpy.*, in test_reference.py line \d+: compute with tensors"),
    "words one bag after the other": (
        lambda x: x + F.embedding_bag(x.long().flatten() % 3, torch.eye(3), torch.arange(0, x.numel(), 6)).sum(),
        r"embedding_bag takes bags .* by offsets, in test_reference.py line \d+: give it words of shape",
    ),
    "a generator of its own": (
        lambda x: x + torch.randn(6, 6, generator=torch.Generator().manual_seed(1)), "uses an object of type Generator",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_what_cannot_be_traced_is_said_in_a_users_words(name: str) -> None:
    function, says = UNTRACEABLE[name]
    with pytest.raises(ModelError, match=says) as raised:
        trace(Base(Calling(function)), X)
    assert "\n" not in str(raised.value) and "github" not in str(raised.value)


def test_a_length_is_as_free_as_a_shape() -> None:
    def through(x: Tensor) -> Tensor:
        assert len(x) > 0 and len([x, x]) == 2
        return x[: len(x)] + torch.zeros(len(x), 1, 1, 1)

    network = trace(Base(Calling(through)), X)
    assert "len" not in globals()
    with torch.no_grad():
        assert [len(network(X[:size])) for size in (1, 3, 8)] == [1, 3, 8]


def test_an_axis_of_samples_that_is_squeezed_away_is_named() -> None:
    with pytest.raises(ModelError, match=r"another number of axes for a single sample, from squeeze .*squeeze\(1\)"):
        trace(nn.Sequential(Base(nn.ReLU()), Calling(lambda y: y.squeeze())), X)


def test_of_what_differs_in_a_batch_that_is_named_which_reaches_the_outputs() -> None:
    def against_all(y: Tensor) -> Tensor:
        return y[torch.arange(y.shape[0])] @ y.t()  # the numbers differ, too, but what is chosen by them does not

    with pytest.raises(ModelError, match="depends on the others in its batch, from matmul in 1"):
        trace(nn.Sequential(Base(nn.ReLU()), Calling(against_all)), X)


def test_inputs_by_any_name_are_free() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 4), nn.Linear(3, 4)

        def forward(self, image: Tensor, **more: Tensor) -> Tensor:
            return (self.a(image) + self.b(more["side"])).relu()

    class Anything(Named):
        def forward(self, *given: Tensor, **named: Tensor) -> Tensor:
            return super().forward(given[0], side=given[1]) if given else super().forward(**named)

    x = {"image": torch.randn(4, 6), "side": torch.randn(4, 3)}
    for model in (Named(), Anything()):
        network = trace(model, x)
        assert network.input_names == ["image", "side"]
        assert torch.equal(network(x), model(**x))
    assert torch.equal(trace(model, tuple(x.values()))(x), model(**x))


def test_inputs_keep_their_capitals() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Linear(4, 3)

    class Two(Layer):
        def forward(self, Image: Tensor, MetaData: Tensor) -> Any:
            return {"image": self.own(Image), "Image": self.own(MetaData)}

    class Keywords(Layer):
        def forward(self, *, inputIDs: Tensor, mask: Tensor) -> Tensor:
            return self.own(inputIDs) + mask[:, :3]

    class Cases(Layer):
        def forward(self, x: Tensor, X: Tensor) -> Tensor:
            return self.own(x) + 2 * self.own(X)

    def names(model: nn.Module, given: Any) -> list[str]:
        network = trace(model, given)
        (path,) = network.structure.output_names[1:] or ("",)
        assert path not in network.input_names  # what two are called in one file is told apart
        return network.input_names

    x, y = torch.randn(4, 4), torch.randn(4, 4)
    assert names(Two(), (x, y)) == ["Image", "MetaData"]
    assert names(Two(), {"MetaData": y, "Image": x}) == ["MetaData", "Image"]
    assert names(Keywords(), {"inputIDs": x, "mask": y}) == ["inputIDs", "mask"]
    assert len({name.lower() for name in names(Cases(), (x, y))}) == 2


def test_outputs_that_hardly_vary_are_compared_by_their_size_and_whole_ones_by_how_many_differ(tmp_path: Path) -> None:
    def made(y: Tensor) -> tuple[Tensor, ...]:
        return y, F.normalize(y, dim=1).norm(dim=1), 100 + 1e-6 * y, y.argmax(1), y > 0, (y * 0 + 40).sigmoid()

    model = nn.Sequential(nn.Linear(6, 5), Calling(made)).eval()
    x = torch.randn(8, 6)
    network = trace(model, x)
    for runtime, name in (("onnxruntime", "model.onnx"), ("openvino", "model.xml"), ("litert", "model.tflite")):
        export(network, x, tmp_path / name, runtime)
        artifact = Artifact(tmp_path / name, runtime=runtime)
        faithful(Reference(model), network, artifact, [x])  # raises where it is not
        other = copy.deepcopy(model)
        other[0].bias.data += 1.0  # type: ignore[union-attr]
        errors = compared_by_output(Reference(other).flat, artifact, [x])
        assert errors[0] > 0.5 and 0.1 < errors[4] <= 1


@pytest.mark.parametrize("way", ["rows", "trace"])
def test_a_model_that_amplifies_rounding_is_not_said_to_mix_samples_or_to_be_traced_wrongly(way: str) -> None:
    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            if way == "rows" and len(x) == 1:  # as a kernel for one sample would, which sums in another order
                y = y + 1e-7
            if way == "trace" and not torch.compiler.is_compiling():
                y = y + 1e-7
            return (1e6 * y).sin()

    with pytest.raises(ModelError, match="amplifies rounding"):
        model = Steep()
        x = torch.randn(8, 64)
        check(trace(model, x), Reference(model), x)


@pytest.mark.parametrize("gain", [3e3, 1.0])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_amplifies_rounding_is_told_apart_from_a_wrong_file(precision: str, gain: float, tmp_path: Path) -> None:
    x = torch.randn(64, 6)
    model = nn.Sequential(nn.Linear(6, 5), Calling(lambda y: (gain * y).sin())).eval()
    other = copy.deepcopy(model)
    other[0].bias.data += 1.0  # type: ignore[union-attr]
    options = {"0": Option(precision, 8)} if precision == "int8" else {}
    right, wrong = (integer(trace(each, x), options) for each in (model, other))
    for network in (right, wrong):
        calibrate(network, [x])
    path = tmp_path / "model.onnx"
    export(wrong, x, path)
    with pytest.raises(FidelityError) as raised:
        if precision == "int8":
            parity(right, Artifact(path), [x])
        else:
            faithful(Reference(model), right, Artifact(path), [x])
    assert ("amplifies rounding" in raised.value.fact) == (gain > 1)


def test_one_sample_alone_can_be_traced() -> None:
    model = Base(nn.ReLU())
    assert torch.allclose(trace(copy.deepcopy(model), X[:1])(X), model(X), atol=1e-6)


def test_an_output_that_is_always_the_same_is_refused() -> None:
    model = Calling(lambda x: (torch.arange(4.0), x))
    with pytest.raises(ModelError, match="output 1 of the model's tensors is always the same"):
        trace(nn.Sequential(nn.Conv2d(3, 8, 3), model), X)


@pytest.mark.parametrize(
    ("returned", "says"),
    [(lambda x: None, "returns no tensor"), (lambda x: (x, torch.fft.rfft(x)), "output 2 of the model is complex")],
)
def test_what_no_file_can_answer_is_refused(returned, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        trace(nn.Sequential(nn.Conv2d(3, 8, 3), Calling(returned)), X)


def test_a_number_of_the_batch_and_an_object_are_refused() -> None:
    with pytest.raises(ModelError, match="output 2 of the model is a number that depends on the size of the batch"):
        trace(nn.Sequential(nn.Conv2d(3, 8, 3), Calling(lambda x: (x, x.shape[0]))), X)
    with pytest.raises(ModelError, match="returns an object of type Generator"):
        trace(nn.Sequential(nn.Conv2d(3, 8, 3), Calling(lambda x: (x, torch.Generator()))), X)
