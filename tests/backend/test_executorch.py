"""Programs for ExecuTorch: operators compute what PyTorch does, integers are XNNPACK's, what it lacks is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import models
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgesdk.compress.integers import SIGNED
from edgesdk.compress.quantize import calibrate, integer, specification
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import DeviceError, FidelityError, ModelError
from edgesdk.export import onnx as onnx_file
from edgesdk.export.executorch.check import check
from edgesdk.export.formats import save
from edgesdk.export.parity import compared, fallbacks, runner
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk_targets import bundle_run
from edgesdk_targets.agent import runners, xnnpack
from edgesdk_targets.agent.protocol import AgentError


class Blocks(nn.Module):
    """What networks of images are made of: a stem, a residual, a depthwise block, pools, a concatenation, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.left, self.deep, self.wide = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 8, 1)
        self.joined, self.head = nn.Conv2d(16, 12, 3, (1, 2), (0, 1), (2, 1)), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        y = F.relu6(self.deep(F.relu6(self.left(x))))
        x = F.relu(x + self.wide(y))
        x = F.relu(self.joined(torch.cat([x, y], 1)))
        return self.head(x.mean((2, 3)))


class Signal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.deep = nn.Conv1d(4, 8, 5, 2, 2), nn.Conv1d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.last, self.head = nn.Conv1d(8, 12, 1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.last(self.deep(F.relu(self.first(x)))))
        return self.head(F.avg_pool1d(x, 3, 2, 1).mean(2))


class Block(nn.Module):
    """A transformer's: an attention and two linear layers, each with its norm and what goes around it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.other, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(self.other(x))))


class Rest(nn.Module):
    """Operators of every kind that a graph has besides."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.grouped = nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), nn.Conv2d(6, 8, 3, padding="same", groups=2)
        self.norm, self.squeeze, self.scale = nn.GroupNorm(2, 8), nn.Linear(8, 4), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = F.leaky_relu(self.norm(self.grouped(self.up(x))), 0.1)
        y = y * torch.sigmoid(self.scale(F.silu(self.squeeze(y.mean((2, 3))))))[:, :, None, None]
        z = F.interpolate(F.hardswish(y), scale_factor=2, mode="bilinear")[:, 1:7, ::2]
        w = F.pad(torch.where(x > 0, x, x.exp() - 1), (1, 2, 0, 1), mode="reflect").permute(0, 2, 3, 1)
        picked = torch.cat([x.amax(2), x.flatten(2).softmax(-1)[:, :, :3], x.cumsum(3)[:, :, 0]], 2)
        return z, w, picked, F.avg_pool2d(x, 3, 2, 1), F.elu(x).std((2, 3)), torch.fft.rfft(x).abs(), x.argmax(1)


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.known, self.gru = nn.Embedding(20, 6), nn.GRU(6, 4, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.gru(self.known(tokens))[0]


FACES: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "blocks": (Blocks, (8, 3, 24, 20)), "signal": (Signal, (8, 4, 32)), "transformer": (Block, (8, 6, 16)),
    "rest": (Rest, (2, 4, 12, 10)),
}  # fmt: skip


@cache
def _traced(name: str) -> tuple[Network, Tensor]:
    torch.manual_seed(0)
    kind, shape = FACES[name]
    x = torch.randn(shape)
    return trace(kind().eval(), x), x


def made(name: str, precision: str) -> tuple[Network, Tensor]:
    """A network with all of its layers in that precision, its ranges calibrated."""
    network, x = _traced(name)
    result = integer(network.copy(), models.assigned(network, "int8") if precision == "int8" else {}, SIGNED)
    calibrate(result, [x])
    return result, x


def written(network: Network, x: Tensor, path: Path) -> Artifact:
    save(onnx_file.converted(network, x), specification(network), path, "executorch")
    return Artifact(path, network.graph, runtime="executorch")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("programs")

    @cache
    def of(name: str, precision: str) -> tuple[Network, Tensor, Artifact]:
        network, x = made(name, precision)
        return network, x, written(network, x, folder / f"{name}-{precision}.pte")

    return of


@pytest.mark.parametrize("name", FACES)
def test_a_float_program_computes_what_pytorch_does(program, name: str) -> None:
    network, x, artifact = program(name, "fp32")
    assert compared(network.flat, artifact, [x], 1e-5).error <= 1e-5


@pytest.mark.parametrize("name", ["blocks", "signal", "transformer"])
def test_integers_are_those_of_the_simulation(program, name: str) -> None:
    """XNNPACK's sums and products are exact; a mean, an addition and a tie may be rounded the other way."""
    network, x, artifact = program(name, "int8")
    run = runner(artifact, network.structure)
    with torch.no_grad():
        wanted = network(x)
    step = min(spec.scale[0] for spec in specification(network).values() if spec.axis is None)
    off = ((run(x) - wanted) / step).abs()
    assert float((off > 0.5).double().mean()) < 0.1
    assert compared(network.flat, artifact, [x], 2e-2).error <= 2e-2


@pytest.mark.parametrize("name", ["blocks", "signal", "transformer"])
def test_layers_that_are_called_integer_are_integer_in_what_xnnpack_is_given(program, name: str) -> None:
    network, _, artifact = program(name, "int8")
    specs = specification(network)
    layers = [n.removesuffix(".weight") for n, spec in specs.items() if spec.axis is not None]
    kernels = runners.runner("executorch").profile(str(artifact.path), None, 1, None)
    assert layers and fallbacks(kernels, layers, "executorch") == []
    _, _, dense = program(name, "fp32")
    kernels = runners.runner("executorch").profile(str(dense.path), None, 1, None)
    assert fallbacks(kernels, layers, "executorch") == layers


@pytest.mark.parametrize("name", ["blocks", "transformer"])
def test_steps_and_zero_points_are_held_to_the_specification(program, name: str) -> None:
    network, _, artifact = program(name, "int8")
    specs, content = specification(network), artifact.path.read_bytes()
    check(content, specs)
    for tensor, spec in specs.items():
        further = float(np.nextafter(np.float32(spec.scale[0]), np.float32(1)))
        with pytest.raises(FidelityError, match="not quantized in the file as specified"):
            check(content, {tensor: replace(spec, scale=(further, *spec.scale[1:]))})
    with pytest.raises(ValueError, match="reach beyond"):
        xnnpack.read_graphs(content[: len(content) // 2])


def test_whole_numbers_go_in_and_recurrences_are_unrolled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(20, (3, 4))
    network = integer(trace(Counted().eval(), tokens), {})
    artifact = written(network, tokens, tmp_path / "model.pte")
    assert compared(network.flat, artifact, [tokens], 1e-5).error <= 1e-5


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: F.conv3d(x[:, None], torch.ones(1, 1, 2, 2, 2)), "ExecuTorch cannot run Conv for .*3 dimensions"),
        (lambda x: torch.det(x), "ExecuTorch has no Det for"),
    ],
)
def test_what_executorch_lacks_is_named_with_the_formats_that_have_it(function, said: str, tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    x = torch.randn(2, 4, 5, 5)
    network = integer(trace(Odd().eval(), x), {})
    with pytest.raises(ModelError, match=said) as caught:
        written(network, x, tmp_path / "model.pte")
    assert "export to onnx or openvino" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_program_or_is_cut_short_is_refused(program, tmp_path: Path) -> None:
    network, _, artifact = program("signal", "fp32")
    content = artifact.path.read_bytes()
    load = runners.runner("executorch").load
    for name, part in (("none.pte", bytes(64)), ("short.pte", content[: len(content) // 2])):
        path = tmp_path / name
        path.write_bytes(part)
        with pytest.raises(DeviceError, match=rf"executorch refuses {name}"):
            runner(Artifact(path, runtime="executorch"), network.structure)
        with pytest.raises(AgentError, match=r"executorch .* refuses the model"):
            load(str(path), 1)


def test_the_agent_tells_inputs_and_outputs_by_their_names(program) -> None:
    network, x, artifact = program("rest", "fp32")
    runner_ = runners.runner("executorch")
    for source in (str(artifact.path), artifact.path.read_bytes()):
        session = runner_.load(source, 2)
        assert session.inputs == [{"name": network.input_names[0], "shape": [1, 4, 12, 10], "dtype": "float32"}]
        made = session.run_once({network.input_names[0]: x[:1].numpy()})
        assert list(made) == list(network.structure.output_names)
    threads = [runner_.load(str(artifact.path), count) for count in (1, 3, 1)]  # one pool for all: two are loaded anew
    for session in threads:
        again = session.run_once({network.input_names[0]: x[:1].numpy()})
        assert all(np.allclose(again[name], made[name], atol=1e-6) for name in made)
    with pytest.raises(AgentError, match="the model takes"):
        session.bind({network.input_names[0]: x.numpy()})


@pytest.mark.parametrize("caught", ["capsys", "capfd"])
def test_it_tells_nothing_of_its_threads(program, caught: str, request: pytest.FixtureRequest) -> None:
    path = str(program("rest", "fp32")[2].path)
    heard = request.getfixturevalue(caught)
    for count in (2, 3):  # each has them made anew
        runners.runner("executorch").load(path, count)
        bundle_run.opened(path, "executorch", count + 2)
    assert heard.readouterr() == ("", "")


def test_nothing_of_it_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys, edgesdk, edgesdk.workflows.deploy, edgesdk.workflows.export, edgesdk.export.formats\n"
        "sys.exit(any(name.split('.')[0] == 'executorch' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
