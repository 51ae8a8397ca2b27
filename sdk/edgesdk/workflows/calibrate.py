"""A profile of the user's own board: timed on the machine at hand, or shifted from a sibling by a few measurements."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.resources import files
from math import exp, log
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from edgesdk.compress.quantize import calibrate as set_ranges
from edgesdk.compress.quantize import integer
from edgesdk.core.cache import cache_folder, check_cache
from edgesdk.core.errors import BundleError, EdgeSdkError, StorageError, UsageError
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.core.report import Tell
from edgesdk.core.runtime import find_runtime
from edgesdk.core.scratch import scratch_folder
from edgesdk.core.serialize import digest, is_list, is_table, to_json
from edgesdk.core.target import ALL, SCHEMA, Chip, Fact, Target, read_folder, targets, user_folder
from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.bench import Bench
from edgesdk.devices.boards import Boards
from edgesdk.devices.inventory import LOCAL
from edgesdk.devices.pool_bench import PoolBench, check_alike
from edgesdk.devices.pools import At, Pool, find_place
from edgesdk.devices.reach import reach
from edgesdk.example.parts import FITTED, JUDGES, Part
from edgesdk.export.formats import export
from edgesdk.export.probes import probe
from edgesdk.network.fuse import flat
from edgesdk.price.designed import designed
from edgesdk.price.menu import options
from edgesdk.price.operator import Operator
from edgesdk.price.operators import of_network
from edgesdk.price.physics import Work, lone, work
from edgesdk.price.posterior import Prior, fit
from edgesdk.price.prices import Prices
from edgesdk.price.prior import prior
from edgesdk.price.profile import MEASURED, Pair, Predicted, Profile, Provenance, load, save
from edgesdk.price.profile import SCHEMA as PRICES
from edgesdk.workflows.siblings import DEFAULT_BASE, shifted

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
SHORTEST_MS = 5e-4  # operators below it are lost in the noise of the difference that their time is
FEW = 0.03  # of the operators, where an estimate of this machine is asked for at once
WIDE = 1.0  # log standard deviation to believe at least: hundreds of probes say more than any belief
WEIGHT = 4  # a whole network counts as that many probes: in it, the deviations of its operators cancel
LEAST_PART = 0.25  # of a network's latency, for what its integer operators took to be told from the rest
ROUNDS, VISIT_SECONDS = 15, 0.01
BANDWIDTH_GBPS, CACHE_KB, CLOCK_GHZ = 20.0, 1024.0, 2.5  # where the machine does not tell; a constant takes the rest


def calibrate(
    name: str,
    *,
    base: str | None = None,
    measurements: str | Path | None = None,
    runtime: str = "onnxruntime",
    threads: int = 1,
    tell: Tell = lambda what, share: None,
    force: bool = False,
    share: float = 1.0,
    device: At = LOCAL,
) -> Profile:
    """Make and keep the profile ``name``, and return it.

    Without ``measurements``, ``device`` is timed, of the inventory, an ``ssh://`` address or this machine: operators
    first, then small networks, ``share`` of the designed ones. Alike boards, ``pool:NAME`` or several, share the
    operators and are all timed on the networks: the profile is that of the slowest, and its provenance says how far the
    others are from it. With them, a file of what models took on a board
    (columns model, runtime, precision, threads, ms), the profile of ``base`` is shifted to it. Each pair's
    ``provenance.errors`` says how far off it is on networks that were not fitted. Raises ``UsageError`` for a name that
    is none or comes with edgesdk, ``BundleError`` where the profile exists and ``force`` does not allow replacing it,
    ``DataError`` for a measurement that cannot be, ``DeviceError`` where the device cannot be reached, or boards are
    not alike and ``force`` does not go on.
    """
    place = _place(name, force)
    check_cache()
    if measurements is not None and device != LOCAL:
        raise UsageError("a device and a file of measurements", "give one of the two: a device is timed")
    if measurements is not None:
        priced = shifted(name, base or DEFAULT_BASE, Path(measurements), tell)
    elif base is not None:
        raise UsageError(f"{base} is given to start from, but nothing to shift it by", "give --measurements too")
    elif not find_runtime(runtime).x86_kernels:
        raise UsageError(f"{runtime} cannot be timed here", "give --measurements with what models took under it")
    else:
        priced = _timed(name, runtime, threads, tell, share, device, force)
    _keep(priced, place)
    return priced


def machine(target: Target, runtime: str, threads: int, tell: Tell) -> tuple[Profile, bool]:
    """The profile of this machine for ``target``, and whether it was kept from before; else a few operators are timed.

    It is kept in the cache for the same processor, version of the runtime and number of threads.
    """
    if not find_runtime(runtime).x86_kernels:
        timed = " or ".join(name for name in target.runtimes if find_runtime(name).x86_kernels)
        remedy = f"choose {timed}, or measure the model: edgesdk benchmark MODEL --runtime {runtime}"
        raise UsageError(f"{runtime} cannot be estimated here", remedy)
    check_cache()
    with reach(LOCAL) as agent:
        conditions = Bench(agent, threads, runtime).conditions
    place = cache_folder() / "machines" / digest([SCHEMA, PRICES, conditions])[:16]
    try:
        facts, text = read_folder(place), (place / "prices.json").read_text("utf-8")
        return Profile(facts, load(text, str(place))), True
    except (OSError, EdgeSdkError):
        priced = _timed(target.name, runtime, threads, tell, FEW, LOCAL)
        _keep(priced, place)
        return priced, False


def _place(name: str, force: bool) -> Path:
    """Where the profile goes."""
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a profile", "use a-z, 0-9 and - between them, like my-board")
    if name == ALL:
        raise UsageError("all stands for every target", "choose another name, like my-board")
    shipped = (files("edgesdk_profiles") / name / "device.toml").is_file()
    if shipped or any(name in target.aliases for target in targets().values()):
        raise UsageError(f"{name} is a target that edgesdk comes with", f"choose another, like my-{name}")
    place = user_folder() / name
    if place.exists() and not force:
        raise BundleError(f"the profile {name} exists", "give --force to replace it, or choose another name")
    return place


def _keep(priced: Profile, place: Path) -> None:
    """Write a profile whole or not at all: to a folder beside its place, then renamed."""
    temporary, old = (place.with_name(f".{place.name}.{end}") for end in (f"partial-{os.getpid()}", "old"))
    try:
        temporary.mkdir(parents=True)
        save(temporary / "prices.json", priced.target.name, priced.pairs)
        (temporary / "device.toml").write_text(_toml({"schema": SCHEMA, **to_json(priced.target)}), "utf-8")
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            place.rename(old)
        temporary.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        remedy = "free some space, or set EDGESDK_PROFILES"
        raise StorageError(f"cannot write {place}: {error.strerror}", remedy) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _toml(document: Mapping[str, Any]) -> str:
    """A document of values, tables of tables and lists of tables as TOML; tables within those are inline."""
    lines: list[str] = []
    sections: list[tuple[str, Mapping[str, Any]]] = []
    for key, value in document.items():
        if is_table(value) and all(is_table(part) for part in value.values()):
            sections += [(f"[{key}.{name}]", part) for name, part in value.items()]
        elif is_list(value) and any(is_table(part) for part in value):
            sections += [(f"[[{key}]]", part) for part in value]
        elif value is not None:
            lines.append(f"{key} = {_value(value)}")
    for head, part in sections:
        lines += ["", head, *(f"{key} = {_value(value)}" for key, value in part.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if is_table(value):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(part)}" for key, part in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class _Network:
    """A small network in one precision: its operators, where its file is, and in the end what it took in ms."""

    part: Part
    precision: str
    operators: tuple[Operator, ...]
    path: Path


def _timed(
    name: str, runtime: str, threads: int, tell: Tell, share: float, device: At, force: bool = False
) -> Profile:  # fmt: skip
    """The profile of ``device``; of a pool that of the slowest of its boards, which share the operators."""
    every, place = max(1, round(1 / share)), find_place(device)
    with Boards(place) if isinstance(place, Pool) else reach(place) as reached, scratch_folder() as folder:
        bench, facts = _open(reached, threads, runtime, force)
        target = _target(name, runtime, facts)
        for index, precision in enumerate((FP32, INT8)):
            wanted = designed(precision, share)
            bench.time(wanted, probe, lambda s, i=index: tell("timing operators", (i + s) / 2))
        fitted, judges = FITTED[::every], JUDGES[::every]
        networks: list[_Network] = []
        for index, part in enumerate((*fitted, *judges)):
            tell("making small networks", index / (len(fitted) + len(judges)))
            networks += _made(part, folder)
        tell("timing small networks", None)
        if isinstance(bench, PoolBench):
            benches = bench.benches
            took = bench.boards.each(lambda board, tell: _time_networks(benches[board.name], networks))
            slowest = max(took, key=lambda board: sum(map(log, took[board].values())))
            where = _tell_boards(bench.boards, took, slowest)
            doubt = "; ".join(note for note in bench.notes if note not in bench.boards.notes)
        else:
            slowest, where, doubt = place.name, "the machine", ""
            took = {slowest: _time_networks(bench, networks)}
    tell("fitting", None)
    timed = {board: [(network, ms[network.path.name]) for network in networks] for board, ms in took.items()}
    return _fitted(
        target, runtime, threads, bench.version, bench.prices(0), share,
        [(network, ms) for network, ms in timed[slowest] if network.part in fitted],
        {  # the one that counts is first
            board if len(timed) > 1 else "": [(network, ms) for network, ms in timed[board] if network.part in judges]
            for board in sorted(timed, key=lambda board: board != slowest)
        },
        where, doubt,
    )  # fmt: skip


def _open(
    reached: AgentProcess | Boards, threads: int, runtime: str, force: bool
) -> tuple[Bench | PoolBench, Mapping[str, Any]]:
    """What measures there, and the facts of the device, or of the first of boards that are alike."""
    if not isinstance(reached, Boards):
        bench = Bench(reached, threads, runtime)
        return bench, bench.facts
    facts = reached.probe()
    if not force:
        check_alike(reached.pool, facts, [runtime])
    pool = PoolBench(reached, lambda board, folder: Bench(board.agent, threads, runtime, folder))
    return pool, next(iter(facts.values()))


def _time_networks(bench: Bench, networks: Sequence[_Network]) -> dict[str, float]:
    """What each takes on the device of ``bench`` in ms, by the name of its file."""
    agent = bench.agent
    answer = agent.call(
        "operators", models=[{"key": network.path.name, "path": agent.place(network.path)} for network in networks],
        runtime=bench.runtime, threads=bench.threads, rounds=ROUNDS, seconds_per_visit=VISIT_SECONDS, **bench.beside(),
    )  # fmt: skip
    return {item["key"]: float(item["ms"]) for item in answer["results"]}


def _tell_boards(boards: Boards, took: Mapping[str, Mapping[str, float]], slowest: str) -> str:
    """Which board of a pool counts, by how much it is slower than the others, and which dropped out."""
    own = took[slowest]
    times = {name: exp(fmean(log(own[key] / ms) for key, ms in other.items())) for name, other in took.items()}
    told = [f"{times[name]:.2f} times what {name} takes" for name in took if name != slowest]
    return "; ".join([f"{slowest}, the slowest of {boards.pool.name}", *told, *boards.notes])


def _fitted(
    target: Target, runtime: str, threads: int, version: str, table: Prices, share: float,
    timed: Sequence[tuple[_Network, float]], judges: Mapping[str, Sequence[tuple[_Network, float]]], where: str,
    doubt: str,
) -> Profile:  # fmt: skip
    """Both precisions' prices: fp32 first, so that an integer network tells what its integer operators took.

    ``judges`` are those of each board that was timed, of which ``where`` tells.
    """
    chip = target.chip(runtime)
    x86, row = target.architecture == "x86_64", find_runtime(runtime)
    believed = prior()
    believed = Prior(believed.log_median, np.maximum(believed.deviation, WIDE))
    priced = Profile(target, ())
    for precision in (FP32, INT8):
        kernels = row.x86_kernels[precision] if x86 else row.kernels
        works: list[Work] = []
        took: list[float] = []
        for op in designed(precision, share):
            if table.latency_ms(op) >= SHORTEST_MS:
                works.append(lone(op, chip, kernels, threads))
                took.append(table.latency_ms(op))
        probes = len(works)
        for network, ms in timed:
            own = [op for op in network.operators if op.precision == precision]
            rest = _operators_ms(priced, runtime, threads, network.operators) if precision == INT8 else 0.0
            if network.precision == precision and own and ms - rest >= LEAST_PART * ms:
                works += [work(own, chip, kernels, threads)] * WEIGHT
                took += [ms - rest] * WEIGHT
        posterior = fit(works, took, chip.clock_ghz, believed)
        source = f"{probes} operators and {(len(works) - probes) // WEIGHT} small networks timed on {where}"
        seen = probes + (len(works) - probes) // WEIGHT
        provenance = Provenance(
            MEASURED, source, date.today().isoformat(), f"{runtime} {version}", (threads,), seen, doubt=doubt
        )
        priced = Profile(target, (*priced.pairs, Pair(runtime, precision, kernels, posterior, provenance)))
    return Profile(target, tuple(_judged(pair, priced, threads, judges) for pair in priced.pairs))


def _operators_ms(priced: Profile, runtime: str, threads: int, operators: Sequence[Operator]) -> float:
    """What those of ``operators`` take, in ms, that ``priced`` already has prices for; without what a run takes."""
    precisions = {pair.precision for pair in priced.pairs}
    own = [op for op in operators if op.precision in precisions]
    prices = Predicted(priced, runtime, threads)
    return prices.interval(own)[0] - prices.fixed_ms if own else 0.0


def _judged(
    pair: Pair, priced: Profile, threads: int, judges: Mapping[str, Sequence[tuple[_Network, float]]]
) -> Pair:  # fmt: skip
    """``pair`` with its mean error on whole networks that were not fitted, of several boards on each."""
    prices = Predicted(priced, pair.runtime, threads)
    errors: list[tuple[str, float]] = []
    for board, every in judges.items():
        own = [(network, ms) for network, ms in every if network.precision == pair.precision]
        off = [abs(prices.interval(network.operators)[0] / ms - 1) for network, ms in own]
        held = f"{len(own)} networks that were not fitted: {', '.join(network.part.name for network, _ in own)}"
        errors.append((f"{board}, {held}" if board else held, float(np.mean(off))))
    provenance = replace(pair.provenance, errors=tuple(errors))
    return Pair(pair.runtime, pair.precision, pair.kernels, pair.posterior, provenance)


def _made(part: Part, folder: Path) -> list[_Network]:
    """The network as edgesdk exports it, in fp32 and with every layer integer that can be."""
    torch.manual_seed(0)
    x = torch.randn(1, *part.shape)
    network = flat(part.make(), x, free_batch=False)
    whole = {layer.name: Option(INT8, 8) for layer in network.graph.layers if Option(INT8, 8) in options(layer)}
    networks: list[_Network] = []
    for precision, chosen in ((FP32, {}), (INT8, whole)):
        made = integer(network, chosen)
        set_ranges(made, [x])
        path = folder / f"{part.name} {precision}.onnx"
        export(made, x, path)
        networks.append(_Network(part, precision, tuple(op for _, op in of_network(network.graph, chosen)), path))
    return networks


def _target(name: str, runtime: str, facts: Mapping[str, Any]) -> Target:
    """The machine at hand as a target, from what its agent tells."""
    cpu = str(facts.get("cpu") or "an unknown processor")
    features = ", ".join(facts.get("features") or ()) or "none that is known"
    chip = _chip(facts)
    told = "edgesdk's agent on the machine"
    board = facts.get("board")
    patterns = (
        Fact("processor", f"{cpu}, {chip.cores} cores at {chip.clock_ghz:g} GHz; {features}", told),
        Fact("memory bandwidth", f"{chip.bandwidth_gbps:g} GB/s", "assumed; a fitted constant takes up the difference"),
    )
    return Target(
        name, f"{board or cpu}, calibrated", (), (runtime,), {runtime: (FP32, INT8)}, patterns, {"cpu": chip},
        boards=(str(board),) if board else (), architecture=facts.get("architecture"),
    )  # fmt: skip


def _chip(facts: Mapping[str, Any]) -> Chip:
    features: set[str] = set(facts.get("features") or ())
    vector_bytes = 64.0 if "avx512f" in features else 32.0 if "avx2" in features else 16.0
    macs = vector_bytes / 2  # two units of multiply-adds on 32-bit numbers
    dot = features & {"avx512_vnni", "avx_vnni", "asimddp"}
    conditions: Mapping[str, Any] = facts.get("conditions") or {}
    cores: Sequence[Mapping[str, Any]] = conditions.get("frequencies") or ()
    mhz: list[float] = [core.get("maximum_mhz") or core.get("mhz") or 0.0 for core in cores]
    return Chip(
        round(max(mhz, default=0.0) / 1000, 3) or CLOCK_GHZ, int(facts.get("cores") or 1),
        {FP32: macs, INT8: macs * (4 if dot else 2)}, BANDWIDTH_GBPS, facts.get("cache_kb") or CACHE_KB, vector_bytes,
    )  # fmt: skip
