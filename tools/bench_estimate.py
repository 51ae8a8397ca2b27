"""How far the predictions are off, on networks, sizes, families and boards that were held out; and how fast they come.

    python tools/bench_estimate.py FOLDER [--calibrated NAME] [--write docs/reference/figures/estimates.md]

FOLDER holds the published figures (see ``tools/latency.py``). Every row of the table is fitted without what it is
judged on. Beside it stands a plain baseline, fitted and judged on the same networks: a cost per kind of operator and a
constant by least squares on relative errors for the NAS-Bench-201 networks; MACs, bytes and operators for all others.
NAME is a profile that ``edgesdk calibrate`` made of this machine: five networks are measured here and compared with it.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from boards import (
    JUDGES,
    OTHERS,
    PAIRS,
    Apart,
    Key,
    Observed,
    away,
    believed,
    chip,
    every,
    held_apart,
    judged,
    observe,
    told_by,
    widened,
    works,
)  # fmt: skip
from counted import counted_on, gained
from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.artifact import Artifact
from edgesdk.core.graph import Graph
from edgesdk.core.plan import INT8, Option
from edgesdk.core.runtime import Kernels
from edgesdk.core.target import target as find_target
from edgesdk.devices.bench import Bench
from edgesdk.devices.estimate import estimate, predicted, read_graph
from edgesdk.devices.local import LocalDevice
from edgesdk.export.formats import export
from edgesdk.network.trace import trace
from edgesdk.price.menu import options
from edgesdk.price.physics import BYTES, INDEX
from edgesdk.price.posterior import UNSEEN, Z90, Posterior, carried, unmeasured
from edgesdk.price.prior import prior
from edgesdk.price.profile import Predicted, profile
from edgesdk.workflows.siblings import sibling
from latency import HELP, MLPERF, NASBENCH, ZOO, Data, nasbench
from networks.nasbench import INPUTS, network

BEGIN, END = "<!-- made by tools/bench_estimate.py", "<!-- end -->"
COVERED = (
    "| held out, whole | networks | mean error | in the 90 % interval | median interval |", "|---|--:|--:|--:|--:|"
)  # fmt: skip
DERIVED = (
    "| LiteRT int8 on | networks | from the chip's facts | spread | from instructions | spread | int8 over float |",
    "|---|--:|--:|--:|--:|--:|--:|",
)
ELSEWHERE = 0.3  # log standard deviation of what is carried to another board, as in fit_profiles


@dataclass(frozen=True)
class Check:
    """One row: what was held out, how far off, and what was asked for."""

    what: str
    measured: np.ndarray
    predicted: np.ndarray  # (rows, 3): median and the ends of the interval
    plain: np.ndarray | None
    bar: float | None = None
    aim: float | None = None

    def row(self) -> str:
        off = np.abs(self.predicted[:, 0] / self.measured - 1)
        near = float(np.mean(off <= 0.1))
        inside = float(np.mean((self.predicted[:, 1] <= self.measured) & (self.measured <= self.predicted[:, 2])))
        plain = "" if self.plain is None else _percent(float(np.mean(np.abs(self.plain / self.measured - 1))))
        ranks = np.corrcoef(_rank(self.predicted[:, 0]), _rank(self.measured))[0, 1]
        cells = (
            self.what, len(off), plain, _percent(float(off.mean())), _percent(near, 0), f"{ranks:.3f}",
            _percent(inside, 0), _percent(self.bar, 0), _percent(self.aim),
        )  # fmt: skip
        return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _percent(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{100 * value:.{digits}f} %"


def _rank(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def plain(seen: Observed, kept: Sequence[int], out: Sequence[int]) -> np.ndarray:
    """The baseline's predictions of the rows ``out``, fitted on ``kept``."""
    nas = all(len(row.name) == 6 and row.name.isdigit() for row in seen.rows)
    made = [_digits(row) if nas else _sums(seen, row) for row in seen.rows]
    table, ms = np.array(made), seen.measured
    weights = 1 / ms[list(kept)]
    constants = np.linalg.lstsq(table[list(kept)] * weights[:, None], np.ones(len(kept)), rcond=None)[0]
    return table[list(out)] @ constants


def _digits(row) -> list[float]:
    """How often each kind of operator comes, times the pixels of the input: the sizes are near each other."""
    pixels = float(np.prod(row.graph.inputs[0].shape[1:])) / 1024
    return [pixels, *(pixels * row.name.count(digit) for digit in "01234")]


def _sums(seen: Observed, row) -> list[float]:
    ops = every(row, seen.pair.precision)
    moved = sum((op.inputs * np.prod(op.size) + op.outputs * np.prod(op.after)) * BYTES[op.precision] for op in ops)
    return [1.0, sum(op.macs for op in ops) / 1e6, float(moved) / 1e6, len(ops) / 10]


def folds(seen: Observed, what: str, expected, bar=None, aim=None, only: str | None = None) -> Check:
    """Networks held out, five folds, all rows of a network together."""
    names = sorted({row.name for row in seen.rows})
    fold = {names[i]: k % 5 for k, i in enumerate(np.random.default_rng(0).permutation(len(names)))}
    base = np.zeros(len(seen.rows))
    for k in range(5):
        out = [i for i, row in enumerate(seen.rows) if fold[row.name] == k]
        base[out] = plain(seen, [i for i, row in enumerate(seen.rows) if fold[row.name] != k], out)
    errors = seen.held_out(expected)
    chosen = [i for i, row in enumerate(seen.rows) if only is None or row.family == only]
    return Check(what, seen.measured[chosen], errors[chosen], base[chosen], bar, aim)


def without(seen: Observed, what: str, expected, family: str, bar=None, aim=None) -> Check:
    """A family (or an input size) held out whole."""
    out = [i for i, row in enumerate(seen.rows) if row.family.startswith(family)]
    kept = [i for i, row in enumerate(seen.rows) if not row.family.startswith(family)]
    return Check(
        what, seen.measured[out], seen.predicted(seen.fit(expected, kept), out), plain(seen, kept, out), bar, aim
    )


def checks(data: Data, quick: bool = False) -> Iterable[Check | str]:
    """Every row of the table; with ``quick`` only the names of those of NAS-Bench-201."""
    pairs = [p for p in PAIRS if not quick or p.source not in (NASBENCH, HELP)]
    seen = {(p.board, p.runtime, p.precision, p.after): observe(data, p) for p in pairs}
    first: dict[tuple[str, str, str], Posterior] = {
        key[:3]: measured.fit(prior()) for key, measured in seen.items() if not key[3]
    }

    def expected(*key):
        return believed(seen[key].pair, first)

    yield from SLOW if quick else nasbench_checks(seen, expected)
    four = ("raspberry-pi-4", "litert", "fp32", False)
    for family in ("mobilenet-v2", "mobilenet-v1"):
        what = f"Pi 4, TFLite fp32, {family} not fitted"
        yield without(seen[four], what, expected(*four), family, 0.12, 0.07)
    yield boards(seen, first, "litert", "fp32", ("raspberry-pi-4",), "Pi 4 not fitted, TFLite fp32")
    yield boards(seen, first, "litert", "int8", ("raspberry-pi-4",), "Pi 4 not fitted, TFLite uint8")
    for runtime, precision, named in (
        ("litert", "fp32", "TFLite fp32"), ("litert", "int8", "TFLite uint8"), ("armnn", "fp32", "Arm NN fp32"),
        ("ncnn", "fp32", "ncnn fp32"), ("ncnn", "fp16", "ncnn fp16"), ("tensorrt", "fp16", "TensorRT fp16"),
        ("tensorrt", "int8", "TensorRT int8"),
    ):  # fmt: skip
        yield boards(seen, first, runtime, precision, None, f"each board not fitted, {named}")
    for count in (5, 10):
        yield few(seen, first, count)
    for key in seen:
        if key[1] in ("ncnn", "tensorrt", "armnn") and key[0] not in OTHERS:
            yield folds(seen[key], f"{key[0]}, {key[1]} {key[2]}, networks held out", expected(*key))


SLOW = (
    "Pi 5, ONNX Runtime, same input sizes", "Pi 5, LiteRT, same input sizes",
    *(f"Pi 5, {named}, {'x'.join(map(str, INPUTS[size]))} not fitted" for size in ("ninapro", "cifar100")
      for named in ("ONNX Runtime", "LiteRT")),
    "the first of these without the tile of 16 pixels", "Pi 4, TFLite, NAS-Bench-201",
)  # fmt: skip
"""The rows of 1,445 networks, which take half an hour of a processor to trace."""


def nasbench_checks(seen, expected) -> Iterable[Check]:
    """The rows of NAS-Bench-201's networks."""
    ort, litert = ("raspberry-pi-5", "onnxruntime", "fp32", False), ("raspberry-pi-5", "litert", "fp32", False)
    nas4 = ("raspberry-pi-4", "litert", "fp32", True)
    yield folds(seen[ort], "Pi 5, ONNX Runtime, same input sizes", expected(*ort), 0.03, 0.015)
    yield folds(seen[litert], "Pi 5, LiteRT, same input sizes", expected(*litert), 0.04, 0.02)
    for size in ("ninapro", "cifar100"):
        shape = "x".join(map(str, INPUTS[size]))
        yield without(seen[ort], f"Pi 5, ONNX Runtime, {shape} not fitted", expected(*ort), size, 0.15, 0.07)
        yield without(seen[litert], f"Pi 5, LiteRT, {shape} not fitted", expected(*litert), size)
    flat = replace(seen[ort], works=works(seen[ort].rows, "fp32", chip(*ort[:2]), Kernels(channels=4)))
    yield without(flat, "the first of these without the tile of 16 pixels", expected(*ort), "ninapro")
    yield folds(seen[nas4], "Pi 4, TFLite, NAS-Bench-201", expected(*nas4), 0.09, 0.06)


def coverage(data: Data, runtimes: Sequence[str]) -> Iterable[str]:
    """Rows of the second table: what was held out whole, by family, input size and board, but for NAS-Bench-201.

    How much novelty widens an interval is told by the families of other pairs and the other families of its own.
    """
    pairs = [p for p in PAIRS if p.runtime in runtimes and p.source not in (NASBENCH, HELP) and not p.after]
    seen = {(p.board, p.runtime, p.precision): observe(data, p) for p in pairs}
    first = {key: board.fit(prior()) for key, board in seen.items()}
    held: dict[Key, list[Apart]] = {}
    sizes: dict[Key, list[Apart]] = {}
    for runtime in runtimes:
        same = {key: board for key, board in seen.items() if key[1] == runtime}
        held |= held_apart(same)
        sizes |= held_apart(same, lambda row: str(row.graph.inputs[0].shape[-1]))
    beside = {
        key: judged(observe(data, judge), first[key], {row.family for row in seen[key].rows})
        for judge in JUDGES
        if (key := (judge.board, judge.runtime, judge.precision)) in seen
    }
    families = {key: [*groups, *beside.get(key, ())] for key, groups in held.items()}
    for key in seen:
        told = told_by(key, families, {other: one.pair for other, one in seen.items()})

        def wide(group: Apart, told: Sequence[Apart] = told) -> float:
            others = [one for one in told if one is not group]
            return widened(others) if others else UNSEEN

        for groups, what in (
            (held[key], "families"),
            (beside.get(key, []), "families of NetsPresso, of later kernels"),
        ):
            if groups:
                row = f"{' '.join(key)}: {len(groups)} {what}, one at a time"
                yield _covered(row, [(group, wide(group)) for group in groups])
        if len(sizes[key]) > 2:
            which = ", ".join(sorted((group.group for group in sizes[key]), key=int))
            row = f"{' '.join(key)}: input sizes {which}, one at a time"
            yield _covered(row, [(group, widened(told) if told else UNSEEN) for group in sizes[key]])
    for runtime, precision in dict.fromkeys(key[1:] for key in seen):
        some = {key: one for key, one in seen.items() if key[1:] == (runtime, precision)}
        off = away(some, first)
        told = {
            place: [board for (one, other), board in off.items() if place not in (one, other)] for place in some
        }  # fmt: skip
        judged_by = [(board, widened(told[place])) for (place, _), board in off.items() if told[place]]
        if judged_by:
            count = len({place for place, _ in off})
            yield _covered(f"{runtime} {precision}: {count} boards, each from each other alone", judged_by)


def integers(data: Data) -> Iterable[str]:
    """Rows of the table of LiteRT's int8, derived from its float figures in two ways: which ONNX Runtime's are, too.

    By the chip's facts alone, integer kernels taken as less efficient by a half; and by instructions counted on
    emulated boards, times what an instruction in int8 takes of one in float on the other boards.
    """
    seen = {(p.board, p.precision): observe(data, p) for p in PAIRS if (p.runtime, p.source) == ("litert", MLPERF)}
    offs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for board in dict.fromkeys(board for board, _ in seen if not board.startswith("x86")):
        plain, own = seen[board, "fp32"].fit(prior()), seen[board, "int8"]
        facts = np.zeros(len(plain.log_constants))
        facts[INDEX["conv"]] = np.log(1.5)
        both = (facts, gained(counted_on(chip(board, "litert")), "litert", plain, chip(board, "litert")))
        alone = [
            replace(plain, log_constants=plain.log_constants + more, pull=np.zeros_like(plain.pull)) for more in both
        ]
        by_facts, by_counts = (np.log(own.measured / own.predicted(made)[:, 0]) for made in alone)
        offs[board] = (by_facts, by_counts)
    for board, (by_facts, by_counts) in offs.items():
        share = float(np.median([off.mean() for other, (_, off) in offs.items() if other != board]))
        cells = (
            _error(by_facts), f"{by_facts.std():.2f}", _error(by_counts - share), f"{by_counts.std():.2f}",
            f"{np.exp(by_counts.mean()):.2f}",
        )  # fmt: skip
        yield f"| {board} | {len(by_facts)} | {' | '.join(cells)} |"


def _error(off: np.ndarray) -> str:
    return _percent(float(np.mean(np.abs(np.exp(-off) - 1))), 0)


def _covered(what: str, groups: Sequence[tuple[Apart, float]]) -> str:
    """A row: how many networks, their mean error, the share in their intervals, and how wide these are."""
    off = np.concatenate([group.off for group, _ in groups])
    inside = np.mean([group.covered(unseen) for group, unseen in groups])
    half = np.concatenate([Z90 * np.hypot(group.deviation, unseen * group.novelty) for group, unseen in groups])
    error, width = float(np.mean(np.abs(np.exp(-off) - 1))), float(np.exp(np.median(half)))
    return f"| {what} | {len(off)} | {_percent(error)} | {_percent(float(inside), 0)} | x {width:.2f} |"


def boards(seen, first, runtime: str, precision: str, only, what: str) -> Check:
    """Boards predicted from their facts and the constants of others, without any figure of their own."""
    measured, predicted = [], []
    for key, board in seen.items():
        if key[1:] == (runtime, precision, False) and (only is None or key[0] in only):
            if key[0].startswith("x86") or (key[0], precision) == ("raspberry-pi-5", "fp32") and runtime == "litert":
                continue  # other kernels than any other board's
            posterior = carried(unmeasured(believed(board.pair, first)), ELSEWHERE)
            predicted.append(board.predicted(posterior))
            measured.append(board.measured)
    return Check(what, np.concatenate(measured), np.vstack(predicted), None, 0.30, 0.15)


def few(seen, first, count: int) -> Check:
    """Other boards from ``count`` models measured there and the Pi 4's profile, as ``edgesdk calibrate`` shifts it."""
    random, measured, ends = np.random.default_rng(0), [], []
    for key, board in seen.items():
        base = ("raspberry-pi-4", key[1], key[2])
        if key[1] not in ("litert", "armnn") or key[0].startswith(("raspberry", "x86")):
            continue
        for _ in range(4):
            order = random.permutation(len(board.rows))
            given, out = order[:count], order[count:]
            ms = [board.rows[i].ms for i in given]
            posterior = sibling(first[base], [board.works[i] for i in given], ms, board.clock)
            ends.append(board.predicted(posterior, out))
            measured.append(board.measured[out])
    what = f"{len(ends) // 4} pairs of other boards, from {count} models and the Pi 4"
    return Check(what, np.concatenate(measured), np.vstack(ends), None)


def at_hand(name: str) -> Iterable[Check]:
    """The five families of the zoo, as edgesdk exports them, measured on this machine in one interleaved run."""
    import zoo

    shapes = {"resnet20": (3, 32, 32), "mobilenet_v2_small": (3, 32, 32), "ds_cnn": (1, 49, 10),
              "vit_small": (3, 32, 32), "conv_gru": (8, 64)}  # fmt: skip
    entry = find_target(name)
    made: dict[str, Artifact] = {}
    graphs: dict[str, Graph] = {}
    with LocalDevice() as agent, tempfile.TemporaryDirectory() as folder:
        for network, shape in shapes.items():
            torch.manual_seed(0)
            traced = trace(getattr(zoo, network)().eval(), torch.randn(4, *shape))
            space = {layer.name: options(layer) for layer in traced.graph.layers}
            whole = {n: Option(INT8, 8) for n, candidates in space.items() if Option(INT8, 8) in candidates}
            for precision, chosen in (("fp32", {}), ("int8", whole)):
                ready, x = integer(traced, chosen), torch.randn(8, *shape)
                calibrate(ready, [x])
                path = Path(folder) / f"{network} {precision}.onnx"
                export(ready, x, path)
                made[path.stem], graphs[path.stem] = Artifact(path, traced.graph, chosen), traced.graph
        reports = Bench(agent).measure(made, "rapid", thorough=False)
    for precision in ("fp32", "int8"):
        chosen = [key for key in made if key.endswith(precision)]
        costs = [predicted(graphs[k], made[k].options, Predicted(profile(entry), "onnxruntime", 1)) for k in chosen]
        for key, cost in zip(chosen, costs, strict=True):
            print(f"  {key}: predicted {cost.latency_ms:.4g} ms, measured {reports[key].latency_ms():.4g} ms")
        ends = np.array([(c.latency_ms, c.latency_low_ms, c.latency_high_ms) for c in costs])
        measured = np.array([reports[key].latency_ms() for key in chosen])
        yield Check(f"x86 at hand after calibrate, five networks, {precision}", measured, ends, None, 0.10, 0.05)


def speed() -> str:
    """Estimates a second, of a prepared graph and of a module."""
    graph, module = nasbench("232312", INPUTS["cifar100"]), network("232312")
    import zoo

    small = zoo.resnet20().eval()
    torch.set_num_threads(1)

    def rate(run: Callable[[], object], seconds: float = 3.0) -> float:
        run()
        count, end = 0, time.perf_counter() + seconds
        start = time.perf_counter()
        while time.perf_counter() < end:
            run()
            count += 1
        return count / (time.perf_counter() - start)

    prepared, _ = read_graph(small, (3, 32, 32))
    target = "raspberry-pi-5"
    lines = [
        f"| ResNet-20, prepared graph | {rate(lambda: estimate(prepared, target=target)):.0f} | 50 |",
        f"| ResNet-20, `nn.Module` | {rate(lambda: estimate(small, (3, 32, 32), target=target)):.1f} | 3 |",
        f"| NAS-Bench-201 232312 (198 layers), prepared graph | {rate(lambda: estimate(graph, target=target)):.0f} | |",
        f"| NAS-Bench-201 232312, `nn.Module` | {rate(lambda: estimate(module, (3, 32, 32), target=target)):.1f} | |",
    ]
    whole = [
        f"| MobileNetV2 at 224x224, an ONNX file | {process('mobilenet_v2', file=True):.2f} | 0.5 |",
        f"| ResNet-50 at 224x224, an ONNX file | {process('resnet50', file=True):.2f} | 0.5 |",
        f"| ResNet-50 at 224x224, `nn.Module` | {process('resnet50', file=False):.2f} | 4 |",
    ]
    head = ["| estimates a second | | asked for |", "|---|---|---|"]
    seconds = ["", "| processor seconds of `edgesdk estimate`, whole process | | asked for |", "|---|---|---|"]
    return "\n".join([*head, *lines, *seconds, *whole])


def process(name: str, file: bool, times: int = 5) -> float:
    """Processor seconds of a whole process that estimates a published network: the least of ``times``."""
    make, shape = ZOO[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.onnx"
        if file:
            torch.onnx.export(make().eval(), (torch.zeros(1, *shape),), path, dynamo=False, opset_version=17)
        else:
            (Path(folder) / "net.py").write_text(f"from latency import ZOO\nmake = ZOO[{name!r}][0]\n")
        model = [str(path)] if file else [f"{folder}/net.py:make", "--shape", "x".join(map(str, shape))]
        command = [sys.executable, "-m", "edgesdk.cli", "estimate", *model, "--target", "raspberry-pi-5"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        took: list[float] = []
        for _ in range(times):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(took)


def main() -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--coverage", nargs="+", default=(), help="Only the table of what is held out whole, of these.")
    parser.add_argument("--quick", action="store_true", help="Leave the rows of NAS-Bench-201 as the page has them.")
    parser.add_argument("--integers", action="store_true", help="Only the table of integers from instructions.")
    parser.add_argument("--calibrated", help="A profile that edgesdk calibrate made of this machine.")
    parser.add_argument("--write", type=Path, help="The page whose table is to be replaced.")
    given = parser.parse_args()
    if given.coverage or given.integers:
        rows = [*(COVERED if given.coverage else DERIVED)]
        for row in coverage(Data(given.folder), given.coverage) if given.coverage else integers(Data(given.folder)):
            rows.append(row)
            print(row, flush=True)
        if given.write:
            _write(given.write, BEGIN + (" --coverage" if given.coverage else " --integers"), "\n".join(rows))
        return
    head = "| held out | rows | plain | mean error | within 10 % | rank | in the interval | bar | aim |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|"]
    for check in chain(at_hand(given.calibrated) if given.calibrated else (), checks(Data(given.folder), given.quick)):
        lines.append(_former(given.write, check) if isinstance(check, str) else check.row())
        print(lines[-1], flush=True)
    report = "\n".join([*lines, "", speed()])
    print(report)
    if given.write:
        _write(given.write, BEGIN + ":", report)


def _former(page: Path | None, what: str) -> str:
    """The row ``what`` as the page has it."""
    rows = page.read_text().splitlines() if page else []
    return next((row for row in rows if row.startswith(f"| {what} |")), f"| {what} | |")


def _write(path: Path, begin: str, report: str) -> None:
    """Put ``report`` in the place of what the page has between ``begin`` and the end."""
    page = path.read_text()
    start = page.index(begin)
    end = page.index(END, start)
    first_line = page[start : page.index("\n", start)]
    path.write_text(f"{page[:start]}{first_line}\n\n{report}\n\n{page[end:]}")


if __name__ == "__main__":
    main()
