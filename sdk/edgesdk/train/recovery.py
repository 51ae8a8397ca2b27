"""How what compressing lost is learnt back: from which teachers, by which losses, for how long. Also as a TOML file."""

# What callers write is checked, whatever the annotations say.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import difflib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from edgesdk.core.errors import EdgeSdkError, UsageError
from edgesdk.core.serialize import is_list, is_table, loads_toml
from edgesdk.core.wording import listed, said
from edgesdk.data.task import Task
from edgesdk.network.load import load_callable, load_model
from edgesdk.network.network import Batch
from edgesdk.techniques.distillation import DIVERSITY

DENSE = "dense"
TASK, SOFT, HARD, LOGITS, PROBABILITIES = "task", "soft", "hard", "logits", "probabilities"
JACOBIAN, ADVERSARY, OWN, MEMBERS = "jacobian", "adversary", "own", "members"
FEATURES, ATTENTION, INFORMATION = "features", "attention", "information"
DISTANCES, ANGLES, SIMILARITY = "distances", "angles", "similarity"
RELATIONS = (DISTANCES, ANGLES, SIMILARITY)
LAYERED = (FEATURES, ATTENTION, INFORMATION, *RELATIONS)
KINDS = (TASK, SOFT, HARD, LOGITS, PROBABILITIES, JACOBIAN, ADVERSARY, OWN, MEMBERS, *LAYERED)
TEMPERATURES = {SOFT: 4.0, PROBABILITIES: 1.0, MEMBERS: 4.0}
OFFLINE, MUTUAL, SELF = "offline", "mutual", "self"
MODES = (OFFLINE, MUTUAL, SELF)

FLOAT_RATE, INTEGER_RATE = 2e-3, 5e-4  # peaks of the learning rate, before and after quantization
INTEGER_SHARE = 0.3  # of the epochs, spent with quantization in the loop where there is a float part to recover
WARM_UP = 0.1
DECAY = 0.99

Pair = tuple[str, str]


def _layers(kind: str, layers: Any) -> tuple[str | Pair, ...]:
    """``layers`` as names and pairs of names."""
    if kind not in (*LAYERED, MEMBERS):
        raise UsageError(f"{kind} is no loss of layers", f"{', '.join((*LAYERED, MEMBERS))} are")
    chosen: list[str | Pair] = []
    for entry in layers if is_list(layers) else [None]:
        if is_list(entry) and len(entry) == 2 and all(isinstance(name, str) for name in entry):
            chosen.append((entry[0], entry[1]))
        elif isinstance(entry, str):
            chosen.append(entry)
        else:
            raise UsageError(f"layers {layers!r} of {kind}", "give a list of names, or of pairs [student's, teacher's]")
    if not chosen:
        raise UsageError(f"an empty list of layers of {kind}", "leave it out for the usual ones")
    return tuple(chosen)


def _instead(name: str, names: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(name), names, 1)
    return f"did you mean {close[0]}?" if close else f"choose one of {', '.join(names)}"


def _number(
    value: Any, what: str, *, least: float = -math.inf, most: float = math.inf,
    above: float = -math.inf, below: float = math.inf,
) -> None:  # fmt: skip
    """Raise ``UsageError`` unless ``value`` is a finite number from ``least`` to ``most``, ``above`` and ``below``."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and abs(value) <= sys.float_info.max and least <= value <= most and above < value < below:
        return
    low = f"above {above:g}" if math.isfinite(above) else f"at least {least:g}"
    high = f" and below {below:g}" if math.isfinite(below) else f" and at most {most:g}" if math.isfinite(most) else ""
    raise UsageError(f"{what} is {value!r:.80}", f"it must be a number {low}{high}")


@dataclass(frozen=True)
class Term:
    """One loss of a recovery, ``weight`` times what :mod:`edgesdk.techniques.distillation` computes.

    ``task`` is the task's own recipe: of a classifier with labels 0.9 soft and 0.1 hard labels at a temperature of 4;
    with a loss of the user's own (``deploy(loss=...)``) that and the distance to the teacher's outputs. ``own`` is that
    loss alone.
    ``members`` is for a model that is an ensemble of classifiers: each of them learns from the teacher, and is paid for
    differing from the others by ``diversity``, by default 1 (:func:`edgesdk.techniques.distillation.double_entropy`);
    ``layers`` are those that make their logits, by default what softmaxes of the output's shape read, or else linear
    ones of that shape.
    ``temperature`` is for ``soft``, ``members`` (4) and ``probabilities`` (1). ``layers`` is for the losses of layers:
    names, or pairs of the student's and the teacher's; by default those that both have, at the last of each height and
    width, and for relations the last one. Their losses are added up. In the first ``warmup_epochs`` the weight grows
    from 0.
    ``output`` says which of several outputs, and labels, ``soft``, ``hard``, ``logits`` and ``probabilities`` are of,
    by default the one that is judged. Outputs that are not judged are held to the dense model's in any case.
    """

    kind: str
    weight: float = 1.0
    temperature: float | None = None
    layers: tuple[str | Pair, ...] | None = None
    warmup_epochs: float = 0.0
    output: int | None = None
    diversity: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"there is no loss {self.kind!r}", _instead(self.kind, KINDS))
        _number(self.weight, f"the weight of {self.kind}", above=0)
        _number(self.warmup_epochs, f"warmup_epochs of {self.kind}", least=0)
        if self.temperature is not None:
            if self.kind not in TEMPERATURES:
                raise UsageError(f"{self.kind} has no temperature", f"{listed(tuple(TEMPERATURES))} have one")
            _number(self.temperature, f"the temperature of {self.kind}", above=0)
        if self.diversity is not None:
            if self.kind != MEMBERS:
                raise UsageError(f"{self.kind} has no diversity", f"{MEMBERS} has one")
            _number(self.diversity, f"the diversity of {self.kind}", least=0)
        if self.layers is not None:
            object.__setattr__(self, "layers", _layers(self.kind, self.layers))
            if self.kind == MEMBERS and not all(isinstance(layer, str) for layer in self.layers):
                raise UsageError(f"{self.kind} is of the student's layers alone, and pairs are given", "give names")
        if self.output is None:
            return
        if isinstance(self.output, bool) or not isinstance(self.output, int) or self.output < 0:
            raise UsageError(f"output {self.output!r} of {self.kind}", "outputs are counted from 0")

    @property
    def heat(self) -> float:
        """The temperature, or the usual one."""
        return TEMPERATURES[self.kind] if self.temperature is None else self.temperature

    @property
    def spread(self) -> float:
        """The diversity, or the usual one."""
        return DIVERSITY if self.diversity is None else self.diversity

    @property
    def pairs(self) -> tuple[Pair, ...] | None:
        """The layers that are named, as pairs of the student's and the teacher's."""
        return None if self.layers is None else tuple((n, n) if isinstance(n, str) else n for n in self.layers)


@dataclass(frozen=True)
class Teacher:
    """Who teaches: the ``dense`` model, a module, or ``file.py:callable`` that makes one, with ``weights`` in it.

    Several teachers count by their ``weight``. ``view``, a callable or ``file.py:callable``, makes the teacher's x of
    the student's, so that both may see the same thing in different ways.
    """

    source: str | nn.Module = DENSE
    weight: float = 1.0
    weights: str | None = None
    view: str | Callable[[Batch], Batch] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.source, (str, nn.Module)):
            name = type(self.source).__name__
            raise UsageError(f"a teacher of type {name}", "give dense, file.py:callable or a torch.nn.Module")
        _number(self.weight, "the weight of a teacher", above=0)
        if self.weights is not None and (self.source == DENSE or not isinstance(self.weights, str)):
            raise UsageError(f"weights {self.weights!r} of the teacher {self.name}", "give a file, and a model of it")
        if self.view is not None and not isinstance(self.view, str) and not callable(self.view):
            raise UsageError(f"a view of type {type(self.view).__name__}", "give file.py:callable or a callable")

    @property
    def name(self) -> str:
        """What it was given as, or the class of the module."""
        return self.source if isinstance(self.source, str) else type(self.source).__name__

    def loaded(self) -> Teacher:
        """The same with its module, weights and view read. Raises ``ModelError`` and ``UsageError`` as loading does."""
        source, view = self.source, self.view
        if source != DENSE:
            source = load_model(source, self.weights)
        if isinstance(view, str):
            view = load_callable(view, "VIEW")
        return replace(self, source=source, weights=None, view=view)


@dataclass(frozen=True)
class Recovery:
    """How a compressed model learns. The default is the dense model as teacher, offline, by the task's own recipe.

    ``mode`` is ``offline``; ``mutual``, where copies of the teachers learn too, from the labels and the student (deep
    mutual learning, Zhang et al. 2018); or ``self``, where the teacher is the moving average of the student's own
    weights, which keeps ``decay`` of itself at each step (Tarvainen and Valpola 2017). Both need labels.

    ``epochs`` are over the training data, ``None`` for as many as the caller says, ``integer_share`` of them with
    quantization in the loop where there is also something else to recover. The learning rate rises for ``warm_up`` of
    each of the two parts, to ``rate`` and ``integer_rate``, and falls to zero as a cosine. With an ``average`` above
    zero what is learnt in a part is the moving average of the weights over that share of its steps, not the last ones;
    BatchNorm statistics are taken anew from it (:class:`edgesdk.train.trainer.Average`).

    Where nothing learns, for want of epochs or of data, each block of the network is fitted in ``reconstruct`` steps of
    gradients to what the dense model makes there (:func:`edgesdk.compress.blockwise.reconstruct`), which needs no
    labels; by default in none.

    With ``learned_steps`` the steps of integer tensors are learnt with the weights (LSQ; Esser et al. 2020, eq. 3) in
    the part with quantization in the loop, instead of following what the tensors hold.

    With ``cuts`` above 1 channels and branches are left out in so many steps along the training in full, each the
    search's best at its latency, made of the network as it had learnt by then and fitted to that (gradual pruning, of
    channels; Zhu and Gupta 2017, "To prune, or not to prune", section 3). The part without quantization is shared out
    among them.

    With ``rollback`` a bound on accuracy alone is kept by rounds of pruning, training and testing (Han et al. 2015,
    section 3; :mod:`edgesdk.pipeline.rollback`), each cut from the round before; one that loses more than the bound is
    rolled back. It is not for ``cuts`` above 1, which would cut in steps what rounds cut already. Raises
    ``UsageError``.
    """

    teachers: tuple[Teacher, ...] = (Teacher(),)
    losses: tuple[Term, ...] = (Term(TASK),)
    mode: str = OFFLINE
    epochs: float | None = None
    rate: float = FLOAT_RATE
    integer_rate: float = INTEGER_RATE
    warm_up: float = WARM_UP
    integer_share: float = INTEGER_SHARE
    decay: float = DECAY
    average: float = 0.0
    reconstruct: int = 0
    learned_steps: bool = False
    cuts: int = 1
    rollback: bool = False

    def __post_init__(self) -> None:
        if not self.teachers or not self.losses:
            missing = "losses" if self.teachers else "teachers"
            raise UsageError(f"a recovery without {missing}", f"leave {missing} out for the usual ones")
        if self.mode not in MODES:
            raise UsageError(f"there is no mode {self.mode!r}", _instead(self.mode, MODES))
        if self.mode == SELF and self.own:
            raise UsageError("a student that teaches itself has no other teachers", "leave them out, or the mode")
        if self.epochs is not None:
            _number(self.epochs, "epochs", least=0)
        _number(self.rate, "rate", above=0)
        _number(self.integer_rate, "integer_rate", above=0)
        _number(self.warm_up, "warm_up", above=0, below=1)
        _number(self.integer_share, "integer_share", least=0, most=1)
        _number(self.decay, "decay", least=0, below=1)
        _number(self.average, "average", least=0, most=1)
        for name, least in (("reconstruct", 0), ("cuts", 1)):
            _number(count := getattr(self, name), name, least=least)
            if not isinstance(count, int):
                raise UsageError(f"{name} is {count!r}", "it must be a whole number of steps")
        for name in ("learned_steps", "rollback"):
            if not isinstance(value := getattr(self, name), bool):
                raise UsageError(f"{name} is {value!r}", "it must be true or false")
        if self.rollback and self.cuts > 1:
            raise UsageError(f"rollback, and cuts = {self.cuts}", "leave one out: rounds are steps already")

    @property
    def own(self) -> bool:
        """Whether the teachers are others than the dense model."""
        return self.teachers != (Teacher(),)

    def check(self, task: Task) -> None:
        """Raise ``UsageError`` where the losses need labels, and ``task`` has none."""
        if task.loss is None and any(term.kind == OWN for term in self.losses):
            raise UsageError("the loss own, and no loss was given", "give --loss, or leave own out")
        if not task.classifies and any(term.kind == MEMBERS for term in self.losses):
            raise UsageError(f"the loss {MEMBERS} for a model that does not classify", "leave it out")
        if task.labelled:
            return
        if any(term.kind == HARD for term in self.losses):
            raise UsageError("the data has no labels for the loss hard", "leave it out, or give labels")
        if self.mode != OFFLINE:
            raise UsageError(f"the data has no labels for the mode {self.mode}", "leave it out, or give labels")

    def loaded(self) -> Recovery:
        """The same with its teachers' modules, weights and views read."""
        return replace(self, teachers=tuple(teacher.loaded() for teacher in self.teachers))

    @staticmethod
    def read(path: str | Path) -> Recovery:
        """The recovery that a TOML file describes: this class's fields, ``[[teachers]]`` and ``[[losses]]``.

        Files that it names are looked for in its own folder. Raises ``UsageError``, with the key that is wrong.
        """
        path = Path(path)
        try:
            document = loads_toml(path.read_text("utf-8"))
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}", "check the path") from None
        except ValueError as error:
            raise UsageError(
                f"{path} is no TOML: {said(error)}", "write it as docs/how-to/recover-accuracy.md shows"
            ) from None
        try:
            for name, kind in (("teachers", Teacher), ("losses", Term)):
                if name in document:
                    document[name] = tuple(_made(kind, t, f"[[{name}]]", path.parent) for t in _tables(document, name))
            return _made(Recovery, document, "a recovery", path.parent)
        except EdgeSdkError as error:
            raise UsageError(f"{path}: {error.fact}", error.remedy) from None


def _tables(document: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    value = document[name]
    if not is_list(value) or not all(is_table(table) for table in value):
        raise UsageError(f"{name} is no list of tables", f"write each under a line [[{name}]]")
    return value


def _made(kind: Any, table: Mapping[str, Any], what: str, folder: Path) -> Any:
    """The dataclass ``kind`` of a table of the file in ``folder``."""
    by_name = {field.name: field for field in fields(kind)}
    if unknown := [key for key in table if key not in by_name]:
        raise UsageError(f"{what} has no key {unknown[0]!r}", _instead(unknown[0], tuple(by_name)))
    if missing := [n for n, f in by_name.items() if f.default is MISSING and n not in table]:
        raise UsageError(f"{what} lacks {missing[0]}", "add it")
    values: dict[str, Any] = {k: tuple(v) if is_list(v) else v for k, v in table.items()}
    if kind is Teacher:
        values |= {k: _placed(values[k], folder, k) for k in ("source", "view", "weights") if k in values}
    return kind(**values)


def _placed(value: Any, folder: Path, key: str) -> str:
    """A file, or ``file.py:callable``, as seen from ``folder``; module names and ``dense`` as they are."""
    if not isinstance(value, str):
        raise UsageError(f"{key} is {value!r}", "give a text")
    where = value.rpartition(":")[0]
    is_file = key == "weights" or where.endswith(".py")
    return str(folder / os.path.expanduser(value)) if is_file else value
