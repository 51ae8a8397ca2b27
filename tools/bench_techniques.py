"""What techniques do to a network: accuracy, bytes, milliseconds and seconds, before any of them is believed.

    pip install '.[techniques,openvino,tflite]' && python tools/bench_techniques.py [every fitting recovery ...]
        [--network resnet8] [--weights-folder ZOO] [--epochs 1] [--images 8000] [--only NAME ...]
        [--write docs/reference/figures/techniques.md]

Each table is of one seed and one network: the built-in example with its samples of Fashion-MNIST, or one that
``tools/train_zoo.py`` trained on CIFAR-10. Scores are top-1 on 2,000 test images. ``--write`` puts each table in the
place that a page has for it.

- every: each technique at one strength, without and with the same recovery, as files of each runtime, which are timed
  in one interleaved run. ``--only`` takes names or strengths from its first two columns; the dense model stays.
- fitting: all widths at a share of the dense ones, every layer int8: weights as cut beside fitted ones, by criterion.
- recovery: a quarter of every width, three epochs, by the losses that teach.
- quantization: every layer integer and nothing trained, by how ranges, steps and roundings are chosen.
- stored: float weights in packed forms, nothing trained, and the size of the ONNX file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from edgesdk.compress.quantize import calibrate, fold, integer
from edgesdk.compress.stored import stored
from edgesdk.export.onnx import converted
from edgesdk.export.packed import packed
from edgesdk.network.network import Network
from edgesdk.train.recovery import Recovery, Term
from edgesdk.train.trainer import Schedule, recovered
from every import FORMS, TECHNIQUES, Every, storing
from subjects import CRITERIA, SUBJECTS, Subject, whole

BEGIN, END = "<!-- made by tools/bench_techniques.py: {} -->", "<!-- end -->"
EPOCHS = 3.0


def learnt(
    subject: Subject, small: Network, epochs: float, reestimate: bool, recovery: Recovery | None = None
) -> Network:
    """``small`` with every layer int8, after ``epochs`` over the images in an order that no other run changes."""
    return recovered(
        small, subject.network, whole(small, 8), subject.train(), subject.calibration, subject.task, Schedule(epochs),
        recovery=recovery or Recovery(), reestimate=reestimate,
    ).network  # fmt: skip


def fitting(subject: Subject) -> Iterable[str]:
    """Weights as cut and fitted ones."""
    yield "| widths | channels by | weights | untrained: top-1 %, error | after 2 epochs: top-1 % |"
    yield "|---|---|---|---|--:|"
    ranked = {name: score(subject) for name, score in CRITERIA.items()}
    for share, name, fitted in (
        *((share, name, fitted) for share in (0.75, 0.5) for name, fitted in (("Taylor", False), ("Taylor", True))),
        *((0.5, name, True) for name in ("L1", "L2", "Hessian")),
        *((share, "Taylor and Hessian", True) for share in (0.75, 0.5)),
    ):
        small = subject.cut(share, ranked[name], fitted)
        plain, taught = (learnt(subject, small, epochs, not fitted) for epochs in (0.0, 2.0))
        untrained = f"{subject.top1(plain):.2f}, {subject.error(plain):.3f}"
        kind = "fitted" if fitted else "as cut"
        yield f"| {share:g} | {name} | {kind} | {untrained} | {subject.top1(taught):.2f} |"


def recovery(subject: Subject) -> Iterable[str]:
    """By the losses that teach."""
    yield f"| losses | top-1 % after {EPOCHS:g} epochs |"
    yield "|---|--:|"
    small = subject.cut(0.25, CRITERIA["Taylor"](subject), False)
    yield f"| none: no epochs | {subject.top1(learnt(subject, small, 0.0, True)):.2f} |"
    task = Term("task")
    for name, losses in {
        "`task`": (task,),
        "`task` + 0.1 `features`": (task, Term("features", 0.1)),
        "`task` + 100 `similarity`": (task, Term("similarity", 100.0)),
        "`task` + `attention`": (task, Term("attention")),
        "0.1 `logits`": (Term("logits", 0.1),),
        "`soft`": (Term("soft"),),
        "`hard`": (Term("hard"),),
    }.items():
        yield f"| {name} | {subject.top1(learnt(subject, small, EPOCHS, True, Recovery(losses=losses))):.2f} |"


def quantization(subject: Subject) -> Iterable[str]:
    """By how ranges, steps and roundings are chosen."""
    yield "| choice | 8 bits: error, top-1 % | 4-bit weights: error, top-1 % |"
    yield "|---|---|---|"
    choices: tuple[tuple[str, dict[str, Any], dict[str, str]], ...] = (
        ("min-max, nearest, a step per channel (the default)", {}, {}),
        ("percentile 99.99", {}, {"ranges": "percentile"}),
        ("entropy", {}, {"ranges": "entropy"}),
        ("mean squared error", {}, {"ranges": "mse"}),
        ("adaptive rounding (AdaRound)", {}, {"rounding": "adaptive"}),
        ("cross-layer equalization", {"equalized": True}, {}),
        ("one step per layer", {"step": "layer"}, {}),
        ("one step per layer, equalized", {"step": "layer", "equalized": True}, {}),
        ("one step for the network", {"step": "network"}, {}),
    )
    for name, made, ranges in choices:
        cells = []
        for bits in (8, 4):
            ready = integer(subject.network, whole(subject.network, bits), **made)
            calibrate(ready, subject.calibration, **ranges)
            cells.append(f"{subject.error(ready):.2g}, {subject.top1(ready):.2f}")
        yield f"| {name} | {' | '.join(cells)} |"


def small(subject: Subject) -> Iterable[str]:
    """Packed forms, decoded as the file is loaded."""
    yield "| form | top-1 % | kB |"
    yield "|---|--:|--:|"
    for name in ("plain", *FORMS):
        form = FORMS.get(name)
        network = stored(fold(subject.network), storing(subject.network, form) if form else {})
        size = packed(converted(network, subject.example), network.stored).ByteSize()
        yield f"| {name} | {subject.top1(network):.2f} | {size / 1e3:.0f} |"


TABLES: dict[str, Callable[[Subject], Iterable[str]]] = {
    "fitting": fitting, "recovery": recovery, "quantization": quantization, "stored": small,
}  # fmt: skip
EVERY = "every"


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join([EVERY, *TABLES])}; all without")
    parser.add_argument("--network", choices=SUBJECTS, default="resnet8")
    parser.add_argument("--weights-folder", type=Path, help="what tools/train_zoo.py wrote")
    parser.add_argument("--epochs", type=float, default=1.0, help="of the recovery in the table of every technique")
    parser.add_argument("--images", type=int, help="to learn from, at most")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="techniques by name or strength")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    tables = options.tables or [EVERY, *TABLES]
    for wanted, choices, what in (
        (tables, {EVERY, *TABLES}, "table"),
        (options.only, {text for t in TECHNIQUES for text in (t.name, t.strength)}, "technique"),
    ):
        if unknown := set(wanted) - choices:
            parser.error(f"there is no {what} {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    subject = SUBJECTS[options.network](options.images, options.weights_folder)
    places = {name: BEGIN.format(name if subject.name == "resnet8" else f"{name} {subject.name}") for name in tables}
    if options.write is not None:
        text = options.write.read_text("utf-8")
        if missing := [place for place in places.values() if place not in text]:
            parser.error(f"{options.write} has no place for a table: write there {missing[0]} and {END}")
    print(f"{subject.description}, dense: {subject.top1(subject.network):.2f} %", file=sys.stderr)
    for name in tables:
        lines = []
        with tempfile.TemporaryDirectory() as folder:
            every = Every(subject, options.epochs, Path(folder))
            for line in every.table(options.only) if name == EVERY else TABLES[name](subject):
                print(line, flush=True)
                lines.append(line)
        print()
        if options.write is not None:
            before, _, rest = options.write.read_text("utf-8").partition(places[name])
            made = "\n".join((places[name], *lines, END))
            options.write.write_text(f"{before}{made}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    main()
