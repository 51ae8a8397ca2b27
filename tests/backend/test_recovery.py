"""Laws of recovery: what is minimised, by whom it is taught, what is kept when it fails, and how a file says it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import models
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from edgesdk.compress.apply import compressed
from edgesdk.compress.integers import IntegerLayer
from edgesdk.compress.quantize import calibrate, integer, specification
from edgesdk.core.errors import DataError, EdgeSdkError, ModelError, UsageError
from edgesdk.core.plan import INT8, Form, Option
from edgesdk.data.task import Task
from edgesdk.export.onnx import converted
from edgesdk.network.network import Batch, Network
from edgesdk.network.trace import trace
from edgesdk.techniques import distillation
from edgesdk.train.objective import Objective
from edgesdk.train.pairs import channel_axis, paired
from edgesdk.train.recovery import (
    ADVERSARY,
    ATTENTION,
    FEATURES,
    HARD,
    JACOBIAN,
    KINDS,
    LAYERED,
    LOGITS,
    MEMBERS,
    MUTUAL,
    OWN,
    RELATIONS,
    SELF,
    SOFT,
    TASK,
    Recovery,
    Teacher,
    Term,
)
from edgesdk.train.resumption import Kept
from edgesdk.train.teachers import Run, outdone
from edgesdk.train.trainer import POINTS, Average, Schedule, Trainer, recovered

Batches = list[tuple[Tensor, Tensor]]
TASKED = Task("top-1")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are quicker on one, and far quicker where others use the processor too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dense() -> tuple[Network, Tensor]:
    return models.made("residual", 32)


@pytest.fixture(scope="module")
def small(dense: tuple[Network, Tensor]) -> Network:
    """Every group at half width."""
    network, x = dense
    kept = {group.name: group.size // 2 for group in network.graph.groups if group.fixed is None}
    return compressed(network, models.plan(network, kept), x, models.scores(network))[0]


@pytest.fixture
def batches(dense: tuple[Network, Tensor]) -> Batches:
    x, y = dense[1], torch.randint(0, models.CLASSES, (32,), generator=torch.Generator().manual_seed(1))
    return [(x[:16], y[:16]), (x[16:], y[16:])]


def weights(network: Network) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.module.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, right[name]) for name, value in left.items())


def test_the_default_is_the_dense_model_and_nine_parts_soft_to_one_part_hard_labels(dense, small, batches) -> None:
    network, _ = dense
    options = models.assigned(small, "int8")
    calibration = [x for x, _ in batches]
    usual = Recovery(losses=(Term(SOFT, 0.9, 4.0), Term(HARD, 1 - 0.9)))
    trained = [
        recovered(small, network, options, batches, calibration, TASKED, Schedule(3.0), recovery=recovery).network
        for recovery in (Recovery(), usual, Recovery(losses=(Term(LOGITS),)))
    ]
    assert same(weights(trained[0]), weights(trained[1]))
    assert not same(weights(trained[0]), weights(trained[2]))


def value(objective: Objective, student: Network, batch: tuple[Tensor, Tensor], epoch: float = 0.0) -> float:
    """The loss of a student that is not changed by it."""
    student.module.eval()
    return float(objective(student, *batch, epoch=epoch, mixed=False).detach())


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in (OWN, MEMBERS)])  # OWN: tests/data/test_own_loss.py
def test_every_loss_can_be_learnt_by_a_narrower_student(kind: str, dense, small, batches) -> None:
    student = small.copy()
    objective = Objective(Recovery(losses=(Term(kind),)), student, dense[0], TASKED, batches[0][0])
    x, y = batches[0]
    objective.start(student)
    optimizer = torch.optim.AdamW([*student.module.parameters(), *objective.parameters()], 3e-3)
    losses = []
    for _ in range(30):
        loss = objective(student, x, y, 0.0, False)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in student.module.parameters())
        optimizer.step()
    if kind == ADVERSARY:
        assert losses[0] == pytest.approx(3 * math.log(2), rel=0.5)
    else:
        assert losses[-1] < 0.97 * losses[0]


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in (TASK, HARD, ADVERSARY, OWN, MEMBERS, "information")])
def test_twins_have_nothing_to_learn(kind: str, dense, batches) -> None:
    network, x = dense
    objective = Objective(Recovery(losses=(Term(kind),)), network, network, TASKED, x)
    assert value(objective, network, batches[0]) == pytest.approx(0, abs=1e-6)


def test_a_loss_on_layers_is_of_the_tensors_that_they_put_out(dense, small, batches) -> None:
    """Computed by hand: the stem's outputs, after BatchNorm and ReLU, of the student and of the teacher."""
    network, _ = dense
    x, y = batches[0]
    seen = []
    for part in (small, network):
        part.module.eval()
        with torch.no_grad():
            site = part.sites["stem.0"]
            norm = part.module.get_submodule(str(site.norm))
            seen.append(torch.relu(norm(part.submodule("stem.0")(x))))
    objective = Objective(Recovery(losses=(Term(ATTENTION, 2.0, layers=("stem.0",)),)), small, network, TASKED, x)
    loss = float(objective(small, x, y, 0.0, False).detach())
    assert loss == pytest.approx(2 * float(distillation.attention(*seen)), rel=1e-5)


def test_layers_are_paired_by_name_at_the_last_of_each_resolution(dense, small) -> None:
    network, _ = dense
    pairs = paired(Term(FEATURES), small.graph, network.graph, network.graph)
    shapes = [network.graph.by_name[other].shape for _, other in pairs]
    assert all(own == other for own, other in pairs)
    assert [shape[1:] for shape in shapes] == [(16, 16), (8, 8)]
    names = list(network.graph.by_name)
    for _, other in pairs:  # none after it has its height and width
        after = names[names.index(other) + 1 :]
        assert not any(network.graph.by_name[n].shape[1:] == network.graph.by_name[other].shape[1:] for n in after)
    ((_, last),) = paired(Term(RELATIONS[0]), small.graph, network.graph, network.graph)
    assert network.graph.by_name[last].shape == (32,)


def test_a_factorized_layer_stands_for_its_last_part_and_what_was_left_out_is_left_out(dense) -> None:
    network, x = dense
    branch = next(b for b in network.graph.branches if "inner.0" in b.layers)
    chosen = {"down.3": Option(INT8, 8, Form("tucker", (8, 8)))}
    plan = models.plan(network, options=chosen, dropped=(branch.name,))
    result, _ = compressed(network, plan, x, models.scores(network))
    term = Term(FEATURES, layers=("down.3", "inner.0", ("stem.0", "stem.0")))
    assert paired(term, result.graph, network.graph, network.graph) == (("down.3.2", "down.3"), ("stem.0", "stem.0"))
    gone = Recovery(losses=(Term(FEATURES, layers=("inner.0",)),))
    with pytest.raises(UsageError, match="the plan left out every layer"):
        Objective(gone, result, network, TASKED, x)(result, x, None, 0.0, False)
    kept = replace(gone, losses=(*gone.losses, Term(SOFT)))
    assert float(Objective(kept, result, network, TASKED, x)(result, x, None, 0.0, False).detach()) > 0


@pytest.mark.parametrize("name", ["transformer", "recurrent", "depthwise"])
@pytest.mark.parametrize("kind", LAYERED)
def test_losses_on_layers_find_some_in_every_kind_of_network(name: str, kind: str) -> None:
    network, x = models.made(name, 4)
    for own, other in paired(Term(kind), network.graph, network.graph, network.graph):
        axis, shape = channel_axis(network.graph, other), network.graph.by_name[other].shape
        assert own == other
        assert axis == (2 if name == "transformer" and len(shape) == 2 else 1)
    student = network.copy()
    with torch.no_grad():
        for parameter in student.module.parameters():
            parameter.mul_(1.3)
    objective = Objective(Recovery(losses=(Term(kind),)), student, network, TASKED, x)
    loss = objective(student, x, None, 0.0, False)
    loss.backward()
    assert math.isfinite(float(loss.detach())) and abs(float(loss.detach())) > 1e-9


def test_several_teachers_count_by_their_weights(dense, small, batches) -> None:
    network, x = dense
    torch.manual_seed(5)
    other = models.Residual()
    losses = (Term(SOFT), Term(FEATURES, layers=("stem.0",)))

    def loss(*teachers: Teacher) -> float:
        torch.manual_seed(9)  # of the maps between layers
        objective = Objective(Recovery(teachers, losses), small, network, TASKED, x)
        for head in objective.heads.values():
            for parameter in head.parameters():
                nn.init.constant_(parameter, 0.1)
        return value(objective, small, batches[0])

    first, second = loss(Teacher()), loss(Teacher(other))
    assert first != pytest.approx(second, rel=1e-2)
    both = loss(Teacher(weight=3.0), Teacher(other, weight=1.0))
    assert both == pytest.approx(0.75 * first + 0.25 * second, rel=1e-5)


def test_a_teacher_may_see_its_own_view(dense, batches) -> None:
    network, x = dense
    network.module.eval()
    seen: list[Tensor] = []

    def view(batch: Batch) -> Batch:
        seen.append(batch)
        return batch.flip(3)

    recovery = Recovery((Teacher(view=view),), (Term(LOGITS),))
    loss = Objective(recovery, network, network, TASKED, x)(network, x, None, 0.0, False)
    with torch.no_grad():
        expected = (network(x) - network(x.flip(3))).square().mean()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert len(seen) == 1


def test_a_weight_grows_over_its_first_epochs(dense, small, batches) -> None:
    objective = Objective(Recovery(losses=(Term(LOGITS, warmup_epochs=4.0),)), small, dense[0], TASKED, dense[1])
    at = [value(objective, small, batches[0], epoch) for epoch in (0.0, 1.0, 4.0, 9.0)]
    assert at[0] == 0
    assert at[1] == pytest.approx(at[2] / 4)
    assert at[2] == at[3] > 0


def test_peers_learn_too_and_the_dense_model_does_not(dense, small, batches) -> None:
    network, x = dense
    before = weights(network)
    student = small.copy()
    objective = Objective(Recovery(mode=MUTUAL), student, network, TASKED, x)
    peer = {name: value.detach().clone() for name, value in objective.peers[0].state_dict().items()}
    answers = []
    for _ in range(2):
        trainer = Trainer(objective, batches, 0.1)
        trainer.train(student, 6.0, 2e-3, lambda share: None)
        answers.append(float(distillation.hard(student.flat(x)[0], torch.cat([y for _, y in batches])).detach()))
    assert answers[1] < answers[0]
    assert same(before, weights(network))
    assert not same(peer, objective.peers[0].state_dict())


def test_who_teaches_himself_is_the_average_of_what_he_was(dense, small, batches) -> None:
    student = small.copy()
    objective = Objective(Recovery(mode=SELF, decay=0.75), student, dense[0], TASKED, batches[0][0])
    objective.start(student)
    name, parameter = next(iter(student.module.named_parameters()))
    expected = parameter.detach().clone()
    loss = value(objective, student, batches[0])
    for step in range(3):
        with torch.no_grad():
            parameter.add_(1.0 + step)
        objective.follow(student)
        expected = 0.75 * expected + 0.25 * parameter.detach()
    own = objective.loaded_teachers[0].module.get_parameter(name)
    torch.testing.assert_close(own, expected)
    assert math.isfinite(loss)


@pytest.mark.parametrize("mode", [MUTUAL, SELF])
def test_a_recovery_in_each_mode_ends_with_quantized_weights(mode: str, dense, small, batches) -> None:
    network, _ = dense
    options, calibration = models.assigned(small, "int8"), [x for x, _ in batches]
    recovery = Recovery(losses=(Term(HARD), Term(SOFT, 0.2), Term(FEATURES, 0.1)), mode=mode)
    first, second = (
        recovered(small, network, options, batches, calibration, TASKED, Schedule(epochs), recovery=recovery).network
        for epochs in (0.0, 20.0)
    )
    assert specification(second).keys() == specification(first).keys()
    assert TASKED.score(second, batches, network) > TASKED.score(first, batches, network) + 30


def test_the_curve_has_the_losses_of_each_part_on_the_way(dense, small, batches) -> None:
    options, calibration = models.assigned(small, "int8"), [x for x, _ in batches]
    answer = recovered(small, dense[0], options, batches, calibration, TASKED, Schedule(100.0))
    parts = {part: [p for p in answer.curve if p.part == part] for part in ("float", "int8")}
    assert sum(map(len, parts.values())) == len(answer.curve) <= 2 * (POINTS + 1)
    assert all(len(points) > POINTS / 2 for points in parts.values())
    epochs = [point.epoch for point in answer.curve]
    assert epochs == sorted(set(epochs)) and epochs[-1] == 100.0 and parts["float"][-1].epoch == 70.0
    assert parts["float"][-1].loss < parts["float"][0].loss
    assert recovered(small, dense[0], options, None, calibration, TASKED, Schedule(1.0)).curve == ()


class Spoilt:
    """Batches that turn infinite after ``good`` of them; notes a student's weights whenever it is begun anew."""

    def __init__(self, batches: Batches, good: int, student: Network | None = None) -> None:
        self.batches, self.good, self.student = batches, good, student
        self.states: list[dict[str, Tensor]] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.student is not None:
            self.states.append(weights(self.student))
        for x, y in self.batches:
            self.good -= 1
            yield (x if self.good >= 0 else x * math.inf), y


def test_when_the_loss_turns_nan_the_weights_of_the_last_whole_epoch_are_kept(dense, small, batches) -> None:
    student = small.copy()
    data = Spoilt(batches, 7, student)  # in the fourth epoch of two batches, at its second
    trainer = Trainer(Objective(Recovery(), student, dense[0], TASKED, batches[0][0]), data, 0.1)
    trainer.train(student, 10.0, 2e-3, lambda share: None)
    assert "after 3.5 epochs" in trainer.stopped and "after 3.0 epochs were kept" in trainer.stopped
    assert len(data.states) == 4
    parameters = dict(student.module.named_parameters())
    assert same({name: value.detach() for name, value in parameters.items()}, data.states[3])
    assert not same({name: value.detach() for name, value in parameters.items()}, data.states[2])


@pytest.mark.parametrize("good", [3, 15, 17])
def test_a_recovery_that_fails_on_the_way_still_gives_a_sound_network(good: int, dense, small, batches) -> None:
    """In the float part, in the first batch of the integer part, and later in that."""
    options, calibration = models.assigned(small, "int8"), [x for x, _ in batches]
    data, schedule = Spoilt(batches, good), Schedule(10.0)  # 14 steps, then 6
    answer = recovered(small, dense[0], options, data, calibration, TASKED, schedule)
    (note,), result = answer.notes, answer.network
    assert "\n" not in note
    assert all(bool(torch.isfinite(value).all()) for value in weights(result).values())
    assert len(specification(result)) > 0
    assert math.isfinite(TASKED.score(result, batches, dense[0]))


def test_a_loss_that_is_nan_from_the_start_is_an_error(dense, small, batches) -> None:
    calibration = [x for x, _ in batches]
    with pytest.raises(DataError, match="loss is not finite"):
        recovered(small, dense[0], {}, Spoilt(batches, 0), calibration, TASKED, Schedule(1.0))


def test_a_teacher_that_is_worse_than_its_student_is_told(dense, batches) -> None:
    network, _ = dense
    good, bad = TASKED.score(network, batches, network), models.Residual()
    with torch.no_grad():
        labels = torch.cat([y for _, y in batches])
        bad.fc.bias.copy_(torch.where(torch.bincount(labels, minlength=models.CLASSES) == 0, 0.0, -1e4))
        bad.fc.bias[labels.bincount(minlength=models.CLASSES).argmin()] = 1e4  # the rarest class, always
    at_least = max(good, 100 / models.CLASSES)
    (note,) = outdone(Recovery((Teacher(bad),)), network, TASKED, batches, at_least)
    assert "the teacher Residual is worse than its student" in note
    assert outdone(Recovery(), network, TASKED, batches, 101.0) == []
    assert outdone(Recovery((Teacher(bad),)), network, TASKED, batches, 0.0) == []


@pytest.mark.parametrize("memory", [2.0, 7.5, 100.0])
def test_an_average_forgets_where_it_began_and_keeps_as_many_steps_as_it_says(memory: float) -> None:
    steps = [torch.tensor([float(step)]) for step in range(1, 31)]
    average = Average([torch.tensor([1e6])], memory)
    for step, value in enumerate(steps, 1):
        average.follow([value], step)
        if step <= memory:
            assert float(average.parameters[0]) == pytest.approx((1 + step) / 2), "the mean of all"
    behind = 30.0 - float(average.parameters[0])
    assert behind <= memory and (memory < 30 or behind == pytest.approx(14.5))
    constant = Average([torch.zeros(3)], memory)
    for step in range(1, 9):
        constant.follow([torch.ones(3)], step)
    assert torch.equal(constant.parameters[0], torch.ones(3))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_weights_are_averaged_only_where_that_is_asked_for(precision: str, dense, small, batches) -> None:
    network, _ = dense
    options = models.assigned(small, precision)
    calibration = [x for x, _ in batches]

    def learnt(average: float) -> dict[str, Tensor]:
        recovery, schedule = Recovery(average=average), Schedule(4.0, 0.5)
        return weights(
            recovered(small, network, options, batches, calibration, TASKED, schedule, recovery=recovery).network
        )

    last, averaged = learnt(0.0), learnt(0.5)
    assert same(averaged, learnt(0.5)) and not same(averaged, last)
    assert same(learnt(1e-6), last), "over less than two steps there is nothing to average"
    assert all(bool(value.isfinite().all()) for value in averaged.values())


class Interrupted:
    """Batches, after so many of which somebody ends the run."""

    def __init__(self, batches: Batches, left: int) -> None:
        self.batches, self.left = batches, left

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.batches:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield batch


def test_learned_steps_are_those_of_the_file_and_are_taken_up_again(
    dense, small, batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesdk.train.trainer.SECONDS", 0.0)
    options, calibration = models.assigned(small, "int8"), [x for x, _ in batches]

    def learnt(learned_steps: bool, folder: str, ends: int = 100) -> Network:
        recovery, schedule = Recovery(learned_steps=learned_steps, average=0.5), Schedule(6.0, 0.5)
        return recovered(
            small, dense[0], options, Interrupted(batches, ends), calibration, TASKED, schedule, recovery=recovery,
            kept=Kept(tmp_path / folder),
        ).network  # fmt: skip

    following, whole = learnt(False, "following"), learnt(True, "whole")
    layers = [part for part in whole.module.modules() if isinstance(part, IntegerLayer)]
    assert layers and all(part.growth is None and part.step is not None for part in layers)
    peaks = [part.inner.weight.detach().abs().flatten(1).amax(1) / part.limit for part in layers]  # type: ignore
    assert not any(torch.equal(part.weight_scale(), peak) for part, peak in zip(layers, peaks, strict=True))
    assert specification(whole) != specification(following)
    stored = {
        initializer.name: torch.from_numpy(numpy_helper.to_array(initializer).copy())
        for initializer in converted(whole, dense[1]).graph.initializer
    }
    for spec in specification(whole).values():
        scale = torch.tensor(spec.scale if spec.axis is not None else spec.scale[0])
        assert any(torch.equal(value, scale) for value in stored.values()), "to the bit"
    with pytest.raises(KeyboardInterrupt):
        learnt(True, "parts", ends=10)  # 6 of float, 4 of 6 in integers
    parts = learnt(True, "parts")
    assert same(weights(parts), weights(whole)) and specification(parts) == specification(whole)
    assert same(weights(learnt(True, "parts")), weights(whole)), "from what was kept when it was done"


FILE = """
mode = "offline"
epochs = 12
rate = 1e-3
integer_share = 0.5

[[teachers]]
source = "dense"
weight = 2

[[teachers]]
source = "teacher.py:make"
view = "teacher.py:view"

[[losses]]
kind = "soft"
weight = 0.9
temperature = 3

[[losses]]
kind = "features"
layers = ["stem.0", ["inner.0", "down.0"]]
warmup_epochs = 2.5
"""
CODE = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 5))

def view(x):
    return -x
"""


def test_a_file_says_what_python_says(tmp_path: Path) -> None:
    (tmp_path / "teacher.py").write_text(CODE)
    (tmp_path / "recovery.toml").write_text(FILE)
    recovery = Recovery.read(tmp_path / "recovery.toml")
    source, view = (f"{tmp_path}/teacher.py:{name}" for name in ("make", "view"))
    assert recovery == Recovery(
        teachers=(Teacher(weight=2), Teacher(source, view=view)),
        losses=(
            Term(SOFT, 0.9, 3),
            Term(FEATURES, layers=("stem.0", ("inner.0", "down.0")), warmup_epochs=2.5),
        ),
        epochs=12,
        rate=1e-3,
        integer_share=0.5,
    )
    loaded = recovery.loaded().teachers[1]
    assert isinstance(loaded.source, nn.Sequential) and callable(loaded.view)
    (tmp_path / "empty.toml").write_text("")
    assert Recovery.read(tmp_path / "empty.toml") == Recovery()


BAD_FILES = [
    ("mode = ", "is no TOML"),
    ("mod = 'self'", "a recovery has no key 'mod': did you mean mode"),
    ("mode = 'selfish'", "there is no mode 'selfish': did you mean self"),
    ("mode = 3", "there is no mode 3: choose one of"),
    ("epochs = -1", "epochs is -1: it must be a number at least 0"),
    ("epochs = true", "epochs is True"),
    ("epochs = inf", "epochs is inf"),
    ("rate = 0", "rate is 0: it must be a number above 0"),
    ("rate = 'fast'", "rate is 'fast'"),
    ("integer_share = 1.5", "integer_share is 1.5: it must be a number at least 0 and at most 1"),
    ("warm_up = 1", "warm_up is 1: it must be a number above 0 and below 1"),
    ("decay = 1", "decay is 1"),
    ("average = 1.5", "average is 1.5: it must be a number at least 0 and at most 1"),
    ("reconstruct = -1", "reconstruct is -1: it must be a number at least 0"),
    ("reconstruct = 0.5", "reconstruct is 0.5: it must be a whole number of steps"),
    ("learned_steps = 1", "learned_steps is 1: it must be true or false"),
    ("cuts = 0", "cuts is 0: it must be a number at least 1"),
    ("cuts = 1.5", "cuts is 1.5: it must be a whole number of steps"),
    ("rollback = true\ncuts = 2", "rollback, and cuts = 2"),
    ("rollback = 'yes'", "rollback is 'yes': it must be true or false"),
    ("losses = []", "a recovery without losses"),
    ("teachers = []", "a recovery without teachers"),
    ("losses = ['soft']", "losses is no list of tables"),
    ("[[losses]]\nweight = 1", r"\[\[losses\]\] lacks kind"),
    ("[[losses]]\nkind = 'sotf'", "there is no loss 'sotf': did you mean soft"),
    ("[[losses]]\nkind = 'soft'\ntemprature = 4", r"\[\[losses\]\] has no key 'temprature': did you mean temperature"),
    ("[[losses]]\nkind = 'soft'\ntemperature = 0", "the temperature of soft is 0"),
    ("[[losses]]\nkind = 'logits'\ntemperature = 4", "logits has no temperature"),
    ("[[losses]]\nkind = 'soft'\nweight = -1", "the weight of soft is -1"),
    ("[[losses]]\nkind = 'soft'\nwarmup_epochs = -1", "warmup_epochs of soft is -1"),
    ("[[losses]]\nkind = 'soft'\ndiversity = 1", "soft has no diversity"),
    ("[[losses]]\nkind = 'members'\nlayers = [['a', 'b'], 'c']", "members is of the student's layers alone"),
    ("[[losses]]\nkind = 'members'\ndiversity = -1", "the diversity of members is -1"),
    ("[[losses]]\nkind = 'soft'\noutput = -1", "output -1 of soft"),
    ("[[losses]]\nkind = 'soft'\nlayers = ['fc']", "soft is no loss of layers"),
    ("[[losses]]\nkind = 'features'\nlayers = [1]", "layers .* of features"),
    ("[[losses]]\nkind = 'features'\nlayers = 'fc'", "layers 'fc' of features"),
    ("[[losses]]\nkind = 'features'\nlayers = []", "an empty list of layers"),
    ("[[teachers]]\nsource = 3", "source is 3"),
    ("[[teachers]]\nsource = 'dense'\nweight = 0", "the weight of a teacher is 0"),
    ("[[teachers]]\nsource = 'dense'\nweights = 'a.safetensors'", "weights .* of the teacher dense"),
    ("[[teachers]]\nname = 'dense'", r"\[\[teachers\]\] has no key 'name'"),
    ("mode = 'self'\n[[teachers]]\nsource = 'm:f'", "a student that teaches itself has no other teachers"),
]


@pytest.mark.parametrize(("text", "says"), BAD_FILES)
def test_what_is_wrong_in_a_file_is_said_on_one_line(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        Recovery.read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_file_that_is_not_there_or_a_teacher_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.toml cannot be read"):
        Recovery.read(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="a teacher of type int"):
        Teacher(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a view of type int"):
        Teacher(view=3)  # type: ignore[arg-type]
    for source, kind in (("none.py:make", ModelError), ("math:floor", ModelError)):
        with pytest.raises(kind):
            Recovery((Teacher(source),)).loaded()


class Wide(nn.Module):
    """A teacher that tells seven classes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2)
        self.fc = nn.Linear(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.first(x)).amax((2, 3)))


BAD: list[tuple[Recovery, Task, type[EdgeSdkError], str]] = [
    (Recovery((Teacher(Wide()),)), TASKED, UsageError, r"outputs \(32, 5\) do not fit the teacher's \(32, 7\)"),
    (Recovery((Teacher(Wide()),), (Term(SOFT),)), TASKED, UsageError, "does not fit"),
    (Recovery((Teacher(Wide()),), (Term(FEATURES),)), TASKED, UsageError, "no layer of the same name in both"),
    (Recovery(losses=(Term(FEATURES, layers=("stam.0",)),)), TASKED, UsageError, "the student has no layer 'stam.0'"),
    (
        Recovery(losses=(Term(FEATURES, layers=(("stem.0", "stam.0"),)),)),
        TASKED,
        UsageError,
        "the teacher has no layer",
    ),
    (Recovery(losses=(Term(FEATURES, layers=(("stem.0", "down.0"),)),)), TASKED, UsageError, "cannot compare stem.0"),
    (Recovery(losses=(Term(SOFT, output=1),)), TASKED, UsageError, "the loss soft is of output 1, and there are 1"),
    (Recovery(losses=(Term(HARD),)), Task("top-1", False), UsageError, "no labels for the loss hard"),
    (Recovery(mode=SELF), Task("top-1", False), UsageError, "no labels for the mode self"),
    (Recovery(mode=MUTUAL), Task("top-1", False), UsageError, "no labels for the mode mutual"),
]


@pytest.mark.parametrize(("recovery", "task", "kind", "says"), BAD)
def test_what_does_not_fit_stops_at_once(recovery, task, kind, says, dense, small) -> None:
    network, x = dense
    y = torch.zeros(len(x), dtype=torch.long)
    with pytest.raises(kind, match=says) as caught:
        recovered(small, network, {}, [(x, y)], [x], task, Schedule(1.0), recovery=recovery)
    assert "\n" not in str(caught.value)


class Voters(nn.Module):
    """Two members that are told apart by what they begin with."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU())
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(8, models.CLASSES), nn.Tanh(), nn.Linear(models.CLASSES, models.CLASSES))
            for _ in range(3)
        )  # of which the first layers are as wide as the answers, and are none

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).mean((2, 3))
        return torch.stack([head(x).softmax(-1) for head in self.heads]).mean(0).clamp(min=1e-6).log()


def test_the_members_of_an_ensemble_learn_from_its_answer_and_are_paid_for_differing(dense, batches) -> None:
    torch.manual_seed(3)
    x, y = batches[0]
    network = trace(Voters().eval(), x)
    student = integer(network, models.assigned(network, "int8"))
    calibrate(student, [x])
    apart = {}
    for diversity in (None, 0.0, 3.0):
        recovery = Recovery(losses=(Term(MEMBERS, temperature=1.0, diversity=diversity),))
        objective = Objective(recovery, student, network, TASKED, x)
        own = [layer for layer in network.graph.layers if layer.name.startswith("heads") and layer.name.endswith("2")]
        assert len(own) == 3 and objective._layers(0) == [layer.name for layer in own] and objective._layers(1, 0) == []
        apart[diversity] = float(objective(student, x, y, 0.0, False).detach())
    assert apart[3.0] < apart[None] < apart[0.0]
    named = Term(MEMBERS, layers=("heads.0.2", "heads.2.2"))
    objective = Objective(Recovery(losses=(named,)), student, network, TASKED, x)
    assert objective._layers(0) == ["heads.0.2", "heads.2.2"]
    for term, task, says in (
        (Term(MEMBERS), TASKED, "finds no members of an ensemble"),
        (Term(MEMBERS, layers=("heads.9", "fc")), TASKED, "the student has no layer 'heads.9'"),
        (Term(MEMBERS), Task("mse"), "a model that does not classify"),
    ):
        with pytest.raises(UsageError, match=says):
            Objective(Recovery(losses=(term,)), dense[0], dense[0], task, x)


class Named(nn.Module):
    """Looks class numbers up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(x)


def test_gradients_by_an_input_of_integers_are_refused() -> None:
    x = torch.tensor([1, 2, 3])
    network = trace(Named().eval(), x)
    objective = Objective(Recovery(losses=(Term(JACOBIAN),)), network, network, TASKED, x)
    with pytest.raises(UsageError, match="which holds integers"):
        objective(network, x, None, 0.0, False)


def test_a_module_of_another_shape_teaches_by_pairs_of_layers(dense, small, batches) -> None:
    network, x = dense
    recovery = Recovery((Teacher(Wide()),), (Term(RELATIONS[0], layers=(("down.0", "first"),)),))
    assert value(Objective(recovery, small, network, TASKED, x), small, batches[0]) > 0
    assert outdone(recovery, network, TASKED, batches, 100.0) == []  # its answers are no answers to this
    plain = Objective(Recovery((Teacher(models.Residual()),)), small, network, TASKED, x)
    assert isinstance(plain.loaded_teachers[0].run(x, []), Run)
    assert isinstance(plain.loaded_teachers[0].made, nn.Module)  # nothing is asked of its layers: it is not traced
