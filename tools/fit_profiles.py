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
    alike,
    away,
    believed,
    chip,
    held_apart,
    judged,
    kin,
    observe,
    other_kernels,
    widened,
    works,
)  # fmt: skip
from counted import counted_on, counts, gained, per_term, versions
from edgesdk.core.plan import FP32, INT8
from edgesdk.core.runtime import find_runtime
from edgesdk.core.target import targets
from edgesdk.price.physics import INDEX
from edgesdk.price.posterior import UNSEEN, Z90, Posterior, Prior, carried, unmeasured
from edgesdk.price.prior import prior
from edgesdk.price.profile import DERIVED, MEASURED, SCALED, Pair, Provenance, load, profile, save
from latency import HELP, MLPERF, NASBENCH, NCNN, Data, Row, load_graph

DATE = "2026-11-30"
CORES = 2.5  # times the cycles for a multiplication in float: cores in order and out of it differ by less
TRUST = 0.5  # of a difference between boards that another runtime shows: held-out boards were no nearer with all of it
RUN = ("network", "input", "serial", "fork")  # terms of a run, in whatever precision its kernels are
REFERENCE = ("mobilenet", "mobilenet_v2", "mnasnet", "squeezenet", "resnet50", "proxylessnasnet")


class Fit:
    """Every pair that was measured, fitted; and from these, pairs that were not.

    With ``only`` some runtimes, those alone are fitted anew, and of NAS-Bench-201 nothing: what the profiles hold of it
    tells what to expect, and siblings are made of it.
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
        self.later = self.kernels(data)
        self.apart = self.boards()
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

    def kernels(self, data: Data) -> dict[tuple[str, str], float]:
        """By how much today's kernels are off where TFLite of 2021 to 2023 was measured, by runtime and precision."""
        seen = {key(one.pair): one for one in self.observed if not one.pair.after}
        found: dict[tuple[str, str], float] = {}
        for judge in (judge for judge in JUDGES if key(judge) in seen):
            own = seen[key(judge)]
            posterior = own.fit(believed(own.pair, self.first))
            known = {row.family for row in own.rows}
            found[judge.runtime, judge.precision] = other_kernels(observe(data, judge), posterior, known)
        print("off where later kernels run what is known:", found)
        return found

    def later_by(self, pair: Fitted) -> float:
        """By how much today's kernels are off those of ``pair``."""
        former = pair.runtime == "litert" and pair.version.startswith("TFLite") and pair.source in (MLPERF, HELP)
        arm = not pair.board.startswith("x86")
        return self.later.get((pair.runtime, pair.precision), 0.0) if former and arm else 0.0

    def boards(self) -> dict[tuple[str, str], float]:
        """What a board adds to the doubt of a sibling's prices, by runtime and precision: as boards held out tell."""
        told = {
            key(one.pair): one for one in self.observed
            if one.pair.source not in (NASBENCH, HELP) and not one.pair.after and not one.pair.board.startswith("x86")
        }  # fmt: skip
        groups: dict[tuple[str, str], list[Apart]] = defaultdict(list)
        for (place, _), board in away(told, self.first).items():
            groups[place[1], place[2]].append(board)
        found = {which: widened(boards) for which, boards in groups.items()}
        print("boards from siblings:", found)
        return found

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
        fitted = carried(fitted, self.later_by(pair))
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
        self, board: str, runtime: str, precision: str, sibling: str, extra: float | None = None,
        like: str | None = None, gain: float | None = None,
    ) -> None:  # fmt: skip
        """Prices of ``board`` from those of ``sibling``: the same cycles, at the board's own clock, width and memory.

        ``like`` names the board whose ncnn figures say how much its core differs from the sibling's beyond its facts;
        the logarithm of that is halved. ``gain`` is a published ratio of fp32 latency to this precision's. ``extra`` is
        given for boards with the same core; for others it is what boards that were held out need.
        """
        if extra is None:
            extra = self.apart.get((runtime, precision), self.apart["litert", precision])
        origin = next(pair for pair in PAIRS if key(pair) == (sibling, runtime, precision) and not pair.after)
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

    def contradicted(self) -> None:
        """Say of a measured pair, and widen it, where its board takes more cycles for a MAC than cores can explain.

        That is over ``CORES`` times the least that another board takes with the same runtime, precision and threads.
        """
        seen: dict[tuple[str, str, int], dict[str, float]] = defaultdict(dict)
        for board, pairs in self.pairs.items():
            for pair in pairs:
                on = chip(board, pair.runtime)
                known = pair.provenance.kind == MEASURED and pair.precision != INT8  # its instructions differ by more
                if known and on.cores > 1 and not board.startswith("x86"):  # a graphics processor is seldom full
                    threads = max(pair.provenance.threads)
                    ms = self.total(board, pair.runtime, pair.precision, pair.posterior, threads)
                    each = np.log(ms * on.clock_ghz * on.lanes(pair.precision))
                    seen[pair.runtime, pair.precision, threads][board] = float(np.median(each))
        for (runtime, precision, threads), cycles in seen.items():
            least = min(cycles, key=lambda board: cycles[board])
            for board, own in cycles.items():
                times = float(np.exp(own - cycles[least]))
                if times > CORES:
                    what = f"{times:.1f} times the cycles for a multiplication that {least} takes with as many threads"
                    print(board, runtime, precision, threads, what)
                    self.pairs[board] = [
                        _doubted(pair, f"{what}: more than cores explain", float(np.log(times / CORES)) / Z90)
                        if (pair.runtime, pair.precision, max(pair.provenance.threads)) == (runtime, precision, threads)
                        and pair.provenance.kind == MEASURED else pair
                        for pair in self.pairs[board]
                    ]  # fmt: skip

    def cheaper(self) -> tuple[dict[str, float], float]:
        """What an instruction in int8 takes of one in float, as a logarithm by core, and how far boards are off that.

        LiteRT tells, where both were measured: its float constants times the instructions that its int8 kernels run.
        """
        offs: list[np.ndarray] = []
        cores: list[str] = []
        seen = {key(one.pair): one for one in self.observed if not one.pair.after}
        for (board, runtime, precision), own in seen.items():
            if (runtime, precision) == ("litert", INT8) and own.pair.source == MLPERF and not board.startswith("x86"):
                plain = self.first[board, runtime, FP32]
                told = gained(counted_on(chip(board, runtime)), runtime, plain, chip(board, runtime))
                alone = replace(plain, log_constants=plain.log_constants + told, pull=np.zeros_like(plain.pull))
                offs.append(np.log(own.measured / own.predicted(alone)[:, 0]))
                print(
                    f"{board}: int8 instructions take {np.exp(offs[-1].mean()):.2f} of float ones, {offs[-1].std():.2f}"
                )
                cores.append(counted_on(chip(board, runtime)))
        means = [float(off.mean()) for off in offs]
        shares = {core: float(np.median([m for m, c in zip(means, cores, strict=True) if c == core])) for core in cores}
        every = np.concatenate([off - np.median(means) for off in offs])
        return shares, float(np.sqrt(np.mean(every**2)))

    def integer(self, board: str, cheaper: tuple[dict[str, float], float]) -> None:
        """ONNX Runtime in int8, which nobody published on these boards: the float constants, and instructions counted.

        ``cheaper`` is what :meth:`cheaper` gives.
        """
        plain = next(p for p in self.pairs[board] if (p.runtime, p.precision) == ("onnxruntime", FP32)).posterior
        core, (shares, off) = counted_on(chip(board, "onnxruntime")), cheaper
        told = gained(core, "onnxruntime", plain, chip(board, "onnxruntime")) + shares[core]
        told[[INDEX[term] for term in RUN]] = 0.0
        noises = [per_term(core, "onnxruntime", kind).noise for kind in (FP32, INT8)]
        extra = float(np.linalg.norm([plain.extra, off, *noises]))
        expected = unmeasured(Prior(plain.log_constants + told, plain.doubt), extra)
        shapes = plain.shapes  # what float has not seen is no better known in int8
        expected = replace(
            expected, shapes=shapes, pull=np.zeros(len(shapes)), unseen=plain.unseen,
            learnt=np.zeros((0, expected.learnt.shape[1] + len(shapes))),
        )  # fmt: skip
        version = f"onnxruntime {versions()['onnxruntime']}"
        source = (
            f"the float figures, and instructions of {len(counts())} networks counted on an emulated "
            f"{core.replace('pi', 'Pi ')}; "
            f"LiteRT's int8, derived so from other boards, is {100 * np.expm1(off):.0f} % off"
        )
        self.add(board, "onnxruntime", INT8, expected, Provenance(DERIVED, source, DATE, version, (1,), 0))


def _doubted(pair: Pair, doubt: str, extra: float) -> Pair:
    told = "; ".join(filter(None, (pair.provenance.doubt, doubt)))
    return replace(pair, posterior=carried(pair.posterior, extra), provenance=replace(pair.provenance, doubt=told))


def key(pair: Fitted) -> Key:
    """What a fitted pair is remembered by."""
    return pair.board, pair.runtime, pair.precision


def siblings(fit: Fit) -> None:
    """Every pair that has no figures of its own, from the nearest that has."""
    zero, three, four, five = (f"raspberry-pi-{name}" for name in ("zero-2-w", "3b-plus", "4", "5"))
    nano, xavier, orin = "jetson-nano", "jetson-agx-xavier", "jetson-agx-orin"
    small = ("jetson-orin-nano", "jetson-orin-nx")
    for board, like in ((four, four), (three, three), (zero, three), (nano, nano), (xavier, xavier), (orin, orin)):
        fit.scaled(board, "onnxruntime", FP32, five, like=like)
    for board in small:
        fit.scaled(board, "onnxruntime", FP32, five, like=orin)
    cheaper = fit.cheaper()
    for board in (five, four, three, zero, orin, *small, xavier):
        fit.integer(board, cheaper)
    fit.scaled(nano, "litert", FP32, four, like=nano)
    for board, like, gain in ((xavier, xavier, 0.81), (orin, orin, 2.0), *((b, orin, 2.0) for b in small)):
        fit.scaled(board, "litert", FP32, "firefly-rk3588s", like=like)
        fit.scaled(board, "litert", INT8, "firefly-rk3588s", gain=gain)
    for precision in ("fp32", INT8):
        fit.scaled(zero, "ncnn", precision, three, 0.2)
    for board in small:
        for precision in ("fp16", INT8):
            fit.scaled(board, "ncnn", precision, orin, 0.2)
    for precision in (FP32, INT8):
        fit.scaled("x86-avx2", "litert", precision, "x86-avx512-vnni", 0.35)


def calibrated(fit: Fit) -> None:
    """Add what the profiles hold of a machine that was calibrated: no published figures make it anew."""
    for board, entry in targets().items():
        made = {(pair.runtime, pair.precision) for pair in fit.pairs[board]}
        fit.pairs[board] += [
            pair for pair in profile(entry).pairs
            if (pair.runtime, pair.precision) not in made and "edgesdk calibrate" in pair.provenance.source
        ]  # fmt: skip


def kept(fit: Fit) -> None:
    """Add to what was fitted what the profiles hold of other figures, its intervals as wide as families tell now."""
    fitted = {(pair.board, pair.runtime, pair.precision, pair.date): pair for pair in PAIRS}
    for board, entry in targets().items():
        own = {(pair.runtime, pair.precision, pair.provenance.threads) for pair in fit.pairs[board]}
        for pair in profile(entry).pairs:
            told = pair.provenance
            if told.kind == MEASURED and (pair.runtime, pair.precision, told.threads) not in own:
                origin = fitted[board, pair.runtime, pair.precision, told.date]
                posterior = replace(pair.posterior, unseen=fit.width(board, pair), extra=fit.later_by(origin))
                provenance = replace(told, doubt=origin.doubt)
                fit.pairs[board].append(replace(pair, posterior=posterior, provenance=provenance))


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
    siblings(fit)
    fit.contradicted()
    if options.calibrated is None:
        calibrated(fit)
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
