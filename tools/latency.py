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
from edgesdk.core.target import Chip
from edgesdk.network.module_graph import read
from networks import classic, detectors, later, mobile, yolo
from networks.nasbench import INPUTS, network

NETSPRESSO_NAMES = {"ResNet18": "resnet18", "ResNet50": "resnet50"}  # as ZOO has them
XNNPACK_NAMES = {
    "mobilenet_v1_1.0": "mobilenet-v1-1.0-224", "mobilenet_v2_1.0": "mobilenet-v2-1.0-224",
    "mobilenet_v3_large": "MobileNetV3-large", "mobilenet_v3_small": "MobileNetV3-small",
}  # fmt: skip
ZOO = {**classic.NETWORKS, **mobile.NETWORKS, **detectors.NETWORKS, **yolo.NETWORKS, **later.NETWORKS}
NETSPRESSO = "NetsPresso Trainer by Nota, docs/benchmarks, https://github.com/Nota-NetsPresso/netspresso-trainer"
TRTUTILS = "trtutils by J. Davis, benchmark/data, https://github.com/justincdavis/trtutils"
XNNPACK = "XNNPACK's README of February 2022, https://github.com/google/XNNPACK"
NASBENCH = "HW-NAS-Bench-360 by R. de Bijvank, https://github.com/roldebijvank/HW-NAS-Bench-360"
HELP = "HW-NAS-Bench (Li et al. 2021), as HELP carries it, https://github.com/HayeonLee/HELP"
MLPERF = "MLPerf Inference v1.0 to v4.1, https://github.com/mlcommons"
NCNN = "ncnn benchmark/README.md, https://github.com/Tencent/ncnn/tree/master/benchmark"
ULTRALYTICS = "Ultralytics documentation, https://docs.ultralytics.com/guides/nvidia-jetson/"


@dataclass(frozen=True)
class Row:
    """One network as it was measured: its name, what family it is of, its graph, threads, and milliseconds."""

    name: str
    family: str
    graph: Graph
    threads: int
    ms: float
    chip: Chip | None = None  # in another power mode than the board's usual one


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

    def netspresso(
        self, runtime: str, device: str, precision: str, threads: int, chip: Chip | None = None
    ) -> list[Row]:
        """NetsPresso's seven networks, a family each."""
        return [
            Row(NETSPRESSO_NAMES.get(row["model"], row["model"]), _family(row["model"]),
                load_graph(NETSPRESSO_NAMES.get(row["model"], row["model"])), threads, float(row["latency_ms"]), chip)
            for row in self.rows("netspresso.csv")
            if (row["runtime"], row["device"], row["precision"]) == (runtime, device, precision)
        ]  # fmt: skip

    def trtutils(self, device: str, chip: Chip | None = None) -> list[Row]:
        """Detectors at four input sizes under TensorRT in fp16."""
        return [
            Row(name, _family(name), load_graph(name), 1, float(row["median_ms"]), chip)
            for row in self.rows("trtutils.csv")
            if row["device"] == device and (name := f"{row['model']}-{row['imgsz']}")
        ]

    def xnnpack(self, device: str, precision: str, threads: int = 4) -> list[Row]:
        """XNNPACK's own end-to-end benchmark, as many threads as cores."""
        return [
            Row(name, _family(name), load_graph(name), threads, float(row["ms_multithread"]))
            for row in self.rows("xnnpack.csv")
            if row["device"] == device and row["precision"] == precision and (name := XNNPACK_NAMES[row["model"]])
        ]

    def tensorrt(self, device: str, precision: str) -> list[Row]:
        """YOLO11 at 640x640 under TensorRT."""
        return [
            Row(row["model"], "YOLO11", load_graph(row["model"]), 1, float(row["ms_per_image"]))
            for row in self.rows("ultralytics.csv")
            if row["device"].startswith(device) and row["format"].startswith("TensorRT")
            if row["precision"] == precision.upper() and row["model"].startswith("YOLO11")
        ]


def _family(name: str) -> str:
    """What a network is of: its name without what tells the sizes apart."""
    known = ("yolox", "yolov8", "yolov7", "mobilenet-v1", "mobilenet-v2", "mobilenetv3", "resnet")
    return next((family for family in known if name.lower().startswith(family)), name)


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
