"""The boards whose published latencies are fitted, and what each pair of runtime and precision is fitted on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgesdk.core.plan import INT8, Option
from edgesdk.core.runtime import Kernels, find_runtime
from edgesdk.core.target import Chip, target
from edgesdk.price.operators import of_network
from edgesdk.price.physics import Work, work
from edgesdk.price.posterior import Z90, Posterior, Prior, calibration, fit
from edgesdk.price.prior import changed, prior
from latency import HELP, MLPERF, NASBENCH, NCNN, ULTRALYTICS, Data, Row

A76 = {"fp32": 8.0, "fp16": 16.0, "int8": 32.0}
A72 = {"fp32": 4.0, "int8": 8.0}
OTHERS = {
    "firefly-rk3588s": Chip(2.3, 4, A76, 33.8, 3072.0),
    "firefly-rk3399": Chip(1.8, 2, A72, 14.9, 1024.0),
    "odroid-n2+": Chip(2.4, 4, A72, 10.5, 1024.0),
    "khadas-vim4": Chip(2.2, 4, A72, 16.9, 1024.0),
    "aws-a1": Chip(2.3, 8, A72, 38.4, 2048.0),
}
"""Boards that are no targets, but tell how a runtime's constants differ from board to board."""
FOLDS = 5
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
    after: bool = False  # whether the pair before it, with other threads, says what to expect


def _mlperf(device: str, framework: str, precision: str, threads: int = 4) -> Load:
    return lambda data: data.mlperf(device, framework, precision, threads)


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
        for kind in ("fp32", "fp16", "int8")
    ),
    *(
        Fitted("x86-avx512-vnni", "litert", kind, _mlperf("x86-c5.4xlarge", "TFLite", given, 8), MLPERF, "2023",
               "TFLite with XNNPACK", "threads are not stated there; read as eight")
        for kind, given in (("fp32", "fp32"), ("int8", "uint8"))
    ),
)  # fmt: skip


def chip(board: str, runtime: str) -> Chip:
    """The processor of ``board`` that ``runtime`` runs on."""
    return OTHERS[board] if board in OTHERS else target(board).chip(runtime)


def works(rows: Iterable[Row], precision: str, on: Chip, kernels: Kernels) -> list[Work]:
    """The work of each network, every operator in ``precision``."""
    return [work(every(row, precision), on, kernels, row.threads) for row in rows]


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


def observe(data: Data, pair: Fitted) -> Observed:
    """Read what was measured of ``pair``."""
    rows = pair.load(data)
    if not rows:
        raise SystemExit(f"no rows for {pair}")
    kernels = find_runtime(pair.runtime).kernels
    return Observed(pair, rows, works(rows, pair.precision, chip(pair.board, pair.runtime), kernels))


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


def believed(pair: Fitted, first: Mapping[tuple[str, str, str], Posterior]) -> Prior:
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
    if pair.runtime == "tensorrt":  # five large networks say 2,000 to 11,000, by precision; a call is one in each
        widened = changed(widened, "call", 8000.0, 0.3)
    return widened
