"""The boards whose published latencies are fitted, and what each pair of runtime and precision is fitted on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgesdk.core.plan import INT8, Option
from edgesdk.core.runtime import Kernels, find_runtime
from edgesdk.core.target import Chip, target
from edgesdk.price.operators import of_network
from edgesdk.price.physics import FP16, INDEX, Work, work
from edgesdk.price.posterior import Z90, Posterior, Prior, calibration, fit
from edgesdk.price.prior import changed, prior
from latency import HELP, MLPERF, NASBENCH, NCNN, NETSPRESSO, TRTUTILS, ULTRALYTICS, XNNPACK, Data, Row

A76 = {"fp32": 8.0, "fp16": 16.0, "int8": 32.0}
A72 = {"fp32": 4.0, "int8": 8.0}
OTHERS = {
    "firefly-rk3588s": Chip(2.3, 4, A76, 33.8, 3072.0),
    "firefly-rk3399": Chip(1.8, 2, A72, 14.9, 1024.0),
    "odroid-n2+": Chip(2.4, 4, A72, 10.5, 1024.0),
    "khadas-vim4": Chip(2.2, 4, A72, 16.9, 1024.0),
    "aws-a1": Chip(2.3, 8, A72, 38.4, 2048.0),
    "jetson-xavier-nx": Chip(1.1, 1, {"fp32": 384.0, "fp16": 3072.0}, 59.7, 512.0, 1536.0),
    "jetson-tx2": Chip(1.3, 1, {"fp32": 256.0, "fp16": 512.0}, 59.7, 512.0, 1024.0),
}
"""Boards that are no targets, but tell how a runtime's constants differ from board to board."""
GRAPHICS = {
    "jetson-agx-xavier": Chip(1.377, 1, {"fp32": 512.0, "fp16": 4096.0}, 136.5, 512.0, 2048.0),
    "jetson-nano": Chip(0.9216, 1, {"fp32": 128.0, "fp16": 256.0}, 25.6, 256.0, 512.0),
}
"""Graphics processors of targets that TensorRT's files are not made for yet."""
MODES = {  # the graphics clock in GHz and the memory's GB/s where they are not the profile's
    "625 MHz": (0.625, 68.0),
    "408 MHz": (0.408, 68.0),
}
"""Of the Orin Nano: NetsPresso's figures are 1.53 times trtutils', as are 625 and 408 MHz; neither states its mode."""
FOLDS = 5
MOST_UNSEEN = 3.0  # log standard deviation: beyond it a figure says nothing
Key = tuple[str, str, str]  # board, runtime and precision
Load = Callable[[Data], list[Row]]


@dataclass(frozen=True)
class Fitted:
    """A pair of runtime and precision on one board: what it is fitted on, and where that is from."""

    board: str
    runtime: str
    precision: str
    load: Load = field(repr=False)
    source: str
    date: str
    version: str
    reading: str = ""
    doubt: str = ""  # what speaks against the figures
    after: bool = False  # whether the pair before it, with other threads, says what to expect


def _joined(*loads: Load) -> Load:
    return lambda data: [row for load in loads for row in load(data)]


def _netspresso(device: str, precision: str) -> Load:
    """Files with weights in fp16 compute in fp32 on these cores, and are read so."""
    stored = {"fp32": "FP16", "int8": "INT8"}[precision]
    return lambda data: data.netspresso("tflite", device, stored, 4)


def _xnnpack(device: str, precision: str) -> Load:
    return lambda data: data.xnnpack(device, precision)


def _trt(board: str, *sources: tuple[str, str, str | None], also: str | None = None) -> Load:
    """Rows of TensorRT in fp16: (table, its name of the board, which of ``MODES`` where it is not the profile's)."""

    def load(data: Data) -> list[Row]:
        rows = data.tensorrt(also, "fp16") if also else []
        for table, device, mode in sources:
            on = chip(board, "tensorrt") if mode is None else in_mode(chip(board, "tensorrt"), *MODES[mode])
            if table == "trtutils":
                rows += data.trtutils(device, on)
            else:
                rows += data.netspresso("tensorrt", device, "FP16", 1, on)
        return rows

    return load


def in_mode(on: Chip, clock_ghz: float, bandwidth_gbps: float) -> Chip:
    """``on`` at another clock."""
    return replace(on, clock_ghz=clock_ghz, bandwidth_gbps=bandwidth_gbps)


def _mlperf(device: str, framework: str, precision: str, threads: int = 4) -> Load:
    return lambda data: data.mlperf(device, framework, precision, threads)


TFLITE = "TFLite, before it was LiteRT; version not stated"
THREADS = "threads are not stated there; read as four"
PAIRS = (
    Fitted("raspberry-pi-5", "onnxruntime", "fp32", lambda d: d.nasbench_pi5("onnx"), NASBENCH, "2025", "not stated"),
    Fitted("raspberry-pi-5", "litert", "fp32", lambda d: d.nasbench_pi5("litert"), NASBENCH, "2025", "not stated"),
    *(
        Fitted(board, "litert", kind, _mlperf(board, framework, given, 2 if board == "firefly-rk3399" else 4), MLPERF,
               date, framework, THREADS)
        for kind, given in (("fp32", "fp32"), ("int8", "uint8"))
        for board, framework, date in (
            ("raspberry-pi-4", "TFLite v2", "2021"), ("firefly-rk3588s", "TFLite v2.11", "2023"),
            ("firefly-rk3399", "TFLite v2", "2021"), ("odroid-n2+", "TFLite v2.11", "2023"),
        )
    ),
    *(
        Fitted("raspberry-pi-3b-plus", "litert", kind,
               _joined(_netspresso("Raspberry Pi 3B PLUS", kind), _xnnpack("RPi 3+", kind)),
               f"{NETSPRESSO}; {XNNPACK}", "2022 to 2024", TFLITE, THREADS,
               doubt="slower in places than the Zero 2 W, which has the same core at a lower clock: throttled?")
        for kind in ("fp32", "int8")
    ),
    *(
        Fitted("raspberry-pi-zero-2-w", "litert", kind, _netspresso("Raspberry Pi Zero 2 W", kind), NETSPRESSO, "2024",
               TFLITE, THREADS)
        for kind in ("fp32", "int8")
    ),
    Fitted("raspberry-pi-5", "litert", "int8", _netspresso("Raspberry Pi 5", "int8"), NETSPRESSO, "2024", TFLITE,
           THREADS, doubt="two of five networks are slower in integers than in float, which the cores do not explain"),
    Fitted("raspberry-pi-5", "litert", "fp32", _netspresso("Raspberry Pi 5", "fp32"), NETSPRESSO, "2024", TFLITE,
           THREADS, after=True),
    Fitted("raspberry-pi-4", "litert", "fp32", lambda d: d.nasbench_pi4(), HELP, "2021", "TFLite, version not stated",
           "threads are not stated there; read as one", after=True),
    *(
        Fitted(board, "armnn", kind, _mlperf(board, framework, given), MLPERF, date, framework, THREADS)
        for kind, given in (("fp32", "fp32"), ("int8", "uint8"))
        for board, framework, date in (
            ("raspberry-pi-4", "ArmNN", "2021"), ("firefly-rk3588s", "ArmNN v22.11", "2023"),
            ("khadas-vim4", "ArmNN v22.11", "2023"), ("odroid-n2+", "ArmNN v22.11", "2023"),
        )
    ),
    *(
        Fitted(board, "ncnn", kind, lambda d, n=name, k=kind, t=threads: d.ncnn(n, t, k == "int8"), NCNN, "2023",
               "not stated, one of 2021 to 2023")
        for board, name, floating, threads in (
            ("raspberry-pi-3b-plus", "Raspberry Pi 3", "fp32", (1, 4)),
            ("raspberry-pi-4", "Raspberry Pi 4", "fp32", (1, 4)),
            ("raspberry-pi-5", "Raspberry Pi 5", "fp16", (1, 4)),
            ("firefly-rk3588s", "Rockchip RK3588", "fp16", (1, 4)),
            ("jetson-nano", "NVIDIA Jetson Nano", "fp32", (1, 4)),
            ("jetson-agx-xavier", "NVIDIA Jetson AGX Xavier", "fp16", (1, 2, 4, 8)),
            ("jetson-agx-orin", "NVIDIA Jetson AGX Orin", "fp16", (1, 2, 4, 8)),
        )
        for kind in (floating, "int8")
    ),
    *(
        Fitted(board, "tensorrt", kind, lambda d, name=name, kind=kind: d.tensorrt(name, kind), ULTRALYTICS, "2025",
               "TensorRT 10, Ultralytics 8.3", "the GPU; one stream")
        for board, name in (
            ("jetson-orin-nano", "NVIDIA Jetson Orin Nano"), ("jetson-orin-nx", "NVIDIA Jetson Orin NX"),
            ("jetson-agx-orin", "NVIDIA Jetson AGX Orin"),
        )
        for kind in ("fp32", "int8")
    ),
    Fitted("jetson-orin-nano", "tensorrt", "fp16",
           _trt("jetson-orin-nano", ("trtutils", "OrinNano-8GB", "625 MHz"),
                ("netspresso", "Jetson Orin Nano", "408 MHz"), also="NVIDIA Jetson Orin Nano"),
           f"{ULTRALYTICS}; {TRTUTILS}; {NETSPRESSO}", "2023 to 2025", "TensorRT of JetPack 5 and 6",
           "the GPU, one stream; the clocks are read off the figures: 1,020, 625 and 408 MHz, with all units"),
    Fitted("jetson-orin-nx", "tensorrt", "fp16",
           _trt("jetson-orin-nx", ("trtutils", "OrinNX-16GB", None), also="NVIDIA Jetson Orin NX"),
           f"{ULTRALYTICS}; {TRTUTILS}", "2025", "TensorRT of JetPack 6", "the GPU, one stream"),
    Fitted("jetson-agx-orin", "tensorrt", "fp16",
           _trt("jetson-agx-orin", ("trtutils", "OrinAGX-64GB", None), ("trtutils", "OrinAGX-32GB", None),
                ("netspresso", "Jetson AGX Orin", None), also="NVIDIA Jetson AGX Orin"),
           f"{ULTRALYTICS}; {TRTUTILS}; {NETSPRESSO}", "2022 to 2025", "TensorRT of JetPack 5 and 6",
           "the GPU, one stream"),
    *(
        Fitted(board, "tensorrt", "fp16", _trt(board, *sources), source, "2021", "TensorRT 8, JetPack 4.6",
               "the GPU, one stream; the power mode is not stated, read as the highest")
        for board, source, sources in (
            ("jetson-agx-xavier", NETSPRESSO, [("netspresso", "Jetson Xavier", None)]),
            ("jetson-xavier-nx", f"{NETSPRESSO}; {TRTUTILS}",
             [("netspresso", "Jetson NX", None), ("trtutils", "XavierNX-8GB", None)]),
            ("jetson-tx2", NETSPRESSO, [("netspresso", "Jetson TX2", None)]),
            ("jetson-nano", NETSPRESSO, [("netspresso", "Jetson Nano", None)]),
        )
    ),
    *(
        Fitted("x86-avx512-vnni", "litert", kind, _mlperf("x86-c5.4xlarge", "TFLite", given, 8), MLPERF, "2023",
               "TFLite with XNNPACK", "threads are not stated there; read as eight")
        for kind, given in (("fp32", "fp32"), ("int8", "uint8"))
    ),
)  # fmt: skip


JUDGES = tuple(
    Fitted("raspberry-pi-4", "litert", kind,
           _joined(_netspresso("Raspberry Pi 4B", kind), _xnnpack("RPi 4 (arm64)", kind)),
           f"{NETSPRESSO}; {XNNPACK}", "2022 to 2024", TFLITE, THREADS)
    for kind in ("fp32", "int8")
)  # fmt: skip
"""Figures of other kernels than the pair's, which are not fitted: they judge how wide its intervals are to be."""


def chip(board: str, runtime: str) -> Chip:
    """The processor of ``board`` that ``runtime`` runs on."""
    if runtime == "tensorrt" and board in GRAPHICS:
        return GRAPHICS[board]
    return OTHERS[board] if board in OTHERS else target(board).chip(runtime)


def works(rows: Iterable[Row], precision: str, on: Chip, kernels: Kernels) -> list[Work]:
    """The work of each network in cycles of ``on``, every operator in ``precision``, as in the row's power mode."""
    made: list[Work] = []
    for row in rows:
        mode = row.chip or on
        took = work(every(row, precision), mode, kernels, row.threads)
        made.append(Work(took.amounts * (on.clock_ghz / mode.clock_ghz), took.counts, took.shapes))
    return made


def every(row: Row, precision: str) -> list:
    """The operators of a network, all in ``precision``."""
    option = Option(precision, 8 if precision == INT8 else 32)
    return [op for _, op in of_network(row.graph, {layer.name: option for layer in row.graph.layers})]


@dataclass(frozen=True)
class Observed:
    """What was measured of a pair: rows, and the work of each."""

    pair: Fitted
    rows: Sequence[Row]
    works: Sequence[Work]

    @property
    def clock(self) -> float:
        """The clock of the processor in GHz."""
        return chip(self.pair.board, self.pair.runtime).clock_ghz

    def fit(self, believed: Prior, only: Iterable[int] | None = None) -> Posterior:
        """The constants from these rows, or from ``only`` some."""
        chosen = list(range(len(self.rows)) if only is None else only)
        return fit([self.works[i] for i in chosen], [self.rows[i].ms for i in chosen], self.clock, believed)

    def predicted(self, posterior: Posterior, only: Iterable[int] | None = None) -> np.ndarray:
        """Median and the ends of the 90 % interval of each row, (rows, 3)."""
        chosen = range(len(self.rows)) if only is None else only
        return np.array([posterior.interval(self.works[i], self.clock) for i in chosen])

    def held_out(self, believed: Prior, folds: int = FOLDS) -> np.ndarray:
        """Each row as predicted from the others: all rows of a network are held out together.

        Intervals are calibrated on the other folds, as ``calibrated`` does for the profile on all.
        """
        names = sorted({row.name for row in self.rows})
        place = {names[i]: k % folds for k, i in enumerate(np.random.default_rng(0).permutation(len(names)))}
        fold = np.array([place[row.name] for row in self.rows])
        constants, noise = np.zeros((len(self.rows), 3)), np.zeros(len(self.rows))
        for k in range(folds):
            out, kept = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
            posterior = self.fit(believed, kept)
            constants[out], noise[out] = self.predicted(posterior, out), posterior.noise
        off, deviation = np.log(self.measured / constants[:, 0]), np.log(constants[:, 2] / constants[:, 0]) / Z90
        for k in range(folds):
            out, others = fold == k, fold != k
            more = calibration(off[others], deviation[others], float(np.median(noise[others])))
            wide = np.exp(Z90 * np.sqrt(np.maximum(deviation[out] ** 2 + more, 1e-8)))
            constants[out, 1], constants[out, 2] = constants[out, 0] / wide, constants[out, 0] * wide
        return constants

    def calibrated(self, posterior: Posterior, believed: Prior) -> tuple[Posterior, np.ndarray]:
        """``posterior`` with the noise that held-out networks show, and their predictions."""
        errors = self.held_out(believed)
        raw = self.predicted(posterior)
        off, deviation = np.log(self.measured / errors[:, 0]), np.log(raw[:, 2] / raw[:, 0]) / Z90
        more = calibration(off, deviation, posterior.noise)
        return replace(posterior, noise=float(np.sqrt(posterior.noise**2 + more))), errors

    @property
    def measured(self) -> np.ndarray:
        """What was measured, in ms."""
        return np.array([row.ms for row in self.rows])


def kernels(pair: Fitted) -> Kernels:
    """How the runtime's kernels work in that version: TensorRT 8.0 and 8.2 have SiLU apart."""
    own = find_runtime(pair.runtime).kernels
    return replace(own, fused=()) if "JetPack 4.6" in pair.version else own


@dataclass(frozen=True)
class Apart:
    """Networks of a group that was held out: their log errors, what was thought of these, and how new they are.

    ``deviation`` is without what novelty adds.
    """

    group: str
    off: np.ndarray
    deviation: np.ndarray
    novelty: np.ndarray

    def covered(self, unseen: float) -> float:
        """The share in the 90 % interval that counts a network like none by ``unseen``."""
        return float(np.mean(np.abs(self.off) <= Z90 * np.hypot(self.deviation, unseen * self.novelty)))


def apart(seen: Observed, posterior: Posterior, only: Sequence[int], group: str) -> Apart:
    """The rows ``only`` as predicted by ``posterior``, which has not seen them."""
    plain = replace(posterior, unseen=0.0)
    found = [plain.predict(seen.works[i], seen.clock) for i in only]
    off = np.log(seen.measured[list(only)] / np.array([median for median, _ in found]))
    novelty = np.array([plain.novel_share(seen.works[i], seen.clock) for i in only])
    return Apart(group, off, np.array([deviation for _, deviation in found]), novelty)


def family(row: Row) -> str:
    """The family of a network."""
    return row.family


def held_apart(
    seen: Mapping[Key, Observed], group: Callable[[Row], str] = family, most: int = 10
) -> dict[Key, list[Apart]]:
    """Each group of networks as predicted where no board has seen any of it, by pair.

    Groups are left out one at a time, or some at once where there are more than ``most``. A pair of a single group
    tells nothing.
    """
    families = sorted({group(row) for one in seen.values() for row in one.rows})
    held: dict[Key, list[Apart]] = {key: [] for key in seen}
    for some in (families[k::most] for k in range(min(most, len(families)))):
        kept = {
            key: [i for i, row in enumerate(one.rows) if group(row) not in some] for key, one in seen.items()
        }  # fmt: skip
        first = {key: one.fit(prior(), kept[key]) for key, one in seen.items() if len(kept[key]) > 1}
        for key in first:
            one = seen[key]
            posterior = one.fit(believed(one.pair, first), kept[key]) if len(kept[key]) < len(one.rows) else None
            for name in some:
                out = [i for i, row in enumerate(one.rows) if group(row) == name]
                if out and posterior is not None:
                    held[key].append(apart(one, posterior, out, name))
    return held


def judged(seen: Observed, posterior: Posterior, known: Collection[str]) -> list[Apart]:
    """Families of a judge's that the pair has not seen, as its ``posterior`` predicts them.

    By how much the ``known`` ones are off is the other kernels' doing, and no novelty: that much is taken off the rest.
    """
    every = {
        name: [i for i, row in enumerate(seen.rows) if row.family == name] for name in {r.family for r in seen.rows}
    }
    groups = [apart(seen, posterior, rows, name) for name, rows in sorted(every.items()) if name not in known]
    other = other_kernels(seen, posterior, known)
    return [replace(group, deviation=np.hypot(group.deviation, other)) for group in groups]


def widened(held: Sequence[Apart]) -> float:
    """The least ``unseen`` with which nine of ten networks of a family that is yet to come can be expected inside.

    ``held`` are families that were held out, each counting alike. They stand for others, so that fewer than one of ten
    may lie outside among themselves: 0.1 - 0.9 / n of n (conformal risk control, Angelopoulos et al. 2022, equation 4).
    """
    most = max(0.0, 0.1 - 0.9 / len(held))
    steps = np.arange(0.1, MOST_UNSEEN, 0.02)
    return float(next((u for u in steps if np.mean([1 - g.covered(u) for g in held]) <= most), MOST_UNSEEN))


def told_by(place: Key, held: Mapping[Key, Sequence[Apart]], pairs: Mapping[Key, Fitted]) -> list[Apart]:
    """Of the families in ``held``, those that tell how wide the intervals of ``place`` are to be."""
    return [group for other, groups in held.items() if alike(pairs[other]) == alike(pairs[place]) for group in groups]


def alike(pair: Fitted) -> tuple[str, str, str]:
    """What pairs share whose held-out families are alike: runtime, kernels, and who measured first of all."""
    return pair.runtime, kin(pair.board, pair.runtime, pair.precision), pair.source.partition(";")[0]


def away(seen: Mapping[Key, Observed], first: Mapping[Key, Posterior]) -> dict[tuple[Key, Key], Apart]:
    """Each board from each other alone that is of the same kernels and source: the same cycles, at its own facts."""
    found: dict[tuple[Key, Key], Apart] = {}
    for place, one in seen.items():
        for other, sibling in seen.items():
            if other != place and other[1:] == place[1:] and alike(sibling.pair) == alike(one.pair):
                board = apart(one, first[other], range(len(one.rows)), f"{place[0]} from {other[0]}")
                found[place, other] = replace(board, novelty=np.ones(len(board.off)))  # which counts in full
    return found


def other_kernels(seen: Observed, posterior: Posterior, known: Collection[str]) -> float:
    """By how much later kernels are off on the families that are ``known``: a log deviation, 0 where none tells."""
    offs = [
        apart(seen, posterior, [i], row.family).off for i, row in enumerate(seen.rows) if row.family in known
    ]  # fmt: skip
    return float(np.sqrt(np.mean(np.concatenate(offs) ** 2))) if offs else 0.0


def observe(data: Data, pair: Fitted) -> Observed:
    """Read what was measured of ``pair``."""
    rows = pair.load(data)
    if not rows:
        raise SystemExit(f"no rows for {pair}")
    return Observed(pair, rows, works(rows, pair.precision, chip(pair.board, pair.runtime), kernels(pair)))


def pooled(others: Sequence[Posterior]) -> Prior:
    """What other boards let one expect of a runtime's constants on the next: empirical Bayes.

    With fewer than two boards there is nothing to tell how boards differ, and the general prior stays.
    """
    general = prior()
    if len(others) < 2:
        return general
    constants = np.array([posterior.log_constants for posterior in others])
    between, within = constants.var(0, ddof=1), np.mean([posterior.doubt**2 for posterior in others], 0)
    return Prior(constants.mean(0), np.clip(np.sqrt(between + within), 0.15, general.deviation))


def kin(board: str, runtime: str, precision: str) -> str:
    """Boards whose figures of a runtime came from the same kernels: TFLite's were ruy's before they were XNNPACK's."""
    xnnpack = runtime == "litert" and (board, precision) in (("raspberry-pi-5", "fp32"), ("x86-avx512-vnni", "fp32"))
    return ("x86" if board.startswith("x86") else "arm") + (" xnnpack" if xnnpack else "")


def believed(pair: Fitted, first: Mapping[Key, Posterior]) -> Prior:
    """What is expected of a pair from other boards with the same runtime and precision."""
    same = [
        posterior for (board, runtime, precision), posterior in first.items()
        if runtime == pair.runtime and precision == pair.precision and board != pair.board
        and kin(board, runtime, precision) == kin(pair.board, runtime, precision)
    ]  # fmt: skip
    if pair.after:
        other = first[pair.board, pair.runtime, pair.precision]
        return Prior(other.log_constants, np.clip(np.hypot(other.doubt, 0.3), 0.0, prior().deviation))
    widened = pooled(same)
    if pair.runtime == "tensorrt":  # a call is one in each precision, and small networks were measured in fp16 alone
        half = None if pair.precision == FP16 else first.get((pair.board, pair.runtime, FP16))
        if half is None:
            widened = changed(widened, "call", 8000.0, 0.8)
        else:
            widened = changed(widened, "call", float(np.exp(half.log_constants[INDEX["call"]])), 0.2)
    return widened
