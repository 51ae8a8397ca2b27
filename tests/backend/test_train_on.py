"""Where networks learn: what --train-on may name, that all of a training lies there, and memory that is too little."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from torch import Tensor, nn

from edgesdk.compress.apply import compressed
from edgesdk.core.errors import DeviceError, UsageError
from edgesdk.data.data import Data
from edgesdk.data.task import Task
from edgesdk.network.network import Network, tensors
from edgesdk.network.placement import CPU, find_device, list_devices, move, place
from edgesdk.network.trace import trace
from edgesdk.train.apply import fit, learn
from edgesdk.train.trainer import FEWEST, Trainer
from edgesdk.workflows.deploy import deploy
from edgesdk.workflows.export import export_plan
from edgesdk.workflows.sweep import sweep

SCRIPT = Path(__file__).parents[1] / "on_second_device.py"
CLOSE = 1e-5  # of weights: the same operators on the same processor, added up in another order
LESS = ("floats", "unlabelled", "jacobian", "mutual")  # that show little which the others do not
NEAR = 2e-2  # of the scale of a weight, between a GPU's kernels and the CPU's after a few steps


def test_a_word_names_a_device_that_is_there() -> None:
    assert find_device("cpu") == CPU and list_devices()[0] == "cpu"
    assert str(find_device("auto")) == ("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("word", ["gpu", "cuda:", "cuda:x", "CPU", "", "cpu:1", "cuda:-1"])
def test_another_word_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="give auto, cpu, cuda"):
        find_device(word)


def test_a_device_that_is_not_there_is_named_with_those_that_are() -> None:
    missing = "cuda:97"
    with pytest.raises(DeviceError, match=rf"no {missing} to train on.*: choose of what is there: cpu"):
        find_device(missing)


@pytest.mark.parametrize("ask", [deploy, partial(sweep, build=1), partial(export_plan, "plan.json")])
def test_whoever_trains_refuses_such_a_word_before_anything_else(ask: Any, tmp_path: Path) -> None:
    where = {"out_dir" if isinstance(ask, partial) and ask.func is sweep else "out": tmp_path / "out"}
    with pytest.raises(UsageError, match="nothing to train on called 'gpu'"):
        ask(train_on="gpu", **where)
    assert list(tmp_path.iterdir()) == []


def test_what_learns_on_the_cpu_is_not_copied() -> None:
    network, x = models.made("residual", 8)
    assert place(network, CPU) is network
    batch = (x, {"a": [x]})
    assert move(batch, CPU) is batch


def test_what_a_network_makes_by_itself_is_made_where_it_lies() -> None:
    network = with_maker(trace(nn.Linear(4, 4), torch.randn(2, 4)))
    placed = place(network, torch.device("meta"))
    x = torch.empty(2, 4, device="meta")
    assert placed.flat(x)[0].device.type == "meta" and network.flat(torch.zeros(2, 4))[0].device == CPU


def with_maker(network: Network) -> Network:
    """``network`` whose output has zeros of a fixed device added."""
    network = network.copy()
    end = next(n for n in network.module.graph.nodes if n.op == "output")
    (value,) = end.all_input_nodes
    with network.module.graph.inserting_before(end):
        zeros = network.module.graph.call_function(torch.ops.aten.zeros.default, ([2, 4],), {"device": CPU})
        end.replace_input_with(value, network.module.graph.call_function(torch.ops.aten.add.Tensor, (value, zeros)))
    network.module.recompile()
    return network


@pytest.fixture(scope="module")
def there() -> dict[str, dict[str, Any]]:
    """What recoveries came to on a second device; in a process of their own, which that stays with."""
    return on_second_device("int8", "tokens", "blocks", "every loss", "self", "teachers")


def on_second_device(*cases: str) -> dict[str, dict[str, Any]]:
    done = subprocess.run([sys.executable, str(SCRIPT), *cases], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def check_learnt_there(found: dict[str, Any]) -> None:
    assert found["learnt there"] > 0 and found["learnt here"] == []
    assert found["back"], "what comes back lies on the CPU"
    assert found["off"] < CLOSE


@pytest.mark.parametrize("case", ["int8", "tokens", "blocks", "every loss", "self", "teachers"])
def test_all_of_a_recovery_is_computed_on_the_device_it_was_given(case: str, there: dict[str, dict[str, Any]]) -> None:
    check_learnt_there(there[case])


@pytest.mark.slow
def test_all_other_recoveries_are_too() -> None:
    for found in on_second_device(*LESS).values():
        check_learnt_there(found)


class Crowded:
    """An objective on a device whose memory holds ``most`` samples: the squared outputs."""

    precise = False

    def __init__(self, most: int) -> None:
        self.task, self.most, self.seen = Task("mse"), most, list[int]()

    def parameters(self) -> list[nn.Parameter]:
        return []

    def start(self, student: Network) -> None: ...

    def follow(self, student: Network) -> None: ...

    def __call__(self, student: Network, x: Any, y: Any, epoch: float, mixed: bool) -> Tensor:
        self.seen.append(len(tensors(x)[0]))
        if self.seen[-1] > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (student.flat(x)[0] - y).square().mean()


def trained(most: int, samples: int = 12, y: Any = None) -> tuple[Crowded, Trainer, dict[str, Tensor]]:
    """A network of one layer after two steps, with ``most`` samples at once."""
    torch.manual_seed(0)
    network, x = trace(nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4)), torch.randn(samples, 4)
    objective = Crowded(most)
    trainer = Trainer(objective, [(x, torch.randn(samples, 4) if y is None else y)], 0.1)
    trainer.train(network, 2.0, 1e-2, lambda share: None)
    return objective, trainer, {name: v.detach().clone() for name, v in network.module.state_dict().items()}


@pytest.mark.parametrize(("most", "samples", "pieces"), [(6, 12, 2), (5, 12, 4), (3, 11, 4)])
def test_a_batch_that_memory_does_not_hold_runs_in_parts_to_the_same_end(most: int, samples: int, pieces: int) -> None:
    whole, plain, wanted = trained(samples, samples)
    objective, trainer, reached = trained(most, samples)
    assert (plain.pieces, trainer.pieces) == (1, pieces)
    assert objective.seen[-pieces:] != whole.seen[-pieces:] and sum(objective.seen[-pieces:]) == samples
    assert all(torch.allclose(value, reached[name], atol=1e-6) for name, value in wanted.items())
    assert plain.notes(2.0) == []
    (note,) = trainer.notes(2.0)
    assert f"in {pieces} parts" in note


@pytest.mark.parametrize("most", [0, FEWEST - 1])
def test_memory_that_holds_next_to_nothing_is_an_error_that_says_what_to_do(most: int) -> None:
    with pytest.raises(DeviceError, match=r"does not hold the recovery of .* samples.*--train-on cpu"):
        trained(most)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["residual", "depthwise", "transformer", "recurrent"])
def test_a_gpu_learns_what_the_cpu_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesdk.train.trainer.has_bfloat16", lambda device: False)
    network, x = models.made(name, 32)
    kept = {group.name: group.size // 2 for group in network.graph.groups if group.fixed is None}
    plan, scores = models.plan(network, kept), models.scores(network)
    small, _ = compressed(network, plan, x, scores)
    y = torch.randint(0, models.CLASSES, (32,), generator=torch.Generator().manual_seed(1))
    batches: Any = list(zip(x.split(8), y.split(8), strict=True))
    data, task = Data(batches, batches, batches, batches, True, None, "made"), Task("top-1")
    states: list[dict[str, Tensor]] = []
    for device in (CPU, find_device("cuda")):
        fitted = fit(plan, network, small, scores, [x for x, _ in batches], device=device)
        options = models.assigned(small, "int8")
        learnt = learn(plan, network, fitted, options, data, task, 1.0, device=device).network
        states.append(learnt.module.state_dict())
    for key, value in states[0].items():
        if value.is_floating_point():
            assert states[1][key].device == CPU
            assert float((value - states[1][key]).abs().max()) <= NEAR * max(float(value.abs().max()), 1e-3), key
