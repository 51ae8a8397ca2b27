"""From a sibling's profile to a user's board: what a few models took there, read, checked and fitted."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from math import isfinite, log, prod
from pathlib import Path

import numpy as np

from edgesdk.core.errors import DataError, EdgeSdkError, UsageError
from edgesdk.core.graph import Graph
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.core.runtime import RUNTIMES
from edgesdk.core.target import Fact, Target
from edgesdk.core.target import target as find_target
from edgesdk.core.wording import thread_counts
from edgesdk.price.operators import of_network
from edgesdk.price.physics import FP16, TERMS, Work, work
from edgesdk.price.posterior import Posterior, Prior, calibration, carried, fit
from edgesdk.price.profile import SCALED, Pair, Profile, Provenance, profile

DEFAULT_BASE = "raspberry-pi-4"
COLUMNS = ("model", "runtime", "precision", "threads", "ms")
BITS = {FP32: 32, FP16: 16, INT8: 8}
LEAST = 5  # models of a pair of runtime and precision
LONGEST_MS = 1e6
SHAPE, MOST = re.compile(r"[1-9][0-9]{0,9}(x[1-9][0-9]{0,9}){0,7}"), 1 << 30  # of values, without the batch
BETWEEN_SIBLINGS = 0.8  # log standard deviation of a constant from one board to the next, beside what all share
REPEATS = 1.25  # times that a model's own figures are apart: beyond it they contradict each other
TOO_FAR = 0.5  # of a model's latency: beyond it the others do not tell it
WELL_KNOWN = 0.5  # what the base does not know of a constant adds to it, up to this
Tell = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Row:
    """One line of the file: what ``model`` took."""

    line: int
    model: str
    shape: tuple[int, ...] | None
    runtime: str
    precision: str
    threads: int
    ms: float


def shifted(name: str, base: str, path: Path, tell: Tell) -> Profile:
    """The profile of ``base`` as the measurements in ``path`` say that the board ``name`` differs from it.

    Pairs of runtime and precision that were not measured are left out. Raises ``DataError`` for a file, row or model
    that cannot be read, ``UsageError`` for a pair that ``base`` knows nothing of or that has fewer than five models.
    """
    rows = read(path)
    prices = profile(find_target(base))
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.runtime, row.precision), []).append(row)
    graphs: dict[tuple[str, tuple[int, ...] | None], Graph] = {}
    pairs: list[Pair] = []
    for (runtime, precision), some in groups.items():
        count = len({row.model for row in some})
        if count < LEAST:
            fact = f"{path} has {count} model{'s' * (count > 1)} for {runtime} with {precision}"
            raise UsageError(fact, f"measure {LEAST} at least, better ten, as unlike as what you will run")
        pair = prices.pair(runtime, precision, some[0].threads)
        for index, row in enumerate(some):
            tell(f"reading models for {runtime} {precision}", index / len(some))
            key = (row.model, row.shape)
            graphs[key] = graphs[key] if key in graphs else _graph(row, path)
        pairs.append(_shifted(pair, prices.target, some, graphs))
    return Profile(_target(name, prices.target, pairs, path), tuple(pairs))


def _shifted(
    pair: Pair, target: Target, rows: Sequence[Row], graphs: Mapping[tuple[str, tuple[int, ...] | None], Graph]
) -> Pair:
    chip = target.chip(pair.runtime)
    option = Option(pair.precision, BITS[pair.precision])
    works: list[Work] = []
    for row in rows:
        graph = graphs[row.model, row.shape]
        operators = [op for _, op in of_network(graph, {layer.name: option for layer in graph.layers})]
        works.append(work(operators, chip, pair.kernels, row.threads))
    took, models = [row.ms for row in rows], [row.model for row in rows]
    posterior, off = judged(pair.posterior, works, took, chip.clock_ghz, models)
    times, doubt = _contradiction(rows)
    error = float(np.mean(np.abs(np.exp(-off) - 1)))
    if error > TOO_FAR:
        told = f"each model is {100 * error:.0f} % off what the others say of it"
        doubt = "; ".join(filter(None, (doubt, told)))
    count = len(set(models))
    provenance = Provenance(
        SCALED, f"user's measurements of {count} models; base {target.name}", date.today().isoformat(),
        f"{pair.runtime}, not stated", tuple(sorted({row.threads for row in rows})), len(rows),
        (("each of these models from the others", error),), doubt,
    )  # fmt: skip
    return replace(pair, posterior=carried(posterior, log(times) / 2), provenance=provenance)


def _contradiction(rows: Sequence[Row]) -> tuple[float, str]:
    """How many times apart the figures of one model are at most, and which lines say so where that is no noise."""
    worst, doubt = 1.0, ""
    seen: dict[tuple[str, tuple[int, ...] | None, int], list[Row]] = {}
    for row in rows:
        seen.setdefault((row.model, row.shape, row.threads), []).append(row)
    for (model, _, threads), same in seen.items():
        least, most = (choose(same, key=lambda row: row.ms) for choose in (min, max))
        if most.ms / least.ms > max(worst, REPEATS):
            worst = most.ms / least.ms
            lines = f"lines {min(least.line, most.line)} and {max(least.line, most.line)}"
            doubt = f"{model} takes {least.ms:g} and {most.ms:g} ms with {thread_counts([threads])} ({lines})"
    return worst, doubt


def sibling(
    base: Posterior, works: Sequence[Work], took_ms: Sequence[float], clock_ghz: float,
    models: Sequence[object] | None = None,
) -> Posterior:  # fmt: skip
    """What is known of a board from a few networks measured there; see :func:`judged`."""
    return judged(base, works, took_ms, clock_ghz, models)[0]


def judged(
    base: Posterior, works: Sequence[Work], took_ms: Sequence[float], clock_ghz: float,
    models: Sequence[object] | None = None,
) -> tuple[Posterior, np.ndarray]:  # fmt: skip
    """What is known of a board from a few networks measured there, and the log error of each from the others.

    ``models`` say which of the networks are one, all are others without. The interval is as wide as those errors are.
    """
    names = list(range(len(works)) if models is None else models)
    off, deviation = np.zeros(len(works)), np.zeros(len(works))
    for model in dict.fromkeys(names):
        kept = [i for i, name in enumerate(names) if name != model]
        without = _shift(base, [works[i] for i in kept], [took_ms[i] for i in kept], clock_ghz)
        for i, name in enumerate(names):
            if name == model:
                median, deviation[i] = without.predict(works[i], clock_ghz)
                off[i] = np.log(took_ms[i] / median)
    posterior = _shift(base, works, took_ms, clock_ghz)
    more = max(calibration(off, deviation, posterior.noise), 0.0)  # few models are no reason to be surer
    return replace(posterior, noise=float(np.hypot(posterior.noise, np.sqrt(more)))), off


def _shift(base: Posterior, works: Sequence[Work], took_ms: Sequence[float], clock_ghz: float) -> Posterior:
    """What is known of a board from a few networks measured there, and from ``base``, a like one.

    First what all constants share, then each constant's own shift from the base's, then the operators' deviations.
    Those that the base's operators have from its physics carry over. Published boards differ by as much as
    ``BETWEEN_SIBLINGS`` under one name of a runtime, whose versions have other kernels.
    """
    common = float(np.median(np.log(took_ms) - np.log([base.predict(item, clock_ghz)[0] for item in works])))
    as_there = [replace(item, amounts=item.amounts * _factors(base, item)[:, None]) for item in works]
    doubt = np.hypot(np.minimum(base.doubt, WELL_KNOWN), BETWEEN_SIBLINGS)
    believed = Prior(base.log_constants + common, doubt)
    new = fit(as_there, took_ms, clock_ghz, believed)
    before = np.zeros((len(new.learnt), len(base.shapes)))
    return replace(
        new,
        shapes=np.vstack([base.shapes, new.shapes]),
        pull=np.concatenate([base.pull, new.pull]),
        learnt=np.hstack([new.learnt[:, : len(TERMS)], before, new.learnt[:, len(TERMS) :]]),
    )


def _factors(base: Posterior, item: Work) -> np.ndarray:
    """How far each operator deviates from its physics on the base's board."""
    plain = replace(base, pull=np.zeros_like(base.pull))
    return base.parts_ms(item, 1.0) / plain.parts_ms(item, 1.0)


def read(path: Path) -> list[Row]:
    """The rows of a file of measurements, checked. Raises ``DataError`` naming the line that is wrong, and how."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file, skipinitialspace=True)
            columns = [column.strip() for column in lines.fieldnames or ()]
            lines.fieldnames = columns
            _check(columns, path)
            rows = [_row(lines.line_num, line, path) for line in lines if any(line.values())]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "give the path of a CSV file") from None
    except (UnicodeDecodeError, csv.Error):
        raise DataError(f"{path} is not a CSV file in UTF-8", f"write the columns {', '.join(COLUMNS)}") from None
    if len(rows) < LEAST:
        fact = f"{path} has {len(rows)} measurement{'s' * (len(rows) != 1)}"
        raise UsageError(fact, f"{LEAST} are needed, of as many models, for each pair of runtime and precision")
    return rows


def _check(columns: Sequence[str], path: Path) -> None:
    missing = [column for column in COLUMNS if column not in columns]
    others = [c for c in columns if re.fullmatch(r"(latency|time|duration)?_?(us|s|ns|ms|sec|seconds)|latency|time", c)]
    if missing == ["ms"] and others:
        fact = f"line 1 of {path} has the column {others[0]} and none called ms"
        raise DataError(fact, "write the median latency in milliseconds into a column ms")
    if missing:
        raise DataError(f"line 1 of {path} lacks the column {missing[0]}", f"write {','.join(COLUMNS)} there")


def _row(number: int, line: Mapping[str | None, str | None], path: Path) -> Row:
    value = {column: str(line.get(column) or "").strip() for column in (*COLUMNS, "shape")}

    def wrong(fact: str, remedy: str) -> DataError:
        return DataError(f"line {number} of {path}: {fact}", remedy)

    if empty := [column for column in COLUMNS if not value[column]]:
        raise wrong(f"{empty[0]} is empty", "every column but shape needs a value")
    if value["runtime"] not in RUNTIMES:
        raise wrong(f"there is no runtime {value['runtime']!r:.80}", f"write one of {', '.join(RUNTIMES)}")
    if value["precision"] not in BITS:
        raise wrong(f"there is no precision {value['precision']!r:.80}", f"write one of {', '.join(BITS)}")
    if not re.fullmatch(r"[1-9]\d{0,2}", value["threads"]):
        raise wrong(f"{value['threads']!r:.80} is no number of threads", "write a whole number from 1 on")
    try:
        ms = float(value["ms"])
    except ValueError:
        raise wrong(f"ms is {value['ms']!r:.80}", "write the milliseconds as a number alone, like 12.5") from None
    if not (isfinite(ms) and 0 < ms < LONGEST_MS):
        raise wrong(f"no model takes {value['ms']:.80} ms", f"write milliseconds, above 0 and below {LONGEST_MS:.0f}")
    shape = None
    if value["shape"]:
        if not SHAPE.fullmatch(value["shape"]):
            raise wrong(f"{value['shape']!r:.80} is no shape", "write it without the batch, like 3x224x224")
        shape = tuple(int(size) for size in value["shape"].split("x"))
        if prod(shape) > MOST:
            raise wrong(f"{value['shape']} are more values than a model takes", "write its shape, like 3x224x224")
    return Row(number, value["model"], shape, value["runtime"], value["precision"], int(value["threads"]), ms)


def _graph(row: Row, path: Path) -> Graph:
    """The graph of a row's model; a path in it is from the file's folder."""
    from edgesdk.network import module_graph as torch_graph
    from edgesdk.network import onnx_graph
    from edgesdk.network.load import load_model  # here, for fitting needs no framework

    where, colon, name = row.model.rpartition(":")
    try:
        if row.model.endswith(".onnx"):
            return onnx_graph.read(path.parent / row.model, row.shape)[0]
        if not (colon and where.endswith(".py")):
            raise UsageError(f"{row.model!r} is no model", "write the path of an .onnx file, or file.py:callable")
        if row.shape is None:
            raise UsageError(f"{row.model} has no shape", "write its input's into a column shape, like 3x224x224")
        return torch_graph.read(load_model(f"{path.parent / where}:{name}"), row.shape)
    except EdgeSdkError as error:
        raise DataError(f"line {row.line} of {path}: {error.fact}", error.remedy) from None


def _target(name: str, base: Target, pairs: Sequence[Pair], path: Path) -> Target:
    runtimes = tuple(dict.fromkeys(pair.runtime for pair in pairs))
    precisions = {r: tuple(p.precision for p in pairs if p.runtime == r) for r in runtimes}
    fact = Fact("processor", f"taken to be that of {base.name}, shifted as a whole", f"measurements in {path.name}")
    return replace(
        base, name=name, title=f"{name}, shifted from {base.title}", aliases=(), runtimes=runtimes,
        precisions=precisions, facts=(fact,), measured=False,
    )  # fmt: skip
