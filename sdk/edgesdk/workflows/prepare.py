"""The dense model before it is compressed: taught to be sparse, taught a new task, or made an ensemble."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from edgesdk.bundle.bundle import publish, reserve, write_folder
from edgesdk.bundle.documents import PREPARED, Preparation
from edgesdk.core.errors import DataError, ModelError, StorageError, UsageError
from edgesdk.core.graph import LINEAR, Shapes
from edgesdk.core.report import Tell
from edgesdk.core.serialize import is_table
from edgesdk.core.wording import counted, said
from edgesdk.data.batches import Shuffled, taken
from edgesdk.data.data import check
from edgesdk.data.losses import Loss
from edgesdk.data.metrics import Metric
from edgesdk.data.sources import Samples
from edgesdk.data.task import SOFT_SHARE, first_tensor
from edgesdk.network.load import is_file, load_callable
from edgesdk.network.network import Batch, Network, tensors
from edgesdk.network.reference import same_random_numbers
from edgesdk.network.source import source_of
from edgesdk.network.trace import trace
from edgesdk.network.weights import anew as reset
from edgesdk.network.weights import check_returnable, distinct, filled, load_weights
from edgesdk.techniques.ensembles import Ensemble, bootstrap, samme
from edgesdk.techniques.regularization import near_zero
from edgesdk.techniques.transfer import frozen, with_head
from edgesdk.train.objective import Objective
from edgesdk.train.penalties import GAMMA, Labelled, Penalised, check_strength, held, penalty, widths
from edgesdk.train.recovery import FLOAT_RATE, HARD, MEMBERS, OWN, WARM_UP, Recovery, Term
from edgesdk.train.teachers import LoadedTeacher, same, traced
from edgesdk.train.trainer import Trainer, TrainingObjective
from edgesdk.workflows.deploy import Preprocess, quiet
from edgesdk.workflows.inputs import read_inputs

EPOCHS = 8.0
STRENGTH = 0.01
FROZEN_EPOCHS = 2.0
COUNT = 4  # of the members of an ensemble
BAGGING, BOOSTING, TOGETHER = "bagging", "boosting", "together"
SHIFT = 0.1  # of the deviation of a weight, by which members that are taught together begin apart
HEAD_RATE, BODY_RATE = 1e-2, 1e-3  # peaks of the learning rate, of a head alone and of a trained network with it
BATCH = 64
WEIGHTS, MODEL = "weights.safetensors", "model.py"
EXAMPLE = "edgesdk.example.resnet8:resnet8"


@dataclass(frozen=True)
class Prepared:
    """A prepared model and its folder.

    In it are ``weights.safetensors``, ``manifest.json`` with the ``report`` and, where the model was named and not
    given as a module, ``model.py``, whose ``model`` makes it.
    """

    path: Path
    model: nn.Module
    report: Mapping[str, Any]


@same_random_numbers()
def sparsify(
    model: nn.Module | str | None = None, data: Any = None, out: str | Path = "prepared", *,
    on: str | Callable[[nn.Module], Tensor] = GAMMA, strength: float = STRENGTH, epochs: float = EPOCHS,
    weights: Path | None = None, metric: str | Metric = "top-1", seed: int = 0, force: bool = False,
    preprocess: Preprocess = None, shapes: Shapes = None, loss: str | Loss | None = None, tell: Tell = quiet,
) -> Prepared:  # fmt: skip
    """Train ``model`` on by L + strength * R, so that channels go to zero that pruning then finds.

    The model is judged first, as by :func:`edgesdk.deploy`, and refused where it makes no sense, unless with ``force``.

    L is what a recovery teaches: the model's own answers before, and the labels, where there are any. R is the L1 norm
    of the BatchNorms' scales (``gamma``), the group lasso of ``channels`` that are cut together, or a function of the
    module (in the shell ``file.py:callable``). Raises ``UsageError`` for a ``strength`` outside 0 to 1, ``ModelError``
    for a model without what is to shrink, and the errors of :func:`edgesdk.deploy` for the inputs.
    """
    check_strength(strength)
    _check_epochs(epochs)
    if isinstance(on, str) and ":" in on:
        on = load_callable(on, "PENALTY")
    with reserve(Path(out), force) as place:
        made = _Made(model, data, weights, metric, seed, tell, force, preprocess, shapes, loss)
        made.judge(force)
        dense = made.traced(made.model, whole=on != GAMMA)
        small = penalty(on, dense)
        student = dense.copy()
        objective = Penalised(small, strength, student, dense, made.task, made.data.example)
        first = made.score(dense)
        made.taught(student, made.trainer(objective, "sparsity training"), epochs, FLOAT_RATE, "training")
        before, after = widths(on, dense), widths(on, student)
        report = {
            "kind": "sparsity",
            "penalty": on if isinstance(on, str) else getattr(on, "__name__", "penalty"),
            "strength": strength,
            "epochs": epochs,
            "score": {"before": first, "after": made.score(student, dense)},
            "size": {"before": float(small(dense).detach()), "after": float(small(student).detach())},
            "near_zero": {"before": _share(before, before), "after": _share(after, before)},
            "layers": near_zero(after, before),
        }
        return made.written(place, filled(made.model, student), report)


@same_random_numbers()
def transfer(
    model: nn.Module | str | None = None, data: Any = None, out: str | Path = "prepared", *, classes: int,
    epochs: float = EPOCHS, frozen_epochs: float | None = None, weights: Path | None = None,
    metric: str | Metric = "top-1", seed: int = 0, force: bool = False,
    preprocess: Preprocess = None, shapes: Shapes = None, loss: str | Loss | None = None, tell: Tell = quiet,
) -> Prepared:  # fmt: skip
    """Teach ``model`` the task of ``data``: another head of ``classes`` outputs on its body.

    For ``frozen_epochs`` of the ``epochs`` (2, or all if there are fewer) the head learns alone, BatchNorm statistics
    as they are; then all of it at a lower rate. What the new task does not use of the body is for the search to cut.
    Raises ``ModelError`` for a model whose outputs no linear layer makes, ``DataError`` for labels that are not 0 to
    ``classes - 1``, ``UsageError`` for epochs that do not fit, and the errors of :func:`edgesdk.deploy` for the inputs.
    """
    _check_epochs(epochs)
    frozen_epochs = min(FROZEN_EPOCHS, epochs) if frozen_epochs is None else frozen_epochs
    if not 0 <= frozen_epochs <= epochs:
        raise UsageError(f"{frozen_epochs:g} frozen of {epochs:g} epochs", "give from 0 to as many as --epochs")
    if classes < 1:
        raise UsageError(f"{classes} classes", "give as many as the new task has")
    with reserve(Path(out), force) as place:
        made = _Made(model, data, weights, metric, seed, tell, force, preprocess, shapes, loss)
        objective = Labelled(made.task)
        check(made.data, made.model, False)
        path = _head(made.traced(made.model))
        other = with_head(made.model, path, classes)
        check(made.data, other, made.task.classifies)
        dense = made.traced(other)
        student = dense.copy()
        trainer = made.trainer(objective, "transfer")
        first = made.score(dense)
        with frozen(student.module, path):
            made.taught(student, trainer, frozen_epochs, HEAD_RATE, "training the head")
        alone = made.score(student)
        made.taught(student, trainer, epochs - frozen_epochs, BODY_RATE, "training")
        report = {
            "kind": "transfer",
            "head": path,
            "classes": classes,
            "epochs": epochs,
            "frozen_epochs": frozen_epochs,
            "score": {"before": first, "head": alone, "after": made.score(student)},
        }
        formula, needs = f"with_head({{0}}, {path!r}, {classes})", "from edgesdk.techniques.transfer import with_head\n"
        return made.written(place, filled(other, student), report, formula, needs)


@same_random_numbers()
def ensemble(
    model: nn.Module | str | None = None, data: Any = None, out: str | Path = "prepared", *, by: str = BAGGING,
    members: int = COUNT, anew: bool = False, epochs: float = EPOCHS, weights: Path | None = None,
    metric: str | Metric = "top-1", seed: int = 0, force: bool = False,
    preprocess: Preprocess = None, shapes: Shapes = None, loss: str | Loss | None = None, tell: Tell = quiet,
) -> Prepared:  # fmt: skip
    """Make of ``model`` an ensemble of ``members`` of its kind, a model as any other: a teacher, or what is deployed.

    Each learns for ``epochs`` from a sample of the training data, which is kept in memory: a bootstrap sample
    (``bagging``), or one in which what the members before got wrong comes more often (``boosting``, SAMME). Or all
    learn at once (``together``), from all of the data and from the model, and are paid for differing
    (:func:`edgesdk.techniques.distillation.double_entropy`); that takes no labels. They begin as the model is, a little
    apart where they learn together, or ``anew`` with random weights, which makes them differ more and takes more
    epochs. A model that they begin as or learn from is judged first, as by :func:`edgesdk.deploy`. Boosting ends early
    after a member that is always right, or no better than chance.

    Raises ``UsageError`` for less than two members or an unknown way, ``DataError`` where boosting ends with the first,
    and the errors of :func:`edgesdk.deploy` for the inputs.
    """
    _check_epochs(epochs)
    if by not in (BAGGING, BOOSTING, TOGETHER):
        raise UsageError(f"there is no way {by!r} to make an ensemble", f"choose {BAGGING}, {BOOSTING} or {TOGETHER}")
    if members < 2:
        raise UsageError(f"an ensemble of {counted(members, 'member')}", "give 2 or more")
    with reserve(Path(out), force) as place:
        made = _Made(model, data, weights, metric, seed, tell, force, preprocess, shapes, loss)
        objective = None if by == TOGETHER else Labelled(made.task)
        if by != BAGGING and not made.task.classifies:
            raise UsageError(f"{by} is for models that classify", f"choose {BAGGING}")
        if not isinstance(made.data.example, Tensor):
            raise UsageError("the model takes more than one input", "make an ensemble of models that take one tensor")
        if anew and by != TOGETHER:  # what the model knows is forgotten
            check(made.data, made.model, made.task.classifies)
        else:
            made.judge(force)
        dense = made.traced(made.model)
        answer = made.answer(dense)
        if not isinstance(answer, Tensor):
            raise UsageError("the model answers more than one tensor", "make an ensemble of models that answer one")
        if by == BOOSTING and answer.dim() > 2:
            raise UsageError(
                "boosting, and a model with several classes in each sample", f"choose {BAGGING} or {TOGETHER}"
            )
        if objective is None:
            return _teach_together(made, dense, members, anew, epochs, place)
        samples, generator = held(made.train), torch.Generator().manual_seed(seed)
        likely = torch.full((len(samples),), 1 / len(samples), dtype=torch.double)
        students: list[nn.Module] = []
        votes: list[float] = []
        scores: list[float] = []
        for index in range(members):
            torch.manual_seed(seed + index)
            student = load_weights(dense, reset(made.model)) if anew else dense.copy()
            rows = bootstrap(len(samples), generator, likely if by == BOOSTING else None)
            trainer = Trainer(objective, Shuffled(samples, rows, BATCH, seed + index), WARM_UP, f"member {index + 1}")
            made.taught(student, trainer, epochs, FLOAT_RATE if anew else BODY_RATE, f"training member {index + 1}")
            vote, wrong = 1.0, torch.ones(1)
            if by == BOOSTING:
                wrong, classes = _mistakes(student, samples)
                vote, likely = samme(likely, wrong, classes)
                if vote <= 0:
                    made.notes.append(f"boosting ended before member {index + 1}, which is no better than chance")
                    break
            students.append(filled(made.model, student))
            votes.append(vote)
            scores.append(made.score(student))
            if not bool(wrong.any()):
                made.notes.append(f"boosting ended with member {index + 1}, which is never wrong on the training data")
                break
        if len(students) < 2:
            raise DataError(f"{made.notes[-1]}, and one is no ensemble", f"choose {BAGGING}, or members --anew")
        whole = Ensemble(students, votes, made.task.classifies, made.task.axis).eval()
        return _write_ensemble(made, whole, dense, scores, by, anew, epochs, place)


def _teach_together(made: _Made, dense: Network, members: int, anew: bool, epochs: float, place: Path) -> Prepared:
    """An ensemble whose members learn at once, from the model that was given and, where there are any, the labels."""
    students = list[nn.Module]()
    for index in range(members):
        torch.manual_seed(made.seed + index)
        students.append(reset(made.model) if anew else _shifted(made.model))
    whole = Ensemble(students, axis=made.task.axis).eval()
    network = made.traced(whole)
    losses = [Term(MEMBERS, SOFT_SHARE), Term(HARD, 1 - SOFT_SHARE)] if made.task.labelled else [Term(MEMBERS)]
    if made.task.loss is not None:
        losses = [Term(MEMBERS), Term(OWN)]
    objective = Objective(Recovery(losses=tuple(losses)), network, dense, made.task, made.data.example)
    made.taught(
        network, made.trainer(objective, "the ensemble"), epochs, FLOAT_RATE if anew else BODY_RATE,
        "training members together",
    )  # fmt: skip
    taught = filled(whole, network)
    assert isinstance(taught, Ensemble)
    scores = [made.task.score(member, made.data.test, dense) for member in taught.members]
    return _write_ensemble(made, taught, dense, scores, TOGETHER, anew, epochs, place)


def _write_ensemble(
    made: _Made, whole: Ensemble, dense: Network, scores: list[float], by: str, anew: bool, epochs: float, place: Path
) -> Prepared:
    """The ``whole`` judged beside its members' ``scores``, and written to ``place``."""
    after = made.task.score(whole, made.data.test, dense)
    if after <= max(scores):
        made.notes.append("the ensemble is no better than its best member")
    report = {
        "kind": "ensemble",
        "by": by,
        "anew": anew,
        "epochs": epochs,
        "score": {"before": made.score(dense), "after": after},
        "members": scores,
        "weights": list(whole.weights),
    }
    votes = [round(weight, 6) for weight in whole.weights]
    formula = f"Ensemble([{{0}} for _ in range({len(scores)})], {votes}, {whole.classify}, {whole.axis})"
    return made.written(place, whole, report, formula, "from edgesdk.techniques.ensembles import Ensemble\n")


@torch.no_grad()
def _shifted(model: nn.Module) -> nn.Module:
    """A copy of ``model`` with noise on its weights: twins would stay twins."""
    shifted = copy.deepcopy(model)
    for value in shifted.parameters():
        value += SHIFT * value.std(unbiased=False) * torch.randn_like(value)
    return shifted


class _Made:
    """The inputs of a preparation, read, and what becomes of them."""

    def __init__(
        self,
        model: nn.Module | str | None,
        data: Any,
        weights: Path | None,
        metric: str | Metric,
        seed: int,
        tell: Tell,
        force: bool,
        preprocess: Preprocess = None,
        shapes: Shapes = None,
        loss: str | Loss | None = None,
    ) -> None:
        if model is None and weights is not None:
            raise UsageError("weights without a MODEL", "name the model that they belong to")
        if model is not None and data is None:
            raise UsageError("no data for the model", "give --data")
        self.spec = EXAMPLE if model is None else model
        self.given = read_inputs(
            model, data, weights, metric, seed, preprocess=preprocess, force=force, shapes=shapes, loss=loss
        ).warned()
        self.model, self.data, self.task = self.given.model, self.given.data, self.given.task
        self.seed, self.tell = seed, tell
        if self.data.train is None:
            raise DataError("there is no training data", "give some, or deploy the model as it is")
        self.train = self.data.train
        self.notes = list(self.data.notes)

    def judge(self, force: bool) -> None:
        """Raise what is wrong with the dense model on its data; with ``force`` that is a note."""
        self.notes = list(self.given.checked(None, force, self.tell).data.notes)

    def traced(self, model: nn.Module, whole: bool = False) -> Network:
        """``model`` as a network; its channel groups, which take much longer to find, only of the ``whole``."""
        self.tell("tracing", None)
        made = trace(model, self.data.example) if whole else traced(LoadedTeacher(model, same), self.data.example).made
        assert isinstance(made, Network)
        check_returnable(made, model)
        return made

    @torch.no_grad()
    def answer(self, network: Network) -> object:
        """What ``network`` answers to an example."""
        return network(self.data.example)

    def trainer(self, objective: TrainingObjective, what: str) -> Trainer:
        torch.manual_seed(self.seed)
        return Trainer(objective, self.train, WARM_UP, what)

    def taught(self, student: Network, trainer: Trainer, epochs: float, rate: float, stage: str) -> None:
        """Teach ``student``, unless its training was stopped before."""
        if epochs > 0 and not trainer.stopped:
            trainer.train(student, epochs, rate, lambda share: self.tell(stage, share))
            self.notes += [trainer.stopped] if trainer.stopped else []

    def score(self, network: Network, dense: Network | None = None) -> float:
        """The score on test data, without labels against the answers of ``dense``."""
        return self.task.score(network, self.data.test, dense or network)

    def written(
        self, place: Path, model: nn.Module, report: dict[str, Any], formula: str = "{0}", needs: str = ""
    ) -> Prepared:
        """Fill ``place`` and publish it. ``formula`` makes the model, without its weights, of the user's, ``{0}``."""
        report |= {"metric": self.task.name, "seed": self.seed, "notes": self.notes}
        out = place.with_name(place.name[1:].rpartition(".partial-")[0])
        try:
            save_file(distinct(model.state_dict()), place / WEIGHTS)
            if isinstance(self.spec, str):
                made = formula.format(_loading(self.spec, out, self.model, self.data.example))
                (place / MODEL).write_text(TEMPLATE.format(kind=report["kind"], needs=needs, made=made))
            write_folder(place, PREPARED, report=Preparation(**report))
        except (OSError, SafetensorError) as error:
            raise StorageError(f"cannot write {out}: {said(error)}", "free some space or give another --out") from None
        return Prepared(publish(place), model.eval(), report)


@torch.no_grad()
def _mistakes(network: Network, samples: Samples) -> tuple[Tensor, int]:
    """Which of ``samples`` the network gets wrong, (samples,), and the number of its classes."""
    answers: list[Tensor] = []
    for rows in torch.split(torch.arange(len(samples)), BATCH):
        x, _ = taken(samples, rows)
        answers.append(first_tensor(network(x)))
    logits = torch.cat(answers)
    return logits.argmax(-1) != samples.y, logits.shape[-1]


def _head(network: Network) -> str:
    """The path of the linear layer that makes the outputs. Raises ``ModelError`` where none does."""
    name = network.graph.outputs[0]
    layer = network.graph.by_name.get(name)
    path = network.sites[name].module if name in network.sites else None
    if len(network.graph.outputs) != 1 or layer is None or path is None or layer.kind != LINEAR or layer.activation:
        what = (
            f"{len(network.graph.outputs)} outputs" if len(network.graph.outputs) > 1 else f"{name} as its last layer"
        )
        raise ModelError(f"the model has {what}, and no head to replace", "let a torch.nn.Linear make its one output")
    return path


def _share(after: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> float:
    """The share of all channels that are near zero."""
    counts = {name: len(size) for name, size in after.items()}
    return sum(share * counts[name] for name, share in near_zero(after, before).items()) / max(1, sum(counts.values()))


def _check_epochs(epochs: float) -> None:
    if not 0 < epochs < math.inf:
        raise UsageError(f"{epochs} epochs", "give a number above 0")


def _loading(spec: str, out: Path, model: nn.Module, x: Batch) -> str:
    """Python that loads the ``model`` that ``spec`` names, from a file in the folder ``out``; an ONNX file for inputs
    like ``x``."""
    if is_file(spec):
        file = os.path.relpath(Path(os.path.expanduser(spec)).resolve(), out.resolve())
        source = source_of(model)
        names: list[str] = list(x) if is_table(x) else list(source.inputs) if source is not None else []
        shapes = {name: tuple(t.shape[1:]) for name, t in zip(names, tensors(x), strict=False)}
        return f"load_model(str(HERE / {file!r}), shapes={shapes or None})"
    where, _, name = spec.rpartition(":")
    if not where.endswith(".py"):
        return f"load_model({spec!r})"
    file = os.path.relpath(Path(os.path.expanduser(where)).resolve(), out.resolve())
    return f"load_model(str(HERE / {file!r}) + {':' + name!r})"


TEMPLATE = '''"""Made by `edgesdk prepare` ({kind}): `edgesdk deploy` takes model.py:model."""

from pathlib import Path

from edgesdk.network.load import load_model
{needs}
HERE = Path(__file__).parent


def model():
    return load_model({made}, HERE / "weights.safetensors")
'''
