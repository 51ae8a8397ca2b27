"""Fit the profiles that come with edgesdk on published latencies, and write their ``prices.json``.

    python tools/fit_profiles.py FOLDER [--calibrated FILE]

FOLDER holds the published figures; ``tools/latency.py`` says which files and columns. What is written are fitted
constants, not the figures. Networks are traced once and kept in the cache folder.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import edgesdk_profiles
from boards import (
    GRAPHICS,
    JUDGES,
    OTHERS,
    PAIRS,
    Apart,
    Fitted,
    Key,
    Observed,
    believed,
    chip,
    held_apart,
    judged,
    kin,
    observe,
    widened,
    works,
)  # fmt: skip
from edgesdk.core.plan import FP32, INT8
from edgesdk.core.runtime import find_runtime
from edgesdk.core.target import targets
from edgesdk.price.physics import INDEX
from edgesdk.price.posterior import UNSEEN, Posterior, Prior, carried, unmeasured
from edgesdk.price.prior import changed, prior
from edgesdk.price.profile import DERIVED, MEASURED, SCALED, Pair, Provenance, load, profile, save
from latency import HELP, NASBENCH, NCNN, Data, Row, load_graph

DATE = "2026-11-21"
FACTS = "this project's reading of the chip's facts"
TRUST = 0.5  # of a difference between boards that another runtime shows: held-out boards were no nearer with all of it
REFERENCE = ("mobilenet", "mobilenet_v2", "mnasnet", "squeezenet", "resnet50", "proxylessnasnet")


class Fit:
    """Every pair that was measured, fitted; and from these, pairs that were not.

    With ``only`` some runtimes, those alone are fitted anew, and of NAS-Bench-201 nothing: what the profiles hold of it
    tells what to expect.
    """

    def __init__(self, data: Data, only: Sequence[str] = ()) -> None:
        pairs = [pair for pair in PAIRS if not only or pair.source not in (NASBENCH, HELP)]
        self.observed = [observe(data, pair) for pair in pairs]
        self.first: dict[Key, Posterior] = {}
        self.posteriors: dict[Key, Posterior] = {}
        for board, stored in ((name, profile(entry).pairs) for name, entry in targets().items()) if only else ():
            for pair in stored:
                if pair.provenance.kind == MEASURED:
                    self.posteriors.setdefault((board, pair.runtime, pair.precision), pair.posterior)
        self.first.update(self.posteriors)
        for seen in self.observed:
            if not seen.pair.after:
                self.first[key(seen.pair)] = seen.fit(prior())
        self.unseen = self.widths(data)
        self.pairs: dict[str, list[Pair]] = defaultdict(list)
        for seen in self.observed:
            if not only or seen.pair.runtime in only:
                self.measured(seen)

    def widths(self, data: Data) -> dict[tuple[str, ...], float]:
        """How much what is new widens an interval, by runtime, kernels and source: from families held out whole."""
        held: dict[tuple[str, ...], list[Apart]] = defaultdict(list)
        told = [seen for seen in self.observed if seen.pair.source not in (NASBENCH, HELP) and not seen.pair.after]
        for runtime in dict.fromkeys(seen.pair.runtime for seen in told):
            same = {key(seen.pair): seen for seen in told if seen.pair.runtime == runtime}
            for place, groups in held_apart(same).items():
                held[alike(same[place].pair)] += groups
            for judge in (judge for judge in JUDGES if key(judge) in same):
                own = same[key(judge)]
                posterior = own.fit(believed(own.pair, self.first))
                held[alike(own.pair)] += judged(observe(data, judge), posterior, {row.family for row in own.rows})
        wide = {which: widened(groups) for which, groups in held.items() if groups}
        for which, groups in held.items():
            covered = np.mean([group.covered(wide.get(which, UNSEEN)) for group in groups])
            print(f"{which}: {len(groups)} families held out, with {wide.get(which)} in the interval: {covered:.2f}")
        return wide

    def width(self, board: str, pair: Pair) -> float:
        """That of a pair which the profile holds: of the same kernels and the same source, or the usual one."""
        if not len(pair.posterior.shapes):
            return 0.0  # nothing was measured: all of it is prior
        kernels = (pair.runtime, kin(board, pair.runtime, pair.precision))
        known = [
            wide for which, wide in self.unseen.items() if which[:2] == kernels and which[2] in pair.provenance.source
        ]
        return max(known, default=UNSEEN)

    def measured(self, seen: Observed) -> None:
        pair, expected = seen.pair, believed(seen.pair, self.posteriors if seen.pair.after else self.first)
        fitted = replace(seen.fit(expected), unseen=self.unseen.get(alike(pair), UNSEEN))
        if not pair.after:
            self.posteriors[key(pair)] = fitted
        if pair.board in OTHERS or pair.runtime == "tensorrt" and pair.board in GRAPHICS:
            return
        fitted, predicted = seen.calibrated(fitted, expected)
        off = np.abs(predicted[:, 0] / seen.measured - 1)
        errors = [("networks held out, five folds", round(float(off.mean()), 4))]
        threads = tuple(sorted({row.threads for row in seen.rows}))
        source = pair.source + (f" ({pair.reading})" if pair.reading else "")
        provenance = Provenance(
            MEASURED, source, pair.date, pair.version, threads, len(seen.rows), tuple(errors), pair.doubt
        )
        self.add(pair.board, pair.runtime, pair.precision, fitted, provenance)

    def add(self, board: str, runtime: str, precision: str, fitted: Posterior, provenance: Provenance) -> None:
        self.pairs[board].append(Pair(runtime, precision, find_runtime(runtime).kernels, fitted, provenance))

    def scaled(
        self, board: str, runtime: str, precision: str, sibling: str, extra: float, like: str | None = None,
        gain: float | None = None,
    ) -> None:  # fmt: skip
        """Prices of ``board`` from those of ``sibling``: the same cycles, at the board's own clock, width and memory.

        ``like`` names the board whose ncnn figures say how much its core differs from the sibling's beyond its facts;
        the logarithm of that is halved. ``gain`` is a published ratio of fp32 latency to this precision's.
        """
        origin = next(o.pair for o in self.observed if key(o.pair) == (sibling, runtime, precision))
        posterior, source = (
            carried(self.posteriors[sibling, runtime, precision], extra),
            f"{origin.source}; from {sibling}",
        )
        if like is not None:
            same_core = "raspberry-pi-5" if sibling == "firefly-rk3588s" else sibling
            shift = TRUST * self.shift(like, same_core) if like != same_core else 0.0
            posterior = replace(posterior, log_constants=posterior.log_constants + shift)
            source += f" times {np.exp(shift):.2f}, half of what ncnn shows between {like} and {same_core}"
        if gain is not None:
            plain = next(p for p in self.pairs[board] if (p.runtime, p.precision) == (runtime, FP32))
            now = self.total(board, runtime, INT8, posterior, 4) / self.total(board, runtime, FP32, plain.posterior, 4)
            posterior = replace(posterior, log_constants=posterior.log_constants - float(np.median(np.log(now * gain))))
            source += f", and to the published gain of {gain:g} over fp32"
        theirs = [p.provenance for p in self.pairs.get(sibling, []) if (p.runtime, p.precision) == (runtime, precision)]
        threads, version = (theirs[0].threads, theirs[0].version) if theirs else ((4,), "as the sibling's")
        self.posteriors[board, runtime, precision] = posterior
        source += f"; {NCNN}" if like is not None else ""
        errors = self.elsewhere(runtime, precision)
        self.add(board, runtime, precision, posterior, Provenance(SCALED, source, DATE, version, threads, 0, errors))

    def elsewhere(self, runtime: str, precision: str) -> tuple[tuple[str, float], ...]:
        """How far off boards are that were not fitted, where figures of two other boards tell what to expect."""
        off = []
        for seen in self.observed:
            if (seen.pair.runtime, seen.pair.precision) == (runtime, precision) and not seen.pair.after:
                expected = believed(seen.pair, self.first)
                if expected.log_median.tolist() != prior().log_median.tolist():
                    off.append(np.abs(seen.predicted(unmeasured(expected))[:, 0] / seen.measured - 1))
        what = f"{len(off)} boards held out, predicted from the others"
        return ((what, round(float(np.concatenate(off).mean()), 4)),) if off else ()

    def shift(self, board: str, sibling: str) -> float:
        """How much more cycles, in logarithms, ``board`` takes than its facts and the sibling's constants say."""
        own, other = (
            next(k for k in self.posteriors if k[:2] == (b, "ncnn") and k[2] != INT8) for b in (board, sibling)
        )
        mine = self.total(board, "ncnn", own[2], self.posteriors[own], 1)
        return float(np.median(np.log(mine / self.total(board, "ncnn", own[2], self.posteriors[other], 1))))

    def total(self, board: str, runtime: str, precision: str, posterior: Posterior, threads: int) -> np.ndarray:
        """Predicted latencies in ms of the reference networks."""
        on, rows = chip(board, runtime), [Row(name, name, load_graph(name), threads, 1.0) for name in REFERENCE]
        made = works(rows, precision, on, find_runtime(runtime).kernels)
        return np.array([posterior.predict(work, on.clock_ghz)[0] for work in made])

    def derived(self, board: str, runtime: str, precision: str, posterior: Posterior, extra: float) -> None:
        """Prices of ``board`` from its facts alone."""
        provenance = Provenance(DERIVED, FACTS, DATE, "none was measured", (1,), 0)
        self.add(board, runtime, precision, carried(posterior, extra), provenance)

    def integer(self, board: str) -> None:
        """ONNX Runtime in int8, which nobody published on these boards: the float constants at integer width.

        Its integer kernels are taken as less efficient than its float ones by a half, give or take as much.
        """
        plain = next(p for p in self.pairs[board] if (p.runtime, p.precision) == ("onnxruntime", FP32)).posterior
        conv = float(np.exp(plain.log_constants[INDEX["conv"]]))
        expected = changed(Prior(plain.log_constants, plain.deviation), "conv", 1.5 * conv, 0.4)
        self.derived(board, "onnxruntime", INT8, unmeasured(expected), 0.35)


def alike(pair: Fitted) -> tuple[str, str, str]:
    """What pairs share whose held-out families are alike: runtime, kernels, and who measured first of all."""
    return pair.runtime, kin(pair.board, pair.runtime, pair.precision), pair.source.partition(";")[0]


def key(pair: Fitted) -> Key:
    """What a fitted pair is remembered by."""
    return pair.board, pair.runtime, pair.precision


def siblings(fit: Fit) -> None:
    """Every pair that has no figures of its own, from the nearest that has."""
    zero, three, four, five = (f"raspberry-pi-{name}" for name in ("zero-2-w", "3b-plus", "4", "5"))
    nano, xavier, orin = "jetson-nano", "jetson-agx-xavier", "jetson-agx-orin"
    small = ("jetson-orin-nano", "jetson-orin-nx")
    for board, like in ((four, four), (three, three), (zero, three), (nano, nano), (xavier, xavier), (orin, orin)):
        fit.scaled(board, "onnxruntime", FP32, five, 0.3, like)
    for board in small:
        fit.scaled(board, "onnxruntime", FP32, five, 0.3, orin)
    for board in (five, four, three, zero, orin, *small, xavier):
        fit.integer(board)
    fit.scaled(nano, "litert", FP32, four, 0.3, nano)
    for board, like, gain in ((xavier, xavier, 0.81), (orin, orin, 2.0), *((b, orin, 2.0) for b in small)):
        fit.scaled(board, "litert", FP32, "firefly-rk3588s", 0.3, like)
        fit.scaled(board, "litert", INT8, "firefly-rk3588s", 0.3, None, gain)
    for precision in ("fp32", INT8):
        fit.scaled(zero, "ncnn", precision, three, 0.2)
    for board in small:
        for precision in ("fp16", INT8):
            fit.scaled(board, "ncnn", precision, orin, 0.2)
    for precision in (FP32, INT8):
        fit.scaled("x86-avx2", "litert", precision, "x86-avx512-vnni", 0.35)


def kept(fit: Fit) -> None:
    """Add to what was fitted what the profiles hold beside it, its intervals as wide as families tell now."""
    for board, entry in targets().items():
        own = {(pair.runtime, pair.precision, pair.provenance.threads) for pair in fit.pairs[board]}
        new = {place[:2] for place in own}
        others = [
            replace(pair, posterior=replace(pair.posterior, unseen=fit.width(board, pair)))
            for pair in profile(entry).pairs
            if (pair.runtime, pair.precision, pair.provenance.threads) not in own
            and ((pair.runtime, pair.precision) not in new or pair.provenance.kind == MEASURED)
        ]
        fit.pairs[board] = [pair for pair in (*others, *fit.pairs[board]) if pair.runtime in entry.runtimes]
    for board in [board for board, pairs in fit.pairs.items() if not pairs or board not in targets()]:
        del fit.pairs[board]


def main() -> None:
    """Fit, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--calibrated", type=Path, help="prices.json that edgesdk calibrate made with AVX-512 VNNI")
    parser.add_argument("--only", nargs="+", default=(), help="runtimes; of all others what the profiles hold stays")
    options = parser.parse_args()
    fit = Fit(Data(options.folder), options.only)
    if options.only:
        kept(fit)
    else:
        siblings(fit)
    if options.calibrated:
        for pair in load(options.calibrated.read_text(), str(options.calibrated)):
            source = "edgesdk calibrate on an Intel Xeon with AVX-512 VNNI and AMX at 2.6 GHz, one thread"
            provenance = replace(pair.provenance, kind=SCALED, source=source, networks=0, errors=())
            for board, extra in (("x86-avx512-vnni", 0.25), ("x86-avx2", 0.4)):
                fit.pairs[board].append(replace(pair, posterior=carried(pair.posterior, extra), provenance=provenance))
    for board, pairs in fit.pairs.items():
        save(Path(edgesdk_profiles.__file__).parent / board / "prices.json", board, pairs)
        for pair in pairs:
            errors = ", ".join(f"{what} {100 * error:.1f} %" for what, error in pair.provenance.errors)
            print(
                f"{board} {pair.runtime} {pair.precision} {pair.provenance.threads}: {pair.provenance.kind}; {errors}"
            )


if __name__ == "__main__":
    main()
