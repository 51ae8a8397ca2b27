"""What the agent itself costs: on a model of about 0.1 ms, at its start, and in memory. Ratios and medians of one run.

    python tools/bench_agent.py [--rounds 40] [--starts 15] [--python PYTHON]

- Overhead: what a run takes in the agent's timing loop over what it takes in a bare loop. First both loops in one
  process, on one session, in blocks of 2 ms that take turns; then whole benchmarks, each in turn with a bare process:
  the p50 that the agent reports over the median of the other's blocks.
- Start: from starting the process to its answer to a first ``probe``, beside ``python -c pass``: the median, the least,
  and the processor's time for it, to its end, which is what remains on a machine that does other things meanwhile.
- Memory: resident memory of the agent while it times the model, less that of a bare process that has it bound.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.archive import agent_archive, build
from edgesdk.devices.local import LocalDevice
from edgesdk.devices.sent import OtherPython
from edgesdk_targets.agent import clock
from edgesdk_targets.agent.runners import runner

BLOCK_SECONDS, ROUND_SECONDS, IN_PROCESS_ROUNDS = 0.002, 0.5, 1500
BARE = """
import os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy, onnxruntime
from time import perf_counter

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
for line in sys.stdin:
    seconds = float(line)
    session = onnxruntime.InferenceSession(sys.argv[1], options, ["CPUExecutionProvider"])
    binding = session.io_binding()
    node = session.get_inputs()[0]
    x = numpy.random.default_rng(0).standard_normal(node.shape, dtype=numpy.float32)
    binding.bind_ortvalue_input(node.name, onnxruntime.OrtValue.ortvalue_from_numpy(x))
    binding.bind_output(session.get_outputs()[0].name)
    for _ in range(200):
        session.run_with_iobinding(binding)
    took, end = [], perf_counter() + seconds
    while perf_counter() < end:
        start = perf_counter()
        for _ in range(10):
            session.run_with_iobinding(binding)
        took.append((perf_counter() - start) / 10)
    with open("/proc/self/status") as file:
        resident = next(int(row.split()[1]) for row in file if row.startswith("VmRSS"))
    print(sorted(took)[len(took) // 2] * 1e3, resident, flush=True)
"""


def model(path: Path) -> None:
    """A convolution that takes about 0.1 ms."""
    weight = np.random.default_rng(0).standard_normal((32, 32, 3, 3), dtype=np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 32, 26, 26]) for name in ("x", "y")]
    graph = helper.make_graph([node], "one", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def in_process(path: Path) -> tuple[float, list[float], list[float]]:
    """The ms of a run in a bare loop; per round, the agent's loop over it, and over one that calls ``session.run``."""
    session = runner("onnxruntime").load(str(path), 1)
    run = session.bind()
    inner, (binding,), feed = session.session, run.args, dict(run.arrays)

    def bare(count: int) -> float:
        start = perf_counter_ns()
        for _ in range(count):
            inner.run_with_iobinding(binding)
        return (perf_counter_ns() - start) / 1e9

    def plain(count: int) -> float:
        start = perf_counter_ns()
        for _ in range(count):
            inner.run(None, feed)
        return (perf_counter_ns() - start) / 1e9

    def timed(count: int) -> float:
        samples: list[int] = []
        return clock.time_runs(run, samples, count)

    bare(500)
    count = max(1, round(BLOCK_SECONDS * 500 / bare(500)))
    order: list[Callable[[int], float]] = [bare, timed, plain]
    took: list[dict[Callable[[int], float], float]] = []
    with clock.no_collection():
        for _ in range(IN_PROCESS_ROUNDS):
            took.append({loop: loop(count) for loop in order})
            order.reverse()
    single = median(row[bare] for row in took) / count * 1e3
    return single, [row[timed] / row[bare] for row in took], [row[timed] / row[plain] for row in took]


def in_turns(path: Path, rounds: int) -> tuple[list[float], float, float]:
    """Per round, a run in a whole agent over one in a bare process; what is resident in each, in MB."""
    same = {"artifacts": [{"name": "one", "path": str(path)}], "warmup_seconds": 0.1, "minimum_count": 1, "blocks": 1}
    with (
        LocalDevice() as agent,
        subprocess.Popen(
            (sys.executable, "-c", BARE, str(path)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other,
    ):
        assert other.stdin is not None and other.stdout is not None
        ratios, resident = [], {"agent": 0, "bare": 0}

        def look(progress: dict[str, Any]) -> None:
            if progress.get("state") == "timing":
                resident["agent"] = max(resident["agent"], _resident(agent))

        def ask_agent() -> float:
            took = agent.call("benchmark", minimum_seconds=ROUND_SECONDS, on_progress=look, **same)
            return took["artifacts"][0]["statistics"]["p50"]

        def ask_bare() -> float:
            print(ROUND_SECONDS, file=other.stdin, flush=True)
            took, kb = other.stdout.readline().split()  # type: ignore[union-attr]
            resident["bare"] = max(resident["bare"], int(kb))
            return float(took)

        asked = [ask_agent, ask_bare]
        for _ in range(rounds):
            took = {ask: ask() for ask in asked}
            ratios.append(took[ask_agent] / took[ask_bare])
            asked.reverse()
        other.stdin.close()
    return ratios, resident["agent"] * 1024 / 1e6, resident["bare"] * 1024 / 1e6


def _resident(agent: AgentProcess) -> int:
    """What the agent's process has in memory, in KiB."""
    assert agent._child is not None
    text = Path(f"/proc/{agent._child.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS"))


def starts(python: str, times: int, folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Of each way to start, in turns: the ms to the answer to a first ``probe``, and the processor's ms to its end."""
    archive = build(folder / "agent.pyz")
    inherited, local = dict(os.environ), LocalDevice()
    command = (python, *local.command[1:])
    ways: dict[str, Callable[[], AgentProcess]] = {
        "python -m edgesdk_targets.agent": lambda: AgentProcess(command, local.environment, "a process"),
        "python agent.pyz": lambda: AgentProcess((python, str(archive)), inherited, "a process"),
        "sent through stdin": lambda: OtherPython(python),
    }
    timings: dict[str, list[tuple[float, float]]] = {"python -c pass": [], **{way: [] for way in ways}}
    for _ in range(times + 1):
        for way, took in timings.items():
            used, begin = _children(), perf_counter()
            if way in ways:
                with ways[way]() as agent:
                    agent.call("probe")
                    wall = perf_counter() - begin
            else:
                subprocess.run((python, "-c", "pass"), check=True)
                wall = perf_counter() - begin
            took.append((wall * 1e3, (_children() - used) * 1e3))
    return {way: took[1:] for way, took in timings.items()}  # the first one fills the caches


def _children() -> float:
    """Seconds of processors that this process's children had, those that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def likely(values: Sequence[float]) -> str:
    """The median, and where it lies with 95 %, by the order of the values alone."""
    ordered, reach = sorted(values), 0.98 * math.sqrt(len(values))
    middle = (len(ordered) - 1) / 2
    low, high = max(0, math.floor(middle - reach)), min(len(ordered) - 1, math.ceil(middle + reach))
    return f"{median(ordered):.4f} ({ordered[low]:.4f} to {ordered[high]:.4f})"


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="whole benchmarks, of half a second each")
    parser.add_argument("--starts", type=int, default=15, help="of each kind")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that starts are timed with")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model(path)
        session, bound, plain = in_process(path)
        whole, agent_mb, bare_mb = in_turns(path, given.rounds)
        print(f"| a run of {session:.4f} ms: in the agent over a bare loop | median (95 %) |\n|---|---|")
        print(f"| in one process, same session | {likely(bound)} |")
        print(f"| in one process, over session.run | {likely(plain)} |")
        print(f"| whole benchmarks, over a bare process | {likely(whole)} |")
        print("\n| start to first probe | median, ms | least, ms | processor, ms |\n|---|--:|--:|--:|")
        for way, took in starts(given.python, given.starts, Path(folder)).items():
            wall, used = zip(*took, strict=True)
            print(f"| {way} | {median(wall):.0f} | {min(wall):.0f} | {median(used):.0f} |")
        print("\n| resident, model bound | MB |\n|---|---|")
        print(f"| a bare process | {bare_mb:.1f} |\n| the agent | {agent_mb:.1f} |")
        print(f"| beyond the runtime | {agent_mb - bare_mb:.1f} |")
        print(f"\nThe archive has {len(agent_archive()) / 1e3:.0f} kB.")


if __name__ == "__main__":
    main()
