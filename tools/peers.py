"""What a user would otherwise reach for, each in its own documented default recipe: the benchmark's baselines.

The quantizers of ONNX Runtime, OpenVINO (NNCF), LiteRT (ai-edge-quantizer) and ExecuTorch, and uniform structured
pruning by Torch-Pruning followed by fine-tuning.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgesdk.core.errors import ModelError
from training import Augmented, Loss, fit, sgd, smoothed

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported

INPUT = "input"
Batches = Iterable[tuple[Tensor, Tensor]]


class Data(Protocol):
    """What :func:`recover` learns from."""

    @property
    def train(self) -> Augmented: ...


def export(model: nn.Module, example: Tensor, path: Path) -> Path:
    """Write ``model`` as fp32 ONNX, opset 20, for one sample of ``example``'s shape (batch, ...)."""
    model, options = copy.deepcopy(model).eval(), {"input_names": [INPUT], "external_data": False, "verbose": False}
    torch.onnx.export(model, (example[:1],), path, dynamo=True, opset_version=20, **options)
    return path


def ort_static_int8(
    model: nn.Module, example: Tensor, calibration: Batches, path: Path, images: int = 256, left_out: Sequence[str] = ()
) -> Path:
    """Export ``model`` and quantize it as ONNX Runtime's guide says: shape inference, then static QDQ.

    Activations uint8, weights int8 per channel, ranges by min-max over the first ``images`` samples of
    ``calibration``. What takes a parameter whose name begins as one of ``left_out`` says, and all that comes after,
    stays float. Returns ``path``.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.samples = islice((sample for x, _ in calibration for sample in x.split(1)), images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            sample = next(self.samples, None)
            return None if sample is None else {INPUT: sample.contiguous().numpy()}

    with tempfile.TemporaryDirectory() as folder:
        exported = export(model, example, Path(folder) / "fp32.onnx")
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(exported, prepared)
        float_nodes = behind(onnx.load(prepared).graph, left_out) if left_out else []
        quantize_static(
            prepared,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=float_nodes,
        )
    return path


def behind(graph: onnx.GraphProto, prefixes: Sequence[str]) -> list[str]:
    """The nodes of ``graph`` that take a parameter whose name begins so, and all that take what those give."""
    reached, nodes = {i.name for i in graph.initializer if i.name.startswith(tuple(prefixes))}, []
    for node in graph.node:
        if reached.intersection(node.input):
            nodes.append(node.name)
            reached.update(node.output)
    return nodes


def nncf_int8(model: nn.Module, example: Tensor, calibration: Batches, path: Path, transformer: bool = False) -> Path:
    """Export ``model`` and quantize it with NNCF's post-training quantization. Returns ``path``, OpenVINO's .xml."""
    import nncf  # pyright: ignore[reportMissingImports]
    import openvino

    samples = [sample.numpy() for x, _ in calibration for sample in x.split(1)]
    with tempfile.TemporaryDirectory() as folder:
        read = openvino.Core().read_model(export(model, example, Path(folder) / "fp32.onnx"))
        kind = nncf.ModelType.TRANSFORMER if transformer else None
        made = nncf.quantize(read, nncf.Dataset(samples), subset_size=len(samples), model_type=kind)
    openvino.save_model(made, path, compress_to_fp16=False)
    return path


def litert_float(model: nn.Module, example: Tensor, path: Path) -> Path:
    """Convert ``model`` with litert-torch. Returns ``path``, a .tflite."""
    import litert_torch  # pyright: ignore[reportMissingImports]

    litert_torch.convert(copy.deepcopy(model).eval(), (example[:1],)).export(str(path))
    return path


def litert_int8(model: nn.Module, example: Tensor, calibration: Batches, path: Path, dynamic: bool = False) -> Path:
    """Convert ``model`` with litert-torch and quantize it with ai-edge-quantizer's static int8 recipe, or its dynamic
    one, which leaves activations in float. Inputs and outputs stay float. Returns ``path``."""
    from ai_edge_quantizer import quantizer, recipe  # pyright: ignore[reportMissingImports]
    from ai_edge_quantizer.algorithm_manager import AlgorithmName  # pyright: ignore[reportMissingImports]
    from ai_edge_quantizer.qtyping import TFLOperationName  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as folder:
        dense = litert_float(model, example, Path(folder) / "fp32.tflite")
        made = quantizer.Quantizer(str(dense), recipe.dynamic_wi8_afp32() if dynamic else recipe.static_wi8_ai8())
        ranges = None
        if not dynamic:
            for border in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
                made.update_quantization_recipe(".*", border, algorithm_key=AlgorithmName.NO_QUANTIZE)
            samples = [{"args_0": sample.numpy()} for x, _ in calibration for sample in x.split(1)]
            ranges = made.calibrate({"serving_default": samples})
        made.quantize(ranges).export_model(str(path), overwrite=True)
    return path


def executorch_int8(model: nn.Module, example: Tensor, calibration: Batches, path: Path) -> Path:
    """Quantize ``model`` with ExecuTorch's own XNNPACKQuantizer, per channel, and lower it to XNNPACK.

    As its guide says: export, prepare, calibrate, convert, export, lower. Returns ``path``, a .pte.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    given = (example[:1],)
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(copy.deepcopy(model).eval(), given).module(), quantizer)
    with torch.no_grad():
        for x, _ in calibration:
            for sample in x.split(1):
                prepared(sample)
    program = torch.export.export(convert_pt2e(prepared), given)
    path.write_bytes(to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)
    return path


def uniform_prune(
    model: nn.Module, example: Tensor, ratio: float, round_to: int, heads: Mapping[str, int] | None = None
) -> nn.Module:
    """A copy of ``model`` with ``ratio`` of the channels of every group cut by Torch-Pruning.

    Importance is the L2 norm over each dependency group (Fang et al. 2023, DepGraph, equation 7), the ratio the same
    everywhere, widths rounded to multiples of ``round_to``. The last linear layer keeps its outputs. ``heads`` gives
    the number of heads by the name of each fused query-key-value layer; without it an attention block does not
    survive. Raises ``ModelError`` for recurrent layers, which Torch-Pruning 1.6 cannot cut.
    """
    import torch_pruning  # pyright: ignore[reportMissingImports]

    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        raise ModelError("Torch-Pruning cannot cut recurrent layers", "leave this peer out for such a model")
    pruned = copy.deepcopy(model).eval()
    classifier = [module for module in pruned.modules() if isinstance(module, nn.Linear)][-1]
    pruner = torch_pruning.pruner.MagnitudePruner(
        pruned,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        round_to=round_to,
        ignored_layers=[classifier],
        num_heads={pruned.get_submodule(name): count for name, count in (heads or {}).items()},
    )
    pruner.step()
    return pruned


def distilled(teacher: nn.Module, temperature: float = 4.0, share: float = 0.9) -> Loss:
    """The loss of Hinton et al. 2015, section 2: ``share`` of soft targets from ``teacher``, the rest of labels."""
    teacher = copy.deepcopy(teacher).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(logits: Tensor, images: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            target = teacher(images).float()
        soft = nn.functional.kl_div(
            (logits / temperature).log_softmax(1), (target / temperature).softmax(1), reduction="batchmean"
        )
        return share * temperature**2 * soft + (1 - share) * nn.functional.cross_entropy(logits, y)

    return loss


def recover(
    model: nn.Module, data: Data, epochs: int = 3, lr: float = 0.05, teacher: nn.Module | None = None
) -> nn.Module:
    """Fine-tune ``model`` in place with SGD and a cosine schedule from ``lr`` to zero; returns it in eval mode.

    Learns from labels alone, or from ``teacher`` (the dense model) as well where one is given.
    """
    optimizer = sgd(model, lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(data.train))
    fit(model, data.train, epochs, optimizer, schedule, distilled(teacher) if teacher else smoothed)
    return model.eval()


def onnx_accuracy(path: Path, batches: Batches) -> float:
    """The share of ``batches`` that the ONNX file at ``path`` classifies right in ONNX Runtime, one thread, 0 to 1."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    right = total = 0
    for x, y in batches:
        for sample, label in zip(x.split(1), y.tolist(), strict=True):
            logits = np.asarray(session.run(None, {name: sample.contiguous().numpy()})[0])
            right, total = right + int(logits.argmax() == label), total + 1
    return right / total
