"""The page of a bundle: what it comes to, layer by layer, and what that rests on, from its own documents alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgesdk.core.budget import BASES, PREDICTED
from edgesdk.core.energy import describe_energy, describe_unmeasured
from edgesdk.core.kernels import describe_cost, read_profiles
from edgesdk.core.plan import Plan
from edgesdk.core.wording import counted
from edgesdk.pages.answers import AnswersShown
from edgesdk.pages.bounds import draw_bounds, list_bounds
from edgesdk.pages.conditions import list_conditions, list_hardware, tell_conditions
from edgesdk.pages.curve import Curve
from edgesdk.pages.fronts import Candidates
from edgesdk.pages.layers import Rows, draw_layers, list_layers
from edgesdk.pages.predictions import LayerPromises, list_predictions
from edgesdk.pages.render import NONE, Document, figure, render
from edgesdk.pages.roofline import Roofline
from edgesdk.pages.samples import Samples
from edgesdk.pages.schedule import Schedule
from edgesdk.pages.verdict import cost, explain_ratio, latency_ms, provenance, verdict

BYTES = ("peak_memory_bytes", "size_bytes")
STATISTICS = ("p50", "p90", "p95", "p99", "mean", "max")
STATE = ("power mode", "governor", "clock", "temperature", "throttled")  # that the first lines tell
LISTED = 300  # rows of a table beside that of the layers


def render_bundle(manifest: Document, plan: Plan, report: Document) -> str:
    """The page of the bundle whose documents these are, of this version of edgesdk or of one before."""
    profiles = read_profiles(report)
    deployed, bounds, layers = report["deployed"], list_bounds(report), list_layers(plan, report)
    return render(
        "bundle.html",
        title=f"{manifest['target']}, {deployed['runtime']}: {report['basis']}",
        basis=report["basis"],
        lines=verdict(report, manifest),
        state=_tell_state(deployed.get("conditions")),
        promised=any(bar.who == "promised" for bound in bounds for bar in bound.bars),
        bounds=bounds,
        bounds_chart=draw_bounds(bounds),
        bases=[each for each in BASES if any(bar.basis == each for bound in bounds for bar in bound.bars)],
        figures=_list_figures(report),
        apart=explain_ratio(deployed, report["dense"]),
        conditions=list_conditions(deployed.get("conditions")),
        device=list_hardware(deployed.get("device")),
        provenance=provenance(deployed),
        candidates=Candidates.of(plan, report, manifest.get("plan"), LISTED),
        finalists=[step for step in report.get("history") or () if step.get("finalist")][:LISTED],
        curve=Curve.of(report.get("history") or ()),
        layers=layers,
        layers_chart=draw_layers(layers.shown),
        schedule=Schedule.of(report.get("layers") or ()),
        roofline=Roofline.of(plan, report),
        rejected=Rows.of(plan.rejected, LISTED),
        predictions=list_predictions(report),
        layer_predictions=LayerPromises.of(plan, report, LISTED // 2),
        profiles={name: describe_cost(profile) for name, profile in profiles.items()},
        timed=any(profile.kernels_ms is not None for profile in profiles.values()),
        observations=() if report["basis"] == PREDICTED else (report.get("observations") or ())[:LISTED],
        samples=Samples.of(
            "samples", deployed.get("samples_ms") or (), deployed.get("conditions"), "the deployed file"
        ),
        fidelity=_list_fidelity(report),
        answers=AnswersShown.of(report.get("changes"), manifest.get("classes") or ()),
        left=_list_left(report),
        beside=_list_runtimes(report),
        refused=report.get("refused_runtimes") or {},
        notes=(report.get("notes") or ())[:LISTED],
        energies=[
            (who, describe_energy(energy), energy["notes"])
            for who in ("dense", "deployed")
            if (energy := report[who].get("energy")) is not None
        ],
        to_measure=report.get("to_measure") or (),
        command=report.get("command"),
        asked=_list_asked(manifest, report),
        made=_list_made(manifest, plan, report),
        files=manifest.get("files") or {},
    )


@dataclass(frozen=True)
class Pair:
    """A figure of the dense model beside that of the deployed one, with their ratio."""

    label: str
    dense: str
    deployed: str
    ratio: float | None


def _tell_state(conditions: Document | None) -> str:
    """In which state the device was that was measured, as far as it tells: what a latency depends on."""
    told = dict(tell_conditions(conditions))
    named = {name: told[name] for name in STATE if name in told}
    return f"The device: {'; '.join(f'{name} {said}' for name, said in named.items())}" if named else ""


def _list_figures(report: Document) -> list[Pair]:
    """All figures of the two runs, as percentiles and means of their samples too, where anything was measured."""
    sides = (report["dense"], report["deployed"])
    counts = f"latency{', undisturbed' * all(side.get('undisturbed') for side in sides)}"
    rows: list[tuple[str, str, list[Any]]] = [(counts, "latency_ms", [latency_ms(side) for side in sides])]
    for name in STATISTICS:
        rows.append((f"latency, {name} of all runs", "latency_ms", [_statistic(side, name) for side in sides]))
    rows.append(("cold load", "latency_ms", [side.get("load_ms") for side in sides]))
    for name, label in (
        ("peak_memory_bytes", "peak memory added"), ("runtime_memory_bytes", "the runtime's own memory"),
        ("size_bytes", "size of the file"),
    ):  # fmt: skip
        rows.append((label, name, [side.get(name) for side in sides]))
    energies = [(side.get("energy") or {}).get("mj") for side in sides]
    source = (report["deployed"].get("device") or {}).get("energy")
    none = Pair(f"energy of a run ({describe_unmeasured(report['basis'] == 'predicted', source)})", NONE, NONE, None)
    rows.append(("energy of a run, beyond idle", "energy_mj", energies))
    shares = {counts: cost(report)["latency_ratio"]}  # which is of paired rounds, where there were any
    return [
        Pair(label, figure(dense, name), figure(deployed, name), shares.get(label) or _ratio(dense, deployed))
        for label, name, (dense, deployed) in rows
        if (dense, deployed) != (None, None)
    ] + [none] * all(side.get("energy") is None for side in sides)


def _statistic(side: Document, name: str) -> float | None:
    return (side.get("statistics") or {}).get(name)


def _ratio(dense: float | None, deployed: float | None) -> float | None:
    return deployed / dense if dense and deployed is not None else None


def _list_fidelity(report: Document) -> list[tuple[str, str]]:
    """How far the file is from the simulation and from the user's own model."""
    parity = report.get("parity") or {}
    rows = []
    if parity:
        text = f"{parity['error']:.2g} of the outputs' spread over {parity['samples']} samples, {parity['tolerance']:g}"
        rows.append(("the file, from its simulation", f"{text} allowed; {_differs(parity)}"))
    for name, off in (report.get("against_model") or {}).items():
        text = f"{off['error']:.2g} of the outputs' spread over {off['samples']} samples; {_differs(off)}"
        rows.append((f"the {name} file, from your model", text))
    fell = report.get("fell_back_to_float") or ()
    return [*rows, ("layers that fell back to float", ", ".join(fell) or "none")]


def _differs(off: Document) -> str:
    return f"the largest output is another on {100 * off['top1_differs']:.1f} %"


def _list_left(report: Document) -> list[tuple[str, str]]:
    """What could not be cut or compressed, and why."""
    whole = (report.get("groups_left_whole") or {}).items()
    as_they_are = (report.get("layers_left_as_they_are") or {}).items()
    shares = (report.get("out_of_reach") or {}).items()
    return [
        *((f"{100 * share:.0f} % of the multiplications", why) for why, share in shares),
        *((f"channels of {name}", why) for name, why in whole),
        *((name, why) for name, why in as_they_are),
    ][:LISTED]


def _list_runtimes(report: Document) -> list[tuple[str, ...]]:
    """The runtimes side by side, where several were tried: latency, memory and size."""
    if not report.get("beside"):
        return []
    own = {f"{name} {report[name]['runtime']}": report[name] for name in ("dense", "deployed")}
    return [
        (name, figure(latency_ms(side), "latency_ms"), *(figure(side.get(key), key) for key in BYTES))
        for name, side in {**own, **report["beside"]}.items()
    ]  # fmt: skip


def _list_asked(manifest: Document, report: Document) -> str:
    """What the documents tell of what was asked for, as flags: where model and data lie is not among it."""
    budget, runtime = report["budget"], report["deployed"]["runtime"]
    given = {
        "--target": manifest["target"], "--runtime": runtime, "--threads": manifest.get("threads"),
        "--latency": _first(f"{budget['latency_ms']:g}ms" if budget.get("latency_ms") else None,
                            f"{budget['latency_ratio']:g}x" if budget.get("latency_ratio") else None),
        "--percentile": _plain(budget.get("percentile")),
        "--peak-memory": _bytes(budget.get("peak_memory_bytes")), "--size": _bytes(budget.get("size_bytes")),
        "--energy": f"{budget['energy_mj']:g}mJ" if budget.get("energy_mj") else None,
        "--max-drop": _plain(budget.get("max_drop")), "--accuracy": _plain(budget.get("accuracy")),
        "--epochs": _plain(report.get("epochs")), "--seed": report.get("seed"),
    }  # fmt: skip
    return " ".join(f"{name} {value}" for name, value in given.items() if value is not None)


def _first(*values: str | None) -> str | None:
    return next((value for value in values if value is not None), None)


def _plain(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"


def _bytes(value: float | None) -> str | None:
    return None if value is None else f"{round(value)}B"


def _list_made(manifest: Document, plan: Plan, report: Document) -> list[tuple[str, str]]:
    """By what and of what it was made."""
    runtime, proof = manifest.get("runtime") or {}, plan.proof
    file = "file" if report["basis"] == PREDICTED else f"file that was {report['basis']}"
    rows = {
        "edgesdk": manifest.get("edgesdk"),
        "made": manifest.get("created"),
        "runtime": " ".join(str(runtime.get(name) or "") for name in ("name", "version")).strip(),
        "threads": counted(manifest.get("threads") or 1, "thread"),
        "data": report.get("data"),
        "training": _training(report),
        "seed": report.get("seed"),
        "proof": proof.words,
        "solver": f"{proof.solver}, {proof.seconds:.2g} s" if proof.searched else proof.solver,
        "plan": manifest.get("plan"),
        "graph": plan.graph_digest,
        file: report["deployed"].get("digest"),
    }
    return [(name, str(value)) for name, value in rows.items() if value not in (None, "")]


def _training(report: Document) -> str | None:
    return None if report.get("epochs") is None else f"{counted(report['epochs'], 'epoch')} at most, in all"
