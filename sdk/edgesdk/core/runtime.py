"""The runtimes that edgesdk knows, a row each, and the formats of their files. All that asks about one asks its row.

Functions that a row needs are named as ``module:function`` and imported when they are called, so that who reads a row
needs neither PyTorch nor the runtime. ``docs/architecture.md`` says what else a new runtime needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module, resources
from typing import Any

from edgesdk.core.errors import UsageError
from edgesdk.core.file_bytes import (
    EXECUTORCH_BYTES,
    NCNN_BYTES,
    ONNX_BYTES,
    OPENVINO_BYTES,
    TENSORRT_BYTES,
    TFLITE_BYTES,
    FileBytes,
)
from edgesdk.core.graph import Graph, Layer
from edgesdk.core.plan import FP32, INT8
from edgesdk.core.serialize import loads_toml
from edgesdk.core.stored import STORED


@dataclass(frozen=True)
class Format:
    """A kind of model file: its suffix, how the names of files beside it end, and the layout of images inside.

    ``instead`` is the ending of a file that serves in its place with other versions of its runtime. ``unpacks`` says
    that its runtimes widen 4-bit weights once, while they load, so that these run as 8-bit ones do; ``unrolls`` that it
    has no recurrent layers, but each of their steps. ``stores`` are the forms of ``stored.STORED`` that it can hold,
    ``None`` for all; ``takes`` the bytes of a file beside its weights.
    """

    name: str
    suffix: str
    takes: FileBytes
    beside: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()
    layout: str = "channels first"
    unpacks: bool = True
    unrolls: bool = False
    stores: tuple[str, ...] | None = ()

    @property
    def holds(self) -> tuple[str, ...]:
        """The forms of stored weights that it can hold."""
        return tuple(STORED) if self.stores is None else self.stores


@dataclass(frozen=True)
class Kernels:
    """How a runtime carries convolutions out on a kind of chip.

    Output ``channels`` and ``pixels`` are rounded up to these steps. Windows are gathered with ``channels_last`` or
    first. With ``winograd``, 3x3 convolutions of stride 1 take a quarter of the multiplications (Lavin and Gray 2016,
    F(4x4, 3x3)). Input channels are rounded up to ``inputs``, that of blocked layouts. With ``clips_apart``, a ReLU6 in
    fp32 is a pass of its own. Activations that are ``fused`` are computed by the convolution before them, as ReLU is.
    """

    channels: int = 4
    pixels: int = 1
    channels_last: bool = False
    winograd: bool = False
    inputs: int = 1
    clips_apart: bool = False
    fused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(self.channels, self.pixels, self.inputs) < 1:
            raise ValueError("channels and pixels are rounded up to steps above zero")


@dataclass(frozen=True)
class Runtime:
    """A runtime: the files that it is given, what it computes with, and how it is reached from here.

    Of its files:

    - ``format`` is theirs; without one edgesdk writes none, and knows the runtime from published figures alone.
      ``reads`` names other formats that it reads as well;
    - ``writer`` is ``(ONNX model, path, tensor specifications) -> None``, which writes one;
    - ``probes`` is ``(bytes of an ONNX model) -> bytes``: what it makes of a probe; without it, it reads ONNX itself;
    - ``opener`` is ``(path, name) -> bundle_run.Opened``, which loads one on this machine.

    Of its computing:

    - ``grid`` is the name of the integers that it wants activations on (``compress.integers.GRIDS``);
    - ``integers`` is ``(layer, graph) -> bool``, which layers of a graph it has integer kernels for; without it, all of
      the kinds that some runtime has them for;
    - ``weight_bits`` are those that weights of an integer layer may be stored in;
    - ``integer_kernels`` are how the names of integer kernels begin, where it does not tell a kernel's precision;
    - ``kernels`` are those on Arm, or on the only kind of chip that it runs on; ``x86_kernels`` by precision, without
      which a machine cannot be calibrated with it;
    - ``memory`` is ``(version) -> price.memory.held.MemoryAccount``, which follows what it does with memory; without
      it, weights and what lives at once stand for that. ``process_bytes`` is what its process takes before any model,
      where that is known;
    - with ``engines`` it builds an engine of each file on the device, which takes seconds at the least, and fuses what
      it likes: whole files are measured there, in processes of their own, and operators have a profile's prices.

    Of its installation: the ``package`` that brings it, the ``extra`` of edgesdk that brings that one, the ``oldest``
    version that runs a bundle, and the ``substitute`` runtime that runs its files here, and where a device lacks it.
    One that is taken ``by_name`` has no part where all are asked for: writing its files takes long.
    """

    name: str
    format: Format | None = None
    reads: tuple[str, ...] = ()
    writer: str = "edgesdk.export.onnx:write_model"
    probes: str | None = None
    opener: str = "edgesdk_targets.bundle_run:opened"
    grid: str = "unsigned"
    integers: str | None = None
    weight_bits: tuple[int, ...] = (8, 4)
    integer_kernels: tuple[str, ...] = ()
    kernels: Kernels = Kernels()
    x86_kernels: Mapping[str, Kernels] = field(default_factory=dict)
    memory: str | None = None
    process_bytes: float | None = None
    engines: bool = False
    package: str | None = None
    extra: str | None = None
    oldest: str | None = None
    substitute: str | None = None
    by_name: bool = False

    def is_integer(self, layer: Layer, graph: Graph) -> bool:
        """Whether it has an integer kernel for ``layer`` of ``graph``, of a kind that some runtime has one for."""
        return self.integers is None or bool(load_function(self.integers)(layer, graph))

    @property
    def here(self) -> str:
        """The name of the runtime that runs its files on this machine."""
        return self.substitute or self.name

    @property
    def install(self) -> str:
        """The command that brings what runs its files here."""
        if self.substitute is not None:
            return find_runtime(self.substitute).install
        return f"pip install 'edgesdk[{self.extra}]'" if self.extra else f"pip install {self.package or self.name}"


ONNX = Format("onnx", ".onnx", ONNX_BYTES, stores=None)
OPENVINO = Format("openvino", ".xml", OPENVINO_BYTES, beside=(".bin",), stores=("fp16", "bf16"))
TFLITE = Format(
    "tflite", ".tflite", TFLITE_BYTES, layout="channels last", unpacks=False, unrolls=True, stores=("fp16",)
)
NCNN = Format("ncnn", ".ncnn.param", NCNN_BYTES, beside=(".bin",), stores=("fp16",))
EXECUTORCH = Format("executorch", ".pte", EXECUTORCH_BYTES, unrolls=True)
TENSORRT = Format("tensorrt", ".onnx", TENSORRT_BYTES, instead=("-fp16.onnx",))  # ONNX within TensorRT's restrictions
XNNPACK = Kernels(channels=8, channels_last=True)

RUNTIMES: dict[str, Runtime] = {}
"""Every runtime by its name, in the order in which they are named to a user; see :func:`register`."""


def register(row: Runtime) -> Runtime:
    """Make a runtime known under its name; ``row`` itself. Raises ``ValueError`` for a name that is taken."""
    if RUNTIMES.setdefault(row.name, row) is not row:
        raise ValueError(f"there is a runtime {row.name} already")
    return row


register(
    Runtime(
        "onnxruntime", ONNX, package="onnxruntime", oldest="1.18",
        integers="edgesdk.price.integer_layers:has_onnxruntime_kernel",
        memory="edgesdk.price.memory.onnxruntime.account:constants_of",
        process_bytes=45e6,  # 35 to 55 MB with its version
        integer_kernels=("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "QAttention", "DynamicQuantizeMatMul"),
        # MLAS unrolls windows channel by channel and multiplies panels of 16 pixels, on Arm
        kernels=Kernels(channels=4, pixels=16),
        # fp32 in blocks of 16 channels (NCHWc), int8 channels last, its outputs by fours; no windows are unrolled in
        # fp32, and none of other steps predicted networks better that were held out
        x86_kernels={
            FP32: Kernels(channels=16, inputs=16, clips_apart=True),
            INT8: Kernels(channels=4, channels_last=True),
        },
    )
)  # fmt: skip
register(
    Runtime(
        "openvino", OPENVINO, reads=("onnx",), writer="edgesdk.export.openvino:convert",
        integers="edgesdk.price.integer_layers:has_openvino_kernel",
        package="openvino", extra="openvino", oldest="2024.4", memory="edgesdk.price.memory.openvino:constants_of",
    )
)  # fmt: skip
LITERT = register(
    Runtime(
        "litert", TFLITE, writer="edgesdk.export.tflite.convert:write_model",
        probes="edgesdk.export.tflite.convert:convert_probe",
        grid="signed", integers="edgesdk.price.integer_layers:has_tflite_kernel", kernels=XNNPACK,
        package="ai-edge-litert", extra="tflite", oldest="1.2",
        memory="edgesdk.price.memory.tflite:constants_of",
    )
)  # fmt: skip
register(replace(LITERT, name="tflite", package="tflite-runtime", oldest=None))  # for boards without a LiteRT
register(
    Runtime(
        "tensorrt", TENSORRT, reads=("onnx",), writer="edgesdk.export.tensorrt:write_model", grid="symmetric",
        integers="edgesdk.price.integer_layers:has_tensorrt_kernel",
        weight_bits=(8,),  # it takes no 4-bit weights of a convolution
        kernels=Kernels(channels=8, fused=("silu",)), oldest="8.5", substitute="onnxruntime", engines=True,
    )
)  # fmt: skip
register(
    Runtime(
        "ncnn", NCNN, writer="edgesdk.export.ncnn.convert:write_model",
        probes="edgesdk.export.ncnn.convert:convert_probe",
        grid="narrow", integers="edgesdk.price.integer_layers:has_ncnn_kernel", weight_bits=(8,),
        kernels=Kernels(channels=4, winograd=True),
        package="ncnn", extra="ncnn", oldest="1.0.20250503",
    )
)  # fmt: skip
register(
    Runtime(
        "executorch", EXECUTORCH, writer="edgesdk.export.executorch.convert:write_model",
        probes="edgesdk.export.executorch.convert:convert_probe",
        grid="signed", weight_bits=(8,), kernels=XNNPACK,
        package="executorch", extra="executorch", oldest="1.5.1", by_name=True,
    )
)  # fmt: skip
register(Runtime("armnn", kernels=XNNPACK))


def find_runtime(name: str) -> Runtime:
    """The runtime with that name. Raises ``UsageError`` where there is none."""
    if name not in RUNTIMES:
        raise UsageError(f"there is no runtime {name!r}", f"choose one of {', '.join(RUNTIMES)}")
    return RUNTIMES[name]


def format_of(runtime: str) -> Format:
    """The format of the files for ``runtime``. Raises ``UsageError`` where edgesdk writes none."""
    file_format = RUNTIMES[runtime].format if runtime in RUNTIMES else None
    if file_format is None:
        raise UsageError(f"there is no file format for {runtime}", f"choose one of {', '.join(exportable())}")
    return file_format


def is_substituted(name: str) -> bool:
    """Whether another runtime stands in for it here, and on devices that lack it."""
    return name in RUNTIMES and RUNTIMES[name].substitute is not None


def exportable() -> tuple[str, ...]:
    """The names of the runtimes that edgesdk writes files for."""
    return tuple(row.name for row in RUNTIMES.values() if row.format is not None)


def formats(measured: bool = False) -> dict[str, str]:
    """Every format by its name, with the first runtime that is given it; of those that are ``measured`` themselves."""
    by_name: dict[str, str] = {}
    for row in RUNTIMES.values():
        if row.format is not None and not (measured and is_substituted(row.name)):
            by_name.setdefault(row.format.name, row.name)
    return by_name


def read_recipe(name: str) -> dict[str, Any]:
    """How a bundle for a runtime is measured on a board: its own recipe, or its package and the bundle's run.py."""
    own = resources.files("edgesdk_targets") / "recipes" / f"{name}.toml"
    if own.is_file():
        return loads_toml(own.read_text("utf-8"))
    install = f"python3 -m venv venv && venv/bin/pip install {find_runtime(name).package or name} numpy"
    return {"measure": [install, "venv/bin/python run.py --time 10 --threads {threads}"], "notes": []}


def load_function(name: str) -> Any:
    """The function that a row names as ``module:function``."""
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)
