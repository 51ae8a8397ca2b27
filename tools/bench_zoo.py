"""What becomes of public architectures: estimated, searched, deployed without training, and proved, one by one.

    pip install '.[openvino,tflite,zoo]'
    python tools/bench_zoo.py --out zoo.jsonl [--only PATTERN ...] [--sample 0.1 --seed 0] [--stages 1 2 3]
    python tools/bench_zoo.py --out zoo.jsonl --write docs/reference/figures/zoo.md

Each architecture of tools/architectures.py is made with random weights at its smallest input, its BatchNorms'
statistics taken from random data so that signals stay alive. In a process of its own, with bounds on time and memory:

1. It is traced, and estimated for a Raspberry Pi 4.
2. Dense: it is written for each runtime, and the file is run by that runtime, in a loop of this script's own, and
   compared with the module itself.
3. Half: every group of channels that can be cut is cut to half, at random, and every layer that can be is made integer;
   each file is proved to be that network.
4. Deploy: it is deployed, within twice its latency, to a bundle for ONNX Runtime and for LiteRT, by their profiles (of
   OpenVINO there is none); the model of the bundle is compared with the module as in 2.
5. Search: half of its latency, from the profile; Export: that plan in each format, without training.

Every stage is a line of the JSON lines ``--out``; a run goes on where it stopped. Seconds are processor time. Of
``--stages`` only those given are run, and 1, which all begin with.
"""

from __future__ import annotations

import argparse
import ctypes
import fnmatch
import json
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import textwrap
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from torch import nn

import architectures
import edgesdk
from edgesdk.compress.apply import compressed
from edgesdk.compress.integers import Grid
from edgesdk.compress.quantize import calibrate, integer, specification
from edgesdk.core.artifact import Artifact, format_of
from edgesdk.core.budget import Cost
from edgesdk.core.errors import BudgetError, EdgeSdkError, FidelityError
from edgesdk.core.graph import Graph, Group
from edgesdk.core.plan import INT8, LayerPlan, Option, Plan, Proof
from edgesdk.data.metrics import MSE, TOP_1
from edgesdk.export.formats import grid_of, save
from edgesdk.export.onnx import converted
from edgesdk.export.packed import packed
from edgesdk.export.parity import parity
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk.price.operators import precisions, widths

TARGET = "raspberry-pi-4"
RUNTIMES = {"onnxruntime": "onnx", "openvino": "openvino", "litert": "tflite"}
DEPLOYED = ("onnxruntime", "litert")  # those of which the target has a profile
STAGES = {1: "trace", 2: "convert dense", 3: "convert half", 4: "deploy onnxruntime", 5: "search"}
"""By number what each does first."""
SAMPLES, COMPARED = 8, 4
STATISTICS = 5  # passes by which BatchNorm learns what it sees
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
TOLERANCE = 1e-3  # of the outputs' spread, for a float file
DENSE, HALF = "dense", "half"
OK, REFUSED, TRACEBACK, UNFAITHFUL, OUT_OF_REACH = "ok", "refused", "traceback", "unfaithful", "out of reach"
TIME, KILLED = "out of time", "killed"
BEGIN, END = "<!-- made by tools/bench_zoo.py -->", "<!-- end -->"


@dataclass(frozen=True)
class Row:
    """One stage of one architecture: how it ended, what it took, and what it found."""

    name: str
    stage: str
    end: str
    seconds: float
    megabytes: float
    found: Mapping[str, Any] = field(default_factory=dict)


class Subject:
    """An architecture with its samples, and the file that rows go to."""

    def __init__(self, name: str, out: Path, folder: Path) -> None:
        self.name, self.out, self.folder = name, out, folder
        self.model: nn.Module = nn.Identity()
        self.x = torch.zeros(0)
        self.shape: tuple[int, ...] = ()
        self.metric = TOP_1  # by which plans are judged

    def run(self, stage: str, work: Callable[[], Mapping[str, Any]]) -> bool:
        """Do ``work`` and write how it ended; whether it ended well."""
        reset_peak()
        start = processor_seconds()
        end, found = OK, dict[str, Any]()
        try:
            found = dict(work())
        except BudgetError as error:
            end, found = OUT_OF_REACH, {"error": str(error)}
        except FidelityError as error:
            end, found = UNFAITHFUL, {"error": str(error)}
        except Unfaithful as error:
            end, found = UNFAITHFUL, {"error": str(error), "off": error.off}
        except EdgeSdkError as error:
            end, found = REFUSED, {"error": str(error)}
        except Exception as error:  # what nobody foresaw is what this looks for
            end, found = TRACEBACK, {"error": repr(error)[:500], "trace": traceback.format_exc()[-3000:]}
        write(self.out, Row(self.name, stage, end, processor_seconds() - start, peak_megabytes(), found))
        return end == OK

    def make(self) -> Mapping[str, Any]:
        self.model, self.shape = architectures.make(self.name)
        self.x = torch.randn(SAMPLES, *self.shape)
        with torch.no_grad():
            if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.model.modules()):
                for _ in range(STATISTICS):
                    self.model.train()(self.x)
            answer = self.model.eval()(self.x[:2])
        self.metric = TOP_1 if flat(answer)[0].ndim == 2 else MSE
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return {"shape": self.shape, "parameters": parameters, "outputs": len(flat(answer))}

    def trace(self) -> Mapping[str, Any]:
        """The layers, what a Raspberry Pi 4 is estimated to take for them, and the share that can be cut."""
        self.network = trace(self.model, self.x[:2])
        graph = self.network.graph
        total = sum(layer.macs for layer in graph.layers)
        return {
            "latency_ms": edgesdk.estimate(graph, target=TARGET).latency_ms, "layers": len(graph.layers),
            "macs": total, "cut": cuttable(graph) / total if total else None,
            "fixed": dict(Counter(group.fixed for group in graph.groups if group.fixed)),
            "left": dict(Counter(layer.fixed for layer in graph.layers if layer.fixed and layer.macs)),
        }  # fmt: skip

    def convert_dense(self) -> Mapping[str, Any]:
        """The traced network as ONNX, which every format is made of."""
        self.ready, self.converted = self.network, converted(self.network, self.x)
        return {}

    def convert_half(self) -> Mapping[str, Any]:
        """Every group that can be cut at half of its channels, and every layer integer that can be."""
        graph = self.network.graph
        free = [group for group in graph.groups if group.fixed is None]
        kept = {group.name: nearest(group) for group in free}
        eight = {layer.name: Option(INT8, 8) for layer in graph.layers if INT8 in precisions(layer)}
        layers = tuple(LayerPlan(name, eight.get(name, Option()), 0.0, "all that can be") for name in graph.by_name)
        plan = Plan(
            graph.digest, TARGET, "onnxruntime", 1, kept, layers, (), Cost(1.0, 1.0, 1.0, "predicted"),
            Proof(0.0, 0.0, 0.0, 0.0, "by hand"),
        )  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        scores = {group.name: torch.rand(group.size, generator=generator) for group in free}
        self.small, self.options = compressed(self.network, plan, self.x, scores)
        self.on_grids: dict[Grid, tuple[Network, ModelProto]] = {}
        self.integers_for("onnxruntime")
        return {"macs": sum(layer.macs for layer in self.small.graph.layers)}

    def integers_for(self, runtime: str) -> None:
        """Make the compressed network integer on the grid of ``runtime``, once for each grid, and convert it."""
        grid = grid_of(runtime)
        if grid not in self.on_grids:
            ready = integer(self.small, self.options, grid)
            if specification(ready):
                calibrate(ready, [self.x])
            self.on_grids[grid] = ready, converted(ready, self.x)
        self.ready, self.converted = self.on_grids[grid]

    def save(self, kind: str, runtime: str) -> Path:
        path = self.folder / f"{kind}-{runtime}{format_of(runtime).suffix}"
        save(packed(self.converted, self.ready.stored, runtime), specification(self.ready), path, runtime)
        return path

    def write_dense(self, runtime: str) -> Mapping[str, Any]:
        """The dense network in the format of ``runtime``, compared with the module."""
        return self.prove(self.save(DENSE, runtime), runtime)

    def write_half(self, runtime: str) -> Mapping[str, Any]:
        """The compressed network in the format of ``runtime``, compared with what it was made from."""
        self.integers_for(runtime)
        artifact = Artifact(self.save(HALF, runtime), self.ready.graph, self.options, runtime)
        return {"off": parity(self.ready, artifact, [self.x[:COMPARED]]).error, "bytes": artifact.size_bytes}

    def deploy(self, runtime: str) -> Mapping[str, Any]:
        """The bundle of the whole model for ``runtime``: how far its file is from the module."""
        bundle = edgesdk.deploy(
            self.model, TARGET, (self.x.numpy(), None), edgesdk.Budget(latency_ratio=2.0), self.folder / runtime,
            runtime=runtime, metric=self.metric, epochs=0, force=True,
        )  # fmt: skip
        return self.prove(bundle.model, runtime)

    def search(self, plans: list[edgesdk.Plan]) -> Mapping[str, Any]:
        """Half of the latency, from the profile; the plan is put into ``plans``."""
        budget = edgesdk.Budget(latency_ratio=0.5)
        plans.append(edgesdk.search(self.model, TARGET, (self.x.numpy(), None), budget, metric=self.metric, force=True))
        return {"latency_ratio": plans[0].predicted.latency_ratio, "dropped": len(plans[0].dropped)}

    def export(self, plan: edgesdk.Plan, runtime: str) -> Mapping[str, Any]:
        """``plan`` in the format of ``runtime``, proved by the export to be what it simulates."""
        out = self.folder / f"{runtime}-exported"
        done = edgesdk.export_plan(
            plan, self.model, (self.x.numpy(), None), format=RUNTIMES[runtime], out=out, metric=self.metric, force=True
        )
        (file,) = done.files
        return {"bytes": file.size_bytes, "off": file.parity.error}

    def prove(self, path: Path, runtime: str) -> Mapping[str, Any]:
        """Run the file at ``path`` on samples. Raises ``Unfaithful`` where it is not the module."""
        run = RUNNERS[runtime](path)
        off = 0.0
        with torch.no_grad():
            wanted = [flat(self.model(self.x[i : i + 1])) for i in range(COMPARED)]
        given = [run(self.x[i : i + 1].numpy()) for i in range(COMPARED)]
        for number in range(len(wanted[0])):
            right = np.concatenate([row[number] for row in wanted]).astype(np.float64)
            in_file = np.concatenate(
                [matching(row, row_wanted[number], number) for row, row_wanted in zip(given, wanted, strict=True)]
            )
            spread = right.std() or 1.0
            off = max(off, float(np.sqrt(np.mean((right - in_file) ** 2)) / spread))
        if not off <= TOLERANCE:
            raise Unfaithful(off)
        return {"off": off, "bytes": path.stat().st_size}


class Unfaithful(Exception):
    """A file that is ``off`` from the module by that share of the outputs' spread."""

    def __init__(self, off: float) -> None:
        super().__init__(f"the file is off by {off:.2g} of the outputs' spread")
        self.off = off


def matching(outputs: list[np.ndarray], wanted: np.ndarray, number: int) -> np.ndarray:
    """Of a file's ``outputs`` the one at ``number``, or, where the runtime orders them otherwise, one of that shape."""
    if outputs[number].shape == wanted.shape:
        return outputs[number]
    return next(output for output in outputs if output.shape == wanted.shape)


def flat(answer: Any) -> list[np.ndarray]:
    """The tensors of a module's ``answer``, in order."""
    if isinstance(answer, torch.Tensor):
        return [answer.detach().numpy()]
    inner: Iterable[Any] = answer.values() if isinstance(answer, Mapping) else answer
    return [array for part in inner for array in flat(part)]


def nearest(group: Group) -> int:
    """The width of ``group`` that is nearest to half of it."""
    return min(widths(group.size, group.step), key=lambda width: abs(width - group.size / 2))


def cuttable(graph: Graph) -> int:
    """MACs of the layers of which channels of the input or of the output can go."""
    free = {group.name for group in graph.groups if group.fixed is None}
    return sum(layer.macs for layer in graph.layers if layer.reads in free or layer.writes in free)


Run = Callable[[np.ndarray], list[np.ndarray]]


def run_onnxruntime(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = [value.name for value in session.get_inputs()]
    return lambda x: [np.asarray(array) for array in session.run(None, {name: x})]


def run_openvino(path: Path) -> Run:
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: [np.array(array) for array in compiled([x]).values()]


def run_litert(path: Path) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()

    def run(x: np.ndarray) -> list[np.ndarray]:
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]

    return run


RUNNERS: dict[str, Callable[[Path], Run]] = {
    "onnxruntime": run_onnxruntime, "openvino": run_openvino, "litert": run_litert,
}  # fmt: skip


def processor_seconds() -> float:
    """What this process and its ended children have computed."""
    return sum(
        use.ru_utime + use.ru_stime
        for use in (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def reset_peak() -> None:
    """Let the peak of resident memory begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def write(out: Path, row: Row) -> None:
    with out.open("a") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def examine(name: str, out: Path, memory: int, stages: Collection[int]) -> None:
    """Take the architecture ``name`` through ``stages``, in this process."""
    os.setsid()
    ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)  # the parent's end is this process's
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGESDK_CACHE"] = f"{folder}/cache"
        take_through(Subject(name, out, Path(folder)), stages)


def take_through(subject: Subject, stages: Collection[int]) -> None:
    """Take ``subject`` through ``stages``, each of which is written."""
    if not subject.run("make", subject.make) or not subject.run("trace", subject.trace):
        return
    if 2 in stages and subject.run("convert dense", subject.convert_dense):
        for runtime in RUNTIMES:
            subject.run(f"{runtime} {DENSE}", lambda runtime=runtime: subject.write_dense(runtime))
    if 3 in stages and subject.run("convert half", subject.convert_half):
        for runtime in RUNTIMES:
            subject.run(f"{runtime} {HALF}", lambda runtime=runtime: subject.write_half(runtime))
    if 4 in stages:
        for runtime in DEPLOYED:
            subject.run(f"deploy {runtime}", lambda runtime=runtime: subject.deploy(runtime))
    plans: list[edgesdk.Plan] = []
    if 5 in stages and subject.run("search", lambda: subject.search(plans)):
        for runtime in RUNTIMES:
            subject.run(f"export {runtime}", lambda runtime=runtime: subject.export(plans[0], runtime))


def stand_guard(name: str, options: argparse.Namespace) -> None:
    """Examine ``name`` in a forked process, which is ended when it takes too long."""
    context = multiprocessing.get_context("fork")
    child = context.Process(target=examine, args=(name, options.out, options.gigabytes * 2**30, options.stages))
    start = time.monotonic()
    child.start()
    child.join(options.seconds)
    if child.is_alive():
        os.killpg(child.pid or 0, signal.SIGKILL)
        child.join()
        write(options.out, Row(name, "end", TIME, options.seconds, 0.0))
    elif child.exitcode:
        write(options.out, Row(name, "end", KILLED, 0.0, 0.0, {"error": f"exit code {child.exitcode}"}))
    else:
        write(options.out, Row(name, "end", OK, time.monotonic() - start, 0.0))


def read(out: Path) -> dict[str, dict[str, Row]]:
    """What is known of each architecture, by stage; of a stage that ran twice the later."""
    rows: dict[str, dict[str, Row]] = {}
    for line in out.read_text().splitlines() if out.exists() else ():
        row = Row(**json.loads(line))
        rows.setdefault(row.name, {})[row.stage] = row
    return rows


def is_known(found: Mapping[str, Row], stages: Collection[int]) -> bool:
    """Whether each of ``stages`` was run, or the architecture did not come so far."""
    if "end" not in found:
        return False
    come_to_nothing = found["end"].end != OK or found["make"].end != OK or found["trace"].end != OK
    return come_to_nothing or all(STAGES[stage] in found for stage in stages)


def choose(names: list[str], only: list[str], sample: float, seed: int) -> list[str]:
    """Those of ``names`` that match one of the patterns ``only``, and of these a share ``sample``, by ``seed``."""
    matched = [name for name in names if not only or any(fnmatch.fnmatch(name, f"*{pattern}*") for pattern in only)]
    count = max(1, round(sample * len(matched))) if matched else 0
    return sorted(random.Random(seed).sample(matched, count), key=names.index)


def show(rows: Mapping[str, Mapping[str, Row]]) -> Iterable[str]:
    """The counts and the table, as Markdown."""
    stages = [f"{runtime} {kind}" for kind in (DENSE, HALF) for runtime in RUNTIMES]
    deploying = [f"deploy {runtime}" for runtime in DEPLOYED]
    searching = ["search", *(f"export {runtime}" for runtime in RUNTIMES)]
    yield f"{len(rows)} of {len(architectures.NAMES)} architectures were run."
    yield ""
    yield "| stage | run | ok | " + " | ".join(ENDS) + " |"
    yield "|---|--:|--:|" + "--:|" * len(ENDS)
    for stage in ("make", "trace", "convert dense", *stages[:3], "convert half", *stages[3:], *deploying, *searching):
        ended = [found[stage].end for found in rows.values() if stage in found]
        if not ended:
            continue
        counts = " | ".join(str(ended.count(end) or "") for end in ENDS)
        yield f"| {stage} | {len(ended)} | {ended.count(OK)} | {counts} |"
    cut = [share for share in (found_cut(found) for found in rows.values()) if share is not None]
    yield ""
    yield (
        f"Of {len(cut)} architectures {sum(share >= 0.9 for share in cut)} have 90 % or more of their MACs in layers "
        f"that can be cut on a side, {sum(share >= 0.5 for share in cut)} half or more."
    )
    yield ""
    columns = [*stages, *deploying]
    yield "| architecture | input | parameters | layers | cut | " + " | ".join(columns) + " | seconds | MB |"
    yield "|---|---|--:|--:|--:|" + "---|" * len(columns) + "--:|--:|"
    for name in sorted(rows, key=architectures.NAMES.index):
        found = rows[name]
        made, seen = found.get("make"), found.get("trace")
        shape = "x".join(map(str, made.found.get("shape", ()))) if made else ""
        parameters = f"{made.found['parameters'] / 1e6:.1f} M" if made and "parameters" in made.found else ""
        share = found_cut(found)
        layers = str(seen.found.get("layers", "")) if seen else ""
        cells = [cell(found.get(stage)) for stage in columns]
        worked = [row for stage, row in found.items() if stage != "end"]
        yield (
            f"| {name} | {shape} | {parameters} | {layers} | {'' if share is None else f'{share:.0%}'} | "
            f"{' | '.join(cells)} | {sum(row.seconds for row in worked):.0f} | "
            f"{max((row.megabytes for row in worked), default=0):.0f} |"
        )
    reasons: dict[str, list[str]] = {}
    for name, found in rows.items():
        for stage, row in found.items():
            if row.end in (REFUSED, TRACEBACK, UNFAITHFUL):
                reasons.setdefault(f"{row.end}: {row.found.get('error', '')}", []).append(f"{name} ({stage})")
    if reasons:
        yield ""
        yield "What did not end well, by the line that was said:"
        yield ""
        for reason, where in sorted(reasons.items(), key=lambda item: -len(item[1])):
            more = f" and {len(where) - 6} more" if len(where) > 6 else ""
            yield from textwrap.wrap(f"- {reason[:240]}: {', '.join(where[:6])}{more}", 118, subsequent_indent="  ")


GOOD = (OK, OUT_OF_REACH)
ENDS = (REFUSED, TRACEBACK, UNFAITHFUL, OUT_OF_REACH)


def found_cut(found: Mapping[str, Row]) -> float | None:
    return found["trace"].found.get("cut") if "trace" in found else None


def cell(row: Row | None) -> str:
    if row is None:
        return "-"
    off = row.found.get("off")
    return row.end if off is None else f"{off:.0e}" if row.end == OK else f"{row.end}, {off:.0e}"


def put(page: Path, lines: Iterable[str]) -> None:
    """Write ``lines`` between the marks of ``page``."""
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{chr(10).join(lines)}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("zoo.jsonl"), help="JSON lines, which a run goes on with")
    parser.add_argument("--only", nargs="+", default=[], help="patterns of names")
    parser.add_argument("--sample", type=float, default=1.0, help="this share of them")
    parser.add_argument("--seed", type=int, default=0, help="which share")
    parser.add_argument("--stages", nargs="+", type=int, choices=STAGES, default=list(STAGES), help="these alone")
    parser.add_argument("--seconds", type=float, default=600, help="for each architecture")
    parser.add_argument("--gigabytes", type=int, default=16, help="of address space for each")
    parser.add_argument("--total", type=float, default=float("inf"), help="seconds after which none is begun")
    parser.add_argument("--again", action="store_true", help="those that did not end well, once more")
    parser.add_argument("--write", type=Path, help="the page that the table goes into; nothing is run")
    options = parser.parse_args()
    if options.write:
        put(options.write, show(read(options.out)))
        return
    names = choose(architectures.NAMES, options.only, options.sample, options.seed)
    known = read(options.out)
    if options.again:
        names = [
            name for name in names if any(row.end not in (OK, OUT_OF_REACH) for row in known.get(name, {}).values())
        ]
    else:
        names = [name for name in names if not is_known(known.get(name, {}), options.stages)]
    architectures.load_libraries({name.partition(":")[0] for name in names})
    start = time.monotonic()
    for name in names:
        if time.monotonic() - start > options.total:
            break
        stand_guard(name, options)
        found = read(options.out)[name]
        ends = ", ".join(f"{stage} {row.end}" for stage, row in found.items() if row.end != OK)
        print(f"{name}: {found['end'].seconds:.0f} s; {ends or 'all well'}", flush=True)


if __name__ == "__main__":
    main()
