"""The documents in a bundle, and in the folders that other commands write, as types: their schemas are made of these.

Nothing here needs PyTorch: to check a bundle nobody should wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgesdk.core.answers import AnswerChanges
from edgesdk.core.budget import Budget, Cost
from edgesdk.core.kernels import KernelProfile
from edgesdk.core.parity import Parity
from edgesdk.core.plan import Rejected
from edgesdk.core.report import Prediction, Report
from edgesdk.core.sampling import Decisions
from edgesdk.core.schema import Schema
from edgesdk.core.serialize import FORMER
from edgesdk.price.correct import Observation
from edgesdk.price.work import LayerWork, Roofs

MANIFEST, REPORT, FOLDER = Schema("manifest", 2), Schema("report", 2), Schema("folder", 2)
EXPORT, STAGES, PREPARED = "export", "stages", "prepared"  # kinds of folders


@dataclass(frozen=True)
class File:
    """One file of a folder, as it was written."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class RuntimeNeed:
    """What runs a bundle: the version that it was made with, the least that can run it, what floats are computed in."""

    name: str
    version: str
    minimum: str | None
    precision: str | None


@dataclass(frozen=True)
class InputSpec:
    """One input of a model, for one sample: ``normalization`` is what pixels are multiplied with, and so on;
    ``sample_rate`` that of a wave in Hz, where it is known."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    normalization: Mapping[str, float | tuple[float, ...]] | None
    sample_rate: int | None = None


@dataclass(frozen=True)
class OutputSpec:
    """One output of a model, for one sample."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Pixels:
    """How images become an input: the fields of ``edgesdk.Preprocessing``."""

    input_range: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int] | None
    resize: str
    channel_order: str | None
    layout: str
    dtype: str


@dataclass(frozen=True)
class Manifest:
    """What a bundle is, and the digests of its files. ``created`` is in UTC; ``plan`` and ``graph`` are digests.

    ``pages`` are files that people read, and what ``edgesdk diff`` compares with: no device takes them, and where one
    lacks, the bundle is whole without it.
    """

    edgesdk: str
    created: str
    target: str
    architecture: str | None
    basis: str
    runtime: RuntimeNeed
    model: str
    format: str
    layout_inside: str
    threads: int
    plan: str
    graph: str
    inputs: tuple[InputSpec, ...]
    preprocessing: Pixels | None
    classes: tuple[str, ...]
    outputs: tuple[OutputSpec, ...]
    files: Mapping[str, File]
    pages: Mapping[str, File] = field(default_factory=dict)
    schema: str = MANIFEST


@dataclass(frozen=True)
class Scores:
    """The metric of the dense model and of the deployed file, of so many ``samples``.

    ``decisions`` are the file's, where each sample has one: a gate compares two files by them.
    """

    dense: float | None
    deployed: float | None
    judged_on: str
    samples: int | None = None
    decisions: Decisions | None = None


@dataclass(frozen=True)
class Step:
    """One step of a deployment: a plan that was applied, a round of finalists, a note, or a point of a training.

    ``misses`` are the bounds that its cost breaks, each with the ratio to what it may be. ``plan_loss`` is how far its
    plan should move the outputs before anything is learnt back. ``loss`` is the training's at an ``epoch``, in its
    ``part``, float or int8.
    """

    runtime: str | None = None
    search: str | None = None
    plan: str | None = None
    predicted: Cost | None = None
    measured: Cost | None = None
    misses: Mapping[str, float] = field(default_factory=dict)
    plan_loss: float | None = None
    drop: float | None = None
    finalist: str | None = None
    round: int | None = None
    holdout_score: float | None = None
    note: str | None = None
    part: str | None = None
    epoch: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Distance:
    """How far a file is from the user's own module: of the outputs' spread, and the share of other largest outputs.

    ``by_output`` has the error of each output, in the manifest's order; documents of before lack it.
    """

    error: float
    samples: int
    top1_differs: float
    by_output: tuple[float, ...] = ()


@dataclass(frozen=True)
class LayerFacts:
    """One layer of the graph: its operator, multiplications for one sample and parameters in the dense model.

    ``channels`` are those that it makes there, ``kept`` those in the deployed model. ``loss`` and ``width_loss`` are
    what its option and the channels of its group cost in accuracy: how far the outputs move, before anything is learnt
    back. ``None`` where that is not known, or the layer has no channels that can be cut. ``dense_work`` and ``work``
    are what it does in a run of the dense and of the deployed model; ``None`` where it is left out.
    """

    name: str
    operator: str
    macs: int
    parameters: int
    channels: int | None
    kept: int | None
    loss: float | None
    width_loss: float | None
    dense_work: LayerWork | None = None
    work: LayerWork | None = None


@dataclass(frozen=True)
class DeploymentReport:
    """Dense beside deployed, predicted beside measured, and how it came about.

    ``measured`` is ``None`` for a target that was not at hand, for which ``to_measure`` says how. Raw samples are those
    of the deployed file alone. ``layers`` are in the order of the graph. ``out_of_reach`` is the share of the
    multiplications that is in layers with no compressed form, by the reason. ``changes`` is what a classifier answers
    otherwise than the dense model. ``roofs`` are the most that the processor does, where that is known. ``profiles``
    say what the runtime ran for each layer of the ``dense`` and of the ``deployed`` file, and what that took: measured.
    ``eased`` says why another ``budget`` stands here than what holds where nobody gives one; ``None`` where none does.
    ``command`` is the command line that asked for it; ``None`` where Python did. ``predicted_error`` is the standard
    error of the logarithm of the latency that was ``predicted``, as far as measured prices tell; ``None`` where none
    do.
    """

    basis: str
    budget: Budget
    data: str
    notes: tuple[str, ...]
    metric: str
    score: Scores
    predicted: Cost
    measured: Cost | None
    to_measure: tuple[str, ...]
    dense: Report | Prediction
    deployed: Report | Prediction
    parity: Parity
    against_model: Mapping[str, Distance]
    fell_back_to_float: tuple[str, ...]
    rejected: tuple[Rejected, ...] = field(metadata={FORMER: "struck"})
    history: tuple[Step, ...]
    beside: Mapping[str, Report | Prediction]
    refused_runtimes: Mapping[str, str]
    epochs: float
    seed: int
    compressed: bool
    reasons: tuple[str, ...]
    out_of_reach: Mapping[str, float]
    groups_left_whole: Mapping[str, str]
    layers_left_as_they_are: Mapping[str, str]
    observations: tuple[Observation, ...]
    layers: tuple[LayerFacts, ...] = ()
    changes: AnswerChanges | None = None
    roofs: Roofs | None = None
    profiles: Mapping[str, KernelProfile] = field(default_factory=dict[str, KernelProfile])
    command: str | None = None
    eased: str | None = None
    predicted_error: float | None = None
    schema: str = REPORT


@dataclass(frozen=True)
class Halves:
    """A figure before and after."""

    before: float
    after: float


@dataclass(frozen=True)
class Preparation:
    """What a preparation came to; what is of another kind of it is ``None``.

    ``score`` is on test data, by when. Of ``sparsity``: the penalty's size, and the share of channels near zero, of
    each layer, too. Of a ``transfer``: the head that was replaced. Of an ``ensemble``: each member's score and weight.
    """

    kind: str
    metric: str
    score: Mapping[str, float | None]
    epochs: float
    seed: int
    notes: tuple[str, ...]
    penalty: str | None = None
    strength: float | None = None
    size: Halves | None = None
    near_zero: Halves | None = None
    layers: Mapping[str, float] | None = None
    head: str | None = None
    classes: int | None = None
    frozen_epochs: float | None = None
    by: str | None = None
    anew: bool | None = None
    members: tuple[float, ...] | None = None
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Held:
    """What runs a file of one format, and how far it is from the simulation."""

    runtime: str
    parity: Parity


@dataclass(frozen=True)
class Folder:
    """What a folder of ``edgesdk export``, ``stages`` or ``prepare`` holds; ``kind`` says of which.

    Of an export, ``plan`` and ``graph`` are digests and ``formats`` what was made of them; of a preparation,
    ``report`` is what it came to.
    """

    kind: str
    edgesdk: str
    made_on: str
    files: Mapping[str, File]
    plan: str | None = None
    graph: str | None = None
    formats: Mapping[str, Held] = field(default_factory=dict)
    report: Preparation | None = None
    schema: str = FOLDER
