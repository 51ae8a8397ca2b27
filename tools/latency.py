"""Published latencies of real boards, with the networks that were measured, as ``Graph``s."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn

from edgesdk.core.cache import cache_folder
from edgesdk.core.graph import Graph
from edgesdk.core.serialize import dumps, from_json, write
from edgesdk.network.module_graph import read
from networks import classic, detectors, mobile, yolo
from networks.nasbench import INPUTS, network

ZOO = {**classic.NETWORKS, **mobile.NETWORKS, **detectors.NETWORKS, **yolo.NETWORKS}
NASBENCH = "HW-NAS-Bench-360 by R. de Bijvank, https://github.com/roldebijvank/HW-NAS-Bench-360"
HELP = "HW-NAS-Bench (Li et al. 2021), as HELP carries it, https://github.com/HayeonLee/HELP"
MLPERF = "MLPerf Inference v1.0 to v4.1, https://github.com/mlcommons"
NCNN = "ncnn benchmark/README.md, https://github.com/Tencent/ncnn/tree/master/benchmark"
ULTRALYTICS = "Ultralytics documentation, https://docs.ultralytics.com/loaded_teachers/nvidia-jetson/"


@dataclass(frozen=True)
class Row:
    """One network as it was measured: its name, what family it is of, its graph, threads, and milliseconds."""

    name: str
    family: str
    graph: Graph
    threads: int
    ms: float


class Data:
    """The folder of published latencies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(self, name: str) -> list[dict[str, str]]:
        """The rows of one file."""
        with (self.folder / name).open(newline="") as file:
            return list(csv.DictReader(file))

    def nasbench_pi5(self, runtime: str, inputs: Iterable[str] = ("cifar100", "ninapro")) -> list[Row]:
        """NAS-Bench-201 on a Raspberry Pi 5, one thread. ONNX Runtime multiplies absent edges by zero, as exported."""
        rows = []
        for row in self.rows("pi5_nb201.csv"):
            for size in inputs:
                if value := row[f"{runtime}_{size}_ms"]:
                    graph = nasbench(row["ops"], INPUTS[size], zeros=runtime == "onnx")
                    rows.append(Row(row["ops"], size, graph, 1, float(value)))
        return rows

    def nasbench_pi4(self) -> list[Row]:
        """NAS-Bench-201 on a Raspberry Pi 4 under TFLite, read as one thread."""
        return [
            Row(row["ops"], "nasbench", nasbench(row["ops"], INPUTS["cifar100"]), 1, float(row["raspi4_ms"]))
            for row in self.rows("pi4_x86_nb201.csv")
        ]

    def mlperf(self, device: str, framework: str, precision: str, threads: int) -> list[Row]:
        """MobileNets under MLPerf's rules: the median over versions of the median latency."""
        seen: dict[str, list[float]] = defaultdict(list)
        for row in self.rows("mlperf_cpu.csv"):
            if row["device"].startswith(device) and row["framework"].startswith(framework):
                if row["precision"] == precision:
                    seen[row["model"]].append(float(row["lat_p50_ms"]))
        return [Row(n, n[:12], load_graph(n), threads, median(v)) for n, v in sorted(seen.items())]

    def ncnn(self, device: str, threads: Iterable[int], int8: bool) -> list[Row]:
        """ncnn's own benchmark on processors: the least of its runs, which other work disturbs least."""
        seen: dict[tuple[str, int], list[float]] = defaultdict(list)
        for row in self.rows("ncnn.csv"):
            name = row["model"].removesuffix("_int8")
            if row["device"].startswith(device) and float(row["gpu_device"]) < 0 and int(row["threads"]) in threads:
                if row["model"].endswith("_int8") == int8 and name in ZOO:
                    seen[name, int(row["threads"])].append(float(row["min_ms"]))
        return [Row(n, n, load_graph(n), t, min(v)) for (n, t), v in sorted(seen.items())]

    def tensorrt(self, device: str, precision: str) -> list[Row]:
        """YOLO11 at 640x640 under TensorRT."""
        return [
            Row(row["model"], "YOLO11", load_graph(row["model"]), 1, float(row["ms_per_image"]))
            for row in self.rows("ultralytics.csv")
            if row["device"].startswith(device) and row["format"].startswith("TensorRT")
            if row["precision"] == precision.upper() and row["model"].startswith("YOLO11")
        ]


_graphs: dict[str, Graph] = {}


def load_graph(name: str) -> Graph:
    """The graph of a published network."""
    make, shape = ZOO[name]
    return cached(name, make, shape)


def nasbench(ops: str, shape: tuple[int, ...], zeros: bool = False) -> Graph:
    """The graph of the NAS-Bench-201 network ``ops`` for inputs of ``shape``."""
    mark = "z" if zeros and "0" in ops else ""
    return cached(f"nasbench-{ops}{mark}", lambda: network(ops, 100, shape[0], zeros=zeros), shape)


def cached(name: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> Graph:
    """The graph of a network, traced once and kept in the cache folder."""
    key = f"{name}-{'x'.join(map(str, shape))}"
    if key not in _graphs:
        path = cache_folder() / "graphs" / f"{key}.json"
        if path.is_file():
            _graphs[key] = from_json(Graph, json.loads(path.read_text()))
        else:
            with torch.no_grad():
                _graphs[key] = read(make().eval(), shape)
            write(path, dumps(_graphs[key]))
    return _graphs[key]
