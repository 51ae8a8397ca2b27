"""Each technique at a stated strength on one network: what it makes, what that scores, weighs and takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from edgesdk.compress.quantize import integer, specification
from edgesdk.compress.stored import stored
from edgesdk.core.artifact import Artifact, baseline, format_of
from edgesdk.core.errors import EdgeSdkError
from edgesdk.core.graph import WEIGHTED, Group
from edgesdk.core.plan import FP32, Form, Option
from edgesdk.core.report import Report
from edgesdk.core.serialize import digest
from edgesdk.devices.bench import Bench
from edgesdk.devices.local import LocalDevice
from edgesdk.export.formats import save
from edgesdk.export.onnx import converted
from edgesdk.export.packed import packed
from edgesdk.network.network import Network
from edgesdk.price.menu import options as list_options
from edgesdk.price.stored import fits
from edgesdk.train.trainer import Schedule, recovered
from subjects import CRITERIA, Subject, whole

RUNTIMES = ("onnxruntime", "openvino", "litert")
DEFAULT = "Taylor and Hessian"  # how a deployment ranks channels


@dataclass(frozen=True)
class Made:
    """What a technique makes: a float network, and how its layers run and are stored at last.

    ``reestimate`` says that BatchNorm statistics are taken anew first, which weights as cut need.
    """

    network: Network
    options: Mapping[str, Option] = field(default_factory=dict)
    rounding: str = "nearest"
    reestimate: bool = False


@dataclass(frozen=True)
class Technique:
    """``make`` raises ``Absent`` where the network has nothing that the technique is for."""

    name: str
    strength: str
    make: Callable[[Subject], Made]


class Absent(Exception):
    """Why a technique is not for a network."""


def channels(subject: Subject, criterion: str = DEFAULT, fitted: bool = True, heads: bool = False) -> Made:
    """Half of the channels of every group; or half of the heads of every attention, and all channels."""

    def chosen(group: Group) -> bool:
        return (group.step > 1) == heads

    kept = subject.widths(0.5, chosen)
    if not kept:
        raise Absent(f"it has no {'heads' if heads else 'channels'} that can be cut")
    if criterion == "BatchNorm scale" and not any(site.norm for site in subject.network.sites.values()):
        raise Absent("it has no BatchNorm")
    return Made(*subject.apply(subject.plan(kept), CRITERIA[criterion](subject), fitted), reestimate=not fitted)


def branches(subject: Subject) -> Made:
    """Without the third of the branches that each alone cost the least, by the outputs on calibration data."""
    every = [branch.name for branch in subject.network.graph.branches]
    if not every:
        raise Absent("it has no residual branch that can be left out")
    with torch.no_grad():
        wanted = subject.network.flat(subject.example)
        costs = {}
        for name in every:
            small, _ = subject.apply(subject.plan(dropped=[name]), {}, False)
            costs[name] = subject.task.fidelity_loss(small.flat(subject.example), wanted)
    dropped = sorted(every, key=lambda name: costs[name])[: max(1, len(every) // 3)]
    return Made(*subject.apply(subject.plan(dropped=dropped), {}, True))


def formed(subject: Subject, method: str) -> Made:
    """Every layer in the largest form of ``method`` that the search would take for it, in float."""
    options: dict[str, Option] = {}
    for layer in subject.network.graph.layers:
        every = [o for o in list_options(layer, candidates=(method,)) if o.precision == FP32 and o.form is not None]
        if forms := [o.form for o in every if o.form is not None and o.form.method == method]:
            options[layer.name] = Option(form=max(forms, key=lambda form: form.sizes))
    if not options:
        raise Absent("it has no layer for this form")
    return Made(*subject.apply(subject.plan(options=options), {}, True))


def integers(subject: Subject, bits: int, rounding: str = "nearest", equalized: bool = False) -> Made:
    """Every layer with weights integer, these in ``bits``."""
    network = integer(subject.network, {}, equalized=True) if equalized else subject.network
    return Made(network, whole(network, bits), rounding=rounding)


def storing(network: Network, form: Form) -> dict[str, Option]:
    """Every layer whose weight is smaller as ``form`` stored so."""
    layers = [layer for layer in network.graph.layers if layer.kind in WEIGHTED and fits(form, layer.weight_shape)]
    return {layer.name: Option(form=form) for layer in layers}


FORMS = {
    "fp16": Form("fp16"),
    "bf16": Form("bf16"),
    **{f"k-means, {k} values": Form("k-means", (k,)) for k in (32, 16, 8, 4)},
    "intervals, 16 values": Form("intervals", (16,)),
    "powers of two, 4 bits": Form("powers-of-two", (4,)),
    "E2M1, blocks of 32": Form("e2m1", (32,)),
    "E2M1, blocks of 9": Form("e2m1", (9,)),
    "ternary": Form("ternary"),
    "binary": Form("binary"),
    "50 % zero": Form("sparse", (50,)),
    "80 % zero": Form("sparse", (80,)),
    "2:4 zero": Form("n-of-m", (2, 4)),
    "DCT, 75 % kept": Form("dct", (75,)),
    "DCT, 50 % kept": Form("dct", (50,)),
    "Haar, 50 % kept": Form("haar", (50,)),
}
"""Stored forms, by what a table calls them."""

STORED = (
    "fp16", "bf16", "k-means, 32 values", "k-means, 16 values", "intervals, 16 values", "powers of two, 4 bits",
    "E2M1, blocks of 32", "ternary", "50 % zero", "2:4 zero", "DCT, 75 % kept", "Haar, 50 % kept",
)  # fmt: skip
DENSE = Technique("dense", "", lambda subject: Made(subject.network))
TECHNIQUES = (
    DENSE,
    Technique(f"channels by {DEFAULT}", "half, as cut", partial(channels, fitted=False)),
    *(Technique(f"channels by {name}", "half, fitted", partial(channels, criterion=name)) for name in CRITERIA),
    Technique("heads", "half, fitted", partial(channels, heads=True)),
    Technique("branches left out", "a third, fitted", branches),
    Technique("SVD", "half of full rank, fitted", partial(formed, method="svd")),
    Technique("spatial SVD", "half of full rank, fitted", partial(formed, method="spatial")),
    Technique("Tucker-2", "half of full ranks, fitted", partial(formed, method="tucker")),
    Technique("CP", "half of full rank, fitted", partial(formed, method="cp")),
    Technique("separable", "every convolution, fitted", partial(formed, method="separable")),
    Technique("smaller kernels", "3x3 to 1x1, fitted", partial(formed, method="kernel")),
    Technique("cheaper activations", "every one a ReLU", partial(formed, method="relu")),
    Technique("int8", "every layer", partial(integers, bits=8)),
    Technique("int8, AdaRound", "every layer", partial(integers, bits=8, rounding="adaptive")),
    Technique("int8, equalized", "every layer", partial(integers, bits=8, equalized=True)),
    Technique("4-bit weights", "every layer", partial(integers, bits=4)),
    Technique("4-bit weights, AdaRound", "every layer", partial(integers, bits=4, rounding="adaptive")),
    *(
        Technique("stored", name, lambda s, form=FORMS[name]: Made(s.network, storing(s.network, form)))
        for name in STORED
    ),
)


@dataclass(frozen=True)
class Row:
    """One technique: scores in percent without and with recovery, seconds to compress, and its file per runtime.

    ``files`` has why there is none, where so. Files of one ``key`` hold the same operators: one of them is timed.
    """

    technique: Technique
    before: float
    after: float
    seconds: float
    files: Mapping[str, Artifact | str]
    key: str


class Every:
    """The techniques on one network, all with the same recovery. Files go to ``folder``."""

    def __init__(self, subject: Subject, epochs: float, folder: Path) -> None:
        self.subject, self.epochs, self.folder = subject, epochs, folder
        # Of the dense network, which several techniques start from: by integer layers, rounding and epochs.
        self._learnt: dict[tuple[str, str, float], Network] = {}

    def table(self, only: Collection[str]) -> Iterable[str]:
        """The table of the techniques whose name or strength is in ``only``, line by line; of all where it is empty."""
        rows: list[Row] = []
        missing: dict[Technique, str] = {}
        for technique in (t for t in TECHNIQUES if not only or t is DENSE or t.name in only or t.strength in only):
            try:
                rows.append(self._row(technique, len(rows)))
                told = f"{rows[-1].before:.2f} %, trained {rows[-1].after:.2f} %, {rows[-1].seconds:.1f} s"
            except (Absent, EdgeSdkError) as error:
                told = missing[technique] = error.fact if isinstance(error, EdgeSdkError) else str(error)
            print(f"{technique.name}, {technique.strength}: {told}", file=sys.stderr, flush=True)
        took = self._timed(rows)
        dense = {r: took[f"{r} {rows[0].key}"] for r, file in rows[0].files.items() if isinstance(file, Artifact)}
        ms = ", ".join(f"{r} {report.runtime_version} {report.latency_ms():.4f} ms" for r, report in dense.items())
        yield f"{self.subject.description}: {self.epochs:g} epochs over {self.subject.images:,} images for every row."
        yield f"p50 is over that of the dense model in the same interleaved run ({ms})."
        yield ""
        heads = " | ".join(f"{runtime}: p50, kB" for runtime in RUNTIMES)
        yield f"| technique | strength | top-1 % | trained | {heads} | seconds |"
        yield f"|---|---|--:|--:|{'---|' * len(RUNTIMES)}--:|"
        reasons: dict[str, list[str]] = {}
        for row in rows:
            cells = []
            for runtime, file in row.files.items():
                if isinstance(file, str):
                    reasons.setdefault(file, []).append(row.technique.name)
                    cells.append("-")
                else:
                    ratio = took[f"{runtime} {row.key}"].latency_ms() / dense[runtime].latency_ms()
                    cells.append(f"{ratio:.2f}, {file.size_bytes / 1e3:.0f}")
            technique = f"{row.technique.name} | {row.technique.strength} | {row.before:.2f} | {row.after:.2f}"
            yield f"| {technique} | {' | '.join(cells)} | {row.seconds:.1f} |"
        for technique, why in missing.items():
            reasons.setdefault(why, []).append(technique.name)
        if reasons:
            yield ""
            yield "Left out: " + "; ".join(f"{', '.join(dict.fromkeys(t))}: {why}" for why, t in reasons.items()) + "."
        if disturbed := [report.reason for report in took.values() if not report.valid]:
            yield ""
            yield f"The run was disturbed: {disturbed[0]}."

    def _row(self, technique: Technique, number: int) -> Row:
        start = time.perf_counter()
        made = technique.make(self.subject)
        plain = self._finished(made, 0.0)
        seconds = time.perf_counter() - start
        ready = self._finished(made, self.epochs) if self.epochs else plain
        model, specs = converted(ready, self.subject.example), specification(ready)
        files: dict[str, Artifact | str] = {}
        for runtime in RUNTIMES:
            path = self.folder / f"{runtime}-{number}{format_of(runtime).suffix}"
            try:
                save(packed(model, ready.stored, runtime), specs, path, runtime)
                files[runtime] = Artifact(path, ready.graph, made.options, runtime)
            except EdgeSdkError as error:
                files[runtime] = error.fact
        how = [[name, option] for name, option in made.options.items() if option != Option()]
        key = digest([ready.graph.digest, how])
        return Row(technique, self.subject.top1(plain), self.subject.top1(ready), seconds, files, key)

    def _finished(self, made: Made, epochs: float) -> Network:
        """The network as it is exported after ``epochs``, which make the rounding anew, as they do in a deployment."""
        integers = [(name, o.weight_bits) for name, o in made.options.items() if o.precision != FP32]
        rounding = "nearest" if epochs else made.rounding
        key = (str(integers), rounding, epochs)
        ready = self._learnt.get(key) if made.network is self.subject.network else None
        if ready is None:
            ready = self._recovered(made, epochs, rounding)
        if made.network is self.subject.network:
            self._learnt[key] = ready
        return stored(ready, made.options)

    def _recovered(self, made: Made, epochs: float, rounding: str) -> Network:
        subject = self.subject
        plain = {name: replace(option, form=None) for name, option in made.options.items()}  # stored small by `stored`
        return recovered(
            made.network, subject.network, plain, subject.train(), subject.calibration, subject.task,
            Schedule(epochs, 1.0), reestimate=made.reestimate, rounding=rounding,
        ).network  # fmt: skip

    def _timed(self, rows: Iterable[Row]) -> dict[str, Report]:
        """One file of each key, by runtime and key, from one interleaved run."""
        files: dict[str, Artifact] = {}
        for row in rows:
            for runtime, file in row.files.items():
                if isinstance(file, Artifact):
                    files.setdefault(f"{runtime} {row.key}", file)
        with LocalDevice() as agent:
            tiny = {runtime: baseline(self.folder, runtime) for runtime in {file.runtime for file in files.values()}}
            return Bench(agent).measure(files, "rapid", tiny, thorough=False)
