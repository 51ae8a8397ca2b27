"""How far tables of prices agree that were measured one after the other on a machine whose speed moves.

    python tools/bench_prices.py --tables 8 --load

Half of the tables are measured under load on all cores that comes and goes (with ``--load``). Prints the 1st, 5th, 95th
and 99th percentile of the ratio of two tables following each other: of times as they are, without references; of times
that the references set right; and of those, where both tables are sure (a standard error below 3 %).
"""

from __future__ import annotations

import argparse
import base64
import math
import os
import subprocess
import sys
import time

import numpy as np

from edgesdk.core.graph import ADD, CONV, LINEAR
from edgesdk.core.plan import FP32, INT8
from edgesdk.devices.bench import Bench
from edgesdk.devices.local import LocalDevice
from edgesdk.export.probes import probe
from edgesdk.price.operator import Operator
from edgesdk.price.operators import baseline
from edgesdk_targets.agent.undisturbed import beyond

BURN = "import time\nwhile True:\n end = time.time() + 0.2\n while time.time() < end: pass\n time.sleep(0.3)"
SURE = 0.03


def operators() -> dict[str, Operator]:
    """Probes of convolutions, linear layers and additions in both precisions, with their baselines."""
    window = ((3, 3), (1, 1), (1, 1), (1, 1))
    shapes = (
        (16, 16, 32),
        (32, 32, 16),
        (64, 64, 8),
        (16, 32, 32),
        (8, 8, 32),
        (12, 12, 32),
        (24, 24, 16),
        (48, 48, 8),
    )
    listed = [
        *(Operator(CONV, p, i, o, (s, s), *window, activation="relu") for p in (FP32, INT8) for i, o, s in shapes),
        *(Operator(LINEAR, p, i, o) for p in (FP32, INT8) for i, o in ((256, 10), (64, 10), (128, 128))),
        *(Operator(ADD, p, 16, 16, (32, 32), activation="relu") for p in (FP32, INT8)),
    ]
    return {operator.key: operator for op in listed for operator in (op, baseline(op))}


def percentiles(differences: np.ndarray) -> str:
    if not differences.size:
        return "none"
    return " ".join(f"{x:.3f}" for x in np.exp(np.percentile(differences, [1, 5, 50, 95, 99])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=6)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--load", action="store_true", help="every second table under load that comes and goes")
    options = parser.parse_args()
    models = [{"key": k, "model": base64.b64encode(probe(op)).decode()} for k, op in operators().items()]
    plain, ratios, errors = [], [], []
    with LocalDevice() as agent:
        bench, table = Bench(agent, runtime=options.runtime), None
        for number in range(options.tables):
            loaded = options.load and number % 2
            burners = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(os.cpu_count() or 1) if loaded]
            same = {"models": models, "runtime": options.runtime, "rounds": 5}
            took = []
            for beside in ({}, {**bench.beside(), "reference_ms": table}):
                begin = time.perf_counter()
                answer = agent.call("operators", **same, **beside)
                took.append(time.perf_counter() - begin)
                if not beside:
                    plain.append([math.log(item["ms"]) for item in answer["results"]])
            for burner in burners:
                burner.kill()
                burner.wait()
            told = answer["references"]
            table = told["ms"]
            ratios.append([math.log(item["ratio"]) for item in answer["results"]])
            errors.append([(item["uncertainty"], item["level_ms"]) for item in answer["results"]])
            print(
                f"table {number}{' (loaded)' if loaded else ''}: {took[0]:.1f} and {took[1]:.1f} s, references "
                f"{1e3 * table:.2f} us, disturbed {100 * told['disturbed']:.0f} %", flush=True,
            )  # fmt: skip
    assert table is not None
    sure = np.array([[math.hypot(error, beyond(level, table)) for error, level in row] for row in errors])
    of_plain, of_ratios = (np.diff(np.array(prices), axis=0) for prices in (plain, ratios))
    both = np.hypot(sure[1:], sure[:-1])
    print("percentiles 1 5 50 95 99 of the ratio of one table to the next")
    print(f"times as they are:      {percentiles(of_plain.ravel())}")
    print(f"beside references:      {percentiles(of_ratios.ravel())}")
    print(f"where both are sure:    {percentiles(of_ratios[both < SURE * math.sqrt(2)])}  "
          f"({100 * (both < SURE * math.sqrt(2)).mean():.0f} % of them)")  # fmt: skip
    print(f"within two standard errors: {100 * (np.abs(of_ratios) < 2 * both).mean():.0f} %")


if __name__ == "__main__":
    main()
